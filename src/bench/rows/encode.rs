//! Rows of the encoders. With inputs of deviation 1 and weights of deviation `1 / sqrt(D)` every
//! pre-activation has deviation 1; biases that differ make latents that fire often and rarely.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![
        encode_topk(s),
        encode_topk_bf16(s),
        encode_relu(s),
        encode_batch_topk(s),
        encode_jumprelu(s),
        encode_relu_dense(s),
        encode_dead_topk(s),
    ]
}

/// Deviation of biases, in deviations of a pre-activation.
pub(super) const BIAS_DEVIATION: f32 = 0.3;

/// The mean bias with which `active` of all latents fire: 60 of 24,576 normal numbers exceed 2.81
/// deviations, here those of pre-activation and bias together.
pub(super) fn sparse_bias() -> f32 {
    -2.81 * (1.0 + BIAS_DEVIATION * BIAS_DEVIATION).sqrt()
}

/// What the encoder is given.
pub(super) struct Operands<B: Backend> {
    input: B::Buffer<f32>,
    w_enc: B::Buffer<f32>,
    b_enc: B::Buffer<f32>,
    s: SaeSizes,
}

impl<B: Backend> Operands<B> {
    pub(super) fn new(data: &mut Data<'_, B>, s: SaeSizes, bias: f32) -> Result<Self> {
        Ok(Operands {
            input: data.normal(s.batch())?,
            w_enc: data.scaled(s.weights(), 0.0, 1.0 / (s.d_in as f32).sqrt())?,
            b_enc: data.scaled(s.d_sae, bias, BIAS_DEVIATION)?,
            s,
        })
    }

    pub(super) fn encoder(&self) -> Encoder<'_, B> {
        let SaeSizes { rows, d_in, d_sae, .. } = self.s;
        let (input, w_enc) = (Matrix::F32(&self.input), Matrix::F32(&self.w_enc));
        Encoder { input, w_enc, b_enc: &self.b_enc, rows, d_in, d_sae }
    }
}

/// The product with `latents` latents and lists of so many entries.
fn work(s: SaeSizes, latents: usize, entries: usize) -> Work {
    let operands = s.batch() + latents * s.d_in + latents;
    Work::flops(2 * s.batch() * latents) + Work::bytes(4 * operands + 8 * entries + 4 * s.rows)
}

pub(super) fn encode_topk<B: Backend>(s: SaeSizes) -> Row<B> {
    let work = work(s, s.d_sae, s.entries()) + Work::bytes(4 * s.d_sae);
    Row::new("encode_topk", s.size_k(s.k), work, move |data| {
        let operands = Operands::new(data, s, 0.0)?;
        let (norm, mut lists) = (data.positive(s.d_sae)?, data.empty_lists(s.rows, s.k)?);
        Ok(Box::new(move |backend: &B| {
            let encoder = operands.encoder();
            let (rank, decoder_norm) = (Rank::Value, Some(&norm));
            backend.encode_topk(EncodeTopk { encoder, rank, decoder_norm, k: s.k, lists: &mut lists })
        }))
    })
}

/// The same with bf16 operands.
pub(super) fn encode_topk_bf16<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_in, d_sae, k, .. } = s;
    let product = Work { bf16_flops: 2 * (s.batch() * d_sae) as u64, ..Work::default() };
    let operands = Work::bytes(2 * (s.batch() + s.weights()) + 8 * d_sae);
    let work = product + operands + Work::bytes(8 * s.entries() + 4 * rows);
    Row::new("encode_topk_bf16", s.size_k(k), work, move |data| {
        let input = data.scaled_bf16(s.batch(), 0.0, 1.0)?;
        let w_enc = data.scaled_bf16(s.weights(), 0.0, 1.0 / (d_in as f32).sqrt())?;
        let (b_enc, norm) = (data.scaled(d_sae, 0.0, BIAS_DEVIATION)?, data.positive(d_sae)?);
        let mut lists = data.empty_lists(rows, k)?;
        Ok(Box::new(move |backend: &B| {
            let (input, w_enc) = (Matrix::Bf16(&input), Matrix::Bf16(&w_enc));
            let encoder = Encoder { input, w_enc, b_enc: &b_enc, rows, d_in, d_sae };
            let (rank, decoder_norm) = (Rank::Value, Some(&norm));
            backend.encode_topk(EncodeTopk { encoder, rank, decoder_norm, k, lists: &mut lists })
        }))
    })
}

pub(super) fn encode_relu<B: Backend>(s: SaeSizes) -> Row<B> {
    let size = format!("{}, L0 about {}", s.size(), s.active());
    Row::new("encode_relu", size, work(s, s.d_sae, s.rows * s.active()), move |data| {
        let operands = Operands::new(data, s, sparse_bias())?;
        // The room that a training step gives.
        let (mut lists, mut longest) = (data.empty_lists(s.rows, (s.d_sae / 4).max(1))?, data.zeros(1)?);
        Ok(Box::new(move |backend: &B| {
            let encoder = operands.encoder();
            backend.encode_relu(EncodeRelu { encoder, lists: &mut lists, longest: &mut longest })
        }))
    })
}

fn encode_batch_topk<B: Backend>(s: SaeSizes) -> Row<B> {
    let work = work(s, s.d_sae, s.entries()) + Work::bytes(4 * s.d_sae);
    Row::new("encode_batch_topk", s.size_k(s.k), work, move |data| {
        let operands = Operands::new(data, s, 0.0)?;
        let (norm, mut threshold) = (data.positive(s.d_sae)?, data.zeros(1)?);
        let (mut lists, mut longest) = (data.empty_lists(s.rows, (4 * s.k).min(s.d_sae))?, data.zeros(1)?);
        Ok(Box::new(move |backend: &B| {
            let selection = EncodeBatchTopk {
                encoder: operands.encoder(),
                decoder_norm: Some(&norm),
                n: s.entries(),
                threshold_lr: 0.01,
                threshold: &mut threshold,
                lists: &mut lists,
                longest: &mut longest,
            };
            backend.encode_batch_topk(selection)
        }))
    })
}

fn encode_jumprelu<B: Backend>(s: SaeSizes) -> Row<B> {
    let entries = s.rows * s.active();
    let size = format!("{}, L0 about {}", s.size(), s.active());
    let work = work(s, s.d_sae, entries) + Work::bytes(4 * s.d_sae + 4 * entries);
    Row::new("encode_jumprelu", size, work, move |data| {
        let operands = Operands::new(data, s, sparse_bias())?;
        let (threshold, mut longest) = (data.zeros(s.d_sae)?, data.zeros(1)?);
        let stride = (s.d_sae / 4).max(1);
        let (mut lists, mut pre_activations) = (data.empty_lists(s.rows, stride)?, data.zeros(s.rows * stride)?);
        Ok(Box::new(move |backend: &B| {
            let encoding = EncodeJumpRelu {
                encoder: operands.encoder(),
                threshold: &threshold,
                bandwidth: Some(0.05),
                lists: &mut lists,
                longest: &mut longest,
                pre_activations: Some(&mut pre_activations),
            };
            backend.encode_jumprelu(encoding)
        }))
    })
}

pub(super) fn encode_relu_dense<B: Backend>(s: SaeSizes) -> Row<B> {
    let work = work(s, s.d_sae, 0) + Work::bytes(4 * s.dense());
    Row::new("encode_relu_dense", s.size(), work, move |data| {
        let operands = Operands::new(data, s, 0.0)?;
        let (mut features, mut counts) = (data.zeros(s.dense())?, data.zeros(s.rows)?);
        Ok(Box::new(move |backend: &B| {
            let encoder = operands.encoder();
            backend.encode_relu_dense(EncodeReluDense { encoder, features: &mut features, counts: &mut counts })
        }))
    })
}

fn encode_dead_topk<B: Backend>(s: SaeSizes) -> Row<B> {
    let (n_dead, k) = (s.dead(), s.auxiliary_k());
    let size = format!("{}, {n_dead} dead", s.size_k(k));
    let work = work(s, n_dead, s.rows * k) + Work::bytes(8 * n_dead);
    Row::new("encode_dead_topk", size, work, move |data| {
        let operands = Operands::new(data, s, 0.0)?;
        let (norm, dead) = (data.positive(s.d_sae)?, data.dead(DEAD_PART, s.d_sae)?);
        let mut lists = data.empty_lists(s.rows, k)?;
        Ok(Box::new(move |backend: &B| {
            backend.encode_dead_topk(EncodeDeadTopk {
                encoder: operands.encoder(),
                rank: Rank::Value,
                decoder_norm: Some(&norm),
                dead: &dead,
                k,
                lists: &mut lists,
            })
        }))
    })
}
