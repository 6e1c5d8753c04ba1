//! `encode_batch_topk`: the largest pre-activations of the whole batch. Chunks of rows keep their own
//! best entries and share what is known of the bound; no `[B, F]` matrix exists.

use super::encode::{for_each_tile, keys_of, longest_row, TILE_LATENTS, TILE_ROWS};
use super::*;
use rayon::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// Leaves the first `n` in order, if there are more.
fn prune(entries: &mut Vec<Entry>, n: usize) {
    if entries.len() > n {
        entries.select_nth_unstable_by(n - 1, order);
        entries.truncate(n);
    }
}

/// The `n` best entries of a chunk of rows. `bound` holds the bits of a key that `n` entries of some
/// chunk reach: smaller ones have lost. Positive floats are ordered as their bits are.
fn best_of(op: &EncodeBatchTopk<'_, Cpu>, rows: std::ops::Range<usize>, bound: &AtomicU32) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut keys = vec![0.0; TILE_LATENTS];
    let first_row = rows.start;
    for_each_tile(&op.encoder, rows, |row, first, h| {
        let norm = op.decoder_norm.map(|norm| &norm[first..first + h.len()]);
        let keys = keys_of(h, norm, Rank::Value, &mut keys);
        let least = f32::from_bits(bound.load(Ordering::Relaxed));
        for (i, (&key, &value)) in keys.iter().zip(h.iter()).enumerate() {
            if key >= least && key > 0.0 {
                entries.push(Entry { key, row: (first_row + row) as u32, latent: (first + i) as u32, value });
            }
        }
        if entries.len() >= 2 * op.n {
            prune(&mut entries, op.n);
            bound.fetch_max(entries[op.n - 1].key.to_bits(), Ordering::Relaxed);
        }
    });
    prune(&mut entries, op.n);
    entries
}

pub(super) fn run(op: EncodeBatchTopk<'_, Cpu>) -> Result<()> {
    let (rows, bound) = (op.encoder.rows, AtomicU32::new(0));
    let chunks = (0..rows.div_ceil(TILE_ROWS)).into_par_iter();
    let of_chunk = |chunk: usize| best_of(&op, chunk * TILE_ROWS..((chunk + 1) * TILE_ROWS).min(rows), &bound);
    let mut entries: Vec<Entry> = chunks.map(of_chunk).collect::<Vec<_>>().into_iter().flatten().collect();
    prune(&mut entries, op.n);
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
        let encoder = Encoder { input: &input, w_enc: &w_enc, b_enc: &b_enc, rows, d_in: d, d_sae: d };
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
