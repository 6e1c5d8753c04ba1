//! From a step's report to a line of metrics.jsonl, by SAELens' wandb keys
//! (`sae_trainer.py: _build_train_step_log_dict`, `_build_sparsity_log_dict`).

use super::log::Metrics;
use crate::eval::Report;
use crate::formats::saelens::log_sparsity;
use crate::sae::step::{StepReport, StepSettings};
use serde_json::{json, Value};

/// SAELens' name of the coefficient that `architecture` warms up, if it has one.
fn coefficient_key(architecture: &str) -> Option<&'static str> {
    (architecture == "standard").then_some("details/l1_coefficient")
}

/// What was measured in one step. `since_fired` is the mean over latents of steps since each fired.
pub fn of_step(
    n_training_samples: u64,
    architecture: &str,
    report: &StepReport,
    settings: &StepSettings,
    since_fired: f64,
) -> Metrics {
    let mut line = Metrics::new();
    let mut put = |key: String, value: Value| line.insert(key, value);
    put("losses/overall_loss".into(), json!(report.overall_loss()));
    for (name, loss) in &report.losses {
        put(format!("losses/{name}"), json!(loss));
    }
    if let Some(variance) = report.explained_variance {
        put("metrics/explained_variance".into(), json!(variance.pooled));
        put("metrics/explained_variance_legacy".into(), json!(variance.legacy_mean));
        put("metrics/explained_variance_legacy_std".into(), json!(variance.legacy_std));
    }
    put("metrics/l0".into(), json!(report.l0));
    put("metrics/grad_norm".into(), json!(report.grad_norm));
    put("sparsity/mean_passes_since_fired".into(), json!(since_fired));
    put("sparsity/dead_features".into(), report.n_dead.into());
    put("details/current_learning_rate".into(), json!(settings.lr));
    put("details/n_training_samples".into(), n_training_samples.into());
    if let Some(key) = coefficient_key(architecture) {
        put(key.into(), json!(settings.coefficient));
    }
    line
}

/// What is added to the line at the end of every `feature_sampling_window`.
pub fn of_window(fired_count: &[u32], n_samples: u64) -> Metrics {
    let log = log_sparsity(fired_count, n_samples);
    let mean = log.iter().map(|&x| f64::from(x)).sum::<f64>() / log.len() as f64;
    let below = |bound: f32| log.iter().filter(|&&x| x < bound).count();
    let mut line = Metrics::new();
    line.insert("metrics/mean_log10_feature_sparsity".into(), json!(mean));
    line.insert("sparsity/below_1e-5".into(), below(-5.0).into());
    line.insert("sparsity/below_1e-6".into(), below(-6.0).into());
    line
}

/// An evaluation's numbers, `group/key`, as SAELens logs them.
pub fn of_evaluation(report: &Report) -> impl Iterator<Item = (String, Value)> {
    report.scalars().into_iter().map(|(group, key, value)| (format!("{group}/{key}"), json!(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sparsity_is_that_of_saelens() {
        assert_eq!(log_sparsity(&[0, 1000, 10], 1000), [-10.0, 0.0, -2.0]);
        let line = of_window(&[0, 1000, 10], 1000);
        assert_eq!(line["metrics/mean_log10_feature_sparsity"], json!(-4.0));
        assert_eq!((&line["sparsity/below_1e-5"], &line["sparsity/below_1e-6"]), (&json!(1), &json!(1)));
    }
}
