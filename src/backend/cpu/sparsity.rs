//! `sparsity_lp`: the decoder-norm-weighted p-norm of every row's features and its gradients.
//! Source: SAELens `standard_sae.py`: `(acts * |W_dec_i|).norm(p, dim=-1)`, the norm, not its power.

use super::simd::vectorised;
use super::*;
use rayon::prelude::*;

/// Rows of a partial sum; fixed, so that the sum does not depend on the number of threads.
const ROWS: usize = 64;

/// The p-norm and, for each weighted feature `u = f n`, its derivative `(u / norm)^(p - 1)`.
#[derive(Clone, Copy)]
struct PNorm {
    p: f32,
}

impl PNorm {
    fn of(self, weighted: impl Iterator<Item = f32>) -> f32 {
        let p = f64::from(self.p);
        let power = |u: f32| if p == 1.0 { f64::from(u) } else { f64::from(u).powf(p) };
        let sum: f64 = weighted.map(power).sum();
        (if p == 1.0 { sum } else { sum.powf(1.0 / p) }) as f32
    }

    fn derivative(self, weighted: f32, norm: f32) -> f32 {
        if self.p == 1.0 {
            1.0
        } else if norm == 0.0 {
            0.0
        } else {
            (weighted / norm).powf(self.p - 1.0)
        }
    }
}

vectorised! {
    /// A dense row's 1-norm; adds its gradients. Half of the features are active early in training, any of them:
    /// nothing branches on which.
    fn l1_row(
        features: &[f32],
        decoder_norm: &[f32],
        factor: f32,
        gradients: &mut [f32],
        norm_gradient: &mut [f32],
    ) -> f32 {
        const LANES: usize = 16;
        let mut sums = [0.0f64; LANES];
        let blocks = features.chunks(LANES).zip(decoder_norm.chunks(LANES));
        let blocks = blocks.zip(gradients.chunks_mut(LANES).zip(norm_gradient.chunks_mut(LANES)));
        for ((features, norms), (gradients, norm_gradients)) in blocks {
            let latents = features.iter().zip(norms).zip(gradients.iter_mut().zip(norm_gradients));
            for (((&f, &n), (gradient, norm_gradient)), sum) in latents.zip(&mut sums) {
                *sum += f64::from(f * n);
                *gradient += if f > 0.0 { factor * n } else { 0.0 };
                *norm_gradient += if f > 0.0 { factor * f } else { 0.0 };
            }
        }
        sums.iter().sum::<f64>() as f32
    }
}

pub(super) fn lists(op: SparsityLp<'_, Cpu>) -> Result<()> {
    let SparsityLp { lists, decoder_norm, scalars, p, gradient_scale, rows, value_gradient, norm_gradient, loss } = op;
    let coefficient = scalars[0].coefficient;
    let (stride, p_norm, factor) = (lists.stride, PNorm { p }, coefficient * gradient_scale);
    (
        value_gradient[..rows * stride].par_chunks_mut(stride),
        norm_gradient[..rows * stride].par_chunks_mut(stride),
        loss[..rows].par_iter_mut(),
    )
        .into_par_iter()
        .with_min_len(ROWS)
        .enumerate()
        .for_each(|(b, (value_gradient, norm_gradient, loss))| {
            let entries = b * stride..b * stride + lists.counts[b] as usize;
            let features = lists.indices[entries.clone()].iter().zip(&lists.values[entries]);
            let features = features.map(|(&latent, &f)| (f, decoder_norm[latent as usize]));
            let norm = p_norm.of(features.clone().map(|(f, n)| f * n));
            *loss = coefficient * norm;
            for (((f, n), value), norm_gradient) in features.zip(value_gradient).zip(norm_gradient) {
                let derivative = factor * p_norm.derivative(f * n, norm);
                *value += derivative * n;
                *norm_gradient = derivative * f;
            }
        });
    Ok(())
}

pub(super) fn dense(op: SparsityLpDense<'_, Cpu>) -> Result<()> {
    let SparsityLpDense {
        features,
        decoder_norm,
        scalars,
        p,
        gradient_scale,
        rows,
        d_sae,
        feature_gradient,
        norm_gradient,
        loss,
    } = op;
    let coefficient = scalars[0].coefficient;
    let (p_norm, factor, n) = (PNorm { p }, coefficient * gradient_scale, rows * d_sae);
    let partial: Vec<Vec<f32>> = (
        features[..n].par_chunks(ROWS * d_sae),
        feature_gradient[..n].par_chunks_mut(ROWS * d_sae),
        loss[..rows].par_chunks_mut(ROWS),
    )
        .into_par_iter()
        .map(|(features, gradients, losses)| {
            let mut norm_gradient = vec![0.0f32; d_sae];
            let each_row = features.chunks_exact(d_sae).zip(gradients.chunks_exact_mut(d_sae)).zip(losses);
            for ((features, gradients), loss) in each_row {
                if p == 1.0 {
                    *loss = coefficient * l1_row(features, decoder_norm, factor, gradients, &mut norm_gradient);
                    continue;
                }
                let norm = p_norm.of(features.iter().zip(decoder_norm).map(|(&f, &n)| f * n));
                *loss = coefficient * norm;
                let latents = features.iter().zip(decoder_norm).zip(gradients).zip(&mut norm_gradient);
                for (((&f, &n), gradient), norm_gradient) in latents.filter(|(((&f, _), _), _)| f > 0.0) {
                    let derivative = factor * p_norm.derivative(f * n, norm);
                    *gradient += derivative * n;
                    *norm_gradient += derivative * f;
                }
            }
            norm_gradient
        })
        .collect();
    norm_gradient[..d_sae].fill(0.0);
    for partial in partial {
        norm_gradient.iter_mut().zip(partial).for_each(|(sum, part)| *sum += part);
    }
    Ok(())
}
