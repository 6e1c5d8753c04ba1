#!/usr/bin/env python3
"""Times training steps or encoding of one SAE by one package, in a process of its own. compare_with_peers.py starts it.

Activations are the same normal numbers for all. Weights start as SAELens initialises them, and hardly move
(learning rate 1e-9). Where an architecture's L0 depends on them, biases or thresholds are set so that `--l0` latents
of a row are active; a process that times SAELens leaves such weights in `--start` for others.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import NormalDist

import numpy

from measure import measure, report

ROW_NORM = 0.1  # of the weights; the deviation of a pre-activation of normal activations


def batches(arguments):
    """Two batches that steps take in turn."""
    random = numpy.random.default_rng(1)
    shape = (arguments.batch, arguments.d_in)
    return [random.standard_normal(shape, dtype=numpy.float32) for _ in range(2)]


def threshold(arguments):
    """What so many pre-activations of a row exceed."""
    return ROW_NORM * NormalDist().inv_cdf(1 - arguments.l0 / arguments.d_sae)


def matryoshka_widths(d_sae):
    return [d_sae // 16, d_sae // 4, d_sae]


def in_turn(step, pool):
    """A function that does one step on the next batch."""
    calls = iter(range(1 << 30))
    return lambda: step(pool[next(calls) % len(pool)])


def cusae(arguments):
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)
    from cusae_library import Cusae

    library = Cusae(arguments.library)
    widths = matryoshka_widths(arguments.d_sae)[:-1]
    own = {
        "topk": f"k = {arguments.k}", "abstopk": f"k = {arguments.k}", "batchtopk": f"k = {arguments.k}",
        "matryoshka_batchtopk": f"k = {arguments.k}\nmatryoshka_widths = {widths}",
        "standard": "l1_coefficient = 5.0\nl1_warm_up_steps = 0", "gated": "l1_coefficient = 5.0\nl1_warm_up_steps = 0",
        "jumprelu": "l0_coefficient = 1.0\nl0_warm_up_steps = 0",
    }[arguments.architecture]
    if arguments.l0 and arguments.architecture == "jumprelu":
        own += f"\njumprelu_init_threshold = {threshold(arguments)}"
    elif arguments.l0:
        own += f"\nfrom_pretrained_path = '{arguments.start}'"
    recipe = (f"architecture = '{arguments.architecture}'\n{own}\nlr = 1e-9\nlr_warm_up_steps = 0\nlr_decay_steps = 0\n"
              f"train_batch_size_tokens = {arguments.batch}\ntraining_tokens = {1000 * arguments.batch}\n"
              "dead_feature_window = 1000\n")
    trainer = library.trainer(arguments.d_in, arguments.d_sae, recipe)
    if arguments.what == "step":
        return lambda x: library.train(trainer, x)
    sae = library.sae(trainer)
    return lambda x: library.encode(sae, x)


def saelens(arguments):
    os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="disabled")
    import sae_lens
    import torch
    from sae_lens.config import SAETrainerConfig

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    name, own = {
        "topk": ("TopK", {"k": arguments.k}), "abstopk": ("AbsTopK", {"k": arguments.k}),
        "batchtopk": ("BatchTopK", {"k": arguments.k}),
        "matryoshka_batchtopk": (
            "MatryoshkaBatchTopK", {"k": arguments.k, "matryoshka_widths": matryoshka_widths(arguments.d_sae)}),
        "standard": ("Standard", {"l1_coefficient": 5.0}), "gated": ("Gated", {"l1_coefficient": 5.0}),
        "jumprelu": ("JumpReLU", {"l0_coefficient": 1.0}),
    }[arguments.architecture]
    if arguments.l0 and arguments.architecture == "jumprelu":
        own["jumprelu_init_threshold"] = threshold(arguments)
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=arguments.d_in, d_sae=arguments.d_sae, **own)
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config)
    bias = {"standard": "b_enc", "gated": "b_gate"}.get(arguments.architecture)
    if arguments.l0 and bias:
        with torch.no_grad():
            getattr(sae, bias).fill_(-threshold(arguments))
        sae.save_model(arguments.start)
    if arguments.what == "encode":
        # As who loads a saved SAE has it.
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            sae = sae_lens.SAE.load_from_disk(folder).eval()
        encode = torch.no_grad()(sae.encode)
        return lambda x: encode(torch.from_numpy(x))
    settings = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=arguments.batch, lr=1e-9, lr_end=1e-9,
        autocast=arguments.autocast,
    )
    trainer = sae_lens.SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))

    def step(x):
        trainer.step(torch.from_numpy(x))
        trainer.n_training_steps += 1

    return step


def sparsify(arguments):
    """Its own forward and backward pass with torch's Adam and clipping; it has no AuxK here."""
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    import torch
    from sparsify import SparseCoder
    from sparsify.config import SparseCoderConfig

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = SparseCoderConfig(num_latents=arguments.d_sae, k=arguments.k)
    sae = SparseCoder(arguments.d_in, cfg=config, device="cpu", dtype=torch.float32)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-9)

    def step(x):
        sae(torch.from_numpy(x)).fvu.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        if sae.cfg.normalize_decoder:
            sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        if sae.cfg.normalize_decoder:
            sae.set_decoder_norm_to_unit_norm()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("who", choices=("cusae", "saelens", "sparsify"))
    parser.add_argument("what", choices=("step", "encode"))
    parser.add_argument("architecture")
    for name in ("d-in", "d-sae", "batch", "repeats", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--l0", type=int, help="active latents of a row, where the weights decide")
    parser.add_argument("--start", type=Path, help="folder for weights that have this L0")
    parser.add_argument("--autocast", action="store_true")
    parser.add_argument("--library", help="libcusae.so")
    arguments = parser.parse_args()
    step = {"cusae": cusae, "saelens": saelens, "sparsify": sparsify}[arguments.who](arguments)
    pool = batches(arguments)
    report(**measure(in_turn(step, pool), arguments.repeats))


if __name__ == "__main__":
    main()
