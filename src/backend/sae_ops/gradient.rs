//! Arguments of the gradients.

use super::*;
use crate::backend::matrix::need_operands;
use crate::backend::{need, require, Backend, Buffer, Matrix};
use crate::error::Result;

/// Where the weights' gradients go.
pub struct WeightGradients<'a, B: Backend> {
    /// `[F, D]`.
    pub w_enc: &'a mut B::Buffer<f32>,
    /// `[F]`.
    pub b_enc: &'a mut B::Buffer<f32>,
    /// `[F, D]`.
    pub w_dec: &'a mut B::Buffer<f32>,
    /// Whether to add to what is there instead of overwriting it.
    pub accumulate: bool,
    /// Whether lists leave rows of latents that they do not name as they are.
    pub only_listed: bool,
}

impl<B: Backend> WeightGradients<'_, B> {
    pub(super) fn check(&self, op: &'static str, d_in: usize, d_sae: usize) -> Result<()> {
        need(op, "gradient of w_enc", self.w_enc.len(), d_sae * d_in)?;
        need(op, "gradient of b_enc", self.b_enc.len(), d_sae)?;
        need(op, "gradient of w_dec", self.w_dec.len(), d_sae * d_in)
    }
}

/// A decoder-norm term's gradient: `g_w_dec[i] += (Σ norm_gradient of latent i) * w_dec[i] / n_i`.
pub struct NormGradient<'a, B: Backend> {
    /// `[B, stride]` beside the lists, or `[F]` when dense.
    pub norm_gradient: &'a B::Buffer<f32>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// `[F, D]`.
    pub w_dec: &'a B::Buffer<f32>,
}

impl<B: Backend> NormGradient<'_, B> {
    fn check(&self, op: &'static str, terms: usize, d_in: usize, d_sae: usize) -> Result<()> {
        need(op, "norm_gradient", self.norm_gradient.len(), terms)?;
        need(op, "decoder_norm", self.decoder_norm.len(), d_sae)?;
        need(op, "w_dec", self.w_dec.len(), d_sae * d_in)
    }
}

/// Row by row of the weights, with `g` the decoder's gradient and `dh` the pre-activations':
/// `g_w_dec[i] = Σ value * g[b]`, `g_w_enc[i] = Σ dh * input[b]`, `g_b_enc[i] = Σ dh`, sums over
/// the latent's entries in ascending `b`. Of bf16 rows the products with `value` and `dh` are f32, as are sums.
pub struct GradientSparse<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// The same by latent.
    pub by_latent: &'a LatentLists<B>,
    /// `dh` of each entry `[B, stride]`.
    pub pre_gradient: &'a B::Buffer<f32>,
    /// `g` `[B, D]`.
    pub gradient: Matrix<'a, B>,
    /// The encoder's input `[B, D]`.
    pub input: Matrix<'a, B>,
    /// A decoder-norm term, if the loss has one.
    pub norm: Option<NormGradient<'a, B>>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out.
    pub out: WeightGradients<'a, B>,
}

impl<B: Backend> GradientSparse<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "gradient_sparse";
        require(op, self.d_in > 0, || "d_in is 0".into())?;
        self.lists.check_places(op, self.rows)?;
        self.lists.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "entries", self.by_latent.entries.len(), self.rows * self.lists.stride)?;
        need(op, "offsets", self.by_latent.offsets.len(), self.d_sae + 1)?;
        need(op, "pre_gradient", self.pre_gradient.len(), self.rows * self.lists.stride)?;
        let n = self.rows * self.d_in;
        need_operands(op, [("gradient", self.gradient, n), ("input", self.input, n)])?;
        let of_norm = self.rows * self.lists.stride;
        self.norm.as_ref().map_or(Ok(()), |norm| norm.check(op, of_norm, self.d_in, self.d_sae))?;
        self.out.check(op, self.d_in, self.d_sae)
    }
}

/// Gradients of W_enc and W_dec that are never in memory: [`GradientSparse`]'s sums, and what is stored of
/// other sums for some latents.
pub struct ListedGradient<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// The same by latent.
    pub by_latent: &'a LatentLists<B>,
    /// `dh` of each entry `[B, stride]`.
    pub pre_gradient: &'a B::Buffer<f32>,
    /// `g` `[B, D]`.
    pub gradient: Matrix<'a, B>,
    /// The encoder's input `[B, D]`.
    pub input: Matrix<'a, B>,
    /// [`NormGradient::norm_gradient`], if the loss has a decoder-norm term.
    pub norm_gradient: Option<&'a B::Buffer<f32>>,
    /// What is added.
    pub stored: Option<StoredGradient<'a, B>>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
}

/// Rows of gradients that a [`GradientSparse`] with `only_listed` has written.
pub struct StoredGradient<'a, B: Backend> {
    /// `[F, D]`.
    pub w_enc: &'a B::Buffer<f32>,
    /// `[F, D]`.
    pub w_dec: &'a B::Buffer<f32>,
    /// Those of latents with entries here count.
    pub by_latent: &'a LatentLists<B>,
}

impl<B: Backend> ListedGradient<'_, B> {
    fn check(&self, op: &'static str) -> Result<()> {
        let (entries, n) = (self.rows * self.lists.stride, self.d_sae * self.d_in);
        require(op, self.d_in > 0, || "d_in is 0".into())?;
        self.lists.check_places(op, self.rows)?;
        self.lists.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "entries", self.by_latent.entries.len(), entries)?;
        need(op, "offsets", self.by_latent.offsets.len(), self.d_sae + 1)?;
        need(op, "pre_gradient", self.pre_gradient.len(), entries)?;
        let of_batch = self.rows * self.d_in;
        need_operands(op, [("gradient", self.gradient, of_batch), ("input", self.input, of_batch)])?;
        self.norm_gradient.map_or(Ok(()), |norm| need(op, "norm_gradient", norm.len(), entries))?;
        self.stored.as_ref().map_or(Ok(()), |stored| {
            need(op, "stored gradient of w_enc", stored.w_enc.len(), n)?;
            need(op, "stored gradient of w_dec", stored.w_dec.len(), n)?;
            need(op, "offsets of stored gradients", stored.by_latent.offsets.len(), self.d_sae + 1)
        })
    }
}

/// Of a [`ListedGradient`], before [`AdamSparse`] goes over it again: `b_enc = Σ dh` latent by latent, to which
/// what is stored there is added, and `squares = |g_w_enc|² + |g_w_dec|²` in f64.
pub struct GradientSquares<'a, B: Backend> {
    /// The gradient.
    pub of: &'a ListedGradient<'a, B>,
    /// `[F, D]`.
    pub w_dec: &'a B::Buffer<f32>,
    /// Norms of its rows `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// Out `[F]`; in where there are stored gradients.
    pub b_enc: &'a mut B::Buffer<f32>,
    /// Out `[F]`.
    pub squares: &'a mut B::Buffer<f64>,
}

impl<B: Backend> GradientSquares<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, d_sae) = ("gradient_squares", self.of.d_sae);
        self.of.check(op)?;
        need(op, "w_dec", self.w_dec.len(), d_sae * self.of.d_in)?;
        need(op, "decoder_norm", self.decoder_norm.len(), d_sae)?;
        need(op, "gradient of b_enc", self.b_enc.len(), d_sae)?;
        need(op, "squares", self.squares.len(), d_sae)
    }
}

/// A matrix of parameters and Adam's moments.
pub struct AdamState<'a, B: Backend> {
    /// `[F, D]`, in and out.
    pub parameter: &'a mut B::Buffer<f32>,
    /// First moment `[F, D]`, in and out.
    pub exp_avg: &'a mut B::Buffer<f32>,
    /// Second moment `[F, D]`, in and out.
    pub exp_avg_sq: &'a mut B::Buffer<f32>,
}

/// One step of [`Adam`] over W_enc and W_dec with a [`ListedGradient`], one visit to each latent, and the new
/// norms of the decoder's rows.
pub struct AdamSparse<'a, B: Backend> {
    /// The gradient.
    pub of: &'a ListedGradient<'a, B>,
    /// W_enc.
    pub w_enc: AdamState<'a, B>,
    /// W_dec.
    pub w_dec: AdamState<'a, B>,
    /// Norms of W_dec's rows `[F]`, in and out.
    pub decoder_norm: &'a mut B::Buffer<f32>,
    /// What [`ClipScale`] wrote: element 0 is used.
    pub clip: &'a B::Buffer<f32>,
    /// Where the step's factors are.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// Adam's constants.
    pub constants: AdamConstants,
}

impl<B: Backend> AdamSparse<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("adam_sparse", self.of.d_sae * self.of.d_in);
        self.of.check(op)?;
        for (name, state) in [("w_enc", &self.w_enc), ("w_dec", &self.w_dec)] {
            need(op, name, state.parameter.len(), n)?;
            need(op, "exp_avg", state.exp_avg.len(), n)?;
            need(op, "exp_avg_sq", state.exp_avg_sq.len(), n)?;
        }
        need(op, "decoder_norm", self.decoder_norm.len(), self.of.d_sae)?;
        need(op, "clip", self.clip.len(), 1)?;
        need(op, "scalars", self.scalars.len(), 1)
    }
}

/// As [`GradientSparse`] with dense features: `g_w_dec = featuresᵀ · g`,
/// `g_w_enc = pre_gradientᵀ · input`, and `g_b_enc` the column sums of `pre_gradient`.
pub struct GradientDense<'a, B: Backend> {
    /// `[B, F]`.
    pub features: &'a B::Buffer<f32>,
    /// `[B, F]`.
    pub pre_gradient: &'a B::Buffer<f32>,
    /// `g` `[B, D]`.
    pub gradient: &'a B::Buffer<f32>,
    /// The encoder's input `[B, D]`.
    pub input: &'a B::Buffer<f32>,
    /// A decoder-norm term, if the loss has one.
    pub norm: Option<NormGradient<'a, B>>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Whether the operands of both products are rounded to bf16.
    pub bf16: bool,
    /// Out.
    pub out: WeightGradients<'a, B>,
}

impl<B: Backend> GradientDense<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("gradient_dense", self.rows * self.d_sae);
        need(op, "features", self.features.len(), n)?;
        need(op, "pre_gradient", self.pre_gradient.len(), n)?;
        need(op, "gradient", self.gradient.len(), self.rows * self.d_in)?;
        need(op, "input", self.input.len(), self.rows * self.d_in)?;
        self.norm.as_ref().map_or(Ok(()), |norm| norm.check(op, self.d_sae, self.d_in, self.d_sae))?;
        self.out.check(op, self.d_in, self.d_sae)
    }
}

/// `g_b_dec = Σ_b g[b]`, minus `Σ_i g_b_enc[i] * w_enc[i]` where b_dec is subtracted from the
/// encoder's input (the sum over the batch first, then one matrix-vector product; source: OpenAI's
/// sparse_autoencoder, `EncWrapper.backward`).
pub struct GradientBDec<'a, B: Backend> {
    /// `g` `[B, D]`.
    pub gradient: &'a B::Buffer<f32>,
    /// Where `apply_b_dec_to_input`.
    pub through_encoder: Option<ThroughEncoder<'a, B>>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out `[D]`.
    pub out: &'a mut B::Buffer<f32>,
}

/// The way from b_dec through the encoder's input.
pub struct ThroughEncoder<'a, B: Backend> {
    /// `[F, D]`.
    pub w_enc: &'a B::Buffer<f32>,
    /// Gradient of b_enc `[F]`.
    pub b_enc_gradient: &'a B::Buffer<f32>,
}

impl<B: Backend> GradientBDec<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "gradient_b_dec";
        need(op, "gradient", self.gradient.len(), self.rows * self.d_in)?;
        need(op, "out", self.out.len(), self.d_in)?;
        if let Some(through) = &self.through_encoder {
            need(op, "w_enc", through.w_enc.len(), self.d_sae * self.d_in)?;
            need(op, "gradient of b_enc", through.b_enc_gradient.len(), self.d_sae)?;
        }
        Ok(())
    }
}

/// `value_gradient[b, j] = <gradient[b], w_dec[indices[b, j]]>`.
pub struct GradientValues<'a, B: Backend> {
    /// The features.
    pub lists: &'a FeatureLists<B>,
    /// `[F, D]`.
    pub w_dec: Matrix<'a, B>,
    /// `[B, D]`.
    pub gradient: &'a B::Buffer<f32>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Out `[B, stride]`.
    pub value_gradient: &'a mut B::Buffer<f32>,
}

impl<B: Backend> GradientValues<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "gradient_values";
        self.lists.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "gradient", self.gradient.len(), self.rows * self.d_in)?;
        need(op, "value_gradient", self.value_gradient.len(), self.rows * self.lists.stride)
    }
}
