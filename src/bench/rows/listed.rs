//! Rows of what sums gradients from lists where they are used.

use super::*;
use crate::backend::*;
use crate::bench::data::{Operand, ADAM};

/// What is summed.
struct Sums<B: Backend> {
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    pre_gradient: B::Buffer<f32>,
    gradient: Operand<B>,
    input: Operand<B>,
    s: SaeSizes,
}

impl<B: Backend> Sums<B> {
    fn new(data: &mut Data<'_, B>, s: SaeSizes, k: usize, in_bf16: bool) -> Result<Self> {
        let (lists, mut by_latent) = lists::both(data, s, k)?;
        let pre_gradient = data.normal(s.rows * k)?;
        let (gradient, input) = (data.operand(s.batch(), in_bf16)?, data.operand(s.batch(), in_bf16)?);
        let SaeSizes { rows, d_sae, .. } = s;
        data.made(0, |backend: &B| {
            backend.transpose_lists(TransposeLists { lists: &lists, rows, d_sae, by_latent: &mut by_latent })
        })?;
        Ok(Sums { lists, by_latent, pre_gradient, gradient, input, s })
    }

    fn of(&self) -> ListedGradient<'_, B> {
        let Sums { lists, by_latent, pre_gradient, gradient, input, s } = self;
        let SaeSizes { rows, d_in, d_sae, .. } = *s;
        let (gradient, input) = (gradient.matrix(), input.matrix());
        let (norm_gradient, stored) = (None, None);
        ListedGradient { lists, by_latent, pre_gradient, gradient, input, norm_gradient, stored, rows, d_in, d_sae }
    }
}

/// Two rows of the batch, in f32 or in bf16, are gathered and added for every entry.
pub(super) fn work(s: SaeSizes, k: usize, in_bf16: bool) -> Work {
    let (entries, number) = (s.rows * k, if in_bf16 { 2 } else { 4 });
    Work::flops(4 * s.d_in * entries) + Work::bytes(2 * number * s.d_in * entries)
}

/// The squares, and the gradient of b_enc.
pub(super) fn gradient_squares<B: Backend>(s: SaeSizes, k: usize, in_bf16: bool) -> Row<B> {
    let name = if in_bf16 { "gradient_squares_bf16" } else { "gradient_squares" };
    Row::new(name, s.size_k(k), work(s, k, in_bf16) + Work::bytes(12 * s.d_sae), move |data| {
        let sums = Sums::new(data, s, k, in_bf16)?;
        let (w_dec, decoder_norm) = (data.normal(s.weights())?, data.positive(s.d_sae)?);
        let (mut b_enc, mut squares) = (data.zeros(s.d_sae)?, data.zeros(s.d_sae)?);
        Ok(Box::new(move |backend: &B| {
            let (of, w_dec, decoder_norm) = (&sums.of(), &w_dec, &decoder_norm);
            let (b_enc, squares) = (&mut b_enc, &mut squares);
            backend.gradient_squares(GradientSquares { of, w_dec, decoder_norm, b_enc, squares })
        }))
    })
}

/// A matrix's buffers.
struct State<B: Backend>([B::Buffer<f32>; 3]);

impl<B: Backend> State<B> {
    fn new(data: &mut Data<'_, B>, s: SaeSizes) -> Result<Self> {
        Ok(State([data.normal(s.weights())?, data.normal(s.weights())?, data.positive(s.weights())?]))
    }

    fn state(&mut self) -> AdamState<'_, B> {
        let State([parameter, exp_avg, exp_avg_sq]) = self;
        AdamState { parameter, exp_avg, exp_avg_sq }
    }
}

/// Of both matrices a parameter and two moments, in and out; and the norms.
pub(super) fn adam_sparse<B: Backend>(s: SaeSizes, k: usize, in_bf16: bool) -> Row<B> {
    let work = work(s, k, in_bf16) + Work::bytes(48 * s.weights() + 8 * s.d_sae);
    let name = if in_bf16 { "adam_sparse_bf16" } else { "adam_sparse" };
    Row::new(name, s.size_k(k), work, move |data| {
        let sums = Sums::new(data, s, k, in_bf16)?;
        let (mut w_enc, mut w_dec) = (State::new(data, s)?, State::new(data, s)?);
        let mut decoder_norm = data.positive(s.d_sae)?;
        let (clip, scalars) = (data.positive(1)?, data.scalars()?);
        Ok(Box::new(move |backend: &B| {
            backend.adam_sparse(AdamSparse {
                of: &sums.of(),
                w_enc: w_enc.state(),
                w_dec: w_dec.state(),
                decoder_norm: &mut decoder_norm,
                clip: &clip,
                scalars: &scalars,
                constants: ADAM,
            })
        }))
    })
}
