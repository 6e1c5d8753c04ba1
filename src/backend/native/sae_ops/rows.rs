//! Rows of activations, norms and sums: Rust's arguments as C's.

use super::super::*;
use crate::backend::native::memory::or_null;

pub(in super::super) fn gather_rows(native: &Native, op: GatherRows<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gather_rows {
        from: op.from.at(),
        rows: op.rows.at().wrapping_add(op.first),
        to: op.to.at(),
        n: op.n as u64,
        from_rows: (op.from.len() / op.columns.max(1)) as u64,
        columns: op.columns as u64,
    };
    native.call("gather_rows", |table| table.gather_rows, &arguments)
}

pub(in super::super) fn scatter_rows(native: &Native, op: ScatterRows<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_scatter_rows {
        from: op.from.at(),
        from_rows: op.from_rows.at(),
        to_rows: op.to_rows.at(),
        to: op.to.at(),
        n: op.n as u64,
        from_limit: (op.from.len() / op.columns.max(1)) as u64,
        to_limit: (op.to.len() / op.columns.max(1)) as u64,
        columns: op.columns as u64,
    };
    native.call("scatter_rows", |table| table.scatter_rows, &arguments)
}

pub(in super::super) fn prepare_input(native: &Native, op: PrepareInput<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_prepare_input {
        x: op.x.at(),
        b_dec: or_null(op.b_dec),
        target: op.target.at(),
        input: op.input.at(),
        row_scale: op.row_scale.at(),
        row_shift: op.row_shift.at(),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        scale: op.scale,
        normalization: match op.normalization {
            RowNormalization::None => ffi::CUSAE_NORMALIZE_NONE,
            RowNormalization::LayerNorm => ffi::CUSAE_NORMALIZE_LAYER_NORM,
            RowNormalization::ConstantNorm => ffi::CUSAE_NORMALIZE_CONSTANT,
        },
    };
    native.call("prepare_input", |table| table.prepare_input, &arguments)
}

pub(in super::super) fn row_norms(native: &Native, op: RowNorms<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_row_norms {
        matrix: op.matrix.at(),
        norms: op.norms.at(),
        rows: op.rows as u64,
        columns: op.columns as u64,
    };
    native.call("row_norms", |table| table.row_norms, &arguments)
}

pub(in super::super) fn scale(native: &Native, op: Scale<'_, Native>) -> Result<()> {
    let arguments =
        ffi::cusae_scale { from: op.from.at(), to: op.to.at(), len: op.len as u64, factor: op.factor, unused: 0 };
    native.call("scale", |table| table.scale, &arguments)
}

pub(in super::super) fn round_bf16(native: &Native, op: RoundBf16<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_round_bf16 { from: op.from.at(), to: op.to.at().cast(), len: op.len as u64 };
    native.call("round_bf16", |table| table.round_bf16, &arguments)
}

pub(in super::super) fn row_variance(native: &Native, op: RowVariance<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_row_variance {
        x: op.x.at(),
        variance: op.variance.at(),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
    };
    native.call("row_variance", |table| table.row_variance, &arguments)
}

pub(in super::super) fn exponential(native: &Native, op: Exponential<'_, Native>) -> Result<()> {
    let factor = op.factor.map_or(std::ptr::null(), |factor| factor.at());
    let arguments = ffi::cusae_exponential { x: op.x.at(), factor, to: op.to.at(), len: op.len as u64 };
    native.call("exponential", |table| table.exponential, &arguments)
}

pub(in super::super) fn ghost_error(native: &Native, op: GhostError<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_ghost_error {
        ghost: op.ghost.at(),
        error: op.error.at(),
        gradient: op.gradient.at(),
        loss: op.loss.at(),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        error_scale: op.error_scale,
        gradient_scale: op.gradient_scale,
    };
    native.call("ghost_error", |table| table.ghost_error, &arguments)
}

pub(in super::super) fn sum(native: &Native, op: Sum<'_, Native>) -> Result<()> {
    let out = op.out.at().wrapping_add(op.slot);
    let arguments = ffi::cusae_sum { values: op.values.at(), out, len: op.len as u64 };
    native.call("sum", |table| table.sum, &arguments)
}
