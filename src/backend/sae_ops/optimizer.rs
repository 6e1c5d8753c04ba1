//! What changes from step to step, and the arguments of the gradient clip, of Adam, and of the watch
//! over numbers that are not finite.

use crate::backend::{need, Backend, Buffer, Element};
use crate::error::Result;

/// The numbers that change from step to step. They lie in device memory, written before each step, so
/// that a step's work can be recorded once and done again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepScalars {
    /// `lr / (1 - b1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - b2^t)`.
    pub root_correction: f32,
    /// Factor on the architecture's sparsity term.
    pub coefficient: f32,
    /// `t`, from 1.
    pub step: u32,
}

impl Element for StepScalars {}

impl StepScalars {
    /// Of step `t`, from 1: Adam's factors in torch's order of operations,
    /// `p -= step_size * (m / (sqrt(v) / root_correction + epsilon))`.
    pub fn new(step: u64, lr: f64, [beta1, beta2]: [f64; 2], coefficient: f64) -> Self {
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        StepScalars {
            step_size: (lr / (1.0 - beta1.powi(exponent))) as f32,
            root_correction: (1.0 - beta2.powi(exponent)).sqrt() as f32,
            coefficient: coefficient as f32,
            step: u32::try_from(step).unwrap_or(u32::MAX),
        }
    }
}

/// `norm = sqrt(Σ g²)` over all gradients (summed in f64) and `scale = min(1, max_norm / (norm + 1e-6))`,
/// as torch's `clip_grad_norm_`.
pub struct ClipScale<'a, B: Backend> {
    /// Every parameter's gradient.
    pub gradients: &'a [&'a B::Buffer<f32>],
    /// Sums of squares of gradients that are nowhere ([`GradientSquares`]).
    pub squares: Option<&'a B::Buffer<f64>>,
    /// None: no clipping, scale 1.
    pub max_norm: Option<f32>,
    /// Out `[2]`: scale, norm.
    pub out: &'a mut B::Buffer<f32>,
}

impl<B: Backend> ClipScale<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("clip_scale", "out", self.out.len(), 2)
    }
}

/// Adam without weight decay, bias-corrected, as torch's: with `g = clip * gradient`,
/// `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g²`,
/// `p -= lr / (1-b1^t) * m / (sqrt(v / (1-b2^t)) + eps)`.
pub struct Adam<'a, B: Backend> {
    /// The parameter `[n]`, in and out.
    pub parameter: &'a mut B::Buffer<f32>,
    /// Its gradient `[n]`.
    pub gradient: &'a B::Buffer<f32>,
    /// First moment `[n]`, in and out.
    pub exp_avg: &'a mut B::Buffer<f32>,
    /// Second moment `[n]`, in and out.
    pub exp_avg_sq: &'a mut B::Buffer<f32>,
    /// What [`ClipScale`] wrote: element 0 is used.
    pub clip: &'a B::Buffer<f32>,
    /// Where the step's factors are.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// Its constants.
    pub constants: AdamConstants,
}

/// What stays the same in all steps of [`Adam`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamConstants {
    /// `b1`.
    pub beta1: f64,
    /// `b2`.
    pub beta2: f64,
    /// `eps`.
    pub epsilon: f64,
}

impl<B: Backend> Adam<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let n = self.parameter.len();
        need("adam", "gradient", self.gradient.len(), n)?;
        need("adam", "exp_avg", self.exp_avg.len(), n)?;
        need("adam", "exp_avg_sq", self.exp_avg_sq.len(), n)?;
        need("adam", "clip", self.clip.len(), 1)?;
        need("adam", "scalars", self.scalars.len(), 1)
    }
}

impl AdamConstants {
    pub(crate) fn factors(&self) -> AdamFactors {
        AdamFactors {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            complement1: (1.0 - self.beta1) as f32,
            complement2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
        }
    }
}

/// [`AdamConstants`] rounded to f32, once for all backends.
#[derive(Clone, Copy)]
pub(crate) struct AdamFactors {
    /// `b1`.
    pub beta1: f32,
    /// `b2`.
    pub beta2: f32,
    /// `1 - b1`.
    pub complement1: f32,
    /// `1 - b2`.
    pub complement2: f32,
    /// `eps`.
    pub epsilon: f32,
}

/// The first step whose loss or gradient norm was not finite: `first = step` where one of `sums` or
/// the norm is not and `first` was 0.
pub struct NoteNonFinite<'a, B: Backend> {
    /// The step's sums `[n]`.
    pub sums: &'a B::Buffer<f64>,
    /// What [`ClipScale`] wrote: element 1 is used.
    pub clip: &'a B::Buffer<f32>,
    /// Where the step's number is.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// In and out `[1]`; 0: none so far.
    pub first: &'a mut B::Buffer<u32>,
}

impl<B: Backend> NoteNonFinite<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("note_non_finite", "clip", self.clip.len(), 2)?;
        need("note_non_finite", "scalars", self.scalars.len(), 1)?;
        need("note_non_finite", "first", self.first.len(), 1)
    }
}
