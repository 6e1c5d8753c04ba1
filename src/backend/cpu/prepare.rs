//! `prepare_input`, `gather_rows` and `scatter_rows`: rows on their way into the encoder.

use super::*;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 64;

pub(super) fn gather_rows(op: GatherRows<'_, Cpu>) -> Result<()> {
    let columns = op.columns;
    let rows = &op.rows[op.first..op.first + op.n];
    inside("gather_rows", "source", rows, op.from.len() / columns)?;
    op.to[..op.n * columns].par_chunks_mut(columns).zip(rows).with_min_len(ROWS).for_each(|(to, &row)| {
        to.copy_from_slice(&op.from[row as usize * columns..][..columns]);
    });
    Ok(())
}

pub(super) fn scatter_rows(op: ScatterRows<'_, Cpu>) -> Result<()> {
    let (from_rows, to_rows, columns) = (&op.from_rows[..op.n], &op.to_rows[..op.n], op.columns);
    inside("scatter_rows", "source", from_rows, op.from.len() / columns)?;
    inside("scatter_rows", "destination", to_rows, op.to.len() / columns)?;
    for (&from, &to) in from_rows.iter().zip(to_rows) {
        op.to[to as usize * columns..][..columns].copy_from_slice(&op.from[from as usize * columns..][..columns]);
    }
    Ok(())
}

/// Fails when one of `rows` is not below `available`.
fn inside(operation: &'static str, matrix: &str, rows: &[u32], available: usize) -> Result<()> {
    match rows.iter().find(|&&row| row as usize >= available) {
        Some(row) => {
            let what = format!("row {row} is asked for, the {matrix} has {available}");
            Err(Error::Shape { operation, what })
        }
        None => Ok(()),
    }
}

pub(super) fn run(op: PrepareInput<'_, Cpu>) -> Result<()> {
    let PrepareInput { x, scale, normalization, b_dec, rows, d_in, target, input, row_scale, row_shift } = op;
    let n = rows * d_in;
    (
        x[..n].par_chunks(d_in),
        target[..n].par_chunks_mut(d_in),
        input[..n].par_chunks_mut(d_in),
        row_scale[..rows].par_iter_mut(),
        row_shift[..rows].par_iter_mut(),
    )
        .into_par_iter()
        .with_min_len(ROWS)
        .for_each(|(x, target, input, row_scale, row_shift)| {
            for (target, &x) in target.iter_mut().zip(x) {
                *target = x * scale;
            }
            // x_normalised = (x - shift) * factor; y is brought back as y * row_scale + shift.
            let factor = match normalization {
                RowNormalization::None => {
                    input.copy_from_slice(target);
                    None
                }
                RowNormalization::LayerNorm => {
                    let (mean, std) = mean_and_std(target);
                    (*row_scale, *row_shift) = (std, mean);
                    Some(1.0 / (std + 1e-5))
                }
                RowNormalization::ConstantNorm => {
                    let norm = sum_of_squares(target).sqrt() as f32;
                    let factor = (d_in as f32).sqrt() / norm;
                    (*row_scale, *row_shift) = (1.0 / factor, 0.0);
                    Some(factor)
                }
            };
            if let Some(factor) = factor {
                for (input, &target) in input.iter_mut().zip(target.iter()) {
                    *input = (target - *row_shift) * factor;
                }
            }
            if let Some(b_dec) = b_dec {
                for (input, &b) in input.iter_mut().zip(b_dec) {
                    *input -= b;
                }
            }
        });
    Ok(())
}

fn sum_of_squares(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// Mean and unbiased standard deviation (n - 1), as torch's `std`.
fn mean_and_std(row: &[f32]) -> (f32, f32) {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean as f32, variance.sqrt() as f32)
}
