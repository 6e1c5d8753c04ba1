//! The disk space of a run.

use super::{Of, Part, Sizes};

/// Bytes of a metrics line with its TensorBoard event, roughly.
const METRICS_BYTES: u64 = 1500;

pub(super) fn parts(sizes: &Sizes<'_>) -> Vec<Part> {
    let recipe = sizes.recipe;
    let (parameters, d_sae, buffer) = (sizes.parameters(), sizes.d_sae, sizes.buffer_rows());
    // Weights and moments, and the average where one is kept.
    let each = if recipe.ema_decay.is_some() { 16 } else { 12 };
    let latest = recipe.checkpoint_every_seconds.is_some() || recipe.save_final_checkpoint;
    // The one before is removed when the next one is whole.
    let checkpoints = recipe.n_checkpoints as u64 + if latest { 2 } else { 1 };
    let lines = sizes.steps / recipe.log_every as u64;
    vec![
        Part {
            what: "trained SAE",
            of: Of::Sae,
            bytes: 4 * parameters + 4 * d_sae,
            formula: format!("4 bytes * ({parameters} parameters + d_sae {d_sae})"),
        },
        Part {
            what: "checkpoints",
            of: Of::Sae,
            bytes: checkpoints * (each * parameters + 8 * d_sae),
            formula: format!(
                "at most {checkpoints} at a time * ({each} bytes * {parameters} parameters + 8 * d_sae {d_sae})"
            ),
        },
        Part {
            what: "activation buffers in them",
            of: Of::Hook,
            bytes: checkpoints * 4 * buffer * sizes.d_in,
            formula: format!("{checkpoints} * {buffer} tokens * 4 bytes * d_in {}", sizes.d_in),
        },
        Part {
            what: "logs",
            of: Of::Sae,
            bytes: METRICS_BYTES * lines,
            formula: format!("about {METRICS_BYTES} bytes * {lines} lines"),
        },
    ]
}
