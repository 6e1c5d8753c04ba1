//! Arguments of JumpReLU's gradients. Source: SAELens `jumprelu_sae.py`, after Rajamanoharan et al.
//! 2024 (arXiv 2407.14435).

use super::*;
use crate::backend::{need, require, Backend, Buffer};
use crate::error::Result;

/// JumpReLU's sparsity term of a row, before its coefficient (SAELens'
/// `jumprelu_sparsity_loss_mode`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum JumpReluSparsity {
    /// The number of active latents.
    Step,
    /// `Σ_i tanh(scale f_i n_i)` with `n` the decoder norms.
    Tanh {
        /// SAELens' `jumprelu_tanh_scale`.
        scale: f32,
    },
    /// `2 / target (L0 - target)²`.
    Quadratic {
        /// SAELens' `target_l0`.
        target: f32,
    },
}

/// From the gradient of each listed value to those of its pre-activation and threshold, by the
/// straight-through estimators; adds the sparsity term. With `θ` the threshold, `ε` the bandwidth,
/// `r = 1[|h - θ| < ε / 2]`, `g` the gradient of the value, the tanh term's included, and `s` that of
/// the step function:
/// `dθ = -r (θ g + s) / ε`, `dh = 1[h > θ] g`, and `- dθ` more with `ste_to_input`.
pub struct JumpReluGradient<'a, B: Backend> {
    /// The features, of `encode_jumprelu` with this bandwidth.
    pub lists: &'a FeatureLists<B>,
    /// `h` of every entry `[B, stride]`.
    pub pre_activations: &'a B::Buffer<f32>,
    /// `[F]`.
    pub threshold: &'a B::Buffer<f32>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// Width of the window.
    pub bandwidth: f32,
    /// Whether the estimators' gradient reaches the pre-activation too.
    pub ste_to_input: bool,
    /// The sparsity term.
    pub sparsity: JumpReluSparsity,
    /// Where the factor on the term is: its `coefficient`.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// `1 / B` for the mean over a batch.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// In: the gradient of each listed value; out: that of its pre-activation `[B, stride]`.
    pub value_gradient: &'a mut B::Buffer<f32>,
    /// Out: that of its threshold `[B, stride]`.
    pub threshold_gradient: &'a mut B::Buffer<f32>,
    /// Out: that of its decoder norm `[B, stride]`.
    pub norm_gradient: &'a mut B::Buffer<f32>,
    /// Out: active latents of each row `[B]`.
    pub active: &'a mut B::Buffer<u32>,
    /// Out `[B]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> JumpReluGradient<'_, B> {
    /// Whether the buffers fit the dimensions and the bandwidth is positive.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("jumprelu_gradient", self.rows * self.lists.stride);
        self.lists.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "pre_activations", self.pre_activations.len(), n)?;
        need(op, "value_gradient", self.value_gradient.len(), n)?;
        need(op, "threshold_gradient", self.threshold_gradient.len(), n)?;
        need(op, "norm_gradient", self.norm_gradient.len(), n)?;
        need(op, "decoder_norm", self.decoder_norm.len(), self.threshold.len())?;
        need(op, "scalars", self.scalars.len(), 1)?;
        need(op, "active", self.active.len(), self.rows)?;
        need(op, "loss", self.loss.len(), self.rows)?;
        require(op, self.bandwidth > 0.0, || format!("the bandwidth is {}, not more than 0", self.bandwidth))
    }
}

/// Anthropic's pre-activation loss on dead latents: `coefficient Σ_i ReLU(θ_i - h_i) n_i` for each
/// row, and its gradients, added to what is there.
pub struct PreActLoss<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// `[F]`.
    pub threshold: &'a B::Buffer<f32>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// `[F, D]`.
    pub w_dec: &'a B::Buffer<f32>,
    /// The dead latents.
    pub dead: &'a DeadLatents<B>,
    /// Factor on the term.
    pub coefficient: f32,
    /// `1 / B` for the mean over a batch.
    pub gradient_scale: f32,
    /// In and out: the weights' gradients; always added to.
    pub out: WeightGradients<'a, B>,
    /// In and out `[F]`: added to.
    pub threshold_gradient: &'a mut B::Buffer<f32>,
    /// Out: the loss of each dead latent, summed over the batch `[F]`; 0 for the others.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> PreActLoss<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, Encoder { d_in, d_sae, .. }) = ("pre_act_loss", &self.encoder);
        self.encoder.check(op)?;
        require(op, self.encoder.input.f32().is_some(), || "the operands are bf16, expected f32".into())?;
        need(op, "threshold", self.threshold.len(), *d_sae)?;
        need(op, "decoder_norm", self.decoder_norm.len(), *d_sae)?;
        need(op, "w_dec", self.w_dec.len(), d_sae * d_in)?;
        self.dead.check(op, *d_sae)?;
        need(op, "threshold_gradient", self.threshold_gradient.len(), *d_sae)?;
        need(op, "loss", self.loss.len(), *d_sae)?;
        self.out.check(op, *d_in, *d_sae)
    }
}
