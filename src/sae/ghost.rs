//! Ghost gradients: dead latents, taken as active with `e^h`, reconstruct the error that the others leave, at
//! half its size, and get the gradient of that. With `g = s e^h W_dec` over the dead latents,
//! `s = |r| / (1e-6 + 2 |e^h W_dec|)` in each row, and `r = x - x_hat`, the loss is the mean over all elements
//! of `m (g - r)²`, `m = r² / ((g - r)² + 1e-6)`: as large as the mean squared error. `r`, `s` and `m` are not
//! differentiated. What a transcoder is to predict takes the place of `x`, and what a skip connection carries is part
//! of `x_hat`.
//! Source: Jermyn and Templeton 2024, "Ghost Grads: An improvement on resampling", as SAELens had it before
//! version 6 (`use_ghost_grads`).

use super::architecture::{Architecture, Batch, Dims, Listed};
use crate::backend::*;
use crate::error::Result;

/// The work space of it; lists are as long as there were dead latents.
pub struct Ghost<B: Backend> {
    /// Every dead latent of every row: values are `e^h`.
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    h: B::Buffer<f32>,
    value_gradient: B::Buffer<f32>,
    pre_gradient: B::Buffer<f32>,
    decoded: B::Buffer<f32>,
    gradient: B::Buffer<f32>,
    loss: B::Buffer<f32>,
}

impl<B: Backend> Ghost<B> {
    /// For batches of these sizes, in which no latent is dead yet.
    pub fn new(backend: &B, dims: Dims) -> Result<Self> {
        Self::with_room(backend, dims, 0)
    }

    fn with_room(backend: &B, Dims { rows, d_in, d_sae }: Dims, dead: usize) -> Result<Self> {
        Ok(Ghost {
            lists: FeatureLists::new(backend, rows, dead)?,
            by_latent: LatentLists::new(backend, d_sae, rows * dead)?,
            h: backend.zeros(rows * dead)?,
            value_gradient: backend.zeros(rows * dead)?,
            pre_gradient: backend.zeros(rows * dead)?,
            decoded: backend.zeros(rows * d_in)?,
            gradient: backend.zeros(rows * d_in)?,
            loss: backend.zeros(rows)?,
        })
    }

    /// Adds the gradients to those of the weights, which are written, and sums `m (g - r)²` after the
    /// architecture's terms. Waits for how many latents are dead.
    pub fn step(&mut self, architecture: &mut dyn Architecture<B>, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        let term = architecture.terms();
        let n_dead = backend.read_element(&batch.dead.count, 0)? as usize;
        if n_dead == 0 {
            backend.fill(&mut self.loss, 0.0)?;
            return batch.sum_term(term, &self.loss);
        }
        if n_dead > self.lists.stride {
            // Some more, so that the next few find room, too.
            *self = Self::with_room(backend, batch.dims, (n_dead + n_dead / 4).min(d_sae))?;
        }
        let len = rows * self.lists.stride;
        architecture.encode_dead(batch, n_dead, &mut self.lists)?;
        backend.copy(&self.lists.values, 0, &mut self.h, 0, len)?;
        backend.exponential(Exponential { x: &self.h, factor: None, len, to: &mut self.lists.values })?;
        backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec: Matrix::F32(batch.values.get("W_dec")),
                b_dec: None,
                target: batch.target,
                denormalize: None,
                gradient_scale: 0.0,
                rows,
                d_in,
                d_sae,
                reconstruction: Some(&mut self.decoded),
                gradient: &mut self.gradient,
                squared_error: &mut self.loss,
            },
            lists: &self.lists,
            dead_weight: None,
            value_gradient: None,
        })?;
        backend.ghost_error(GhostError {
            ghost: &self.decoded,
            error: architecture.error_gradient().unwrap_or(batch.output_gradient),
            // The gradient of the mean squared error is 2 / B (x_hat - x).
            error_scale: -(rows as f32) / 2.0,
            gradient_scale: 2.0 / (rows * d_in) as f32,
            rows,
            d_in,
            gradient: &mut self.gradient,
            loss: &mut self.loss,
        })?;
        backend.gradient_values(GradientValues {
            lists: &self.lists,
            w_dec: Matrix::F32(batch.values.get("W_dec")),
            gradient: &self.gradient,
            rows,
            d_in,
            value_gradient: &mut self.value_gradient,
        })?;
        let factor = Some(&self.value_gradient);
        backend.exponential(Exponential { x: &self.h, factor, len, to: &mut self.pre_gradient })?;
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.lists, rows, d_sae, by_latent })?;
        let listed = Listed {
            lists: &self.lists,
            by_latent: &self.by_latent,
            pre_gradient: &self.pre_gradient,
            norm_gradient: None,
            stored: None,
        };
        architecture.add_dead(batch, listed, &self.gradient)?;
        batch.sum_term(term, &self.loss)
    }
}
