//! The gradient of logits with respect to the values at a hook, by the chain rule through the later part
//! of the forward pass. Products with weights are done on the model's device, the rest, which is as
//! small as one prompt, on the host.

use super::hooks::{BlockHook, Hook, Record};
use super::model::LanguageModel;
use super::weights::{Block, Map, Norm};
use crate::backend::{ActivationFunction, Backend, Linear, Matrix};
use crate::error::{Error, Result};
use rayon::prelude::*;

/// `Σ weight · logit(token)` at one position: a token's logit, the difference of two, a contrast.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitSum {
    /// Position of the sequence; its logits are those of the token after it.
    pub position: usize,
    /// Tokens and their weights.
    pub weights: Vec<(u32, f32)>,
}

/// What the latest run left at the hooks that the chain rule needs, of one sequence.
struct Values(Record);

impl Values {
    fn at(&self, name: &str) -> &[f32] {
        &self.0.values[name].1
    }
}

impl<B: Backend> LanguageModel<B> {
    /// `d of / d value` at `hook`, `[T, width]`, for one sequence. The hook is one of a block's
    /// `hook_resid_pre`, `attn.hook_z`, `hook_attn_out`, `hook_resid_mid`, `mlp.hook_pre`, `mlp.hook_post`,
    /// `hook_mlp_out` and `hook_resid_post`. Errors: another hook; a position or token that is not there;
    /// as of [`super::Forward::run`].
    pub fn logit_gradient(&self, tokens: &[u32], hook: &str, of: &LogitSum) -> Result<Vec<f32>> {
        let found = self.hooks.find(hook)?;
        let Hook::Block(first, _) = found else { return Err(no_gradient(hook)) };
        if of.position >= tokens.len() {
            let what = format!("position {} of {} tokens", of.position, tokens.len());
            return Err(Error::Shape { operation: "logit_gradient", what });
        }
        let mut record = Record::of(self.hooks_for_gradient(first));
        self.forward(1, tokens.len())?.run(self, tokens, &mut record, None)?;
        let values = Values(record);

        let d = self.config.d_model;
        let mut resid = vec![0.0; tokens.len() * d];
        let direction = self.logit_direction(&of.weights)?;
        let row = of.position * d..(of.position + 1) * d;
        let scale = values.at("ln_final.hook_scale")[of.position];
        let normalized = &values.at("ln_final.hook_normalized")[row.clone()];
        layer_norm_backward(&direction, normalized, &[scale], d, &mut resid[row]);
        for layer in (first..self.config.n_layers).rev() {
            if let Some(gradient) = self.block_backward(layer, &values, found, &mut resid)? {
                return Ok(gradient);
            }
        }
        Err(no_gradient(hook))
    }

    /// Gradient of `Σ weight · logit(token)` with respect to the final LayerNorm's normalised output
    /// `[d_model]`: the unembedding's columns through the LayerNorm's gain. Error: a token is not in the
    /// vocabulary.
    pub fn logit_direction(&self, weights: &[(u32, f32)]) -> Result<Vec<f32>> {
        let (d, d_vocab) = (self.config.d_model, self.config.d_vocab);
        let (mut direction, mut row) = (vec![0.0; d], vec![0.0; d]);
        for &(token, weight) in weights {
            if token as usize >= d_vocab {
                let what = format!("token id {token} is outside the vocabulary of {d_vocab}");
                return Err(Error::Shape { operation: "logit_gradient", what });
            }
            self.backend.read(self.w_u(), token as usize * d, &mut row)?;
            direction.iter_mut().zip(&row).for_each(|(sum, x)| *sum += weight * x);
        }
        if let Some(norm) = &self.ends.ln_final {
            let gain = self.backend.download(&norm.gain)?;
            direction.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
        }
        Ok(direction)
    }

    /// What directions `[n, D]` of the residual stream add to the logits `[n, V]`, but for the final
    /// LayerNorm's scale: centred, by its gain, through the unembedding.
    pub fn logit_lens(&self, directions: &[f32]) -> Result<Vec<f32>> {
        let (d, d_vocab) = (self.config.d_model, self.config.d_vocab);
        let gain = self.ends.ln_final.as_ref().map(|norm| self.backend.download(&norm.gain)).transpose()?;
        let mut rows = directions.to_vec();
        for row in rows.chunks_exact_mut(d) {
            let mean = (row.iter().map(|&x| f64::from(x)).sum::<f64>() / d as f64) as f32;
            row.iter_mut().for_each(|x| *x -= mean);
            if let Some(gain) = &gain {
                row.iter_mut().zip(gain).for_each(|(x, gain)| *x *= gain);
            }
        }
        let n = rows.len() / d;
        let mut logits = self.backend.zeros(n * d_vocab)?;
        self.backend.linear(Linear {
            x: Matrix::F32(&self.backend.upload(&rows)?),
            w: Matrix::F32(self.w_u()),
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: None,
            rows: n,
            d_input: d,
            d_output: d_vocab,
            out: &mut logits,
        })?;
        self.backend.download(&logits)
    }

    fn hooks_for_gradient(&self, first: usize) -> Vec<String> {
        use BlockHook::*;
        let in_block = [Ln1Scale, Ln1Normalized, Q, K, V, Pattern, Ln2Scale, Ln2Normalized, MlpPre];
        let blocks = (first..self.config.n_layers).flat_map(|layer| in_block.map(|hook| Hook::Block(layer, hook)));
        let all = blocks.chain([Hook::FinalScale, Hook::FinalNormalized]);
        all.map(|hook| self.hooks.name(hook).to_string()).collect()
    }

    /// From the gradient at the block's output to that at its input, in `resid [T, D]`; on the way, the
    /// gradient at `wanted` if that is in this block.
    fn block_backward(
        &self,
        layer: usize,
        values: &Values,
        wanted: Hook,
        resid: &mut Vec<f32>,
    ) -> Result<Option<Vec<f32>>> {
        use BlockHook::*;
        let block = &self.blocks[layer];
        let (d, d_mlp) = (self.config.d_model, self.config.d_mlp);
        let at = |hook| values.at(self.hooks.name(Hook::Block(layer, hook)));
        let is = |hook| wanted == Hook::Block(layer, hook);

        if is(ResidPost) || is(MlpOut) {
            return Ok(Some(std::mem::take(resid)));
        }
        let mut mlp = self.through(resid, &block.mlp_out, d, d_mlp)?;
        if is(MlpPost) {
            return Ok(Some(mlp));
        }
        let function = self.config.activation;
        mlp.par_iter_mut().zip(at(MlpPre)).for_each(|(g, &pre)| *g *= derivative(function, pre));
        if is(MlpPre) {
            return Ok(Some(mlp));
        }
        let normed = self.through(&mlp, &block.mlp_in, d_mlp, d)?;
        self.norm_backward(normed, block.ln2.as_ref(), at(Ln2Normalized), at(Ln2Scale), resid)?;
        if is(ResidMid) || is(AttnOut) {
            return Ok(Some(std::mem::take(resid)));
        }
        let z = self.through(resid, &block.o, d, d)?;
        if is(Z) {
            return Ok(Some(z));
        }
        let values = [at(Q), at(K), at(V), at(Pattern)];
        let normed = self.attention_backward(layer, block, &z, values)?;
        self.norm_backward(normed, block.ln1.as_ref(), at(Ln1Normalized), at(Ln1Scale), resid)?;
        Ok(is(ResidPre).then(|| std::mem::take(resid)))
    }

    /// `gradient [T, out] · wᵀ`: through a linear map `[in, out]`, backwards.
    fn through(&self, gradient: &[f32], map: &Map<B::Buffer<f32>>, out: usize, input: usize) -> Result<Vec<f32>> {
        let rows = gradient.len() / out;
        let mut result = self.backend.zeros(rows * input)?;
        self.backend.linear(Linear {
            x: Matrix::F32(&self.backend.upload(gradient)?),
            w: Matrix::F32(&map.w),
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: None,
            rows,
            d_input: out,
            d_output: input,
            out: &mut result,
        })?;
        self.backend.download(&result)
    }

    /// Adds to `resid` what comes back through a LayerNorm.
    fn norm_backward(
        &self,
        mut gradient: Vec<f32>,
        norm: Option<&Norm<B::Buffer<f32>>>,
        normalized: &[f32],
        scale: &[f32],
        resid: &mut [f32],
    ) -> Result<()> {
        let d = self.config.d_model;
        if let Some(norm) = norm {
            let gain = self.backend.download(&norm.gain)?;
            gradient.chunks_exact_mut(d).for_each(|row| row.iter_mut().zip(&gain).for_each(|(g, gain)| *g *= gain));
        }
        layer_norm_backward(&gradient, normalized, scale, d, resid);
        Ok(())
    }

    /// From the gradient at `z [T, H, d_head]` to that at the input of q, k and v `[T, D]`.
    fn attention_backward(
        &self,
        layer: usize,
        block: &Block<B::Buffer<f32>>,
        dz: &[f32],
        values: [&[f32]; 4],
    ) -> Result<Vec<f32>> {
        let (n_heads, d_head) = (self.config.n_heads, self.config.d_head);
        let (d, scale) = (n_heads * d_head, self.config.attention_scale(layer));
        let heads: Vec<[Vec<f32>; 3]> = (0..n_heads)
            .into_par_iter()
            .map(|head| head_backward(head, [n_heads, d_head], dz, values, scale))
            .collect();
        let mut normed = vec![0.0; dz.len()];
        for (part, map) in [&block.q, &block.k, &block.v].into_iter().enumerate() {
            let mut gradient = vec![0.0; dz.len()];
            for (head, parts) in heads.iter().enumerate() {
                for (row, from) in gradient.chunks_exact_mut(d).zip(parts[part].chunks_exact(d_head)) {
                    row[head * d_head..(head + 1) * d_head].copy_from_slice(from);
                }
            }
            let through = self.through(&gradient, map, d, d)?;
            normed.iter_mut().zip(through).for_each(|(sum, x)| *sum += x);
        }
        Ok(normed)
    }
}

fn no_gradient(hook: &str) -> Error {
    let what = format!(
        "gradients can be taken at blocks.L.{{hook_resid_pre, attn.hook_z, hook_attn_out, hook_resid_mid, \
         mlp.hook_pre, mlp.hook_post, hook_mlp_out, hook_resid_post}}, not at {hook}"
    );
    Error::config("hook_name", what)
}

/// `y = (x - mean) / scale` backwards, where `scale = sqrt(variance + epsilon)`:
/// `dx = (dy - mean(dy) - y mean(dy y)) / scale`, added to `dx`.
fn layer_norm_backward(dy: &[f32], y: &[f32], scale: &[f32], d: usize, dx: &mut [f32]) {
    for (row, dx) in dx.chunks_exact_mut(d).enumerate() {
        let (dy, y) = (&dy[row * d..(row + 1) * d], &y[row * d..(row + 1) * d]);
        let mean = dy.iter().map(|&g| f64::from(g)).sum::<f64>() / d as f64;
        let along = dy.iter().zip(y).map(|(&g, &y)| f64::from(g) * f64::from(y)).sum::<f64>() / d as f64;
        for ((dx, &g), &y) in dx.iter_mut().zip(dy).zip(y) {
            *dx += ((f64::from(g) - mean - f64::from(y) * along) / f64::from(scale[row])) as f32;
        }
    }
}

/// Gradients `[T, d_head]` of one head's q, k and v: with `P = softmax(scale q kᵀ)` and `z = P v`,
/// `dP = dz vᵀ`, `dS = P (dP - Σ P dP)`, `dq = scale dS k`, `dk = scale dSᵀ q`, `dv = Pᵀ dz`.
fn head_backward(
    head: usize,
    [n_heads, d_head]: [usize; 2],
    dz: &[f32],
    [q, k, v, pattern]: [&[f32]; 4],
    scale: f32,
) -> [Vec<f32>; 3] {
    let width = n_heads * d_head;
    let context = dz.len() / width;
    let row = |matrix, position: usize| -> &[f32] {
        let matrix: &[f32] = matrix;
        &matrix[position * width + head * d_head..][..d_head]
    };
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; context * d_head]);
    for to in 0..context {
        let p = &pattern[(head * context + to) * context..][..=to];
        let dp: Vec<f32> = (0..=to).map(|from| dot(row(dz, to), row(v, from))).collect();
        let mean = dot(p, &dp);
        for from in 0..=to {
            let ds = scale * p[from] * (dp[from] - mean);
            add_scaled(&mut dq[to * d_head..][..d_head], ds, row(k, from));
            add_scaled(&mut dk[from * d_head..][..d_head], ds, row(q, to));
            add_scaled(&mut dv[from * d_head..][..d_head], p[from], row(dz, to));
        }
    }
    [dq, dk, dv]
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(to: &mut [f32], factor: f32, from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

/// `f'(x)`.
fn derivative(function: ActivationFunction, x: f32) -> f32 {
    let x = f64::from(x);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let value = match function {
        ActivationFunction::Identity => 1.0,
        ActivationFunction::Relu => f64::from(u8::from(x > 0.0)),
        ActivationFunction::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (root * (x + 0.044715 * x.powi(3))).tanh();
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * root * (1.0 + 3.0 * 0.044715 * x * x)
        }
        ActivationFunction::GeluErf => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)) + x * density
        }
        ActivationFunction::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
        ActivationFunction::QuickGelu => {
            let s = sigmoid(1.702 * x);
            s * (1.0 + 1.702 * x * (1.0 - s))
        }
        ActivationFunction::Tanh => 1.0 - x.tanh().powi(2),
    };
    value as f32
}
