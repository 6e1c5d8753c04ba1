//! Cases of the language model's operations.

use super::*;
use cusae::backend::{Add, Embed, LayerNorm, LayerNormFrom};

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
