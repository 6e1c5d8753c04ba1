//! What the backend reaches at best: the rates that rows are compared with.

use super::rows::{linear, linear_bf16};
use super::{Bench, LmSizes, Row, Sizes};
use crate::backend::{ActivationFunction, Backend, Scale};
use crate::error::Result;
use serde::Serialize;

/// The rates that limit an operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes read and written by the second: the faster of a copy and of `scale`, which computes
    /// with all threads, on buffers far larger than any cache.
    pub copy: f64,
    /// Floating-point operations by the second of the largest product in the table.
    pub product: f64,
    /// The same with bf16 operands.
    pub bf16_product: f64,
}

impl Ceilings {
    /// Bytes of a copy, floating-point operations of a product and of one with bf16 operands, by the second.
    pub(super) fn rates(&self) -> [f64; 3] {
        [self.copy, self.product, self.bf16_product]
    }

    /// Times a copy, `scale` and both products.
    pub fn measure<B: Backend>(bench: &mut Bench<B>, sizes: &Sizes) -> Result<Ceilings> {
        let len = bench.large();
        let backend = bench.backend().clone();
        let (from, mut to) = (backend.zeros::<f32>(len)?, backend.zeros::<f32>(len)?);
        let copy = bench.time(&mut |backend| backend.copy(&from, 0, &mut to, 0, len))?;
        let scale = bench.time(&mut |backend| backend.scale(Scale { from: &from, factor: 1.0, len, to: &mut to }))?;
        drop((from, to));
        let (rows, widths) = largest_product(sizes);
        let mut rate = |row: Row<B>| -> Result<f64> {
            let work = row.work();
            let mut run = row.prepare(&backend)?;
            Ok((work.flops + work.bf16_flops) as f64 / bench.time(&mut run)?.median)
        };
        let product = rate(linear(rows, widths, ActivationFunction::Identity, false))?;
        let bf16_product = rate(linear_bf16(rows, widths, ActivationFunction::Identity, false))?;
        Ok(Ceilings { copy: 8.0 * len as f64 / copy.median.min(scale.median), product, bf16_product })
    }
}

/// The encoder's product, or the unembedding's where that is larger.
fn largest_product(sizes: &Sizes) -> (usize, [usize; 2]) {
    let encoder = [sizes.sae.rows, sizes.sae.d_in, sizes.sae.d_sae];
    let unembedding = sizes.lm.map_or([0; 3], |LmSizes { rows, d_model, d_vocab, .. }| [rows, d_model, d_vocab]);
    let size = |shape: &[usize; 3]| shape.iter().product::<usize>();
    let [rows, d_input, d_output] = if size(&encoder) >= size(&unembedding) { encoder } else { unembedding };
    (rows, [d_input, d_output])
}
