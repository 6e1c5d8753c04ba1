"""Ground truth for transcoders and several SAEs at once: spliced into gpt2-rand-tiny by SAELens'
HookedSAETransformer, in float64.

python make_transcoder.py   (as make_analysis.py; writes transcoder/ and transcoder.safetensors beside itself)
"""
import json

import torch
from make_analysis import FEATURES, HERE, load_file, model, sae, save_file, spliced
from sae_lens import SAE
from transformers import GPT2LMHeadModel

D, F = 128, 512


def write_transcoder():
    """A random one that reads the stream and stands for the MLP of block 1."""
    torch.manual_seed(7)
    weights = {"W_enc": torch.randn(D, F) / D**0.5, "b_enc": torch.randn(F) * 0.1, "W_dec": torch.randn(F, D) / F**0.5,
               "b_dec": torch.randn(D) * 0.1}
    folder = HERE / "transcoder"
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "sae_weights.safetensors")
    metadata = {"sae_lens_version": "6.54.12", "model_name": "gpt2-rand-tiny", "hook_name": "blocks.1.hook_resid_mid",
                "hook_name_out": "blocks.1.hook_mlp_out", "prepend_bos": True, "context_size": 64}
    cfg = {"architecture": "transcoder", "d_in": D, "d_sae": F, "d_out": D, "dtype": "float32", "device": "cpu",
           "apply_b_dec_to_input": False, "normalize_activations": "none", "reshape_activations": "none",
           "metadata": metadata}
    (folder / "cfg.json").write_text(json.dumps(cfg, indent=1) + "\n")
    return SAE.load_from_disk(folder, dtype="float64")


def compute():
    torch.set_grad_enabled(False)
    hf = GPT2LMHeadModel.from_pretrained(HERE.parent / "gpt2-rand-tiny", attn_implementation="eager").double().eval()
    tl = model(hf, False)
    tokens = load_file(HERE / "expected.safetensors")["tokens"].long().view(1, -1)
    transcoder, out = write_transcoder(), {}
    for error in (False, True):
        spliced(tl, transcoder, tokens, error, False, out, "error" if error else "plain", gradient=error)
    spliced(tl, transcoder, tokens, True, [0], out, "excluded", gradient=False)
    several = [sae("random-standard-hook_z"), transcoder, sae("trained-topk-resid")]
    for error in (False, True):
        with tl.saes(saes=several, use_error_term=error):
            out[f"several/{'error' if error else 'plain'}"] = tl(tokens)[0, -1].float().contiguous()

            def without(value, hook):
                value[..., FEATURES[:2]] = 0.0
                return value

            edits = [(f"{it.cfg.metadata.hook_name_out or it.cfg.metadata.hook_name}.hook_sae_acts_post", without)
                     for it in several]
            logits = tl.run_with_hooks(tokens, fwd_hooks=edits)
            out[f"several/{'error' if error else 'plain'}_without"] = logits[0, -1].float().contiguous()
    return out


if __name__ == "__main__":
    save_file(compute(), HERE / "transcoder.safetensors")
