//! Metrics of activations, reconstructions and features over many batches, without the model.
//! Source: SAELens' `get_sparsity_and_variance_metrics`.

use super::downstream::Encoded;
use super::report::*;
use super::weights::weight_metrics;
use super::MeanLosses;
use crate::sae::features::SparseFeatures;
use crate::sae::weights::Weights;

/// What has been seen so far.
pub(super) struct Activations {
    d_in: usize,
    /// Tokens of all rows, excluded ones too.
    total_tokens: usize,
    sums: Sums,
    /// Sum of activations `[d_in]`.
    sum_x: Vec<f64>,
    firing: Firing,
}

/// Sums over the tokens that are not excluded.
#[derive(Default)]
struct Sums {
    tokens: usize,
    l2_norm_in: f64,
    l2_norm_out: f64,
    l2_ratio: f64,
    squared_norm: f64,
    squared_error: f64,
    explained_variance_legacy: f64,
    cossim: f64,
    l0: f64,
    l1: f64,
    /// Over batches.
    relative_reconstruction_bias: f64,
    batches: usize,
}

/// When each feature was active.
struct Firing {
    /// Tokens on which it was `[d_sae]`.
    tokens: Vec<u64>,
    /// Rows in which it was `[d_sae]`.
    rows: Vec<u64>,
    /// The latest row in which it was, counted from 1 `[d_sae]`.
    latest_row: Vec<usize>,
    /// The row that is being looked at, counted from 1.
    row: usize,
}

impl Activations {
    /// Of activations and reconstructions of this width.
    pub fn new(d_in: usize, d_sae: usize) -> Self {
        let firing = Firing { tokens: vec![0; d_sae], rows: vec![0; d_sae], latest_row: vec![0; d_sae], row: 0 };
        Activations { d_in, total_tokens: 0, sums: Sums::default(), sum_x: vec![0.0; d_in], firing }
    }

    /// Tokens that count.
    pub fn tokens(&self) -> usize {
        self.sums.tokens
    }

    /// Adds a batch of rows of `context` tokens.
    pub fn add(&mut self, batch: &Encoded, excluded: &[bool], context: usize) {
        self.total_tokens += excluded.len();
        self.add_features(&batch.features, excluded, context);
        let rows = batch.x.chunks_exact(self.d_in).zip(batch.x_hat.chunks_exact(self.d_in));
        let kept: Vec<_> = rows.zip(excluded).filter_map(|(row, &excluded)| (!excluded).then_some(row)).collect();
        if kept.is_empty() {
            return;
        }
        let mut sum_x = vec![0.0; self.d_in];
        for (x, _) in &kept {
            sum_x.iter_mut().zip(*x).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let mean: Vec<f64> = sum_x.iter().map(|sum| sum / kept.len() as f64).collect();
        let (mut out_out, mut in_out) = (0.0, 0.0);
        for (x, x_hat) in &kept {
            let token = Token::of(x, x_hat, &mean);
            self.sums.add(&token);
            out_out += token.out_out;
            in_out += token.in_out;
        }
        self.sums.relative_reconstruction_bias += out_out / in_out;
        self.sums.batches += 1;
        self.sum_x.iter_mut().zip(&sum_x).for_each(|(total, sum)| *total += sum);
    }

    fn add_features(&mut self, features: &SparseFeatures, excluded: &[bool], context: usize) {
        for (position, &excluded) in excluded.iter().enumerate() {
            if position % context == 0 {
                self.firing.row += 1;
            }
            if !excluded {
                let (latents, values) = features.row(position);
                self.sums.l0 += latents.len() as f64;
                self.sums.l1 += values.iter().map(|&value| f64::from(value.abs())).sum::<f64>();
                latents.iter().for_each(|&latent| self.firing.add(latent as usize));
            }
        }
    }

    /// All metrics of single features.
    pub fn feature_metrics(&self, weights: &Weights) -> FeatureMetrics {
        let Firing { tokens, rows, .. } = &self.firing;
        FeatureMetrics {
            feature_density: tokens.iter().map(|&fired| fired as f64 / self.sums.tokens as f64).collect(),
            consistent_activation_heuristic: tokens.iter().zip(rows).map(|(&t, &r)| t as f64 / r as f64).collect(),
            ..weight_metrics(weights)
        }
    }

    /// The whole report.
    pub fn report(self, losses: &MeanLosses, feature_metrics: Option<FeatureMetrics>) -> Report {
        let sums = &self.sums;
        let mean = |sum: f64| sum / sums.tokens as f64;
        let variance = mean(sums.squared_norm) - self.sum_x.iter().map(|&sum| mean(sum).powi(2)).sum::<f64>();
        Report {
            model_behavior_preservation: losses.behavior(),
            model_performance_preservation: losses.performance(),
            reconstruction_quality: ReconstructionQuality {
                explained_variance: explained_variance(mean(sums.squared_error), variance),
                explained_variance_legacy: mean(sums.explained_variance_legacy),
                mse: mean(sums.squared_error),
                cossim: mean(sums.cossim),
            },
            shrinkage: Shrinkage {
                l2_norm_in: mean(sums.l2_norm_in),
                l2_norm_out: mean(sums.l2_norm_out),
                l2_ratio: mean(sums.l2_ratio),
                relative_reconstruction_bias: sums.relative_reconstruction_bias / sums.batches as f64,
            },
            sparsity: Sparsity {
                l0: mean(sums.l0),
                l1: mean(sums.l1),
                dead_features: self.firing.tokens.iter().filter(|&&fired| fired == 0).count(),
            },
            token_stats: TokenStats {
                total_tokens_eval_reconstruction: losses.tokens,
                total_tokens_eval_sparsity_variance: self.total_tokens,
            },
            feature_metrics,
        }
    }
}

impl Sums {
    fn add(&mut self, token: &Token) {
        let (norm_in, norm_out) = (token.in_in.sqrt(), token.out_out.sqrt());
        self.tokens += 1;
        self.l2_norm_in += norm_in;
        self.l2_norm_out += norm_out;
        self.l2_ratio += norm_out / if norm_in < 1e-4 { 1.0 } else { norm_in };
        self.squared_norm += token.in_in;
        self.squared_error += token.error;
        self.explained_variance_legacy += 1.0 - token.error / token.variance;
        self.cossim += token.in_out / (norm_in * norm_out);
    }
}

impl Firing {
    fn add(&mut self, latent: usize) {
        self.tokens[latent] += 1;
        if self.latest_row[latent] != self.row {
            self.latest_row[latent] = self.row;
            self.rows[latent] += 1;
        }
    }
}

/// `1 - mse / variance`, with SAELens' answer where there is no variance.
fn explained_variance(mse: f64, variance: f64) -> f64 {
    if variance < 1e-10 {
        return if mse < 1e-10 { 1.0 } else { 0.0 };
    }
    1.0 - mse / variance
}

/// Sums over one token's activation.
struct Token {
    in_in: f64,
    out_out: f64,
    in_out: f64,
    /// `|x - x_hat|²`.
    error: f64,
    /// `|x - mean|²`.
    variance: f64,
}

impl Token {
    fn of(x: &[f32], x_hat: &[f32], mean: &[f64]) -> Token {
        let mut token = Token { in_in: 0.0, out_out: 0.0, in_out: 0.0, error: 0.0, variance: 0.0 };
        for ((&x, &x_hat), mean) in x.iter().zip(x_hat).zip(mean) {
            let (x, x_hat) = (f64::from(x), f64::from(x_hat));
            token.in_in += x * x;
            token.out_out += x_hat * x_hat;
            token.in_out += x * x_hat;
            token.error += (x - x_hat) * (x - x_hat);
            token.variance += (x - mean) * (x - mean);
        }
        token
    }
}
