#!/usr/bin/env python3
"""Checks that the packages themselves load what cusae convert writes, and compute with it what they
compute with the original. Needs the packages of make_format_fixtures.py, in the same way.

    PYTHONPATH=sparse_autoencoder scripts/converted_parity.py --cusae target/debug/cusae
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import torch
from sae_lens import SAE
from safetensors.torch import load_file

for absent in ["nnsight", "schedulefree", "zstandard"]:
    sys.modules.setdefault(absent, MagicMock())
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

from dictionary_learning.dictionary import AutoEncoder  # noqa: E402
from dictionary_learning.utils import load_dictionary  # noqa: E402
from sparse_autoencoder.model import Autoencoder  # noqa: E402
from sparsify import SparseCoder  # noqa: E402

DATA = Path(__file__).resolve().parent.parent / "tests/data/formats"
DICTIONARIES = "canrager/lm_sae/{}/resid_post_layer_8/trainer_0"
OPENAI = "openaipublic/sparse-autoencoder/gpt2-small/{}.pt"
CASES = [
    (DICTIONARIES.format("AutoEncoder"), ["saelens", "jumprelu", "openai", "dictionary_learning"]),
    (DICTIONARIES.format("AutoEncoderNew"), ["saelens", "openai", "dictionary_learning"]),
    (DICTIONARIES.format("GatedAutoEncoder"), ["saelens", "jumprelu", "dictionary_learning"]),
    (DICTIONARIES.format("JumpReluAutoEncoder"), ["saelens", "dictionary_learning"]),
    (DICTIONARIES.format("AutoEncoderTopK"), ["saelens", "sparsify", "dictionary_learning"]),
    (DICTIONARIES.format("BatchTopKSAE"), ["saelens", "dictionary_learning"]),
    (OPENAI.format("v1"), ["saelens", "openai", "dictionary_learning"]),
    (OPENAI.format("v5_32k"), ["saelens", "openai"]),
    ("EleutherAI/sae-pythia-70m/layers.3", ["saelens", "sparsify", "dictionary_learning"]),
    ("EleutherAI/sae-pythia-70m/gpt_neox.layers.5.mlp", ["sparsify"]),
    ("google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7", ["saelens", "dictionary_learning"]),
    ("google/gemma-scope-2-270m-pt/transcoder/layer_6_width_16k_l0_big_affine", ["saelens"]),
    ("mwhanna/qwen3-0.6b-transcoders/layer_11.safetensors", ["saelens"]),
]


def computed(layout, path, x):
    """Features and reconstructions, by the package that the layout belongs to."""
    if layout in ["saelens", "jumprelu"]:
        sae = SAE.load_from_disk(str(path))
        return sae.encode(x), sae(x)
    if layout == "dictionary_learning":
        for file in path.glob("*.pt"):
            torch.load(file, weights_only=True)
        sae, config = load_dictionary(str(path), device="cpu")
        if config["trainer"]["dict_class"] == "AutoEncoder":
            # load_dictionary would bring its decoder, and so its features, to another scale.
            sae = AutoEncoder.from_pretrained(path / "ae.pt", normalize_decoder=False)
        acts = sae.encode(x)
        return acts, sae.decode(acts)
    if layout == "openai":
        sae = Autoencoder.from_state_dict(torch.load(path / "autoencoder.pt", weights_only=True))
        acts, info = sae.encode(x)
        return acts, sae.decode(acts, info)
    coder = SparseCoder.load_from_disk(path)
    values, indices, _ = coder.encode(x)
    return torch.zeros(len(x), coder.num_latents).scatter_(-1, indices, values), coder(x).sae_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cusae", default="target/debug/cusae")
    cusae = parser.parse_args().cusae
    worst = 0.0
    for name, layouts in CASES:
        source = DATA / name
        io = load_file(source / "io.safetensors" if source.is_dir() else f"{source}.io.safetensors")
        for layout in layouts:
            with tempfile.TemporaryDirectory() as out, torch.no_grad():
                command = [cusae, "convert", "--from", source, "--to", layout, "--out", out, "--quiet", "--device", "cpu"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                acts, reconstruction = computed(layout, Path(out), io["x"])
            difference = max(
                (acts - io["feature_acts"]).abs().max().item(),
                (reconstruction - io["reconstruction"]).abs().max().item(),
            )
            assert ((acts != 0) == (io["feature_acts"] != 0)).all(), f"{name} to {layout}: other latents are active"
            assert difference <= 2e-5, f"{name} to {layout}: {difference}"
            worst = max(worst, difference)
            print(f"{layout:20} {difference:.1e} {name}")
    print(f"all within {worst:.1e}")


if __name__ == "__main__":
    main()
