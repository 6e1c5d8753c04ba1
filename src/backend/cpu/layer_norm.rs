//! `layer_norm`: two passes over a row for mean and variance, so that nothing cancels.

use super::functions::{sum, sum_of_squared_distances};
use super::simd::vectorised;
use super::*;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 32;

vectorised! {
    /// `(x - mean) / scale`; divided, not multiplied by a reciprocal, as the definition says.
    fn normalize(x: &[f32], mean: f32, scale: f32, to: &mut [f32]) {
        for (to, &x) in to.iter_mut().zip(x) {
            *to = (x - mean) / scale;
        }
    }

    fn times(to: &mut [f32], gain: &[f32]) {
        for (to, &gain) in to.iter_mut().zip(gain) {
            *to *= gain;
        }
    }
}

pub(super) fn run(op: LayerNorm<'_, Cpu>) -> Result<()> {
    let LayerNorm { x, from, gain, bias, epsilon, rows, d_model, scale, normalized, output } = op;
    let n = rows * d_model;
    let mut scales = scale.map(|scale| scale[..rows].chunks_mut(ROWS));
    let mut normalized = normalized.map(|normalized| normalized[..n].chunks_mut(ROWS * d_model));
    let chunks = x[..n].chunks(ROWS * d_model).zip(output[..n].chunks_mut(ROWS * d_model));
    let tasks: Vec<_> = chunks
        .map(|(x, output)| {
            (x, output, scales.as_mut().and_then(Iterator::next), normalized.as_mut().and_then(Iterator::next))
        })
        .collect();
    tasks.into_par_iter().for_each(|(x, output, mut scales, mut normalized)| {
        for (i, (x, output)) in x.chunks_exact(d_model).zip(output.chunks_exact_mut(d_model)).enumerate() {
            let scale = scales.as_mut().map(|scales| &mut scales[i]);
            let normalized = normalized.as_mut().map(|normalized| &mut normalized[i * d_model..][..d_model]);
            normalize_row(x, from, epsilon, scale, normalized, output);
            if let Some(gain) = gain {
                times(output, &gain[..d_model]);
            }
            if let Some(bias) = bias {
                simd::add(output, &bias[..d_model]);
            }
        }
    });
    Ok(())
}

/// Leaves the normalised row in `output`, before gain and bias.
fn normalize_row(
    x: &[f32],
    from: LayerNormFrom,
    epsilon: f32,
    scale: Option<&mut f32>,
    normalized: Option<&mut [f32]>,
    output: &mut [f32],
) {
    if let (LayerNormFrom::Normalized, Some(normalized)) = (from, &normalized) {
        return output.copy_from_slice(normalized);
    }
    let mean = sum(x) / x.len() as f32;
    let scale = match (from, scale) {
        (LayerNormFrom::Scale, Some(scale)) => *scale,
        (_, wanted) => {
            let computed = (sum_of_squared_distances(x, mean) / x.len() as f32 + epsilon).sqrt();
            if let Some(scale) = wanted {
                *scale = computed;
            }
            computed
        }
    };
    normalize(x, mean, scale, output);
    if let Some(normalized) = normalized {
        normalized.copy_from_slice(output);
    }
}
