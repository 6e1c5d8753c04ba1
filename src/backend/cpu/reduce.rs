//! Sums, norms and scaled copies. Sums are in f64 over fixed chunks, added in order: the same bits for any number of threads.

use super::*;
use rayon::prelude::*;

const CHUNK: usize = 1 << 16;

fn by_chunks(values: &[f32], chunk_sum: impl Fn(&[f32]) -> f64 + Sync + Send) -> f64 {
    values.par_chunks(CHUNK).map(chunk_sum).collect::<Vec<f64>>().into_iter().sum()
}

/// Σ x in f64.
pub(super) fn sum(values: &[f32]) -> f64 {
    by_chunks(values, |chunk| chunk.iter().map(|&x| f64::from(x)).sum())
}

/// Σ x² in f64.
pub(super) fn sum_of_squares(values: &[f32]) -> f64 {
    by_chunks(values, |chunk| {
        // Eight running sums, so that the compiler can use vector registers.
        let mut sums = [0.0f64; 8];
        let (eights, rest) = chunk.as_chunks::<8>();
        for eight in eights {
            for (sum, &x) in sums.iter_mut().zip(eight) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
    })
}

/// Σ over rows of |x - mean row|².
pub(super) fn total_variance(values: &[f32], columns: usize) -> f64 {
    let rows = values.len() / columns;
    let chunk_rows = (CHUNK / columns).max(1);
    // Two passes: first the mean row, then the distances, so that nothing cancels.
    let column_sums = |chunk: &[f32]| {
        let mut sums = vec![0.0f64; columns];
        for row in chunk.chunks_exact(columns) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
        sums
    };
    let mut mean = vec![0.0f64; columns];
    for sums in values.par_chunks(chunk_rows * columns).map(column_sums).collect::<Vec<_>>() {
        for (mean, sum) in mean.iter_mut().zip(sums) {
            *mean += sum / rows as f64;
        }
    }
    let distances = |chunk: &[f32]| {
        chunk
            .chunks_exact(columns)
            .flat_map(|row| row.iter().zip(&mean))
            .map(|(&x, m)| (f64::from(x) - m).powi(2))
            .sum::<f64>()
    };
    values.par_chunks(chunk_rows * columns).map(distances).collect::<Vec<f64>>().into_iter().sum()
}

/// |row| of every row, summed in f64.
pub(super) fn row_norms(op: RowNorms<'_, Cpu>) -> Result<()> {
    let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
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
