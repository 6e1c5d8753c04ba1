//! Arguments of the gated architecture. Source: SAELens `gated_sae.py`, after Rajamanoharan et al. 2024
//! (arXiv 2404.16014).

use super::*;
use crate::backend::{need, Backend, Buffer};
use crate::error::Result;

/// From open gates to features. With `u = input · w_encᵀ`, a gate `π = u + b_gate > 0` lets through
/// `f = ReLU(m)`, `m = e^r_mag u + b_mag`, or `m` itself.
pub struct Gate<'a, B: Backend> {
    /// The open gates, value `π`.
    pub gates: &'a FeatureLists<B>,
    /// `[F]`.
    pub b_gate: &'a B::Buffer<f32>,
    /// `[F]`.
    pub b_mag: &'a B::Buffer<f32>,
    /// `[F]`.
    pub r_mag: &'a B::Buffer<f32>,
    /// Whether what is below 0 becomes 0.
    pub rectifies: bool,
    /// Rows (`B`).
    pub rows: usize,
    /// Out: the same latents, value `f`, which may be 0; of the gates' stride.
    pub features: &'a mut FeatureLists<B>,
}

impl<B: Backend> Gate<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "gate";
        self.gates.check(op)?;
        self.features.check(op)?;
        need(op, "gates", self.gates.rows, self.rows)?;
        need(op, "features", self.features.rows, self.rows)?;
        same_stride(op, self.gates, self.features)?;
        need(op, "b_mag", self.b_mag.len(), self.b_gate.len())?;
        need(op, "r_mag", self.r_mag.len(), self.b_gate.len())
    }
}

/// From the gradient of each feature's value to those of `u`, `b_mag` and `r_mag`.
pub struct GateGradient<'a, B: Backend> {
    /// The open gates, value `π`.
    pub gates: &'a FeatureLists<B>,
    /// What they let through.
    pub features: &'a FeatureLists<B>,
    /// `[F]`.
    pub b_gate: &'a B::Buffer<f32>,
    /// `[F]`.
    pub r_mag: &'a B::Buffer<f32>,
    /// Rows (`B`).
    pub rows: usize,
    /// In: the gradient of each value; out: that of `u` `[B, stride]`.
    pub value_gradient: &'a mut B::Buffer<f32>,
    /// Out: that of `b_mag` `[B, stride]`.
    pub b_mag_gradient: &'a mut B::Buffer<f32>,
    /// Out: that of `r_mag` `[B, stride]`.
    pub r_mag_gradient: &'a mut B::Buffer<f32>,
}

impl<B: Backend> GateGradient<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("gate_gradient", self.rows * self.gates.stride);
        self.gates.check(op)?;
        self.features.check(op)?;
        need(op, "gates", self.gates.rows, self.rows)?;
        need(op, "features", self.features.rows, self.rows)?;
        same_stride(op, self.gates, self.features)?;
        need(op, "r_mag", self.r_mag.len(), self.b_gate.len())?;
        need(op, "value_gradient", self.value_gradient.len(), n)?;
        need(op, "b_mag_gradient", self.b_mag_gradient.len(), n)?;
        need(op, "r_mag_gradient", self.r_mag_gradient.len(), n)
    }
}

fn same_stride<B: Backend>(op: &'static str, gates: &FeatureLists<B>, features: &FeatureLists<B>) -> Result<()> {
    crate::backend::require(op, gates.stride == features.stride, || {
        format!("the gates' stride {} is not the features' {}", gates.stride, features.stride)
    })
}
