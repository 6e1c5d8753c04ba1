//! What an evaluation found: SAELens' groups and keys. A mean of nothing is NaN, in JSON null.

use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// All metrics of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// KL divergence of the next-token distributions from the clean model's, in nats.
    pub model_behavior_preservation: ModelBehaviorPreservation,
    /// Cross-entropy of the next token, in nats.
    pub model_performance_preservation: ModelPerformancePreservation,
    /// How close reconstructions are to the activations.
    pub reconstruction_quality: ReconstructionQuality,
    /// How much smaller reconstructions are.
    pub shrinkage: Shrinkage,
    /// How few features are active.
    pub sparsity: Sparsity,
    /// How much was evaluated.
    pub token_stats: TokenStats,
    /// Metrics of every feature, where wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_metrics: Option<FeatureMetrics>,
}

/// KL(clean || changed) over the vocabulary, mean over positions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelBehaviorPreservation {
    /// `(ablation - sae) / ablation`: 1 is no change, 0 as bad as ablating.
    pub kl_div_score: f64,
    /// With zeros at the hook.
    pub kl_div_with_ablation: f64,
    /// With the reconstruction at the hook.
    pub kl_div_with_sae: f64,
}

/// Mean over positions of the next token's cross-entropy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelPerformancePreservation {
    /// `(ablation - sae) / (ablation - clean)`: 1 is no loss, 0 as bad as ablating.
    pub ce_loss_score: f64,
    /// With zeros at the hook.
    pub ce_loss_with_ablation: f64,
    /// With the reconstruction at the hook.
    pub ce_loss_with_sae: f64,
    /// Of the model itself.
    pub ce_loss_without_sae: f64,
}

/// Activations `x` and reconstructions `x_hat`, means over tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReconstructionQuality {
    /// `1 - E|x - x_hat|² / (E|x|² - |E x|²)`.
    pub explained_variance: f64,
    /// Mean of `1 - |x - x_hat|² / |x - mean|²`, the mean taken over each batch.
    pub explained_variance_legacy: f64,
    /// Mean of `|x - x_hat|²`, summed over d_in.
    pub mse: f64,
    /// Mean of the cosine of `x` and `x_hat`.
    pub cossim: f64,
}

/// Norms of activations `x` and reconstructions `x_hat`, means over tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shrinkage {
    /// Mean of `|x|`.
    pub l2_norm_in: f64,
    /// Mean of `|x_hat|`.
    pub l2_norm_out: f64,
    /// Mean of `|x_hat| / |x|`, a norm below 1e-4 taken as 1.
    pub l2_ratio: f64,
    /// `E|x_hat|² / E<x, x_hat>` of a batch, mean over batches (arXiv 2404.16014, equation 10).
    pub relative_reconstruction_bias: f64,
}

/// Features, means over tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sparsity {
    /// Mean number of active features.
    pub l0: f64,
    /// Mean sum of their absolute values.
    pub l1: f64,
    /// Features that were active on no token of the evaluation (not a metric of SAELens).
    pub dead_features: usize,
}

/// Tokens of all rows, excluded ones too.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenStats {
    /// For cross-entropy and KL divergence.
    pub total_tokens_eval_reconstruction: usize,
    /// For everything else.
    pub total_tokens_eval_sparsity_variance: usize,
}

/// One value for every feature `[d_sae]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureMetrics {
    /// Part of the tokens on which it is active.
    pub feature_density: Vec<f64>,
    /// Tokens on which it is active for every row in which it is; NaN if in none.
    pub consistent_activation_heuristic: Vec<f64>,
    /// Norm of its encoder vector.
    pub encoder_norm: Vec<f64>,
    /// Cosine of its encoder and decoder vectors.
    pub encoder_decoder_cosine_sim: Vec<f64>,
    /// Its encoder bias; none of gated SAEs, which have two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub encoder_bias: Vec<f64>,
}

impl Report {
    /// Group, key and value of every metric that is one number, in SAELens' order.
    pub fn scalars(&self) -> Vec<(&'static str, String, f64)> {
        let groups = [
            ("model_behavior_preservation", serde_json::to_value(&self.model_behavior_preservation)),
            ("model_performance_preservation", serde_json::to_value(&self.model_performance_preservation)),
            ("reconstruction_quality", serde_json::to_value(&self.reconstruction_quality)),
            ("shrinkage", serde_json::to_value(&self.shrinkage)),
            ("sparsity", serde_json::to_value(&self.sparsity)),
            ("token_stats", serde_json::to_value(&self.token_stats)),
        ];
        let mut scalars = Vec::new();
        for (group, metrics) in &groups {
            for (key, value) in metrics.iter().filter_map(Value::as_object).flatten() {
                scalars.push((*group, key.clone(), value.as_f64().unwrap_or(f64::NAN)));
            }
        }
        scalars
    }
}

/// A table for people: one group after another.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut current = "";
        for (group, key, value) in self.scalars() {
            if group != current {
                writeln!(f, "{}", group.replace('_', " "))?;
                current = group;
            }
            let decimals = if value.fract() == 0.0 { 0 } else { 6 };
            writeln!(f, "  {key:36}{value:>14.decimals$}")?;
        }
        Ok(())
    }
}
