//! The language model's operations: Rust's arguments as C's. What they mean is said in
//! `backend/lm_ops.rs` and in `cuda/api.h`, whose names they share.

use super::memory::{element_type, operand, or_null};
use super::*;

pub(super) fn embed(native: &Native, op: Embed<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_embed {
        tokens: op.tokens.at(),
        w_e: op.w_e.at(),
        w_pos: op.w_pos.at(),
        embed: or_null(op.embed.as_deref()),
        pos_embed: or_null(op.pos_embed.as_deref()),
        resid: op.resid.at(),
        rows: op.rows as u64,
        context: op.context as u64,
        past: op.past as u64,
        d_model: op.d_model as u64,
        d_vocab: (op.w_e.len() / op.d_model.max(1)) as u64,
    };
    native.call("embed", |table| table.embed, &arguments)
}

pub(super) fn layer_norm(native: &Native, op: LayerNorm<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_layer_norm {
        x: op.x.at(),
        gain: or_null(op.gain),
        bias: or_null(op.bias),
        scale: or_null(op.scale.as_deref()),
        normalized: or_null(op.normalized.as_deref()),
        output: op.output.at(),
        rows: op.rows as u64,
        d_model: op.d_model as u64,
        epsilon: op.epsilon,
        from: match op.from {
            LayerNormFrom::Input => ffi::CUSAE_FROM_INPUT,
            LayerNormFrom::Scale => ffi::CUSAE_FROM_SCALE,
            LayerNormFrom::Normalized => ffi::CUSAE_FROM_NORMALIZED,
        },
    };
    native.call("layer_norm", |table| table.layer_norm, &arguments)
}

fn function(function: ActivationFunction) -> u32 {
    match function {
        ActivationFunction::Identity => ffi::CUSAE_IDENTITY,
        ActivationFunction::Relu => ffi::CUSAE_RELU,
        ActivationFunction::GeluTanh => ffi::CUSAE_GELU_TANH,
        ActivationFunction::GeluErf => ffi::CUSAE_GELU_ERF,
        ActivationFunction::Silu => ffi::CUSAE_SILU,
        ActivationFunction::QuickGelu => ffi::CUSAE_QUICK_GELU,
        ActivationFunction::Tanh => ffi::CUSAE_TANH,
    }
}

pub(super) fn linear(native: &Native, op: Linear<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_linear {
        x: operand(op.x),
        w: operand(op.w),
        bias: or_null(op.bias),
        residual: or_null(op.residual),
        out: op.out.at(),
        rows: op.rows as u64,
        d_input: op.d_input as u64,
        d_output: op.d_output as u64,
        w_is_transposed: op.w_is_transposed.into(),
        function: function(op.function),
        type_: element_type(op.x),
        unused: 0,
    };
    native.call("linear", |table| table.linear, &arguments)
}

pub(super) fn activate(native: &Native, op: Activate<'_, Native>) -> Result<()> {
    let arguments =
        ffi::cusae_activate { to: op.to.at(), len: op.len as u64, function: function(op.function), unused: 0 };
    native.call("activate", |table| table.activate, &arguments)
}

fn dims(dims: AttentionDims) -> ffi::cusae_attention_dims {
    ffi::cusae_attention_dims {
        rows: dims.rows as u64,
        context: dims.context as u64,
        past: dims.past as u64,
        room: dims.room as u64,
        n_heads: dims.n_heads as u64,
        d_head: dims.d_head as u64,
    }
}

pub(super) fn attention(native: &Native, op: Attention<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_attention {
        q: op.q.at(),
        k: op.k.at(),
        v: op.v.at(),
        z: op.z.at(),
        dims: dims(op.dims),
        scale: op.scale,
        unused: 0,
    };
    native.call("attention", |table| table.attention, &arguments)
}

pub(super) fn attention_pattern(native: &Native, op: AttentionPattern<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_attention_pattern {
        q: op.q.at(),
        k: op.k.at(),
        pattern: op.pattern.at(),
        dims: dims(op.dims),
        scale: op.scale,
        unused: 0,
    };
    native.call("attention_pattern", |table| table.attention_pattern, &arguments)
}

pub(super) fn attention_mix(native: &Native, op: AttentionMix<'_, Native>) -> Result<()> {
    let arguments =
        ffi::cusae_attention_mix { pattern: op.pattern.at(), v: op.v.at(), z: op.z.at(), dims: dims(op.dims) };
    native.call("attention_mix", |table| table.attention_mix, &arguments)
}

pub(super) fn add(native: &Native, op: Add<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_add { from: op.from.at(), to: op.to.at(), len: op.len as u64 };
    native.call("add", |table| table.add, &arguments)
}

pub(super) fn unembed_cross_entropy(native: &Native, op: UnembedCrossEntropy<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_unembed_cross_entropy {
        x: op.x.at(),
        w_u: op.w_u.at(),
        b_u: or_null(op.b_u),
        targets: op.targets.at(),
        loss: op.loss.at(),
        rows: op.rows as u64,
        d_model: op.d_model as u64,
        d_vocab: op.d_vocab as u64,
    };
    native.call("unembed_cross_entropy", |table| table.unembed_cross_entropy, &arguments)
}

pub(super) fn unembed_kl_divergence(native: &Native, op: UnembedKlDivergence<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_unembed_kl_divergence {
        x: op.x.at(),
        y: op.y.at(),
        w_u: op.w_u.at(),
        b_u: or_null(op.b_u),
        kl: op.kl.at(),
        rows: op.rows as u64,
        d_model: op.d_model as u64,
        d_vocab: op.d_vocab as u64,
    };
    native.call("unembed_kl_divergence", |table| table.unembed_kl_divergence, &arguments)
}

pub(super) fn sample_token(native: &Native, op: SampleToken<'_, Native>) -> Result<()> {
    let Sampling { temperature, top_k, top_p, seed } = op.sampling;
    let arguments = ffi::cusae_sample_token {
        logits: op.logits.at(),
        tokens: op.tokens.at(),
        rows: op.rows as u64,
        d_vocab: op.d_vocab as u64,
        top_k: top_k as u64,
        seed,
        step: op.step,
        temperature,
        top_p,
    };
    native.call("sample_token", |table| table.sample_token, &arguments)
}
