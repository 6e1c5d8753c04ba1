//! A trained SAE at work: activations to features and back, as SAELens' `encode` and `decode`.
//!
//! A `hook_z` SAE needs no reshaping here: `[.., n_heads, d_head]` and `[.., n_heads * d_head]` are
//! the same numbers in the same order.

use super::config::{InferenceArchitecture, SaeConfig, TensorShapes, Transcoder};
use super::features::SparseFeatures;
use super::parameters::Named;
use super::pursuit::{Dictionary, Pursuit};
use super::temporal::{self, Prediction, TemporalConfig};
use super::weights::{HostTensor, Weights};
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
    /// Zeros `[d_sae]` of an encoder that has no bias.
    no_bias: Option<B::Buffer<f32>>,
}

impl<B: Backend> Sae<B> {
    /// Uploads weights. Error: they are not those of the config's architecture and sizes.
    pub fn new(backend: &B, config: &SaeConfig, weights: &Weights) -> Result<Self> {
        let expected = config.tensors();
        let shape = |(name, tensor): (&str, &HostTensor)| (name.to_string().into(), tensor.shape.clone());
        let found: TensorShapes = weights.iter().map(shape).collect();
        if found != expected {
            return Err(Error::Shape {
                operation: "sae",
                what: format!("weights are {found:?}, expected {expected:?}"),
            });
        }
        let values = Named::upload(backend, weights)?;
        let mut decoder_norm = backend.zeros(config.d_sae)?;
        let (rows, columns) = (config.d_sae, config.d_out());
        backend.row_norms(RowNorms { matrix: values.get("W_dec"), rows, columns, norms: &mut decoder_norm })?;
        let no_bias = match config.architecture.temporal() {
            Some(_) => Some(backend.zeros(config.d_sae)?),
            None => None,
        };
        Ok(Sae { backend: backend.clone(), config: config.clone(), values, decoder_norm, no_bias })
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
        self.values.download_as(&self.backend, self.config.tensors())
    }

    /// One of its weights, on the host, by SAELens' name and in its shape; none if it has no such.
    pub fn weight(&self, name: &str) -> Result<Option<HostTensor>> {
        let tensors = self.config.tensors().into_iter().filter(|tensor| tensor.0 == name).collect();
        Ok(self.values.download_as(&self.backend, tensors)?.remove(name))
    }

    /// What one unit of a feature adds to the reconstruction `[d_out]`, before a normalisation of
    /// activations is undone: its row of W_dec, of length 1 where decoder norms are part of the value.
    /// Error: there is no such feature.
    pub fn decoder_direction(&self, feature: u32) -> Result<Vec<f32>> {
        let (d_out, d_sae, at) = (self.config.d_out(), self.config.d_sae, feature as usize);
        if at >= d_sae {
            return Err(Error::config("feature", format!("{feature}, this SAE has features 0 to {}", d_sae - 1)));
        }
        let mut row = vec![0.0; d_out];
        self.backend.read(self.values.get("W_dec"), at * d_out, &mut row)?;
        if self.config.architecture.rescales_by_decoder_norm() {
            let mut norm = [0.0];
            self.backend.read(&self.decoder_norm, at, &mut norm)?;
            row.iter_mut().for_each(|x| *x /= norm[0]);
        }
        Ok(row)
    }

    /// How many rows are best given to a pass at once: many, since each pass reads all weights; not so many that
    /// numbers which may be as many as latents in each row take more than 2 x 128 MB.
    pub fn rows_at_once(&self) -> usize {
        const MOST: usize = 4096;
        match self.config.architecture {
            InferenceArchitecture::TopK { .. } | InferenceArchitecture::AbsTopK { .. } => MOST,
            _ => ((1 << 25) / self.config.d_sae.max(1)).clamp(MOST / 16, MOST),
        }
    }

    /// Work buffers for batches of up to `max_rows` rows.
    pub fn pass(&self, max_rows: usize) -> Result<Pass<B>> {
        let (backend, d_in, d_out) = (&self.backend, self.config.d_in, self.config.d_out());
        let stride = match self.config.architecture {
            InferenceArchitecture::TopK { k, .. } | InferenceArchitecture::AbsTopK { k, .. } => k,
            InferenceArchitecture::Temporal(TemporalConfig { k: Some(k), .. }) => k,
            _ => FIRST_STRIDE.min(self.config.d_sae),
        };
        let pursuit = match self.config.architecture {
            InferenceArchitecture::MatchingPursuit(config) => {
                Some(Pursuit::new(backend, config, max_rows, [d_in, self.config.d_sae])?)
            }
            _ => None,
        };
        let prediction = self.config.architecture.temporal();
        let prediction = prediction.map(|config| Prediction::new(backend, config, max_rows, [d_in, self.config.d_sae]));
        let prediction = prediction.transpose()?;
        Ok(Pass {
            rows: 0,
            max_rows,
            target: backend.zeros(max_rows * d_in)?,
            input: backend.zeros(max_rows * d_in)?,
            row_scale: backend.zeros(max_rows)?,
            row_shift: backend.zeros(max_rows)?,
            lists: FeatureLists::new(backend, max_rows, stride)?,
            longest: backend.zeros(1)?,
            pursuit,
            prediction,
            other_target: self.config.transcoder.map(|_| backend.zeros(max_rows * d_out)).transpose()?,
            gradient: backend.zeros(max_rows * d_out)?,
            squared_error: backend.zeros(max_rows)?,
            reconstruction: backend.zeros(max_rows * d_out)?,
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

    /// Whether what is decoded is brought back to the size that a row had before its normalisation.
    pub fn denormalizes(&self) -> bool {
        let normalizes = self.normalization() != RowNormalization::None || self.input_factor().is_some();
        normalizes && self.config.transcoder.is_none()
    }

    /// What activations are multiplied by on the way in and divided by on the way out, if they are.
    fn input_factor(&self) -> Option<f32> {
        Some(self.config.architecture.temporal()?.activation_normalization_factor? as f32)
    }

    /// The rows that inputs are multiplied with `[d_sae, d_in]`.
    fn encoder_rows(&self) -> &B::Buffer<f32> {
        self.values.get(if self.config.architecture.is_tied() { "W_dec" } else { "W_enc" })
    }

    /// An SAE whose decoder is the encoder, too, adds b_dec where it was subtracted.
    fn adds_b_dec(&self) -> bool {
        self.config.apply_b_dec_to_input || !self.config.architecture.is_tied()
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
    pursuit: Option<Pursuit<B>>,
    /// A temporal SAE's.
    prediction: Option<Prediction<B>>,
    /// A transcoder's target, which is not known here; the decoder compares with zeros.
    other_target: Option<B::Buffer<f32>>,
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

    /// The latest reconstruction `[rows, d_out]`.
    pub fn reconstruction(&self) -> &B::Buffer<f32> {
        &self.reconstruction
    }

    /// The latest reconstruction `[rows, d_out]`, to be edited.
    pub fn reconstruction_mut(&mut self) -> &mut B::Buffer<f32> {
        &mut self.reconstruction
    }

    /// Says that so many rows, one after another, are a sequence. A temporal SAE must know it, and is given
    /// whole sequences; others do not look at it.
    pub fn set_context(&mut self, context: usize) {
        if let Some(prediction) = &mut self.prediction {
            prediction.set_context(context);
        }
    }

    /// Encodes and decodes `x [rows, d_in]`, and adds what passes the features by.
    pub fn forward(&mut self, sae: &Sae<B>, x: &B::Buffer<f32>, rows: usize) -> Result<()> {
        self.encode(sae, x, rows)?;
        self.decode(sae)?;
        self.add_bypass(sae, x)
    }

    /// The codes that a temporal SAE predicted for the latest batch from the tokens before, SAELens' `z_pred`
    /// `[rows, d_sae]`; none of other SAEs.
    pub fn predicted_codes(&self, sae: &Sae<B>) -> Result<Option<Vec<f32>>> {
        let Some(prediction) = &self.prediction else { return Ok(None) };
        let mut codes = vec![0.0; self.rows * sae.config.d_sae];
        sae.backend.read(prediction.codes(), 0, &mut codes)?;
        Ok(Some(codes))
    }

    /// Encodes `x [rows, d_in]`.
    pub fn encode(&mut self, sae: &Sae<B>, x: &B::Buffer<f32>, rows: usize) -> Result<()> {
        self.start(rows)?;
        sae.backend.prepare_input(PrepareInput {
            x,
            scale: sae.input_factor().unwrap_or(1.0),
            normalization: sae.normalization(),
            b_dec: sae.config.apply_b_dec_to_input.then(|| sae.values.get("b_dec")),
            rows,
            d_in: sae.config.d_in,
            target: &mut self.target,
            input: &mut self.input,
            row_scale: &mut self.row_scale,
            row_shift: &mut self.row_shift,
        })?;
        if let Some(factor) = sae.input_factor() {
            sae.backend.fill(&mut self.row_scale, 1.0 / factor)?;
            sae.backend.fill(&mut self.row_shift, 0.0)?;
        }
        if let (Some(prediction), Some(config)) = (&mut self.prediction, sae.config.architecture.temporal()) {
            let (values, w_enc, d_in, d_sae) = (&sae.values, sae.encoder_rows(), sae.config.d_in, sae.config.d_sae);
            let of = temporal::Weights { backend: &sae.backend, config, values, w_enc, d_in, d_sae };
            prediction.take(&of, &mut self.input, rows)?;
        }
        match sae.config.architecture {
            InferenceArchitecture::Temporal(TemporalConfig { k: Some(k), .. }) => self.encode_topk(sae, Rank::Value, k),
            InferenceArchitecture::Standard | InferenceArchitecture::Temporal(_) => self.encode_relu(sae),
            InferenceArchitecture::Gated => self.encode_gated(sae),
            InferenceArchitecture::JumpRelu => self.encode_jumprelu(sae),
            InferenceArchitecture::TopK { k, .. } => self.encode_topk(sae, Rank::Value, k),
            InferenceArchitecture::AbsTopK { k, .. } => self.encode_topk(sae, Rank::Magnitude, k),
            InferenceArchitecture::MatchingPursuit(_) => self.pursue(sae),
        }
    }

    /// Decodes the latest features. A transcoder's output is not brought back to the size of its
    /// input, as in SAELens.
    pub fn decode(&mut self, sae: &Sae<B>) -> Result<()> {
        self.decode_with(sae, sae.denormalizes())
    }

    /// Decodes the latest features and leaves the reconstruction normalised as the SAE's input was.
    pub fn decode_normalized(&mut self, sae: &Sae<B>) -> Result<()> {
        self.decode_with(sae, false)
    }

    /// Gives a normalised reconstruction its size back: `x * row_scale + row_shift`.
    pub fn denormalize(&mut self, sae: &Sae<B>) -> Result<()> {
        let Some((scale, shift)) = self.row_normalization(sae)? else { return Ok(()) };
        let d_out = sae.config.d_out();
        let mut rows = vec![0.0; self.rows * d_out];
        sae.backend.read(&self.reconstruction, 0, &mut rows)?;
        for (row, (scale, shift)) in rows.chunks_exact_mut(d_out).zip(scale.iter().zip(&shift)) {
            row.iter_mut().for_each(|x| *x = *x * scale + shift);
        }
        sae.backend.write(&mut self.reconstruction, 0, &rows)
    }

    fn decode_with(&mut self, sae: &Sae<B>, denormalize: bool) -> Result<()> {
        let denormalize = denormalize.then_some(Denormalize { row_scale: &self.row_scale, row_shift: &self.row_shift });
        sae.backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                w_dec: Matrix::F32(sae.values.get("W_dec")),
                b_dec: sae.adds_b_dec().then(|| sae.values.get("b_dec")),
                target: self.other_target.as_ref().unwrap_or(&self.target),
                denormalize,
                gradient_scale: 0.0,
                rows: self.rows,
                d_in: sae.config.d_out(),
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
    /// `hook_sae_acts_pre`, on the host: of a gated SAE the magnitudes `m`. Error: matching pursuit has no such.
    pub fn pre_activations(&self, sae: &Sae<B>) -> Result<Vec<f32>> {
        if !sae.config.architecture.has_pre_activations() {
            let what = "matching pursuit has no values before an activation function".into();
            return Err(Error::Shape { operation: "pre_activations", what });
        }
        let (d_in, d_sae) = (sae.config.d_in, sae.config.d_sae);
        let gated = sae.config.architecture == InferenceArchitecture::Gated;
        let mut pre = sae.backend.zeros(self.rows * d_sae)?;
        sae.backend.linear(Linear {
            x: Matrix::F32(&self.input),
            w: Matrix::F32(sae.encoder_rows()),
            w_is_transposed: true,
            bias: (!gated).then(|| bias(sae)),
            function: ActivationFunction::Identity,
            residual: None,
            rows: self.rows,
            d_input: d_in,
            d_output: d_sae,
            out: &mut pre,
        })?;
        let mut pre = sae.backend.download(&pre)?;
        if gated {
            let [r_mag, b_mag] = ["r_mag", "b_mag"].map(|name| sae.backend.download(sae.values.get(name)));
            let (r_mag, b_mag) = (r_mag?, b_mag?);
            for row in pre.chunks_exact_mut(d_sae) {
                row.iter_mut().zip(r_mag.iter().zip(&b_mag)).for_each(|(u, (r, b))| *u = r.exp() * *u + b);
            }
        }
        Ok(pre)
    }

    /// The features that the activation function makes of pre-activations `[rows, d_sae]`, by the
    /// definition: for values that somebody has edited. The gates of a gated SAE are those of the latest
    /// batch.
    pub fn activate(&self, sae: &Sae<B>, pre: &[f32]) -> Result<SparseFeatures> {
        let d_sae = sae.config.d_sae;
        let scale = sae.feature_scale()?;
        let threshold = match sae.config.architecture {
            InferenceArchitecture::JumpRelu => Some(sae.backend.download(sae.values.get("threshold"))?),
            _ => None,
        };
        let open = match sae.config.architecture {
            InferenceArchitecture::Gated => Some(self.listed(sae)?),
            _ => None,
        };
        let mut features = SparseFeatures::default();
        for (number, row) in pre.chunks_exact(d_sae).enumerate() {
            let scaled = |latent: usize| row[latent] * scale.as_ref().map_or(1.0, |norm| norm[latent]);
            let mut latents: Vec<usize> = match &open {
                Some(open) => open[number].iter().map(|&latent| latent as usize).collect(),
                None => (0..d_sae).collect(),
            };
            match sae.config.architecture {
                InferenceArchitecture::TopK { k, .. }
                | InferenceArchitecture::Temporal(TemporalConfig { k: Some(k), .. }) => {
                    keep_largest(&mut latents, k, scaled)
                }
                InferenceArchitecture::AbsTopK { k, .. } => {
                    keep_largest(&mut latents, k, |latent| scaled(latent).abs())
                }
                _ => {}
            }
            let keeps_sign = matches!(sae.config.architecture, InferenceArchitecture::AbsTopK { .. });
            let active = latents.into_iter().filter(|&latent| {
                let passes = threshold.as_ref().is_none_or(|threshold| row[latent] > threshold[latent]);
                passes && (scaled(latent) > 0.0 || keeps_sign && scaled(latent) != 0.0)
            });
            let (indices, values): (Vec<u32>, Vec<f32>) = active.map(|latent| (latent as u32, scaled(latent))).unzip();
            features.push_row(&indices, &values);
        }
        Ok(features)
    }

    /// The latents in each row's list, those with the value 0 too.
    fn listed(&self, sae: &Sae<B>) -> Result<Vec<Vec<u32>>> {
        let (rows, stride) = (self.rows, self.lists.stride);
        let (mut counts, mut indices) = (vec![0; rows], vec![0; rows * stride]);
        sae.backend.read(&self.lists.counts, 0, &mut counts)?;
        sae.backend.read(&self.lists.indices, 0, &mut indices)?;
        let of_row = |(row, &count): (usize, &u32)| indices[row * stride..row * stride + count as usize].to_vec();
        Ok(counts.iter().enumerate().map(of_row).collect())
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
            let scale = |latent: u32| scale.as_ref().map_or(1.0, |norm| norm[latent as usize]);
            let listed = indices[entries.clone()].iter().zip(&values[entries]);
            // A gate that is open may let nothing through.
            let active = listed.filter(|(_, &h)| h != 0.0).map(|(&latent, &h)| (latent, h * scale(latent)));
            let (indices, values): (Vec<u32>, Vec<f32>) = active.unzip();
            features.push_row(&indices, &values);
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
        let (scale, mut unscaled) = (sae.feature_scale()?, SparseFeatures::default());
        for row in first..first + rows {
            let (latents, values) = features.row(row);
            if let Some(latent) = latents.iter().find(|&&latent| latent as usize >= sae.config.d_sae) {
                let what = format!("feature {latent} is not below d_sae = {}", sae.config.d_sae);
                return Err(Error::Shape { operation: "decode", what });
            }
            let h = |(&latent, &value)| scale.as_ref().map_or(value, |norm: &Vec<f32>| value / norm[latent as usize]);
            unscaled.push_row(latents, &latents.iter().zip(values).map(h).collect::<Vec<f32>>());
        }
        unscaled.write(&sae.backend, 0..rows, &mut self.lists)?;
        if let Some((scale, shift)) = normalization {
            sae.backend.write(&mut self.row_scale, 0, scale)?;
            sae.backend.write(&mut self.row_shift, 0, shift)?;
        }
        Ok(())
    }

    /// The `(scale, shift)` that brings each row of the latest batch back to its own size; none if
    /// the SAE does not normalise.
    pub fn row_normalization(&self, sae: &Sae<B>) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
        if !sae.denormalizes() {
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

    fn encode_jumprelu(&mut self, sae: &Sae<B>) -> Result<()> {
        loop {
            sae.backend.encode_jumprelu(EncodeJumpRelu {
                encoder: encoder(sae, &self.input, self.rows),
                threshold: sae.values.get("threshold"),
                bandwidth: None,
                lists: &mut self.lists,
                longest: &mut self.longest,
                pre_activations: None,
            })?;
            let longest = sae.backend.read_element(&self.longest, 0)? as usize;
            if longest <= self.lists.stride {
                return Ok(());
            }
            self.make_room(sae, longest)?;
        }
    }

    /// The gate is a ReLU encoder of its own; what passes it gets its value afterwards.
    fn encode_gated(&mut self, sae: &Sae<B>) -> Result<()> {
        self.encode_relu(sae)?;
        let mut features = FeatureLists::new(&sae.backend, self.max_rows, self.lists.stride)?;
        sae.backend.gate(Gate {
            gates: &self.lists,
            b_gate: sae.values.get("b_gate"),
            b_mag: sae.values.get("b_mag"),
            r_mag: sae.values.get("r_mag"),
            rectifies: true,
            rows: self.rows,
            features: &mut features,
        })?;
        self.lists = features;
        Ok(())
    }

    fn encode_topk(&mut self, sae: &Sae<B>, rank: Rank, k: usize) -> Result<()> {
        let decoder_norm = sae.config.architecture.rescales_by_decoder_norm().then_some(&sae.decoder_norm);
        let encoder = encoder(sae, &self.input, self.rows);
        sae.backend.encode_topk(EncodeTopk { encoder, rank, decoder_norm, k, lists: &mut self.lists })
    }

    fn pursue(&mut self, sae: &Sae<B>) -> Result<()> {
        let (d_in, d_sae) = (sae.config.d_in, sae.config.d_sae);
        let of = Dictionary { backend: &sae.backend, w_dec: sae.values.get("W_dec"), d_in, d_sae };
        let pursuit = self.pursuit.as_mut().expect("the pass is one of matching pursuit");
        let features = pursuit.run(&of, &self.input, self.rows)?;
        self.set_features(sae, &features, 0, self.rows, None)
    }

    /// Adds to the reconstruction what passes the features by: `x W_skipᵀ` of a transcoder that skips, with
    /// `x` as it came, before any normalisation; what a temporal SAE predicted from the tokens before.
    pub fn add_bypass(&mut self, sae: &Sae<B>, x: &B::Buffer<f32>) -> Result<()> {
        if let Some(prediction) = &mut self.prediction {
            let row_scale = sae.denormalizes().then_some(&self.row_scale);
            let size = [self.rows, sae.config.d_in];
            return prediction.add_to(&sae.backend, &mut self.reconstruction, size, row_scale);
        }
        let Some(Transcoder { d_out, skip: true }) = sae.config.transcoder else { return Ok(()) };
        sae.backend.linear(Linear {
            x: Matrix::F32(x),
            w: Matrix::F32(sae.values.get("W_skip")),
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: Some(&self.reconstruction),
            rows: self.rows,
            d_input: sae.config.d_in,
            d_output: d_out,
            out: &mut self.gradient,
        })?;
        std::mem::swap(&mut self.reconstruction, &mut self.gradient);
        Ok(())
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

/// Keeps the k latents of the largest value, ties to the smaller latent, ascending.
fn keep_largest(latents: &mut Vec<usize>, k: usize, value: impl Fn(usize) -> f32) {
    latents.sort_by(|&a, &b| value(b).total_cmp(&value(a)));
    latents.truncate(k);
    latents.sort_unstable();
}

fn encoder<'a, B: Backend>(sae: &'a Sae<B>, input: &'a B::Buffer<f32>, rows: usize) -> Encoder<'a, B> {
    let (d_in, d_sae) = (sae.config.d_in, sae.config.d_sae);
    let (input, w_enc) = (Matrix::F32(input), Matrix::F32(sae.encoder_rows()));
    Encoder { input, w_enc, b_enc: bias(sae), rows, d_in, d_sae }
}

/// What is added to the product of inputs with the encoder's rows `[d_sae]`.
fn bias<B: Backend>(sae: &Sae<B>) -> &B::Buffer<f32> {
    let name = if sae.config.architecture == InferenceArchitecture::Gated { "b_gate" } else { "b_enc" };
    sae.no_bias.as_ref().unwrap_or_else(|| sae.values.get(name))
}
