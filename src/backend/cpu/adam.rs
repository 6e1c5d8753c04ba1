//! `adam`: one pass over parameter, gradient and moments.

use super::*;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

pub(super) fn run(op: Adam<'_, Cpu>) -> Result<()> {
    let Adam { parameter, gradient, exp_avg, exp_avg_sq, clip, lr, beta1, beta2, epsilon, step } = op;
    let clip = clip[0];
    let exponent = i32::try_from(step).unwrap_or(i32::MAX);
    // torch's order of operations: denom = sqrt(v) / sqrt(1 - b2^t) + eps, step = lr / (1 - b1^t).
    let step_size = (lr / (1.0 - beta1.powi(exponent))) as f32;
    let root_correction = (1.0 - beta2.powi(exponent)).sqrt() as f32;
    let (b1, b2, eps) = (beta1 as f32, beta2 as f32, epsilon as f32);
    let (c1, c2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let n = parameter.len();
    (
        parameter.par_chunks_mut(CHUNK),
        gradient[..n].par_chunks(CHUNK),
        exp_avg.par_chunks_mut(CHUNK),
        exp_avg_sq.par_chunks_mut(CHUNK),
    )
        .into_par_iter()
        .for_each(|(p, g, m, v)| {
            for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = g * clip;
                *m = b1 * *m + c1 * g;
                *v = b2 * *v + c2 * (g * g);
                *p -= step_size * (*m / (v.sqrt() / root_correction + eps));
            }
        });
    Ok(())
}
