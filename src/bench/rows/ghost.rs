//! Rows of what ghost gradients need besides lists and their products.

use super::*;
use crate::backend::*;

/// As many as there are entries of dead latents.
pub(super) fn exponential<B: Backend>(s: SaeSizes) -> Row<B> {
    let len = s.rows * s.dead();
    Row::new("exponential", format!("{len} numbers"), Work::bytes(8 * len), move |data| {
        let (x, mut to) = (data.normal(len)?, data.zeros(len)?);
        Ok(Box::new(move |backend: &B| backend.exponential(Exponential { x: &x, factor: None, len, to: &mut to })))
    })
}

pub(super) fn ghost_error<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_in, .. } = s;
    Row::new("ghost_error", format!("B {rows}, D {d_in}"), Work::bytes(12 * s.batch()), move |data| {
        let (ghost, error) = (data.normal(s.batch())?, data.normal(s.batch())?);
        let (mut gradient, mut loss) = (data.zeros(s.batch())?, data.zeros(rows)?);
        Ok(Box::new(move |backend: &B| {
            backend.ghost_error(GhostError {
                ghost: &ghost,
                error: &error,
                error_scale: -0.5,
                gradient_scale: 1.0,
                rows,
                d_in,
                gradient: &mut gradient,
                loss: &mut loss,
            })
        }))
    })
}
