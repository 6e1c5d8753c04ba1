#!/usr/bin/env python3
"""GPT-2 folders of many kinds, written by `transformers` itself, run by `cusae activations` and by `transformers`.

    pip install torch transformers safetensors
    scripts/parity_transformers.py [--cusae target/release/cusae] [--keep DIR]

Compares logits, the loss of every token, hidden states and attention patterns in float32 against `transformers` in
float64, and prints one line per folder. Exit code 1 if one disagrees.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

SMALL = dict(n_layer=3, n_embd=48, n_head=3, vocab_size=301, n_positions=96)

# name: (config, dtype, save_pretrained arguments)
FOLDERS = {
    "small": (SMALL, "float32", {}),
    "float16": (SMALL, "float16", {}),
    "bfloat16": (SMALL, "bfloat16", {}),
    "sharded": (SMALL, "float32", {"max_shard_size": "100KB"}),
    "sharded bfloat16": (SMALL, "bfloat16", {"max_shard_size": "50KB"}),
    "own head": (SMALL | {"tie_word_embeddings": False}, "float32", {}),
    "n_inner 100": (SMALL | {"n_inner": 100}, "float32", {}),
    "scaled by layer": (SMALL | {"scale_attn_by_inverse_layer_idx": True}, "float32", {}),
    "not scaled": (SMALL | {"scale_attn_weights": False}, "float32", {}),
    "upcast attention": (SMALL | {"reorder_and_upcast_attn": True}, "float32", {}),
    "epsilon 1e-3": (SMALL | {"layer_norm_epsilon": 1e-3}, "float32", {}),
    "one head, one layer": (SMALL | {"n_layer": 1, "n_head": 1}, "float32", {}),
    "wide heads": (SMALL | {"n_embd": 256, "n_head": 2}, "float32", {}),
    "odd sizes": (SMALL | {"n_embd": 35, "n_head": 5, "vocab_size": 1237, "n_positions": 77}, "float32", {}),
    "many heads": (SMALL | {"n_embd": 96, "n_head": 24}, "float32", {}),
    "gpt2's width": (dict(n_layer=2, n_embd=768, n_head=12, vocab_size=50257, n_positions=1024), "float32", {}),
}
ACTIVATIONS = ["gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "relu", "silu", "quick_gelu", "tanh"]
FOLDERS |= {f"activation {name}": (SMALL | {"activation_function": name}, "float32", {}) for name in ACTIVATIONS}


def random_model(config: dict, dtype: str, seed: int) -> GPT2LMHeadModel:
    """Weights larger than the initialisation's, no bias zero: attention peaks and every term counts."""
    torch.manual_seed(seed)
    special = dict(bos_token_id=0, eos_token_id=0)
    model = GPT2LMHeadModel(GPT2Config(**config, **special, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "ln_" in name:
                weight.add_(torch.randn_like(weight) * 0.2)
            elif weight.dim() == 1:
                weight.copy_(torch.randn_like(weight) * 0.2)
            else:
                weight.copy_(torch.randn_like(weight) * (1.2 / weight.shape[0] ** 0.5 if ".h." in name else 0.3))
    return model.to(getattr(torch, dtype))


def reference(folder: Path, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    for block in model.transformer.h:
        # It only says in which precision to compute, and transformers insists on float32 for it.
        block.attn.reorder_and_upcast_attn = False
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, output_attentions=True)
    # The last hidden state has gone through the final LayerNorm.
    states = {f"blocks.{i}.hook_resid_pre": state for i, state in enumerate(out.hidden_states[:-1])}
    patterns = {f"blocks.{i}.attn.hook_pattern": pattern for i, pattern in enumerate(out.attentions)}
    loss = -out.logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return states | patterns | {"ln_final.output": out.hidden_states[-1], "logits": out.logits, "loss_per_token": loss}


def compare(cusae: str, folder: Path, processing: str, tokens: torch.Tensor, expected: dict) -> float:
    """The largest error of a tensor relative to its largest value."""
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    out = folder / "activations.safetensors"
    names = list(expected)
    command = [cusae, "activations", "--quiet", "--model", folder, "--tokens", folder / "tokens.safetensors"]
    subprocess.run([*command, "--processing", processing, "--out", out, "--hook", *names], check=True,
                   stdout=subprocess.DEVNULL)
    found = load_file(out)
    worst = 0.0
    for name, want in expected.items():
        got = found[name].double()
        assert got.shape == want.shape, f"{name}: {tuple(got.shape)} for {tuple(want.shape)}"
        worst = max(worst, ((got - want).abs().max() / want.abs().max()).item())
    return worst


def processed(expected: dict) -> dict:
    """What TransformerLens' processing leaves the same, or shifts by a mean."""
    def centred(x):
        return x - x.mean(-1, keepdim=True)
    streams = {name: centred(value) for name, value in expected.items() if "resid" in name or name == "logits"}
    same = {name: value for name, value in expected.items() if "pattern" in name or name == "loss_per_token"}
    return streams | same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cusae", default="target/release/cusae")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="relative to a tensor's largest value")
    parser.add_argument("--keep", type=Path, help="keep the folders here")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        for seed, (name, (config, dtype, options)) in enumerate(FOLDERS.items()):
            folder = (arguments.keep or Path(temporary)) / name.replace(" ", "-").replace("'", "")
            random_model(config, dtype, seed).save_pretrained(folder, **options)
            context = min(70, config["n_positions"])
            tokens = torch.randint(0, config["vocab_size"], (3, context), generator=torch.Generator().manual_seed(seed))
            expected = reference(folder, tokens)
            errors = [compare(arguments.cusae, folder, "none", tokens, expected),
                      compare(arguments.cusae, folder, "transformer-lens", tokens, processed(expected))]
            agrees = max(errors) <= arguments.tolerance
            failures += not agrees
            files = len(list(folder.glob("model*.safetensors")))
            print(f"{'ok  ' if agrees else 'FAIL'} {name:28} {files} file(s)  none {errors[0]:.1e}  "
                  f"transformer-lens {errors[1]:.1e}", flush=True)
    print(f"{len(FOLDERS) - failures} of {len(FOLDERS)} agree")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
