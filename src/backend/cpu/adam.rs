//! `adam` and `adam_sparse`: one pass over parameters and moments; in the latter the gradient of a latent
//! is summed where it is used.

use super::gradient::LatentSums;
use super::simd::vectorised;
use super::*;
use rayon::prelude::*;

const CHUNK: usize = 1 << 14;
/// Latents per task.
const LATENTS: usize = 32;

/// What a step does to every parameter.
#[derive(Clone, Copy)]
struct Update {
    factors: AdamFactors,
    clip: f32,
    scalars: StepScalars,
}

vectorised! {
    fn update(how: Update, parameter: &mut [f32], gradient: &[f32], exp_avg: &mut [f32], exp_avg_sq: &mut [f32]) {
        let Update { factors: AdamFactors { beta1, beta2, complement1, complement2, epsilon }, clip, scalars } = how;
        for (((p, &g), m), v) in parameter.iter_mut().zip(gradient).zip(exp_avg).zip(exp_avg_sq) {
            let g = g * clip;
            *m = beta1 * *m + complement1 * g;
            *v = beta2 * *v + complement2 * (g * g);
            *p -= scalars.step_size * (*m / (v.sqrt() / scalars.root_correction + epsilon));
        }
    }
}

pub(super) fn run(op: Adam<'_, Cpu>) -> Result<()> {
    let Adam { parameter, gradient, exp_avg, exp_avg_sq, clip, scalars, constants } = op;
    let how = Update { factors: constants.factors(), clip: clip[0], scalars: scalars[0] };
    let n = parameter.len();
    (
        parameter.par_chunks_mut(CHUNK),
        gradient[..n].par_chunks(CHUNK),
        exp_avg.par_chunks_mut(CHUNK),
        exp_avg_sq.par_chunks_mut(CHUNK),
    )
        .into_par_iter()
        .for_each(|(p, g, m, v)| update(how, p, g, m, v));
    Ok(())
}

pub(super) fn sparse(op: AdamSparse<'_, Cpu>) -> Result<()> {
    let AdamSparse { of, w_enc, w_dec, decoder_norm, clip, scalars, constants } = op;
    let how = Update { factors: constants.factors(), clip: clip[0], scalars: scalars[0] };
    let (d_in, zeros) = (of.d_in, vec![0.0; of.d_in]);
    (rows_of(w_enc, of), rows_of(w_dec, of), decoder_norm[..of.d_sae].par_iter_mut())
        .into_par_iter()
        .with_min_len(LATENTS)
        .enumerate()
        .for_each_init(
            || LatentSums::new(d_in),
            |sums, (latent, ((p_enc, m_enc, v_enc), (p_dec, m_dec, v_dec), norm))| {
                let [g_enc, g_dec] = match sums.take_all(of, latent, p_dec, *norm) {
                    true => [&sums.w_enc, &sums.w_dec],
                    false => [&zeros, &zeros],
                };
                update(how, p_enc, g_enc, m_enc, v_enc);
                update(how, p_dec, g_dec, m_dec, v_dec);
                *norm = reduce::norm(p_dec);
            },
        );
    Ok(())
}

/// A latent's parameters and moments.
type Row<'a> = (&'a mut [f32], &'a mut [f32], &'a mut [f32]);

fn rows_of<'a>(
    state: AdamState<'a, Cpu>,
    of: &ListedGradient<'_, Cpu>,
) -> impl IndexedParallelIterator<Item = Row<'a>> {
    let (d_in, n) = (of.d_in, of.d_sae * of.d_in);
    let AdamState { parameter, exp_avg, exp_avg_sq } = state;
    let [p, m, v] = [parameter, exp_avg, exp_avg_sq].map(|matrix| matrix[..n].par_chunks_mut(d_in));
    (p, m, v).into_par_iter()
}
