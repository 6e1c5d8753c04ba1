#!/usr/bin/env python3
"""GPT-2 with random weights for the comparison: makes it, times its forward pass in TransformerLens and transformers,
and runs SAELens' whole training. compare_with_peers.py starts it.

    gpt2.py make FOLDER        a transformers folder and tokens.npy in it
    gpt2.py forward WHO ...    WHO is transformer_lens, transformers or transformers-eager
    gpt2.py train ...          LanguageModelSAETrainingRunner.run(), without imports and loading
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_MODE="disabled", TOKENIZERS_PARALLELISM="false")

import numpy
import torch

from measure import busy_seconds, cpu_seconds, measure, peak_memory, report, summary

SHAPES = {
    "small": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
    "tiny": {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 4096, "n_positions": 1024,
             "bos_token_id": 0, "eos_token_id": 0},
}


def make(arguments):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = SHAPES[arguments.shape]
    GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(arguments.folder)
    # Zipf's law: the n-th most frequent token is n times as rare as the first.
    random, vocabulary = numpy.random.default_rng(2), shape["vocab_size"]
    tokens = vocabulary ** random.random((arguments.rows, 128)) - 1
    numpy.save(Path(arguments.folder) / "tokens.npy", tokens.astype(numpy.int32))


def transformers_model(arguments):
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(arguments.folder).eval()


def transformer_lens_model(arguments):
    """HookedTransformer has no way to take a local folder: its weights are converted by its own function."""
    from transformer_lens import HookedTransformer
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

    source = transformers_model(arguments)
    c = source.config
    config = HookedTransformerConfig.from_dict({
        "d_model": c.n_embd, "d_head": c.n_embd // c.n_head, "n_heads": c.n_head, "d_mlp": 4 * c.n_embd,
        "n_layers": c.n_layer, "n_ctx": c.n_positions, "eps": c.layer_norm_epsilon, "d_vocab": c.vocab_size,
        "act_fn": c.activation_function, "normalization_type": "LN", "original_architecture": "GPT2LMHeadModel",
        "model_name": "gpt2", "device": "cpu", "init_weights": False, "default_prepend_bos": True,
    })
    model = HookedTransformer(config)
    weights = {name: tensor.detach().clone() for name, tensor in convert_gpt2_weights(source, config).items()}
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    return model


class Reached(Exception):
    """The hook was reached; what comes after it is not computed."""


def forward(arguments):
    torch.set_num_threads(arguments.threads)
    tokens = torch.from_numpy(numpy.load(Path(arguments.folder) / "tokens.npy").astype(numpy.int64))
    tokens = tokens.flatten()[:4096].view(-1, arguments.context)
    if arguments.who == "transformer_lens":
        model, hook = transformer_lens_model(arguments), f"blocks.{arguments.layer}.hook_resid_pre"
        run = lambda: model.run_with_cache(
            tokens, names_filter=[hook], stop_at_layer=arguments.layer, prepend_bos=False)
    else:
        model = transformers_model(arguments)
        model.set_attn_implementation("eager" if arguments.who.endswith("eager") else "sdpa")

        def stop(_module, _inputs):
            raise Reached

        model.transformer.h[arguments.layer].register_forward_pre_hook(stop)

        def run():
            try:
                model(tokens, use_cache=False)
            except Reached:
                pass

    report(**measure(torch.no_grad()(run), arguments.repeats))


def train(arguments):
    """Each run has a new runner; only run() is timed."""
    import datasets
    import time
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig

    torch.set_num_threads(arguments.threads)
    model = transformer_lens_model(arguments)
    tokens = numpy.load(Path(arguments.folder) / "tokens.npy")
    dataset = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
    walls, cpus, others = [], [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as out:
            config = LanguageModelSAERunnerConfig(
                sae=TopKTrainingSAEConfig(d_in=model.cfg.d_model, d_sae=arguments.d_sae, k=32), model_name="gpt2",
                hook_name=f"blocks.{arguments.layer}.hook_resid_pre", dataset_path="", streaming=False,
                context_size=128, training_tokens=arguments.training_tokens, train_batch_size_tokens=4096,
                store_batch_size_prompts=32, n_batches_in_buffer=64, lr=3e-4, device="cpu", checkpoint_path=None,
                output_path=out, logger=LoggingConfig(log_to_wandb=False), verbose=False,
                autocast=arguments.autocast, autocast_lm=arguments.autocast,
            )
            runner = LanguageModelSAETrainingRunner(config, override_model=model, override_dataset=dataset)
            busy, cpu, start = busy_seconds(), cpu_seconds(), time.perf_counter()
            runner.run()
            wall, own = time.perf_counter() - start, cpu_seconds() - cpu
        walls.append(wall)
        cpus.append(own)
        others.append(max(0.0, busy_seconds() - busy - own) / wall)
    report(**summary(walls, cpus, others), peak_memory=peak_memory())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for function in (make, forward, train):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        if function is forward:
            command.add_argument("who", choices=("transformer_lens", "transformers", "transformers-eager"))
            command.add_argument("--context", type=int, required=True)
        command.add_argument("folder")
        if function is make:
            command.add_argument("--shape", choices=SHAPES, required=True)
            command.add_argument("--rows", type=int, required=True)
            continue
        for name in ("layer", "repeats", "threads"):
            command.add_argument(f"--{name}", type=int, required=True)
        if function is train:
            command.add_argument("--d-sae", type=int, required=True)
            command.add_argument("--training-tokens", type=int, required=True)
            command.add_argument("--autocast", action="store_true")
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
