//! Arguments of the SAE's operations. See the parent module for the conventions.
//!
//! Inside the engine one latent is one contiguous row in both matrices: `w_enc [F, D]` and
//! `w_dec [F, D]`. Features are lists wherever that is cheaper than a dense `[B, F]` matrix.

use super::{need, require, Backend, Buffer};
use crate::error::Result;

/// The active latents of every row: row `b` holds `counts[b] <= stride` entries from
/// `b * stride` on, latents ascending. What lies behind the count is undefined.
pub struct FeatureLists<B: Backend> {
    /// Rows (`B`).
    pub rows: usize,
    /// Room for entries in each row.
    pub stride: usize,
    /// Entries used in each row `[B]`.
    pub counts: B::Buffer<u32>,
    /// Latents `[B, stride]`.
    pub indices: B::Buffer<u32>,
    /// Values `[B, stride]`: what multiplies the latent's row of W_dec.
    pub values: B::Buffer<f32>,
}

impl<B: Backend> FeatureLists<B> {
    /// Empty lists with room for `stride` entries in each of `rows` rows.
    pub fn new(backend: &B, rows: usize, stride: usize) -> Result<Self> {
        Ok(FeatureLists {
            rows,
            stride,
            counts: backend.zeros(rows)?,
            indices: backend.zeros(rows * stride)?,
            values: backend.zeros(rows * stride)?,
        })
    }

    fn check(&self, op: &'static str) -> Result<()> {
        need(op, "counts", self.counts.len(), self.rows)?;
        need(op, "indices", self.indices.len(), self.rows * self.stride)?;
        need(op, "values", self.values.len(), self.rows * self.stride)
    }
}

/// What [`Backend::encode_relu`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListsFit {
    /// Every row's entries are in the lists.
    All,
    /// Some row has this many entries, more than the stride: the lists are not valid.
    Overflow(usize),
}

/// `to[i, :] = from[rows[i], :]`.
pub struct GatherRows<'a, B: Backend> {
    /// Source `[.., columns]`.
    pub from: &'a B::Buffer<f32>,
    /// Which rows `[n]`, each inside `from`.
    pub rows: &'a B::Buffer<u32>,
    /// First of `rows` to use.
    pub first: usize,
    /// How many.
    pub n: usize,
    /// Width of a row.
    pub columns: usize,
    /// Out `[n, columns]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> GatherRows<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("gather_rows", "rows", self.rows.len(), self.first + self.n)?;
        need("gather_rows", "to", self.to.len(), self.n * self.columns)
    }
}

/// `to[to_rows[i], :] = from[from_rows[i], :]`; no two of `to_rows` are the same.
pub struct ScatterRows<'a, B: Backend> {
    /// Source `[.., columns]`.
    pub from: &'a B::Buffer<f32>,
    /// Which rows `[n]`, each inside `from`.
    pub from_rows: &'a B::Buffer<u32>,
    /// Where they go `[n]`, each inside `to`.
    pub to_rows: &'a B::Buffer<u32>,
    /// How many.
    pub n: usize,
    /// Width of a row.
    pub columns: usize,
    /// In and out `[.., columns]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> ScatterRows<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("scatter_rows", "from_rows", self.from_rows.len(), self.n)?;
        need("scatter_rows", "to_rows", self.to_rows.len(), self.n)
    }
}

/// Normalisation of a batch at run time (SAELens' `normalize_activations`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowNormalization {
    /// As it is.
    None,
    /// `(x - mean) / (std + 1e-5)`, std with D - 1; undone with `y * std + mean`.
    LayerNorm,
    /// `x * sqrt(D) / |x|`; undone by dividing.
    ConstantNorm,
}

/// `target = scale * x`; `input = normalise(target) - b_dec`; and what undoes the normalisation:
/// `x_hat = y * row_scale + row_shift`.
pub struct PrepareInput<'a, B: Backend> {
    /// Activations `[B, D]`.
    pub x: &'a B::Buffer<f32>,
    /// The factor of `expected_average_only_in`; 1 otherwise.
    pub scale: f32,
    /// Per-row normalisation.
    pub normalization: RowNormalization,
    /// Subtracted after normalising, where `apply_b_dec_to_input` `[D]`.
    pub b_dec: Option<&'a B::Buffer<f32>>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Out: what the reconstruction is compared with `[B, D]`.
    pub target: &'a mut B::Buffer<f32>,
    /// Out: the encoder's input `[B, D]`.
    pub input: &'a mut B::Buffer<f32>,
    /// Out `[B]`; written only when a normalisation is asked for.
    pub row_scale: &'a mut B::Buffer<f32>,
    /// Out `[B]`; likewise.
    pub row_shift: &'a mut B::Buffer<f32>,
}

impl<B: Backend> PrepareInput<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("prepare_input", self.rows * self.d_in);
        need(op, "x", self.x.len(), n)?;
        need(op, "target", self.target.len(), n)?;
        need(op, "input", self.input.len(), n)?;
        need(op, "row_scale", self.row_scale.len(), self.rows)?;
        need(op, "row_shift", self.row_shift.len(), self.rows)?;
        self.b_dec.map_or(Ok(()), |b_dec| need(op, "b_dec", b_dec.len(), self.d_in))
    }
}

/// The encoder's weights and one batch: `h = input · w_encᵀ + b_enc`.
pub struct Encoder<'a, B: Backend> {
    /// The encoder's input `[B, D]`.
    pub input: &'a B::Buffer<f32>,
    /// `[F, D]`.
    pub w_enc: &'a B::Buffer<f32>,
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
    fn check(&self, op: &'static str) -> Result<()> {
        need(op, "input", self.input.len(), self.rows * self.d_in)?;
        need(op, "w_enc", self.w_enc.len(), self.d_sae * self.d_in)?;
        need(op, "b_enc", self.b_enc.len(), self.d_sae)
    }
}

/// For every row the `k` latents with the largest `h` (times the decoder norm, where given), ties
/// to the smaller latent; of these, the ones with `h > 0` are listed with value `h`. The selection
/// is exact: the same set as a stable sort.
pub struct EncodeTopk<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
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
    /// Out: any stride from 1; too small a one is reported, not an error.
    pub lists: &'a mut FeatureLists<B>,
}

impl<B: Backend> EncodeRelu<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        self.encoder.check("encode_relu")?;
        self.lists.check("encode_relu")?;
        require("encode_relu", self.lists.stride > 0, || "lists of stride 0 have no room for entries".into())?;
        need("encode_relu", "lists", self.lists.rows, self.encoder.rows)
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

/// AuxK's selection: for every row the `k` of the `n_dead` dead latents with the largest `h`
/// (times the decoder norm, where given), whatever its sign; value `h`.
pub struct EncodeDeadTopk<'a, B: Backend> {
    /// Weights and batch.
    pub encoder: Encoder<'a, B>,
    /// Norms of the decoder's rows `[F]`, where `rescale_acts_by_decoder_norm`.
    pub decoder_norm: Option<&'a B::Buffer<f32>>,
    /// The dead latents, ascending `[n_dead]`.
    pub dead: &'a B::Buffer<u32>,
    /// How many are dead.
    pub n_dead: usize,
    /// Latents selected in each row, 1 to n_dead.
    pub k: usize,
    /// Out: stride >= k; every row gets exactly k entries.
    pub lists: &'a mut FeatureLists<B>,
}

impl<B: Backend> EncodeDeadTopk<'_, B> {
    /// Whether the buffers fit the dimensions and 1 <= k <= n_dead.
    pub fn check(&self) -> Result<()> {
        let op = "encode_dead_topk";
        self.encoder.check(op)?;
        self.lists.check(op)?;
        need(op, "dead", self.dead.len(), self.n_dead)?;
        require(op, (1..=self.n_dead).contains(&self.k) && self.lists.stride >= self.k, || {
            format!("k = {} is not between 1 and n_dead = {} or the stride {}", self.k, self.n_dead, self.lists.stride)
        })
    }
}

/// What undoes the normalisation of a batch: `x_hat = y * row_scale + row_shift`.
pub struct Denormalize<'a, B: Backend> {
    /// `[B]`.
    pub row_scale: &'a B::Buffer<f32>,
    /// `[B]`.
    pub row_shift: &'a B::Buffer<f32>,
}

/// The decoder's weights, the target and what comes of it:
/// `x_hat = denormalise(f · w_dec + b_dec)`, `squared_error[b] = |x_hat - target|²`,
/// `gradient = gradient_scale * row_scale * (x_hat - target)`: the gradient of
/// `gradient_scale / 2 * Σ squared_error` with respect to the decoder's output.
pub struct Decoder<'a, B: Backend> {
    /// `[F, D]`.
    pub w_dec: &'a B::Buffer<f32>,
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
    fn check(&self, op: &'static str) -> Result<()> {
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
    /// Out `[B, stride]`; none to decode only.
    pub value_gradient: Option<&'a mut B::Buffer<f32>>,
}

impl<B: Backend> DecodeSparse<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        self.decoder.check("decode_sparse")?;
        self.lists.check("decode_sparse")?;
        need("decode_sparse", "lists", self.lists.rows, self.decoder.rows)?;
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
}

impl<B: Backend> DecodeDense<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let n = self.decoder.rows * self.decoder.d_sae;
        self.decoder.check("decode_dense")?;
        need("decode_dense", "features", self.features.len(), n)?;
        need("decode_dense", "feature_gradient", self.feature_gradient.len(), n)
    }
}

/// `loss[b] = coefficient * (Σ_i (f_i n_i)^p)^(1/p)` with `n` the decoder norms, on lists; adds
/// `gradient_scale` times its gradient to `value_gradient`, and writes the gradient with respect to
/// each listed `n_i` (same factor) to `norm_gradient`.
pub struct SparsityLp<'a, B: Backend> {
    /// The features.
    pub lists: &'a FeatureLists<B>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// Factor on the term.
    pub coefficient: f32,
    /// The norm's `p` (SAELens' `lp_norm`), > 0.
    pub p: f32,
    /// `1 / B` for the mean over a batch.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// In and out `[B, stride]`.
    pub value_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B, stride]`.
    pub norm_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> SparsityLp<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("sparsity_lp", self.rows * self.lists.stride);
        self.lists.check(op)?;
        need(op, "value_gradient", self.value_gradient.len(), n)?;
        need(op, "norm_gradient", self.norm_gradient.len(), n)?;
        need(op, "loss", self.loss.len(), self.rows)
    }
}

/// As [`SparsityLp`] on dense features; `norm_gradient` is summed over the batch.
pub struct SparsityLpDense<'a, B: Backend> {
    /// `[B, F]`.
    pub features: &'a B::Buffer<f32>,
    /// `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// Factor on the term.
    pub coefficient: f32,
    /// The norm's `p`, > 0.
    pub p: f32,
    /// `1 / B` for the mean over a batch.
    pub gradient_scale: f32,
    /// Rows (`B`).
    pub rows: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// In and out `[B, F]`.
    pub feature_gradient: &'a mut B::Buffer<f32>,
    /// Out `[F]`.
    pub norm_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> SparsityLpDense<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("sparsity_lp_dense", self.rows * self.d_sae);
        need(op, "features", self.features.len(), n)?;
        need(op, "feature_gradient", self.feature_gradient.len(), n)?;
        need(op, "decoder_norm", self.decoder_norm.len(), self.d_sae)?;
        need(op, "norm_gradient", self.norm_gradient.len(), self.d_sae)?;
        need(op, "loss", self.loss.len(), self.rows)
    }
}

/// The same entries ordered by latent: latent `i` owns `entries[offsets[i]..offsets[i + 1]]`, each
/// the position `b * stride + j` of an entry in the lists, rows ascending.
pub struct LatentLists<B: Backend> {
    /// `[F + 1]`.
    pub offsets: B::Buffer<u32>,
    /// `[B * stride]`.
    pub entries: B::Buffer<u32>,
}

impl<B: Backend> LatentLists<B> {
    /// Room for `entries` entries of `d_sae` latents.
    pub fn new(backend: &B, d_sae: usize, entries: usize) -> Result<Self> {
        Ok(LatentLists { offsets: backend.zeros(d_sae + 1)?, entries: backend.zeros(entries)? })
    }
}

/// Fills [`LatentLists`] from [`FeatureLists`]: a stable counting sort.
pub struct TransposeLists<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// Rows (`B`).
    pub rows: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out: by latent.
    pub by_latent: &'a mut LatentLists<B>,
}

impl<B: Backend> TransposeLists<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "transpose_lists";
        self.lists.check(op)?;
        need(op, "offsets", self.by_latent.offsets.len(), self.d_sae + 1)?;
        need(op, "entries", self.by_latent.entries.len(), self.rows * self.lists.stride)
    }
}

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
}

impl<B: Backend> WeightGradients<'_, B> {
    fn check(&self, op: &'static str, d_in: usize, d_sae: usize) -> Result<()> {
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

/// Row by row of the weights, with `g` the decoder's gradient and `dh` the pre-activations':
/// `g_w_dec[i] = Σ value * g[b]`, `g_w_enc[i] = Σ dh * input[b]`, `g_b_enc[i] = Σ dh`, sums over
/// the latent's entries in ascending `b`.
pub struct GradientSparse<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// The same by latent.
    pub by_latent: &'a LatentLists<B>,
    /// `dh` of each entry `[B, stride]`.
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
    /// Out.
    pub out: WeightGradients<'a, B>,
}

impl<B: Backend> GradientSparse<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "gradient_sparse";
        self.lists.check(op)?;
        need(op, "offsets", self.by_latent.offsets.len(), self.d_sae + 1)?;
        need(op, "pre_gradient", self.pre_gradient.len(), self.rows * self.lists.stride)?;
        need(op, "gradient", self.gradient.len(), self.rows * self.d_in)?;
        need(op, "input", self.input.len(), self.rows * self.d_in)?;
        self.out.check(op, self.d_in, self.d_sae)
    }
}

/// As [`GradientSparse`] with dense features: `g_w_dec = featuresᵀ · g`,
/// `g_w_enc = pre_gradientᵀ · input`.
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

/// `norm = sqrt(Σ g²)` over all gradients (summed in f64) and `scale = min(1, max_norm / (norm + 1e-6))`,
/// as torch's `clip_grad_norm_`.
pub struct ClipScale<'a, B: Backend> {
    /// Every parameter's gradient.
    pub gradients: &'a [&'a B::Buffer<f32>],
    /// None: no clipping, scale 1.
    pub max_norm: Option<f32>,
    /// Out `[2]`: scale, norm.
    pub out: &'a mut B::Buffer<f32>,
}

impl<B: Backend> ClipScale<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("clip_scale", "out", self.out.len(), 2)
    }
}

/// Adam without weight decay, bias-corrected, as torch's: with `g = clip * gradient`,
/// `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g²`,
/// `p -= lr / (1-b1^t) * m / (sqrt(v / (1-b2^t)) + eps)`.
pub struct Adam<'a, B: Backend> {
    /// The parameter `[n]`, in and out.
    pub parameter: &'a mut B::Buffer<f32>,
    /// Its gradient `[n]`.
    pub gradient: &'a B::Buffer<f32>,
    /// First moment `[n]`, in and out.
    pub exp_avg: &'a mut B::Buffer<f32>,
    /// Second moment `[n]`, in and out.
    pub exp_avg_sq: &'a mut B::Buffer<f32>,
    /// What [`ClipScale`] wrote: element 0 is used.
    pub clip: &'a B::Buffer<f32>,
    /// Learning rate of this step.
    pub lr: f64,
    /// `b1`.
    pub beta1: f64,
    /// `b2`.
    pub beta2: f64,
    /// `eps`.
    pub epsilon: f64,
    /// `t`, from 1.
    pub step: u64,
}

impl<B: Backend> Adam<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let n = self.parameter.len();
        need("adam", "gradient", self.gradient.len(), n)?;
        need("adam", "exp_avg", self.exp_avg.len(), n)?;
        need("adam", "exp_avg_sq", self.exp_avg_sq.len(), n)?;
        need("adam", "clip", self.clip.len(), 1)?;
        require("adam", self.step > 0, || "the step counts from 1".into())
    }

    /// What depends on the step alone, in torch's order of operations:
    /// `p -= step_size * (m / (sqrt(v) / root_correction + epsilon))`.
    pub(crate) fn factors(&self) -> AdamFactors {
        let exponent = i32::try_from(self.step).unwrap_or(i32::MAX);
        AdamFactors {
            step_size: (self.lr / (1.0 - self.beta1.powi(exponent))) as f32,
            root_correction: (1.0 - self.beta2.powi(exponent)).sqrt() as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            complement1: (1.0 - self.beta1) as f32,
            complement2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
        }
    }
}

/// The factors of one step of [`Adam`], rounded to f32 once for all backends.
pub(crate) struct AdamFactors {
    /// `lr / (1 - b1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - b2^t)`.
    pub root_correction: f32,
    /// `b1`.
    pub beta1: f32,
    /// `b2`.
    pub beta2: f32,
    /// `1 - b1`.
    pub complement1: f32,
    /// `1 - b2`.
    pub complement2: f32,
    /// `eps`.
    pub epsilon: f32,
}

/// `norms[i] = |matrix[i]|`.
pub struct RowNorms<'a, B: Backend> {
    /// `[rows, columns]`.
    pub matrix: &'a B::Buffer<f32>,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Out `[rows]`.
    pub norms: &'a mut B::Buffer<f32>,
}

impl<B: Backend> RowNorms<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("row_norms", "matrix", self.matrix.len(), self.rows * self.columns)?;
        need("row_norms", "norms", self.norms.len(), self.rows)
    }
}

/// The features of a batch, in either form.
pub enum Features<'a, B: Backend> {
    /// Lists by latent.
    Lists(&'a LatentLists<B>),
    /// Dense `[B, F]`.
    Dense(&'a B::Buffer<f32>),
}

/// `fired_count[i] +=` rows in which latent `i` is active; `since_fired[i] = 0` if any, else `+ 1`.
pub struct UpdateFiring<'a, B: Backend> {
    /// The batch.
    pub features: Features<'a, B>,
    /// Rows (`B`).
    pub rows: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// In and out `[F]`: SAELens' `act_freq_scores`.
    pub fired_count: &'a mut B::Buffer<u32>,
    /// In and out `[F]`: SAELens' `n_forward_passes_since_fired`.
    pub since_fired: &'a mut B::Buffer<u32>,
}

impl<B: Backend> UpdateFiring<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "update_firing";
        match self.features {
            Features::Lists(lists) => need(op, "offsets", lists.offsets.len(), self.d_sae + 1)?,
            Features::Dense(features) => need(op, "features", features.len(), self.rows * self.d_sae)?,
        }
        need(op, "fired_count", self.fired_count.len(), self.d_sae)?;
        need(op, "since_fired", self.since_fired.len(), self.d_sae)
    }
}

/// `to[i] = factor * from[i]`.
pub struct Scale<'a, B: Backend> {
    /// `[len]`.
    pub from: &'a B::Buffer<f32>,
    /// The factor.
    pub factor: f32,
    /// Elements.
    pub len: usize,
    /// Out `[len]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Scale<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("scale", "from", self.from.len(), self.len)?;
        need("scale", "to", self.to.len(), self.len)
    }
}

/// The latents with `since_fired > window` (SAELens' `dead_neurons`), ascending.
pub struct FindDead<'a, B: Backend> {
    /// Steps since each latent fired `[F]`.
    pub since_fired: &'a B::Buffer<u32>,
    /// SAELens' `dead_feature_window`, in steps.
    pub window: u32,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out `[F]`: the first so many hold the dead latents.
    pub dead: &'a mut B::Buffer<u32>,
}

impl<B: Backend> FindDead<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("find_dead", "since_fired", self.since_fired.len(), self.d_sae)?;
        need("find_dead", "dead", self.dead.len(), self.d_sae)
    }
}

/// `variance[b] = |x[b] - mean row|²`: what the explained variance divides by.
pub struct RowVariance<'a, B: Backend> {
    /// `[B, D]`.
    pub x: &'a B::Buffer<f32>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Out `[B]`.
    pub variance: &'a mut B::Buffer<f32>,
}

impl<B: Backend> RowVariance<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("row_variance", "x", self.x.len(), self.rows * self.d_in)?;
        need("row_variance", "variance", self.variance.len(), self.rows)
    }
}
