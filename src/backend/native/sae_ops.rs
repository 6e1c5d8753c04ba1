//! The SAE's operations: Rust's arguments as C's. What they mean is said in `backend/sae_ops.rs` and
//! in `cuda/api.h`, whose names they share.

use super::memory::or_null;
use super::*;
use std::ptr::null_mut;

fn encoder(encoder: &Encoder<'_, Native>) -> ffi::cusae_encoder {
    ffi::cusae_encoder {
        input: encoder.input.at(),
        w_enc: encoder.w_enc.at(),
        b_enc: encoder.b_enc.at(),
        rows: encoder.rows as u64,
        d_in: encoder.d_in as u64,
        d_sae: encoder.d_sae as u64,
    }
}

fn lists(lists: &FeatureLists<Native>) -> ffi::cusae_lists {
    ffi::cusae_lists {
        counts: lists.counts.at(),
        indices: lists.indices.at(),
        values: lists.values.at(),
        stride: lists.stride as u64,
    }
}

fn latent_lists(lists: &LatentLists<Native>) -> ffi::cusae_latent_lists {
    ffi::cusae_latent_lists { offsets: lists.offsets.at(), entries: lists.entries.at() }
}

fn decoder(decoder: &Decoder<'_, Native>) -> ffi::cusae_decoder {
    ffi::cusae_decoder {
        w_dec: decoder.w_dec.at(),
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
        unused: 0,
    }
}

fn norm_gradient(norm: Option<&NormGradient<'_, Native>>) -> ffi::cusae_norm_gradient {
    ffi::cusae_norm_gradient {
        norm_gradient: or_null(norm.map(|norm| norm.norm_gradient)),
        decoder_norm: or_null(norm.map(|norm| norm.decoder_norm)),
        w_dec: or_null(norm.map(|norm| norm.w_dec)),
    }
}

fn weight_gradients(out: &WeightGradients<'_, Native>) -> ffi::cusae_weight_gradients {
    ffi::cusae_weight_gradients {
        w_enc: out.w_enc.at(),
        b_enc: out.b_enc.at(),
        w_dec: out.w_dec.at(),
        accumulate: out.accumulate.into(),
        unused: 0,
    }
}

pub(super) fn gather_rows(native: &Native, op: GatherRows<'_, Native>) -> Result<()> {
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

pub(super) fn scatter_rows(native: &Native, op: ScatterRows<'_, Native>) -> Result<()> {
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

pub(super) fn prepare_input(native: &Native, op: PrepareInput<'_, Native>) -> Result<()> {
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

pub(super) fn encode_topk(native: &Native, op: EncodeTopk<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_topk {
        encoder: encoder(&op.encoder),
        lists: lists(op.lists),
        decoder_norm: or_null(op.decoder_norm),
        k: op.k as u64,
    };
    native.call("encode_topk", |table| table.encode_topk, &arguments)
}

pub(super) fn encode_relu(native: &Native, op: EncodeRelu<'_, Native>) -> Result<ListsFit> {
    let longest: u32 = native.number(
        "encode_relu",
        |table| table.encode_relu,
        |longest| ffi::cusae_encode_relu { encoder: encoder(&op.encoder), lists: lists(op.lists), longest },
    )?;
    let longest = longest as usize;
    Ok(if longest > op.lists.stride { ListsFit::Overflow(longest) } else { ListsFit::All })
}

pub(super) fn encode_relu_dense(native: &Native, op: EncodeReluDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_relu_dense {
        encoder: encoder(&op.encoder),
        features: op.features.at(),
        counts: op.counts.at(),
    };
    native.call("encode_relu_dense", |table| table.encode_relu_dense, &arguments)
}

pub(super) fn encode_dead_topk(native: &Native, op: EncodeDeadTopk<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_encode_dead_topk {
        encoder: encoder(&op.encoder),
        lists: lists(op.lists),
        decoder_norm: or_null(op.decoder_norm),
        dead: op.dead.at(),
        n_dead: op.n_dead as u64,
        k: op.k as u64,
    };
    native.call("encode_dead_topk", |table| table.encode_dead_topk, &arguments)
}

pub(super) fn decode_sparse(native: &Native, op: DecodeSparse<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_decode_sparse {
        decoder: decoder(&op.decoder),
        lists: lists(op.lists),
        value_gradient: or_null(op.value_gradient.as_deref()),
    };
    native.call("decode_sparse", |table| table.decode_sparse, &arguments)
}

pub(super) fn decode_dense(native: &Native, op: DecodeDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_decode_dense {
        decoder: decoder(&op.decoder),
        features: op.features.at(),
        feature_gradient: op.feature_gradient.at(),
    };
    native.call("decode_dense", |table| table.decode_dense, &arguments)
}

pub(super) fn sparsity_lp(native: &Native, op: SparsityLp<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_sparsity_lp {
        lists: lists(op.lists),
        decoder_norm: op.decoder_norm.at(),
        value_gradient: op.value_gradient.at(),
        norm_gradient: op.norm_gradient.at(),
        loss: op.loss.at(),
        rows: op.rows as u64,
        coefficient: op.coefficient,
        p: op.p,
        gradient_scale: op.gradient_scale,
        unused: 0,
    };
    native.call("sparsity_lp", |table| table.sparsity_lp, &arguments)
}

pub(super) fn sparsity_lp_dense(native: &Native, op: SparsityLpDense<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_sparsity_lp_dense {
        features: op.features.at(),
        decoder_norm: op.decoder_norm.at(),
        feature_gradient: op.feature_gradient.at(),
        norm_gradient: op.norm_gradient.at(),
        loss: op.loss.at(),
        rows: op.rows as u64,
        d_sae: op.d_sae as u64,
        coefficient: op.coefficient,
        p: op.p,
        gradient_scale: op.gradient_scale,
        unused: 0,
    };
    native.call("sparsity_lp_dense", |table| table.sparsity_lp_dense, &arguments)
}

pub(super) fn transpose_lists(native: &Native, op: TransposeLists<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_transpose_lists {
        lists: lists(op.lists),
        by_latent: latent_lists(op.by_latent),
        rows: op.rows as u64,
        d_sae: op.d_sae as u64,
    };
    native.call("transpose_lists", |table| table.transpose_lists, &arguments)
}

pub(super) fn gradient_sparse(native: &Native, op: GradientSparse<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gradient_sparse {
        lists: lists(op.lists),
        by_latent: latent_lists(op.by_latent),
        pre_gradient: op.pre_gradient.at(),
        gradient: op.gradient.at(),
        input: op.input.at(),
        norm: norm_gradient(op.norm.as_ref()),
        out: weight_gradients(&op.out),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
        d_sae: op.d_sae as u64,
    };
    native.call("gradient_sparse", |table| table.gradient_sparse, &arguments)
}

pub(super) fn gradient_dense(native: &Native, op: GradientDense<'_, Native>) -> Result<()> {
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
    };
    native.call("gradient_dense", |table| table.gradient_dense, &arguments)
}

pub(super) fn gradient_b_dec(native: &Native, op: GradientBDec<'_, Native>) -> Result<()> {
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

pub(super) fn clip_scale(native: &Native, op: ClipScale<'_, Native>) -> Result<()> {
    const MAX: usize = ffi::CUSAE_MAX_GRADIENTS as usize;
    let n = op.gradients.len();
    require("clip_scale", n <= MAX, || format!("{n} gradients are given, at most {MAX} are possible"))?;
    let mut arguments = ffi::cusae_clip_scale {
        gradients: [null_mut::<f32>().cast_const(); MAX],
        lens: [0; MAX],
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

pub(super) fn adam(native: &Native, op: Adam<'_, Native>) -> Result<()> {
    let factors = op.factors();
    let arguments = ffi::cusae_adam {
        parameter: op.parameter.at(),
        gradient: op.gradient.at(),
        exp_avg: op.exp_avg.at(),
        exp_avg_sq: op.exp_avg_sq.at(),
        clip: op.clip.at(),
        len: op.parameter.len() as u64,
        step_size: factors.step_size,
        root_correction: factors.root_correction,
        beta1: factors.beta1,
        beta2: factors.beta2,
        complement1: factors.complement1,
        complement2: factors.complement2,
        epsilon: factors.epsilon,
        unused: 0,
    };
    native.call("adam", |table| table.adam, &arguments)
}

pub(super) fn row_norms(native: &Native, op: RowNorms<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_row_norms {
        matrix: op.matrix.at(),
        norms: op.norms.at(),
        rows: op.rows as u64,
        columns: op.columns as u64,
    };
    native.call("row_norms", |table| table.row_norms, &arguments)
}

pub(super) fn scale(native: &Native, op: Scale<'_, Native>) -> Result<()> {
    let arguments =
        ffi::cusae_scale { from: op.from.at(), to: op.to.at(), len: op.len as u64, factor: op.factor, unused: 0 };
    native.call("scale", |table| table.scale, &arguments)
}

pub(super) fn find_dead(native: &Native, op: FindDead<'_, Native>) -> Result<usize> {
    let n_dead: u32 = native.number(
        "find_dead",
        |table| table.find_dead,
        |n_dead| ffi::cusae_find_dead {
            since_fired: op.since_fired.at(),
            dead: op.dead.at(),
            n_dead,
            d_sae: op.d_sae as u64,
            window: op.window,
            unused: 0,
        },
    )?;
    Ok(n_dead as usize)
}

pub(super) fn update_firing(native: &Native, op: UpdateFiring<'_, Native>) -> Result<()> {
    let (offsets, features) = match op.features {
        Features::Lists(lists) => (lists.offsets.at(), null_mut()),
        Features::Dense(features) => (null_mut(), features.at()),
    };
    let arguments = ffi::cusae_update_firing {
        offsets,
        features,
        fired_count: op.fired_count.at(),
        since_fired: op.since_fired.at(),
        rows: op.rows as u64,
        d_sae: op.d_sae as u64,
    };
    native.call("update_firing", |table| table.update_firing, &arguments)
}

pub(super) fn row_variance(native: &Native, op: RowVariance<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_row_variance {
        x: op.x.at(),
        variance: op.variance.at(),
        rows: op.rows as u64,
        d_in: op.d_in as u64,
    };
    native.call("row_variance", |table| table.row_variance, &arguments)
}

pub(super) fn sum(native: &Native, values: &NativeBuffer<f32>, len: usize) -> Result<f64> {
    let arguments = |out| ffi::cusae_sum { values: values.at(), out, len: len as u64 };
    native.number("sum", |table| table.sum, arguments)
}

pub(super) fn sum_of_squares(native: &Native, values: &NativeBuffer<f32>, len: usize) -> Result<f64> {
    let arguments = |out| ffi::cusae_sum_of_squares { values: values.at(), out, len: len as u64 };
    native.number("sum_of_squares", |table| table.sum_of_squares, arguments)
}
