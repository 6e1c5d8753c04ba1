//! Rows of the decoders and of the sparsity terms.

use super::*;
use crate::backend::*;
use crate::bench::data::Operand;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![
        decode_sparse(s, s.k, false),
        decode_sparse(s, s.k, true),
        decode_dense(s, false),
        decode_dense(s, true),
        sparsity_lp(s, s.k),
        sparsity_lp_dense(s),
    ]
}

/// What a decoder is given, and where its results go.
struct Operands<B: Backend> {
    w_dec: Operand<B>,
    b_dec: B::Buffer<f32>,
    target: B::Buffer<f32>,
    gradient: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
    s: SaeSizes,
}

impl<B: Backend> Operands<B> {
    fn new(data: &mut Data<'_, B>, s: SaeSizes, w_dec_in_bf16: bool) -> Result<Self> {
        Ok(Operands {
            w_dec: data.operand(s.weights(), w_dec_in_bf16)?,
            b_dec: data.normal(s.d_in)?,
            target: data.normal(s.batch())?,
            gradient: data.zeros(s.batch())?,
            squared_error: data.zeros(s.rows)?,
            s,
        })
    }

    fn decoder(&mut self) -> Decoder<'_, B> {
        let SaeSizes { rows, d_in, d_sae, .. } = self.s;
        Decoder {
            w_dec: self.w_dec.matrix(),
            b_dec: Some(&self.b_dec),
            target: &self.target,
            denormalize: None,
            gradient_scale: 2.0 / rows as f32,
            rows,
            d_in,
            d_sae,
            reconstruction: None,
            gradient: &mut self.gradient,
            squared_error: &mut self.squared_error,
        }
    }
}

/// Rows of W_dec are gathered, in f32 or in bf16.
pub(super) fn decode_sparse<B: Backend>(s: SaeSizes, k: usize, in_bf16: bool) -> Row<B> {
    let (entries, width) = (s.rows * k, if in_bf16 { 2 } else { 4 });
    let work = Work::flops(4 * s.d_in * entries) + Work::bytes(width * s.d_in * entries + 12 * s.batch());
    Row::new(if in_bf16 { "decode_sparse_bf16" } else { "decode_sparse" }, s.size_k(k), work, move |data| {
        let mut operands = Operands::new(data, s, in_bf16)?;
        let (lists, mut value_gradient) = (data.lists(s.rows, s.d_sae, k)?, data.zeros(entries)?);
        Ok(Box::new(move |backend: &B| {
            let value_gradient = Some(&mut value_gradient);
            let decoder = operands.decoder();
            backend.decode_sparse(DecodeSparse { decoder, lists: &lists, dead_weight: None, value_gradient })
        }))
    })
}

pub(super) fn decode_dense<B: Backend>(s: SaeSizes, bf16: bool) -> Row<B> {
    // Features and weights for the reconstruction; then 16·D a row, and 8·F for the features' gradient.
    let moved = 4 * (s.dense() + s.weights()) + 16 * s.batch() + 8 * s.dense();
    let rounding = if bf16 { 6 * s.dense() + 12 * s.weights() + 6 * s.batch() } else { 0 };
    let work = Work::products(4 * s.dense() * s.d_in, bf16) + Work::bytes(moved + rounding);
    Row::new(if bf16 { "decode_dense_bf16" } else { "decode_dense" }, s.size(), work, move |data| {
        let mut operands = Operands::new(data, s, false)?;
        let (features, mut feature_gradient) = (data.rectified(s.dense())?, data.zeros(s.dense())?);
        Ok(Box::new(move |backend: &B| {
            let (decoder, feature_gradient) = (operands.decoder(), &mut feature_gradient);
            backend.decode_dense(DecodeDense { decoder, features: &features, feature_gradient, bf16 })
        }))
    })
}

pub(super) fn sparsity_lp<B: Backend>(s: SaeSizes, k: usize) -> Row<B> {
    let (rows, entries) = (s.rows, s.rows * k);
    Row::new("sparsity_lp", s.size_k(k), Work::bytes(20 * entries), move |data| {
        let (lists, norm) = (data.lists(rows, s.d_sae, k)?, data.positive(s.d_sae)?);
        let (mut value_gradient, mut norm_gradient) = (data.zeros(entries)?, data.zeros(entries)?);
        let (mut loss, scalars) = (data.zeros(rows)?, data.scalars()?);
        Ok(Box::new(move |backend: &B| {
            backend.sparsity_lp(SparsityLp {
                lists: &lists,
                decoder_norm: &norm,
                scalars: &scalars,
                p: 1.0,
                gradient_scale: 1.0 / rows as f32,
                rows,
                value_gradient: &mut value_gradient,
                norm_gradient: &mut norm_gradient,
                loss: &mut loss,
            })
        }))
    })
}

pub(super) fn sparsity_lp_dense<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_sae, .. } = s;
    Row::new("sparsity_lp_dense", s.size(), Work::bytes(16 * s.dense()), move |data| {
        let (features, norm) = (data.rectified(s.dense())?, data.positive(d_sae)?);
        let (mut feature_gradient, mut norm_gradient) = (data.zeros(s.dense())?, data.zeros(d_sae)?);
        let (mut loss, scalars) = (data.zeros(rows)?, data.scalars()?);
        Ok(Box::new(move |backend: &B| {
            backend.sparsity_lp_dense(SparsityLpDense {
                features: &features,
                decoder_norm: &norm,
                scalars: &scalars,
                p: 1.0,
                gradient_scale: 1.0 / rows as f32,
                rows,
                d_sae,
                feature_gradient: &mut feature_gradient,
                norm_gradient: &mut norm_gradient,
                loss: &mut loss,
            })
        }))
    })
}
