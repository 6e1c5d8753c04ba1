//! Training on batches that the caller brings: a recipe's steps without its data, logs and files. For
//! whole runs there is [`super::run`].

use super::course::Course;
use super::export::{export, Trained};
use super::setup;
use crate::backend::Backend;
use crate::config::{BDecInitMethod, NormalizeActivations, Recipe};
use crate::error::{Error, Result};
use crate::sae::config::SaeConfig;
use crate::sae::inference::Sae;
use crate::sae::report::StepReport;
use crate::sae::step::TrainingSae;
use std::path::Path;

/// An SAE in training by the settings of a recipe.
pub struct Trainer<B: Backend> {
    backend: B,
    recipe: Recipe,
    config: SaeConfig,
    course: Course,
    sae: TrainingSae<B>,
    batch: B::Buffer<f32>,
    /// Rows since firing was last counted from 0.
    n_frac_active_samples: u64,
}

impl<B: Backend> Trainer<B> {
    /// An SAE for activations of width `d_in`. Of the recipe, what is about the SAE and its training counts:
    /// not the model, the data, the evaluation and the logs. Errors: a setting that cannot be used;
    /// `from_pretrained_path` names nothing that could be started from; not enough memory.
    pub fn new(backend: &B, recipe: &Recipe, d_in: usize) -> Result<Self> {
        let recipe = recipe.resolve(d_in)?;
        if recipe.b_dec_init_method != BDecInitMethod::Zeros {
            let what = format!("found {}, expected zeros: no activations are known yet", recipe.b_dec_init_method);
            return Err(Error::config("b_dec_init_method", what));
        }
        if recipe.architecture.transcodes() {
            let what =
                format!("found {}, expected one that gives what it reads: a batch is of one hook", recipe.architecture);
            return Err(Error::config("architecture", what));
        }
        let config = setup::sae_config_of_stated_origin(&recipe);
        Ok(Trainer {
            backend: backend.clone(),
            course: Course::new(&recipe),
            sae: setup::training_sae(backend, &recipe, &config)?,
            batch: backend.zeros(recipe.train_batch_size_tokens * d_in)?,
            n_frac_active_samples: 0,
            recipe,
            config,
        })
    }

    /// The recipe, every `auto` replaced by its number.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// What the SAE is.
    pub fn config(&self) -> &SaeConfig {
        &self.config
    }

    /// Rows of a batch.
    pub fn rows(&self) -> usize {
        self.recipe.train_batch_size_tokens
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.sae.n_training_steps
    }

    /// Sets the factor on the activations that `normalize_activations = "expected_average_only_in"` asks
    /// for: `sqrt(d_in)` by their mean norm. Errors: the recipe has another normalisation; it is not a
    /// number above 0; steps were done.
    pub fn set_input_scale(&mut self, factor: f32) -> Result<()> {
        let normalization = self.recipe.normalize_activations;
        if normalization != NormalizeActivations::ExpectedAverageOnlyIn {
            let what = format!("found {}, expected expected_average_only_in for a factor", normalization.name());
            return Err(Error::config("normalize_activations", what));
        }
        if !(factor.is_finite() && factor > 0.0 && self.steps() == 0) {
            let what =
                format!("factor {factor} after {} steps, expected one above 0 before the first step", self.steps());
            return Err(Error::Shape { operation: "input_scale", what });
        }
        self.sae.input_scale = factor;
        Ok(())
    }

    /// Trains on a batch `[rows, d_in]` in host memory. Errors: it has another size; as [`Trainer::step_at`].
    pub fn step(&mut self, x: &[f32]) -> Result<()> {
        self.check_size(x.len())?;
        self.backend.write(&mut self.batch, 0, x)?;
        self.train()
    }

    /// Trains on a batch `[rows, d_in]` that lies at an address of the device's memory. Errors: the
    /// recipe's steps are done; the device's.
    ///
    /// # Safety
    /// As for [`Backend::copy_from_address`].
    pub unsafe fn step_at(&mut self, x: *const f32) -> Result<()> {
        let len = self.rows() * self.config.d_in;
        // SAFETY: as the caller promises.
        unsafe { self.backend.copy_from_address(x, &mut self.batch, len) }?;
        self.train()
    }

    fn check_size(&self, len: usize) -> Result<()> {
        let (rows, d_in) = (self.rows(), self.config.d_in);
        if len == rows * d_in {
            return Ok(());
        }
        let what = format!("a batch of {len} numbers, expected train_batch_size_tokens * d_in = {rows} * {d_in}");
        Err(Error::Shape { operation: "train", what })
    }

    fn train(&mut self) -> Result<()> {
        let (step, total) = (self.steps(), self.recipe.total_training_steps() as u64);
        if step >= total {
            let (tokens, rows) = (self.recipe.training_tokens, self.rows());
            let what = format!("{tokens}, which are {total} steps of {rows}, are done; give more for further steps");
            return Err(Error::config("training_tokens", what));
        }
        if step.is_multiple_of(self.recipe.feature_sampling_window as u64) {
            self.backend.fill(&mut self.sae.firing.fired_count, 0)?;
            self.n_frac_active_samples = 0;
        }
        self.course.step(&mut self.sae, &self.batch, None)?;
        self.n_frac_active_samples += self.rows() as u64;
        Ok(())
    }

    /// What the latest step measured. Waits for the device. Error: a step so far was not finite.
    pub fn report(&mut self) -> Result<StepReport> {
        if let Some(step) = self.sae.first_non_finite_step()? {
            let what = format!("step {step}: the loss is not finite; try a lower lr, or look for extreme activations");
            return Err(Error::NonFinite(what));
        }
        self.sae.report(true)
    }

    /// The SAE as it stands, ready to encode and decode; the trainer goes on.
    pub fn sae(&self) -> Result<Sae<B>> {
        let trained = Trained::of(&self.backend, &self.recipe, &self.config, &self.sae)?;
        let (config, weights) = trained.inference(&self.recipe);
        Sae::new(&self.backend, &config, &weights)
    }

    /// Writes the SAE as it stands: the folder that SAELens loads, with `sparsity.safetensors` and
    /// `runner_cfg.json`.
    pub fn save(&mut self, folder: &Path) -> Result<()> {
        let samples = self.n_frac_active_samples;
        export(&self.backend, &self.recipe, &self.config, &mut self.sae, samples, folder)
    }
}
