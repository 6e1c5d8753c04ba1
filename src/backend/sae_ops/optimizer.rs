//! Arguments of the gradient clip and of Adam.

use crate::backend::{need, require, Backend, Buffer};
use crate::error::Result;

/// `norm = sqrt(Σ g²)` over all gradients (summed in f64) and `scale = min(1, max_norm / (norm + 1e-6))`,
/// as torch's `clip_grad_norm_`.
pub struct ClipScale<'a, B: Backend> {
    /// Every parameter's gradient.
    pub gradients: &'a [&'a B::Buffer<f32>],
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
    /// Learning rate of this step.
    pub lr: f64,
    /// `b1`.
    pub beta1: f64,
    /// `b2`.
    pub beta2: f64,
    /// `eps`.
    pub epsilon: f64,
    /// `t`, from 1.
    pub step: u64,
}

impl<B: Backend> Adam<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let n = self.parameter.len();
        need("adam", "gradient", self.gradient.len(), n)?;
        need("adam", "exp_avg", self.exp_avg.len(), n)?;
        need("adam", "exp_avg_sq", self.exp_avg_sq.len(), n)?;
        need("adam", "clip", self.clip.len(), 1)?;
        require("adam", self.step > 0, || "the step counts from 1".into())
    }

    /// What depends on the step alone, in torch's order of operations:
    /// `p -= step_size * (m / (sqrt(v) / root_correction + epsilon))`.
    pub(crate) fn factors(&self) -> AdamFactors {
        let exponent = i32::try_from(self.step).unwrap_or(i32::MAX);
        AdamFactors {
            step_size: (self.lr / (1.0 - self.beta1.powi(exponent))) as f32,
            root_correction: (1.0 - self.beta2.powi(exponent)).sqrt() as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            complement1: (1.0 - self.beta1) as f32,
            complement2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
        }
    }
}

/// The factors of one step of [`Adam`], rounded to f32 once for all backends.
pub(crate) struct AdamFactors {
    /// `lr / (1 - b1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - b2^t)`.
    pub root_correction: f32,
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
