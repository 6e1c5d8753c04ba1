//! `autocast`: the encoder's product of a training step takes bf16 operands. Parameters, sums and all that
//! follows the product stay f32; the gradients are those of the product with the operands as they were
//! before they were rounded, as if rounding were the identity (so does torch).

use super::architecture::Dims;
use crate::backend::*;
use crate::error::Result;

/// What the encoder's product is given, in bf16.
pub struct Rounded<B: Backend> {
    input: B::Buffer<bf16>,
    w_enc: B::Buffer<bf16>,
    dims: Dims,
}

impl<B: Backend> Rounded<B> {
    /// Room for a batch and the weights.
    pub fn new(backend: &B, dims: Dims) -> Result<Self> {
        let Dims { rows, d_in, d_sae } = dims;
        Ok(Rounded { input: backend.zeros(rows * d_in)?, w_enc: backend.zeros(d_sae * d_in)?, dims })
    }

    /// Takes a batch's input.
    pub fn take_input(&mut self, backend: &B, input: &B::Buffer<f32>) -> Result<()> {
        let len = self.dims.rows * self.dims.d_in;
        backend.round_bf16(RoundBf16 { from: input, len, to: &mut self.input })
    }

    /// Takes the weights, once they have changed.
    pub fn take_w_enc(&mut self, backend: &B, w_enc: &B::Buffer<f32>) -> Result<()> {
        let len = self.dims.d_sae * self.dims.d_in;
        backend.round_bf16(RoundBf16 { from: w_enc, len, to: &mut self.w_enc })
    }

    /// Input and weights.
    pub fn operands(&self) -> [Matrix<'_, B>; 2] {
        [Matrix::Bf16(&self.input), Matrix::Bf16(&self.w_enc)]
    }
}
