//! Arguments of the decoders.

use super::*;
use crate::backend::{need, require, Backend, Buffer, Matrix};
use crate::error::Result;

/// What undoes the normalisation of a batch: `x_hat = y * row_scale + row_shift`.
pub struct Denormalize<'a, B: Backend> {
    /// `[B]`.
    pub row_scale: &'a B::Buffer<f32>,
    /// `[B]`.
    pub row_shift: &'a B::Buffer<f32>,
}

/// AuxK's loss counts `min(n_dead / full, 1)`: few dead latents cannot explain much of an error.
/// Where none is dead, nothing is decoded or written.
pub struct DeadWeight<'a, B: Backend> {
    /// How many latents are dead `[1]`.
    pub n_dead: &'a B::Buffer<u32>,
    /// With so many, from 1, the loss counts in full.
    pub full: usize,
}

/// The decoder's weights, the target and what comes of it:
/// `x_hat = denormalise(f · w_dec + b_dec)`, `squared_error[b] = |x_hat - target|²`,
/// `gradient = gradient_scale * row_scale * (x_hat - target)`: the gradient of
/// `gradient_scale / 2 * Σ squared_error` with respect to the decoder's output.
pub struct Decoder<'a, B: Backend> {
    /// `[F, D]`; f32 in [`DecodeDense`].
    pub w_dec: Matrix<'a, B>,
    /// `[D]`; none in AuxK's reconstruction.
    pub b_dec: Option<&'a B::Buffer<f32>>,
    /// What the reconstruction is compared with `[B, D]`.
    pub target: &'a B::Buffer<f32>,
    /// Where the input was normalised row by row.
    pub denormalize: Option<Denormalize<'a, B>>,
    /// `2 / B` for the mean squared error of a batch.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out: `x_hat [B, D]`, where wanted.
    pub reconstruction: Option<&'a mut B::Buffer<f32>>,
    /// Out `[B, D]`.
    pub gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub squared_error: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Decoder<'_, B> {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let n = self.rows * self.d_in;
        need(op, "w_dec", self.w_dec.len(), self.d_sae * self.d_in)?;
        need(op, "target", self.target.len(), n)?;
        need(op, "gradient", self.gradient.len(), n)?;
        need(op, "squared_error", self.squared_error.len(), self.rows)?;
        if let Some(b_dec) = self.b_dec {
            need(op, "b_dec", b_dec.len(), self.d_in)?;
        }
        if let Some(denormalize) = &self.denormalize {
            need(op, "row_scale", denormalize.row_scale.len(), self.rows)?;
            need(op, "row_shift", denormalize.row_shift.len(), self.rows)?;
        }
        self.reconstruction.as_ref().map_or(Ok(()), |out| need(op, "reconstruction", out.len(), n))
    }
}

/// Decodes lists and, in the same gather, `value_gradient[b, j] = <gradient[b], w_dec[indices[b, j]]>`
/// where it is wanted.
pub struct DecodeSparse<'a, B: Backend> {
    /// Weights, target and outputs.
    pub decoder: Decoder<'a, B>,
    /// The features.
    pub lists: &'a FeatureLists<B>,
    /// In AuxK: a factor on the gradient.
    pub dead_weight: Option<DeadWeight<'a, B>>,
    /// Out `[B, stride]`; none to decode only.
    pub value_gradient: Option<&'a mut B::Buffer<f32>>,
}

impl<B: Backend> DecodeSparse<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        require("decode_sparse", self.decoder.d_in > 0, || "d_in is 0".into())?;
        self.decoder.check("decode_sparse")?;
        self.lists.check("decode_sparse")?;
        need("decode_sparse", "lists", self.lists.rows, self.decoder.rows)?;
        if let Some(weight) = &self.dead_weight {
            need("decode_sparse", "n_dead", weight.n_dead.len(), 1)?;
            require("decode_sparse", weight.full > 0, || "AuxK's weight is full with 0 dead latents".into())?;
        }
        self.value_gradient.as_ref().map_or(Ok(()), |out| {
            need("decode_sparse", "value_gradient", out.len(), self.decoder.rows * self.lists.stride)
        })
    }
}

/// Decodes dense features and `feature_gradient = gradient · w_decᵀ` where the feature is positive,
/// else 0.
pub struct DecodeDense<'a, B: Backend> {
    /// Weights, target and outputs.
    pub decoder: Decoder<'a, B>,
    /// `[B, F]`.
    pub features: &'a B::Buffer<f32>,
    /// Out `[B, F]`.
    pub feature_gradient: &'a mut B::Buffer<f32>,
    /// Whether the operands of both products are rounded to bf16.
    pub bf16: bool,
}

impl<B: Backend> DecodeDense<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let n = self.decoder.rows * self.decoder.d_sae;
        self.decoder.check("decode_dense")?;
        require("decode_dense", !self.decoder.w_dec.is_bf16(), || "w_dec is bf16; it is rounded here".into())?;
        need("decode_dense", "features", self.features.len(), n)?;
        need("decode_dense", "feature_gradient", self.feature_gradient.len(), n)
    }
}
