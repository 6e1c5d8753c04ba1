//! From a step's report to a line of metrics.jsonl, by SAELens' wandb keys
//! (`sae_trainer.py: _build_train_step_log_dict`, `_build_sparsity_log_dict`).

use super::log::Metrics;
use crate::eval::Report;
use crate::formats::saelens::log_sparsity;
use crate::sae::report::StepReport;
use crate::sae::step::StepSettings;
use serde_json::{json, Value};

/// What the latents' steps since they fired come to, after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Firing {
    /// Mean of the steps.
    pub mean_passes_since_fired: f64,
    /// Latents with more than `dead_feature_window` of them.
    pub dead_features: u64,
}

impl Firing {
    /// Of the steps since each latent fired.
    pub fn of(since_fired: &[u32], dead_feature_window: usize) -> Self {
        let sum: f64 = since_fired.iter().map(|&steps| f64::from(steps)).sum();
        Firing {
            mean_passes_since_fired: sum / since_fired.len() as f64,
            dead_features: since_fired.iter().filter(|&&steps| steps as usize > dead_feature_window).count() as u64,
        }
    }
}

/// What was measured in one step; `coefficient` is SAELens' name of the one that is warmed up.
pub fn of_step(
    n_training_samples: u64,
    coefficient: Option<&str>,
    report: &StepReport,
    settings: &StepSettings,
    firing: Firing,
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
    for (name, number) in &report.metrics {
        put(format!("metrics/{name}"), json!(number));
    }
    put("sparsity/mean_passes_since_fired".into(), json!(firing.mean_passes_since_fired));
    put(DEAD_FEATURES.into(), firing.dead_features.into());
    put("details/current_learning_rate".into(), json!(settings.lr));
    put("details/n_training_samples".into(), n_training_samples.into());
    if let Some(key) = coefficient {
        put(format!("details/{key}"), json!(settings.coefficient));
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

/// The step's latents that are dead; an evaluation has a number of its own by this name, of those
/// that were silent on its text, which SAELens does not log.
const DEAD_FEATURES: &str = "sparsity/dead_features";

/// An evaluation's numbers, `group/key`, as SAELens logs them.
pub fn of_evaluation(report: &Report) -> impl Iterator<Item = (String, Value)> {
    let named = |(group, key, value)| (format!("{group}/{key}"), json!(value));
    report.scalars().into_iter().map(named).filter(|(name, _)| name != DEAD_FEATURES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sae::report::ExplainedVariance;

    fn line_of(coefficient: Option<&str>, term: &'static str) -> Metrics {
        let report = StepReport {
            losses: vec![("mse_loss".into(), 2.0), (term.into(), 0.5)],
            l0: 31.5,
            n_dead: 7,
            grad_norm: 4.0,
            metrics: vec![("topk_threshold", 0.75)],
            explained_variance: Some(ExplainedVariance { pooled: 0.9, legacy_mean: 0.8, legacy_std: 0.1 }),
        };
        let settings = StepSettings { lr: 0.001, coefficient: 0.25 };
        // Dead is what has not fired for more steps than the window: 11 alone.
        of_step(4096, coefficient, &report, &settings, Firing::of(&[0, 10, 11, 3], 10))
    }

    /// The keys of SAELens' `build_train_step_log_dict`, and the gradient norm.
    #[test]
    fn a_step_is_logged_by_saelens_keys() {
        let expected = json!({
            "losses/overall_loss": 2.5,
            "losses/mse_loss": 2.0,
            "losses/auxiliary_reconstruction_loss": 0.5,
            "metrics/explained_variance": 0.9,
            "metrics/explained_variance_legacy": 0.8,
            "metrics/explained_variance_legacy_std": 0.1,
            "metrics/l0": 31.5,
            "metrics/grad_norm": 4.0,
            "metrics/topk_threshold": 0.75,
            "sparsity/mean_passes_since_fired": 6.0,
            "sparsity/dead_features": 1,
            "details/current_learning_rate": 0.001,
            "details/n_training_samples": 4096,
        });
        assert_eq!(json!(line_of(None, "auxiliary_reconstruction_loss")), expected);
        let standard = line_of(Some("l1_coefficient"), "l1_loss");
        assert_eq!(standard["losses/l1_loss"], json!(0.5));
        assert_eq!(standard["details/l1_coefficient"], json!(0.25));
        assert_eq!(standard.len(), 14);
    }

    #[test]
    fn log_sparsity_is_that_of_saelens() {
        assert_eq!(log_sparsity(&[0, 1000, 10], 1000), [-10.0, 0.0, -2.0]);
        let line = of_window(&[0, 1000, 10], 1000);
        assert_eq!(line["metrics/mean_log10_feature_sparsity"], json!(-4.0));
        assert_eq!((&line["sparsity/below_1e-5"], &line["sparsity/below_1e-6"]), (&json!(1), &json!(1)));
    }
}
