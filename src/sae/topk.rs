//! TopK: `f = ReLU` of the k largest pre-activations of every row, with AuxK for dead latents.
//! Source: Gao et al. 2024 (arXiv 2406.04093) as SAELens' `topk_sae.py` has it.
//!
//! With `rescale_acts_by_decoder_norm` SAELens selects on `h n` and decodes `f / n`, where `n` is
//! the norm of the latent's decoder row. The factor cancels in the reconstruction and in every
//! gradient (the two ways that lead through `n` are equal and opposite), so that here it only takes
//! part in the selection, and lists hold `h`.

use super::architecture::{Architecture, Batch, Dims};
use crate::backend::*;
use crate::error::Result;

/// SAELens' `TopKTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopKConfig {
    /// Latents kept in each row.
    pub k: usize,
    /// Factor on AuxK's loss.
    pub aux_loss_coefficient: f64,
    /// Whether pre-activations are compared after multiplying by the decoder norms.
    pub rescale_acts_by_decoder_norm: bool,
}

/// The work space of a TopK step.
pub struct TopK<B: Backend> {
    config: TopKConfig,
    dims: Dims,
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    /// None where AuxK's loss has no weight, or no room for a latent.
    aux: Option<Aux<B>>,
}

/// AuxK's own reconstruction: of the main one's error, from dead latents. How many of those there are
/// only the device knows; without any the lists are empty and nothing else happens.
struct Aux<B: Backend> {
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    target: B::Buffer<f32>,
    output_gradient: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
}

impl<B: Backend> TopK<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: TopKConfig, dims: Dims) -> Result<Self> {
        let (k, Dims { rows, d_in, d_sae }) = (config.k, dims);
        let has_aux = config.aux_loss_coefficient != 0.0 && d_in / 2 > 0;
        Ok(TopK {
            config,
            dims,
            lists: FeatureLists::new(backend, rows, k)?,
            by_latent: LatentLists::new(backend, d_sae, rows * k)?,
            value_gradient: backend.zeros(rows * k)?,
            aux: has_aux.then(|| Aux::new(backend, dims)).transpose()?,
        })
    }
}

impl<B: Backend> Aux<B> {
    fn new(backend: &B, Dims { rows, d_in, d_sae }: Dims) -> Result<Self> {
        let stride = d_in / 2;
        Ok(Aux {
            lists: FeatureLists::new(backend, rows, stride)?,
            by_latent: LatentLists::new(backend, d_sae, rows * stride)?,
            value_gradient: backend.zeros(rows * stride)?,
            target: backend.zeros(rows * d_in)?,
            output_gradient: backend.zeros(rows * d_in)?,
            squared_error: backend.zeros(rows)?,
        })
    }

    /// `c * min(n_dead / half, 1) * mean_b |e_hat - e|²` with `e` the main reconstruction's error (not
    /// differentiated), `half = d_in / 2`, and `e_hat` from `min(half, n_dead)` pre-activations that are
    /// not rectified.
    fn step(&mut self, config: &TopKConfig, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        let half = self.lists.stride;
        backend.encode_dead_topk(EncodeDeadTopk {
            encoder: batch.encoder(),
            decoder_norm: config.rescale_acts_by_decoder_norm.then_some(batch.decoder_norm),
            dead: batch.dead,
            k: half,
            lists: &mut self.lists,
        })?;
        // The main error is x_hat - x = gradient * B / 2; AuxK's target is x - x_hat.
        backend.scale(Scale {
            from: batch.output_gradient,
            factor: -(rows as f32) / 2.0,
            len: rows * d_in,
            to: &mut self.target,
        })?;
        backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec: batch.values.get("W_dec"),
                b_dec: None,
                target: &self.target,
                denormalize: None,
                gradient_scale: (2.0 * config.aux_loss_coefficient / rows as f64) as f32,
                rows,
                d_in,
                d_sae,
                reconstruction: None,
                gradient: &mut self.output_gradient,
                squared_error: &mut self.squared_error,
            },
            lists: &self.lists,
            dead_weight: Some(DeadWeight { n_dead: &batch.dead.count, full: half }),
            value_gradient: Some(&mut self.value_gradient),
        })?;
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.lists, rows, d_sae, by_latent })?;
        let gradient = Some(&self.output_gradient);
        batch.gradient_from_lists(&self.lists, &self.by_latent, &self.value_gradient, gradient, None, true)?;
        batch.sum_term(0, &self.squared_error)
    }
}

impl<B: Backend> Architecture<B> for TopK<B> {
    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        backend.encode_topk(EncodeTopk {
            encoder: batch.encoder(),
            decoder_norm: self.config.rescale_acts_by_decoder_norm.then_some(batch.decoder_norm),
            k: self.config.k,
            lists: &mut self.lists,
        })?;
        backend.decode_sparse(DecodeSparse {
            decoder: batch.decoder(),
            lists: &self.lists,
            dead_weight: None,
            value_gradient: Some(&mut self.value_gradient),
        })?;
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.lists, rows, d_sae, by_latent })?;
        // Where a latent is active, dh is the gradient of its value; elsewhere it is 0.
        batch.gradient_from_lists(&self.lists, &self.by_latent, &self.value_gradient, None, None, false)?;
        if let Some(aux) = &mut self.aux {
            aux.step(&self.config, batch)?;
        }
        batch.update_firing(Features::Lists(&self.by_latent))?;
        batch.count_active(&self.by_latent)
    }

    fn losses(&self, sums: &[f64], n_dead: usize) -> Vec<(&'static str, f64)> {
        let weight = (n_dead as f64 / (self.dims.d_in / 2) as f64).min(1.0);
        let factor = self.config.aux_loss_coefficient * weight;
        vec![("auxiliary_reconstruction_loss", factor * sums[0] / self.dims.rows as f64)]
    }
}
