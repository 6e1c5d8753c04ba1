//! What the tokens before say of a token's activation, taken away before the rest is encoded: a temporal
//! SAE's features are of what is new. With `z = ReLU(λ r W_enc)` the codes of what is left, `r`, and `z'`
//! those of the token before, each attention layer makes `p = ReLU(attention(q: z, k, v: z'))`, and the part
//! of `r` along `p W_dec` is the prediction: `s = <p W_dec, r> / (|p W_dec| + 1e-6)²`, `r -= s p W_dec`.
//! Source: Lubana et al. 2025 (arXiv 2511.01836), as SAELens' `temporal_sae.py` has it.

use super::config::TensorShapes;
use super::parameters::Named;
use super::pursuit::{subtract, Dictionary};
use crate::backend::*;
use crate::error::{Error, Result};

/// SAELens' `eps`: keeps a prediction of zeros from being divided by its norm.
const EPSILON: f32 = 1e-6;

/// The settings that only a temporal SAE has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TemporalConfig {
    /// Heads of every attention layer.
    pub n_heads: usize,
    /// Attention layers, one after another.
    pub n_attn_layers: usize,
    /// Queries and keys are narrower than the codes by this factor.
    pub bottleneck_factor: usize,
    /// Features kept of each row, the largest (`sae_diff_type` topk with `kval_topk`); none: all above 0.
    pub k: Option<usize>,
    /// Whether the decoder is the encoder, too.
    pub tied_weights: bool,
    /// What activations are multiplied by, where `normalize_activations` is `constant_scalar_rescale`.
    pub activation_normalization_factor: Option<f64>,
}

impl TemporalConfig {
    /// Width of queries and keys, all heads together.
    pub fn d_query(&self, d_sae: usize) -> usize {
        d_sae / self.bottleneck_factor
    }

    /// Error: heads do not divide the widths.
    pub fn check(&self, d_sae: usize) -> std::result::Result<(), String> {
        let parts = self.bottleneck_factor.saturating_mul(self.n_heads);
        match d_sae.is_multiple_of(parts) {
            true => Ok(()),
            false => Err(format!("bottleneck_factor times n_heads is {parts}, expected a divisor of d_sae = {d_sae}")),
        }
    }

    /// Every tensor of the attention layers, as torch stores linear layers: `[out, in]`.
    pub(super) fn tensors(&self, d_sae: usize) -> TensorShapes {
        let d_query = self.d_query(d_sae);
        let widths = [("k_ctx", d_query), ("q_target", d_query), ("v_ctx", d_sae), ("c_proj", d_sae)];
        let of_layer = |layer| {
            widths.into_iter().flat_map(move |(part, width)| {
                let named = |what| tensor_name(layer, part, what).into();
                [(named("weight"), vec![width, d_sae]), (named("bias"), vec![width])]
            })
        };
        (0..self.n_attn_layers).flat_map(of_layer).collect()
    }
}

/// SAELens' name of a tensor of an attention layer.
fn tensor_name(layer: usize, part: &str, what: &str) -> String {
    format!("attn_layers.{layer}.{part}.{what}")
}

/// A temporal SAE's weights and sizes.
pub(super) struct Weights<'a, B: Backend> {
    pub backend: &'a B,
    pub config: &'a TemporalConfig,
    pub values: &'a Named<B>,
    /// `[F, D]`, the decoder where the weights are tied.
    pub w_enc: &'a B::Buffer<f32>,
    pub d_in: usize,
    pub d_sae: usize,
}

impl<B: Backend> Weights<'_, B> {
    /// A linear layer of codes `[rows, F]`.
    fn layer(
        &self,
        (layer, part): (usize, &str),
        x: &B::Buffer<f32>,
        function: ActivationFunction,
        rows: usize,
        out: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let of = |what| self.values.get(&tensor_name(layer, part, what));
        self.backend.linear(Linear {
            x: Matrix::F32(x),
            w: Matrix::F32(of("weight")),
            w_is_transposed: true,
            bias: Some(of("bias")),
            function,
            residual: None,
            rows,
            d_input: self.d_sae,
            d_output: of("bias").len(),
            out,
        })
    }
}

/// The work space of predictions, and what the latest left in it.
pub(super) struct Prediction<B: Backend> {
    max_rows: usize,
    /// Rows of one sequence, where somebody has said it.
    context: Option<usize>,
    /// The latest: codes `[rows, F]`, and what they decode to `[rows, D]`.
    codes: B::Buffer<f32>,
    predicted: B::Buffer<f32>,
    /// `z`, and a row of zeros behind the last: what is before a sequence.
    z: B::Buffer<f32>,
    before: B::Buffer<u32>,
    shifted: B::Buffer<f32>,
    query: B::Buffer<f32>,
    key: B::Buffer<f32>,
    value: B::Buffer<f32>,
    pattern: B::Buffer<f32>,
    /// A layer's prediction before it is scaled `[rows, D]`, and its norms.
    word: B::Buffer<f32>,
    norms: B::Buffer<f32>,
    /// How much of its own word each row has: a dictionary of one word a row.
    parts: FeatureLists<B>,
    along: B::Buffer<f32>,
    room: B::Buffer<f32>,
    squared_norm: B::Buffer<f32>,
}

impl<B: Backend> Prediction<B> {
    /// Work space for batches of up to `max_rows` rows.
    pub fn new(backend: &B, config: &TemporalConfig, max_rows: usize, [d_in, d_sae]: [usize; 2]) -> Result<Self> {
        let zeros = |width: usize| backend.zeros(max_rows * width);
        let d_query = config.d_query(d_sae);
        let mut parts = FeatureLists::new(backend, max_rows, 1)?;
        let own: Vec<u32> = (0..max_rows as u32).collect();
        backend.write(&mut parts.indices, 0, &own)?;
        backend.fill(&mut parts.counts, 1)?;
        Ok(Prediction {
            max_rows,
            context: None,
            codes: zeros(d_sae)?,
            predicted: zeros(d_in)?,
            z: backend.zeros((max_rows + 1) * d_sae)?,
            before: backend.zeros(max_rows)?,
            shifted: zeros(d_sae)?,
            query: zeros(d_query)?,
            key: zeros(d_query)?,
            value: zeros(d_sae)?,
            pattern: backend.zeros(0)?,
            word: zeros(d_in)?,
            norms: zeros(1)?,
            parts,
            along: zeros(1)?,
            room: zeros(d_in)?,
            squared_norm: zeros(1)?,
        })
    }

    /// Says how many rows make a sequence.
    pub fn set_context(&mut self, context: usize) {
        self.context = Some(context);
    }

    /// The codes of the latest prediction, SAELens' `z_pred` `[rows, F]`.
    pub fn codes(&self) -> &B::Buffer<f32> {
        &self.codes
    }

    /// Takes from `input [rows, D]` what the rows before predict of each, and makes of the rest what the
    /// encoder is given: `λ r`, with SAELens' `λ = 1 / (4 D)`. Errors: nobody has said how many rows make a
    /// sequence, or they are not whole sequences.
    pub fn take(&mut self, of: &Weights<'_, B>, input: &mut B::Buffer<f32>, rows: usize) -> Result<()> {
        let dims = self.sequences(of, rows)?;
        let &Weights { backend, d_in, .. } = of;
        backend.fill(&mut self.codes, 0.0)?;
        backend.copy(input, 0, &mut self.predicted, 0, rows * d_in)?;
        for layer in 0..of.config.n_attn_layers {
            self.attend(of, layer, input, dims)?;
            self.project(of, input, rows)?;
        }
        // What was there less what is left.
        backend.scale(Scale { from: input, factor: -1.0, len: rows * d_in, to: &mut self.room })?;
        backend.add(Add { from: &self.room, to: &mut self.predicted, len: rows * d_in })?;
        self.scaled(of, input, rows)?;
        backend.copy(&self.room, 0, input, 0, rows * d_in)
    }

    /// Adds the latest prediction to what was decoded, each row multiplied by what undoes its
    /// normalisation, where there is one.
    pub fn add_to(
        &mut self,
        backend: &B,
        reconstruction: &mut B::Buffer<f32>,
        [rows, d_in]: [usize; 2],
        row_scale: Option<&B::Buffer<f32>>,
    ) -> Result<()> {
        match row_scale {
            None => return backend.add(Add { from: &self.predicted, to: reconstruction, len: rows * d_in }),
            Some(scale) => backend.scale(Scale { from: scale, factor: -1.0, len: rows, to: &mut self.parts.values })?,
        }
        let predicted = Dictionary { backend, w_dec: &self.predicted, d_in, d_sae: rows };
        subtract(&predicted, &self.parts, rows, reconstruction, &mut self.room, &mut self.squared_norm)
    }

    /// The dimensions of attention over whole sequences, its queries and keys.
    fn sequences(&mut self, of: &Weights<'_, B>, rows: usize) -> Result<AttentionDims> {
        let context = self.context.ok_or_else(|| Error::Shape {
            operation: "sae",
            what: "a temporal SAE reads whole sequences, and how many rows make one was not said".into(),
        })?;
        if context == 0 || !rows.is_multiple_of(context) {
            let what = format!("{rows} rows are not whole sequences of {context}, which a temporal SAE reads");
            return Err(Error::Shape { operation: "sae", what });
        }
        let before = |row: usize| if row.is_multiple_of(context) { self.max_rows } else { row - 1 };
        let before: Vec<u32> = (0..rows).map(|row| before(row) as u32).collect();
        of.backend.write(&mut self.before, 0, &before)?;
        let n_heads = of.config.n_heads;
        let dims = AttentionDims::whole(rows, context, n_heads, of.config.d_query(of.d_sae) / n_heads);
        if self.pattern.len() < dims.pattern() {
            self.pattern = of.backend.zeros(dims.pattern())?;
        }
        Ok(dims)
    }

    /// `room = λ r`.
    fn scaled(&mut self, of: &Weights<'_, B>, residual: &B::Buffer<f32>, rows: usize) -> Result<()> {
        let factor = 1.0 / (4 * of.d_in) as f32;
        of.backend.scale(Scale { from: residual, factor, len: rows * of.d_in, to: &mut self.room })
    }

    /// `value = p`, a layer's codes before they are scaled.
    fn attend(
        &mut self,
        of: &Weights<'_, B>,
        layer: usize,
        residual: &B::Buffer<f32>,
        dims: AttentionDims,
    ) -> Result<()> {
        use ActivationFunction::{Identity, Relu};
        let &Weights { backend, d_in, d_sae, .. } = of;
        let rows = dims.rows;
        self.scaled(of, residual, rows)?;
        backend.linear(Linear {
            x: Matrix::F32(&self.room),
            w: Matrix::F32(of.w_enc),
            w_is_transposed: true,
            bias: None,
            function: Relu,
            residual: None,
            rows,
            d_input: d_in,
            d_output: d_sae,
            out: &mut self.z,
        })?;
        backend.gather_rows(GatherRows {
            from: &self.z,
            rows: &self.before,
            first: 0,
            n: rows,
            columns: d_sae,
            to: &mut self.shifted,
        })?;
        of.layer((layer, "q_target"), &self.z, Identity, rows, &mut self.query)?;
        of.layer((layer, "k_ctx"), &self.shifted, Identity, rows, &mut self.key)?;
        of.layer((layer, "v_ctx"), &self.shifted, Identity, rows, &mut self.value)?;
        let scale = 1.0 / (dims.d_head as f32).sqrt();
        let (q, k, pattern) = (&self.query, &self.key, &mut self.pattern);
        backend.attention_pattern(AttentionPattern { q, k, scale, dims, pattern })?;
        // Values are wider than queries and keys.
        let dims = AttentionDims { d_head: d_sae / dims.n_heads, ..dims };
        let (pattern, v, z) = (&self.pattern, &self.value, &mut self.shifted);
        backend.attention_mix(AttentionMix { pattern, v, dims, z })?;
        of.layer((layer, "c_proj"), &self.shifted, Relu, rows, &mut self.value)
    }

    /// Takes from `r` its part along `p W_dec`, and adds `s p` to the codes. Waits for the device.
    fn project(&mut self, of: &Weights<'_, B>, residual: &mut B::Buffer<f32>, rows: usize) -> Result<()> {
        let &Weights { backend, d_in, d_sae, .. } = of;
        backend.linear(Linear {
            x: Matrix::F32(&self.value),
            w: Matrix::F32(of.values.get("W_dec")),
            w_is_transposed: false,
            bias: None,
            function: ActivationFunction::Identity,
            residual: None,
            rows,
            d_input: d_sae,
            d_output: d_in,
            out: &mut self.word,
        })?;
        backend.row_norms(RowNorms { matrix: &self.word, rows, columns: d_in, norms: &mut self.norms })?;
        backend.gradient_values(GradientValues {
            lists: &self.parts,
            w_dec: Matrix::F32(&self.word),
            gradient: residual,
            rows,
            d_in,
            value_gradient: &mut self.along,
        })?;
        let (mut norms, mut parts) = (vec![0.0f32; rows], vec![0.0f32; rows]);
        backend.read(&self.norms, 0, &mut norms)?;
        backend.read(&self.along, 0, &mut parts)?;
        parts.iter_mut().zip(&norms).for_each(|(part, norm)| *part /= (norm + EPSILON).powi(2));
        backend.write(&mut self.parts.values, 0, &parts)?;
        let word = Dictionary { backend, w_dec: &self.word, d_in, d_sae: rows };
        subtract(&word, &self.parts, rows, residual, &mut self.room, &mut self.squared_norm)?;
        parts.iter_mut().for_each(|part| *part = -*part);
        backend.write(&mut self.parts.values, 0, &parts)?;
        let of_codes = Dictionary { backend, w_dec: &self.value, d_in: d_sae, d_sae: rows };
        subtract(&of_codes, &self.parts, rows, &mut self.codes, &mut self.shifted, &mut self.squared_norm)
    }
}
