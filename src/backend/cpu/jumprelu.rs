//! `encode_jumprelu`, `jumprelu_gradient`, `pre_act_loss`.

use super::encode::longest_row;
use super::estimate::{may_exceed_each, Estimates, Estimator};
use super::gradient::add_norm_term;
use super::matrix::F32Encoder;
use super::simd::{add_scaled, dot, vectorised};
use super::*;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 64;

vectorised! {
    fn inner_product(x: &[f32], y: &[f32]) -> f32 {
        dot::<FUSED>(x, y)
    }
}

/// SAELens' `rectangle((h - threshold) / bandwidth)`.
fn in_window(h: f32, threshold: f32, bandwidth: f32) -> bool {
    let x = (h - threshold) / bandwidth;
    x > -0.5 && x < 0.5
}

/// What is listed of a pre-activation: its value, if it is.
fn value(h: f32, threshold: f32, bandwidth: Option<f32>) -> Option<f32> {
    let active = h > threshold && (h > 0.0 || bandwidth.is_some());
    let near = bandwidth.is_some_and(|bandwidth| in_window(h, threshold, bandwidth));
    (active || near).then_some(if active { h } else { 0.0 })
}

pub(super) fn encode(op: EncodeJumpRelu<'_, Cpu>) -> Result<()> {
    let EncodeJumpRelu { encoder, threshold, bandwidth, lists, longest, pre_activations } = op;
    let (rows, stride, estimator) = (encoder.rows, lists.stride, Estimator::new(&encoder));
    // Below these nothing is listed; a little lower than exact, so that rounding leaves nothing out.
    let bound = |&t: &f32| bandwidth.map_or(t.max(0.0), |width| t - width / 2.0 - 1e-5 * (t.abs() + width));
    let bounds: Vec<f32> = threshold[..encoder.d_sae].iter().map(bound).collect();
    let mut unwanted = Vec::new();
    let pre_activations = pre_activations.unwrap_or(&mut unwanted);
    let chunk_rows = estimator.chunk_rows();
    let mut wanted = pre_activations.chunks_mut(chunk_rows * stride);
    let outputs: Vec<_> = lists.counts[..rows]
        .chunks_mut(chunk_rows)
        .zip(lists.indices.chunks_mut(chunk_rows * stride))
        .zip(lists.values.chunks_mut(chunk_rows * stride))
        .map(|((counts, indices), values)| (counts, indices, values, wanted.next().unwrap_or_default()))
        .collect();
    outputs.into_par_iter().enumerate().for_each(|(chunk, (counts, indices, values, pre_activations))| {
        counts.fill(0);
        let first_row = chunk * chunk_rows;
        let near = |_: usize, estimates: &Estimates<'_>| may_exceed_each(estimates, &bounds[estimates.first..]);
        estimator.for_each_that_may_matter(first_row..first_row + counts.len(), near, |row, latent, h| {
            let Some(value) = value(h, threshold[latent], bandwidth) else { return };
            if (counts[row] as usize) < stride {
                let slot = row * stride + counts[row] as usize;
                (indices[slot], values[slot]) = (latent as u32, value);
                if let Some(pre_activation) = pre_activations.get_mut(slot) {
                    *pre_activation = h;
                }
            }
            counts[row] += 1;
        });
    });
    longest[0] = longest_row(lists, rows);
    Ok(())
}

pub(super) fn gradient(op: JumpReluGradient<'_, Cpu>) -> Result<()> {
    let JumpReluGradient { lists, pre_activations, threshold, decoder_norm, bandwidth, .. } = op;
    let (rows, stride, coefficient) = (op.rows, lists.stride, op.scalars[0].coefficient);
    let (sparsity, ste_to_input, factor) = (op.sparsity, op.ste_to_input, coefficient * op.gradient_scale);
    (
        op.value_gradient[..rows * stride].par_chunks_mut(stride),
        op.threshold_gradient[..rows * stride].par_chunks_mut(stride),
        op.norm_gradient[..rows * stride].par_chunks_mut(stride),
        op.active[..rows].par_iter_mut(),
        op.loss[..rows].par_iter_mut(),
    )
        .into_par_iter()
        .with_min_len(ROWS)
        .enumerate()
        .for_each(|(b, (value_gradient, threshold_gradient, norm_gradient, active, loss))| {
            let entries = b * stride..b * stride + lists.counts[b] as usize;
            let latents = || lists.indices[entries.clone()].iter().map(|&latent| latent as usize);
            let pre_activations = &pre_activations[entries.clone()];
            *active = latents().zip(pre_activations).filter(|&(i, &h)| h > threshold[i]).count() as u32;
            let weighted = latents().zip(&lists.values[entries.clone()]).map(|(i, &f)| f * decoder_norm[i]);
            let (term, of_step) = sparsity_of_row(sparsity, *active, weighted);
            *loss = coefficient * term;
            for (j, (i, &h)) in latents().zip(pre_activations).enumerate() {
                let (theta, f, n) = (threshold[i], lists.values[b * stride + j], decoder_norm[i]);
                let slope = tanh_slope(sparsity, f * n);
                let g = value_gradient[j] + factor * slope * n;
                norm_gradient[j] = factor * slope * f;
                let estimate = if in_window(h, theta, bandwidth) {
                    theta / bandwidth * g + 1.0 / bandwidth * (factor * of_step)
                } else {
                    0.0
                };
                threshold_gradient[j] = -estimate;
                let passed = if h > theta { g } else { 0.0 };
                value_gradient[j] = if ste_to_input { passed + estimate } else { passed };
            }
        });
    Ok(())
}

/// A row's sparsity before its coefficient, and its derivative with respect to each active latent's step.
fn sparsity_of_row(sparsity: JumpReluSparsity, active: u32, weighted: impl Iterator<Item = f32>) -> (f32, f32) {
    match sparsity {
        JumpReluSparsity::Step => (active as f32, 1.0),
        JumpReluSparsity::Tanh { scale } => (weighted.map(|u| f64::from((scale * u).tanh())).sum::<f64>() as f32, 0.0),
        JumpReluSparsity::Quadratic { target } => {
            let away = active as f32 - target;
            (2.0 / target * away * away, 4.0 / target * away)
        }
    }
}

/// `d tanh(scale u) / du`; 0 for the other terms.
fn tanh_slope(sparsity: JumpReluSparsity, weighted: f32) -> f32 {
    let JumpReluSparsity::Tanh { scale } = sparsity else { return 0.0 };
    let tanh = (scale * weighted).tanh();
    scale * (1.0 - tanh * tanh)
}

/// What the loss of one dead latent comes to.
struct OfLatent {
    w_enc: Vec<f32>,
    rows: f32,
    loss: f64,
}

pub(super) fn pre_act_loss(op: PreActLoss<'_, Cpu>) -> Result<()> {
    let PreActLoss { encoder, threshold, decoder_norm, w_dec, dead, out, .. } = op;
    let dead = &dead.latents[..dead.count[0] as usize];
    let F32Encoder { input, w_enc, b_enc, rows, d_in, d_sae } = F32Encoder::from(&encoder);
    let of_latent = |&latent: &u32| {
        let i = latent as usize;
        let mut sums = OfLatent { w_enc: vec![0.0; d_in], rows: 0.0, loss: 0.0 };
        for x in input[..rows * d_in].chunks_exact(d_in) {
            let below = threshold[i] - (inner_product(x, &w_enc[i * d_in..][..d_in]) + b_enc[i]);
            if below > 0.0 {
                add_scaled(1.0, x, &mut sums.w_enc);
                sums.rows += 1.0;
                sums.loss += f64::from(below);
            }
        }
        sums
    };
    let (coefficient, factor) = (op.coefficient, op.coefficient * op.gradient_scale);
    op.loss[..d_sae].fill(0.0);
    let all: Vec<OfLatent> = dead.par_iter().map(of_latent).collect();
    for (&latent, sums) in dead.iter().zip(all) {
        let (i, n) = (latent as usize, decoder_norm[latent as usize]);
        add_scaled(-factor * n, &sums.w_enc, &mut out.w_enc[i * d_in..][..d_in]);
        out.b_enc[i] -= factor * n * sums.rows;
        op.threshold_gradient[i] += factor * n * sums.rows;
        let norm = NormGradient { norm_gradient: op.loss, decoder_norm, w_dec };
        add_norm_term(&norm, factor * sums.loss as f32, i, &mut out.w_dec[i * d_in..][..d_in]);
        op.loss[i] = coefficient * n * sums.loss as f32;
    }
    Ok(())
}
