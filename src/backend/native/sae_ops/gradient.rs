//! Gradients, clip and Adam: Rust's arguments as C's.

use super::super::*;
use super::*;
use crate::backend::native::memory::{element_type, operand, or_null, type_of};
use std::ptr::null_mut;

pub(super) fn norm_gradient(norm: Option<&NormGradient<'_, Native>>) -> ffi::cusae_norm_gradient {
    ffi::cusae_norm_gradient {
        norm_gradient: or_null(norm.map(|norm| norm.norm_gradient)),
        decoder_norm: or_null(norm.map(|norm| norm.decoder_norm)),
        w_dec: or_null(norm.map(|norm| norm.w_dec)),
    }
}

pub(super) fn weight_gradients(out: &WeightGradients<'_, Native>) -> ffi::cusae_weight_gradients {
    ffi::cusae_weight_gradients {
        w_enc: out.w_enc.at(),
        b_enc: out.b_enc.at(),
        w_dec: out.w_dec.at(),
        accumulate: out.accumulate.into(),
        only_listed: out.only_listed.into(),
    }
}

pub(in super::super) fn gradient_sparse(native: &Native, op: GradientSparse<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gradient_sparse {
        lists: lists(op.lists),
        by_latent: latent_lists(op.by_latent),
        pre_gradient: op.pre_gradient.at(),
        gradient: operand(op.gradient),
        input: operand(op.input),
        norm: norm_gradient(op.norm.as_ref()),
        out: weight_gradients(&op.out),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        d_sae: op.d_sae as u64,
        type_: element_type(op.gradient),
        unused: 0,
    };
    native.call("gradient_sparse", |table| table.gradient_sparse, &arguments)
}

fn listed_gradient(of: &ListedGradient<'_, Native>) -> ffi::cusae_listed_gradient {
    let stored = of.stored.as_ref();
    ffi::cusae_listed_gradient {
        lists: lists(of.lists),
        by_latent: latent_lists(of.by_latent),
        pre_gradient: of.pre_gradient.at(),
        gradient: operand(of.gradient),
        input: operand(of.input),
        norm_gradient: or_null(of.norm_gradient),
        stored_w_enc: or_null(stored.map(|stored| stored.w_enc)),
        stored_w_dec: or_null(stored.map(|stored| stored.w_dec)),
        stored_offsets: or_null(stored.map(|stored| &stored.by_latent.offsets)),
        rows: of.rows as u64,
        d_in: of.d_in as u64,
        d_sae: of.d_sae as u64,
        type_: element_type(of.gradient),
        unused: 0,
    }
}

pub(in super::super) fn gradient_squares(native: &Native, op: GradientSquares<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gradient_squares {
        of: listed_gradient(op.of),
        w_dec: op.w_dec.at(),
        decoder_norm: op.decoder_norm.at(),
        b_enc: op.b_enc.at(),
        squares: op.squares.at(),
    };
    native.call("gradient_squares", |table| table.gradient_squares, &arguments)
}

fn adam_state(state: &AdamState<'_, Native>) -> ffi::cusae_adam_state {
    ffi::cusae_adam_state {
        parameter: state.parameter.at(),
        exp_avg: state.exp_avg.at(),
        exp_avg_sq: state.exp_avg_sq.at(),
    }
}

pub(in super::super) fn adam_sparse(native: &Native, op: AdamSparse<'_, Native>) -> Result<()> {
    let factors = op.constants.factors();
    let arguments = ffi::cusae_adam_sparse {
        of: listed_gradient(op.of),
        w_enc: adam_state(&op.w_enc),
        w_dec: adam_state(&op.w_dec),
        decoder_norm: op.decoder_norm.at(),
        clip: op.clip.at(),
        scalars: op.scalars.at().cast(),
        beta1: factors.beta1,
        beta2: factors.beta2,
        complement1: factors.complement1,
        complement2: factors.complement2,
        epsilon: factors.epsilon,
        unused: 0,
    };
    native.call("adam_sparse", |table| table.adam_sparse, &arguments)
}

pub(in super::super) fn gradient_dense(native: &Native, op: GradientDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gradient_dense {
        features: op.features.at(),
        pre_gradient: op.pre_gradient.at(),
        gradient: op.gradient.at(),
        input: op.input.at(),
        norm: norm_gradient(op.norm.as_ref()),
        out: weight_gradients(&op.out),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        d_sae: op.d_sae as u64,
        type_: type_of(op.bf16),
        unused: 0,
    };
    native.call("gradient_dense", |table| table.gradient_dense, &arguments)
}

pub(in super::super) fn gradient_b_dec(native: &Native, op: GradientBDec<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gradient_b_dec {
        gradient: op.gradient.at(),
        w_enc: or_null(op.through_encoder.as_ref().map(|through| through.w_enc)),
        g_b_enc: or_null(op.through_encoder.as_ref().map(|through| through.b_enc_gradient)),
        out: op.out.at(),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        d_sae: op.d_sae as u64,
    };
    native.call("gradient_b_dec", |table| table.gradient_b_dec, &arguments)
}

pub(in super::super) fn clip_scale(native: &Native, op: ClipScale<'_, Native>) -> Result<()> {
    const MAX: usize = ffi::CUSAE_MAX_GRADIENTS as usize;
    let n = op.gradients.len();
    require("clip_scale", n <= MAX, || format!("{n} gradients are given, at most {MAX} are possible"))?;
    let mut arguments = ffi::cusae_clip_scale {
        gradients: [null_mut::<f32>().cast_const(); MAX],
        lens: [0; MAX],
        squares: or_null(op.squares),
        n_squares: op.squares.map_or(0, Buffer::len) as u64,
        out: op.out.at(),
        n_gradients: n as u32,
        clip: op.max_norm.is_some().into(),
        max_norm: op.max_norm.unwrap_or_default(),
        unused: 0,
    };
    for (i, gradient) in op.gradients.iter().enumerate() {
        (arguments.gradients[i], arguments.lens[i]) = (gradient.at(), gradient.len() as u64);
    }
    native.call("clip_scale", |table| table.clip_scale, &arguments)
}

pub(in super::super) fn adam(native: &Native, op: Adam<'_, Native>) -> Result<()> {
    let factors = op.constants.factors();
    let arguments = ffi::cusae_adam {
        parameter: op.parameter.at(),
        gradient: op.gradient.at(),
        exp_avg: op.exp_avg.at(),
        exp_avg_sq: op.exp_avg_sq.at(),
        clip: op.clip.at(),
        scalars: op.scalars.at().cast(),
        len: op.parameter.len() as u64,
        beta1: factors.beta1,
        beta2: factors.beta2,
        complement1: factors.complement1,
        complement2: factors.complement2,
        epsilon: factors.epsilon,
        unused: 0,
    };
    native.call("adam", |table| table.adam, &arguments)
}

pub(in super::super) fn note_non_finite(native: &Native, op: NoteNonFinite<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_note_non_finite {
        sums: op.sums.at(),
        clip: op.clip.at(),
        scalars: op.scalars.at().cast(),
        first: op.first.at(),
        n_sums: op.sums.len() as u64,
    };
    native.call("note_non_finite", |table| table.note_non_finite, &arguments)
}

pub(in super::super) fn gradient_values(native: &Native, op: GradientValues<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gradient_values {
        lists: lists(op.lists),
        w_dec: operand(op.w_dec),
        gradient: op.gradient.at(),
        value_gradient: op.value_gradient.at(),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        type_: element_type(op.w_dec),
        unused: 0,
    };
    native.call("gradient_values", |table| table.gradient_values, &arguments)
}
