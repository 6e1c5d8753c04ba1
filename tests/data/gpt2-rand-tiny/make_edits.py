"""Ground truth for editing hooks: the loss after `value -> 0.5 value + 0.1` at one hook, by TransformerLens in float64.

python make_edits.py   (torch, transformers, transformer-lens 3.9; writes edits.safetensors beside itself)
"""
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
HOOKS = ["hook_embed", "hook_pos_embed"]
HOOKS += ["blocks.1." + name for name in (
    "hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v",
    "attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "ln2.hook_scale", "ln2.hook_normalized",
    "mlp.hook_pre", "mlp.hook_post", "hook_mlp_out", "hook_resid_post")]
HOOKS += ["ln_final.hook_scale", "ln_final.hook_normalized"]


def model(hf, processed: bool) -> HookedTransformer:
    c = hf.config
    config = HookedTransformerConfig.from_dict(dict(
        d_model=c.n_embd, d_head=c.n_embd // c.n_head, n_heads=c.n_head, d_mlp=4 * c.n_embd, n_layers=c.n_layer,
        n_ctx=c.n_positions, eps=c.layer_norm_epsilon, d_vocab=c.vocab_size, act_fn=c.activation_function,
        normalization_type="LNPre" if processed else "LN", original_architecture="GPT2LMHeadModel", model_name="gpt2",
        device="cpu", dtype=torch.float64, init_weights=False))
    model = HookedTransformer(config)
    weights = {k: v.detach().clone().double() for k, v in convert_gpt2_weights(hf, config).items()}
    # TransformerLens rounds float64 weights to float32 while it processes them; not here.
    to_float32 = torch.Tensor.float
    torch.Tensor.float = lambda self: self
    model.load_and_process_state_dict(
        weights, fold_ln=processed, center_writing_weights=processed, center_unembed=processed,
        fold_value_biases=processed, refactor_factored_attn_matrices=False)
    torch.Tensor.float = to_float32
    return model.double().eval()


def main():
    hf = GPT2LMHeadModel.from_pretrained(HERE, attn_implementation="eager").double()
    tokens = load_file(HERE / "tokens.safetensors")["tokens"].long()
    out = {}
    for name, processed in (("none", False), ("transformer-lens", True)):
        tl = model(hf, processed)
        for hook in HOOKS:
            edit = [(hook, lambda value, hook: 0.5 * value + 0.1)]
            loss = tl.run_with_hooks(tokens, fwd_hooks=edit, return_type="loss", loss_per_token=True)
            out[f"{name}/{hook}"] = loss.float().contiguous()
    save_file(out, HERE / "edits.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
