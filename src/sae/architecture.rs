//! What differs between architectures in a training step. One architecture is one file beside this
//! one with a type that implements [`Architecture`]; [`build`] is the only list of them.

use super::autocast::{summands, Rounded};
use super::batchtopk::{BatchTopK, BatchTopKConfig};
use super::gated::Gated;
use super::jumprelu::{JumpRelu, JumpReluConfig};
use super::matching_pursuit::MatchingPursuit;
use super::matryoshka::{Matryoshka, MatryoshkaConfig};
use super::parameters::Named;
use super::pursuit::PursuitConfig;
use super::report::{LossTerm, Measurements, Metric};
use super::standard::{Standard, StandardConfig};
use super::topk::{TopK, TopKConfig};
use crate::backend::*;
use crate::error::Result;

/// The settings that only one architecture has.
#[derive(Clone, Debug, PartialEq)]
pub enum ArchitectureConfig {
    /// ReLU with an Lp sparsity term.
    Standard(StandardConfig),
    /// ReLU behind a gate.
    Gated,
    /// The identity above a learned threshold.
    JumpRelu(JumpReluConfig),
    /// The k largest pre-activations of a row, by value or by magnitude.
    TopK(TopKConfig),
    /// The largest pre-activations of a batch.
    BatchTopK(BatchTopKConfig),
    /// The same, of which prefixes must reconstruct, too.
    Matryoshka(MatryoshkaConfig),
    /// One latent after another, the decoder being the encoder.
    MatchingPursuit(PursuitConfig),
}

/// Makes the architecture's part of the training step.
pub fn build<B: Backend>(backend: &B, config: &ArchitectureConfig, dims: Dims) -> Result<Box<dyn Architecture<B>>> {
    Ok(match config {
        ArchitectureConfig::Standard(config) => Box::new(Standard::new(backend, config.clone(), dims)?),
        ArchitectureConfig::Gated => Box::new(Gated::new(backend, dims)?),
        ArchitectureConfig::JumpRelu(config) => Box::new(JumpRelu::new(backend, config.clone(), dims)?),
        ArchitectureConfig::TopK(config) => Box::new(TopK::new(backend, config.clone(), dims)?),
        ArchitectureConfig::BatchTopK(config) => Box::new(BatchTopK::new(backend, config.clone(), dims)?),
        ArchitectureConfig::Matryoshka(config) => Box::new(Matryoshka::new(backend, config.clone(), dims)?),
        ArchitectureConfig::MatchingPursuit(config) => Box::new(MatchingPursuit::new(backend, *config, dims)?),
    })
}

/// Sizes of a training step.
#[derive(Clone, Copy, Debug)]
pub struct Dims {
    /// Rows in a batch (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Latents (`F`).
    pub d_sae: usize,
}

/// A batch on its way through the step: what the architecture reads and writes.
pub struct Batch<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// Sizes.
    pub dims: Dims,
    /// The parameters' values.
    pub values: &'a Named<B>,
    /// Whether b_dec is subtracted from the encoder's input.
    pub apply_b_dec_to_input: bool,
    /// Norms of the decoder's rows `[F]`.
    pub decoder_norm: &'a B::Buffer<f32>,
    /// The encoder's input `[B, D]`.
    pub input: &'a B::Buffer<f32>,
    /// What products and sums are to take in bf16.
    pub rounded: Option<&'a mut Rounded<B>>,
    /// What the reconstruction is compared with `[B, D]`.
    pub target: &'a B::Buffer<f32>,
    /// Scale and shift that undo a row-by-row normalisation, if there is one.
    pub denormalize: Option<[&'a B::Buffer<f32>; 2]>,
    /// The latents that were dead before this step.
    pub dead: &'a DeadLatents<B>,
    /// A latent is dead after so many steps without firing.
    pub dead_feature_window: u32,
    /// The step's numbers, among them the coefficient of the sparsity term, after its warm-up.
    pub scalars: &'a B::Buffer<StepScalars>,
    /// Out: the parameters' gradients; b_dec's is the caller's work.
    pub gradients: &'a mut Named<B>,
    /// Out: the gradient with respect to the decoder's output `[B, D]`.
    pub output_gradient: &'a mut B::Buffer<f32>,
    /// Out `[B]`.
    pub squared_error: &'a mut B::Buffer<f32>,
    /// In and out: firing statistics.
    pub firing: &'a mut Firing<B>,
    /// Out: the active latents, and the sums of the architecture's terms.
    pub measurements: &'a mut Measurements<B>,
}

/// Firing statistics on the device.
pub struct Firing<B: Backend> {
    /// SAELens' `act_freq_scores` `[F]`.
    pub fired_count: B::Buffer<u32>,
    /// SAELens' `n_forward_passes_since_fired` `[F]`.
    pub since_fired: B::Buffer<u32>,
}

/// What [`Batch::write_gradients`] finds where it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Nothing: all is overwritten.
    Nothing,
    /// Gradients that it adds to.
    Written,
    /// Nothing: rows of listed latents are overwritten, the others are left.
    ListedRows,
}

/// Sums over the batch of the gradients with respect to `input · w_encᵀ` `[F]`.
pub enum EncoderSums<'a, B: Backend> {
    /// They are the gradient of b_enc.
    OfBias,
    /// The architecture has them.
    Own(&'a B::Buffer<f32>),
    /// There are none: the step leaves in the output gradient what b_dec's is the sum of.
    InOutputGradient,
}

/// What gradients of the weights are sums of: [`ListedGradient`], with the batch's output gradient.
pub struct Listed<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// The same by latent.
    pub by_latent: &'a LatentLists<B>,
    /// Gradients of the pre-activations `[B, stride]`.
    pub pre_gradient: &'a B::Buffer<f32>,
    /// Gradients of the decoder's row norms `[B, stride]`, where the loss has such a term.
    pub norm_gradient: Option<&'a B::Buffer<f32>>,
    /// The latents of which the step wrote gradients that are to be added.
    pub stored: Option<&'a LatentLists<B>>,
}

/// One architecture's forward and backward pass over a batch.
pub trait Architecture<B: Backend>: Send {
    /// Sums that [`Architecture::step`] leaves with [`Batch::sum_term`].
    fn terms(&self) -> usize {
        1
    }

    /// From now on a row has `k` active latents, in the batch kinds on average; others have no `k`.
    fn set_k(&mut self, _backend: &B, _k: f64) -> Result<()> {
        Ok(())
    }

    /// Brings parameters back to where they are allowed to be, before anything reads them.
    fn project(&mut self, _backend: &B, _values: &mut Named<B>) -> Result<()> {
        Ok(())
    }

    /// What the host has to know, and to wait for, before it can queue the step. Which latents are dead
    /// is not found yet.
    fn begin(&mut self, _batch: &mut Batch<'_, B>) -> Result<()> {
        Ok(())
    }

    /// Whether [`Architecture::step`] only queues operations, the same ones on the same buffers every time
    /// until a buffer is given back, so that it can be recorded. What changes from step to step is then
    /// read from [`Batch::scalars`].
    fn repeats(&self) -> bool {
        true
    }

    /// Encodes, decodes, measures, and writes all gradients but b_dec's and those that
    /// [`Architecture::listed`] stands for.
    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()>;

    /// What the gradients of W_enc, b_enc and W_dec are sums of after a step, where they are not written:
    /// they are summed where Adam uses them.
    fn listed(&self) -> Option<Listed<'_, B>> {
        None
    }

    /// Loss terms besides `mse_loss`, by SAELens' names, coefficients multiplied in: from the sums that
    /// the step left with [`Batch::sum_term`], and how many latents were dead before it.
    /// May wait for the device.
    fn losses(&self, backend: &B, sums: &[f64], n_dead: usize) -> Result<Vec<LossTerm>>;

    /// Where the gradients of the encoder's product are summed over the batch: b_dec's needs them.
    fn encoder_sums(&self) -> EncoderSums<'_, B> {
        EncoderSums::OfBias
    }

    /// Encodes the dead latents, at most `k` of a row, into lists of pre-activations, for ghost gradients.
    fn encode_dead(&mut self, batch: &Batch<'_, B>, k: usize, lists: &mut FeatureLists<B>) -> Result<()> {
        batch.encode_dead_with("b_enc", k, lists)
    }

    /// Adds to the gradients that are written what comes of dead latents: their values are positive, and
    /// what is listed are gradients of pre-activations, as [`Architecture::encode_dead`] gave them.
    fn add_dead(
        &mut self,
        batch: &mut Batch<'_, B>,
        of: Listed<'_, B>,
        output_gradient: &B::Buffer<f32>,
    ) -> Result<()> {
        batch.write_gradients(of, Some(output_gradient), Onto::Written)
    }

    /// From now on [`Architecture::error_gradient`] is asked for.
    fn keep_error_gradient(&mut self, _backend: &B) -> Result<()> {
        Ok(())
    }

    /// After a step the gradient of the reconstruction's mean squared error alone `[B, D]`, where the batch's
    /// output gradient has more in it.
    fn error_gradient(&self) -> Option<&B::Buffer<f32>> {
        None
    }

    /// Active latents in the latest batch, where [`Batch::count_active`] does not say it. May wait for
    /// the device.
    fn active(&self, _backend: &B) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Numbers for the log besides losses and those that all have, by SAELens' names without their group
    /// `metrics`. May wait for the device.
    fn metrics(&self, _backend: &B) -> Result<Vec<Metric>> {
        Ok(Vec::new())
    }

    /// State that a resumed run needs besides the parameters, as numbers. May wait for the device.
    fn state(&self, _backend: &B) -> Result<Vec<f64>> {
        Ok(Vec::new())
    }

    /// Takes back what [`Architecture::state`] gave.
    fn restore(&mut self, _backend: &B, _state: &[f64]) -> Result<()> {
        Ok(())
    }
}

/// The decoder's weights, rounded with `autocast`.
fn w_dec<'a, B: Backend>(values: &'a Named<B>, rounded: Option<&'a Rounded<B>>) -> Matrix<'a, B> {
    rounded.map_or(Matrix::F32(values.get("W_dec")), Rounded::w_dec)
}

impl<'a, B: Backend> Batch<'a, B> {
    /// The encoder's arguments.
    pub fn encoder(&self) -> Encoder<'_, B> {
        self.encoder_with("b_enc")
    }

    /// The same with another bias.
    pub fn encoder_with(&self, bias: &str) -> Encoder<'_, B> {
        let [input, w_enc] = self.rounded.as_deref().map_or(self.f32_operands(), Rounded::operands);
        let Dims { rows, d_in, d_sae } = self.dims;
        Encoder { input, w_enc, b_enc: self.values.get(bias), rows, d_in, d_sae }
    }

    /// The encoder's arguments as they are before they are rounded.
    pub fn f32_encoder(&self) -> Encoder<'a, B> {
        let ([input, w_enc], Dims { rows, d_in, d_sae }) = (self.f32_operands(), self.dims);
        Encoder { input, w_enc, b_enc: self.values.get("b_enc"), rows, d_in, d_sae }
    }

    fn f32_operands(&self) -> [Matrix<'a, B>; 2] {
        [self.input, self.values.get("W_enc")].map(Matrix::F32)
    }

    /// The decoder's arguments for the mean squared error of the batch (`2 / B`).
    pub fn decoder(&mut self) -> Decoder<'_, B> {
        let Dims { rows, d_in, d_sae } = self.dims;
        Decoder {
            w_dec: w_dec(self.values, self.rounded.as_deref()),
            b_dec: Some(self.values.get("b_dec")),
            target: self.target,
            denormalize: self.denormalize.map(|[row_scale, row_shift]| Denormalize { row_scale, row_shift }),
            gradient_scale: 2.0 / rows as f32,
            rows,
            d_in,
            d_sae,
            reconstruction: None,
            gradient: self.output_gradient,
            squared_error: self.squared_error,
        }
    }

    /// The same with W_dec as it is before it is rounded.
    pub fn f32_decoder(&mut self) -> Decoder<'_, B> {
        let w_dec = Matrix::F32(self.values.get("W_dec"));
        Decoder { w_dec, ..self.decoder() }
    }

    /// What lists are decoded by.
    pub fn w_dec(&self) -> Matrix<'_, B> {
        w_dec(self.values, self.rounded.as_deref())
    }

    /// The dead latents, at most `k` of a row, with their pre-activations by one of the biases.
    pub fn encode_dead_with(&self, bias: &str, k: usize, lists: &mut FeatureLists<B>) -> Result<()> {
        let (encoder, rank, decoder_norm, dead) = (self.encoder_with(bias), Rank::Value, None, self.dead);
        self.backend.encode_dead_topk(EncodeDeadTopk { encoder, rank, decoder_norm, dead, k, lists })
    }

    /// Sums a loss term over the batch's rows, for [`Architecture::losses`].
    pub fn sum_term(&mut self, term: usize, of_rows: &B::Buffer<f32>) -> Result<()> {
        self.sum_term_over(term, of_rows, self.dims.rows)
    }

    /// Sums a loss term over `len` parts of it.
    pub fn sum_term_over(&mut self, term: usize, values: &B::Buffer<f32>, len: usize) -> Result<()> {
        let (out, slot) = (&mut self.measurements.sums, 1 + term);
        self.backend.sum(Sum { values, len, out, slot })
    }

    /// Makes lists longer, empty ones, if the longest row of what an encoder found does not fit; returns
    /// whether it did so. Waits for that row's length.
    pub fn make_room(&self, lists: &mut FeatureLists<B>, longest: &B::Buffer<u32>) -> Result<bool> {
        let longest = self.backend.read_element(longest, 0)? as usize;
        let is_short = longest > lists.stride;
        if is_short {
            // Some more, so that the next batch is likely to fit too.
            let stride = (longest + longest / 4).min(self.dims.d_sae);
            *lists = FeatureLists::new(self.backend, self.dims.rows, stride)?;
        }
        Ok(is_short)
    }

    /// The reconstruction from lists, and the gradient of each value, which is also dh where nothing else
    /// depends on the features.
    pub fn decode(
        &mut self,
        lists: &FeatureLists<B>,
        by_latent: &mut LatentLists<B>,
        value_gradient: &mut B::Buffer<f32>,
    ) -> Result<()> {
        let Dims { rows, d_sae, .. } = self.dims;
        self.backend.decode_sparse(DecodeSparse {
            decoder: self.decoder(),
            lists,
            dead_weight: None,
            value_gradient: Some(value_gradient),
        })?;
        self.backend.transpose_lists(TransposeLists { lists, rows, d_sae, by_latent })
    }

    /// Notes how many latents are active in the whole batch.
    pub fn count_active(&mut self, by_latent: &LatentLists<B>) -> Result<()> {
        self.backend.copy(&by_latent.offsets, self.dims.d_sae, &mut self.measurements.active, 0, 1)
    }

    /// Counts what fired.
    pub fn update_firing(&mut self, features: Features<'_, B>) -> Result<()> {
        self.backend.update_firing(UpdateFiring {
            features,
            rows: self.dims.rows,
            d_sae: self.dims.d_sae,
            fired_count: &mut self.firing.fired_count,
            since_fired: &mut self.firing.since_fired,
        })
    }

    /// Writes gradients of the weights from lists.
    pub fn write_gradients(
        &mut self,
        of: Listed<'_, B>,
        output_gradient: Option<&B::Buffer<f32>>,
        onto: Onto,
    ) -> Result<()> {
        let Dims { rows, d_in, d_sae } = self.dims;
        let Listed { lists, by_latent, pre_gradient, norm_gradient, .. } = of;
        let (decoder_norm, w_dec) = (self.decoder_norm, self.values.get("W_dec"));
        let output_gradient = output_gradient.unwrap_or(self.output_gradient);
        let [gradient, input] = summands(self.backend, self.rounded.as_deref_mut(), output_gradient, self.input)?;
        self.backend.gradient_sparse(GradientSparse {
            lists,
            by_latent,
            pre_gradient,
            gradient,
            input,
            norm: norm_gradient.map(|norm_gradient| NormGradient { norm_gradient, decoder_norm, w_dec }),
            rows,
            d_in,
            d_sae,
            out: match onto {
                Onto::Nothing => self.gradients.weight_gradients(false),
                Onto::Written => self.gradients.weight_gradients(true),
                Onto::ListedRows => self.gradients.listed_weight_gradients(),
            },
        })
    }
}
