//! What the backend reaches at best: the rates that rows are compared with.

use super::rows::linear;
use super::{Bench, LmSizes, Row, Sizes};
use crate::backend::{ActivationFunction, Backend, Scale};
use crate::error::Result;
use serde::Serialize;

/// The two rates that limit an operation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes read and written by the second: the faster of a copy and of `scale`, which computes
    /// with all threads, on buffers far larger than any cache.
    pub copy: f64,
    /// Floating-point operations by the second of the largest product in the table.
    pub product: f64,
}

impl Ceilings {
    /// Times a copy, `scale` and a product.
    pub fn measure<B: Backend>(bench: &mut Bench<B>, sizes: &Sizes) -> Result<Ceilings> {
        let len = bench.large();
        let backend = bench.backend().clone();
        let (from, mut to) = (backend.zeros::<f32>(len)?, backend.zeros::<f32>(len)?);
        let copy = bench.time(&mut |backend| backend.copy(&from, 0, &mut to, 0, len))?;
        let scale = bench.time(&mut |backend| backend.scale(Scale { from: &from, factor: 1.0, len, to: &mut to }))?;
        drop((from, to));
        let product = largest_product(sizes);
        let flops = product.work().flops as f64;
        let mut run = product.prepare(&backend)?;
        let seconds = bench.time(&mut run)?.median;
        Ok(Ceilings { copy: 8.0 * len as f64 / copy.median.min(scale.median), product: flops / seconds })
    }
}

/// The encoder's product, or the unembedding's where that is larger.
fn largest_product<B: Backend>(sizes: &Sizes) -> Row<B> {
    let encoder = [sizes.sae.rows, sizes.sae.d_in, sizes.sae.d_sae];
    let unembedding = sizes.lm.map_or([0; 3], |LmSizes { rows, d_model, d_vocab, .. }| [rows, d_model, d_vocab]);
    let size = |shape: &[usize; 3]| shape.iter().product::<usize>();
    let [rows, d_input, d_output] = if size(&encoder) >= size(&unembedding) { encoder } else { unembedding };
    linear(rows, [d_input, d_output], ActivationFunction::Identity, false)
}
