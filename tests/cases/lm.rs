//! Cases of the language model's operations.

use super::*;
use cusae::backend::{Activate, ActivationFunction, Add, Embed, LayerNorm, LayerNormFrom, Linear};

/// [`Backend::embed`].
#[derive(Clone, Debug)]
pub struct EmbedCase {
    pub rows: usize,
    pub context: usize,
    pub d_model: usize,
    pub d_vocab: usize,
    /// Whether the two parts are wanted as well.
    pub parts: bool,
    /// Put in place of the last token.
    pub last_token: Option<u32>,
}

/// One token, one dimension; odd widths around a warp's 32; rows around a block's 8 warps.
pub fn embed() -> Vec<EmbedCase> {
    let case =
        |rows, context, d_model, d_vocab, parts| EmbedCase { rows, context, d_model, d_vocab, parts, last_token: None };
    vec![
        case(1, 1, 1, 1, true),
        case(7, 7, 31, 5, true),
        case(8, 4, 32, 5, false),
        case(9, 3, 33, 2, true),
        case(66, 22, 65, 100, false),
        case(0, 4, 8, 3, false),
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
        let w_pos = backend.upload(&values(3, (self.context + 1) * self.d_model))?;
        let mut resid = unwritten(backend, n)?;
        let (mut embed, mut pos_embed) = (unwritten(backend, n)?, unwritten(backend, n)?);
        backend.embed(Embed {
            tokens: &tokens,
            w_e: &w_e,
            w_pos: &w_pos,
            rows: self.rows,
            context: self.context,
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
}

/// Widths around a warp's 32, one and zero rows, a constant row, a large mean, edited parts.
pub fn layer_norm() -> Vec<LayerNormCase> {
    let plain =
        LayerNormCase { rows: 9, d_model: 33, affine: true, parts: true, from: LayerNormFrom::Input, offset: 0.0 };
    vec![
        plain.clone(),
        LayerNormCase { rows: 1, d_model: 1, ..plain.clone() },
        LayerNormCase { rows: 0, ..plain.clone() },
        LayerNormCase { rows: 8, d_model: 31, affine: false, ..plain.clone() },
        LayerNormCase { rows: 7, d_model: 32, parts: false, ..plain.clone() },
        LayerNormCase { rows: 3, d_model: 768, ..plain.clone() },
        LayerNormCase { offset: 1000.0, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Scale, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Normalized, ..plain.clone() },
        LayerNormCase { from: LayerNormFrom::Normalized, affine: false, ..plain },
    ]
}

impl Case for LayerNormCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let (rows, width, n) = (self.rows, self.d_model, self.rows * self.d_model);
        let mut host: Vec<f32> = values(1, n).iter().map(|x| x + self.offset).collect();
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

/// Around a block's 256 elements.
pub fn add() -> Vec<AddCase> {
    [0, 1, 255, 256, 257, 1000].map(|len| AddCase { len }).to_vec()
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

/// Every function; around a block's 256 elements.
pub fn activate() -> Vec<ActivateCase> {
    let case = |function| ActivateCase { len: 2000, function };
    let sizes = [0, 1, 255, 256, 257].map(|len| ActivateCase { len, function: ActivationFunction::Relu });
    FUNCTIONS.map(case).into_iter().chain(sizes).collect()
}

impl Case for ActivateCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let mut host = values(1, self.len);
        let rare = [f32::NAN, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, -0.0];
        host.iter_mut().zip(rare).for_each(|(x, rare)| *x = rare);
        host.iter_mut().skip(rare.len()).for_each(|x| *x *= 4.0);
        let bounds = host.iter().map(|&x| function_bound(self.function, x.into())).collect();
        let mut to = backend.upload(&host)?;
        backend.activate(Activate { function: self.function, to: &mut to, len: self.len })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "to", &to, self.len, Agree::Within(bounds))?;
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
}

/// Both layouts of the weights. Just below, at and above a tile's 128 rows x 64 columns x 16 products
/// and the three steps in flight; widths that are no multiples of 4, which are not loaded 16 bytes at a
/// time; one, none; huge and tiny values; every function.
pub fn linear() -> Vec<LinearCase> {
    let plain = LinearCase {
        rows: 5,
        d_input: 12,
        d_output: 8,
        w_is_transposed: false,
        function: ActivationFunction::Identity,
        adds: true,
        factor: 1.0,
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
    ];
    let cases = sized.into_iter().chain(functions).chain(others);
    cases.flat_map(|case| [false, true].map(|w_is_transposed| LinearCase { w_is_transposed, ..case.clone() })).collect()
}

impl Case for LinearCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let &LinearCase { rows, d_input, d_output, w_is_transposed, function, .. } = self;
        let x: Vec<f32> = values(1, rows * d_input).iter().map(|x| x * self.factor).collect();
        let w = values(2, d_input * d_output);
        let (bias, residual) = (values(3, d_output), values(4, rows * d_output));
        let (x_buffer, w_buffer) = (backend.upload(&x)?, backend.upload(&w)?);
        let (bias_buffer, residual_buffer) = (backend.upload(&bias)?, backend.upload(&residual)?);
        let mut out = unwritten(backend, rows * d_output)?;
        backend.linear(Linear {
            x: &x_buffer,
            w: &w_buffer,
            w_is_transposed,
            bias: self.adds.then_some(&bias_buffer),
            function,
            residual: self.adds.then_some(&residual_buffer),
            rows,
            d_input,
            d_output,
            out: &mut out,
        })?;
        // No function has a slope above 1.2; the residual is added to at most the size of its argument.
        let bounds = (0..rows * d_output).map(|i| {
            let (row, column) = (i / d_output, i % d_output);
            let weight = |k| if w_is_transposed { w[column * d_input + k] } else { w[k * d_output + column] };
            let products = (0..d_input).map(|k| f64::from(x[row * d_input + k]) * f64::from(weight(k)));
            let (bias, residual) = if self.adds { (bias[column], residual[i]) } else { (0.0, 0.0) };
            let size = products.map(f64::abs).sum::<f64>() + f64::from(bias.abs());
            let all = size + f64::from(residual.abs());
            1.2 * product_bound(d_input, size) + function_bound(function, size) + 4.0 * ROUNDING * all
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
