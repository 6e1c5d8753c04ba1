//! Rows of the operations on rows of activations and on whole matrices.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![gather_rows(s), scatter_rows(s), prepare_input(s)]
}

fn size(s: SaeSizes) -> String {
    format!("B {}, D {}", s.rows, s.d_in)
}

/// Batches in the buffer that rows are gathered from.
const BUFFER_BATCHES: usize = 16;

fn gather_rows<B: Backend>(s: SaeSizes) -> Row<B> {
    let (n, columns) = (s.rows, s.d_in);
    Row::new("gather_rows", size(s), Work::bytes(8 * s.batch()), move |data| {
        let from = data.normal(BUFFER_BATCHES * s.batch())?;
        let rows = data.different(n, BUFFER_BATCHES * n)?;
        let mut to = data.zeros(s.batch())?;
        Ok(Box::new(move |backend: &B| {
            backend.gather_rows(GatherRows { from: &from, rows: &rows, first: 0, n, columns, to: &mut to })
        }))
    })
}

fn scatter_rows<B: Backend>(s: SaeSizes) -> Row<B> {
    let (n, columns) = (s.rows, s.d_in);
    Row::new("scatter_rows", size(s), Work::bytes(8 * s.batch()), move |data| {
        let from = data.normal(s.batch())?;
        let (from_rows, to_rows) = (data.below(n, n)?, data.different(n, BUFFER_BATCHES * n)?);
        let mut to = data.zeros(BUFFER_BATCHES * s.batch())?;
        Ok(Box::new(move |backend: &B| {
            backend.scatter_rows(ScatterRows {
                from: &from,
                from_rows: &from_rows,
                to_rows: &to_rows,
                n,
                columns,
                to: &mut to,
            })
        }))
    })
}

pub(super) fn prepare_input<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_in, .. } = s;
    Row::new("prepare_input", size(s), Work::bytes(12 * s.batch()), move |data| {
        let (x, b_dec) = (data.normal(s.batch())?, data.normal(d_in)?);
        let (mut target, mut input) = (data.zeros(s.batch())?, data.zeros(s.batch())?);
        let (mut row_scale, mut row_shift) = (data.zeros(rows)?, data.zeros(rows)?);
        Ok(Box::new(move |backend: &B| {
            backend.prepare_input(PrepareInput {
                x: &x,
                scale: 1.0,
                normalization: RowNormalization::LayerNorm,
                b_dec: Some(&b_dec),
                rows,
                d_in,
                target: &mut target,
                input: &mut input,
                row_scale: &mut row_scale,
                row_shift: &mut row_shift,
            })
        }))
    })
}

pub(super) fn row_norms<B: Backend>(s: SaeSizes) -> Row<B> {
    let (rows, columns) = (s.d_sae, s.d_in);
    Row::new("row_norms", format!("F {rows}, D {columns}"), Work::bytes(4 * s.weights()), move |data| {
        let (matrix, mut norms) = (data.normal(s.weights())?, data.zeros(rows)?);
        Ok(Box::new(move |backend: &B| {
            backend.row_norms(RowNorms { matrix: &matrix, rows, columns, norms: &mut norms })
        }))
    })
}

pub(super) fn scale<B: Backend>(s: SaeSizes) -> Row<B> {
    let len = s.batch();
    Row::new("scale", size(s), Work::bytes(8 * len), move |data| {
        let (from, mut to) = (data.normal(len)?, data.zeros(len)?);
        Ok(Box::new(move |backend: &B| backend.scale(Scale { from: &from, factor: -0.5, len, to: &mut to })))
    })
}

pub(super) fn round_bf16<B: Backend>(s: SaeSizes) -> Row<B> {
    let len = s.weights();
    Row::new("round_bf16", format!("{len} numbers"), Work::bytes(6 * len), move |data| {
        let (from, mut to) = (data.normal(len)?, data.zeros(len)?);
        Ok(Box::new(move |backend: &B| backend.round_bf16(RoundBf16 { from: &from, len, to: &mut to })))
    })
}

pub(super) fn fill<B: Backend>(s: SaeSizes) -> Row<B> {
    Row::new("fill", format!("{} numbers", s.weights()), Work::bytes(4 * s.weights()), move |data| {
        let mut to = data.zeros::<f32>(s.weights())?;
        Ok(Box::new(move |backend: &B| backend.fill(&mut to, 0.5)))
    })
}

pub(super) fn sum<B: Backend>(s: SaeSizes) -> Row<B> {
    let len = s.weights();
    Row::new("sum", format!("{len} numbers"), Work::bytes(4 * len), move |data| {
        let (values, mut out) = (data.normal(len)?, data.zeros(1)?);
        Ok(Box::new(move |backend: &B| backend.sum(Sum { values: &values, len, out: &mut out, slot: 0 })))
    })
}

pub(super) fn row_variance<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_in, .. } = s;
    Row::new("row_variance", size(s), Work::bytes(8 * s.batch()), move |data| {
        let (x, mut variance) = (data.normal(s.batch())?, data.zeros(rows)?);
        Ok(Box::new(move |backend: &B| {
            backend.row_variance(RowVariance { x: &x, rows, d_in, variance: &mut variance })
        }))
    })
}
