//! One training step: the only place with the order of operations, which is SAELens'
//! (`sae_trainer.py: SAETrainer.step`).
//!
//! 1. Parameters that have bounds are brought back to them; the batch is normalised.
//! 2. Which latents are dead.
//! 3. The architecture's forward and backward pass, which also counts what fired; ghost gradients, where dead latents
//!    get them.
//! 4. b_dec's gradient; what the decoder's rows, where they keep norm 1, cannot follow is taken off theirs. Where an
//!    architecture lists what the weights' gradients are sums of, only b_enc's, and the squares of the others, which are
//!    summed again in 6, unless the device is faster with all of them written ([`Backend::writes_gradients`]).
//! 5. Clip the global gradient norm.
//! 6. Adam.
//! 7. The decoder's rows back to norm 1, where they keep it, and their new norms; with `autocast`, both matrices in bf16;
//!    the average of the parameters, where one is kept.
//! 8. Was everything finite?
//!
//! Nothing of this waits for the device, but where an architecture says so ([`Architecture::begin`]) and for ghost gradients:
//! what a step measures is written to the device's memory, and [`TrainingSae::report`] reads it. From 2
//! on every step queues the same operations, with what changes in [`StepScalars`], so that a device can
//! do them as one piece of recorded work.

use super::architecture::{build, Architecture, ArchitectureConfig, Batch, Dims, EncoderSums, Firing, Listed, Onto};
use super::autocast::{summands, Rounded};
use super::average::Average;
use super::ghost::Ghost;
use super::parameters::Named;
use super::report::{ExplainedVariance, Measurements, StepReport};
use super::transcoder::{Scaled, Skip};
use super::unit_norm::UnitNorm;
use super::weights::Weights;
use crate::backend::*;
use crate::config::NormalizeActivations;
use crate::error::Result;
use std::mem::take;

/// What does not change during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingConfig {
    /// Settings of one architecture.
    pub architecture: ArchitectureConfig,
    /// Width of the activations.
    pub d_in: usize,
    /// Latents.
    pub d_sae: usize,
    /// Rows in a batch.
    pub train_batch_size_tokens: usize,
    /// Whether b_dec is subtracted from the encoder's input.
    pub apply_b_dec_to_input: bool,
    /// Normalisation of the activations.
    pub normalize_activations: NormalizeActivations,
    /// Adam's decay of the first moment.
    pub adam_beta1: f64,
    /// Adam's decay of the second moment.
    pub adam_beta2: f64,
    /// Adam's epsilon.
    pub adam_epsilon: f64,
    /// Limit on the global gradient norm.
    pub max_grad_norm: Option<f32>,
    /// Whether the encoder's product, those of dense features and the weights' gradients take bf16 operands.
    pub autocast: bool,
    /// A latent is dead after so many steps without firing.
    pub dead_feature_window: u32,
}

impl TrainingConfig {
    fn dims(&self) -> Dims {
        Dims { rows: self.train_batch_size_tokens, d_in: self.d_in, d_sae: self.d_sae }
    }
}

/// What the schedules say for one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// Coefficient of the architecture's sparsity term.
    pub coefficient: f64,
}

/// An SAE in training: parameters, optimizer state, statistics and work space on a device.
pub struct TrainingSae<B: Backend> {
    pub(super) backend: B,
    pub(super) config: TrainingConfig,
    architecture: Box<dyn Architecture<B>>,
    /// Parameters.
    pub values: Named<B>,
    gradients: Named<B>,
    /// Of gradients that are not written `[F]`.
    squares: B::Buffer<f64>,
    writes_gradients: bool,
    /// Adam's first moments.
    pub exp_avg: Named<B>,
    /// Adam's second moments.
    pub exp_avg_sq: Named<B>,
    /// The moving average of the parameters, where one is kept.
    pub average: Option<Average<B>>,
    unit_norm: Option<UnitNorm<B>>,
    ghost: Option<Ghost<B>>,
    /// Firing statistics.
    pub firing: Firing<B>,
    /// Steps done so far.
    pub n_training_steps: u64,
    /// Factor on the activations (`expected_average_only_in`); 1 without.
    pub input_scale: f32,
    /// Likewise on what a transcoder is to predict.
    pub output_scale: f32,
    decoder_norm: B::Buffer<f32>,
    /// With `autocast`.
    rounded: Option<Rounded<B>>,
    measurements: Measurements<B>,
    pub(super) work: WorkSpace<B>,
    recording: B::Recording,
    /// Whether the latest batch came with what is to be predicted.
    pub(super) transcodes: bool,
    skip: Option<Skip<B>>,
}

pub(super) struct WorkSpace<B: Backend> {
    target: B::Buffer<f32>,
    pub input: B::Buffer<f32>,
    row_scale: B::Buffer<f32>,
    row_shift: B::Buffer<f32>,
    pub output_gradient: B::Buffer<f32>,
    pub squared_error: B::Buffer<f32>,
    pub dead: DeadLatents<B>,
    scalars: B::Buffer<StepScalars>,
}

impl<B: Backend> TrainingSae<B> {
    /// An SAE that starts from these weights (SAELens' names and shapes), with fresh optimizer state.
    pub fn new(backend: &B, config: TrainingConfig, weights: &Weights) -> Result<Self> {
        let (rows, d_in, d_sae) = (config.train_batch_size_tokens, config.d_in, config.d_sae);
        let values = Named::upload(backend, weights)?;
        let architecture = build(backend, &config.architecture, Dims { rows, d_in, d_sae })?;
        let work = WorkSpace {
            target: backend.zeros(rows * d_in)?,
            input: backend.zeros(rows * d_in)?,
            row_scale: backend.zeros(rows)?,
            row_shift: backend.zeros(rows)?,
            output_gradient: backend.zeros(rows * d_in)?,
            squared_error: backend.zeros(rows)?,
            dead: DeadLatents::none(backend, d_sae)?,
            scalars: backend.zeros(1)?,
        };
        let mut sae = TrainingSae {
            backend: backend.clone(),
            gradients: Named::zeros_like(backend, &values)?,
            squares: backend.zeros(d_sae)?,
            writes_gradients: backend.writes_gradients(2 * d_sae * d_in),
            transcodes: false,
            skip: Skip::of(backend, &values, Dims { rows, d_in, d_sae })?,
            exp_avg: Named::written_zeros_like(backend, &values)?,
            exp_avg_sq: Named::written_zeros_like(backend, &values)?,
            firing: Firing { fired_count: backend.zeros(d_sae)?, since_fired: backend.zeros(d_sae)? },
            average: None,
            unit_norm: None,
            ghost: None,
            n_training_steps: 0,
            input_scale: 1.0,
            output_scale: 1.0,
            decoder_norm: backend.zeros(d_sae)?,
            rounded: config.autocast.then(|| Rounded::new(backend, Dims { rows, d_in, d_sae })).transpose()?,
            measurements: Measurements::none(backend, architecture.terms())?,
            config,
            architecture,
            values,
            work,
            recording: B::Recording::default(),
        };
        sae.parameters_changed()?;
        Ok(sae)
    }

    /// Keeps a moving average of the parameters from now on.
    pub fn keep_average(&mut self, decay: f64) -> Result<()> {
        self.average = Some(Average::new(&self.backend, decay, &self.values)?);
        self.work_changes();
        Ok(())
    }

    /// Brings the decoder's rows to norm 1 and keeps them there from now on.
    pub fn keep_unit_norm(&mut self) -> Result<()> {
        let mut unit_norm = UnitNorm::new(&self.backend, [self.config.d_sae, self.config.d_in])?;
        unit_norm.normalize(&self.backend, self.values.get_mut("W_dec"))?;
        self.unit_norm = Some(unit_norm);
        self.work_changes();
        self.refresh_decoder_norm()
    }

    /// Dead latents get ghost gradients from now on.
    pub fn keep_ghost_gradients(&mut self) -> Result<()> {
        self.architecture.keep_error_gradient(&self.backend)?;
        self.ghost = Some(Ghost::new(&self.backend, self.config.dims())?);
        self.measurements = Measurements::none(&self.backend, self.architecture.terms() + 1)?;
        self.work_changes();
        Ok(())
    }

    /// From now on, as many latents of a row are active, where the architecture has a `k`.
    pub fn set_k(&mut self, k: f64) -> Result<()> {
        self.architecture.set_k(&self.backend, k)
    }

    /// The parameters that the SAE is judged and saved by: their average, where one is kept.
    pub fn result(&self) -> &Named<B> {
        self.average.as_ref().map_or(&self.values, |average| &average.values)
    }

    /// Gives back what only further steps would need, gradients and Adam's moments: three quarters of an SAE's memory,
    /// while its last evaluation and its export make copies of the weights.
    pub fn end_training(&mut self) {
        [&mut self.gradients, &mut self.exp_avg, &mut self.exp_avg_sq].into_iter().for_each(Named::clear);
    }

    /// The settings it was made with.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// Whether from now on all gradients are written, so that [`TrainingSae::gradients`] has them, or, where they can be,
    /// summed where they are used. At first it is what the device is faster with ([`Backend::writes_gradients`]).
    pub fn write_all_gradients(&mut self, all: bool) {
        self.writes_gradients = all;
        self.work_changes();
    }

    /// What was recorded is not a step's work any more.
    fn work_changes(&mut self) {
        self.recording = B::Recording::default();
    }

    /// The gradients of the last step, before clipping: all of them after [`TrainingSae::write_gradients`].
    pub fn gradients(&self) -> &Named<B> {
        &self.gradients
    }

    /// Latents that have not fired for longer than the window.
    pub fn count_dead(&mut self) -> Result<usize> {
        self.find_dead()?;
        Ok(self.backend.read_element(&self.work.dead.count, 0)? as usize)
    }

    fn find_dead(&mut self) -> Result<()> {
        let (window, d_sae) = (self.config.dead_feature_window, self.config.d_sae);
        let since_fired = &self.firing.since_fired;
        self.backend.find_dead(FindDead { since_fired, window, latents: 0..d_sae, dead: &mut self.work.dead })
    }

    /// Trains on one batch `[B, D]` of activations.
    pub fn step(&mut self, x: &B::Buffer<f32>, settings: &StepSettings) -> Result<()> {
        self.step_towards(x, None, settings)
    }

    /// The same; a transcoder predicts `y [B, D]` from `x`.
    pub fn step_towards(
        &mut self,
        x: &B::Buffer<f32>,
        y: Option<&B::Buffer<f32>>,
        settings: &StepSettings,
    ) -> Result<()> {
        let step = self.n_training_steps + 1;
        let betas = [self.config.adam_beta1, self.config.adam_beta2];
        let scalars = StepScalars::new(step, settings.lr, betas, settings.coefficient);
        // Not by `write`, which may wait for work queued before.
        self.backend.fill(&mut self.work.scalars, scalars)?;
        self.architecture.project(&self.backend, &mut self.values)?;
        self.prepare(x, y)?;
        self.of_architecture(|architecture, batch| architecture.begin(batch))?;
        // How many latents are dead decides about ghost gradients.
        if self.architecture.repeats() && self.ghost.is_none() {
            let (backend, mut recording) = (self.backend.clone(), take(&mut self.recording));
            let done = backend.repeat(&mut recording, &mut || self.queue());
            self.recording = recording;
            done?;
        } else {
            self.queue()?;
        }
        self.n_training_steps = step;
        Ok(())
    }

    /// The part of a step that is the same every time.
    fn queue(&mut self) -> Result<()> {
        self.find_dead()?;
        if self.writes_gradients() {
            self.write_gradients()?;
        } else {
            self.of_architecture(|architecture, batch| architecture.step(batch))?;
        }
        self.finish_gradients()?;
        self.update()?;
        if let Some(average) = &mut self.average {
            average.update(&self.backend, &self.values)?;
        }
        self.measure()
    }

    /// The architecture's step, after which what it lists is summed and written.
    fn write_gradients(&mut self) -> Result<()> {
        // It may write some rows only.
        for (_, gradient) in self.gradients.iter_mut() {
            self.backend.fill(gradient, 0.0)?;
        }
        self.of_architecture(|architecture, batch| {
            architecture.step(batch)?;
            architecture.listed().map_or(Ok(()), |listed| batch.write_gradients(listed, None, Onto::Written))
        })?;
        let Some(mut ghost) = self.ghost.take() else { return Ok(()) };
        let done = self.of_architecture(|architecture, batch| ghost.step(architecture, batch));
        self.ghost = Some(ghost);
        done
    }

    /// Whether somebody needs gradients whole before Adam does.
    fn writes_gradients(&self) -> bool {
        self.writes_gradients || self.unit_norm.is_some() || self.ghost.is_some()
    }

    /// Whether the gradients of W_enc and W_dec are not written.
    fn sums_are_listed(&self) -> bool {
        !self.writes_gradients() && self.architecture.listed().is_some()
    }

    fn of_architecture(
        &mut self,
        work: impl FnOnce(&mut dyn Architecture<B>, &mut Batch<'_, B>) -> Result<()>,
    ) -> Result<()> {
        let TrainingConfig { train_batch_size_tokens: rows, d_in, d_sae, .. } = self.config;
        // As at inference, what a transcoder decodes is not brought back to the size of its input.
        let normalizes = self.normalization() != RowNormalization::None && !self.transcodes;
        let mut batch = Batch {
            backend: &self.backend,
            dims: Dims { rows, d_in, d_sae },
            values: &self.values,
            apply_b_dec_to_input: self.config.apply_b_dec_to_input,
            decoder_norm: &self.decoder_norm,
            input: &self.work.input,
            rounded: self.rounded.as_mut(),
            target: self.skip.as_ref().map_or(&self.work.target, |skip| &skip.target),
            denormalize: normalizes.then_some([&self.work.row_scale, &self.work.row_shift]),
            dead: &self.work.dead,
            dead_feature_window: self.config.dead_feature_window,
            scalars: &self.work.scalars,
            gradients: &mut self.gradients,
            output_gradient: &mut self.work.output_gradient,
            squared_error: &mut self.work.squared_error,
            firing: &mut self.firing,
            measurements: &mut self.measurements,
        };
        work(self.architecture.as_mut(), &mut batch)
    }

    fn measure(&mut self) -> Result<()> {
        let (values, len) = (&self.work.squared_error, self.config.train_batch_size_tokens);
        self.backend.sum(Sum { values, len, out: &mut self.measurements.sums, slot: 0 })?;
        self.measurements.watch(&self.backend, &self.work.scalars)
    }

    /// What the latest step measured. Waits for the device.
    pub fn report(&mut self, with_variance: bool) -> Result<StepReport> {
        let (backend, dims) = (&self.backend, [self.config.train_batch_size_tokens, self.config.d_in]);
        let rows = dims[0] as f64;
        let sums = backend.download(&self.measurements.sums)?;
        let n_dead = backend.read_element(&self.work.dead.count, 0)? as usize;
        let active = match self.architecture.active(backend)? {
            Some(active) => active,
            None => backend.read_element(&self.measurements.active, 0)?.into(),
        };
        let grad_norm = backend.read_element(&self.measurements.clip, 1)?.into();
        let mut losses = vec![("mse_loss".into(), sums[0] / rows)];
        losses.extend(self.architecture.losses(backend, &sums[1..], n_dead)?);
        if self.ghost.is_some() {
            let sum = sums[1 + self.architecture.terms()];
            losses.push(("ghost_grad_loss".into(), sum / (rows * dims[1] as f64)));
        }
        let of_batch = [&self.work.target, &self.work.squared_error];
        // The input is not needed any more: its place takes the variances.
        let variance = &mut self.work.input;
        let explained_variance =
            with_variance.then(|| ExplainedVariance::of(backend, of_batch, variance, dims)).transpose()?;
        let (l0, metrics) = (active as f64 / rows, self.architecture.metrics(backend)?);
        Ok(StepReport { losses, l0, n_dead, grad_norm, metrics, explained_variance })
    }

    /// The first step since this SAE was made whose loss or gradient norm was not finite. Waits for the
    /// device.
    pub fn first_non_finite_step(&self) -> Result<Option<u64>> {
        self.measurements.first_non_finite_step(&self.backend)
    }

    fn normalization(&self) -> RowNormalization {
        match self.config.normalize_activations {
            NormalizeActivations::LayerNorm => RowNormalization::LayerNorm,
            NormalizeActivations::ConstantNormRescale => RowNormalization::ConstantNorm,
            NormalizeActivations::None | NormalizeActivations::ExpectedAverageOnlyIn => RowNormalization::None,
        }
    }

    fn prepare(&mut self, x: &B::Buffer<f32>, y: Option<&B::Buffer<f32>>) -> Result<()> {
        if self.transcodes != y.is_some() {
            self.transcodes = y.is_some();
            self.work_changes();
        }
        self.backend.prepare_input(PrepareInput {
            x,
            scale: self.input_scale,
            normalization: self.normalization(),
            b_dec: self.config.apply_b_dec_to_input.then(|| self.values.get("b_dec")),
            rows: self.config.train_batch_size_tokens,
            d_in: self.config.d_in,
            target: &mut self.work.target,
            input: &mut self.work.input,
            row_scale: &mut self.work.row_scale,
            row_shift: &mut self.work.row_shift,
        })?;
        if let Some(rounded) = &mut self.rounded {
            rounded.take_input(&self.backend, &self.work.input)?;
        }
        let Some(from) = y else { return Ok(()) };
        let len = self.config.train_batch_size_tokens * self.config.d_in;
        let (factor, to) = (self.output_scale, &mut self.work.target);
        self.backend.scale(Scale { from, factor, len, to })?;
        let Some(skip) = &mut self.skip else { return Ok(()) };
        let (target, w_skip) = (&self.work.target, self.values.get("W_skip"));
        skip.begin(&self.backend, Scaled { x, factor: self.input_scale }, target, w_skip, self.config.dims())
    }

    /// b_dec's gradient needs the encoder's; the clip needs all.
    fn finish_gradients(&mut self) -> Result<()> {
        let listed = self.sums_are_listed();
        if listed {
            self.sum_listed()?;
        }
        let (b_enc_gradient, out) = match self.architecture.encoder_sums() {
            EncoderSums::OfBias => {
                let (b_enc, b_dec) = self.gradients.get_beside("b_enc", "b_dec");
                (Some(b_enc), b_dec)
            }
            EncoderSums::Own(sums) => (Some(sums), self.gradients.get_mut("b_dec")),
            EncoderSums::InOutputGradient => (None, self.gradients.get_mut("b_dec")),
        };
        self.backend.gradient_b_dec(GradientBDec {
            gradient: &self.work.output_gradient,
            through_encoder: b_enc_gradient
                .filter(|_| self.config.apply_b_dec_to_input)
                .map(|b_enc_gradient| ThroughEncoder { w_enc: self.values.get("W_enc"), b_enc_gradient }),
            rows: self.config.train_batch_size_tokens,
            d_in: self.config.d_in,
            d_sae: self.config.d_sae,
            out,
        })?;
        if let Some(unit_norm) = &mut self.unit_norm {
            unit_norm.project(&self.backend, self.values.get("W_dec"), self.gradients.get_mut("W_dec"))?;
        }
        if let Some(skip) = &mut self.skip {
            let out = self.gradients.get_mut("W_skip");
            skip.gradient(&self.backend, &self.work.output_gradient, out, self.config.dims())?;
        }
        let written = self.gradients.iter().filter(|(name, _)| !(listed && is_matrix(name)));
        let gradients: Vec<_> = written.map(|(_, gradient)| gradient).collect();
        let squares = listed.then_some(&self.squares);
        let (max_norm, out) = (self.config.max_grad_norm, &mut self.measurements.clip);
        self.backend.clip_scale(ClipScale { gradients: &gradients, squares, max_norm, out })
    }

    /// b_enc's gradient, and the squares of those that are not written.
    fn sum_listed(&mut self) -> Result<()> {
        let [w_enc, w_dec, b_enc] = self.gradients.get_many_mut(["W_enc", "W_dec", "b_enc"]);
        let listed = self.architecture.listed().expect("what it lists");
        let (output_gradient, input) = (&self.work.output_gradient, &self.work.input);
        let summands = summands(&self.backend, self.rounded.as_mut(), output_gradient, input)?;
        let of = &listed_gradient(&self.config, summands, listed, [w_enc, w_dec]);
        let (w_dec, decoder_norm, squares) = (self.values.get("W_dec"), &self.decoder_norm, &mut self.squares);
        self.backend.gradient_squares(GradientSquares { of, w_dec, decoder_norm, b_enc, squares })
    }

    fn update(&mut self) -> Result<()> {
        let TrainingConfig { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: epsilon, .. } = self.config;
        let (constants, listed) = (AdamConstants { beta1, beta2, epsilon }, self.sums_are_listed());
        let states = self.exp_avg.iter_mut().zip(self.exp_avg_sq.iter_mut());
        for (((name, parameter), (_, gradient)), ((_, exp_avg), (_, exp_avg_sq))) in
            self.values.iter_mut().zip(self.gradients.iter()).zip(states)
        {
            if listed && is_matrix(name) {
                continue;
            }
            let (clip, scalars) = (&self.measurements.clip, &self.work.scalars);
            self.backend.adam(Adam { parameter, gradient, exp_avg, exp_avg_sq, clip, scalars, constants })?;
        }
        if let Some(unit_norm) = &mut self.unit_norm {
            unit_norm.normalize(&self.backend, self.values.get_mut("W_dec"))?;
        }
        match listed {
            true => self.update_matrices(constants)?,
            false => self.refresh_decoder_norm()?,
        }
        self.refresh_rounded()
    }

    /// Adam where the gradients are not written, and the decoder's new row norms.
    fn update_matrices(&mut self, constants: AdamConstants) -> Result<()> {
        let [of_values, of_exp_avg, of_exp_avg_sq] =
            [&mut self.values, &mut self.exp_avg, &mut self.exp_avg_sq].map(|named| named.get_many_mut(MATRICES));
        let states = of_values.into_iter().zip(of_exp_avg.into_iter().zip(of_exp_avg_sq));
        let mut states = states.map(|(parameter, (exp_avg, exp_avg_sq))| AdamState { parameter, exp_avg, exp_avg_sq });
        let (Some(w_enc), Some(w_dec)) = (states.next(), states.next()) else { unreachable!("two matrices") };
        let listed = self.architecture.listed().expect("what it lists");
        let in_f32 = [&self.work.output_gradient, &self.work.input].map(Matrix::F32);
        let summands = self.rounded.as_ref().map_or(in_f32, Rounded::summands);
        self.backend.adam_sparse(AdamSparse {
            of: &listed_gradient(&self.config, summands, listed, MATRICES.map(|name| self.gradients.get(name))),
            w_enc,
            w_dec,
            decoder_norm: &mut self.decoder_norm,
            clip: &self.measurements.clip,
            scalars: &self.work.scalars,
            constants,
        })
    }

    /// To be called after the parameters were changed from outside.
    pub fn parameters_changed(&mut self) -> Result<()> {
        self.refresh_decoder_norm()?;
        self.refresh_rounded()
    }

    /// The copies of the matrices that the encoder's product and the decoder take.
    fn refresh_rounded(&mut self) -> Result<()> {
        let Some(rounded) = &mut self.rounded else { return Ok(()) };
        let [w_enc, w_dec] = MATRICES.map(|name| self.values.get(name));
        rounded.take_weights(&self.backend, w_enc, w_dec)
    }

    fn refresh_decoder_norm(&mut self) -> Result<()> {
        self.backend.row_norms(RowNorms {
            matrix: self.values.get("W_dec"),
            rows: self.config.d_sae,
            columns: self.config.d_in,
            norms: &mut self.decoder_norm,
        })
    }

    /// State of the architecture that a resumed run needs.
    pub fn architecture_state(&self) -> Result<Vec<f64>> {
        self.architecture.state(&self.backend)
    }

    /// Takes back what [`TrainingSae::architecture_state`] gave.
    pub fn restore_architecture(&mut self, state: &[f64]) -> Result<()> {
        self.architecture.restore(&self.backend, state)
    }
}

/// The parameters whose gradients may be not written.
const MATRICES: [&str; 2] = ["W_enc", "W_dec"];

fn is_matrix(name: &str) -> bool {
    MATRICES.contains(&name)
}

/// What an architecture lists, with what is summed and the gradients of both matrices that it may have written in
/// part.
fn listed_gradient<'a, B: Backend>(
    config: &TrainingConfig,
    [gradient, input]: [Matrix<'a, B>; 2],
    listed: Listed<'a, B>,
    [w_enc, w_dec]: [&'a B::Buffer<f32>; 2],
) -> ListedGradient<'a, B> {
    let Listed { lists, by_latent, pre_gradient, norm_gradient, stored } = listed;
    ListedGradient {
        lists,
        by_latent,
        pre_gradient,
        gradient,
        input,
        norm_gradient,
        stored: stored.map(|by_latent| StoredGradient { w_enc, w_dec, by_latent }),
        rows: config.train_batch_size_tokens,
        d_in: config.d_in,
        d_sae: config.d_sae,
    }
}
