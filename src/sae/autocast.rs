//! `autocast`: the encoder's product of a training step takes bf16 operands, lists of features are decoded by W_dec in
//! bf16, and the sums over the batch that are the weights' gradients are of the encoder's input and the gradient of the
//! decoder's output in bf16. Products of dense features round their operands themselves. Parameters, sums and all else
//! stay f32; rounding counts as the identity, so that its own gradient is 1 (so does torch).

use super::architecture::Dims;
use crate::backend::*;
use crate::error::Result;

/// What the encoder's product, the decoder of lists and the weights' gradients are given, in bf16.
pub struct Rounded<B: Backend> {
    input: B::Buffer<bf16>,
    w_enc: B::Buffer<bf16>,
    w_dec: B::Buffer<bf16>,
    gradient: B::Buffer<bf16>,
    dims: Dims,
}

impl<B: Backend> Rounded<B> {
    /// Room for a batch and the weights.
    pub fn new(backend: &B, dims: Dims) -> Result<Self> {
        let Dims { rows, d_in, d_sae } = dims;
        let [input, gradient] = [backend.zeros(rows * d_in)?, backend.zeros(rows * d_in)?];
        let [w_enc, w_dec] = [backend.zeros(d_sae * d_in)?, backend.zeros(d_sae * d_in)?];
        Ok(Rounded { input, w_enc, w_dec, gradient, dims })
    }

    /// Takes a batch's input.
    pub fn take_input(&mut self, backend: &B, input: &B::Buffer<f32>) -> Result<()> {
        let len = self.dims.rows * self.dims.d_in;
        backend.round_bf16(RoundBf16 { from: input, len, to: &mut self.input })
    }

    /// Takes the weights, once they have changed.
    pub fn take_weights(&mut self, backend: &B, w_enc: &B::Buffer<f32>, w_dec: &B::Buffer<f32>) -> Result<()> {
        let len = self.dims.d_sae * self.dims.d_in;
        backend.round_bf16(RoundBf16 { from: w_enc, len, to: &mut self.w_enc })?;
        backend.round_bf16(RoundBf16 { from: w_dec, len, to: &mut self.w_dec })
    }

    /// Input and weights of the encoder.
    pub fn operands(&self) -> [Matrix<'_, B>; 2] {
        [Matrix::Bf16(&self.input), Matrix::Bf16(&self.w_enc)]
    }

    /// The decoder's weights.
    pub fn w_dec(&self) -> Matrix<'_, B> {
        Matrix::Bf16(&self.w_dec)
    }
}

/// What gradients of the weights are sums of: a gradient of the decoder's output, and the input. With `autocast` the
/// former is rounded now, in the place of the one before.
pub fn summands<'a, B: Backend>(
    backend: &B,
    rounded: Option<&'a mut Rounded<B>>,
    gradient: &'a B::Buffer<f32>,
    input: &'a B::Buffer<f32>,
) -> Result<[Matrix<'a, B>; 2]> {
    let Some(rounded) = rounded else { return Ok([gradient, input].map(Matrix::F32)) };
    let len = rounded.dims.rows * rounded.dims.d_in;
    backend.round_bf16(RoundBf16 { from: gradient, len, to: &mut rounded.gradient })?;
    Ok(rounded.summands())
}

impl<B: Backend> Rounded<B> {
    /// What [`summands`] gave last.
    pub fn summands(&self) -> [Matrix<'_, B>; 2] {
        [Matrix::Bf16(&self.gradient), Matrix::Bf16(&self.input)]
    }
}
