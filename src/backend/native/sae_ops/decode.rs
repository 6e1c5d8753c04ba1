//! The decoders and sparsity terms: Rust's arguments as C's.

use super::super::*;
use super::*;
use crate::backend::native::memory::{element_type, operand, or_null, type_of};

pub(super) fn decoder(decoder: &Decoder<'_, Native>) -> ffi::cusae_decoder {
    ffi::cusae_decoder {
        w_dec: operand(decoder.w_dec),
        b_dec: or_null(decoder.b_dec),
        target: decoder.target.at(),
        row_scale: or_null(decoder.denormalize.as_ref().map(|undo| undo.row_scale)),
        row_shift: or_null(decoder.denormalize.as_ref().map(|undo| undo.row_shift)),
        reconstruction: or_null(decoder.reconstruction.as_deref()),
        gradient: decoder.gradient.at(),
        squared_error: decoder.squared_error.at(),
        rows: decoder.rows as u64,
        d_in: decoder.d_in as u64,
        d_sae: decoder.d_sae as u64,
        gradient_scale: decoder.gradient_scale,
        w_dec_type: element_type(decoder.w_dec),
    }
}

pub(in super::super) fn decode_sparse(native: &Native, op: DecodeSparse<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_decode_sparse {
        decoder: decoder(&op.decoder),
        lists: lists(op.lists),
        n_dead: or_null(op.dead_weight.as_ref().map(|weight| weight.n_dead)),
        full_dead: op.dead_weight.as_ref().map_or(0, |weight| weight.full as u64),
        value_gradient: or_null(op.value_gradient.as_deref()),
    };
    native.call("decode_sparse", |table| table.decode_sparse, &arguments)
}

pub(in super::super) fn decode_dense(native: &Native, op: DecodeDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_decode_dense {
        decoder: decoder(&op.decoder),
        features: op.features.at(),
        feature_gradient: op.feature_gradient.at(),
        type_: type_of(op.bf16),
        unused: 0,
    };
    native.call("decode_dense", |table| table.decode_dense, &arguments)
}

pub(in super::super) fn sparsity_lp(native: &Native, op: SparsityLp<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_sparsity_lp {
        lists: lists(op.lists),
        decoder_norm: op.decoder_norm.at(),
        value_gradient: op.value_gradient.at(),
        norm_gradient: op.norm_gradient.at(),
        loss: op.loss.at(),
        scalars: op.scalars.at().cast(),
        rows: op.rows as u64,
        p: op.p,
        gradient_scale: op.gradient_scale,
    };
    native.call("sparsity_lp", |table| table.sparsity_lp, &arguments)
}

pub(in super::super) fn sparsity_lp_dense(native: &Native, op: SparsityLpDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_sparsity_lp_dense {
        features: op.features.at(),
        decoder_norm: op.decoder_norm.at(),
        feature_gradient: op.feature_gradient.at(),
        norm_gradient: op.norm_gradient.at(),
        loss: op.loss.at(),
        rows: op.rows as u64,
        scalars: op.scalars.at().cast(),
        d_sae: op.d_sae as u64,
        p: op.p,
        gradient_scale: op.gradient_scale,
    };
    native.call("sparsity_lp_dense", |table| table.sparsity_lp_dense, &arguments)
}
