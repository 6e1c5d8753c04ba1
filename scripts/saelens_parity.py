#!/usr/bin/env python3
"""Does the real SAELens load the SAEs that cusae wrote, and compute the same with them?

    pip install sae-lens
    python scripts/saelens_parity.py [--cusae target/release/cusae] runs/topk-1 …
    python scripts/saelens_parity.py --train

For every folder SAELens loads it, encodes and decodes activations made for it, and the results are
compared with those of `cusae encode` and `cusae decode`; of a run folder also its checkpoints, as
training SAEs. With --train, tiny SAEs of every architecture and normalisation, and those of a sweep, are trained first, and
every metric of SAELens' `run_evals` on the embedded model is that of `cusae eval`, within 1e-4.
Exit code 0 if everything agrees, 1 if something does not.

Features and reconstructions may differ by 2e-5 and 2e-6 of the largest value: float32 rounding of
sums of d_in products. Where two latents are equally large to that accuracy either may be selected:
on such rows (2 % at most, more in half precision) the sorted values are compared, not which latents.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")
from sae_lens import SAE, TrainingSAE, __version__  # noqa: E402

ROWS = 256
# Absolute, relative to the largest value, and the part of rows on which ties may be broken otherwise.
TOLERANCE = {"float32": (2e-5, 2e-6, 0.02), "float16": (2e-2, 2e-3, 0.1), "bfloat16": (1e-1, 2e-2, 0.5)}
MLP = ["--hook-name", "blocks.1.ln2.hook_normalized", "--hook-name-out", "blocks.1.hook_mlp_out"]
RECIPES = [
    *[["--architecture", "topk", "--k", "8", "--normalize-activations", n] for n in ("none", "expected_average_only_in")],
    ["--architecture", "topk", "--k", "8", "--rescale-acts-by-decoder-norm", "false"],
    ["--architecture", "topk", "--k", "8", "--hook-name", "blocks.1.attn.hook_z"],
    *[
        ["--architecture", "standard", "--normalize-activations", n]
        for n in ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
    ],
    ["--architecture", "standard", "--apply-b-dec-to-input", "false"],
    ["--architecture", "gated"],
    ["--architecture", "gated", "--normalize-activations", "expected_average_only_in"],
    ["--architecture", "jumprelu"],
    ["--architecture", "jumprelu", "--jumprelu-sparsity-loss-mode", "tanh", "--pre-act-loss-coefficient", "3e-6"],
    ["--architecture", "jumprelu", "--jumprelu-sparsity-loss-mode", "quadratic", "--target-l0", "16"],
    ["--architecture", "abstopk", "--k", "8"],
    *[["--architecture", "batchtopk", "--k", "7.5", "--normalize-activations", n] for n in ("none", "expected_average_only_in")],
    ["--architecture", "batchtopk", "--k", "8", "--rescale-acts-by-decoder-norm", "false"],
    ["--architecture", "matryoshka_batchtopk", "--k", "8", "--matryoshka-widths", "[64, 256]"],
    ["--architecture", "batchtopk", "--k", "8", "--format", "saelens-checkpoint"],
    ["--architecture", "matching_pursuit", "--max-iterations", "8", "--residual-threshold", "0.5"],
    ["--architecture", "matching_pursuit", "--max-iterations", "8", "--normalize-activations", "expected_average_only_in"],
    ["--architecture", "matching_pursuit", "--max-iterations", "8", "--apply-b-dec-to-input", "false"],
    ["--architecture", "matching_pursuit", "--max-iterations", "8", "--format", "saelens-checkpoint"],
    ["--architecture", "transcoder", *MLP],
    ["--architecture", "skip_transcoder", "--normalize-activations", "layer_norm", *MLP],
    ["--architecture", "jumprelu_transcoder", "--normalize-activations", "constant_norm_rescale", *MLP],
    ["--architecture", "jumprelu_skip_transcoder", *MLP],
    ["--architecture", "topk", "--k", "4,8"],
]
SMALL = (
    "--d-sae 512 --training-tokens 20480 --train-batch-size-tokens 1024 --n-checkpoints 1 --quiet "
    "--buffer-tokens 4096 --n-batches-for-norm-estimate 20 --n-eval-batches 1"
).split()


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}: {done.stderr.strip()}")


def activations(sae):
    """Rows near what the decoder can reach, so that features are active as they are on real ones."""
    random = torch.Generator().manual_seed(7)
    weights = sae.W_dec.detach().float()
    codes = torch.rand(ROWS, weights.shape[0], generator=random)
    codes = codes * (codes > 1 - 16 / weights.shape[0]) / weights.norm(dim=-1)
    rows = codes @ weights * 5 + sae.b_dec.detach().float()
    return rows + torch.randn(rows.shape, generator=random) * 0.1


@torch.no_grad()
def saelens(sae, x):
    acts = sae.encode(x)
    dense = acts.to_dense() if acts.is_sparse else acts
    decoded = sae.decode(acts).flatten(1).float()
    # What a skip connection carries comes from the input, not from the features.
    skips = "W_skip" in dict(sae.named_parameters())
    reconstruction = decoded + (x @ sae.W_skip.T) if skips else decoded
    return {"feature_acts": dense.float(), "reconstruction": reconstruction, "decoded": decoded}


def cusae(binary, folder, x, scratch):
    save_file({"x": x}, scratch / "x.safetensors")
    paths = {name: scratch / f"{name}.safetensors" for name in ("dense", "sparse", "decoded")}
    encode = [binary, "encode", "--sae", folder, "--activations", scratch / "x.safetensors"]
    run(*encode, "--out", paths["dense"], "--dense", "--reconstruct")
    run(*encode, "--out", paths["sparse"])
    run(binary, "decode", "--sae", folder, "--features", paths["sparse"], "--out", paths["decoded"])
    dense, sparse = load_file(paths["dense"]), load_file(paths["sparse"])
    rebuilt = torch.sparse_csr_tensor(sparse["indptr"], sparse["indices"], sparse["values"], dense["feature_acts"].shape)
    return {
        "feature_acts": dense["feature_acts"],
        "sparse feature_acts": rebuilt.to_dense(),
        "reconstruction": dense["reconstruction"],
        "decoded": load_file(paths["decoded"])["reconstruction"],
    }


def differences(binary, folder, training, scratch):
    """What differs between SAELens' results and ours, one line each."""
    # SAELens does not train transcoders.
    transcodes = "transcoder" in json.loads((folder / "cfg.json").read_text())["architecture"]
    sae = (TrainingSAE if training and not transcodes else SAE).load_from_disk(folder).eval()
    if training and sae.cfg.normalize_activations == "expected_average_only_in":
        # What commands make of a checkpoint: SAELens does the same at the end of training.
        scale = load_file(Path(folder) / "statistics.safetensors")["input_scale"].item()
        sae.fold_activation_norm_scaling_factor(scale)
    if training and sae.cfg.architecture() in ("batchtopk", "matryoshka_batchtopk"):
        # In training a row's features depend on the other rows: compared is what SAELens saves of it.
        sae.save_inference_model(scratch / "inference")
        sae = SAE.load_from_disk(scratch / "inference").eval()
    sae.turn_off_forward_pass_hook_z_reshaping()
    x = activations(sae)
    theirs, ours = saelens(sae, x), cusae(binary, folder, x, scratch)
    atol, rtol, ties = TOLERANCE[str(sae.dtype).removeprefix("torch.")]
    lines = []

    def compare(name, found, expected):
        largest, tolerance = (found - expected).abs().max().item(), atol + rtol * expected.abs().max().item()
        if not largest <= tolerance:
            lines.append(f"{name} differs by {largest:.2e}, allowed are {tolerance:.2e}")
        return tolerance

    expected = theirs["feature_acts"]
    tolerance = compare("sorted feature_acts", ours["feature_acts"].sort().values, expected.sort().values)
    same = (ours["feature_acts"] - expected).abs().amax(1) <= tolerance
    if same.float().mean() < 1 - ties or not expected.any():
        lines.append(f"{same.sum()} of {ROWS} rows have the same latents, {expected.count_nonzero()} are active in all")
    compare("sparse feature_acts", ours["sparse feature_acts"], ours["feature_acts"])
    for name in ("reconstruction", "decoded"):
        compare(name, ours[name][same], theirs[name][same])
    return lines


def evaluations(binary, folder, scratch):
    """Which metrics differ between SAELens' `run_evals` and `cusae eval`, one line each."""
    import saelens_evals

    save_file({"tokens": saelens_evals.tokens().int()}, scratch / "tokens.safetensors")
    flags = ["--tokens", scratch / "tokens.safetensors", "--out", scratch / "eval.json", "--quiet"]
    run(binary, "eval", "--sae", folder, *saelens_evals.flags(), *flags)
    ours, lines = json.loads((scratch / "eval.json").read_text()), []
    for name, theirs in saelens_evals.metrics(folder).items():
        group, key = name.split("/")
        if not abs(ours[group][key] - theirs) <= 1e-4 * abs(theirs):
            lines.append(f"{name} is {ours[group][key]}, SAELens has {theirs}")
    return lines


def check(binary, folder, training=False, evaluates=False):
    try:
        with tempfile.TemporaryDirectory() as scratch:
            lines = differences(binary, folder, training, Path(scratch))
            if evaluates:
                lines += evaluations(binary, folder, Path(scratch))
    except Exception as error:  # A refusal by either side is a result like any other.
        lines = [f"{type(error).__name__}: {error}"]
    for line in lines:
        print(f"MISS {folder}: {line}")
    if not lines:
        print(f"same {folder}{' (training)' if training else ''}")
    return not lines


def check_all(binary, folder, evaluates=False):
    checkpoints = sorted(path.parent for path in folder.glob("checkpoints/*/cfg.json"))
    in_training = (folder / "recipe.toml").exists() and 'format = "saelens-checkpoint"' in (folder / "recipe.toml").read_text()
    results = [check(binary, folder, in_training, evaluates and not in_training)]
    results += [check(binary, checkpoint, True) for checkpoint in checkpoints]
    sparsity = folder / "sparsity.safetensors"
    if sparsity.exists():
        d_sae = json.loads((folder / "cfg.json").read_text())["d_sae"]
        results.append(load_file(sparsity)["sparsity"].shape == (d_sae,))
    return all(results)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--cusae", type=Path, default=Path("target/release/cusae"), help="the program")
    parser.add_argument("--train", action="store_true", help="train tiny SAEs and check them too")
    arguments = parser.parse_args()
    if not arguments.folders and not arguments.train:
        parser.error("name folders, or use --train")
    print(f"sae-lens {__version__}")
    agree = [check_all(arguments.cusae, folder) for folder in arguments.folders]
    with tempfile.TemporaryDirectory() as runs:
        for number, recipe in enumerate(RECIPES if arguments.train else []):
            folder = Path(runs) / f"{number}-{'-'.join(recipe[1::2])}"
            run(arguments.cusae, "train", *SMALL, *recipe, "--out", folder)
            # A sweep leaves a folder for each of its SAEs.
            saes = sorted(path.parent for path in folder.glob("*/cfg.json")) or [folder]
            agree += [check_all(arguments.cusae, sae, evaluates="transcoder" not in recipe[1]) for sae in saes]
    print(f"{sum(agree)} of {len(agree)} agree")
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
