//! `adam`: one pass over parameter, gradient and moments.

use super::*;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;

pub(super) fn run(op: Adam<'_, Cpu>) -> Result<()> {
    let AdamFactors { beta1, beta2, complement1, complement2, epsilon } = op.factors();
    let Adam { parameter, gradient, exp_avg, exp_avg_sq, clip, scalars, .. } = op;
    let (clip, StepScalars { step_size, root_correction, .. }) = (clip[0], scalars[0]);
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
                *m = beta1 * *m + complement1 * g;
                *v = beta2 * *v + complement2 * (g * g);
                *p -= step_size * (*m / (v.sqrt() / root_correction + epsilon));
            }
        });
    Ok(())
}
