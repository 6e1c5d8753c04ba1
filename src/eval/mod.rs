//! How good an SAE is: every metric of SAELens' `evals.py`, by its keys, groups and definitions.
//! Means over tokens are taken in f64. Tokens that are excluded count in no mean, and keep their
//! own activation where the SAE is spliced into the model. SAELens has no metrics of transcoders: here they are by
//! the same definitions those of the output, which is what `x` and the hook then stand for.

mod activations;
mod downstream;
mod hooks;
mod report;
pub mod sae_bench;
mod weights;

pub use downstream::{Downstream, TokenLosses};
pub use hooks::{hooks_of, Hooks};
pub use report::*;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::lm::LanguageModel;
use crate::sae::inference::Sae;
use activations::Activations;

/// What is evaluated (SAELens' `EvalConfig`; everything is computed).
#[derive(Clone, Debug, PartialEq)]
pub struct EvalConfig {
    /// Rows in a batch.
    pub batch_size_prompts: usize,
    /// Batches for which the model is run with the SAE spliced in.
    pub n_eval_reconstruction_batches: usize,
    /// Batches, after those, for the metrics of activations and features.
    pub n_eval_sparsity_variance_batches: usize,
    /// Token ids that are left out.
    pub exclude_tokens: Vec<u32>,
    /// Whether the metrics of single features are wanted too.
    pub featurewise: bool,
}

/// Evaluates `sae` where its metadata says that it belongs, on rows of tokens of one length:
/// `n_eval_reconstruction_batches` batches first, then `n_eval_sparsity_variance_batches`. If the
/// rows end before, what there is counts. Errors: the SAE names no hook or does not fit there; no
/// rows for one of the two parts; what [`LanguageModel::forward`] refuses.
pub fn evaluate<B: Backend>(
    model: &LanguageModel<B>,
    sae: &Sae<B>,
    rows: &mut dyn Iterator<Item = Result<Vec<u32>>>,
    config: &EvalConfig,
) -> Result<Report> {
    for (key, count) in [
        ("batch_size_prompts", config.batch_size_prompts),
        ("n_eval_reconstruction_batches", config.n_eval_reconstruction_batches),
        ("n_eval_sparsity_variance_batches", config.n_eval_sparsity_variance_batches),
    ] {
        if count == 0 {
            return Err(Error::config(key, "found 0, expected at least 1"));
        }
    }
    let mut batches = Batches { rows, size: config.batch_size_prompts, context: 0 };
    let first = batches.next()?.ok_or_else(|| no_rows("any metric"))?;
    let mut downstream = Downstream::new(model, sae, config.batch_size_prompts, batches.context)?;

    let mut losses = MeanLosses::default();
    let mut batch = Some(first);
    for n in 1..=config.n_eval_reconstruction_batches {
        let Some(tokens) = batch else { break };
        let excluded = excluded(&tokens, &config.exclude_tokens);
        losses.add(&downstream.losses(&tokens, &excluded)?, &excluded, batches.context);
        batch = if n < config.n_eval_reconstruction_batches { batches.next()? } else { None };
    }

    let mut activations = Activations::new(sae.config().d_out(), sae.config().d_sae);
    for _ in 0..config.n_eval_sparsity_variance_batches {
        let Some(tokens) = batches.next()? else { break };
        let seen = downstream.encode(&tokens)?;
        activations.add(&seen, &excluded(&tokens, &config.exclude_tokens), batches.context);
    }
    if activations.tokens() == 0 {
        return Err(no_rows("the metrics of activations and features (n_eval_sparsity_variance_batches)"));
    }
    let feature_metrics = match config.featurewise {
        true => Some(activations.feature_metrics(&sae.weights()?)),
        false => None,
    };
    Ok(activations.report(&losses, feature_metrics))
}

fn no_rows(part: &str) -> Error {
    Error::config("text", format!("it ended before the first row for {part}; give more text or fewer batches"))
}

fn excluded(tokens: &[u32], exclude: &[u32]) -> Vec<bool> {
    tokens.iter().map(|token| exclude.contains(token)).collect()
}

/// Rows, some at a time.
struct Batches<'a> {
    rows: &'a mut dyn Iterator<Item = Result<Vec<u32>>>,
    size: usize,
    /// Tokens in a row; 0 before the first.
    context: usize,
}

impl Batches<'_> {
    /// The tokens of up to `size` rows; none at the end of the data.
    fn next(&mut self) -> Result<Option<Vec<u32>>> {
        let mut tokens = Vec::new();
        for row in self.rows.take(self.size) {
            let row = row?;
            if self.context == 0 {
                self.context = row.len();
            }
            if row.len() != self.context {
                let what = format!("a row has {} tokens, the rows before have {}", row.len(), self.context);
                return Err(Error::Shape { operation: "eval", what });
            }
            tokens.extend_from_slice(&row);
        }
        Ok((!tokens.is_empty()).then_some(tokens))
    }
}

/// Sums over tokens of the losses of [`TokenLosses`].
#[derive(Default)]
struct MeanLosses {
    tokens: usize,
    ce_without_sae: Mean,
    ce_with_sae: Mean,
    ce_with_ablation: Mean,
    kl_with_sae: Mean,
    kl_with_ablation: Mean,
}

impl MeanLosses {
    fn add(&mut self, losses: &TokenLosses, excluded: &[bool], context: usize) {
        self.tokens += excluded.len();
        // The last position of a row has no next token, and so no loss.
        let with_next: Vec<bool> =
            excluded.chunks_exact(context).flat_map(|row| &row[..context - 1]).copied().collect();
        self.ce_without_sae.add(&losses.ce_loss_without_sae, &with_next);
        self.ce_with_sae.add(&losses.ce_loss_with_sae, &with_next);
        self.ce_with_ablation.add(&losses.ce_loss_with_ablation, &with_next);
        self.kl_with_sae.add(&losses.kl_div_with_sae, excluded);
        self.kl_with_ablation.add(&losses.kl_div_with_ablation, excluded);
    }

    fn performance(&self) -> ModelPerformancePreservation {
        let (clean, sae, ablation) = (self.ce_without_sae.get(), self.ce_with_sae.get(), self.ce_with_ablation.get());
        ModelPerformancePreservation {
            ce_loss_score: (ablation - sae) / (ablation - clean),
            ce_loss_with_ablation: ablation,
            ce_loss_with_sae: sae,
            ce_loss_without_sae: clean,
        }
    }

    fn behavior(&self) -> ModelBehaviorPreservation {
        let (sae, ablation) = (self.kl_with_sae.get(), self.kl_with_ablation.get());
        ModelBehaviorPreservation {
            kl_div_score: (ablation - sae) / ablation,
            kl_div_with_ablation: ablation,
            kl_div_with_sae: sae,
        }
    }
}

/// A mean over the values that are not excluded.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, values: &[f32], excluded: &[bool]) {
        for (&value, _) in values.iter().zip(excluded).filter(|(_, &excluded)| !excluded) {
            self.sum += f64::from(value);
            self.count += 1;
        }
    }

    fn get(&self) -> f64 {
        self.sum / self.count as f64
    }
}
