//! Cases of the language model's operations.

use super::*;
use cusae::backend::{
    Activate, ActivationFunction, Add, Attention, AttentionDims, AttentionMix, AttentionPattern, Embed, LayerNorm,
    LayerNormFrom, Linear, SampleToken, Sampling, UnembedCrossEntropy, UnembedKlDivergence,
};

/// [`Backend::embed`].
#[derive(Clone, Debug)]
pub struct EmbedCase {
    pub rows: usize,
    pub context: usize,
    pub past: usize,
    pub d_model: usize,
    pub d_vocab: usize,
    /// Whether the two parts are wanted as well.
    pub parts: bool,
    /// Put in place of the last token.
    pub last_token: Option<u32>,
}

/// One token, one dimension; widths around a warp's 32 and its 32 packs of four; rows around a block's 8 warps.
pub fn embed() -> Vec<EmbedCase> {
    let case = |rows, context, d_model, d_vocab, parts| EmbedCase {
        rows,
        context,
        past: 0,
        d_model,
        d_vocab,
        parts,
        last_token: None,
    };
    vec![
        case(1, 1, 1, 1, true),
        case(7, 7, 31, 5, true),
        case(8, 4, 32, 5, false),
        case(9, 3, 33, 2, true),
        case(66, 22, 65, 100, false),
        case(9, 3, 132, 5, true),
        case(0, 4, 8, 3, false),
        EmbedCase { past: 5, ..case(9, 3, 33, 2, true) },
    ]
}

impl Case for EmbedCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (n, mut outputs) = (self.rows * self.d_model, Outputs::default());
        let mut tokens = indices(1, self.rows, self.d_vocab);
        if let (Some(token), Some(last)) = (self.last_token, tokens.last_mut()) {
            *last = token;
        }
        let tokens = backend.upload(&tokens)?;
        let w_e = backend.upload(&values(2, self.d_vocab * self.d_model))?;
        let w_pos = backend.upload(&values(3, (self.past + self.context + 1) * self.d_model))?;
        let mut resid = unwritten(backend, n)?;
        let (mut embed, mut pos_embed) = (unwritten(backend, n)?, unwritten(backend, n)?);
        backend.embed(Embed {
            tokens: &tokens,
            w_e: &w_e,
            w_pos: &w_pos,
            rows: self.rows,
            context: self.context,
            past: self.past,
            d_model: self.d_model,
            embed: self.parts.then_some(&mut embed),
            pos_embed: self.parts.then_some(&mut pos_embed),
            resid: &mut resid,
        })?;
        outputs.f32(backend, "resid", &resid, n, Agree::Bits)?;
        outputs.f32(backend, "embed", &embed, n, Agree::Bits)?;
        outputs.f32(backend, "pos_embed", &pos_embed, n, Agree::Bits)?;
        Ok(outputs)
    }
}

/// [`Backend::layer_norm`].
#[derive(Clone, Debug)]
pub struct LayerNormCase {
    pub rows: usize,
    pub d_model: usize,
    /// With gain and bias.
    pub affine: bool,
    /// With the optional outputs.
    pub parts: bool,
    pub from: LayerNormFrom,
    /// Added to every input: a mean that is large beside the spread.
    pub offset: f32,
    /// Factor on every input.
    pub factor: f32,
}

/// Widths around a warp's 32 and its 32 packs of four, one and zero rows, a constant row, a large mean, huge and tiny values, one
/// that is not a number, edited parts.
pub fn layer_norm() -> Vec<LayerNormCase> {
    let plain = LayerNormCase {
        rows: 9,
        d_model: 33,
        affine: true,
        parts: true,
        from: LayerNormFrom::Input,
        offset: 0.0,
        factor: 1.0,
    };
    vec![
        plain.clone(),
        LayerNormCase { rows: 1, d_model: 1, ..plain.clone() },
        LayerNormCase { rows: 0, ..plain.clone() },
        LayerNormCase { rows: 8, d_model: 31, affine: false, ..plain.clone() },
        LayerNormCase { rows: 7, d_model: 32, parts: false, ..plain.clone() },
        LayerNormCase { rows: 3, d_model: 768, ..plain.clone() },
        LayerNormCase { offset: 1000.0, ..plain.clone() },
        LayerNormCase { factor: 1e15, ..plain.clone() },
        LayerNormCase { factor: 1e-15, ..plain.clone() },
        LayerNormCase { factor: f32::NAN, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Scale, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Normalized, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Normalized, d_model: 132, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Normalized, d_model: 36, affine: false, ..plain },
    ]
}

impl Case for LayerNormCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, width, n) = (self.rows, self.d_model, self.rows * self.d_model);
        let mut host: Vec<f32> = values(1, n).iter().map(|x| x * self.factor + self.offset).collect();
        if rows > 1 {
            host[width..2 * width].fill(0.5);
        }
        let x = backend.upload(&host)?;
        let gain = backend.upload(&values(2, width))?;
        let bias = backend.upload(&values(3, width))?;
        let mut scale = backend.upload(&vec![0.7; rows])?;
        let mut normalized = backend.upload(&values(4, n))?;
        let mut output = unwritten(backend, n)?;
        backend.layer_norm(LayerNorm {
            x: &x,
            from: self.from,
            gain: self.affine.then_some(&gain),
            bias: self.affine.then_some(&bias),
            epsilon: 1e-5,
            rows,
            d_model: width,
            scale: (self.parts || self.from == LayerNormFrom::Scale).then_some(&mut scale),
            normalized: (self.parts || self.from == LayerNormFrom::Normalized).then_some(&mut normalized),
            output: &mut output,
        })?;
        let (mut scale_bounds, mut normalized_bounds) = (Vec::new(), Vec::new());
        for row in host.chunks_exact(width) {
            let (of_scale, of_values) = normalization_bounds(row, (self.from == LayerNormFrom::Scale).then_some(0.7));
            scale_bounds.push(of_scale);
            normalized_bounds.extend(of_values);
        }
        if self.from == LayerNormFrom::Normalized {
            normalized_bounds.fill(0.0);
        }
        // Gain and bias: what normalising left, and two roundings of at most |gain * value| + |bias|.
        let (gain, bias) = (values(2, width), values(3, width));
        let mut left = vec![0.0; n];
        backend.read(&output, 0, &mut left)?;
        let output_bounds = normalized_bounds.iter().zip(&left).enumerate().map(|(i, (bound, left))| {
            let (gain, bias) = if self.affine { (gain[i % width], bias[i % width]) } else { (1.0, 0.0) };
            bound * f64::from(gain).abs() + 3.0 * ROUNDING * f64::from(left.abs() + 2.0 * bias.abs())
        });
        let mut outputs = Outputs::default();
        outputs.f32(backend, "output", &output, n, Agree::Within(output_bounds.collect()))?;
        outputs.f32(backend, "normalized", &normalized, n, Agree::Within(normalized_bounds))?;
        outputs.f32(backend, "scale", &scale, rows, Agree::Within(scale_bounds))?;
        Ok(outputs)
    }
}

/// How far two f32 normalisations of a row can be apart, which add its n values in up to n / 8 steps of
/// a running sum: the mean by `n / 8 + 8` roundings of the largest value, and all that follows from it.
fn normalization_bounds(row: &[f32], given_scale: Option<f64>) -> (f64, Vec<f64>) {
    let n = row.len() as f64;
    let largest = row.iter().fold(0.0f64, |largest, &x| largest.max(f64::from(x.abs())));
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    let steps = n / 8.0 + 8.0;
    let of_mean = 2.0 * steps * ROUNDING * largest;
    let scale = given_scale.unwrap_or((variance + 1e-5).sqrt());
    // A mean that is off by d makes the variance larger by d²; the rest is roundings of the sum.
    let of_scale = match given_scale {
        Some(_) => 0.0,
        None => 2.0 * steps * ROUNDING * scale + of_mean * of_mean / scale,
    };
    let of_value = |x: f32| {
        let value = (f64::from(x) - mean).abs() / scale;
        of_mean / scale + value * (of_scale / scale + 4.0 * ROUNDING) + ROUNDING * largest / scale
    };
    (of_scale, row.iter().map(|&x| of_value(x)).collect())
}

/// [`Backend::add`].
#[derive(Clone, Debug)]
pub struct AddCase {
    pub len: usize,
}

/// Around a thread's four elements and the ends of blocks.
pub fn add() -> Vec<AddCase> {
    [0, 1, 255, 256, 257, 1030].map(|len| AddCase { len }).to_vec()
}

impl Case for AddCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let from = backend.upload(&values(1, self.len))?;
        let mut to = backend.upload(&values(2, self.len + 3))?;
        backend.add(Add { from: &from, to: &mut to, len: self.len })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "to", &to, self.len + 3, Agree::Bits)?;
        Ok(outputs)
    }
}

const FUNCTIONS: [ActivationFunction; 7] = [
    ActivationFunction::Identity,
    ActivationFunction::Relu,
    ActivationFunction::GeluTanh,
    ActivationFunction::GeluErf,
    ActivationFunction::Silu,
    ActivationFunction::QuickGelu,
    ActivationFunction::Tanh,
];

/// [`Backend::activate`].
#[derive(Clone, Debug)]
pub struct ActivateCase {
    pub len: usize,
    pub function: ActivationFunction,
}

/// Every function; around a block's 1,024 elements, four of a thread.
pub fn activate() -> Vec<ActivateCase> {
    let case = |function| ActivateCase { len: 2000, function };
    let sizes = [0, 1, 3, 1023, 1024, 1025].map(|len| ActivateCase { len, function: ActivationFunction::Tanh });
    FUNCTIONS.map(case).into_iter().chain(sizes).collect()
}

impl Case for ActivateCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        // What lies behind the elements must stay as it is.
        let all = self.len + 3;
        let mut host = values(1, all);
        let rare = [f32::NAN, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        host.iter_mut().zip(rare).for_each(|(x, rare)| *x = rare);
        host.iter_mut().skip(rare.len()).for_each(|x| *x *= 4.0);
        let bounds = host.iter().map(|&x| function_bound(self.function, x.into())).collect();
        let mut to = backend.upload(&host)?;
        backend.activate(Activate { function: self.function, to: &mut to, len: self.len })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "to", &to, all, Agree::Within(bounds))?;
        Ok(outputs)
    }
}

/// How far two f32 versions of a function can be apart: each is within 3e-7 of max(|f|, 1), and
/// |f(x)| <= |x|.
fn function_bound(function: ActivationFunction, x: f64) -> f64 {
    match function {
        ActivationFunction::Identity | ActivationFunction::Relu => 0.0,
        _ => 6e-7 * x.abs().clamp(1.0, f32::MAX.into()),
    }
}

/// [`Backend::linear`].
#[derive(Clone, Debug)]
pub struct LinearCase {
    pub rows: usize,
    pub d_input: usize,
    pub d_output: usize,
    pub w_is_transposed: bool,
    pub function: ActivationFunction,
    /// With bias and residual.
    pub adds: bool,
    /// Factor on `x`.
    pub factor: f32,
    /// Whether the first of `x` and of the weights are not numbers.
    pub nan: bool,
    /// The operands are bf16.
    pub bf16: bool,
}

/// Both layouts of the weights. Just below, at and above a tile's 128 rows x 64 columns x 16 products
/// and the three steps in flight; widths that are no multiples of 4, which are not loaded 16 bytes at a
/// time; one, none; huge and tiny values, one that is not a number; every function.
pub fn linear() -> Vec<LinearCase> {
    let plain = LinearCase {
        rows: 5,
        d_input: 12,
        d_output: 8,
        w_is_transposed: false,
        function: ActivationFunction::Identity,
        adds: true,
        factor: 1.0,
        nan: false,
        bf16: false,
    };
    let sizes = [
        [1, 1, 1],
        [3, 0, 2],
        [0, 4, 4],
        [4, 4, 0],
        [127, 15, 63],
        [128, 16, 64],
        [129, 17, 65],
        [132, 20, 68],
        [2, 32, 12],
        [2, 33, 13],
        [7, 100, 31],
    ];
    let sized = sizes.map(|[rows, d_input, d_output]| LinearCase { rows, d_input, d_output, ..plain.clone() });
    let functions = FUNCTIONS.map(|function| LinearCase { function, ..plain.clone() });
    let others = [
        LinearCase { adds: false, ..plain.clone() },
        LinearCase { factor: 1e30, ..plain.clone() },
        LinearCase { factor: 1e-30, ..plain.clone() },
        LinearCase { nan: true, ..plain.clone() },
        LinearCase { nan: true, rows: 2, d_input: 13, ..plain.clone() },
    ];
    let cases = sized.into_iter().chain(functions).chain(others);
    cases.flat_map(|case| [false, true].map(|w_is_transposed| LinearCase { w_is_transposed, ..case.clone() })).collect()
}

/// With bf16 operands, as [`linear`] with transposed weights; and just below, at and above a tile's 128 rows,
/// 128 and 192 columns, 32 and 64 products and the four steps in flight.
pub fn linear_in_bf16() -> Vec<LinearCase> {
    let sizes = [[127, 31, 127], [128, 64, 192], [129, 72, 193], [257, 8, 390], [2, 256, 20], [2, 320, 385]];
    let transposed = linear().into_iter().filter(|case| case.w_is_transposed);
    let plain = LinearCase { bf16: true, w_is_transposed: true, ..linear().swap_remove(0) };
    let sized = sizes.map(|[rows, d_input, d_output]| LinearCase { rows, d_input, d_output, ..plain.clone() });
    transposed.map(|case| LinearCase { bf16: true, ..case }).chain(sized).collect()
}

impl Case for LinearCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let &LinearCase { rows, d_input, d_output, w_is_transposed, function, .. } = self;
        let mut x: Vec<f32> = values(1, rows * d_input).iter().map(|x| x * self.factor).collect();
        if self.nan {
            x[0] = f32::NAN;
        }
        let round = |values| if self.bf16 { rounded(values) } else { values };
        let mut w = values(2, d_input * d_output);
        if self.nan {
            w[0] = f32::NAN;
        }
        let (x, w) = (round(x), round(w));
        let (bias, residual) = (values(3, d_output), values(4, rows * d_output));
        let upload = |values: &[f32]| Operand::upload(backend, values, self.bf16);
        let (x_buffer, w_buffer) = (upload(&x)?, upload(&w)?);
        let (bias_buffer, residual_buffer) = (backend.upload(&bias)?, backend.upload(&residual)?);
        let mut out = unwritten(backend, rows * d_output)?;
        backend.linear(Linear {
            x: x_buffer.matrix(),
            w: w_buffer.matrix(),
            w_is_transposed,
            bias: self.adds.then_some(&bias_buffer),
            function,
            residual: self.adds.then_some(&residual_buffer),
            rows,
            d_input,
            d_output,
            out: &mut out,
        })?;
        let of_cores = if self.bf16 { OF_TENSOR_CORES } else { 1.0 };
        // No function has a slope above 1.2; the residual is added to at most the size of its argument.
        let bounds = (0..rows * d_output).map(|i| {
            let (row, column) = (i / d_output, i % d_output);
            let weight = |k| if w_is_transposed { w[column * d_input + k] } else { w[k * d_output + column] };
            let products = (0..d_input).map(|k| f64::from(x[row * d_input + k]) * f64::from(weight(k)));
            let (bias, residual) = if self.adds { (bias[column], residual[i]) } else { (0.0, 0.0) };
            let size = products.map(f64::abs).sum::<f64>() + f64::from(bias.abs());
            let all = size + f64::from(residual.abs());
            1.2 * of_cores * product_bound(d_input, size) + function_bound(function, size) + 4.0 * ROUNDING * all
        });
        let bounds = Agree::Within(bounds.collect());
        let mut outputs = Outputs::default();
        outputs.f32(backend, "out", &out, rows * d_output, bounds)?;
        Ok(outputs)
    }
}

/// How far two f32 sums of `n` products can be apart that add in different orders: n roundings each of
/// the sum of the products' magnitudes.
fn product_bound(n: usize, magnitudes: f64) -> f64 {
    2.0 * n as f64 * ROUNDING * magnitudes
}

/// [`Backend::attention`], [`Backend::attention_pattern`] and [`Backend::attention_mix`].
#[derive(Clone, Debug)]
pub struct AttentionCase {
    pub sequences: usize,
    pub context: usize,
    pub n_heads: usize,
    pub d_head: usize,
    /// Positions before the queries, and positions there is room for.
    pub past: usize,
    pub room: usize,
    /// Factor on the queries.
    pub factor: f32,
}

/// One position; around a tile's 64 keys, 128 queries and 64 columns; widths that are no multiples of
/// 4; several heads and sequences; scores so large that one key takes all, and so small that all are alike;
/// one and several queries after a past that is less than, exactly and more than a tile.
pub fn attention() -> Vec<AttentionCase> {
    let case = |(sequences, context, n_heads, d_head)| AttentionCase {
        sequences,
        context,
        n_heads,
        d_head,
        past: 0,
        room: context,
        factor: 1.0,
    };
    let sizes = [
        (1, 1, 1, 1),
        (3, 2, 1, 4),
        (2, 5, 3, 3),
        (1, 63, 1, 4),
        (1, 64, 2, 16),
        (1, 65, 2, 17),
        (1, 129, 1, 8),
        (2, 200, 1, 5),
        (2, 31, 1, 64),
        (1, 7, 2, 65),
        (1, 70, 1, 130),
        (2, 5, 4, 3),
        (1, 66, 2, 66),
        (0, 4, 2, 3),
    ];
    let factors = [30.0, 1e-30].map(|factor| AttentionCase { factor, ..case((1, 70, 1, 8)) });
    let cached = [(1, 1, 0), (1, 5, 2), (1, 63, 0), (1, 64, 1), (3, 65, 4), (66, 140, 3)];
    let cached = cached.map(|(context, past, spare)| AttentionCase {
        past,
        room: past + context + spare,
        ..case((2, context, 2, 5))
    });
    sizes.map(case).into_iter().chain(factors).chain(cached).collect()
}

impl AttentionCase {
    const SCALE: f32 = 0.3;

    fn dims(&self) -> AttentionDims {
        let &AttentionCase { sequences, context, n_heads, d_head, past, room, .. } = self;
        AttentionDims { rows: sequences * context, context, past, room, n_heads, d_head }
    }

    fn queries(&self) -> Vec<f32> {
        values(1, self.dims().values()).iter().map(|x| x * self.factor).collect()
    }

    fn keys(&self) -> Vec<f32> {
        values(2, self.dims().cached())
    }

    fn values(&self) -> Vec<f32> {
        values(3, self.dims().cached())
    }

    /// Where the vector of a query and head starts in q and z.
    fn start(&self, sequence: usize, query: usize, head: usize) -> usize {
        ((sequence * self.context + query) * self.n_heads + head) * self.d_head
    }

    /// Where the vector of a position and head starts in k and v.
    fn key_start(&self, sequence: usize, position: usize, head: usize) -> usize {
        ((sequence * self.dims().room + position) * self.n_heads + head) * self.d_head
    }

    /// Calls `visit(sequence, head, query)` in the order of the pattern's rows.
    fn for_each_row(&self, mut visit: impl FnMut(usize, usize, usize)) {
        for sequence in 0..self.sequences {
            for head in 0..self.n_heads {
                (0..self.context).for_each(|query| visit(sequence, head, query));
            }
        }
    }

    /// The pattern in f64, and how far from it two f32 versions can be from each other, relatively, row
    /// by row: a score that is off by d makes an element and the sum larger by e^d; each has the error of
    /// two exponentials, and of one more for every tile of keys; the sum rounds once for every key.
    fn pattern(&self) -> (Vec<f64>, Vec<f64>) {
        let (q, k, d_head) = (self.queries(), self.keys(), self.d_head);
        let (mut pattern, mut relative) = (Vec::new(), Vec::new());
        self.for_each_row(|sequence, head, query| {
            let q = &q[self.start(sequence, query, head)..][..d_head];
            let (mut scores, mut off) = (vec![f64::NEG_INFINITY; self.dims().keys()], 0.0f64);
            for (key, score) in scores[..=self.past + query].iter_mut().enumerate() {
                let k = &k[self.key_start(sequence, key, head)..][..d_head];
                let products = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k) * f64::from(Self::SCALE));
                let size: f64 = products.clone().map(f64::abs).sum();
                *score = products.sum();
                off = off.max(product_bound(d_head + 2, size));
            }
            let softmax = softmax(&scores);
            pattern.extend(softmax);
            let keys = self.dims().keys() as f64;
            let tiles = keys / 64.0;
            relative.push((2.0 * off).exp_m1() + (4.0 + tiles) * 4e-7 + (keys + 8.0) * 2.0 * ROUNDING);
        });
        (pattern, relative)
    }
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
    scores.iter().map(|score| (score - largest).exp() / sum).collect()
}

/// What exponentials keep of a share below their smallest result.
const LEAST_SHARE: f64 = 1e-37;

impl Case for AttentionCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (dims, host_v) = (self.dims(), self.values());
        let (q, k, v) = (backend.upload(&self.queries())?, backend.upload(&self.keys())?, backend.upload(&host_v)?);
        let (mut z, mut pattern) = (unwritten(backend, dims.values())?, unwritten(backend, dims.pattern())?);
        backend.attention(Attention { q: &q, k: &k, v: &v, scale: Self::SCALE, dims, z: &mut z })?;
        backend.attention_pattern(AttentionPattern {
            q: &q,
            k: &k,
            scale: Self::SCALE,
            dims,
            pattern: &mut pattern,
        })?;
        let (exact, relative) = self.pattern();
        let mut z_bounds = vec![0.0; dims.values()];
        let mut row = 0;
        self.for_each_row(|sequence, head, query| {
            for column in 0..self.d_head {
                let value = |key| f64::from(host_v[self.key_start(sequence, key, head) + column].abs());
                let share = |key| exact[row * dims.keys() + key] + LEAST_SHARE;
                let size: f64 = (0..=self.past + query).map(|key| share(key) * value(key)).sum();
                z_bounds[self.start(sequence, query, head) + column] =
                    (relative[row] + product_bound(self.past + query + 2, 1.0)) * size;
            }
            row += 1;
        });
        let bounds = exact.iter().enumerate().map(|(i, share)| (share + LEAST_SHARE) * relative[i / dims.keys()]);
        let mut outputs = Outputs::default();
        outputs.f32(backend, "z", &z, dims.values(), Agree::Within(z_bounds))?;
        outputs.f32(backend, "pattern", &pattern, dims.pattern(), Agree::Within(bounds.collect()))?;
        Ok(outputs)
    }
}

/// [`Backend::attention_mix`], with a pattern of any numbers.
#[derive(Debug)]
pub struct AttentionMixCase(pub AttentionCase);

impl Case for AttentionMixCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (case, dims) = (&self.0, self.0.dims());
        let (host_pattern, host_v) = (values(4, dims.pattern()), case.values());
        let (pattern, v) = (backend.upload(&host_pattern)?, backend.upload(&host_v)?);
        let mut z = unwritten(backend, dims.values())?;
        backend.attention_mix(AttentionMix { pattern: &pattern, v: &v, dims, z: &mut z })?;
        let mut bounds = vec![0.0; dims.values()];
        let mut rows = host_pattern.chunks_exact(dims.keys());
        case.for_each_row(|sequence, head, query| {
            let row = rows.next().unwrap();
            for column in 0..case.d_head {
                let value = |key| f64::from(host_v[case.key_start(sequence, key, head) + column]);
                let size = row.iter().enumerate().map(|(key, share)| (f64::from(*share) * value(key)).abs()).sum();
                bounds[case.start(sequence, query, head) + column] = product_bound(dims.keys(), size);
            }
        });
        let mut outputs = Outputs::default();
        outputs.f32(backend, "z", &z, dims.values(), Agree::Within(bounds))?;
        Ok(outputs)
    }
}

/// [`Backend::unembed_cross_entropy`] and [`Backend::unembed_kl_divergence`].
#[derive(Clone, Debug)]
pub struct UnembedCase {
    pub rows: usize,
    pub d_model: usize,
    pub d_vocab: usize,
    pub bias: bool,
    /// Factor on the inputs.
    pub factor: f32,
    /// Added to all biases, and to the last.
    pub shift: f32,
    pub last_shift: f32,
    /// Put in place of the last target.
    pub last_target: Option<u32>,
}

/// One token; around a tile's 128 rows x 64 tokens and a part's 4,096 tokens; three parts; logits so far
/// apart that one takes all, the last part's, all alike, all far below 0, and none a number.
pub fn unembed() -> Vec<UnembedCase> {
    let case = |(rows, d_model, d_vocab)| UnembedCase {
        rows,
        d_model,
        d_vocab,
        bias: true,
        factor: 1.0,
        shift: 0.0,
        last_shift: 0.0,
        last_target: None,
    };
    let sizes = [
        (1, 1, 1),
        (3, 5, 7),
        (127, 16, 63),
        (128, 4, 64),
        (129, 17, 65),
        (2, 4, 4096),
        (3, 3, 4097),
        (2, 2, 8200),
        (0, 4, 5),
    ];
    let plain = case((4, 20, 100));
    let others = [
        UnembedCase { bias: false, ..plain.clone() },
        UnembedCase { factor: 100.0, ..plain.clone() },
        UnembedCase { factor: 1e-30, bias: false, ..plain.clone() },
        UnembedCase { factor: f32::NAN, ..plain.clone() },
        UnembedCase { shift: -300.0, ..plain.clone() },
        UnembedCase { last_shift: 2000.0, ..case((2, 3, 4097)) },
    ];
    sizes.map(case).into_iter().chain(others).collect()
}

impl UnembedCase {
    fn input(&self, seed: u64) -> Vec<f32> {
        values(seed, self.rows * self.d_model).iter().map(|x| x * self.factor).collect()
    }

    fn w_u(&self) -> Vec<f32> {
        values(2, self.d_vocab * self.d_model)
    }

    fn b_u(&self) -> Vec<f32> {
        if !self.bias {
            return vec![0.0; self.d_vocab];
        }
        let mut biases: Vec<f32> = values(3, self.d_vocab).iter().map(|b| b + self.shift).collect();
        biases.iter_mut().last().into_iter().for_each(|last| *last += self.last_shift);
        biases
    }

    /// The logits of one row in f64, and how far two f32 versions of one of them can be apart.
    fn logits(&self, x: &[f32], w_u: &[f32], b_u: &[f32]) -> (Vec<f64>, f64) {
        let mut off = 0.0f64;
        let logits = w_u.chunks_exact(self.d_model).zip(b_u).map(|(w, b)| {
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            let size = products.clone().map(f64::abs).sum::<f64>() + f64::from(b.abs());
            off = off.max(product_bound(self.d_model + 1, size));
            products.sum::<f64>() + f64::from(*b)
        });
        (logits.collect(), off)
    }

    /// How far two sums of exponentials can be apart, relatively, apart from the logits' errors: each
    /// exponential 2e-7, and for up to 4,096 tokens every 8th of them in one running sum, whose maximum
    /// moves a few times.
    fn of_sum(&self) -> f64 {
        2.0 * ((self.d_vocab.min(4096) as f64 / 8.0 + 16.0) * ROUNDING + 8.0 * 2e-7)
    }
}

impl Case for UnembedCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let &UnembedCase { rows, d_model, d_vocab, .. } = self;
        let (host_x, host_w, host_b) = (self.input(1), self.w_u(), self.b_u());
        let mut targets = indices(5, rows, d_vocab);
        if let (Some(target), Some(last)) = (self.last_target, targets.last_mut()) {
            *last = target;
        }
        let (x, w_u, b_u) = (backend.upload(&host_x)?, backend.upload(&host_w)?, backend.upload(&host_b)?);
        let (targets, mut loss) = (backend.upload(&targets)?, unwritten(backend, rows)?);
        backend.unembed_cross_entropy(UnembedCrossEntropy {
            x: &x,
            w_u: &w_u,
            b_u: self.bias.then_some(&b_u),
            targets: &targets,
            rows,
            d_model,
            d_vocab,
            loss: &mut loss,
        })?;
        let mut left = vec![0.0; rows];
        backend.read(&loss, 0, &mut left)?;
        let bounds = host_x.chunks_exact(d_model).zip(left).map(|(x, loss)| {
            let (_, off) = self.logits(x, &host_w, &host_b);
            2.0 * off + self.of_sum() + 2.0 * ROUNDING * f64::from(loss.abs())
        });
        let mut outputs = Outputs::default();
        outputs.f32(backend, "loss", &loss, rows, Agree::Within(bounds.collect()))?;
        Ok(outputs)
    }
}

/// The divergence of two runs with the same unembedding.
#[derive(Debug)]
pub struct KlDivergenceCase(pub UnembedCase);

impl Case for KlDivergenceCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let case = &self.0;
        let (host_x, host_y, host_w, host_b) = (case.input(1), case.input(7), case.w_u(), case.b_u());
        let (x, y) = (backend.upload(&host_x)?, backend.upload(&host_y)?);
        let (w_u, b_u) = (backend.upload(&host_w)?, backend.upload(&host_b)?);
        let mut kl = unwritten(backend, case.rows)?;
        backend.unembed_kl_divergence(UnembedKlDivergence {
            x: &x,
            y: &y,
            w_u: &w_u,
            b_u: case.bias.then_some(&b_u),
            rows: case.rows,
            d_model: case.d_model,
            d_vocab: case.d_vocab,
            kl: &mut kl,
        })?;
        let rows = host_x.chunks_exact(case.d_model).zip(host_y.chunks_exact(case.d_model));
        let bounds = rows.map(|(x, y)| {
            let ((x, x_off), (y, y_off)) = (case.logits(x, &host_w, &host_b), case.logits(y, &host_w, &host_b));
            let differences = softmax(&x).iter().zip(&x).zip(&y).map(|((p, x), y)| p * (x - y).abs()).sum::<f64>();
            let of_p = (2.0 * x_off).exp_m1() + case.of_sum();
            2.0 * (x_off + y_off) + of_p * differences + 2.0 * case.of_sum()
        });
        let bounds = Agree::Within(bounds.collect());
        let mut outputs = Outputs::default();
        outputs.f32(backend, "kl", &kl, case.rows, bounds)?;
        Ok(outputs)
    }
}

/// [`Backend::sample_token`].
#[derive(Clone, Debug)]
pub struct SampleTokenCase {
    pub rows: usize,
    pub d_vocab: usize,
    pub sampling: Sampling,
    pub step: u64,
    pub logits: Logits,
}

/// Of what kind the logits are.
#[derive(Clone, Copy, Debug)]
pub enum Logits {
    /// Between -8 and 8, all different.
    Spread,
    /// Few values, among them 0 and -0: many ties.
    Tied,
    /// Infinities, NaN and the largest numbers; rows of NaN and of -infinity.
    Extreme,
}

/// One token; around a thread's share of 1 and 2 tokens; every limit alone and together, at its ends and
/// beyond; ties at the borders of both.
pub fn sample_token() -> Vec<SampleTokenCase> {
    let plain = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0x1234_5678_9abc_def0 };
    let samplings = [
        plain,
        Sampling::GREEDY,
        Sampling { temperature: 0.3, ..plain },
        Sampling { temperature: 1e-40, ..plain },
        Sampling { top_k: 1, ..plain },
        Sampling { top_k: 7, temperature: 5.0, ..plain },
        Sampling { top_k: 100_000, ..plain },
        Sampling { top_p: 0.9, ..plain },
        Sampling { top_p: 1e-9, ..plain },
        Sampling { top_p: 1e-30, ..plain },
        Sampling { top_p: 0.5, temperature: 100.0, ..plain },
        Sampling { top_k: 20, top_p: 0.7, temperature: 3.0, seed: 5 },
    ];
    let mut cases = Vec::new();
    for sampling in samplings {
        for (rows, d_vocab, logits) in [
            (3, 1, Logits::Spread),
            (40, 255, Logits::Spread),
            (5, 256, Logits::Tied),
            (40, 257, Logits::Tied),
            (4, 600, Logits::Extreme),
            (2, 5000, Logits::Spread),
            (0, 5, Logits::Spread),
        ] {
            cases.push(SampleTokenCase { rows, d_vocab, sampling, step: 3 + (7 << 32), logits });
        }
    }
    cases
}

impl Case for SampleTokenCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, d_vocab) = (self.rows, self.d_vocab);
        let mut random = Random::new(9, Stream::Weights, 0);
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, 0.0];
        let logit = |row: usize| match self.logits {
            Logits::Spread => 16.0 * random.uniform() - 8.0,
            Logits::Tied => [-2.0, -0.0, 0.0, 0.5, 0.5][random.below(5) as usize],
            Logits::Extreme if row < 2 => [f32::NAN, f32::NEG_INFINITY][row],
            Logits::Extreme => odd[random.below(odd.len() as u32) as usize],
        };
        let logits: Vec<f32> = (0..rows * d_vocab).map(|i| i / d_vocab.max(1)).map(logit).collect();
        let logits = backend.upload(&logits)?;
        let mut tokens = unwritten(backend, rows)?;
        let (sampling, step) = (self.sampling, self.step);
        backend.sample_token(SampleToken { logits: &logits, rows, d_vocab, sampling, step, tokens: &mut tokens })?;
        let mut outputs = Outputs::default();
        outputs.u32(backend, "tokens", &tokens, rows)?;
        Ok(outputs)
    }
}
