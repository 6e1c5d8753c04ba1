//! `linear` and `activate`: bias, function and residual are applied to a block of the product while
//! it is in the cache.

use super::gemm::{product_with, Operand};
use super::{functions, simd, *};
use rayon::prelude::*;

/// Elements per task of an activation.
const ELEMENTS: usize = 1 << 14;

pub(super) fn run(op: Linear<'_, Cpu>) -> Result<()> {
    let Linear { x, w, w_is_transposed, bias, function, residual, rows, d_input, d_output, out } = op;
    let weights = if w_is_transposed { Operand::transposed(w, d_input) } else { Operand::rows(w, d_output) };
    product_with([rows, d_output, d_input], out, Operand::rows(x, d_input), weights, false, |mut block| {
        let column = block.column;
        for (row, out) in block.rows() {
            if let Some(bias) = bias {
                simd::add(out, &bias[column..]);
            }
            functions::activate(function, out);
            if let Some(residual) = residual {
                simd::add(out, &residual[row * d_output + column..]);
            }
        }
    });
    Ok(())
}

pub(super) fn activate(op: Activate<'_, Cpu>) -> Result<()> {
    let Activate { function, to, len } = op;
    to[..len].par_chunks_mut(ELEMENTS).for_each(|values| functions::activate(function, values));
    Ok(())
}
