//! Arguments of the sparsity terms.

use super::*;
use crate::backend::{need, require, Backend, Buffer};
use crate::error::Result;

/// `loss[b] = coefficient * (Σ_i (f_i n_i)^p)^(1/p)` with `n` the decoder norms, on lists; adds
/// `gradient_scale` times its gradient to `value_gradient`, and writes the gradient with respect to
/// each listed `n_i` (same factor) to `norm_gradient`.
pub struct SparsityLp<'a, B: Backend> {
    /// The features.
    pub lists: &'a FeatureLists<B>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// Where the factor on the term is: its `coefficient`.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// The norm's `p` (SAELens' `lp_norm`), > 0.
    pub p: f32,
    /// `1 / B` for the mean over a batch.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// In and out `[B, stride]`.
    pub value_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B, stride]`.
    pub norm_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> SparsityLp<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("sparsity_lp", self.rows * self.lists.stride);
        require(op, self.p > 0.0, || "p is not greater than 0".into())?;
        self.lists.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "scalars", self.scalars.len(), 1)?;
        need(op, "value_gradient", self.value_gradient.len(), n)?;
        need(op, "norm_gradient", self.norm_gradient.len(), n)?;
        need(op, "loss", self.loss.len(), self.rows)
    }
}

/// As [`SparsityLp`] on dense features; `norm_gradient` is summed over the batch.
pub struct SparsityLpDense<'a, B: Backend> {
    /// `[B, F]`.
    pub features: &'a B::Buffer<f32>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// Where the factor on the term is: its `coefficient`.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// The norm's `p`, > 0.
    pub p: f32,
    /// `1 / B` for the mean over a batch.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// In and out `[B, F]`.
    pub feature_gradient: &'a mut B::Buffer<f32>,
    /// Out `[F]`.
    pub norm_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> SparsityLpDense<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("sparsity_lp_dense", self.rows * self.d_sae);
        require(op, self.p > 0.0, || "p is not greater than 0".into())?;
        need(op, "scalars", self.scalars.len(), 1)?;
        need(op, "features", self.features.len(), n)?;
        need(op, "feature_gradient", self.feature_gradient.len(), n)?;
        need(op, "decoder_norm", self.decoder_norm.len(), self.d_sae)?;
        need(op, "norm_gradient", self.norm_gradient.len(), self.d_sae)?;
        need(op, "loss", self.loss.len(), self.rows)
    }
}
