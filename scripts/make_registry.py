#!/usr/bin/env python3
"""Writes src/registry/saes.tsv.zst: the SAEs that SAELens knows, as a table of facts.

    python scripts/make_registry.py     # needs sae-lens (6.54.12 was used) and zstd

Two kinds of lines, fields separated by tabs, empty where nothing is known:

    release  NAME  REPOSITORY  MODEL  LOADER  CONFIG_OVERRIDES (JSON)
    ID  PATH (empty: the id)  HOOK  D_SAE  L0  VARIANCE_EXPLAINED  NEURONPEDIA_ID  NORM_SCALING_FACTOR

The lines of SAEs follow that of their release. All is from SAELens' pretrained_saes.yaml but the hook and
the width: those are what SAELens' own loaders say without a network, or what the SAE's names say.
"""

import json
import math
import re
import subprocess
from pathlib import Path

import sae_lens
import yaml
from huggingface_hub.errors import EntryNotFoundError
from sae_lens.loading import pretrained_sae_loaders as loaders

OUT = Path(__file__).parent.parent / "src/registry/saes.tsv.zst"
# Widths that no name tells. Sources: the repositories' own descriptions.
WIDTHS = {
    "gpt2-small-res-jb": 24576,
    "gpt2-small-hook-z-kk": 24576,
    "goodfire-llama-3.3-70b-instruct": 65536,
    "goodfire-llama-3.1-8b-instruct": 65536,
}
LLAMA_SCOPE_SITES = {"r": "hook_resid_post", "a": "hook_attn_out", "m": "hook_mlp_out"}


def refuse(*_args, **_kwargs):
    raise EntryNotFoundError("the registry is made without a network")


def from_loader(loader: str, repository: str, path: str) -> dict:
    """What a loader's configuration says without a network; nothing where it needs one."""
    try:
        return loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[loader](repository, path, "cpu", False, None)
    except (EntryNotFoundError, KeyError, ValueError, TypeError):
        return {}


def hook_from_names(loader: str, sae_id: str, path: str) -> str | None:
    if found := re.fullmatch(r"blocks\.(\d+)\.hook_z", sae_id):
        return f"blocks.{found[1]}.attn.hook_z"
    if loader == "qwen_scope" and (found := re.fullmatch(r"layer(\d+)", sae_id)):
        return f"blocks.{found[1]}.hook_resid_post"
    for name in (sae_id, path):
        if found := re.search(r"blocks\.\d+\.(?:attn\.|mlp\.|ln\d\.)?hook_(?:resid_(?:pre|mid|post)|attn_out|mlp_out)", name):
            return found[0]
        if found := re.search(r"resid_post_layer_(\d+)", name):
            return f"blocks.{found[1]}.hook_resid_post"
    if loader.startswith("llama_scope") and (found := re.match(r"l(\d+)([ram])_", sae_id)):
        return f"blocks.{found[1]}.{LLAMA_SCOPE_SITES[found[2]]}"
    if loader == "mwhanna_transcoder" and (found := re.fullmatch(r"layer_(\d+)", sae_id)):
        return f"blocks.{found[1]}.mlp.hook_in"
    return None


def width_from_names(release: str, repository: str, sae_id: str, path: str, neuronpedia: str | None) -> int | None:
    if release in WIDTHS:
        return WIDTHS[release]
    names = [sae_id, path, release, repository]
    for name in names:
        if found := re.search(r"width_(\d+)k", name):
            # 16k is 2**14, 131k is 2**17.
            return 1 << round(math.log2(1000 * int(found[1])))
        if "width_1m" in name:
            return 1 << 20
        if found := re.search(r"width-2pow(\d+)", name):
            return 1 << int(found[1])
        if found := re.search(r"(?:v5[-_]|-w-)(\d+)k", name):
            return int(found[1]) * 1024
        if found := re.search(r"hook_(?:resid_pre|resid_post|mlp_out)_(\d{3,6})(?:$|[:_])", name):
            return int(found[1])
        if found := re.search(r"_ds(\d+)_", name):
            return int(found[1])
        if release.startswith("llama_scope_lx") and (found := re.search(r"_(\d+)x$", name)):
            return int(found[1]) * 4096
    if neuronpedia and (found := re.search(r"-(\d+)k$", neuronpedia)):
        return 1 << round(math.log2(1000 * int(found[1])))
    return None


def cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # What is exact in 6 digits is written so.
        value = f"{value:.6g}" if float(f"{value:.6g}") == value else repr(value)
    text = str(value)
    assert "\t" not in text and "\n" not in text, text
    return text


def main() -> None:
    loaders.hf_hub_download = refuse
    loaders.get_safetensors_tensor_shapes = lambda *_: {"w_enc": (None, None), "w_dec": (None, None)}
    source = Path(sae_lens.__file__).parent / "pretrained_saes.yaml"
    releases = yaml.load(source.read_text(), Loader=yaml.CSafeLoader)
    lines, saes, hooks, widths = [], 0, 0, 0
    for release, facts in releases.items():
        loader, repository = facts["conversion_func"] or "sae_lens", facts["repo_id"]
        overrides = facts.get("config_overrides")
        overrides = json.dumps(overrides, separators=(",", ":")) if overrides else None
        lines.append(["release", release, repository, facts["model"], loader, overrides])
        for sae in facts["saes"]:
            sae_id, path = str(sae["id"]), str(sae["path"])
            known = from_loader(loader, repository, path)
            hook = known.get("hook_name") or hook_from_names(loader, sae_id, path)
            width = known.get("d_sae") or width_from_names(
                release, repository, sae_id, path, sae.get("neuronpedia"))
            numbers = [sae.get("l0"), sae.get("variance_explained")]
            lines.append([sae_id, None if path == sae_id else path, hook, width, *numbers,
                          sae.get("neuronpedia"), sae.get("norm_scaling_factor")])
            saes, hooks, widths = saes + 1, hooks + (hook is not None), widths + (width is not None)
    text = "".join("\t".join(map(cell, line)).rstrip("\t") + "\n" for line in lines)
    packed = subprocess.run(["zstd", "-19", "-c"], input=text.encode(), stdout=subprocess.PIPE, check=True)
    OUT.write_bytes(packed.stdout)
    print(f"{len(releases)} releases, {saes} SAEs ({hooks} with a hook, {widths} with a width): "
          f"{len(text)} bytes, {OUT.stat().st_size} compressed")


if __name__ == "__main__":
    main()
