//! Cases of the operations of ghost gradients.

use super::{unwritten, values, Agree, Case, Outputs, ROUNDING};
use cusae::backend::{Backend, Exponential, GhostError};
use cusae::error::Result;

/// [`Backend::exponential`].
#[derive(Clone, Debug)]
pub struct ExponentialCase {
    pub len: usize,
    pub with_factor: bool,
}

/// Around a block's 256 elements; with and without factors.
pub fn exponential() -> Vec<ExponentialCase> {
    let case = |len| [false, true].map(|with_factor| ExponentialCase { len, with_factor });
    [0, 1, 255, 256, 257, 2000].into_iter().flat_map(case).collect()
}

impl Case for ExponentialCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let mut x = values(1, self.len);
        let rare = [f32::NAN, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, -0.0, 88.0, -87.0];
        x.iter_mut().zip(rare).for_each(|(x, rare)| *x = rare);
        let (x, factor) = (backend.upload(&x)?, backend.upload(&values(2, self.len))?);
        let mut to = unwritten(backend, self.len + 3)?;
        let factor = self.with_factor.then_some(&factor);
        backend.exponential(Exponential { x: &x, factor, len: self.len, to: &mut to })?;
        let mut outputs = Outputs::default();
        // Each is within 2e-7 of e^x.
        outputs.f32(backend, "to", &to, self.len, Agree::Relative(5e-7))?;
        Ok(outputs)
    }
}

/// [`Backend::ghost_error`].
#[derive(Clone, Debug)]
pub struct GhostErrorCase {
    pub rows: usize,
    pub d_in: usize,
    /// Factor on what dead latents decode to.
    pub factor: f32,
}

/// Narrower and wider than a block, and none; what is decoded nothing, tiny and huge.
pub fn ghost_error() -> Vec<GhostErrorCase> {
    let case = |(rows, d_in, factor)| GhostErrorCase { rows, d_in, factor };
    [(1, 1, 1.0), (3, 63, 1.0), (2, 256, 1.0), (5, 700, 1.0), (0, 8, 1.0), (2, 40, 0.0), (2, 40, 1e-12), (2, 40, 1e12)]
        .map(case)
        .to_vec()
}

impl Case for GhostErrorCase {
    fn run<B: Backend>(&self, backend: &B) -> Result<Outputs> {
        let n = self.rows * self.d_in;
        let ghost: Vec<f32> = values(1, n).iter().map(|x| x * self.factor).collect();
        // Opposite to the ghost's, so that no difference loses digits.
        let error = values(2, n).iter().zip(&ghost).map(|(e, g)| (e.abs() + 0.1).copysign(*g)).collect::<Vec<_>>();
        let (ghost, error) = (backend.upload(&ghost)?, backend.upload(&error)?);
        let (mut gradient, mut loss) = (unwritten(backend, n)?, unwritten(backend, self.rows)?);
        backend.ghost_error(GhostError {
            ghost: &ghost,
            error: &error,
            error_scale: -1.5,
            gradient_scale: 0.25,
            rows: self.rows,
            d_in: self.d_in,
            gradient: &mut gradient,
            loss: &mut loss,
        })?;
        let mut outputs = Outputs::default();
        outputs.f32(backend, "gradient", &gradient, n, Agree::Relative(16.0 * ROUNDING))?;
        outputs.f32(backend, "loss", &loss, self.rows, Agree::Relative(16.0 * ROUNDING))?;
        Ok(outputs)
    }
}
