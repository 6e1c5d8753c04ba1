//! Standard: `f = ReLU(h)` with `l1_coefficient * mean_b ||f ⊙ |W_dec|||_p`.
//! Source: SAELens `standard_sae.py`; Anthropic, "Circuits updates, April 2024".
//!
//! Early in training half of all latents are active and dense products are the fastest way; later
//! a row has a few dozen. The step goes over to lists when the last batch was sparse enough, and back
//! when a row does not fit any more.

use super::architecture::{Architecture, Batch, Dims, Terms};
use crate::backend::*;
use crate::error::Result;

/// SAELens' `StandardTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct StandardConfig {
    /// The norm's p.
    pub lp_norm: f64,
}

/// Room in a row's list, as a part of d_sae. It is wide because some rows, above all those of the
/// first token, are far denser than the mean one; room that is not used costs no memory on the CPU.
const ROOM_PART: usize = 4;
/// Lists are taken when the mean row has at most this part of d_sae active: a gathered row costs
/// about as much time as ten of a dense product.
const SPARSE_PART: usize = 16;

/// The work space of a standard step.
pub struct Standard<B: Backend> {
    config: StandardConfig,
    dims: Dims,
    form: Form<B>,
    row_loss: B::Buffer<f32>,
}

/// How the features of the next batch are held. Only one form's work space exists at a time.
enum Form<B: Backend> {
    Dense {
        features: B::Buffer<f32>,
        gradient: B::Buffer<f32>,
        norm_gradient: B::Buffer<f32>,
        counts: B::Buffer<u32>,
    },
    Lists {
        lists: FeatureLists<B>,
        by_latent: LatentLists<B>,
        value_gradient: B::Buffer<f32>,
        norm_gradient: B::Buffer<f32>,
    },
}

impl<B: Backend> Form<B> {
    fn dense(backend: &B, Dims { rows, d_sae, .. }: Dims) -> Result<Self> {
        Ok(Form::Dense {
            features: backend.zeros(rows * d_sae)?,
            gradient: backend.zeros(rows * d_sae)?,
            norm_gradient: backend.zeros(d_sae)?,
            counts: backend.zeros(rows)?,
        })
    }

    fn lists(backend: &B, dims: Dims) -> Result<Self> {
        let (rows, stride) = (dims.rows, list_room(dims));
        Ok(Form::Lists {
            lists: FeatureLists::new(backend, rows, stride)?,
            by_latent: LatentLists::new(backend, dims.d_sae, rows * stride)?,
            value_gradient: backend.zeros(rows * stride)?,
            norm_gradient: backend.zeros(rows * stride)?,
        })
    }
}

fn list_room(dims: Dims) -> usize {
    (dims.d_sae / ROOM_PART).max(1)
}

impl<B: Backend> Standard<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: StandardConfig, dims: Dims) -> Result<Self> {
        Ok(Standard { config, dims, form: Form::dense(backend, dims)?, row_loss: backend.zeros(dims.rows)? })
    }

    /// Encodes into lists if they are in use and every row fits.
    fn fits_in_lists(&mut self, batch: &Batch<'_, B>) -> Result<bool> {
        let Form::Lists { lists, .. } = &mut self.form else { return Ok(false) };
        Ok(batch.backend.encode_relu(EncodeRelu { encoder: batch.encoder(), lists })? == ListsFit::All)
    }

    fn step_on_lists(&mut self, batch: &mut Batch<'_, B>) -> Result<u64> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        let Form::Lists { lists, by_latent, value_gradient, norm_gradient } = &mut self.form else {
            unreachable!("called after fits_in_lists")
        };
        let wanted = Some(&mut *value_gradient);
        backend.decode_sparse(DecodeSparse { decoder: batch.decoder(), lists, value_gradient: wanted })?;
        backend.sparsity_lp(SparsityLp {
            lists,
            decoder_norm: batch.decoder_norm,
            coefficient: batch.coefficient as f32,
            p: self.config.lp_norm as f32,
            gradient_scale: 1.0 / rows as f32,
            rows,
            value_gradient,
            norm_gradient,
            loss: &mut self.row_loss,
        })?;
        backend.transpose_lists(TransposeLists { lists, rows, d_sae, by_latent })?;
        batch.gradient_from_lists(lists, by_latent, value_gradient, None, Some(norm_gradient), false)?;
        batch.update_firing(Features::Lists(by_latent))?;
        let mut active = [0];
        backend.read(&by_latent.offsets, d_sae, &mut active)?;
        Ok(active[0].into())
    }

    fn step_dense(&mut self, batch: &mut Batch<'_, B>) -> Result<u64> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        if matches!(self.form, Form::Lists { .. }) {
            self.form = Form::dense(backend, self.dims)?;
        }
        let Form::Dense { features, gradient, norm_gradient, counts } = &mut self.form else {
            unreachable!("made dense above")
        };
        backend.encode_relu_dense(EncodeReluDense { encoder: batch.encoder(), features, counts })?;
        backend.decode_dense(DecodeDense { decoder: batch.decoder(), features, feature_gradient: gradient })?;
        backend.sparsity_lp_dense(SparsityLpDense {
            features,
            decoder_norm: batch.decoder_norm,
            coefficient: batch.coefficient as f32,
            p: self.config.lp_norm as f32,
            gradient_scale: 1.0 / rows as f32,
            rows,
            d_sae,
            feature_gradient: gradient,
            norm_gradient,
            loss: &mut self.row_loss,
        })?;
        let norm = NormGradient { norm_gradient, decoder_norm: batch.decoder_norm, w_dec: batch.values.get("W_dec") };
        backend.gradient_dense(GradientDense {
            features,
            pre_gradient: gradient,
            gradient: batch.output_gradient,
            input: batch.input,
            norm: Some(norm),
            rows,
            d_in,
            d_sae,
            out: batch.gradients.weight_gradients(false),
        })?;
        batch.update_firing(Features::Dense(features))?;
        let counts = backend.download(counts)?;
        let active: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let largest = counts.iter().copied().max().unwrap_or(0) as usize;
        // Some room is left, so that the form does not change back and forth.
        if largest <= list_room(self.dims) * 3 / 4 && active <= (rows * d_sae / SPARSE_PART) as u64 {
            self.form = Form::lists(backend, self.dims)?;
        }
        Ok(active)
    }
}

impl<B: Backend> Architecture<B> for Standard<B> {
    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<Terms> {
        let active = if self.fits_in_lists(batch)? { self.step_on_lists(batch)? } else { self.step_dense(batch)? };
        let l1 = batch.backend.sum(&self.row_loss, batch.dims.rows)? / batch.dims.rows as f64;
        Ok(Terms { losses: vec![("l1_loss", l1)], active })
    }

    /// Dense or lists: they round differently, so a resumed run must go on in the same form.
    fn state(&self) -> Vec<f64> {
        vec![f64::from(u8::from(matches!(self.form, Form::Lists { .. })))]
    }

    fn restore(&mut self, backend: &B, state: &[f64]) -> Result<()> {
        if state == [1.0] {
            self.form = Form::lists(backend, self.dims)?;
        }
        Ok(())
    }
}
