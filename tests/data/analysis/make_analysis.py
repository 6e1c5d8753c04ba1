"""Ground truth for looking inside: SAEs spliced into gpt2-rand-tiny by SAELens' HookedSAETransformer, gradients by
PyTorch's autograd, all in float64.

python make_analysis.py   (torch, transformers, sae-lens 6.54; writes expected.safetensors beside itself)
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE, HookedSAETransformer
from transformers import GPT2LMHeadModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "gpt2-rand-tiny"))
import make_edits  # noqa: E402

SAES = ["trained-topk-resid", "random-standard-resid", "random-standard-hook_z", "layer_norm"]
PARTS = ["input", "acts_pre", "acts_post", "recons", "error", "output"]
GRADIENT_HOOKS = ["hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post",
                  "hook_mlp_out", "hook_resid_post"]
TARGET, OTHER = 17, 1234
FEATURES = [3, 100, 511]


def model(hf, processed):
    make_edits.HookedTransformer = HookedSAETransformer
    return make_edits.model(hf, processed)


def sae(name):
    folder = "random-standard-resid" if name == "layer_norm" else name
    sae = SAE.load_from_disk(HERE.parent / "evals" / folder / "sae", dtype="float64")
    if name == "layer_norm":
        config = sae.cfg
        config.normalize_activations = "layer_norm"
        weights = sae.state_dict()
        sae = type(sae)(config)
        sae.load_state_dict(weights)
    return sae


def spliced(tl, sae, tokens, error, exclude, out, key, gradient):
    hook = sae.cfg.metadata.hook_name_out or sae.cfg.metadata.hook_name
    with tl.saes(saes=[sae], use_error_term=error, exclude_special_tokens=exclude):
        logits, cache = tl.run_with_cache(tokens)
        for part in PARTS:
            name = f"{hook}.hook_sae_{part}"
            if name in cache:
                out[f"{key}/{part}"] = cache[name].float().contiguous()
        out[f"{key}/logits"] = logits[0, -1].float().contiguous()

        def without(value, hook):
            value[..., FEATURES] = 0.0
            return value

        def more(value, hook):
            value[:, 2:, FEATURES[0]] += 8.0
            return value

        def halved(value, hook):
            return 0.5 * value

        for edit, function, part in [("without", without, "acts_post"), ("more", more, "acts_post")] + [
                (f"halved_{part}", halved, part) for part in PARTS if f"{key}/{part}" in out]:
            logits = tl.run_with_hooks(tokens, fwd_hooks=[(f"{hook}.hook_sae_{part}", function)])
            out[f"{key}/{edit}"] = logits[0, -1].float().contiguous()
        if gradient:
            seen = {}

            def keep(value, hook):
                value.retain_grad()
                seen["acts"] = value
                return value

            with torch.enable_grad():
                logits = tl.run_with_hooks(tokens, fwd_hooks=[(f"{hook}.hook_sae_acts_post", keep)])
                (logits[0, -1, TARGET] - logits[0, -1, OTHER]).backward()
            out[f"{key}/attribution"] = (seen["acts"].grad * seen["acts"]).detach()[0].float().contiguous()


def gradients(tl, tokens, out, name):
    for hook in [f"blocks.1.{hook}" for hook in GRADIENT_HOOKS]:
        seen = {}

        def keep(value, hook):
            value = value.detach().requires_grad_()
            seen["value"] = value
            return value

        # What comes before the hook is held fixed; the stream that passes it by is too.
        with torch.enable_grad():
            logits = tl.run_with_hooks(tokens, fwd_hooks=[(hook, keep)])
            (logits[0, -2, TARGET] - logits[0, -2, OTHER]).backward()
        out[f"gradient/{name}/{hook}"] = seen["value"].grad[0].flatten(1).float().contiguous()


def main():
    hf = GPT2LMHeadModel.from_pretrained(HERE.parent / "gpt2-rand-tiny", attn_implementation="eager").double()
    tokens = load_file(HERE.parent / "evals/trained-topk-resid/tokens.safetensors")["recon_tokens"][:1, :12].long()
    out = {"tokens": tokens[0].int().contiguous()}
    for name, processed in (("none", False), ("transformer-lens", True)):
        tl = model(hf, processed)
        out[f"{name}/logits"] = tl(tokens)[0, -1].float().contiguous()
        gradients(tl, tokens, out, name)
    tl = model(hf, False)
    for name in SAES:
        for error in (False, True):
            key = f"{name}/{'error' if error else 'plain'}"
            spliced(tl, sae(name), tokens, error, False, out, key, gradient=error)
    spliced(tl, sae("trained-topk-resid"), tokens, True, [0], out, "excluded", gradient=False)
    pair = [sae("random-standard-hook_z"), sae("trained-topk-resid")]
    out["pair/logits"] = tl.run_with_saes(tokens, saes=pair)[0, -1].float().contiguous()
    save_file(out, HERE / "expected.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
