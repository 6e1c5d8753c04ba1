#!/usr/bin/env python3
"""Makes tests/data/formats: one small SAE in every layout that cusae reads, written by what writes them
(torch.save, numpy.savez, the packages themselves), and what the package that owns the layout computes
with it, as io.safetensors beside it: x, feature_acts, reconstruction.

    pip install sae-lens einops natsort simple-parsing; pip install --no-deps dictionary-learning eai-sparsify
    git clone https://github.com/openai/sparse_autoencoder
    PYTHONPATH=sparse_autoencoder scripts/make_format_fixtures.py

Layouts that only SAELens reads are loaded by its own loaders, with the download replaced by these files.
Where those are wrong (sparsify, AutoEncoderNew) the expected values are those of the package itself.
"""

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from huggingface_hub.utils import EntryNotFoundError
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class

# What the packages import and their SAEs do not need.
for absent in ["nnsight", "schedulefree"]:
    sys.modules.setdefault(absent, MagicMock())
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

ROOT = Path(__file__).resolve().parent.parent / "tests/data/formats"
D_IN, D_SAE, D_OUT, ROWS = 12, 40, 10, 16
CASES = []


def rand(*shape):
    return torch.randn(*shape) * 0.5


def download(repo_id, filename, subfolder=None, **_):
    path = ROOT / repo_id / (f"{subfolder}/{filename}" if subfolder else filename)
    if not path.exists():
        raise EntryNotFoundError(str(path))
    return str(path)


def shapes(repo_id, filename):
    bytes_ = (ROOT / repo_id / filename).read_bytes()
    header = json.loads(bytes_[8 : 8 + struct.unpack("<Q", bytes_[:8])[0]])
    return {name: info["shape"] for name, info in header.items() if name != "__metadata__"}


loaders.hf_hub_download = download
loaders.get_safetensors_tensor_shapes = shapes


def expect(path, format_, x, acts, reconstruction, config, heads=None):
    """Notes a case; `config` is what must be known of it."""
    path = ROOT / path
    io = path / "io.safetensors" if path.is_dir() else path.parent / (path.name + ".io.safetensors")
    tensors = {"x": x, "feature_acts": acts, "reconstruction": reconstruction}
    save_file({name: t.detach().float().contiguous() for name, t in tensors.items()}, io)
    CASES.append({"path": str(path.relative_to(ROOT)), "format": format_, **config})


def by_saelens(format_, repo_id, folder, overrides=None, path=None, norm_scaling_factor=None):
    """What SAELens' own loader makes of the files, and computes with it."""
    overrides = {"dtype": "float32", **(overrides or {})}
    load = loaders.NAMED_PRETRAINED_SAE_LOADERS[format_]
    cfg, state, _ = load(repo_id, folder, "cpu", False, overrides)
    cfg = loaders.handle_config_defaulting(cfg)
    sae_class, cfg_class = get_sae_class(cfg["architecture"])
    sae = sae_class(cfg_class.from_dict(cfg))
    sae.process_state_dict_for_loading(state)
    state = {name: t.to(torch.float32) for name, t in state.items()}
    sae.load_state_dict(state)
    if norm_scaling_factor is not None and sae.cfg.normalize_activations == "expected_average_only_in":
        sae.fold_activation_norm_scaling_factor(norm_scaling_factor)
    x = torch.randn(ROWS, sae.cfg.d_in) * 2
    # Heads, where the SAE reads them apart: the same numbers in the same order.
    inputs = x.view(ROWS, 3, -1) if sae.cfg.reshape_activations == "hook_z" else x
    with torch.no_grad():
        acts, reconstruction = sae.encode(inputs), sae(inputs).reshape(ROWS, -1)
    meta = sae.cfg.metadata.to_dict() if hasattr(sae.cfg.metadata, "to_dict") else dict(sae.cfg.metadata)
    notes = {k: meta.get(k) for k in ["model_name", "hook_name", "hook_name_out", "context_size"] if meta.get(k)}
    config = {"architecture": cfg["architecture"], "apply_b_dec_to_input": sae.cfg.apply_b_dec_to_input, "metadata": notes}
    expect(path or f"{repo_id}/{folder}", format_, x, acts, reconstruction, config)


def jumprelu(d_out=D_IN):
    return {
        "w_enc": rand(D_IN, D_SAE),
        "w_dec": rand(D_SAE, d_out),
        "b_enc": rand(D_SAE),
        "b_dec": rand(d_out),
        "threshold": torch.rand(D_SAE) + 0.2,
    }


def folder(*parts):
    path = ROOT.joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def linear(d_in=D_IN, d_sae=D_SAE, names=("encoder", "decoder")):
    """Two torch.nn.Linear with biases, as state_dict() has them."""
    encoder, decoder = torch.nn.Linear(d_in, d_sae), torch.nn.Linear(d_sae, d_in)
    module = torch.nn.ModuleDict({names[0]: encoder, names[1]: decoder})
    torch.nn.init.normal_(encoder.bias, std=0.3)
    torch.nn.init.normal_(decoder.bias, std=0.3)
    return module.state_dict()


def gemma_scope():
    sizes = {"d_in": D_IN, "d_sae": D_SAE}
    for part in ["res", "mlp", "att"]:
        repo, name = f"google/gemma-scope-2b-pt-{part}", "layer_3/width_16k/average_l0_7"
        np.savez(folder(repo, name) / "params.npz", **{k: t.numpy() for k, t in jumprelu().items()})
        by_saelens("gemma_2", repo, name, sizes)
    # Compressed, and in Fortran order as numpy.savez keeps transposed arrays.
    repo, name = "google/gemma-scope-9b-it-res", "layer_20/width_16k/average_l0_9"
    params = {k: t.numpy() for k, t in jumprelu().items()}
    params["w_dec"] = np.asfortranarray(params["w_dec"])
    np.savez_compressed(folder(repo, name) / "params.npz", **params)
    by_saelens("gemma_2", repo, name, sizes)
    repo, name = "google/gemma-scope-9b-pt-res", "embedding/width_4k/average_l0_6"
    np.savez(folder(repo, name) / "params.npz", **{k: t.numpy() for k, t in jumprelu().items()})
    by_saelens("gemma_2", repo, name, sizes)
    repo, name = "google/gemma-scope-2b-pt-transcoders", "layer_4/width_16k/average_l0_76"
    np.savez(folder(repo, name) / "params.npz", **{k: t.numpy() for k, t in jumprelu(D_OUT).items()})
    by_saelens("gemma_2_transcoder", repo, name, {**sizes, "d_out": D_OUT})


def gemma_scope_2():
    repo = "google/gemma-scope-2-270m-pt"
    raw = {"architecture": "jump_relu", "model_name": "gemma-v3-270m-pt"}

    def save(name, tensors, cfg):
        save_file({k: t.contiguous() for k, t in tensors.items()}, folder(repo, name) / "params.safetensors")
        if cfg:
            (ROOT / repo / name / "config.json").write_text(json.dumps({**raw, **cfg}))
        by_saelens("gemma_3", repo, name)

    save("resid_post/layer_5_width_16k_l0_small", jumprelu(), {"hf_hook_point_in": "model.layers.5.output"})
    save("attn_out/layer_5_width_16k_l0_small", jumprelu(), {"hf_hook_point_in": "model.layers.5.self_attn.o_proj.input"})
    save("mlp_out/layer_5_width_16k_l0_small", jumprelu(), None)
    hooks = {"hf_hook_point_in": "a", "hf_hook_point_out": "b"}
    save("transcoder/layer_6_width_16k_l0_big", jumprelu(D_OUT), {**hooks, "affine_connection": False})
    affine = {**jumprelu(D_OUT), "affine_skip_connection": rand(D_IN, D_OUT)}
    save("transcoder/layer_6_width_16k_l0_big_affine", affine, {**hooks, "affine_connection": True})
    clt = {**jumprelu(), "w_dec": rand(D_SAE, 4, D_IN)}
    save_file(clt, folder(repo, "clt") / "width_262k_l0_big_layer_2.safetensors")
    # SAELens looks for "clt" in the folder after taking it apart, and finds it.
    by_saelens("gemma_3", repo, "clt/width_262k_l0_big_layer_2", path=f"{repo}/clt/width_262k_l0_big_layer_2.safetensors")


def llama_scope():
    repo, name = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L7R-8x"
    norm, hook = 2.3, "blocks.7.hook_resid_post"
    notes = {"d_model": D_IN, "d_sae": D_SAE, "jump_relu_threshold": 0.3, "hook_point_in": hook}
    notes["dataset_average_activation_norm"] = {"in": norm, "out": norm}
    (folder(repo, name) / "hyperparams.json").write_text(json.dumps(notes))
    save_file(linear(), folder(repo, name, "checkpoints") / "final.safetensors")
    by_saelens("llama_scope", repo, name, norm_scaling_factor=D_IN**0.5 / norm)

    repo, name = "fnlp/Llama-Scope-R1-Distill", "0-Slimpajama-800M-OpenR1-Math-220k/L9R"
    d_sae = 4 * D_IN
    weights = {**linear(d_sae=d_sae), "log_jumprelu_threshold": torch.rand(d_sae) - 1.5}
    save_file(weights, folder(repo, name) / "sae_weights.safetensors")
    notes = {"d_model": D_IN, "expansion_factor": 4, "hook_point_in": "blocks.9.hook_resid_post"}
    (ROOT / repo / name / "config.json").write_text(json.dumps(notes))
    by_saelens("llama_scope_r1_distill", repo, name)


def torch_files():
    repo = "ckkissane/attn-saes-gpt2-small-all-layers"
    name = "gpt2-small_L1_Hcat_z_lr1.20e-03_v9"
    native = {"W_enc": rand(D_IN, D_SAE), "W_dec": rand(D_SAE, D_IN), "b_enc": rand(D_SAE), "b_dec": rand(D_IN)}
    # Parameters, and torch's form from before 1.6: as the published ones.
    parameters = {k: torch.nn.Parameter(t) for k, t in native.items()}
    torch.save(parameters, folder(repo) / f"{name}.pt", _use_new_zipfile_serialization=False)
    notes = {"act_size": D_IN, "dict_size": D_SAE, "act_name": "blocks.1.attn.hook_z"}
    (ROOT / repo / f"{name}_cfg.json").write_text(json.dumps(notes))
    by_saelens("connor_rob_hook_z", repo, f"{name}.pt")

    repo, name = "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    torch.save(linear(), folder(repo) / name)
    by_saelens("deepseek_r1", repo, name, {"d_in": D_IN, "d_sae": D_SAE})

    repo, name = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"
    torch.save(linear(names=("encoder_linear", "decoder_linear")), folder(repo) / name)
    by_saelens("goodfire", repo, name, {"d_in": D_IN, "d_sae": D_SAE})

    repo, name = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "layer2.sae.pt"
    weights = {"W_enc": rand(D_SAE, D_IN), "W_dec": rand(D_IN, D_SAE), "b_enc": rand(D_SAE), "b_dec": rand(D_IN)}
    torch.save(weights, folder(repo) / name)
    by_saelens("qwen_scope", repo, name, {"d_in": D_IN, "d_sae": D_SAE})


def transcoders():
    repo, name = "mwhanna/qwen3-0.6b-transcoders", "layer_11.safetensors"
    weights = {"W_enc": rand(D_SAE, D_IN), "W_dec": rand(D_SAE, D_IN), "b_enc": rand(D_SAE), "b_dec": rand(D_IN)}
    save_file(weights, folder(repo) / name)
    settings = {"d_model": D_IN, "d_feature": D_SAE, "batch_size": 128}
    wandb = {"wandb_version": 1, **{k: {"desc": None, "value": v} for k, v in settings.items()}}
    (ROOT / repo / "wanb-config.yaml").write_text(yaml.dump(wandb))
    (ROOT / repo / "config.yaml").write_text(yaml.dump({"model_name": "Qwen/Qwen3-0.6B", "model_kind": "transcoder_set"}))
    by_saelens("mwhanna_transcoder", repo, name)

    repo = "mntss/clt-gemma-2-2b-2.5M"
    encoder = {"W_enc_3": rand(D_SAE, D_IN), "b_enc_3": rand(D_SAE), "b_dec_3": rand(D_IN)}
    save_file(encoder, folder(repo) / "W_enc_3.safetensors")
    save_file({"W_dec_3": rand(D_SAE, 5, D_IN)}, ROOT / repo / "W_dec_3.safetensors")
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (ROOT / repo / "config.yaml").write_text(yaml.dump({"model_name": "google/gemma-2-2b", **hooks}))
    by_saelens("mntss_clt_layer_transcoder", repo, "3", path=f"{repo}/W_enc_3.safetensors")


def randomized(module):
    """Every parameter random, so that no bias is left out unseen."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(rand(*parameter.shape))
    return module


def dictionary_learning():
    from dictionary_learning import dictionary
    from dictionary_learning.trainers import batch_top_k, matryoshka_batch_top_k, top_k

    cases = {
        "AutoEncoder": (dictionary.AutoEncoder(D_IN, D_SAE), "standard", True),
        "AutoEncoderNew": (dictionary.AutoEncoderNew(D_IN, D_SAE), "standard", False),
        "GatedAutoEncoder": (dictionary.GatedAutoEncoder(D_IN, D_SAE), "gated", True),
        "JumpReluAutoEncoder": (dictionary.JumpReluAutoEncoder(D_IN, D_SAE), "jumprelu", False),
        "AutoEncoderTopK": (top_k.AutoEncoderTopK(D_IN, D_SAE, k=6), "topk", True),
        "BatchTopKSAE": (batch_top_k.BatchTopKSAE(D_IN, D_SAE, k=6), "jumprelu", True),
        "MatryoshkaBatchTopKSAE": (
            matryoshka_batch_top_k.MatryoshkaBatchTopKSAE(D_IN, D_SAE, k=6, group_sizes=[8, 12, 20]),
            "jumprelu",
            True,
        ),
    }
    for name, (sae, architecture, apply_b_dec) in cases.items():
        randomized(sae)
        if "Batch" in name:
            sae.threshold.fill_(0.8)
        path = folder("canrager/lm_sae", f"{name}/resid_post_layer_8/trainer_0")
        torch.save(sae.state_dict(), path / "ae.pt")
        trainer = {"dict_class": name, "layer": 8, "lm_name": "EleutherAI/pythia-70m-deduped", "k": 6}
        trainer |= {"activation_dim": D_IN, "dict_size": D_SAE, "submodule_name": "resid_post_layer_8"}
        (path / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        x = torch.randn(ROWS, D_IN) * 2
        acts = sae.encode(x)
        notes = {"model_name": "pythia-70m-deduped", "hook_name": "blocks.8.hook_resid_post", "context_size": 128}
        config = {"architecture": architecture, "apply_b_dec_to_input": apply_b_dec, "metadata": notes}
        expect(path.relative_to(ROOT), "dictionary_learning_1", x, acts, sae.decode(acts), config)


def sparsify():
    from sparsify import SparseCoder, SparseCoderConfig

    run = "EleutherAI/sae-pythia-70m"
    folder(run)
    (ROOT / run / "config.json").write_text(json.dumps({"model": "EleutherAI/pythia-70m", "dataset": "pile", "ctx_len": 64}))
    cases = {
        "layers.3": ({"expansion_factor": 4}, "topk", "blocks.3.hook_resid_post"),
        "layers.4.mlp": ({"num_latents": D_SAE, "transcode": True}, "topk_transcoder", "blocks.4.hook_mlp_in"),
        "gpt_neox.layers.5.mlp": (
            {"num_latents": D_SAE, "transcode": True, "skip_connection": True},
            "topk_skip_transcoder",
            "blocks.5.hook_mlp_in",
        ),
    }
    for name, (settings, architecture, hook) in cases.items():
        coder = randomized(SparseCoder(D_IN, SparseCoderConfig(k=5, **settings)))
        coder.save_to_disk(ROOT / run / name)
        x = torch.randn(ROWS, D_IN) * 2
        with torch.no_grad():
            values, indices, _ = coder.encode(x)
            acts = torch.zeros(ROWS, coder.num_latents).scatter_(-1, indices, values)
            reconstruction = coder(x).sae_out
        notes = {"model_name": "EleutherAI/pythia-70m", "hook_name": hook, "context_size": 64}
        config = {"architecture": architecture, "apply_b_dec_to_input": "transcode" not in settings, "metadata": notes}
        expect(f"{run}/{name}", "sparsify", x, acts, reconstruction, config)


def openai():
    from sparse_autoencoder.model import Autoencoder, TopK

    path = folder("openaipublic/sparse-autoencoder/gpt2-small")
    cases = {
        "v1.pt": (Autoencoder(D_SAE, D_IN), "standard"),
        "v1_tied.pt": (Autoencoder(D_SAE, D_IN, tied=True), "standard"),
        "v5_32k.pt": (Autoencoder(D_SAE, D_IN, activation=TopK(k=5), normalize=True), "topk"),
    }
    for name, (sae, architecture) in cases.items():
        randomized(sae)
        if name == "v5_32k.pt":
            # The decoder was stored column-major.
            sae.decoder.weight.data = sae.decoder.weight.data.T.contiguous().T
        torch.save(sae.state_dict(), path / name)
        x = torch.randn(ROWS, D_IN) * 2
        with torch.no_grad():
            acts, info = sae.encode(x)
            reconstruction = sae.decode(acts, info)
        config = {"architecture": architecture, "apply_b_dec_to_input": True, "metadata": {"model_name": "gpt2-small"}}
        expect(path.relative_to(ROOT) / name, "openai", x, acts, reconstruction, config)


class RunsCode:
    """What a hostile pickle is: reading it calls a function of the writer's choice."""

    def __reduce__(self):
        return os.system, ("touch /tmp/cusae-has-run-code",)


def hostile():
    path = folder("hostile")
    torch.save({"W_enc": RunsCode()}, path / "runs_code.pt")
    torch.save({"W_enc": RunsCode()}, path / "runs_code_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 3), path / "module.pt")
    torch.jit.script(torch.nn.Linear(2, 3)).save(path / "program.pt")


def temporal():
    repo_id, name, width = "canrager/temporalSAEs", "gemma-2-2B/layer_12/temporal", 4 * D_IN
    path = folder(repo_id, name)
    settings = {"n_heads": 2, "n_attn_layers": 2, "bottleneck_factor": 4, "sae_diff_type": "topk", "kval_topk": 6}
    settings |= {"tied_weights": False, "exp_factor": 4, "scaling_factor": 0.25}
    conf = {"llm": {"dimin": D_IN}, "data": {"dtype": "float32"}, "sae": settings}
    (path / "conf.yaml").write_text(yaml.safe_dump(conf))
    state = {"D": rand(width, D_IN), "b": rand(D_IN), "E": rand(D_IN, width)}
    for layer in range(2):
        for part, rows in [("k_ctx", width // 4), ("q_target", width // 4), ("v_ctx", width), ("c_proj", width)]:
            state[f"attn_layers.{layer}.{part}.weight"] = rand(rows, width)
            state[f"attn_layers.{layer}.{part}.bias"] = rand(rows)
    save_file(state, path / "latest_ckpt.safetensors")
    cfg, state, _ = loaders.temporal_sae_huggingface_loader(repo_id, name)
    cfg = loaders.handle_config_defaulting(cfg)
    sae_class, cfg_class = get_sae_class("temporal")
    sae = sae_class(cfg_class.from_dict(cfg))
    sae.load_state_dict(state)
    x = torch.randn(2, ROWS // 2, D_IN) * 8
    with torch.no_grad():
        acts, reconstruction = sae.encode(x), sae(x)
    notes = {"hook_name": sae.cfg.metadata.hook_name}
    config = {"architecture": "temporal", "apply_b_dec_to_input": True, "metadata": notes}
    expect(f"{repo_id}/{name}", "temporal", x, acts, reconstruction, config)


def main():
    torch.manual_seed(0)
    shutil.rmtree(ROOT, ignore_errors=True)
    for make in [gemma_scope, gemma_scope_2, llama_scope, torch_files, transcoders, dictionary_learning, sparsify, openai, hostile, temporal]:
        make()
    (ROOT / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")
    print(len(CASES), "cases")


if __name__ == "__main__":
    main()
