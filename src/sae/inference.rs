//! A trained SAE at work: activations to features and back, as SAELens' `encode` and `decode`.
//!
//! A `hook_z` SAE needs no reshaping here: `[.., n_heads, d_head]` and `[.., n_heads * d_head]` are
//! the same numbers in the same order.

use super::config::{InferenceArchitecture, SaeConfig};
use super::features::SparseFeatures;
use super::parameters::Named;
use super::weights::Weights;
use crate::backend::*;
use crate::config::NormalizeActivations;
use crate::error::{Error, Result};

/// Room in every row's list at first, where the architecture does not bound it.
const FIRST_STRIDE: usize = 128;

/// An SAE on a device.
pub struct Sae<B: Backend> {
    backend: B,
    config: SaeConfig,
    values: Named<B>,
    decoder_norm: B::Buffer<f32>,
}

impl<B: Backend> Sae<B> {
    /// Uploads weights. Error: they are not those of the config's architecture and sizes.
    pub fn new(backend: &B, config: &SaeConfig, weights: &Weights) -> Result<Self> {
        let expected = config.architecture.tensors(config.d_in, config.d_sae);
        let found: Vec<_> = weights.iter().map(|(name, tensor)| (name, tensor.shape.clone())).collect();
        if found != expected {
            return Err(Error::Shape {
                operation: "sae",
                what: format!("weights are {found:?}, expected {expected:?}"),
            });
        }
        let values = Named::upload(backend, weights)?;
        let mut decoder_norm = backend.zeros(config.d_sae)?;
        let (rows, columns) = (config.d_sae, config.d_in);
        backend.row_norms(RowNorms { matrix: values.get("W_dec"), rows, columns, norms: &mut decoder_norm })?;
        Ok(Sae { backend: backend.clone(), config: config.clone(), values, decoder_norm })
    }

    /// What it is.
    pub fn config(&self) -> &SaeConfig {
        &self.config
    }

    /// The device it is on.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Its weights, on the host.
    pub fn weights(&self) -> Result<Weights> {
        self.values.download(&self.backend, self.config.d_in)
    }

    /// What one unit of a feature adds to the reconstruction `[d_in]`, before a normalisation of
    /// activations is undone: its row of W_dec, of length 1 where decoder norms are part of the value.
    /// Error: there is no such feature.
    pub fn decoder_direction(&self, feature: u32) -> Result<Vec<f32>> {
        let (d_in, d_sae, at) = (self.config.d_in, self.config.d_sae, feature as usize);
        if at >= d_sae {
            return Err(Error::config("feature", format!("{feature}, this SAE has features 0 to {}", d_sae - 1)));
        }
        let mut row = vec![0.0; d_in];
        self.backend.read(self.values.get("W_dec"), at * d_in, &mut row)?;
        if self.config.architecture.rescales_by_decoder_norm() {
            let mut norm = [0.0];
            self.backend.read(&self.decoder_norm, at, &mut norm)?;
            row.iter_mut().for_each(|x| *x /= norm[0]);
        }
        Ok(row)
    }

    /// Work buffers for batches of up to `max_rows` rows.
    pub fn pass(&self, max_rows: usize) -> Result<Pass<B>> {
        let (backend, d_in) = (&self.backend, self.config.d_in);
        let stride = match self.config.architecture {
            InferenceArchitecture::TopK { k, .. } => k,
            InferenceArchitecture::Standard => FIRST_STRIDE.min(self.config.d_sae),
        };
        Ok(Pass {
            rows: 0,
            max_rows,
            target: backend.zeros(max_rows * d_in)?,
            input: backend.zeros(max_rows * d_in)?,
            row_scale: backend.zeros(max_rows)?,
            row_shift: backend.zeros(max_rows)?,
            lists: FeatureLists::new(backend, max_rows, stride)?,
            longest: backend.zeros(1)?,
            gradient: backend.zeros(max_rows * d_in)?,
            squared_error: backend.zeros(max_rows)?,
            reconstruction: backend.zeros(max_rows * d_in)?,
        })
    }

    /// What is taken from each row on the way in and given back on the way out.
    pub fn normalization(&self) -> RowNormalization {
        match self.config.normalize_activations {
            NormalizeActivations::LayerNorm => RowNormalization::LayerNorm,
            NormalizeActivations::ConstantNormRescale => RowNormalization::ConstantNorm,
            NormalizeActivations::None | NormalizeActivations::ExpectedAverageOnlyIn => RowNormalization::None,
        }
    }

    /// The decoder norms, if they are part of a feature's value: lists hold `h`, SAELens' features
    /// are `h * norm`.
    fn feature_scale(&self) -> Result<Option<Vec<f32>>> {
        let rescales = self.config.architecture.rescales_by_decoder_norm();
        rescales.then(|| self.backend.download(&self.decoder_norm)).transpose()
    }
}

/// Buffers for the way of one batch through an SAE, and what the latest batch left in them.
pub struct Pass<B: Backend> {
    rows: usize,
    max_rows: usize,
    target: B::Buffer<f32>,
    input: B::Buffer<f32>,
    row_scale: B::Buffer<f32>,
    row_shift: B::Buffer<f32>,
    lists: FeatureLists<B>,
    longest: B::Buffer<u32>,
    gradient: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
    reconstruction: B::Buffer<f32>,
}

impl<B: Backend> Pass<B> {
    /// Rows of the latest batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The latest batch's active latents; values are `h`, what multiplies the latent's row of W_dec.
    pub fn lists(&self) -> &FeatureLists<B> {
        &self.lists
    }

    /// The latest reconstruction `[rows, d_in]`.
    pub fn reconstruction(&self) -> &B::Buffer<f32> {
        &self.reconstruction
    }

    /// The latest reconstruction `[rows, d_in]`, to be edited.
    pub fn reconstruction_mut(&mut self) -> &mut B::Buffer<f32> {
        &mut self.reconstruction
    }

    /// Encodes and decodes `x [rows, d_in]`.
    pub fn forward(&mut self, sae: &Sae<B>, x: &B::Buffer<f32>, rows: usize) -> Result<()> {
        self.encode(sae, x, rows)?;
        self.decode(sae)
    }

    /// Encodes `x [rows, d_in]`.
    pub fn encode(&mut self, sae: &Sae<B>, x: &B::Buffer<f32>, rows: usize) -> Result<()> {
        self.start(rows)?;
        sae.backend.prepare_input(PrepareInput {
            x,
            scale: 1.0,
            normalization: sae.normalization(),
            b_dec: sae.config.apply_b_dec_to_input.then(|| sae.values.get("b_dec")),
            rows,
            d_in: sae.config.d_in,
            target: &mut self.target,
            input: &mut self.input,
            row_scale: &mut self.row_scale,
            row_shift: &mut self.row_shift,
        })?;
        match sae.config.architecture {
            InferenceArchitecture::Standard => self.encode_relu(sae),
            InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm } => {
                let decoder_norm = rescale_acts_by_decoder_norm.then_some(&sae.decoder_norm);
                let encoder = encoder(sae, &self.input, rows);
                sae.backend.encode_topk(EncodeTopk {
                    encoder,
                    rank: Rank::Value,
                    decoder_norm,
                    k,
                    lists: &mut self.lists,
                })
            }
        }
    }

    /// Decodes the latest features.
    pub fn decode(&mut self, sae: &Sae<B>) -> Result<()> {
        self.decode_with(sae, sae.normalization() != RowNormalization::None)
    }

    /// Decodes the latest features and leaves the reconstruction normalised as the SAE's input was.
    pub fn decode_normalized(&mut self, sae: &Sae<B>) -> Result<()> {
        self.decode_with(sae, false)
    }

    /// Gives a normalised reconstruction its size back: `x * row_scale + row_shift`.
    pub fn denormalize(&mut self, sae: &Sae<B>) -> Result<()> {
        let Some((scale, shift)) = self.row_normalization(sae)? else { return Ok(()) };
        let d_in = sae.config.d_in;
        let mut rows = vec![0.0; self.rows * d_in];
        sae.backend.read(&self.reconstruction, 0, &mut rows)?;
        for (row, (scale, shift)) in rows.chunks_exact_mut(d_in).zip(scale.iter().zip(&shift)) {
            row.iter_mut().for_each(|x| *x = *x * scale + shift);
        }
        sae.backend.write(&mut self.reconstruction, 0, &rows)
    }

    fn decode_with(&mut self, sae: &Sae<B>, denormalize: bool) -> Result<()> {
        let denormalize = denormalize.then_some(Denormalize { row_scale: &self.row_scale, row_shift: &self.row_shift });
        sae.backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec: sae.values.get("W_dec"),
                b_dec: Some(sae.values.get("b_dec")),
                target: &self.target,
                denormalize,
                gradient_scale: 0.0,
                rows: self.rows,
                d_in: sae.config.d_in,
                d_sae: sae.config.d_sae,
                reconstruction: Some(&mut self.reconstruction),
                gradient: &mut self.gradient,
                squared_error: &mut self.squared_error,
            },
            lists: &self.lists,
            dead_weight: None,
            value_gradient: None,
        })
    }

    /// What the activation function of the latest batch was given `[rows, d_sae]`, SAELens'
    /// `hook_sae_acts_pre`, on the host.
    pub fn pre_activations(&self, sae: &Sae<B>) -> Result<Vec<f32>> {
        let (d_in, d_sae) = (sae.config.d_in, sae.config.d_sae);
        let mut pre = sae.backend.zeros(self.rows * d_sae)?;
        sae.backend.linear(Linear {
            x: &self.input,
            w: sae.values.get("W_enc"),
            w_is_transposed: true,
            bias: Some(sae.values.get("b_enc")),
            function: ActivationFunction::Identity,
            residual: None,
            rows: self.rows,
            d_input: d_in,
            d_output: d_sae,
            out: &mut pre,
        })?;
        sae.backend.download(&pre)
    }

    /// The features that the activation function makes of pre-activations `[rows, d_sae]`, by the
    /// definition: for values that somebody has edited.
    pub fn activate(&self, sae: &Sae<B>, pre: &[f32]) -> Result<SparseFeatures> {
        let d_sae = sae.config.d_sae;
        let scale = sae.feature_scale()?;
        let mut features = SparseFeatures::default();
        for row in pre.chunks_exact(d_sae) {
            let scaled = |latent: usize| row[latent] * scale.as_ref().map_or(1.0, |norm| norm[latent]);
            let mut latents: Vec<usize> = (0..d_sae).collect();
            if let InferenceArchitecture::TopK { k, .. } = sae.config.architecture {
                latents.sort_by(|&a, &b| scaled(b).total_cmp(&scaled(a)));
                latents.truncate(k);
                latents.sort_unstable();
            }
            let active = latents.into_iter().filter(|&latent| scaled(latent) > 0.0);
            let (indices, values): (Vec<u32>, Vec<f32>) = active.map(|latent| (latent as u32, scaled(latent))).unzip();
            features.push_row(&indices, &values);
        }
        Ok(features)
    }

    /// The latest features as SAELens has them, on the host.
    pub fn features(&self, sae: &Sae<B>) -> Result<SparseFeatures> {
        let (rows, stride, backend) = (self.rows, self.lists.stride, &sae.backend);
        let mut counts = vec![0; rows];
        let (mut indices, mut values) = (vec![0; rows * stride], vec![0.0; rows * stride]);
        backend.read(&self.lists.counts, 0, &mut counts)?;
        backend.read(&self.lists.indices, 0, &mut indices)?;
        backend.read(&self.lists.values, 0, &mut values)?;
        let scale = sae.feature_scale()?;
        let mut features = SparseFeatures::default();
        for (row, &count) in counts.iter().enumerate() {
            let entries = row * stride..row * stride + count as usize;
            let indices = &indices[entries.clone()];
            let scale = |latent: u32| scale.as_ref().map_or(1.0, |norm| norm[latent as usize]);
            let values = indices.iter().zip(&values[entries]).map(|(&latent, h)| h * scale(latent)).collect::<Vec<_>>();
            features.push_row(indices, &values);
        }
        Ok(features)
    }

    /// Takes features from outside, to be decoded: rows `first..first + rows` of `features`, with
    /// the `(scale, shift)` of each of these rows where the SAE normalises activations (what
    /// [`Pass::row_normalization`] gave). Errors: a latent is not below d_sae; too many rows.
    pub fn set_features(
        &mut self,
        sae: &Sae<B>,
        features: &SparseFeatures,
        first: usize,
        rows: usize,
        normalization: Option<(&[f32], &[f32])>,
    ) -> Result<()> {
        self.start(rows)?;
        let longest = (first..first + rows).map(|row| features.row(row).0.len()).max().unwrap_or(0);
        self.make_room(sae, longest)?;
        let (stride, scale) = (self.lists.stride, sae.feature_scale()?);
        let mut counts = vec![0; rows];
        let (mut indices, mut values) = (vec![0; rows * stride], vec![0.0; rows * stride]);
        for (row, count) in counts.iter_mut().enumerate() {
            let (latents, features) = features.row(first + row);
            *count = latents.len() as u32;
            for (slot, (&latent, &value)) in latents.iter().zip(features).enumerate() {
                if latent as usize >= sae.config.d_sae {
                    let what = format!("feature {latent} is not below d_sae = {}", sae.config.d_sae);
                    return Err(Error::Shape { operation: "decode", what });
                }
                indices[row * stride + slot] = latent;
                values[row * stride + slot] = scale.as_ref().map_or(value, |norm| value / norm[latent as usize]);
            }
        }
        sae.backend.write(&mut self.lists.counts, 0, &counts)?;
        sae.backend.write(&mut self.lists.indices, 0, &indices)?;
        sae.backend.write(&mut self.lists.values, 0, &values)?;
        if let Some((scale, shift)) = normalization {
            sae.backend.write(&mut self.row_scale, 0, scale)?;
            sae.backend.write(&mut self.row_shift, 0, shift)?;
        }
        Ok(())
    }

    /// The `(scale, shift)` that brings each row of the latest batch back to its own size; none if
    /// the SAE does not normalise.
    pub fn row_normalization(&self, sae: &Sae<B>) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        if sae.normalization() == RowNormalization::None {
            return Ok(None);
        }
        let (mut scale, mut shift) = (vec![0.0; self.rows], vec![0.0; self.rows]);
        sae.backend.read(&self.row_scale, 0, &mut scale)?;
        sae.backend.read(&self.row_shift, 0, &mut shift)?;
        Ok(Some((scale, shift)))
    }

    fn start(&mut self, rows: usize) -> Result<()> {
        if rows > self.max_rows {
            let what = format!("{rows} rows, the buffers were made for {}", self.max_rows);
            return Err(Error::Shape { operation: "sae", what });
        }
        self.rows = rows;
        Ok(())
    }

    /// How many latents are positive is only known after encoding: lists that were too short are
    /// made longer, and the batch is encoded again.
    fn encode_relu(&mut self, sae: &Sae<B>) -> Result<()> {
        loop {
            let (encoder, lists) = (encoder(sae, &self.input, self.rows), &mut self.lists);
            sae.backend.encode_relu(EncodeRelu { encoder, lists, longest: &mut self.longest })?;
            let longest = sae.backend.read_element(&self.longest, 0)? as usize;
            if longest <= self.lists.stride {
                return Ok(());
            }
            self.make_room(sae, longest)?;
        }
    }

    /// Lists with room for `longest` entries in every row, and some more, so that the next batch
    /// is likely to fit too.
    fn make_room(&mut self, sae: &Sae<B>, longest: usize) -> Result<()> {
        if longest > self.lists.stride {
            let stride = (longest + longest / 4).min(sae.config.d_sae).max(longest);
            self.lists = FeatureLists::new(&sae.backend, self.max_rows, stride)?;
        }
        Ok(())
    }
}

fn encoder<'a, B: Backend>(sae: &'a Sae<B>, input: &'a B::Buffer<f32>, rows: usize) -> Encoder<'a, B> {
    let (d_in, d_sae) = (sae.config.d_in, sae.config.d_sae);
    Encoder { input, w_enc: sae.values.get("W_enc"), b_enc: sae.values.get("b_enc"), rows, d_in, d_sae }
}
