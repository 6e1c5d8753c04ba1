//! Rows of the gradients.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![
        gradient_values(s),
        gradient_sparse(s, s.k, false),
        gradient_sparse(s, s.k, true),
        listed::gradient_squares(s, s.k, false),
        listed::gradient_squares(s, s.k, true),
        gradient_dense(s, false),
        gradient_dense(s, true),
        gradient_b_dec(s),
    ]
}

/// Gradients of the weights, before anything was written there.
pub(super) struct Out<B: Backend> {
    w_enc: B::Buffer<f32>,
    b_enc: B::Buffer<f32>,
    w_dec: B::Buffer<f32>,
}

impl<B: Backend> Out<B> {
    pub(super) fn new(data: &mut Data<'_, B>, s: SaeSizes) -> Result<Self> {
        Ok(Out { w_enc: data.zeros(s.weights())?, b_enc: data.zeros(s.d_sae)?, w_dec: data.zeros(s.weights())? })
    }

    pub(super) fn weights(&mut self, accumulate: bool) -> WeightGradients<'_, B> {
        let Out { w_enc, b_enc, w_dec } = self;
        WeightGradients { w_enc, b_enc, w_dec, accumulate, only_listed: false }
    }
}

fn gradient_values<B: Backend>(s: SaeSizes) -> Row<B> {
    let (SaeSizes { rows, d_in, d_sae, k }, entries) = (s, s.entries());
    let work = Work::flops(2 * d_in * entries) + Work::bytes(4 * d_in * entries + 4 * s.batch() + 8 * entries);
    Row::new("gradient_values", s.size_k(k), work, move |data| {
        let (lists, w_dec) = (data.lists(rows, d_sae, k)?, data.normal(s.weights())?);
        let (gradient, mut value_gradient) = (data.normal(s.batch())?, data.zeros(entries)?);
        Ok(Box::new(move |backend: &B| {
            let (lists, w_dec, gradient) = (&lists, Matrix::F32(&w_dec), &gradient);
            let value_gradient = &mut value_gradient;
            backend.gradient_values(GradientValues { lists, w_dec, gradient, rows, d_in, value_gradient })
        }))
    })
}

/// Rows of the batch are gathered, in f32 or in bf16.
fn gradient_sparse<B: Backend>(s: SaeSizes, k: usize, in_bf16: bool) -> Row<B> {
    let (SaeSizes { rows, d_in, d_sae, .. }, entries) = (s, s.rows * k);
    let work = listed::work(s, k, in_bf16) + Work::bytes(8 * s.weights());
    let name = if in_bf16 { "gradient_sparse_bf16" } else { "gradient_sparse" };
    Row::new(name, s.size_k(k), work, move |data| {
        let (lists, mut by_latent) = lists::both(data, s, k)?;
        let pre_gradient = data.normal(entries)?;
        let (gradient, input) = (data.operand(s.batch(), in_bf16)?, data.operand(s.batch(), in_bf16)?);
        let mut out = Out::new(data, s)?;
        data.made(0, |backend: &B| {
            backend.transpose_lists(TransposeLists { lists: &lists, rows, d_sae, by_latent: &mut by_latent })
        })?;
        Ok(Box::new(move |backend: &B| {
            backend.gradient_sparse(GradientSparse {
                lists: &lists,
                by_latent: &by_latent,
                pre_gradient: &pre_gradient,
                gradient: gradient.matrix(),
                input: input.matrix(),
                norm: None,
                rows,
                d_in,
                d_sae,
                out: out.weights(false),
            })
        }))
    })
}

pub(super) fn gradient_dense<B: Backend>(s: SaeSizes, bf16: bool) -> Row<B> {
    let SaeSizes { rows, d_in, d_sae, .. } = s;
    // Features, their gradient and the batch twice; then 8·D a latent, and 4·B·F for b_enc.
    let moved = 8 * (s.dense() + s.batch()) + 8 * s.weights() + 4 * s.dense();
    let rounding = if bf16 { 12 * (s.dense() + s.batch()) } else { 0 };
    let work = Work::products(4 * s.dense() * d_in, bf16) + Work::bytes(moved + rounding);
    Row::new(if bf16 { "gradient_dense_bf16" } else { "gradient_dense" }, s.size(), work, move |data| {
        let (features, pre_gradient) = (data.rectified(s.dense())?, data.normal(s.dense())?);
        let (gradient, input) = (data.normal(s.batch())?, data.normal(s.batch())?);
        let mut out = Out::new(data, s)?;
        Ok(Box::new(move |backend: &B| {
            backend.gradient_dense(GradientDense {
                features: &features,
                pre_gradient: &pre_gradient,
                gradient: &gradient,
                input: &input,
                norm: None,
                rows,
                d_in,
                d_sae,
                bf16,
                out: out.weights(false),
            })
        }))
    })
}

pub(super) fn gradient_b_dec<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_in, d_sae, .. } = s;
    let work = Work::flops(2 * s.weights()) + Work::bytes(4 * (s.batch() + s.weights()));
    Row::new("gradient_b_dec", s.size(), work, move |data| {
        let gradient = data.normal(s.batch())?;
        let (w_enc, b_enc_gradient) = (data.normal(s.weights())?, data.normal(d_sae)?);
        let mut out = data.zeros(d_in)?;
        Ok(Box::new(move |backend: &B| {
            let through_encoder = Some(ThroughEncoder { w_enc: &w_enc, b_enc_gradient: &b_enc_gradient });
            backend.gradient_b_dec(GradientBDec {
                gradient: &gradient,
                through_encoder,
                rows,
                d_in,
                d_sae,
                out: &mut out,
            })
        }))
    })
}
