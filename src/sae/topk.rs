//! TopK: `f = ReLU` of the k largest pre-activations of every row, with AuxK for dead latents.
//! Source: Gao et al. 2024 (arXiv 2406.04093) as SAELens' `topk_sae.py` has it.
//!
//! With `rescale_acts_by_decoder_norm` SAELens selects on `h n` and decodes `f / n`, where `n` is
//! the norm of the latent's decoder row. The factor cancels in the reconstruction and in every
//! gradient (the two ways that lead through `n` are equal and opposite), so that here it only takes
//! part in the selection, and lists hold `h`.

use super::architecture::{Architecture, Batch, Dims, Terms};
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
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    /// Made when the first latent has died.
    aux: Option<Aux<B>>,
}

/// AuxK's own reconstruction: of the main one's error, from dead latents.
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
    pub fn new(backend: &B, config: TopKConfig, Dims { rows, d_sae, .. }: Dims) -> Result<Self> {
        let k = config.k;
        Ok(TopK {
            config,
            lists: FeatureLists::new(backend, rows, k)?,
            by_latent: LatentLists::new(backend, d_sae, rows * k)?,
            value_gradient: backend.zeros(rows * k)?,
            aux: None,
        })
    }

    /// `c * min(n_dead / k_aux, 1) * mean_b |e_hat - e|²` with `e` the main reconstruction's error
    /// (not differentiated), `k_aux = min(d_in / 2, n_dead)`, pre-activations not rectified.
    fn auxiliary_loss(&mut self, batch: &mut Batch<'_, B>) -> Result<f64> {
        let Dims { rows, d_in, d_sae } = batch.dims;
        let half = d_in / 2;
        let (k, scale) = (half.min(batch.n_dead), (batch.n_dead as f64 / half as f64).min(1.0));
        let factor = self.config.aux_loss_coefficient * scale;
        if k == 0 || factor == 0.0 {
            return Ok(0.0);
        }
        if self.aux.is_none() {
            self.aux = Some(Aux::new(batch.backend, batch.dims)?);
        }
        let aux = self.aux.as_mut().expect("made above");
        let backend = batch.backend;
        backend.encode_dead_topk(EncodeDeadTopk {
            encoder: batch.encoder(),
            decoder_norm: self.config.rescale_acts_by_decoder_norm.then_some(batch.decoder_norm),
            dead: batch.dead,
            n_dead: batch.n_dead,
            k,
            lists: &mut aux.lists,
        })?;
        // The main error is x_hat - x = gradient * B / 2; AuxK's target is x - x_hat.
        backend.scale(Scale {
            from: batch.output_gradient,
            factor: -(rows as f32) / 2.0,
            len: rows * d_in,
            to: &mut aux.target,
        })?;
        backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec: batch.values.get("W_dec"),
                b_dec: None,
                target: &aux.target,
                denormalize: None,
                gradient_scale: (2.0 * factor / rows as f64) as f32,
                rows,
                d_in,
                d_sae,
                reconstruction: None,
                gradient: &mut aux.output_gradient,
                squared_error: &mut aux.squared_error,
            },
            lists: &aux.lists,
            value_gradient: Some(&mut aux.value_gradient),
        })?;
        let by_latent = &mut aux.by_latent;
        backend.transpose_lists(TransposeLists { lists: &aux.lists, rows, d_sae, by_latent })?;
        let gradient = Some(&aux.output_gradient);
        batch.gradient_from_lists(&aux.lists, &aux.by_latent, &aux.value_gradient, gradient, None, true)?;
        Ok(factor * backend.sum(&aux.squared_error, rows)? / rows as f64)
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
}

impl<B: Backend> Architecture<B> for TopK<B> {
    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<Terms> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        backend.encode_topk(EncodeTopk {
            encoder: batch.encoder(),
            decoder_norm: self.config.rescale_acts_by_decoder_norm.then_some(batch.decoder_norm),
            k: self.config.k,
            lists: &mut self.lists,
        })?;
        let value_gradient = Some(&mut self.value_gradient);
        backend.decode_sparse(DecodeSparse { decoder: batch.decoder(), lists: &self.lists, value_gradient })?;
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.lists, rows, d_sae, by_latent })?;
        // Where a latent is active, dh is the gradient of its value; elsewhere it is 0.
        batch.gradient_from_lists(&self.lists, &self.by_latent, &self.value_gradient, None, None, false)?;
        let aux = self.auxiliary_loss(batch)?;
        batch.update_firing(Features::Lists(&self.by_latent))?;
        let mut active = [0];
        backend.read(&self.by_latent.offsets, d_sae, &mut active)?;
        Ok(Terms { losses: vec![("auxiliary_reconstruction_loss", aux)], active: active[0].into() })
    }
}
