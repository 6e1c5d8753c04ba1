//! `encode_topk`, `encode_relu`, `encode_relu_dense`, `encode_dead_topk`: the dense product
//! `h = input · w_encᵀ + b_enc` in tiles that stay in the cache; what the activation function keeps
//! leaves a tile, the rest is never written to memory.

use super::gemm::{product_here, product_with, Operand};
use super::simd::{add, vectorised};
use super::*;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

/// Rows of a tile: enough to pay for packing the weights.
pub(super) const TILE_ROWS: usize = 512;
/// Latents of a tile: 512 x 512 values are 1 MiB, half of a usual second-level cache.
pub(super) const TILE_LATENTS: usize = 512;

/// Calls `keep(row in the chunk, first latent, h of the tile's latents)` for every row of `rows`
/// and every tile of latents, ascending.
pub(super) fn for_each_tile(
    encoder: &Encoder<Cpu>,
    rows: std::ops::Range<usize>,
    mut keep: impl FnMut(usize, usize, &mut [f32]),
) {
    let d_in = encoder.d_in;
    let mut tile = vec![0.0f32; rows.len() * TILE_LATENTS.min(encoder.d_sae)];
    let input = Operand::rows(&encoder.input[rows.start * d_in..rows.end * d_in], d_in);
    for first in (0..encoder.d_sae).step_by(TILE_LATENTS) {
        let latents = TILE_LATENTS.min(encoder.d_sae - first);
        let weights = Operand::transposed(&encoder.w_enc[first * d_in..(first + latents) * d_in], d_in);
        product_here([rows.len(), latents, d_in], &mut tile, input, weights, false);
        for (row, h) in tile.chunks_exact_mut(latents).take(rows.len()).enumerate() {
            add(h, &encoder.b_enc[first..first + latents]);
            keep(row, first, h);
        }
    }
}

vectorised! {
    /// Which of up to 64 keys are above the threshold, as bits.
    fn above(keys: &[f32], threshold: f32) -> u64 {
        let mut bits = 0u64;
        for (i, &key) in keys.iter().enumerate() {
            bits |= u64::from(key > threshold) << i;
        }
        bits
    }

    fn any_above(keys: &[f32], threshold: f32) -> bool {
        keys.iter().fold(false, |any, &key| any | (key > threshold))
    }
}

struct Candidate {
    key: f32,
    latent: u32,
    value: f32,
}

/// The `k` largest keys seen so far, ties to the smaller latent. Keys are offered in ascending
/// latent order, so one that only equals the k-th largest has already lost: strictly larger enters.
struct Selection {
    k: usize,
    threshold: f32,
    candidates: Vec<Candidate>,
}

impl Selection {
    fn new(k: usize, above: f32) -> Self {
        Selection { k, threshold: above, candidates: Vec::with_capacity(2 * k + 64) }
    }

    fn offer(&mut self, first_latent: usize, keys: &[f32], value: impl Fn(usize) -> f32) {
        for (block, keys) in keys.chunks(64).enumerate() {
            if !any_above(keys, self.threshold) {
                continue;
            }
            let mut bits = above(keys, self.threshold);
            while bits != 0 {
                let i = block * 64 + bits.trailing_zeros() as usize;
                let key = keys[i - block * 64];
                self.candidates.push(Candidate { key, latent: (first_latent + i) as u32, value: value(i) });
                bits &= bits - 1;
            }
            if self.candidates.len() >= 2 * self.k {
                self.prune();
            }
        }
    }

    fn prune(&mut self) {
        if self.candidates.len() > self.k {
            // No key is NaN, since none of those is above a threshold; adding 0 makes -0 tie with 0.
            let descending = |a: f32, b: f32| (b + 0.0).total_cmp(&(a + 0.0));
            let order = |a: &Candidate, b: &Candidate| descending(a.key, b.key).then(a.latent.cmp(&b.latent));
            self.candidates.select_nth_unstable_by(self.k - 1, order);
            self.candidates.truncate(self.k);
            self.threshold = self.candidates[self.k - 1].key;
        }
    }

    /// The selected entries in ascending latent order; returns how many.
    fn finish(&mut self, indices: &mut [u32], values: &mut [f32]) -> u32 {
        self.prune();
        self.candidates.sort_unstable_by_key(|c| c.latent);
        for (slot, candidate) in self.candidates.iter().enumerate() {
            indices[slot] = candidate.latent;
            values[slot] = candidate.value;
        }
        self.candidates.len() as u32
    }
}

/// What is compared: `h` itself, or `h` times the decoder norms, or the magnitude of that.
pub(super) fn keys_of<'a>(h: &'a [f32], norm: Option<&[f32]>, rank: Rank, keys: &'a mut [f32]) -> &'a [f32] {
    let keys = &mut keys[..h.len()];
    match (norm, rank) {
        (None, Rank::Value) => return h,
        (None, Rank::Magnitude) => keys.iter_mut().zip(h).for_each(|(key, h)| *key = h.abs()),
        (Some(norm), rank) => {
            for ((key, &h), &norm) in keys.iter_mut().zip(h).zip(norm) {
                *key = if rank == Rank::Value { h * norm } else { (h * norm).abs() };
            }
        }
    }
    keys
}

/// Selects in every row of the batch; `above` is the bound that a key must exceed to be selected.
fn select(
    encoder: &Encoder<Cpu>,
    rank: Rank,
    decoder_norm: Option<&Vec<f32>>,
    k: usize,
    above: f32,
    lists: &mut FeatureLists<Cpu>,
) {
    let (rows, stride) = (encoder.rows, lists.stride);
    let outputs = (
        lists.counts[..rows].par_chunks_mut(TILE_ROWS),
        lists.indices[..rows * stride].par_chunks_mut(TILE_ROWS * stride),
        lists.values[..rows * stride].par_chunks_mut(TILE_ROWS * stride),
    );
    outputs.into_par_iter().enumerate().for_each(|(chunk, (counts, indices, values))| {
        let first_row = chunk * TILE_ROWS;
        let mut selections: Vec<Selection> = counts.iter().map(|_| Selection::new(k, above)).collect();
        let mut keys = vec![0.0; TILE_LATENTS];
        for_each_tile(encoder, first_row..first_row + counts.len(), |row, first, h| {
            let norm = decoder_norm.map(|norm| &norm[first..first + h.len()]);
            selections[row].offer(first, keys_of(h, norm, rank, &mut keys), |i| h[i]);
        });
        for (row, selection) in selections.iter_mut().enumerate() {
            let slots = row * stride..(row + 1) * stride;
            counts[row] = selection.finish(&mut indices[slots.clone()], &mut values[slots]);
        }
    });
}

pub(super) fn topk(op: EncodeTopk<'_, Cpu>) -> Result<()> {
    // What is selected but not positive is rectified to zero, so only positive keys matter.
    select(&op.encoder, op.rank, op.decoder_norm, op.k, 0.0, op.lists);
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
    let w_enc = dead.iter().flat_map(|&latent| &encoder.w_enc[latent as usize * d_in..][..d_in]).copied().collect();
    let (b_enc, norm) = (gather(encoder.b_enc), decoder_norm.map(|norm| gather(norm)));
    let of_dead = Encoder { w_enc: &w_enc, b_enc: &b_enc, d_sae: n_dead, ..encoder };
    select(&of_dead, rank, norm.as_ref(), k, f32::NEG_INFINITY, lists);
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
    let (rows, stride) = (encoder.rows, lists.stride);
    let outputs = (
        lists.counts[..rows].par_chunks_mut(TILE_ROWS),
        lists.indices[..rows * stride].par_chunks_mut(TILE_ROWS * stride),
        lists.values[..rows * stride].par_chunks_mut(TILE_ROWS * stride),
    );
    outputs.into_par_iter().enumerate().for_each(|(chunk, (counts, indices, values))| {
        let first_row = chunk * TILE_ROWS;
        counts.fill(0);
        for_each_tile(&encoder, first_row..first_row + counts.len(), |row, first, h| {
            for (block, h) in h.chunks(64).enumerate() {
                let mut bits = above(h, 0.0);
                while bits != 0 {
                    let i = bits.trailing_zeros() as usize;
                    // Beyond the stride entries are only counted: the caller is told.
                    if (counts[row] as usize) < stride {
                        let slot = row * stride + counts[row] as usize;
                        indices[slot] = (first + block * 64 + i) as u32;
                        values[slot] = h[i];
                    }
                    counts[row] += 1;
                    bits &= bits - 1;
                }
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
        let encoder = Encoder { input, w_enc: &w_enc, b_enc: &b_enc, rows, d_in: d, d_sae: d };
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
        let encoder = || Encoder { input: &input, w_enc: &w_enc, b_enc: &b_enc, rows, d_in, d_sae };
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
        let encoder = Encoder { input: &input, w_enc: &w_enc, b_enc: &b_enc, rows: 1, d_in: 1, d_sae: 1 };
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
        let encoder = Encoder { input: &input, w_enc: &w_enc, b_enc: &b_enc, rows, d_in: d, d_sae: d };
        let rank = Rank::Value;
        let op = EncodeDeadTopk { encoder, rank, decoder_norm: None, dead: &dead, k: 2, lists: &mut lists };
        Cpu.encode_dead_topk(op).unwrap();
        assert_eq!(lists.counts, [2, 2]);
        assert_eq!(lists.indices, [0, 2, 0, 2]);
        assert_eq!(lists.values, [-1.0, -3.0, 0.5, 0.3]);
    }
}
