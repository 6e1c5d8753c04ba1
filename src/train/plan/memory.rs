//! The memory of a run.

use super::{Of, Part, Sizes, Source};
use crate::config::BDecInitMethod;
use crate::lm::{ModelConfig, Processing};
use crate::sae::kind;
use crate::sae::unit_norm;

pub(super) fn parts(sizes: &Sizes<'_>) -> Vec<Part> {
    let parameters = sizes.parameters();
    let mut parts = vec![
        Part {
            what: "weights, gradients and Adam's two moments",
            of: Of::Sae,
            bytes: 16 * parameters,
            formula: format!("16 bytes * {parameters} parameters"),
        },
        work_space(sizes),
    ];
    if sizes.recipe.ema_decay.is_some() {
        parts.push(Part {
            what: "average of the weights",
            of: Of::Sae,
            bytes: 8 * parameters,
            formula: format!("8 bytes * {parameters} parameters"),
        });
    }
    if sizes.recipe.normalize_sae_decoder {
        let (d_sae, d_in) = (sizes.d_sae, sizes.d_in);
        parts.push(Part {
            what: "work space of a decoder of norm 1",
            of: Of::Sae,
            bytes: unit_norm::bytes(d_sae, d_in),
            formula: format!("4 bytes * (2 * d_sae {d_sae} * d_in {d_in} + 7 * d_sae)"),
        });
    }
    if sizes.recipe.autocast {
        let (batch, d_in, d_sae) = (sizes.batch, sizes.d_in, sizes.d_sae);
        parts.push(Part {
            what: "operands of products in bf16",
            of: Of::Sae,
            bytes: 4 * (batch + d_sae) * d_in,
            formula: format!("2 bytes * 2 * (batch {batch} + d_sae {d_sae}) * d_in {d_in}"),
        });
    }
    if let Source::Model { config, .. } = sizes.source {
        let rows = sizes.buffer_rows();
        parts.push(Part {
            what: "activation buffer",
            of: Of::Hook,
            bytes: sizes.hooks() * rows * (4 * sizes.d_in + 12),
            formula: of_hooks(sizes, format!("{rows} tokens * (4 bytes * d_in {} + 12)", sizes.d_in)),
        });
        parts.extend(language_model(sizes, config));
        parts.push(evaluation(sizes, config));
        if sizes.recipe.autocast_lm {
            let [layers, d, m] = [config.n_layers, config.d_model, config.d_mlp].map(|size| size as u64);
            parts.push(Part {
                what: "language model's maps in bf16",
                of: Of::Run,
                bytes: 2 * layers * (4 * d * d + 2 * d * m),
                formula: format!("2 bytes * {layers} layers * (4 * d_model {d}^2 + 2 * d_model * d_mlp {m})"),
            });
        }
    }
    parts.extend(ghost_gradients(sizes));
    parts.push(while_saving(sizes));
    parts.extend(while_b_dec_is_found(sizes));
    parts
}

/// A formula for each hook that is read.
fn of_hooks(sizes: &Sizes<'_>, formula: String) -> String {
    match sizes.hooks() {
        1 => formula,
        hooks => format!("{hooks} * {formula}"),
    }
}

/// Buffers of a training step (`sae::step`, and the architecture's own).
fn work_space(sizes: &Sizes<'_>) -> Part {
    let (batch, d_in, d_sae) = (sizes.batch, sizes.d_in, sizes.d_sae);
    let own = kind::of(sizes.recipe).work_space(sizes.recipe, sizes.dims());
    Part {
        what: "work space of a step",
        of: Of::Sae,
        bytes: 4 * (4 * batch * d_in + 4 * d_sae + own.numbers),
        formula: format!("4 bytes * (4 * batch {batch} * d_in {d_in} + 4 * d_sae {d_sae} + {})", own.formula),
    }
}

/// Lists of every dead latent in every row (`sae::ghost`).
fn ghost_gradients(sizes: &Sizes<'_>) -> Option<Part> {
    let (batch, d_in, d_sae) = (sizes.batch, sizes.d_in, sizes.d_sae);
    sizes.recipe.use_ghost_grads.then(|| Part {
        what: "ghost gradients, 5 % dead",
        of: Of::Sae,
        bytes: 4 * (2 * batch * d_in + 6 * batch * kind::dead_of_a_plan(d_sae as usize) as u64),
        formula: format!("4 bytes * (2 * batch {batch} * d_in {d_in} + 6 * batch * d_sae {d_sae} / 20)"),
    })
}

/// Numbers that a GPT-2 model consists of, an unembedding of its own included where there is one.
fn model_parameters(config: &ModelConfig, processing: Processing) -> u64 {
    let [layers, d, m, v, p] =
        [config.n_layers, config.d_model, config.d_mlp, config.d_vocab, config.n_ctx].map(|size| size as u64);
    let block = 4 * (d * d + d) + 2 * d * m + m + d + 4 * d;
    let tied = config.tie_word_embeddings && processing == Processing::None;
    layers * block + (v + p) * d + 2 * d + if tied { 0 } else { v * d }
}

/// Seven streams and the MLP (`lm::Forward`).
fn forward_width(config: &ModelConfig) -> u64 {
    7 * config.d_model as u64 + config.d_mlp as u64
}

fn language_model(sizes: &Sizes<'_>, config: &ModelConfig) -> [Part; 2] {
    let recipe = sizes.recipe;
    let parameters = model_parameters(config, recipe.processing);
    let tokens = (recipe.store_batch_size_prompts * recipe.context_size) as u64;
    let forward = forward_width(config);
    [
        Part {
            what: "language model",
            of: Of::Run,
            bytes: 4 * parameters,
            formula: format!("4 bytes * {parameters} parameters"),
        },
        Part {
            what: "work space of the language model",
            of: Of::Run,
            bytes: 4 * tokens * forward,
            formula: format!("4 bytes * {tokens} tokens * (7 * d_model {} + d_mlp {})", config.d_model, config.d_mlp),
        },
    ]
}

/// An evaluation has a copy of the SAE on the host and one on the device, and for its batch a work
/// space of the model, the clean run's last output, four rows of the SAE's width, and features.
fn evaluation(sizes: &Sizes<'_>, config: &ModelConfig) -> Part {
    let (d_model, forward) = (config.d_model as u64, forward_width(config));
    let (recipe, d_in, parameters) = (sizes.recipe, sizes.d_in, sizes.parameters());
    let tokens = (recipe.eval_batch_size_prompts() * recipe.context_size) as u64;
    let (active, of) = kind::of(recipe).room(recipe, sizes.dims());
    Part {
        what: "evaluation",
        of: Of::Run,
        bytes: 8 * parameters + 4 * tokens * (forward + d_model + 4 * d_in + 2 * active as u64),
        formula: format!(
            "8 bytes * {parameters} parameters + 4 bytes * {tokens} tokens * ({forward} + d_model {d_model} + 4 * d_in \
             {d_in} + 2 * {of} {active})"
        ),
    }
}

/// The activations that b_dec starts from the mean or median of, on the host.
fn while_b_dec_is_found(sizes: &Sizes<'_>) -> Option<Part> {
    let (recipe, d_in) = (sizes.recipe, sizes.d_in);
    let rows = (recipe.buffer_tokens as u64).next_multiple_of(sizes.batch);
    (recipe.b_dec_init_method != BDecInitMethod::Zeros).then(|| Part {
        what: "while b_dec is found",
        of: Of::Hook,
        bytes: sizes.hooks() * 4 * rows * d_in,
        formula: of_hooks(sizes, format!("4 bytes * {rows} tokens * d_in {d_in}")),
    })
}

/// The weights are copied to the host, and once more as a file's bytes; moments follow one tensor at a time.
fn while_saving(sizes: &Sizes<'_>) -> Part {
    Part {
        what: "while a checkpoint is written",
        of: Of::Run,
        bytes: 8 * sizes.parameters(),
        formula: format!("two copies of the weights, 8 bytes * {} parameters", sizes.parameters()),
    }
}
