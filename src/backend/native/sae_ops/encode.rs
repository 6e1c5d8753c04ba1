//! The encoders: Rust's arguments as C's.

use super::super::*;
use super::*;
use crate::backend::native::memory::{element_type, operand, or_null};

pub(super) fn encoder(encoder: &Encoder<'_, Native>) -> ffi::cusae_encoder {
    ffi::cusae_encoder {
        input: operand(encoder.input),
        w_enc: operand(encoder.w_enc),
        b_enc: encoder.b_enc.at(),
        rows: encoder.rows as u64,
        d_in: encoder.d_in as u64,
        d_sae: encoder.d_sae as u64,
        type_: element_type(encoder.input),
        unused: 0,
    }
}

pub(in super::super) fn encode_topk(native: &Native, op: EncodeTopk<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_topk {
        encoder: encoder(&op.encoder),
        lists: lists(op.lists),
        decoder_norm: or_null(op.decoder_norm),
        k: op.k as u64,
        magnitude: (op.rank == Rank::Magnitude).into(),
        unused: 0,
    };
    native.call("encode_topk", |table| table.encode_topk, &arguments)
}

pub(in super::super) fn encode_relu(native: &Native, op: EncodeRelu<'_, Native>) -> Result<()> {
    let arguments =
        ffi::cusae_encode_relu { encoder: encoder(&op.encoder), lists: lists(op.lists), longest: op.longest.at() };
    native.call("encode_relu", |table| table.encode_relu, &arguments)
}

pub(in super::super) fn encode_batch_topk(native: &Native, op: EncodeBatchTopk<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_batch_topk {
        encoder: encoder(&op.encoder),
        lists: lists(op.lists),
        decoder_norm: or_null(op.decoder_norm),
        threshold: op.threshold.at(),
        longest: op.longest.at(),
        n: op.n as u64,
        threshold_lr: op.threshold_lr,
    };
    native.call("encode_batch_topk", |table| table.encode_batch_topk, &arguments)
}

pub(in super::super) fn encode_jumprelu(native: &Native, op: EncodeJumpRelu<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_jumprelu {
        encoder: encoder(&op.encoder),
        lists: lists(op.lists),
        threshold: op.threshold.at(),
        pre_activations: or_null(op.pre_activations.as_deref()),
        longest: op.longest.at(),
        bandwidth: op.bandwidth.unwrap_or(0.0),
        unused: 0,
    };
    native.call("encode_jumprelu", |table| table.encode_jumprelu, &arguments)
}

pub(in super::super) fn encode_relu_dense(native: &Native, op: EncodeReluDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_relu_dense {
        encoder: encoder(&op.encoder),
        features: op.features.at(),
        counts: op.counts.at(),
    };
    native.call("encode_relu_dense", |table| table.encode_relu_dense, &arguments)
}

pub(in super::super) fn encode_dead_topk(native: &Native, op: EncodeDeadTopk<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_dead_topk {
        encoder: encoder(&op.encoder),
        lists: lists(op.lists),
        decoder_norm: or_null(op.decoder_norm),
        dead: op.dead.latents.at(),
        n_dead: op.dead.count.at(),
        k: op.k as u64,
        magnitude: (op.rank == Rank::Magnitude).into(),
        unused: 0,
    };
    native.call("encode_dead_topk", |table| table.encode_dead_topk, &arguments)
}
