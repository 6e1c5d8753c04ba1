//! Arguments of what ghost gradients need besides lists and their products.

use crate::backend::{need, require, Backend, Buffer};
use crate::error::Result;

/// `to[i] = factor[i] e^x[i]`.
pub struct Exponential<'a, B: Backend> {
    /// `[len]`.
    pub x: &'a B::Buffer<f32>,
    /// `[len]`; none: 1.
    pub factor: Option<&'a B::Buffer<f32>>,
    /// Elements.
    pub len: usize,
    /// Out `[len]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Exponential<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "exponential";
        need(op, "x", self.x.len(), self.len)?;
        need(op, "to", self.to.len(), self.len)?;
        self.factor.map_or(Ok(()), |factor| need(op, "factor", factor.len(), self.len))
    }
}

/// With `r = error_scale error`, `s = |r| / (1e-6 + 2 |ghost|)` of a row, `e = s ghost - r` and
/// `m = r² / (e² + 1e-6)`: `loss = Σ_d m e²` and `gradient = gradient_scale m e s`, that of
/// `gradient_scale / 2 Σ loss` with respect to `ghost` where `s` and `m` are held still.
/// Source: Jermyn and Templeton 2024, "Ghost Grads", as SAELens before version 6 has it.
pub struct GhostError<'a, B: Backend> {
    /// What dead latents decode to `[B, D]`.
    pub ghost: &'a B::Buffer<f32>,
    /// A multiple of the error that they are to reconstruct `[B, D]`.
    pub error: &'a B::Buffer<f32>,
    /// The factor that makes it `r`.
    pub error_scale: f32,
    /// Factor on the gradient.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Out `[B, D]`.
    pub gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> GhostError<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("ghost_error", self.rows * self.d_in);
        require(op, self.d_in > 0, || "d_in is 0".into())?;
        need(op, "ghost", self.ghost.len(), n)?;
        need(op, "error", self.error.len(), n)?;
        need(op, "gradient", self.gradient.len(), n)?;
        need(op, "loss", self.loss.len(), self.rows)
    }
}
