//! Rows of attention, whole and in its two halves.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: LmSizes, context: usize) -> [Row<B>; 3] {
    [attention(s, context), pattern(s, context), mix(s, context)]
}

fn dims(s: LmSizes, context: usize) -> AttentionDims {
    AttentionDims::whole(s.rows, context, s.n_heads, s.d_head())
}

fn size(s: LmSizes, context: usize) -> String {
    format!("rows {}, T {context}, {} heads of {}", s.rows, s.n_heads, s.d_head())
}

/// Dot products of queries with the keys up to their own position.
fn causal_products(dims: AttentionDims) -> usize {
    dims.rows * dims.n_heads * (dims.context + 1) / 2
}

fn scale(dims: AttentionDims) -> f32 {
    1.0 / (dims.d_head as f32).sqrt()
}

pub(super) fn attention<B: Backend>(s: LmSizes, context: usize) -> Row<B> {
    let dims = dims(s, context);
    let work = Work::flops(4 * dims.d_head * causal_products(dims)) + Work::bytes(16 * dims.values());
    Row::new("attention", size(s, context), work, move |data| {
        let [q, k, v] = [(); 3].map(|()| data.normal(dims.values()));
        let (q, k, v, mut z) = (q?, k?, v?, data.zeros(dims.values())?);
        Ok(Box::new(move |backend: &B| {
            backend.attention(Attention { q: &q, k: &k, v: &v, scale: scale(dims), dims, z: &mut z })
        }))
    })
}

fn pattern<B: Backend>(s: LmSizes, context: usize) -> Row<B> {
    let dims = dims(s, context);
    let moved = 8 * dims.values() + 12 * dims.pattern();
    let work = Work::flops(2 * dims.d_head * causal_products(dims)) + Work::bytes(moved);
    Row::new("attention_pattern", size(s, context), work, move |data| {
        let (q, k) = (data.normal(dims.values())?, data.normal(dims.values())?);
        let mut pattern = data.zeros(dims.pattern())?;
        Ok(Box::new(move |backend: &B| {
            backend.attention_pattern(AttentionPattern {
                q: &q,
                k: &k,
                scale: scale(dims),
                dims,
                pattern: &mut pattern,
            })
        }))
    })
}

fn mix<B: Backend>(s: LmSizes, context: usize) -> Row<B> {
    let dims = dims(s, context);
    let work = Work::flops(2 * dims.d_head * dims.pattern()) + Work::bytes(8 * dims.values() + 4 * dims.pattern());
    Row::new("attention_mix", size(s, context), work, move |data| {
        let (pattern, v) = (data.positive(dims.pattern())?, data.normal(dims.values())?);
        let mut z = data.zeros(dims.values())?;
        Ok(Box::new(move |backend: &B| {
            backend.attention_mix(AttentionMix { pattern: &pattern, v: &v, dims, z: &mut z })
        }))
    })
}
