//! Where b_dec starts: at 0, or at the mean or the geometric median of the first activations, which are
//! then not trained on. Source: `b_dec_init_method` of SAELens before version 6, which took a full
//! activation buffer for it.

use super::progress::Reporter;
use super::trainee::Trainee;
use crate::backend::Backend;
use crate::config::{BDecInitMethod, Recipe};
use crate::data::ActivationSource;
use crate::error::Result;
use rayon::prelude::*;

/// Rows that are summed by one thread, whatever their number: the order of sums is always the same.
const CHUNK_ROWS: usize = 1024;
/// Weiszfeld's iteration: at most so many steps, as in SAELens, or until the sum of distances falls by a
/// smaller part than this.
const MAX_ITERATIONS: usize = 100;
const LEAST_IMPROVEMENT: f64 = 1e-12;
/// Distances count as at least this, as in SAELens: the median may be one of the points.
const LEAST_DISTANCE: f64 = 1e-6;

/// Sets b_dec of all SAEs by the recipe's `b_dec_init_method`, from `buffer_tokens` activations of each one's
/// hook (whole batches), in the units that it is trained in.
pub fn initialize<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    source: &mut dyn ActivationSource<B>,
    saes: &mut [Trainee<B>],
    reporter: &mut dyn Reporter,
) -> Result<()> {
    let center: fn(&[f32], usize) -> Vec<f64> = match recipe.b_dec_init_method {
        BDecInitMethod::Zeros => return Ok(()),
        BDecInitMethod::Mean => mean,
        BDecInitMethod::GeometricMedian => geometric_median,
    };
    let (rows, widths) = (recipe.train_batch_size_tokens, source.widths());
    let n = recipe.buffer_tokens.div_ceil(rows);
    reporter.message(&format!("the {} of {} activations is b_dec", recipe.b_dec_init_method, n * rows));
    let batches = widths.iter().map(|width| backend.zeros(rows * width));
    let mut batches = batches.collect::<Result<Vec<_>>>()?;
    let mut points: Vec<Vec<f32>> = widths.iter().map(|width| Vec::with_capacity(n * rows * width)).collect();
    for _ in 0..n {
        source.next_batches(&mut batches)?;
        for (batch, points) in batches.iter().zip(&mut points) {
            points.extend(backend.download(batch)?);
        }
    }
    let centers: Vec<_> = points.iter().zip(&widths).map(|(points, &width)| center(points, width)).collect();
    for Trainee { hook, target, sae, .. } in saes {
        let scale = f64::from(if target.is_some() { sae.output_scale } else { sae.input_scale });
        let b_dec: Vec<f32> = centers[target.unwrap_or(*hook)].iter().map(|x| (scale * x) as f32).collect();
        if let Some(average) = &mut sae.average {
            backend.write(average.values.get_mut("b_dec"), 0, &b_dec)?;
        }
        backend.write(sae.values.get_mut("b_dec"), 0, &b_dec)?;
    }
    Ok(())
}

/// The mean of `points [n, width]`.
fn mean(points: &[f32], width: usize) -> Vec<f64> {
    weighted_mean(points, width, |_| 1.0).0
}

/// The point with the smallest sum of distances to `points [n, width]`, by Weiszfeld's iteration from the
/// mean: the next one is the mean with weights `1 / distance`.
fn geometric_median(points: &[f32], width: usize) -> Vec<f64> {
    let (mut median, mut before) = (mean(points, width), f64::INFINITY);
    for _ in 0..MAX_ITERATIONS {
        let distance = |point: &[f32]| {
            let squares = point.iter().zip(&median).map(|(&x, m)| (f64::from(x) - m).powi(2));
            squares.sum::<f64>().sqrt().max(LEAST_DISTANCE)
        };
        let (next, distances) = weighted_mean(points, width, distance);
        median = next;
        if before - distances <= LEAST_IMPROVEMENT * distances {
            break;
        }
        before = distances;
    }
    median
}

/// The mean of points that weigh `1 / distance`, and the sum of these distances.
fn weighted_mean(points: &[f32], width: usize, distance: impl Fn(&[f32]) -> f64 + Sync) -> (Vec<f64>, f64) {
    let of_chunk = |chunk: &[f32]| {
        let (mut sums, mut weights, mut distances) = (vec![0.0; width], 0.0, 0.0);
        for point in chunk.chunks_exact(width) {
            let distance = distance(point);
            sums.iter_mut().zip(point).for_each(|(sum, &x)| *sum += f64::from(x) / distance);
            weights += 1.0 / distance;
            distances += distance;
        }
        (sums, weights, distances)
    };
    let parts: Vec<_> = points.par_chunks(CHUNK_ROWS * width).map(of_chunk).collect();
    let (mut sums, mut weights, mut distances) = (vec![0.0; width], 0.0, 0.0);
    for (of_chunk, weight, distance) in parts {
        sums.iter_mut().zip(of_chunk).for_each(|(sum, x)| *sum += x);
        weights += weight;
        distances += distance;
    }
    sums.iter_mut().for_each(|sum| *sum /= weights);
    (sums, distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}, expected {expected:?}");
    }

    /// Of the corners of a convex quadrangle it is where the diagonals cross, wherever their ends are.
    #[test]
    fn the_geometric_median_of_four_corners_is_where_the_diagonals_cross() {
        let corners = [1.0, 2.0, 1.0, -5.0, 4.0, 0.0, -1.0, 0.0];
        assert_close(&geometric_median(&corners, 2), &[1.0, 0.0]);
        assert_close(&mean(&corners, 2), &[1.25, -0.75]);
    }

    /// More than one chunk, and a far point that moves the mean and not the median.
    #[test]
    fn many_points_in_one_place_are_the_median() {
        let mut points = [3.0f32, -1.0].repeat(2 * CHUNK_ROWS);
        points.extend([1000.0, 1000.0]);
        assert_close(&geometric_median(&points, 2), &[3.0, -1.0]);
        let n = 2.0 * CHUNK_ROWS as f64 + 1.0;
        assert_close(&mean(&points, 2), &[3.0 + 997.0 / n, -1.0 + 1001.0 / n]);
    }
}
