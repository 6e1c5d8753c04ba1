//! `encode_topk`, `encode_relu`, `encode_relu_dense`, `encode_dead_topk`: estimates of the dense product
//! `h = input · w_encᵀ + b_enc` say which pre-activations may be kept, those are computed, and what the
//! activation function keeps of them is listed. Nothing dense is written to memory.

use super::estimate::{may_exceed, ones, Estimates, Estimator, SLACK};
use super::gemm::{product_with, Operand};
use super::matrix::F32Encoder;
use super::simd::{prefetch, vectorised};
use super::*;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// A latent that may be selected. Once `h` is known, both bounds are its key.
struct Candidate {
    latent: usize,
    least: f32,
    most: f32,
    h: Option<f32>,
}

/// What keys are: `h`, or `h` times the decoder norm, or the magnitude of that.
#[derive(Clone, Copy)]
struct Keys<'a> {
    encoder: &'a F32Encoder<'a>,
    decoder_norm: Option<&'a Vec<f32>>,
    rank: Rank,
}

impl Keys<'_> {
    fn of(self, h: f32, latent: usize) -> f32 {
        let key = self.decoder_norm.map_or(h, |norm| h * norm[latent]);
        match self.rank {
            Rank::Value => key,
            Rank::Magnitude => key.abs(),
        }
    }
}

/// The latents of a row that may be among the `k` with the largest keys, ties to the smaller latent.
struct Selection<'a> {
    keys: Keys<'a>,
    row: usize,
    k: usize,
    /// Keys below this have lost.
    threshold: f32,
    candidates: Vec<Candidate>,
}

impl<'a> Selection<'a> {
    fn new(keys: Keys<'a>, row: usize, k: usize, above: f32) -> Self {
        Selection { keys, row, k, threshold: above, candidates: Vec::new() }
    }

    fn offer(&mut self, estimates: &Estimates<'_>) {
        let (first, magnitude) = (estimates.first, self.keys.rank == Rank::Magnitude);
        let weights = self.keys.decoder_norm.map(|norm| &norm[first..]);
        for i in ones(may_exceed(estimates, weights, magnitude, self.threshold)) {
            let [least, most] = estimates.bounds(i, weights.map_or(1.0, |weights| weights[i]), magnitude);
            self.candidates.push(Candidate { latent: first + i, least, most, h: None });
            if self.candidates.len() > 3 * self.k {
                self.narrow();
            }
        }
    }

    /// Leaves out what has lost by the bounds, and where too much is left, all that has lost.
    fn narrow(&mut self) {
        if self.candidates.len() > self.k {
            self.candidates.select_nth_unstable_by(self.k - 1, |a, b| b.least.total_cmp(&a.least));
            let least = self.candidates[self.k - 1].least;
            let enough = if least.is_finite() { least - least.abs() * SLACK } else { least };
            self.threshold = self.threshold.max(enough);
            self.candidates.retain(|candidate| candidate.most >= enough);
        }
        if self.candidates.len() > 2 * self.k {
            self.decide();
        }
    }

    /// Leaves the `k` largest keys.
    fn decide(&mut self) {
        for i in 0..self.candidates.len() {
            if let Some(next) = self.candidates.get(i + 1).filter(|next| next.h.is_none()) {
                prefetch(self.keys.encoder.weights(next.latent));
            }
            let candidate = &mut self.candidates[i];
            if candidate.h.is_some() {
                continue;
            }
            let h = self.keys.encoder.pre_activation(self.row, candidate.latent);
            // Adding 0 makes -0 tie with 0.
            let key = self.keys.of(h, candidate.latent) + 0.0;
            (candidate.least, candidate.most, candidate.h) = (key, key, Some(h));
        }
        self.candidates.retain(|candidate| !candidate.least.is_nan());
        if self.candidates.len() > self.k {
            let order = |a: &Candidate, b: &Candidate| b.least.total_cmp(&a.least).then(a.latent.cmp(&b.latent));
            self.candidates.select_nth_unstable_by(self.k - 1, order);
            self.candidates.truncate(self.k);
            self.threshold = self.threshold.max(self.candidates[self.k - 1].least);
        }
    }

    /// The selected entries with keys above a bound, in ascending latent order; returns how many.
    fn finish(mut self, above: f32, indices: &mut [u32], values: &mut [f32]) -> u32 {
        self.narrow();
        self.decide();
        self.candidates.retain(|candidate| candidate.least > above);
        self.candidates.sort_unstable_by_key(|candidate| candidate.latent);
        for ((candidate, index), value) in self.candidates.iter().zip(indices).zip(values) {
            (*index, *value) = (candidate.latent as u32, candidate.h.unwrap_or_default());
        }
        self.candidates.len() as u32
    }
}

/// Selects in every row of the batch; `above` is the bound that a key must exceed to be selected.
fn select(
    estimator: &Estimator,
    rank: Rank,
    decoder_norm: Option<&Vec<f32>>,
    k: usize,
    above: f32,
    lists: &mut FeatureLists<Cpu>,
) {
    let (encoder, stride, chunk_rows) = (&estimator.encoder, lists.stride, estimator.chunk_rows());
    let rows = encoder.rows;
    let outputs = (
        lists.counts[..rows].par_chunks_mut(chunk_rows),
        lists.indices[..rows * stride].par_chunks_mut(chunk_rows * stride),
        lists.values[..rows * stride].par_chunks_mut(chunk_rows * stride),
    );
    outputs.into_par_iter().enumerate().for_each(|(chunk, (counts, indices, values))| {
        let first_row = chunk * chunk_rows;
        let keys = Keys { encoder, decoder_norm, rank };
        let rows = first_row..first_row + counts.len();
        let mut selections: Vec<_> = rows.clone().map(|row| Selection::new(keys, row, k, above)).collect();
        estimator.for_each(rows, |row, estimates| selections[row].offer(estimates));
        for (row, selection) in selections.into_iter().enumerate() {
            let slots = row * stride..(row + 1) * stride;
            counts[row] = selection.finish(above, &mut indices[slots.clone()], &mut values[slots]);
        }
    });
}

pub(super) fn topk(op: EncodeTopk<'_, Cpu>) -> Result<()> {
    // What is selected but not positive is rectified to zero, so only positive keys matter.
    select(&Estimator::new(&op.encoder), op.rank, op.decoder_norm, op.k, 0.0, op.lists);
    Ok(())
}

pub(super) fn dead_topk(op: EncodeDeadTopk<'_, Cpu>) -> Result<()> {
    let EncodeDeadTopk { encoder, rank, decoder_norm, dead, k, lists } = op;
    let n_dead = dead.count[0] as usize;
    if n_dead == 0 {
        lists.counts[..encoder.rows].fill(0);
        return Ok(());
    }
    let (dead, k) = (&dead.latents[..n_dead], k.min(n_dead));
    let gather = |vector: &[f32]| dead.iter().map(|&latent| vector[latent as usize]).collect::<Vec<f32>>();
    let d_in = encoder.d_in;
    let (mut space, mut w_enc) = (Vec::new(), Vec::with_capacity(n_dead * d_in));
    for &latent in dead {
        let first = latent as usize * d_in;
        w_enc.extend_from_slice(encoder.w_enc.widened(first..first + d_in, &mut space));
    }
    let (b_enc, norm) = (gather(encoder.b_enc), decoder_norm.map(|norm| gather(norm)));
    let of_dead = Encoder { w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, d_sae: n_dead, ..encoder };
    select(&Estimator::new(&of_dead), rank, norm.as_ref(), k, f32::NEG_INFINITY, lists);
    let stride = lists.stride;
    for (indices, &count) in lists.indices.chunks_exact_mut(stride).zip(&lists.counts).take(encoder.rows) {
        for index in &mut indices[..count as usize] {
            *index = dead[*index as usize];
        }
    }
    Ok(())
}

pub(super) fn relu(op: EncodeRelu<'_, Cpu>) -> Result<()> {
    let EncodeRelu { encoder, lists, longest } = op;
    let (rows, stride, estimator) = (encoder.rows, lists.stride, Estimator::new(&encoder));
    let chunk_rows = estimator.chunk_rows();
    let outputs = (
        lists.counts[..rows].par_chunks_mut(chunk_rows),
        lists.indices[..rows * stride].par_chunks_mut(chunk_rows * stride),
        lists.values[..rows * stride].par_chunks_mut(chunk_rows * stride),
    );
    outputs.into_par_iter().enumerate().for_each(|(chunk, (counts, indices, values))| {
        let first_row = chunk * chunk_rows;
        counts.fill(0);
        let positive = |_: usize, estimates: &Estimates<'_>| may_exceed(estimates, None, false, 0.0);
        estimator.for_each_that_may_matter(first_row..first_row + counts.len(), positive, |row, latent, h| {
            if h > 0.0 {
                // Beyond the stride entries are only counted: the caller is told.
                if (counts[row] as usize) < stride {
                    let slot = row * stride + counts[row] as usize;
                    (indices[slot], values[slot]) = (latent as u32, h);
                }
                counts[row] += 1;
            }
        });
    });
    longest[0] = longest_row(lists, rows);
    Ok(())
}

/// Entries of the longest row, whether they have room or not.
pub(super) fn longest_row(lists: &FeatureLists<Cpu>, rows: usize) -> u32 {
    lists.counts[..rows].iter().copied().max().unwrap_or(0)
}

pub(super) fn relu_dense(op: EncodeReluDense<'_, Cpu>) -> Result<()> {
    let EncodeReluDense { encoder, features, counts } = op;
    let Encoder { input, w_enc, b_enc, rows, d_in, d_sae } = encoder;
    let positive: Vec<AtomicU32> = (0..rows).map(|_| AtomicU32::new(0)).collect();
    let (input, weights) = (Operand::rows(input, d_in), Operand::transposed(w_enc, d_in));
    product_with([rows, d_sae, d_in], features, input, weights, false, |mut block| {
        let column = block.column;
        for (row, h) in block.rows() {
            let count = add_and_rectify(h, &b_enc[column..column + h.len()]);
            positive[row].fetch_add(count, Ordering::Relaxed);
        }
    });
    for (count, positive) in counts.iter_mut().zip(positive) {
        *count = positive.into_inner();
    }
    Ok(())
}

vectorised! {
    /// `h = max(h + b, 0)`; returns how many are positive.
    fn add_and_rectify(h: &mut [f32], b: &[f32]) -> u32 {
        let mut count = 0;
        for (h, &b) in h.iter_mut().zip(b) {
            let sum = *h + b;
            // A NaN stays one, so that it is seen.
            *h = if sum <= 0.0 { 0.0 } else { sum };
            count += u32::from(*h > 0.0);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, Stream::Weights, 0);
        (0..n).map(|_| random.uniform() * 2.0 - 1.0).collect()
    }

    /// The definition: a stable sort of every row by descending key.
    fn by_sorting(h: &[f32], norm: &[f32], k: usize) -> Vec<(u32, f32)> {
        let mut order: Vec<u32> = (0..h.len() as u32).collect();
        order.sort_by(|&a, &b| (h[b as usize] * norm[b as usize]).total_cmp(&(h[a as usize] * norm[a as usize])));
        let mut chosen: Vec<(u32, f32)> =
            order[..k].iter().map(|&i| (i, h[i as usize])).filter(|&(_, h)| h > 0.0).collect();
        chosen.sort_unstable_by_key(|&(i, _)| i);
        chosen
    }

    /// An identity encoder makes `h` the input itself, so that ties are exact.
    fn check(rows: usize, d: usize, input: &Vec<f32>, norm: Option<Vec<f32>>, k: usize) {
        let mut w_enc = vec![0.0; d * d];
        (0..d).for_each(|i| w_enc[i * d + i] = 1.0);
        let b_enc = vec![0.0; d];
        let mut lists = FeatureLists::new(&Cpu, rows, k).unwrap();
        let encoder =
            Encoder { input: Matrix::F32(input), w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, rows, d_in: d, d_sae: d };
        Cpu.encode_topk(EncodeTopk { encoder, rank: Rank::Value, decoder_norm: norm.as_ref(), k, lists: &mut lists })
            .unwrap();
        let norm = norm.unwrap_or(vec![1.0; d]);
        for row in 0..rows {
            let slots = row * k..row * k + lists.counts[row] as usize;
            let found: Vec<(u32, f32)> =
                lists.indices[slots.clone()].iter().copied().zip(lists.values[slots].iter().copied()).collect();
            assert_eq!(found, by_sorting(&input[row * d..(row + 1) * d], &norm, k), "row {row}, k {k}");
        }
    }

    #[test]
    fn topk_is_the_set_of_a_stable_sort_for_every_k() {
        let d = 130;
        for k in [1, 2, 7, 64, 129, 130] {
            check(5, d, &random(5 * d, k as u64), None, k);
            check(5, d, &random(5 * d, k as u64), Some(random(d, 9).iter().map(|x| x.abs() + 0.1).collect()), k);
        }
    }

    /// Rows on a common offset, with some latents that come near each other: estimates leave more than
    /// k undecided.
    #[test]
    fn lists_do_not_depend_on_how_pre_activations_are_estimated() {
        for (rows, d_in, d_sae, k) in [(7, 33, 700, 9), (200, 64, 300, 1), (3, 5, 64, 64)] {
            let mut input = random(rows * d_in, 1);
            input.iter_mut().for_each(|x| *x += 3.0);
            let (mut w_enc, b_enc, norm) = (random(d_sae * d_in, 2), random(d_sae, 3), random(d_sae, 4));
            let nearly: Vec<f32> = w_enc[..100].iter().map(|w| w * (1.0 + 1e-6)).collect();
            w_enc[200..300].copy_from_slice(&nearly);
            let norm = norm.iter().map(|x| x.abs()).collect();
            let encoder =
                Encoder { input: Matrix::F32(&input), w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, rows, d_in, d_sae };
            let lists = |estimator: Estimator| {
                let mut lists = FeatureLists::new(&Cpu, rows, k).unwrap();
                select(&estimator, Rank::Magnitude, Some(&norm), k, 0.0, &mut lists);
                let values = lists.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                (lists.counts, lists.indices, values)
            };
            let of_every_kind: Vec<_> = Estimator::of_every_kind(&encoder).into_iter().map(lists).collect();
            assert!(of_every_kind.windows(2).all(|two| two[0] == two[1]), "{rows} {d_in} {d_sae} {k}");
        }
    }

    #[test]
    fn ties_go_to_the_smaller_latent_and_negative_rows_are_empty() {
        let d = 96;
        let mut input: Vec<f32> = (0..3 * d).map(|i| ((i * 7) % 5) as f32 - 1.0).collect();
        input[d..2 * d].fill(-0.5);
        input[2 * d..].fill(0.25);
        for k in [1, 3, 40, 96] {
            check(3, d, &input, None, k);
        }
    }

    #[test]
    fn relu_lists_hold_what_the_dense_form_holds_or_report_the_overflow() {
        let (rows, d_in, d_sae) = (6, 10, 700);
        let (input, w_enc, b_enc) = (random(rows * d_in, 1), random(d_sae * d_in, 2), random(d_sae, 3));
        let encoder =
            || Encoder { input: Matrix::F32(&input), w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, rows, d_in, d_sae };
        let (mut dense, mut counts) = (vec![0.0; rows * d_sae], vec![0; rows]);
        Cpu.encode_relu_dense(EncodeReluDense { encoder: encoder(), features: &mut dense, counts: &mut counts })
            .unwrap();
        let mut lists = FeatureLists::new(&Cpu, rows, d_sae).unwrap();
        let largest = counts.iter().copied().max().unwrap();
        let mut longest = vec![0];
        Cpu.encode_relu(EncodeRelu { encoder: encoder(), lists: &mut lists, longest: &mut longest }).unwrap();
        assert_eq!(longest, [largest]);
        assert_eq!(lists.counts, counts);
        for row in 0..rows {
            for slot in row * d_sae..row * d_sae + counts[row] as usize {
                let dense = dense[row * d_sae + lists.indices[slot] as usize];
                assert!(dense > 0.0 && (dense - lists.values[slot]).abs() < 1e-5);
            }
        }
        let mut short = FeatureLists::new(&Cpu, rows, 8).unwrap();
        longest[0] = 0;
        Cpu.encode_relu(EncodeRelu { encoder: encoder(), lists: &mut short, longest: &mut longest }).unwrap();
        assert_eq!(longest, [largest]);
    }

    #[test]
    fn relu_lists_without_room_are_refused() {
        let (input, w_enc, b_enc) = (vec![1.0], vec![1.0], vec![0.0]);
        let encoder = Encoder {
            input: Matrix::F32(&input),
            w_enc: Matrix::F32(&w_enc),
            b_enc: &b_enc,
            rows: 1,
            d_in: 1,
            d_sae: 1,
        };
        let mut lists = FeatureLists::new(&Cpu, 1, 0).unwrap();
        let mut longest = vec![0];
        let op = EncodeRelu { encoder, lists: &mut lists, longest: &mut longest };
        let message = Cpu.encode_relu(op).unwrap_err().to_string();
        assert_eq!(message, "encode_relu: lists of stride 0 have no room for entries");
    }

    #[test]
    fn dead_topk_takes_exactly_k_dead_latents_whatever_their_sign() {
        let (rows, d) = (2, 8);
        let input = vec![-1.0, -2.0, -3.0, -4.0, 9.0, 9.0, 9.0, 9.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, -0.1, -0.2];
        let mut w_enc = vec![0.0; d * d];
        (0..d).for_each(|i| w_enc[i * d + i] = 1.0);
        let b_enc = vec![0.0; d];
        let dead = DeadLatents { count: vec![3], latents: vec![0, 2, 3, 9, 9, 9, 9, 9] };
        let mut lists = FeatureLists::new(&Cpu, rows, 2).unwrap();
        let encoder =
            Encoder { input: Matrix::F32(&input), w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, rows, d_in: d, d_sae: d };
        let rank = Rank::Value;
        let op = EncodeDeadTopk { encoder, rank, decoder_norm: None, dead: &dead, k: 2, lists: &mut lists };
        Cpu.encode_dead_topk(op).unwrap();
        assert_eq!(lists.counts, [2, 2]);
        assert_eq!(lists.indices, [0, 2, 0, 2]);
        assert_eq!(lists.values, [-1.0, -3.0, 0.5, 0.3]);
    }
}
