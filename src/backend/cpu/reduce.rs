//! Sums, norms and scaled copies. Sums are in f64 over fixed chunks, added in order: the same bits for any number of threads.

use super::*;
use rayon::prelude::*;

const CHUNK: usize = 1 << 16;

fn by_chunks(values: &[f32], chunk_sum: impl Fn(&[f32]) -> f64 + Sync + Send) -> f64 {
    values.par_chunks(CHUNK).map(chunk_sum).collect::<Vec<f64>>().into_iter().sum()
}

/// Σ x in f64.
pub(super) fn sum(op: Sum<'_, Cpu>) -> Result<()> {
    op.out[op.slot] = by_chunks(&op.values[..op.len], |chunk| chunk.iter().map(|&x| f64::from(x)).sum());
    Ok(())
}

/// Σ x² in f64.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    by_chunks(values, simd::sum_of_squares)
}

/// |x - mean row|² of every row, the mean in f64.
pub(super) fn row_variance(op: RowVariance<'_, Cpu>) -> Result<()> {
    let RowVariance { x, rows, d_in, variance } = op;
    let column_sums = |chunk: &[f32]| {
        let mut sums = vec![0.0f64; d_in];
        for row in chunk.chunks_exact(d_in) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        sums
    };
    let chunk = (CHUNK / d_in).max(1) * d_in;
    let mut mean = vec![0.0f64; d_in];
    for sums in x[..rows * d_in].par_chunks(chunk).map(column_sums).collect::<Vec<_>>() {
        mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean += sum / rows as f64);
    }
    variance[..rows].par_iter_mut().zip(x.par_chunks(d_in)).with_min_len(64).for_each(|(out, row)| {
        *out = row.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m).powi(2)).sum::<f64>() as f32;
    });
    Ok(())
}

/// |row|, summed in f64.
pub(super) fn norm(row: &[f32]) -> f32 {
    simd::sum_of_squares(row).sqrt() as f32
}

/// |row| of every row.
pub(super) fn row_norms(op: RowNorms<'_, Cpu>) -> Result<()> {
    op.norms[..op.rows]
        .par_iter_mut()
        .zip(op.matrix[..op.rows * op.columns].par_chunks(op.columns))
        .with_min_len(64)
        .for_each(|(out, row)| *out = norm(row));
    Ok(())
}

pub(super) fn scale(op: Scale<'_, Cpu>) -> Result<()> {
    op.to[..op.len].par_chunks_mut(CHUNK).zip(op.from[..op.len].par_chunks(CHUNK)).for_each(|(to, from)| {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = op.factor * from;
        }
    });
    Ok(())
}
