//! Arguments of the language model's operations. See the parent module for the conventions.

use super::matrix::need_operands;
use super::{need, require, Backend, Buffer, Matrix};
use crate::error::Result;

/// `resid[r, :] = w_e[tokens[r], :] + w_pos[past + r % T, :]`.
pub struct Embed<'a, B: Backend> {
    /// Token ids `[rows]`, each below the vocabulary size.
    pub tokens: &'a B::Buffer<u32>,
    /// Token embedding `[V, D]`.
    pub w_e: &'a B::Buffer<f32>,
    /// Position embedding `[P, D]`, P >= past + T.
    pub w_pos: &'a B::Buffer<f32>,
    /// Rows in all: sequences times context.
    pub rows: usize,
    /// Positions of one sequence (`T`).
    pub context: usize,
    /// Position of a sequence's first row: how many came before, in earlier runs.
    pub past: usize,
    /// Width (`D`).
    pub d_model: usize,
    /// Out: the token embedding alone `[rows, D]`, where wanted.
    pub embed: Option<&'a mut B::Buffer<f32>>,
    /// Out: the position embedding alone `[rows, D]`, where wanted.
    pub pos_embed: Option<&'a mut B::Buffer<f32>>,
    /// Out: their sum `[rows, D]`.
    pub resid: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Embed<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("embed", self.rows * self.d_model);
        require(op, self.context > 0 && self.rows.is_multiple_of(self.context), || {
            format!("{} rows are not a multiple of the context {}", self.rows, self.context)
        })?;
        need(op, "tokens", self.tokens.len(), self.rows)?;
        need(op, "w_pos", self.w_pos.len(), (self.past + self.context) * self.d_model)?;
        need(op, "resid", self.resid.len(), n)?;
        for out in [&self.embed, &self.pos_embed].into_iter().flatten() {
            need(op, "embed", out.len(), n)?;
        }
        Ok(())
    }
}

/// Where a [`LayerNorm`] starts: what a hook may have edited is taken as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerNormFrom {
    /// Everything is computed from `x`.
    Input,
    /// `scale` is read instead of written.
    Scale,
    /// `normalized` is read instead of written; `x` and `scale` are not looked at.
    Normalized,
}

/// `normalized = (x - mean) / scale`, `scale = sqrt(var + eps)` (biased variance), and
/// `output = normalized * gain + bias`, row by row.
pub struct LayerNorm<'a, B: Backend> {
    /// Input `[rows, D]`.
    pub x: &'a B::Buffer<f32>,
    /// Where to start.
    pub from: LayerNormFrom,
    /// Gain `[D]`; none where it was folded into the next weights.
    pub gain: Option<&'a B::Buffer<f32>>,
    /// Bias `[D]`; none where it was folded.
    pub bias: Option<&'a B::Buffer<f32>>,
    /// Added to the variance.
    pub epsilon: f32,
    /// Rows.
    pub rows: usize,
    /// Width (`D`).
    pub d_model: usize,
    /// Out where wanted, or in when starting there: `[rows]`.
    pub scale: Option<&'a mut B::Buffer<f32>>,
    /// Out where wanted, or in when starting there: before gain and bias `[rows, D]`
    /// (TransformerLens' `hook_normalized`).
    pub normalized: Option<&'a mut B::Buffer<f32>>,
    /// Out: after gain and bias `[rows, D]`.
    pub output: &'a mut B::Buffer<f32>,
}

impl<B: Backend> LayerNorm<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("layer_norm", self.rows * self.d_model);
        require(op, self.d_model > 0, || "d_model is 0".into())?;
        let given = match self.from {
            LayerNormFrom::Input => true,
            LayerNormFrom::Scale => self.scale.is_some(),
            LayerNormFrom::Normalized => self.normalized.is_some(),
        };
        require(op, given, || format!("it is to start from {:?}, which is not given", self.from))?;
        need(op, "x", self.x.len(), n)?;
        need(op, "output", self.output.len(), n)?;
        for (name, vector) in [("gain", self.gain), ("bias", self.bias)] {
            if let Some(vector) = vector {
                need(op, name, vector.len(), self.d_model)?;
            }
        }
        if let Some(scale) = &self.scale {
            need(op, "scale", scale.len(), self.rows)?;
        }
        if let Some(normalized) = &self.normalized {
            need(op, "normalized", normalized.len(), n)?;
        }
        Ok(())
    }
}

/// `to[i] = f(to[i])`.
pub struct Activate<'a, B: Backend> {
    /// The function.
    pub function: ActivationFunction,
    /// In and out `[len]`.
    pub to: &'a mut B::Buffer<f32>,
    /// Elements.
    pub len: usize,
}

impl<B: Backend> Activate<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("activate", "to", self.to.len(), self.len)
    }
}

/// Activation function of a [`Linear`], by Hugging Face's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationFunction {
    /// `x`.
    Identity,
    /// `max(x, 0)`: "relu".
    Relu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: "gelu_new", "gelu_pytorch_tanh".
    GeluTanh,
    /// `x * Phi(x)` with the error function: "gelu".
    GeluErf,
    /// `x * sigmoid(x)`: "silu", "swish".
    Silu,
    /// `x * sigmoid(1.702 x)`: "quick_gelu".
    QuickGelu,
    /// `tanh(x)`: "tanh".
    Tanh,
}

/// `out = f(x · w + bias) + residual`, with `w` as GPT-2's Conv1D stores it, `[K, N]`, or as
/// `[N, K]` when `w_is_transposed`, as bf16 must be.
pub struct Linear<'a, B: Backend> {
    /// Input `[M, K]`.
    pub x: Matrix<'a, B>,
    /// Weights `[K, N]`, or `[N, K]`, of the input's type.
    pub w: Matrix<'a, B>,
    /// Whether `w` is `[N, K]`.
    pub w_is_transposed: bool,
    /// Bias `[N]`.
    pub bias: Option<&'a B::Buffer<f32>>,
    /// Applied after the bias.
    pub function: ActivationFunction,
    /// Added after the function `[M, N]`.
    pub residual: Option<&'a B::Buffer<f32>>,
    /// Rows (`M`).
    pub rows: usize,
    /// Input width (`K`).
    pub d_input: usize,
    /// Output width (`N`).
    pub d_output: usize,
    /// Out `[M, N]`.
    pub out: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Linear<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("linear", self.rows * self.d_output);
        let (of_x, of_w) = (self.rows * self.d_input, self.d_input * self.d_output);
        need_operands(op, [("x", self.x, of_x), ("w", self.w, of_w)])?;
        require(op, self.w_is_transposed || !self.w.is_bf16(), || "bf16 weights are not transposed".into())?;
        need(op, "out", self.out.len(), n)?;
        if let Some(bias) = self.bias {
            need(op, "bias", bias.len(), self.d_output)?;
        }
        if let Some(residual) = self.residual {
            need(op, "residual", residual.len(), n)?;
        }
        Ok(())
    }
}

/// Dimensions of an attention operation.
#[derive(Clone, Copy, Debug)]
pub struct AttentionDims {
    /// Queries in all: sequences times context.
    pub rows: usize,
    /// Queries of one sequence (`T`); they stand at the positions `past..past + T`.
    pub context: usize,
    /// Positions before the first query, whose keys and values were kept from earlier runs.
    pub past: usize,
    /// Positions that k and v have room for in each sequence: `past + T` or more.
    pub room: usize,
    /// Heads (`H`).
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
}

impl AttentionDims {
    /// Whole sequences: keys and values are of the same `rows` positions as the queries.
    pub fn whole(rows: usize, context: usize, n_heads: usize, d_head: usize) -> Self {
        AttentionDims { rows, context, past: 0, room: context, n_heads, d_head }
    }

    /// Elements of q and z.
    pub fn values(&self) -> usize {
        self.rows * self.n_heads * self.d_head
    }

    /// Elements of k and v.
    pub fn cached(&self) -> usize {
        self.rows / self.context.max(1) * self.room * self.n_heads * self.d_head
    }

    /// Positions that the last query sees.
    pub fn keys(&self) -> usize {
        self.past + self.context
    }

    /// Elements of the pattern.
    pub fn pattern(&self) -> usize {
        self.rows * self.n_heads * self.keys()
    }

    fn check(&self, op: &'static str, values: &[(&str, usize)], cached: &[(&str, usize)]) -> Result<()> {
        require(op, self.context > 0 && self.rows.is_multiple_of(self.context), || {
            format!("{} rows are not a multiple of the context {}", self.rows, self.context)
        })?;
        require(op, self.d_head > 0, || "d_head is 0".into())?;
        require(op, self.keys() <= self.room, || {
            format!("k and v have room for {} positions, {} are needed", self.room, self.keys())
        })?;
        values.iter().try_for_each(|(name, len)| need(op, name, *len, self.values()))?;
        cached.iter().try_for_each(|(name, len)| need(op, name, *len, self.cached()))
    }
}

/// Causal self-attention of every sequence and head: `pattern = softmax(scale · q kᵀ)` over the
/// positions up to the query's own, `z = pattern · v`. The pattern is never whole in memory. Keys and
/// values may be a cache that earlier positions have left theirs in.
pub struct Attention<'a, B: Backend> {
    /// Queries `[rows, H * d_head]`.
    pub q: &'a B::Buffer<f32>,
    /// Keys `[sequences, room, H * d_head]`.
    pub k: &'a B::Buffer<f32>,
    /// Values `[sequences, room, H * d_head]`.
    pub v: &'a B::Buffer<f32>,
    /// Factor on the scores.
    pub scale: f32,
    /// Dimensions.
    pub dims: AttentionDims,
    /// Out: `[rows, H * d_head]`.
    pub z: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Attention<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (values, cached) = ([("q", self.q.len()), ("z", self.z.len())], [("k", self.k.len()), ("v", self.v.len())]);
        self.dims.check("attention", &values, &cached)
    }
}

/// The first half of [`Attention`], for those who look at or edit the pattern.
pub struct AttentionPattern<'a, B: Backend> {
    /// Queries `[rows, H * d_head]`.
    pub q: &'a B::Buffer<f32>,
    /// Keys `[sequences, room, H * d_head]`.
    pub k: &'a B::Buffer<f32>,
    /// Factor on the scores.
    pub scale: f32,
    /// Dimensions.
    pub dims: AttentionDims,
    /// Out: `[sequences, H, T, past + T]`, query by key, zero after the query's own position.
    pub pattern: &'a mut B::Buffer<f32>,
}

impl<B: Backend> AttentionPattern<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "attention_pattern";
        self.dims.check(op, &[("q", self.q.len())], &[("k", self.k.len())])?;
        need(op, "pattern", self.pattern.len(), self.dims.pattern())
    }
}

/// The second half of [`Attention`]: `z = pattern · v`, whatever the pattern holds, above the
/// diagonal too.
pub struct AttentionMix<'a, B: Backend> {
    /// `[sequences, H, T, past + T]`.
    pub pattern: &'a B::Buffer<f32>,
    /// Values `[sequences, room, H * d_head]`.
    pub v: &'a B::Buffer<f32>,
    /// Dimensions.
    pub dims: AttentionDims,
    /// Out: `[rows, H * d_head]`.
    pub z: &'a mut B::Buffer<f32>,
}

impl<B: Backend> AttentionMix<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "attention_mix";
        self.dims.check(op, &[("z", self.z.len())], &[("v", self.v.len())])?;
        need(op, "pattern", self.pattern.len(), self.dims.pattern())
    }
}

/// `to[i] += from[i]`.
pub struct Add<'a, B: Backend> {
    /// What is added `[len]`.
    pub from: &'a B::Buffer<f32>,
    /// In and out `[len]`.
    pub to: &'a mut B::Buffer<f32>,
    /// Elements.
    pub len: usize,
}

impl<B: Backend> Add<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("add", "from", self.from.len(), self.len)?;
        need("add", "to", self.to.len(), self.len)
    }
}

/// `loss[r] = -log softmax(x[r] · w_u + b_u)[targets[r]]` in nats.
pub struct UnembedCrossEntropy<'a, B: Backend> {
    /// Output of the final LayerNorm `[rows, D]`.
    pub x: &'a B::Buffer<f32>,
    /// Unembedding as Hugging Face stores `lm_head` and `wte`: `[V, D]`.
    pub w_u: &'a B::Buffer<f32>,
    /// Bias `[V]`; only processed models have one.
    pub b_u: Option<&'a B::Buffer<f32>>,
    /// The token that really follows `[rows]`.
    pub targets: &'a B::Buffer<u32>,
    /// Rows.
    pub rows: usize,
    /// Width (`D`).
    pub d_model: usize,
    /// Vocabulary (`V`).
    pub d_vocab: usize,
    /// Out `[rows]`.
    pub loss: &'a mut B::Buffer<f32>,
}

impl<B: Backend> UnembedCrossEntropy<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "unembed_cross_entropy";
        require(op, self.d_vocab > 0, || "d_vocab is 0".into())?;
        need(op, "x", self.x.len(), self.rows * self.d_model)?;
        need(op, "w_u", self.w_u.len(), self.d_vocab * self.d_model)?;
        if let Some(b_u) = self.b_u {
            need(op, "b_u", b_u.len(), self.d_vocab)?;
        }
        need(op, "targets", self.targets.len(), self.rows)?;
        need(op, "loss", self.loss.len(), self.rows)
    }
}

/// `kl[r] = KL(softmax(x[r] · w_u + b_u) || softmax(y[r] · w_u + b_u))` in nats.
pub struct UnembedKlDivergence<'a, B: Backend> {
    /// Final LayerNorm output of the first (clean) run `[rows, D]`.
    pub x: &'a B::Buffer<f32>,
    /// Final LayerNorm output of the second run `[rows, D]`.
    pub y: &'a B::Buffer<f32>,
    /// Unembedding `[V, D]`.
    pub w_u: &'a B::Buffer<f32>,
    /// Bias `[V]`.
    pub b_u: Option<&'a B::Buffer<f32>>,
    /// Rows.
    pub rows: usize,
    /// Width (`D`).
    pub d_model: usize,
    /// Vocabulary (`V`).
    pub d_vocab: usize,
    /// Out `[rows]`.
    pub kl: &'a mut B::Buffer<f32>,
}

impl<B: Backend> UnembedKlDivergence<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "unembed_kl_divergence";
        require(op, self.d_vocab > 0, || "d_vocab is 0".into())?;
        need(op, "x", self.x.len(), self.rows * self.d_model)?;
        need(op, "y", self.y.len(), self.rows * self.d_model)?;
        need(op, "w_u", self.w_u.len(), self.d_vocab * self.d_model)?;
        if let Some(b_u) = self.b_u {
            need(op, "b_u", b_u.len(), self.d_vocab)?;
        }
        need(op, "kl", self.kl.len(), self.rows)
    }
}

/// A token drawn from `softmax(logits / temperature)` of every row, after the least likely are left out
/// as `transformers` does: first by `top_k`, then by `top_p`.
///
/// Row `r` uses the 64 random bits of [`Random::block`] number `step` of the stream
/// `(seed, Sampling, r)`. Likelihoods are whole numbers of 2^-40 of the largest, so their sums are exact
/// and the same logits give the same token on every device; what is less likely is never drawn.
///
/// [`Random::block`]: crate::random::Random::block
pub struct SampleToken<'a, B: Backend> {
    /// Logits `[rows, V]`. What is not a number counts as -infinity.
    pub logits: &'a B::Buffer<f32>,
    /// Rows.
    pub rows: usize,
    /// Vocabulary (`V`), at most 2^23.
    pub d_vocab: usize,
    /// How.
    pub sampling: Sampling,
    /// Which of the draws with this seed: the random numbers of each differ.
    pub step: u64,
    /// Out `[rows]`; `V` for a row in which no logit is above -infinity.
    pub tokens: &'a mut B::Buffer<u32>,
}

/// How the next token is chosen; the parameters of `transformers`' `generate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the largest logit, ties to the smaller token.
    pub temperature: f32,
    /// Tokens with a smaller logit than the `top_k`-th largest are left out (all that tie with it stay);
    /// 0: none are.
    pub top_k: usize,
    /// The least likely tokens are left out as long as they have a probability of at most `1 - top_p`
    /// together, of tied ones the larger ids first; 1: none are.
    pub top_p: f32,
    /// Of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// The largest logit, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };

    /// Whether the settings make sense.
    pub fn check(&self) -> Result<()> {
        let (op, Sampling { temperature, top_p, .. }) = ("sample_token", *self);
        require(op, temperature.is_finite() && temperature >= 0.0, || {
            format!("temperature is {temperature}, expected a number of at least 0")
        })?;
        require(op, top_p > 0.0 && top_p <= 1.0, || format!("top_p is {top_p}, expected above 0 and at most 1"))
    }
}

impl<B: Backend> SampleToken<'_, B> {
    /// Whether the buffers fit the dimensions and the settings make sense.
    pub fn check(&self) -> Result<()> {
        let op = "sample_token";
        require(op, (1..=1 << 23).contains(&self.d_vocab), || {
            format!("d_vocab is {}, expected 1 to 8388608", self.d_vocab)
        })?;
        self.sampling.check()?;
        need(op, "logits", self.logits.len(), self.rows * self.d_vocab)?;
        need(op, "tokens", self.tokens.len(), self.rows)
    }
}
