//! What JumpReLU and gated SAEs do with their lists: Rust's arguments as C's.

use super::super::*;
use super::*;

pub(in super::super) fn jumprelu_gradient(native: &Native, op: JumpReluGradient<'_, Native>) -> Result<()> {
    let (sparsity, parameter) = match op.sparsity {
        JumpReluSparsity::Step => (ffi::CUSAE_SPARSITY_STEP, 0.0),
        JumpReluSparsity::Tanh { scale } => (ffi::CUSAE_SPARSITY_TANH, scale),
        JumpReluSparsity::Quadratic { target } => (ffi::CUSAE_SPARSITY_QUADRATIC, target),
    };
    let arguments = ffi::cusae_jumprelu_gradient {
        lists: lists(op.lists),
        pre_activations: op.pre_activations.at(),
        threshold: op.threshold.at(),
        decoder_norm: op.decoder_norm.at(),
        value_gradient: op.value_gradient.at(),
        threshold_gradient: op.threshold_gradient.at(),
        norm_gradient: op.norm_gradient.at(),
        active: op.active.at(),
        loss: op.loss.at(),
        scalars: op.scalars.at().cast(),
        rows: op.rows as u64,
        bandwidth: op.bandwidth,
        ste_to_input: op.ste_to_input.into(),
        sparsity,
        parameter,
        gradient_scale: op.gradient_scale,
        unused: 0,
    };
    native.call("jumprelu_gradient", |table| table.jumprelu_gradient, &arguments)
}

pub(in super::super) fn pre_act_loss(native: &Native, op: PreActLoss<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_pre_act_loss {
        encoder: encoder(&op.encoder),
        threshold: op.threshold.at(),
        decoder_norm: op.decoder_norm.at(),
        w_dec: op.w_dec.at(),
        dead: op.dead.latents.at(),
        n_dead: op.dead.count.at(),
        out: weight_gradients(&op.out),
        threshold_gradient: op.threshold_gradient.at(),
        loss: op.loss.at(),
        coefficient: op.coefficient,
        gradient_scale: op.gradient_scale,
    };
    native.call("pre_act_loss", |table| table.pre_act_loss, &arguments)
}

pub(in super::super) fn gate(native: &Native, op: Gate<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gate {
        gates: lists(op.gates),
        features: lists(op.features),
        b_gate: op.b_gate.at(),
        b_mag: op.b_mag.at(),
        r_mag: op.r_mag.at(),
        rows: op.rows as u64,
        rectify: op.rectifies.into(),
        unused: 0,
    };
    native.call("gate", |table| table.gate, &arguments)
}

pub(in super::super) fn gate_gradient(native: &Native, op: GateGradient<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_gate_gradient {
        gates: lists(op.gates),
        features: lists(op.features),
        b_gate: op.b_gate.at(),
        r_mag: op.r_mag.at(),
        value_gradient: op.value_gradient.at(),
        b_mag_gradient: op.b_mag_gradient.at(),
        r_mag_gradient: op.r_mag_gradient.at(),
        rows: op.rows as u64,
    };
    native.call("gate_gradient", |table| table.gate_gradient, &arguments)
}
