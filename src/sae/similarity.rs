//! Cosines between all rows of a matrix, some rows at a time: a matrix product on the device, of which only a
//! part is ever in memory.

use crate::backend::{ActivationFunction, Backend, Linear, Matrix};
use crate::error::Result;

/// Rows at a time.
const CHUNK: usize = 256;

/// Calls `visit(first, cosines)` with the cosines of some rows from `first` on with all rows `[some, rows]`; a
/// row's with itself is negative infinity, those of a row of zeros are 0.
pub fn cosines<B: Backend>(
    backend: &B,
    matrix: &[f32],
    width: usize,
    visit: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
) -> Result<()> {
    let rows = matrix.len() / width;
    let mut unit = matrix.to_vec();
    for row in unit.chunks_exact_mut(width) {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32;
        row.iter_mut().for_each(|x| *x /= if norm > 0.0 { norm } else { 1.0 });
    }
    let all = backend.upload(&unit)?;
    for (number, chunk) in unit.chunks(CHUNK * width).enumerate() {
        let some = chunk.len() / width;
        let mut cosines = backend.zeros(some * rows)?;
        backend.linear(Linear {
            x: Matrix::F32(&backend.upload(chunk)?),
            w: Matrix::F32(&all),
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: None,
            rows: some,
            d_input: width,
            d_output: rows,
            out: &mut cosines,
        })?;
        let (first, mut cosines) = (number * CHUNK, backend.download(&cosines)?);
        for row in 0..some {
            cosines[row * rows + first + row] = f32::NEG_INFINITY;
        }
        visit(first, &cosines)?;
    }
    Ok(())
}
