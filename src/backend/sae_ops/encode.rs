//! Arguments of the encoders.

use super::*;
use crate::backend::matrix::need_operands;
use crate::backend::{need, require, Backend, Buffer, Matrix};
use crate::error::Result;

/// The encoder's weights and one batch: `h = input · w_encᵀ + b_enc`.
pub struct Encoder<'a, B: Backend> {
    /// The encoder's input `[B, D]`.
    pub input: Matrix<'a, B>,
    /// `[F, D]`, of the input's type.
    pub w_enc: Matrix<'a, B>,
    /// `[F]`.
    pub b_enc: &'a B::Buffer<f32>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
}

impl<B: Backend> Encoder<'_, B> {
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        let (n, of_weights) = (self.rows * self.d_in, self.d_sae * self.d_in);
        need_operands(op, [("input", self.input, n), ("w_enc", self.w_enc, of_weights)])?;
        need(op, "b_enc", self.b_enc.len(), self.d_sae)
    }
}

/// What a selection compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rank {
    /// The values.
    #[default]
    Value,
    /// Their magnitudes (AbsTopK, arXiv 2510.00404).
    Magnitude,
}

/// For every row the `k` latents with the largest `h` (times the decoder norm, where given), ties
/// to the smaller latent; of these, the ones with `h > 0` are listed with value `h`. Ranked by
/// magnitude, the ones with `h != 0`. The selection is exact: the same set as a stable sort.
pub struct EncodeTopk<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// What is compared.
    pub rank: Rank,
    /// Norms of the decoder's rows `[F]`, where `rescale_acts_by_decoder_norm`.
    pub decoder_norm: Option<&'a B::Buffer<f32>>,
    /// Latents selected in each row, 1 to F.
    pub k: usize,
    /// Out: stride >= k.
    pub lists: &'a mut FeatureLists<B>,
}

impl<B: Backend> EncodeTopk<'_, B> {
    /// Whether the buffers fit the dimensions and 1 <= k <= F.
    pub fn check(&self) -> Result<()> {
        let op = "encode_topk";
        self.encoder.check(op)?;
        self.lists.check(op)?;
        require(op, (1..=self.encoder.d_sae).contains(&self.k), || {
            format!("k = {} is not between 1 and d_sae = {}", self.k, self.encoder.d_sae)
        })?;
        require(op, self.lists.stride >= self.k && self.lists.rows >= self.encoder.rows, || {
            format!(
                "lists of {} x {} are too small for {} x {}",
                self.lists.rows, self.lists.stride, self.encoder.rows, self.k
            )
        })?;
        self.decoder_norm.map_or(Ok(()), |norm| need(op, "decoder_norm", norm.len(), self.encoder.d_sae))
    }
}

/// The latents of every row with `h > 0`, value `h`.
pub struct EncodeRelu<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// Out: any stride from 1.
    pub lists: &'a mut FeatureLists<B>,
    /// Out `[1]`: entries of the longest row, listed or not. More than the stride: the lists are not valid.
    pub longest: &'a mut B::Buffer<u32>,
}

impl<B: Backend> EncodeRelu<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        self.encoder.check("encode_relu")?;
        self.lists.check("encode_relu")?;
        require("encode_relu", self.lists.stride > 0, || "lists of stride 0 have no room for entries".into())?;
        need("encode_relu", "lists", self.lists.rows, self.encoder.rows)?;
        need("encode_relu", "longest", self.longest.len(), 1)
    }
}

/// `features = max(h, 0)`, dense.
pub struct EncodeReluDense<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// Out `[B, F]`.
    pub features: &'a mut B::Buffer<f32>,
    /// Out: how many are positive in each row `[B]`.
    pub counts: &'a mut B::Buffer<u32>,
}

impl<B: Backend> EncodeReluDense<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        self.encoder.check("encode_relu_dense")?;
        need("encode_relu_dense", "features", self.features.len(), self.encoder.rows * self.encoder.d_sae)?;
        need("encode_relu_dense", "counts", self.counts.len(), self.encoder.rows)
    }
}

/// The `n` largest positive `h` (times the decoder norm, where given) of the whole batch, ties to the
/// smaller row, then the smaller latent; value `h`. The selection is exact. If every row's entries fit,
/// `threshold = (1 - threshold_lr) threshold + threshold_lr m` with `m` the smallest key selected, in
/// f64, unless none was. Source: SAELens `batchtopk_sae.py`.
pub struct EncodeBatchTopk<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// Norms of the decoder's rows `[F]`, where `rescale_acts_by_decoder_norm`.
    pub decoder_norm: Option<&'a B::Buffer<f32>>,
    /// Entries selected in the batch, 1 to `B F`.
    pub n: usize,
    /// Weight of this batch in the running mean of thresholds.
    pub threshold_lr: f64,
    /// In and out `[1]`.
    pub threshold: &'a mut B::Buffer<f64>,
    /// Out: any stride from 1.
    pub lists: &'a mut FeatureLists<B>,
    /// Out `[1]`: entries of the longest row, listed or not. More than the stride: the lists are not valid.
    pub longest: &'a mut B::Buffer<u32>,
}

impl<B: Backend> EncodeBatchTopk<'_, B> {
    /// Whether the buffers fit the dimensions and 1 <= n <= B F.
    pub fn check(&self) -> Result<()> {
        let (op, all) = ("encode_batch_topk", self.encoder.rows * self.encoder.d_sae);
        self.encoder.check(op)?;
        self.lists.check(op)?;
        require(op, self.lists.stride > 0, || "lists of stride 0 have no room for entries".into())?;
        need(op, "lists", self.lists.rows, self.encoder.rows)?;
        need(op, "threshold", self.threshold.len(), 1)?;
        need(op, "longest", self.longest.len(), 1)?;
        require(op, (1..=all).contains(&self.n), || {
            format!("n = {} is not between 1 and rows * d_sae = {all}", self.n)
        })?;
        self.decoder_norm.map_or(Ok(()), |norm| need(op, "decoder_norm", norm.len(), self.encoder.d_sae))
    }
}

/// The latents of every row with `h > threshold`, value `h`, unless both are negative; and for
/// training those within half a `bandwidth` of their threshold, value 0 where they are not above it.
/// Source: SAELens `jumprelu_sae.py`: `ReLU(h) 1[h > threshold]`, `rectangle`.
pub struct EncodeJumpRelu<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// `[F]`.
    pub threshold: &'a B::Buffer<f32>,
    /// Width of the straight-through estimator's window; none at inference.
    pub bandwidth: Option<f32>,
    /// Out: any stride from 1.
    pub lists: &'a mut FeatureLists<B>,
    /// Out `[1]`: entries of the longest row, listed or not. More than the stride: the lists are not valid.
    pub longest: &'a mut B::Buffer<u32>,
    /// Out: `h` of every entry `[B, stride]`, where wanted.
    pub pre_activations: Option<&'a mut B::Buffer<f32>>,
}

impl<B: Backend> EncodeJumpRelu<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "encode_jumprelu";
        self.encoder.check(op)?;
        self.lists.check(op)?;
        require(op, self.lists.stride > 0, || "lists of stride 0 have no room for entries".into())?;
        need(op, "lists", self.lists.rows, self.encoder.rows)?;
        need(op, "threshold", self.threshold.len(), self.encoder.d_sae)?;
        need(op, "longest", self.longest.len(), 1)?;
        let room = self.encoder.rows * self.lists.stride;
        self.pre_activations.as_ref().map_or(Ok(()), |out| need(op, "pre_activations", out.len(), room))
    }
}

/// AuxK's selection: for every row the `k` dead latents, or all if they are fewer, with the largest
/// `h` (times the decoder norm, where given), whatever its sign; value `h`.
pub struct EncodeDeadTopk<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// What is compared.
    pub rank: Rank,
    /// Norms of the decoder's rows `[F]`, where `rescale_acts_by_decoder_norm`.
    pub decoder_norm: Option<&'a B::Buffer<f32>>,
    /// The dead latents; without any the lists become empty.
    pub dead: &'a DeadLatents<B>,
    /// Latents selected in each row at most, from 1.
    pub k: usize,
    /// Out: stride >= k; every row gets as many entries.
    pub lists: &'a mut FeatureLists<B>,
}

impl<B: Backend> EncodeDeadTopk<'_, B> {
    /// Whether the buffers fit the dimensions and 1 <= k <= stride.
    pub fn check(&self) -> Result<()> {
        let op = "encode_dead_topk";
        self.encoder.check(op)?;
        self.lists.check(op)?;
        self.dead.check(op, self.encoder.d_sae)?;
        need(op, "lists", self.lists.rows, self.encoder.rows)?;
        require(op, (1..=self.lists.stride).contains(&self.k), || {
            format!("k = {} is not between 1 and the stride of the lists, {}", self.k, self.lists.stride)
        })?;
        self.decoder_norm.map_or(Ok(()), |norm| need(op, "decoder_norm", norm.len(), self.encoder.d_sae))
    }
}
