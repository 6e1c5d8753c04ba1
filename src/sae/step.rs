//! One training step: the only place with the order of operations, which is SAELens'
//! (`sae_trainer.py: SAETrainer.step`).
//!
//! 1. Which latents are dead.
//! 2. Normalise the batch.
//! 3. The architecture's forward and backward pass, which also counts what fired.
//! 4. b_dec's gradient.
//! 5. Clip the global gradient norm.
//! 6. Adam.
//! 7. The decoder's new row norms.

use super::architecture::{build, Architecture, ArchitectureConfig, Batch, Dims, Firing};
use super::parameters::Named;
use super::weights::Weights;
use crate::backend::*;
use crate::config::NormalizeActivations;
use crate::error::Result;

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
    /// A latent is dead after so many steps without firing.
    pub dead_feature_window: u32,
}

/// What the schedules say for one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub lr: f64,
    /// Coefficient of the architecture's sparsity term.
    pub coefficient: f64,
    /// Whether the explained variance is wanted.
    pub with_variance: bool,
}

/// What a step leaves behind, by SAELens' names.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// `mse_loss` first, then the architecture's terms.
    pub losses: Vec<(&'static str, f64)>,
    /// Mean number of active latents in a row.
    pub l0: f64,
    /// Latents that were dead before the step.
    pub n_dead: usize,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// How much of the batch's variance is explained, where it was wanted.
    pub explained_variance: Option<ExplainedVariance>,
}

/// SAELens' two measures of the variance that the reconstruction explains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExplainedVariance {
    /// `1 - Σ |x_hat - x|² / Σ |x - mean|²`.
    pub pooled: f64,
    /// Mean over rows of `1 - |x_hat - x|² / |x - mean|²`: `explained_variance_legacy`.
    pub legacy_mean: f64,
    /// Its standard deviation over rows (n - 1).
    pub legacy_std: f64,
}

impl StepReport {
    /// The sum of all terms: SAELens' `overall_loss`.
    pub fn overall_loss(&self) -> f64 {
        self.losses.iter().map(|(_, loss)| loss).sum()
    }
}

/// An SAE in training: parameters, optimizer state, statistics and work space on a device.
pub struct TrainingSae<B: Backend> {
    backend: B,
    config: TrainingConfig,
    architecture: Box<dyn Architecture<B>>,
    /// Parameters.
    pub values: Named<B>,
    gradients: Named<B>,
    /// Adam's first moments.
    pub exp_avg: Named<B>,
    /// Adam's second moments.
    pub exp_avg_sq: Named<B>,
    /// Firing statistics.
    pub firing: Firing<B>,
    /// Steps done so far.
    pub n_training_steps: u64,
    /// Factor on the activations (`expected_average_only_in`); 1 without.
    pub input_scale: f32,
    decoder_norm: B::Buffer<f32>,
    work: WorkSpace<B>,
}

struct WorkSpace<B: Backend> {
    target: B::Buffer<f32>,
    input: B::Buffer<f32>,
    row_scale: B::Buffer<f32>,
    row_shift: B::Buffer<f32>,
    output_gradient: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
    dead: B::Buffer<u32>,
    clip: B::Buffer<f32>,
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
            dead: backend.zeros(d_sae)?,
            clip: backend.zeros(2)?,
        };
        let mut sae = TrainingSae {
            backend: backend.clone(),
            gradients: Named::zeros_like(backend, &values)?,
            exp_avg: Named::zeros_like(backend, &values)?,
            exp_avg_sq: Named::zeros_like(backend, &values)?,
            firing: Firing { fired_count: backend.zeros(d_sae)?, since_fired: backend.zeros(d_sae)? },
            n_training_steps: 0,
            input_scale: 1.0,
            decoder_norm: backend.zeros(d_sae)?,
            config,
            architecture,
            values,
            work,
        };
        sae.refresh_decoder_norm()?;
        Ok(sae)
    }

    /// The settings it was made with.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// The gradients of the last step, before clipping.
    pub fn gradients(&self) -> &Named<B> {
        &self.gradients
    }

    /// Latents that have not fired for longer than the window.
    pub fn count_dead(&mut self) -> Result<usize> {
        let (window, d_sae) = (self.config.dead_feature_window, self.config.d_sae);
        let since_fired = &self.firing.since_fired;
        self.backend.find_dead(FindDead { since_fired, window, d_sae, dead: &mut self.work.dead })
    }

    /// Trains on one batch `[B, D]` of activations.
    pub fn step(&mut self, x: &B::Buffer<f32>, settings: &StepSettings) -> Result<StepReport> {
        let n_dead = self.count_dead()?;
        self.prepare(x)?;
        let rows = self.config.train_batch_size_tokens;
        let terms = self.architecture.step(&mut Batch {
            backend: &self.backend,
            dims: Dims { rows, d_in: self.config.d_in, d_sae: self.config.d_sae },
            values: &self.values,
            decoder_norm: &self.decoder_norm,
            input: &self.work.input,
            target: &self.work.target,
            denormalize: (self.normalization() != RowNormalization::None)
                .then_some([&self.work.row_scale, &self.work.row_shift]),
            dead: &self.work.dead,
            n_dead,
            coefficient: settings.coefficient,
            gradients: &mut self.gradients,
            output_gradient: &mut self.work.output_gradient,
            squared_error: &mut self.work.squared_error,
            firing: &mut self.firing,
        })?;
        self.finish_gradients()?;
        self.update(settings.lr)?;
        self.n_training_steps += 1;

        let squared_error = self.backend.sum(&self.work.squared_error, rows)?;
        let explained_variance = settings.with_variance.then(|| self.explained_variance()).transpose()?;
        let mut clip = [0.0; 2];
        self.backend.read(&self.work.clip, 0, &mut clip)?;
        let mut losses = vec![("mse_loss", squared_error / rows as f64)];
        losses.extend(terms.losses);
        let l0 = terms.active as f64 / rows as f64;
        Ok(StepReport { losses, l0, n_dead, grad_norm: clip[1].into(), explained_variance })
    }

    fn explained_variance(&mut self) -> Result<ExplainedVariance> {
        let (rows, d_in) = (self.config.train_batch_size_tokens, self.config.d_in);
        // The input is not needed any more: its place takes the variances.
        let (x, variance) = (&self.work.target, &mut self.work.input);
        self.backend.row_variance(RowVariance { x, rows, d_in, variance })?;
        let (mut variance, mut error) = (vec![0.0f32; rows], vec![0.0f32; rows]);
        self.backend.read(&self.work.input, 0, &mut variance)?;
        self.backend.read(&self.work.squared_error, 0, &mut error)?;
        let total = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        let ratios = || error.iter().zip(&variance).map(|(&e, &v)| 1.0 - f64::from(e) / f64::from(v));
        let mean = ratios().sum::<f64>() / rows as f64;
        let spread = ratios().map(|ratio| (ratio - mean).powi(2)).sum::<f64>();
        Ok(ExplainedVariance {
            pooled: 1.0 - total(&error) / total(&variance),
            legacy_mean: mean,
            legacy_std: (spread / (rows as f64 - 1.0)).sqrt(),
        })
    }

    fn normalization(&self) -> RowNormalization {
        match self.config.normalize_activations {
            NormalizeActivations::LayerNorm => RowNormalization::LayerNorm,
            NormalizeActivations::ConstantNormRescale => RowNormalization::ConstantNorm,
            NormalizeActivations::None | NormalizeActivations::ExpectedAverageOnlyIn => RowNormalization::None,
        }
    }

    fn prepare(&mut self, x: &B::Buffer<f32>) -> Result<()> {
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
        })
    }

    /// b_dec's gradient needs b_enc's; the clip needs all.
    fn finish_gradients(&mut self) -> Result<()> {
        let mut b_dec = self.backend.zeros(self.config.d_in)?;
        self.backend.gradient_b_dec(GradientBDec {
            gradient: &self.work.output_gradient,
            through_encoder: self.config.apply_b_dec_to_input.then(|| ThroughEncoder {
                w_enc: self.values.get("W_enc"),
                b_enc_gradient: self.gradients.get("b_enc"),
            }),
            rows: self.config.train_batch_size_tokens,
            d_in: self.config.d_in,
            d_sae: self.config.d_sae,
            out: &mut b_dec,
        })?;
        *self.gradients.get_mut("b_dec") = b_dec;
        let gradients: Vec<_> = self.gradients.iter().map(|(_, gradient)| gradient).collect();
        let max_norm = self.config.max_grad_norm;
        self.backend.clip_scale(ClipScale { gradients: &gradients, max_norm, out: &mut self.work.clip })
    }

    fn update(&mut self, lr: f64) -> Result<()> {
        let states = self.exp_avg.iter_mut().zip(self.exp_avg_sq.iter_mut());
        for (((_, parameter), (_, gradient)), ((_, exp_avg), (_, exp_avg_sq))) in
            self.values.iter_mut().zip(self.gradients.iter()).zip(states)
        {
            self.backend.adam(Adam {
                parameter,
                gradient,
                exp_avg,
                exp_avg_sq,
                clip: &self.work.clip,
                lr,
                beta1: self.config.adam_beta1,
                beta2: self.config.adam_beta2,
                epsilon: self.config.adam_epsilon,
                step: self.n_training_steps + 1,
            })?;
        }
        self.refresh_decoder_norm()
    }

    /// To be called after the parameters were changed from outside.
    pub fn refresh_decoder_norm(&mut self) -> Result<()> {
        self.backend.row_norms(RowNorms {
            matrix: self.values.get("W_dec"),
            rows: self.config.d_sae,
            columns: self.config.d_in,
            norms: &mut self.decoder_norm,
        })
    }

    /// State of the architecture that a resumed run needs.
    pub fn architecture_state(&self) -> Vec<f64> {
        self.architecture.state()
    }

    /// Takes back what [`TrainingSae::architecture_state`] gave.
    pub fn restore_architecture(&mut self, state: &[f64]) -> Result<()> {
        self.architecture.restore(&self.backend, state)
    }
}
