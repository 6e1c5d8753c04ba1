//! A decoder whose rows keep norm 1: what a gradient has along its row is taken off before Adam, and the
//! rows are brought back to norm 1 after it. Source: Bricken et al. 2023, "Towards Monosemanticity", and
//! `normalize_sae_decoder` of SAELens before version 6.
//!
//! A gradient `[F, D]` is a batch of as many rows, each with one feature, its own latent: so that
//! decoding `<g, w>` and comparing it with `g` leaves `g - <g, w> w`.

use crate::backend::*;
use crate::error::Result;

/// The work space of it.
pub struct UnitNorm<B: Backend> {
    d_sae: usize,
    d_in: usize,
    /// Latent `i` in row `i`, with what the gradient has along it.
    lists: FeatureLists<B>,
    along: B::Buffer<f32>,
    projected: B::Buffer<f32>,
    normalized: B::Buffer<f32>,
    row_scale: B::Buffer<f32>,
    row_shift: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
}

impl<B: Backend> UnitNorm<B> {
    /// Work space for decoders `[d_sae, d_in]`.
    pub fn new(backend: &B, [d_sae, d_in]: [usize; 2]) -> Result<Self> {
        let latents: Vec<u32> = (0..d_sae as u32).collect();
        let (counts, indices) = (backend.upload(&vec![1u32; d_sae])?, backend.upload(&latents)?);
        Ok(UnitNorm {
            d_sae,
            d_in,
            lists: FeatureLists { rows: d_sae, stride: 1, counts, indices, values: backend.zeros(d_sae)? },
            along: backend.zeros(d_sae)?,
            projected: backend.zeros(d_sae * d_in)?,
            normalized: backend.zeros(d_sae * d_in)?,
            row_scale: backend.zeros(d_sae)?,
            row_shift: backend.zeros(d_sae)?,
            squared_error: backend.zeros(d_sae)?,
        })
    }

    /// `gradient -= <gradient, w> w`, row by row, for rows `w` of norm 1.
    pub fn project(&mut self, backend: &B, w_dec: &B::Buffer<f32>, gradient: &mut B::Buffer<f32>) -> Result<()> {
        let (rows, d_in) = (self.d_sae, self.d_in);
        let (lists, value_gradient) = (&self.lists, &mut self.along);
        let w_dec = Matrix::F32(w_dec);
        backend.gradient_values(GradientValues { lists, w_dec, gradient, rows, d_in, value_gradient })?;
        backend.copy(&self.along, 0, &mut self.lists.values, 0, rows)?;
        backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec,
                b_dec: None,
                target: gradient,
                denormalize: None,
                gradient_scale: -1.0,
                rows,
                d_in,
                d_sae: rows,
                reconstruction: None,
                gradient: &mut self.projected,
                squared_error: &mut self.squared_error,
            },
            lists: &self.lists,
            dead_weight: None,
            value_gradient: None,
        })?;
        backend.copy(&self.projected, 0, gradient, 0, rows * d_in)
    }

    /// Brings every row to norm 1. A row of zeros has no direction, and is not finite afterwards.
    pub fn normalize(&mut self, backend: &B, w_dec: &mut B::Buffer<f32>) -> Result<()> {
        let (rows, d_in) = (self.d_sae, self.d_in);
        backend.prepare_input(PrepareInput {
            x: w_dec,
            scale: 1.0,
            normalization: RowNormalization::ConstantNorm,
            b_dec: None,
            rows,
            d_in,
            target: &mut self.projected,
            input: &mut self.normalized,
            row_scale: &mut self.row_scale,
            row_shift: &mut self.row_shift,
        })?;
        let factor = 1.0 / (d_in as f32).sqrt();
        backend.scale(Scale { from: &self.normalized, factor, len: rows * d_in, to: w_dec })
    }
}

/// Bytes of [`UnitNorm`].
pub(crate) fn bytes(d_sae: u64, d_in: u64) -> u64 {
    4 * (2 * d_sae * d_in + 7 * d_sae)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers up to 10 in f32: one rounding of them is 1e-6.
    #[test]
    fn a_row_of_three_four_is_brought_to_norm_one_and_its_gradient_to_a_right_angle() {
        let mut unit_norm = UnitNorm::new(&Cpu, [2, 2]).unwrap();
        let mut w_dec = vec![3.0, 4.0, 0.0, -2.0];
        unit_norm.normalize(&Cpu, &mut w_dec).unwrap();
        let close = |found: &[f32], expected: &[f32]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, expected {expected:?}");
        };
        close(&w_dec, &[0.6, 0.8, 0.0, -1.0]);
        // Along the first row 10 * 0.6 + 5 * 0.8 = 10, along the second 7.
        let mut gradient = vec![10.0, 5.0, 3.0, -7.0];
        unit_norm.project(&Cpu, &w_dec, &mut gradient).unwrap();
        close(&gradient, &[4.0, -3.0, 3.0, 0.0]);
    }
}
