//! `encode_batch_topk`: the largest pre-activations of the whole batch. Chunks of rows list what may be
//! among them by the estimates' bounds and share what is known of the least of them; only what is left in the end
//! is computed. No `[B, F]` matrix exists.

use super::encode::longest_row;
use super::estimate::{may_exceed, ones, Estimator, SLACK};
use super::matrix::F32Encoder;
use super::simd::prefetch;
use super::*;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

struct Entry {
    key: f32,
    row: u32,
    latent: u32,
    value: f32,
}

/// Descending keys, ties to the smaller row, then the smaller latent. Keys are positive.
fn order(a: &Entry, b: &Entry) -> std::cmp::Ordering {
    b.key.total_cmp(&a.key).then((a.row, a.latent).cmp(&(b.row, b.latent)))
}

/// A number that `n` keys reach: smaller ones have lost. What keys of all chunks are at least is counted by the upper
/// bits, which for positive floats have the order of the numbers.
struct Bound {
    n: usize,
    counts: Vec<AtomicU32>,
    /// Where the largest key was counted.
    largest: AtomicUsize,
}

impl Bound {
    /// Sign, exponent and 7 bits of the fraction tell keys apart.
    const LOWER_BITS: u32 = 16;

    fn new(n: usize) -> Self {
        let counts = (0..Self::bins()).map(|_| AtomicU32::new(0)).collect();
        Bound { n, counts, largest: AtomicUsize::new(0) }
    }

    fn bins() -> usize {
        1 << (31 - Self::LOWER_BITS)
    }

    /// 0 as long as there are fewer keys.
    fn least(&self) -> f32 {
        let mut reached = 0;
        for bin in (1..=self.largest.load(Ordering::Relaxed)).rev() {
            reached += self.counts[bin].load(Ordering::Relaxed) as usize;
            if reached >= self.n {
                return f32::from_bits((bin as u32) << Self::LOWER_BITS);
            }
        }
        0.0
    }
}

/// What a chunk has counted and not told the others: every key told by itself would have threads wait for one another.
struct Counted<'a> {
    bound: &'a Bound,
    counts: Vec<u32>,
    /// The first of those that are not 0, and the one behind the last.
    bins: [usize; 2],
}

/// Bins that are all 0.
const NONE: [usize; 2] = [usize::MAX, 0];

impl<'a> Counted<'a> {
    fn new(bound: &'a Bound) -> Self {
        Counted { bound, counts: vec![0; Bound::bins()], bins: NONE }
    }

    /// Counts a key that is at least this; it says nothing unless that is positive.
    fn count(&mut self, least: f32) {
        if least.is_nan() || least <= 0.0 {
            return;
        }
        let bin = (least.to_bits() >> Bound::LOWER_BITS) as usize;
        self.counts[bin] += 1;
        self.bins = [self.bins[0].min(bin), self.bins[1].max(bin + 1)];
    }

    /// Tells the others; the bound that all know then.
    fn tell(&mut self) -> f32 {
        let [first, end] = std::mem::replace(&mut self.bins, NONE);
        self.bound.largest.fetch_max(end.saturating_sub(1), Ordering::Relaxed);
        for (count, bin) in self.counts.iter_mut().zip(&self.bound.counts).take(end).skip(first) {
            if *count > 0 {
                bin.fetch_add(std::mem::take(count), Ordering::Relaxed);
            }
        }
        self.bound.least()
    }
}

/// An entry that may be among the largest: its key is at most this.
struct Candidate {
    row: u32,
    latent: u32,
    most: f32,
}

/// What rows have of the largest entries: all that may reach the bound as it is found on the way.
fn candidates(
    op: &EncodeBatchTopk<'_, Cpu>,
    estimator: &Estimator<'_>,
    rows: std::ops::Range<usize>,
    bound: &Bound,
) -> Vec<Candidate> {
    let (mut candidates, mut counted) = (Vec::new(), Counted::new(bound));
    let (first_row, mut panel, mut enough) = (rows.start, usize::MAX, 0.0);
    estimator.for_each(rows, |row, estimates| {
        if estimates.first != panel {
            panel = estimates.first;
            enough = counted.tell();
        }
        let norm = op.decoder_norm.map(|norm| &norm[panel..]);
        for i in ones(may_exceed(estimates, norm, false, enough)) {
            let [least, most] = estimates.bounds(i, norm.map_or(1.0, |norm| norm[i]), false);
            counted.count(least - least.abs() * SLACK);
            let (row, latent) = ((first_row + row) as u32, (panel + i) as u32);
            candidates.push(Candidate { row, latent, most });
        }
    });
    let enough = counted.tell();
    candidates.retain(|candidate| candidate.may_reach(enough));
    candidates
}

impl Candidate {
    fn may_reach(&self, bound: f32) -> bool {
        self.most + self.most.abs() * SLACK >= bound
    }
}

/// Those of the candidates that reach the bound and are positive.
fn entries(
    op: &EncodeBatchTopk<'_, Cpu>,
    encoder: &F32Encoder<'_>,
    candidates: Vec<Candidate>,
    bound: f32,
) -> Vec<Entry> {
    let undecided: Vec<_> = candidates.into_iter().filter(|candidate| candidate.may_reach(bound)).collect();
    let entry = |(i, &Candidate { row, latent, .. }): (usize, &Candidate)| {
        if let Some(next) = undecided.get(i + 1) {
            prefetch(encoder.weights(next.latent as usize));
        }
        let value = encoder.pre_activation(row as usize, latent as usize);
        let key = op.decoder_norm.map_or(value, |norm| value * norm[latent as usize]);
        (key >= bound && key > 0.0).then_some(Entry { key, row, latent, value })
    };
    undecided.iter().enumerate().filter_map(entry).collect()
}

pub(super) fn run(op: EncodeBatchTopk<'_, Cpu>) -> Result<()> {
    let (rows, bound, estimator) = (op.encoder.rows, Bound::new(op.n), Estimator::new(&op.encoder));
    let chunk_rows = estimator.chunk_rows();
    let chunks = (0..rows.div_ceil(chunk_rows)).into_par_iter();
    let of_chunk =
        |chunk: usize| candidates(&op, &estimator, chunk * chunk_rows..((chunk + 1) * chunk_rows).min(rows), &bound);
    let of_chunks: Vec<Vec<Candidate>> = chunks.map(of_chunk).collect();
    let least = bound.least();
    let of_chunks = of_chunks.into_par_iter().map(|chunk| entries(&op, &estimator.encoder, chunk, least));
    let mut entries: Vec<Entry> = of_chunks.flatten_iter().collect();
    if entries.len() > op.n {
        entries.select_nth_unstable_by(op.n - 1, order);
        entries.truncate(op.n);
    }
    let smallest = entries.iter().map(|entry| entry.key).min_by(f32::total_cmp);
    entries.par_sort_unstable_by_key(|entry| (entry.row, entry.latent));

    let EncodeBatchTopk { lists, longest, threshold, threshold_lr, .. } = op;
    lists.counts[..rows].fill(0);
    for entry in entries {
        let count = &mut lists.counts[entry.row as usize];
        if (*count as usize) < lists.stride {
            let slot = entry.row as usize * lists.stride + *count as usize;
            (lists.indices[slot], lists.values[slot]) = (entry.latent, entry.value);
        }
        *count += 1;
    }
    longest[0] = longest_row(lists, rows);
    if let Some(smallest) = smallest.filter(|_| longest[0] as usize <= lists.stride) {
        threshold[0] = (1.0 - threshold_lr) * threshold[0] + threshold_lr * f64::from(smallest);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An identity encoder makes `h` the input itself.
    fn select(input: &[f32], rows: usize, norm: Option<&Vec<f32>>, n: usize, stride: usize) -> (Vec<Vec<u32>>, f64) {
        let d = input.len() / rows;
        let mut w_enc = vec![0.0; d * d];
        (0..d).for_each(|i| w_enc[i * d + i] = 1.0);
        let (input, b_enc) = (input.to_vec(), vec![0.0; d]);
        let encoder =
            Encoder { input: Matrix::F32(&input), w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, rows, d_in: d, d_sae: d };
        let (mut lists, mut threshold) = (FeatureLists::new(&Cpu, rows, stride).unwrap(), vec![1.0]);
        let (lists_out, mut longest) = (&mut lists, vec![0]);
        let op = EncodeBatchTopk {
            encoder,
            decoder_norm: norm,
            n,
            threshold_lr: 0.25,
            threshold: &mut threshold,
            lists: lists_out,
            longest: &mut longest,
        };
        Cpu.encode_batch_topk(op).unwrap();
        if longest[0] as usize > stride {
            return (Vec::new(), threshold[0]);
        }
        let row = |b: usize| lists.indices[b * stride..b * stride + lists.counts[b] as usize].to_vec();
        ((0..rows).map(row).collect(), threshold[0])
    }

    #[test]
    fn the_bound_is_what_n_of_all_keys_reach_that_were_told() {
        let bound = Bound::new(3);
        let [mut one, mut other] = [Counted::new(&bound), Counted::new(&bound)];
        [1.0, 4.0, f32::NAN, -1.0, 0.0, 2.0].into_iter().for_each(|key| one.count(key));
        assert_eq!(other.tell(), 0.0, "before one has told");
        assert_eq!(one.tell(), 1.0);
        [8.0, 8.0].into_iter().for_each(|key| other.count(key));
        assert_eq!(other.tell(), 4.0);
        assert_eq!(one.tell(), 4.0, "nothing is told twice");
    }

    #[test]
    fn the_largest_of_the_batch_are_taken_ties_to_the_smaller_row() {
        let input = [3.0, -9.0, 1.0, 2.0, 2.0, 2.0, 0.0, 5.0, -1.0];
        assert_eq!(select(&input, 3, None, 4, 3), (vec![vec![0], vec![0, 1], vec![1]], 0.75 + 0.25 * 2.0));
        // Four of them are 2, and only five positive ones are left out of nothing: zeros never enter.
        assert_eq!(select(&input, 3, None, 9, 3).0, [vec![0, 2], vec![0, 1, 2], vec![1]]);
    }

    #[test]
    fn decoder_norms_take_part_in_the_comparison() {
        let (input, norm) = ([3.0, 2.0, 1.0, 3.0], vec![1.0, 2.0]);
        assert_eq!(select(&input, 2, Some(&norm), 2, 2), (vec![vec![1], vec![1]], 0.75 + 0.25 * 4.0));
    }

    #[test]
    fn rows_without_room_leave_the_threshold_alone() {
        let input = [1.0, 2.0, 0.5, -1.0];
        assert_eq!(select(&input, 2, None, 2, 1), (vec![], 1.0));
    }

    #[test]
    fn nothing_positive_leaves_empty_rows_and_the_threshold_alone() {
        assert_eq!(select(&[-1.0, -2.0], 2, None, 1, 1), (vec![vec![], vec![]], 1.0));
    }
}
