//! `unembed_cross_entropy` and `unembed_kl_divergence`: logits are made in tiles of tokens that stay
//! in the cache; what is kept per row is a running maximum and sums in f64.

use super::functions::{maximum, sum_of_exp, sum_of_exp_times_difference};
use super::gemm::{product_here, Operand};
use super::simd;
use super::*;
use rayon::prelude::*;

/// Rows of a tile: enough to pay for packing the unembedding.
const ROWS: usize = 256;
/// Tokens of a tile: 256 x 512 logits are half a MiB.
const TOKENS: usize = 512;

/// log Σ e^x of values that arrive in pieces.
#[derive(Clone, Copy)]
struct LogSumExp {
    largest: f32,
    sum: f64,
}

impl LogSumExp {
    const EMPTY: Self = LogSumExp { largest: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes in more values; returns the factor by which sums relative to the old maximum shrink.
    fn add(&mut self, values: &[f32]) -> f64 {
        let largest = maximum(values).max(self.largest);
        let factor = if self.sum == 0.0 { 0.0 } else { f64::from(self.largest - largest).exp() };
        self.sum = self.sum * factor + f64::from(sum_of_exp(values, largest));
        self.largest = largest;
        factor
    }

    fn value(&self) -> f64 {
        f64::from(self.largest) + self.sum.ln()
    }
}

/// The unembedding, and rows of final LayerNorm outputs that it is applied to.
struct Unembedding<'a> {
    w_u: &'a [f32],
    b_u: Option<&'a Vec<f32>>,
    d_model: usize,
    d_vocab: usize,
}

impl Unembedding<'_> {
    /// Logits of tokens `first..first + tokens` for all rows of `x`, into `tile [rows, tokens]`.
    fn logits(&self, x: &[f32], first: usize, tokens: usize, tile: &mut [f32]) {
        let weights = Operand::transposed(&self.w_u[first * self.d_model..], self.d_model);
        let rows = x.len() / self.d_model;
        product_here([rows, tokens, self.d_model], tile, Operand::rows(x, self.d_model), weights);
        if let Some(b_u) = self.b_u {
            for logits in tile[..rows * tokens].chunks_exact_mut(tokens) {
                simd::add(logits, &b_u[first..]);
            }
        }
    }

    /// First token and number of tokens of every tile.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        let d_vocab = self.d_vocab;
        (0..d_vocab).step_by(TOKENS).map(move |first| (first, TOKENS.min(d_vocab - first)))
    }
}

pub(super) fn cross_entropy(op: UnembedCrossEntropy<'_, Cpu>) -> Result<()> {
    let UnembedCrossEntropy { x, w_u, b_u, targets, rows, d_model, d_vocab, loss } = op;
    if let Some(target) = targets[..rows].iter().find(|&&target| target as usize >= d_vocab) {
        let what = format!("token id {target} is outside the vocabulary of {d_vocab}");
        return Err(Error::Shape { operation: "unembed_cross_entropy", what });
    }
    let unembedding = Unembedding { w_u, b_u, d_model, d_vocab };
    let x = x[..rows * d_model].par_chunks(ROWS * d_model);
    let tasks = x.zip(targets[..rows].par_chunks(ROWS)).zip(loss[..rows].par_chunks_mut(ROWS));
    tasks.for_each(|((x, targets), loss)| {
        let mut tile = vec![0.0; loss.len() * TOKENS.min(d_vocab)];
        let mut sums = [LogSumExp::EMPTY; ROWS];
        let mut target_logits = [0.0; ROWS];
        for (first, tokens) in unembedding.tiles() {
            unembedding.logits(x, first, tokens, &mut tile);
            for (row, logits) in tile.chunks_exact(tokens).take(loss.len()).enumerate() {
                sums[row].add(logits);
                if let Some(&logit) = (targets[row] as usize).checked_sub(first).and_then(|i| logits.get(i)) {
                    target_logits[row] = logit;
                }
            }
        }
        for (row, loss) in loss.iter_mut().enumerate() {
            *loss = (sums[row].value() - f64::from(target_logits[row])) as f32;
        }
    });
    Ok(())
}

/// With p = softmax(x), q = softmax(y): KL = Σ p (x - y) - log Σ e^x + log Σ e^y.
pub(super) fn kl_divergence(op: UnembedKlDivergence<'_, Cpu>) -> Result<()> {
    let UnembedKlDivergence { x, y, w_u, b_u, rows, d_model, d_vocab, kl } = op;
    let unembedding = Unembedding { w_u, b_u, d_model, d_vocab };
    let inputs = x[..rows * d_model].par_chunks(ROWS * d_model).zip(y[..rows * d_model].par_chunks(ROWS * d_model));
    inputs.zip(kl[..rows].par_chunks_mut(ROWS)).for_each(|((x, y), kl)| {
        let size = kl.len() * TOKENS.min(d_vocab);
        let (mut x_tile, mut y_tile) = (vec![0.0; size], vec![0.0; size]);
        let mut x_sums = [LogSumExp::EMPTY; ROWS];
        let mut y_sums = [LogSumExp::EMPTY; ROWS];
        // Σ e^(x - largest x so far) (x - y).
        let mut differences = [0.0f64; ROWS];
        for (first, tokens) in unembedding.tiles() {
            unembedding.logits(x, first, tokens, &mut x_tile);
            unembedding.logits(y, first, tokens, &mut y_tile);
            let rows = x_tile.chunks_exact(tokens).zip(y_tile.chunks_exact(tokens)).take(kl.len());
            for (row, (x, y)) in rows.enumerate() {
                y_sums[row].add(y);
                let factor = x_sums[row].add(x);
                let added = sum_of_exp_times_difference(x, y, x_sums[row].largest);
                differences[row] = differences[row] * factor + f64::from(added);
            }
        }
        for (row, kl) in kl.iter_mut().enumerate() {
            let mean_difference = differences[row] / x_sums[row].sum;
            *kl = (mean_difference - x_sums[row].value() + y_sums[row].value()) as f32;
        }
    });
    Ok(())
}
