//! `unembed_cross_entropy` and `unembed_kl_divergence`: logits are made in tiles of tokens that stay
//! in the cache; what is kept per row is a running maximum and sums in f64, for each part of the vocabulary.

use super::functions::{maximum, sum_of_exp, sum_of_exp_times_difference};
use super::gemm::{product_here, Operand};
use super::simd;
use super::*;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile: enough to pay for packing the unembedding.
const ROWS: usize = 256;
/// Tokens of a tile: 256 x 512 logits are half a MiB.
const TOKENS: usize = 512;
/// Tokens of a part of the vocabulary, which is a task: fixed, so that sums do not depend on the number of threads.
const PART: usize = 16 * TOKENS;

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

    /// Takes in those of another part; returns the factors by which sums relative to both maxima shrink.
    fn merge(&mut self, other: Self) -> [f64; 2] {
        let largest = self.largest.max(other.largest);
        let factors = [*self, other].map(|part| match part.sum {
            0.0 => 0.0,
            _ => f64::from(part.largest - largest).exp(),
        });
        self.sum = self.sum * factors[0] + other.sum * factors[1];
        self.largest = largest;
        factors
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
    /// Logits of tokens for all rows of `x`, into `tile [rows, tokens]`.
    fn logits(&self, x: &[f32], tokens: &Range<usize>, tile: &mut [f32]) {
        let weights = Operand::transposed(&self.w_u[tokens.start * self.d_model..], self.d_model);
        let (rows, tokens, first) = (x.len() / self.d_model, tokens.len(), tokens.start);
        product_here([rows, tokens, self.d_model], tile, Operand::rows(x, self.d_model), weights);
        if let Some(b_u) = self.b_u {
            for logits in tile[..rows * tokens].chunks_exact_mut(tokens) {
                simd::add(logits, &b_u[first..]);
            }
        }
    }

    /// Parts of the vocabulary.
    fn parts(&self) -> impl IndexedParallelIterator<Item = Range<usize>> {
        pieces(0..self.d_vocab, PART).collect::<Vec<_>>().into_par_iter()
    }
}

/// What is known of a row's cross-entropy.
#[derive(Clone, Copy)]
struct RowLoss {
    logits: LogSumExp,
    target_logit: f32,
}

impl Unembedding<'_> {
    /// Of rows of `x`, from a part of the vocabulary.
    fn losses(&self, x: &[f32], targets: &[u32], part: Range<usize>) -> Vec<RowLoss> {
        let mut losses = vec![RowLoss { logits: LogSumExp::EMPTY, target_logit: 0.0 }; targets.len()];
        let mut tile = vec![0.0; targets.len() * TOKENS.min(part.len())];
        for tokens in pieces(part, TOKENS) {
            self.logits(x, &tokens, &mut tile);
            for ((loss, &target), logits) in losses.iter_mut().zip(targets).zip(tile.chunks_exact(tokens.len())) {
                loss.logits.add(logits);
                if let Some(&logit) = (target as usize).checked_sub(tokens.start).and_then(|i| logits.get(i)) {
                    loss.target_logit = logit;
                }
            }
        }
        losses
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
        let of_parts: Vec<_> = unembedding.parts().map(|part| unembedding.losses(x, targets, part)).collect();
        for (row, loss) in loss.iter_mut().enumerate() {
            let (mut logits, mut target_logit) = (LogSumExp::EMPTY, 0.0);
            for part in &of_parts {
                logits.merge(part[row].logits);
                target_logit += part[row].target_logit;
            }
            *loss = (logits.value() - f64::from(target_logit)) as f32;
        }
    });
    Ok(())
}

/// What is known of a row's divergence.
#[derive(Clone, Copy)]
struct RowDivergence {
    x: LogSumExp,
    y: LogSumExp,
    /// Σ e^(x - largest x) (x - y).
    difference: f64,
}

impl RowDivergence {
    const EMPTY: Self = RowDivergence { x: LogSumExp::EMPTY, y: LogSumExp::EMPTY, difference: 0.0 };

    fn add(&mut self, x: &[f32], y: &[f32]) {
        self.y.add(y);
        let factor = self.x.add(x);
        let added = sum_of_exp_times_difference(x, y, self.x.largest);
        self.difference = self.difference * factor + f64::from(added);
    }

    fn merge(&mut self, other: Self) {
        self.y.merge(other.y);
        let factors = self.x.merge(other.x);
        self.difference = self.difference * factors[0] + other.difference * factors[1];
    }

    /// With p = softmax(x), q = softmax(y): KL = Σ p (x - y) - log Σ e^x + log Σ e^y.
    fn value(&self) -> f32 {
        (self.difference / self.x.sum - self.x.value() + self.y.value()) as f32
    }
}

impl Unembedding<'_> {
    /// Of rows of `x` and `y`, from a part of the vocabulary.
    fn divergences(&self, [x, y]: [&[f32]; 2], part: Range<usize>) -> Vec<RowDivergence> {
        let rows = x.len() / self.d_model;
        let mut divergences = vec![RowDivergence::EMPTY; rows];
        let [mut x_tile, mut y_tile] = [(); 2].map(|()| vec![0.0; rows * TOKENS.min(part.len())]);
        for tokens in pieces(part, TOKENS) {
            self.logits(x, &tokens, &mut x_tile);
            self.logits(y, &tokens, &mut y_tile);
            let logits = x_tile.chunks_exact(tokens.len()).zip(y_tile.chunks_exact(tokens.len()));
            divergences.iter_mut().zip(logits).for_each(|(divergence, (x, y))| divergence.add(x, y));
        }
        divergences
    }
}

pub(super) fn kl_divergence(op: UnembedKlDivergence<'_, Cpu>) -> Result<()> {
    let UnembedKlDivergence { x, y, w_u, b_u, rows, d_model, d_vocab, kl } = op;
    let unembedding = Unembedding { w_u, b_u, d_model, d_vocab };
    let inputs = x[..rows * d_model].par_chunks(ROWS * d_model).zip(y[..rows * d_model].par_chunks(ROWS * d_model));
    inputs.zip(kl[..rows].par_chunks_mut(ROWS)).for_each(|((x, y), kl)| {
        let of_parts: Vec<_> = unembedding.parts().map(|part| unembedding.divergences([x, y], part)).collect();
        for (row, kl) in kl.iter_mut().enumerate() {
            let mut divergence = RowDivergence::EMPTY;
            of_parts.iter().for_each(|part| divergence.merge(part[row]));
            *kl = divergence.value();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    /// Log-probabilities of rows in f64.
    fn log_softmax(x: &[f32], w_u: &[f32], d_model: usize) -> Vec<Vec<f64>> {
        let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>();
        let of_row = |x: &[f32]| {
            let logits: Vec<f64> = w_u.chunks_exact(d_model).map(|w| dot(x, w)).collect();
            let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            logits.into_iter().map(|logit| logit - sum).collect()
        };
        x.chunks_exact(d_model).map(of_row).collect()
    }

    #[test]
    fn parts_of_a_vocabulary_come_to_the_whole() {
        let (rows, d_model, d_vocab) = (3, 4, 2 * PART + 700);
        let mut random = Random::new(5, Stream::Weights, 0);
        let mut numbers = |n: usize, size: f32| (0..n).map(|_| (random.uniform() - 0.5) * size).collect::<Vec<f32>>();
        let (x, y, w_u) = (numbers(rows * d_model, 4.0), numbers(rows * d_model, 4.0), numbers(d_vocab * d_model, 4.0));
        let [of_x, of_y] = [&x, &y].map(|x| log_softmax(x, &w_u, d_model));
        // In the first part, the second, and the last tile of the last one.
        let targets = vec![7, PART as u32, d_vocab as u32 - 1];
        let (mut loss, mut kl) = (vec![0.0; rows], vec![0.0; rows]);
        let (w_u, b_u) = (&w_u, None);
        Cpu.unembed_cross_entropy(UnembedCrossEntropy {
            x: &x,
            w_u,
            b_u,
            targets: &targets,
            rows,
            d_model,
            d_vocab,
            loss: &mut loss,
        })
        .unwrap();
        Cpu.unembed_kl_divergence(UnembedKlDivergence { x: &x, y: &y, w_u, b_u, rows, d_model, d_vocab, kl: &mut kl })
            .unwrap();
        for row in 0..rows {
            let expected = -of_x[row][targets[row] as usize];
            // Losses are about 10, whose last place is 1e-6.
            assert!((f64::from(loss[row]) - expected).abs() < 4e-6, "loss {row}: {} for {expected}", loss[row]);
            let expected: f64 = of_x[row].iter().zip(&of_y[row]).map(|(x, y)| x.exp() * (x - y)).sum();
            assert!((f64::from(kl[row]) - expected).abs() < 4e-6, "divergence {row}: {} for {expected}", kl[row]);
        }
    }
}
