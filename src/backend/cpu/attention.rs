//! `attention`, `attention_pattern`, `attention_mix`: a tile of queries of one head at a time, its
//! scores against all keys it may see, softmax, and the mixed values. Tiles do not depend on the
//! number of threads.

use super::functions::{exponentiate, multiply};
use super::gemm::{product_here, Operand};
use super::*;
use rayon::prelude::*;

/// Queries of a tile. For each the keys are packed again; its scores stay in the second-level cache, and a short context
/// leaves tiles for all threads.
fn queries_of_tile(context: usize) -> usize {
    match context {
        ..512 => 64,
        512..4096 => 128,
        _ => 64,
    }
}

pub(super) fn run(op: Attention<'_, Cpu>) -> Result<()> {
    let Attention { q, k, v, scale, dims, z } = op;
    let AttentionDims { context, past, room, n_heads, d_head, .. } = dims;
    for_each_tile(z, dims, |sequence, first, z| {
        let (width, queries) = (n_heads * d_head, z.len() / (n_heads * d_head));
        let keys = past + first + queries;
        let mut scores = vec![0.0; queries * keys];
        let mut mixed = vec![0.0; queries * d_head];
        for head in 0..n_heads {
            let (start, key_start) =
                (sequence * context * width + head * d_head, sequence * room * width + head * d_head);
            let q = &q[start + first * width..];
            pattern_tile(q, &k[key_start..], scale, past + first, [width, d_head], keys, &mut scores);
            let values = Operand::rows(&v[key_start..], width);
            product_here([queries, d_head, keys], &mut mixed, Operand::rows(&*scores, keys), values);
            place(&mixed, z, head, dims);
        }
    });
    Ok(())
}

pub(super) fn pattern(op: AttentionPattern<'_, Cpu>) -> Result<()> {
    let AttentionPattern { q, k, scale, dims, pattern } = op;
    let AttentionDims { context, past, room, n_heads, d_head, .. } = dims;
    let (width, keys) = (n_heads * d_head, dims.keys());
    pattern[..dims.pattern()].par_chunks_mut(context * keys).enumerate().for_each(|(i, pattern)| {
        let (sequence, of_head) = (i / n_heads, (i % n_heads) * d_head);
        let k = &k[sequence * room * width + of_head..];
        let queries = queries_of_tile(context);
        for (tile, pattern) in pattern.chunks_mut(queries * keys).enumerate() {
            let first = tile * queries;
            let q = &q[(sequence * context + first) * width + of_head..];
            pattern_tile(q, k, scale, past + first, [width, d_head], keys, pattern);
        }
    });
    Ok(())
}

pub(super) fn mix(op: AttentionMix<'_, Cpu>) -> Result<()> {
    let AttentionMix { pattern, v, dims, z } = op;
    let AttentionDims { context, room, n_heads, d_head, .. } = dims;
    let keys = dims.keys();
    for_each_tile(z, dims, |sequence, first, z| {
        let (width, queries) = (n_heads * d_head, z.len() / (n_heads * d_head));
        let mut mixed = vec![0.0; queries * d_head];
        for head in 0..n_heads {
            let pattern = &pattern[((sequence * n_heads + head) * context + first) * keys..];
            let values = Operand::rows(&v[sequence * room * width + head * d_head..], width);
            product_here([queries, d_head, keys], &mut mixed, Operand::rows(pattern, keys), values);
            place(&mixed, z, head, dims);
        }
    });
    Ok(())
}

/// Calls `fill(sequence, first query, z of the tile's queries, all heads)` for every tile.
fn for_each_tile(z: &mut [f32], dims: AttentionDims, fill: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let (width, queries) = (dims.n_heads * dims.d_head, queries_of_tile(dims.context));
    z[..dims.values()].par_chunks_mut(dims.context * width).enumerate().for_each(|(sequence, z)| {
        z.par_chunks_mut(queries * width).enumerate().for_each(|(tile, z)| fill(sequence, tile * queries, z));
    });
}

/// Softmax of the scores of queries at the positions `first..` of one head over the keys up to their
/// own position: `[queries, keys]`, zero after it. `q` begins at the first query, `k` at the first key;
/// their rows are `width` apart.
fn pattern_tile(
    q: &[f32],
    k: &[f32],
    scale: f32,
    first: usize,
    [width, d_head]: [usize; 2],
    keys: usize,
    pattern: &mut [f32],
) {
    let queries = pattern.len() / keys;
    let (q, k) = (Operand::rows(q, width), Operand::transposed(k, width));
    product_here([queries, keys, d_head], pattern, q, k);
    for (i, row) in pattern.chunks_exact_mut(keys).enumerate() {
        let (seen, later) = row.split_at_mut(first + i + 1);
        let sum = exponentiate(seen, scale);
        multiply(seen, 1.0 / sum);
        later.fill(0.0);
    }
}

/// Copies one head's `[queries, d_head]` to its columns of `z [queries, H * d_head]`.
fn place(mixed: &[f32], z: &mut [f32], head: usize, dims: AttentionDims) {
    let AttentionDims { n_heads, d_head, .. } = dims;
    for (mixed, z) in mixed.chunks_exact(d_head).zip(z.chunks_exact_mut(n_heads * d_head)) {
        z[head * d_head..][..d_head].copy_from_slice(mixed);
    }
}
