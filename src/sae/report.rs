//! What a training step measures. Its numbers stay on the device, where later operations of the step
//! write them; they come to the host only when somebody asks for a [`StepReport`].

use crate::backend::{Backend, NoteNonFinite, RowVariance, StepScalars};
use crate::error::Result;
use std::borrow::Cow;

/// A loss term by SAELens' name, its coefficient multiplied in.
pub type LossTerm = (Cow<'static, str>, f64);

/// A number of a step that is no loss, by SAELens' name without its group `metrics`.
pub type Metric = (&'static str, f64);

/// What a step leaves behind, by SAELens' names.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// `mse_loss` first, then the architecture's terms.
    pub losses: Vec<LossTerm>,
    /// Mean number of active latents in a row.
    pub l0: f64,
    /// Latents that were dead before the step.
    pub n_dead: usize,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Numbers that only this architecture has.
    pub metrics: Vec<Metric>,
    /// How much of the batch's variance is explained, where it was wanted.
    pub explained_variance: Option<ExplainedVariance>,
}

impl StepReport {
    /// The sum of all terms: SAELens' `overall_loss`.
    pub fn overall_loss(&self) -> f64 {
        self.losses.iter().map(|(_, loss)| loss).sum()
    }
}

/// SAELens' two measures of the variance that the reconstruction explains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExplainedVariance {
    /// `1 - Σ |x_hat - x|² / Σ |x - mean|²`.
    pub pooled: f64,
    /// Mean over rows of `1 - |x_hat - x|² / |x - mean|²`: `explained_variance_legacy`.
    pub legacy_mean: f64,
    /// Its standard deviation over rows (n - 1).
    pub legacy_std: f64,
}

impl ExplainedVariance {
    /// Of a batch `target [rows, d_in]`, with `|x_hat - x|²` of every row; `variance [rows]` is room
    /// for what it computes.
    pub(super) fn of<B: Backend>(
        backend: &B,
        [target, squared_error]: [&B::Buffer<f32>; 2],
        variance: &mut B::Buffer<f32>,
        [rows, d_in]: [usize; 2],
    ) -> Result<Self> {
        backend.row_variance(RowVariance { x: target, rows, d_in, variance })?;
        let (mut of_rows, mut error) = (vec![0.0f32; rows], vec![0.0f32; rows]);
        backend.read(variance, 0, &mut of_rows)?;
        backend.read(squared_error, 0, &mut error)?;
        let total = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        let ratios = || error.iter().zip(&of_rows).map(|(&e, &v)| 1.0 - f64::from(e) / f64::from(v));
        let mean = ratios().sum::<f64>() / rows as f64;
        let spread = ratios().map(|ratio| (ratio - mean).powi(2)).sum::<f64>();
        Ok(ExplainedVariance {
            pooled: 1.0 - total(&error) / total(&of_rows),
            legacy_mean: mean,
            legacy_std: (spread / (rows as f64 - 1.0)).sqrt(),
        })
    }
}

/// The latest step's numbers, on the device.
pub struct Measurements<B: Backend> {
    /// Sums over the batch's rows `[1 + terms]`: the squared error, then the architecture's terms.
    pub sums: B::Buffer<f64>,
    /// Active latents in the whole batch `[1]`.
    pub active: B::Buffer<u32>,
    /// The clip's factor, and the gradients' norm before it `[2]`.
    pub clip: B::Buffer<f32>,
    first_non_finite: B::Buffer<u32>,
}

impl<B: Backend> Measurements<B> {
    /// Of no step, for an architecture with so many terms.
    pub fn none(backend: &B, terms: usize) -> Result<Self> {
        Ok(Measurements {
            sums: backend.zeros(1 + terms)?,
            active: backend.zeros(1)?,
            clip: backend.zeros(2)?,
            first_non_finite: backend.zeros(1)?,
        })
    }

    /// Keeps the number of the first step that was not finite.
    pub(super) fn watch(&mut self, backend: &B, scalars: &B::Buffer<StepScalars>) -> Result<()> {
        let Measurements { sums, clip, first_non_finite: first, .. } = self;
        backend.note_non_finite(NoteNonFinite { sums, clip, scalars, first })
    }

    /// The first step since the start whose loss or gradient norm was not finite.
    pub(super) fn first_non_finite_step(&self, backend: &B) -> Result<Option<u64>> {
        let step = backend.read_element(&self.first_non_finite, 0)?;
        Ok((step > 0).then_some(step.into()))
    }
}
