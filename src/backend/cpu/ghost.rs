//! `exponential` and `ghost_error`.

use super::{functions, *};
use rayon::prelude::*;

/// Elements per task.
const ELEMENTS: usize = 1 << 14;
/// Rows per task.
const ROWS: usize = 16;

pub(super) fn exponential(op: Exponential<'_, Cpu>) -> Result<()> {
    let Exponential { x, factor, len, to } = op;
    to[..len].par_chunks_mut(ELEMENTS).zip(x.par_chunks(ELEMENTS)).enumerate().for_each(|(chunk, (to, x))| {
        functions::exponential(x, to);
        if let Some(factor) = factor {
            to.iter_mut().zip(&factor[chunk * ELEMENTS..]).for_each(|(to, factor)| *to *= factor);
        }
    });
    Ok(())
}

pub(super) fn error(op: GhostError<'_, Cpu>) -> Result<()> {
    let GhostError { ghost, error, error_scale, gradient_scale, rows, d_in, gradient, loss } = op;
    gradient[..rows * d_in]
        .par_chunks_mut(d_in)
        .zip(&mut loss[..rows])
        .zip(ghost.par_chunks(d_in).zip(error.par_chunks(d_in)))
        .with_min_len(ROWS)
        .for_each(|((gradient, loss), (ghost, error))| {
            let residual = |i: usize| error_scale * error[i];
            let squares = |of: &dyn Fn(usize) -> f32| (0..d_in).map(|i| f64::from(of(i)).powi(2)).sum::<f64>();
            let scale = (squares(&residual).sqrt() / (1e-6 + 2.0 * squares(&|i| ghost[i]).sqrt())) as f32;
            let mut sum = 0.0f64;
            for (i, out) in gradient.iter_mut().enumerate() {
                let (r, e) = (residual(i), scale * ghost[i] - residual(i));
                let weighted = r * r / (e * e + 1e-6) * e;
                sum += f64::from(weighted) * f64::from(e);
                *out = gradient_scale * weighted * scale;
            }
            *loss = sum as f32;
        });
    Ok(())
}
