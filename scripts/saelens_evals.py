"""SAELens' own `run_evals` on an SAE folder and the embedded model, without a network; used by saelens_parity.py."""

import functools
from pathlib import Path

import datasets
import torch
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights
from transformers import GPT2LMHeadModel

MODEL = Path(__file__).parent.parent / "assets" / "tinygpt2"
CONTEXT, BATCH, N_RECONSTRUCTION, N_SPARSITY = 64, 4, 2, 3


@functools.cache
def model():
    """`HookedTransformer.from_pretrained` asks the Hub even when it is given a model."""
    source = GPT2LMHeadModel.from_pretrained(MODEL).eval()
    c = source.config
    config = HookedTransformerConfig.from_dict(
        dict(
            d_model=c.n_embd, d_head=c.n_embd // c.n_head, n_heads=c.n_head, d_mlp=4 * c.n_embd, n_layers=c.n_layer,
            n_ctx=c.n_positions, eps=c.layer_norm_epsilon, d_vocab=c.vocab_size, act_fn=c.activation_function,
            normalization_type="LN", original_architecture="GPT2LMHeadModel", model_name="gpt2", device="cpu",
            init_weights=False, default_prepend_bos=True,
        )
    )  # fmt: skip
    hooked = HookedTransformer(config)
    weights = {name: tensor.detach().clone() for name, tensor in convert_gpt2_weights(source, config).items()}
    hooked.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return hooked


@functools.cache
@torch.no_grad()
def tokens():
    """Rows that the model itself writes, so that splicing and ablation raise its loss."""
    random = torch.Generator().manual_seed(3)
    rows = torch.zeros((N_RECONSTRUCTION + N_SPARSITY) * BATCH, 1, dtype=torch.long)
    for _ in range(CONTEXT - 1):
        probabilities = model()(rows, prepend_bos=False)[:, -1].softmax(-1)
        rows = torch.cat([rows, torch.multinomial(probabilities, 1, generator=random)], dim=1)
    return rows


def metrics(folder):
    """Every scalar, by group and key."""
    sae = SAE.load_from_disk(folder)
    data = datasets.Dataset.from_dict({"tokens": tokens().tolist()})
    store = ActivationsStore.from_sae(
        model(), sae, data, context_size=CONTEXT, store_batch_size_prompts=BATCH, streaming=False
    )
    config = get_eval_everything_config(
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=N_RECONSTRUCTION,
        n_eval_sparsity_variance_batches=N_SPARSITY,
    )
    groups, _ = run_evals(sae, store, model(), ActivationScaler(), eval_config=config, exclude_special_tokens=False)
    return {f"{group}/{key}": value for group, values in groups.items() for key, value in values.items()}


def flags():
    """The flags of `cusae eval` for the same evaluation."""
    return [
        *("--model", str(MODEL), "--context-size", str(CONTEXT), "--batch-size-prompts", str(BATCH)),
        *("--n-eval-reconstruction-batches", str(N_RECONSTRUCTION)),
        *("--n-eval-sparsity-variance-batches", str(N_SPARSITY), "--exclude-special-tokens", "false"),
    ]
