//! AuxK: dead latents reconstruct the error that the living ones leave, which revives them.
//! Source: Gao et al. 2024 (arXiv 2406.04093), A.2, as SAELens' `topk_sae.py` has it.

use super::architecture::{Batch, Dims, Listed, Onto};
use crate::backend::*;
use crate::error::Result;

/// The work space of the reconstruction. How many latents are dead only the device knows; without any
/// the lists are empty and nothing else happens.
pub struct AuxK<B: Backend> {
    coefficient: f64,
    rank: Rank,
    rescales: bool,
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    target: B::Buffer<f32>,
    output_gradient: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
}

/// What AuxK takes from the settings of its architecture.
#[derive(Clone, Copy, Debug)]
pub struct AuxKConfig {
    /// Factor on the loss.
    pub coefficient: f64,
    /// What is compared.
    pub rank: Rank,
    /// Whether pre-activations are compared after multiplying by the decoder norms.
    pub rescales: bool,
}

impl<B: Backend> AuxK<B> {
    /// None where the loss has no weight, or there is no room for a latent.
    pub fn new(backend: &B, config: AuxKConfig, Dims { rows, d_in, d_sae }: Dims) -> Result<Option<Self>> {
        let stride = full_dead(d_in);
        if config.coefficient == 0.0 || stride == 0 {
            return Ok(None);
        }
        Ok(Some(AuxK {
            coefficient: config.coefficient,
            rank: config.rank,
            rescales: config.rescales,
            lists: FeatureLists::new(backend, rows, stride)?,
            by_latent: LatentLists::new(backend, d_sae, rows * stride)?,
            value_gradient: backend.zeros(rows * stride)?,
            target: backend.zeros(rows * d_in)?,
            output_gradient: backend.zeros(rows * d_in)?,
            squared_error: backend.zeros(rows)?,
        }))
    }

    /// Adds the gradients of `c * min(n_dead / half, 1) * mean_b |e_hat - e|²` to those of the weights,
    /// and sums `|e_hat - e|²` as term `term`. `e` is the reconstruction's error (not differentiated),
    /// `half = d_in / 2`, and `e_hat` is decoded from `min(half, n_dead)` pre-activations of `dead`
    /// latents, not rectified. `gradient` is that of the reconstruction's mean squared error, the batch's
    /// `output_gradient` where it is none.
    pub fn step(
        &mut self,
        batch: &mut Batch<'_, B>,
        dead: &DeadLatents<B>,
        gradient: Option<&B::Buffer<f32>>,
        onto: Onto,
        term: usize,
    ) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        let half = self.lists.stride;
        backend.encode_dead_topk(EncodeDeadTopk {
            encoder: batch.encoder(),
            rank: self.rank,
            decoder_norm: self.rescales.then_some(batch.decoder_norm),
            dead,
            k: half,
            lists: &mut self.lists,
        })?;
        // The error is x_hat - x = gradient * B / 2; AuxK's target is x - x_hat.
        let factor = -(rows as f32) / 2.0;
        let from = gradient.unwrap_or(batch.output_gradient);
        backend.scale(Scale { from, factor, len: rows * d_in, to: &mut self.target })?;
        backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec: batch.w_dec(),
                b_dec: None,
                target: &self.target,
                denormalize: None,
                gradient_scale: (2.0 * self.coefficient / rows as f64) as f32,
                rows,
                d_in,
                d_sae,
                reconstruction: None,
                gradient: &mut self.output_gradient,
                squared_error: &mut self.squared_error,
            },
            lists: &self.lists,
            dead_weight: Some(DeadWeight { n_dead: &dead.count, full: half }),
            value_gradient: Some(&mut self.value_gradient),
        })?;
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.lists, rows, d_sae, by_latent })?;
        let listed = Listed {
            lists: &self.lists,
            by_latent: &self.by_latent,
            pre_gradient: &self.value_gradient,
            norm_gradient: None,
            stored: None,
        };
        batch.write_gradients(listed, Some(&self.output_gradient), onto)?;
        batch.sum_term(term, &self.squared_error)
    }

    /// The latents of which the latest step wrote gradients.
    pub fn written(&self) -> &LatentLists<B> {
        &self.by_latent
    }
}

/// With so many dead latents, `d_in / 2`, AuxK's loss counts in full.
fn full_dead(d_in: usize) -> usize {
    d_in / 2
}

/// The loss of which [`AuxK::step`] left the sum, given how many latents were dead; 0 where there was
/// no AuxK.
pub fn loss(coefficient: f64, sum: f64, n_dead: usize, Dims { rows, d_in, .. }: Dims) -> f64 {
    let weight = (n_dead as f64 / full_dead(d_in).max(1) as f64).min(1.0);
    coefficient * weight * sum / rows as f64
}

/// Numbers of four bytes in its work space: index, value, gradient and place by latent of `d_in / 2`
/// entries in each row, and two batches.
pub(super) fn work_space(coefficient: f64, Dims { rows, d_in, .. }: Dims) -> u64 {
    let numbers = 4 * rows * full_dead(d_in) + 2 * rows * d_in;
    if coefficient > 0.0 {
        numbers as u64
    } else {
        0
    }
}
