//! The run: recipe in, run folder out. Readable from top to bottom: open, train, finish.

use super::export::{export, Trained};
use super::log::Log;
use super::progress::{Reporter, StepMetrics};
use super::schedule::LearningRate;
use super::{b_dec, checkpoint, metrics, setup, Options, Summary};
use crate::backend::Backend;
use crate::config::Recipe;
use crate::data::ActivationSource;
use crate::error::{Error, Result};
use crate::eval::Report;
use crate::formats::saelens;
use crate::formats::write;
use crate::sae::config::SaeConfig;
use crate::sae::kind;
use crate::sae::report::StepReport;
use crate::sae::step::{StepSettings, TrainingSae};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Trains as the recipe says and leaves a run folder. Errors: a setting that cannot be used, a file
/// that cannot be read or written, a loss that is not finite, an interruption (after saving).
pub fn run<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    options: &Options,
    reporter: &mut dyn Reporter,
) -> Result<Summary> {
    let mut run = Run::open(backend, recipe, options, reporter)?;
    run.train(reporter)?;
    run.finish(reporter)
}

/// How many steps at most go by until somebody looks whether they were finite.
const FINITE_EVERY: u64 = 100;

/// A run between its files and its next step.
struct Run<'a, B: Backend> {
    backend: &'a B,
    options: &'a Options,
    /// Without `auto`: every number stands in it.
    recipe: Recipe,
    out: PathBuf,
    sae_config: SaeConfig,
    sae: TrainingSae<B>,
    source: Box<dyn ActivationSource<B>>,
    /// What the next step trains on, if there is one.
    batch: B::Buffer<f32>,
    evaluator: Option<setup::Evaluator<B>>,
    epochs: u64,
    log: Log,
    schedule: LearningRate,
    progress: checkpoint::Progress,
    /// The report of the last logged step, which the last step of a run is.
    last: Option<StepReport>,
    started: Instant,
    first_step: u64,
    last_checkpoint: Instant,
}

impl<'a, B: Backend> Run<'a, B> {
    fn open(backend: &'a B, recipe: &Recipe, options: &'a Options, reporter: &mut dyn Reporter) -> Result<Self> {
        recipe.validate()?;
        let setup::Parts { mut source, evaluator, origin } = setup::open(backend, recipe, reporter)?;
        let recipe = recipe.resolve(source.width())?;
        let sae_config = setup::sae_config(&recipe, origin);
        let mut sae = setup::training_sae(backend, &recipe, &sae_config)?;
        let out = options.out.clone();
        let progress = if options.resume {
            let checkpoint = checkpoint::newest(&out)?;
            reporter.message(&format!("going on from {}", checkpoint.display()));
            checkpoint::restore(&checkpoint, backend, &mut sae, source.as_mut())?
        } else {
            sae.input_scale = setup::input_scale(backend, &recipe, source.as_mut(), reporter)?;
            b_dec::initialize(backend, &recipe, source.as_mut(), &mut sae, reporter)?;
            checkpoint::Progress::default()
        };
        let now = Instant::now();
        let (epochs, rows) = (source.epochs(), recipe.train_batch_size_tokens);
        let total = recipe.total_training_steps() as u64;
        reporter.start(total * rows as u64, progress.n_training_samples);
        // The first batch is read before the run folder is made: data that cannot be used leaves none.
        let mut batch = backend.zeros(rows * sae_config.d_in)?;
        if progress.n_training_steps < total {
            source.next_batch(&mut batch)?;
        }
        if !options.resume {
            write::folder(&out)?;
            write::text(&out.join("recipe.toml"), &recipe.to_toml())?;
        }
        Ok(Run {
            log: Log::open(&out, progress.n_training_steps, recipe.tensorboard)?,
            schedule: setup::learning_rate(&recipe),
            epochs,
            first_step: progress.n_training_steps,
            started: now,
            last_checkpoint: now,
            last: None,
            backend,
            options,
            recipe,
            out,
            sae_config,
            sae,
            source,
            batch,
            evaluator,
            progress,
        })
    }

    fn train(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let total = self.total_steps();
        let rows = self.recipe.train_batch_size_tokens;
        while self.progress.n_training_steps < total {
            let settings = setup::step_settings(&self.recipe, &self.schedule, self.progress.n_training_steps);
            self.sae.step(&self.batch, &settings)?;
            self.progress.n_training_steps += 1;
            self.progress.n_training_samples += rows as u64;
            self.progress.n_frac_active_samples += rows as u64;
            reporter.step(self.progress.n_training_samples);
            if self.progress.n_training_steps.is_multiple_of(FINITE_EVERY) {
                self.check_finite()?;
            }
            self.log_step(&settings, reporter)?;
            self.save_if_due(reporter)?;
            if self.progress.n_training_steps < total {
                self.next_batch(reporter)?;
            }
        }
        reporter.finish();
        Ok(())
    }

    fn total_steps(&self) -> u64 {
        self.recipe.total_training_steps() as u64
    }

    fn next_batch(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let there_is_one = self.source.next_batch(&mut self.batch)?;
        debug_assert!(there_is_one, "the sources of a run repeat their data");
        if self.source.epochs() > self.epochs {
            self.epochs = self.source.epochs();
            reporter.message(&format!("the data ended and begins again (pass {})", self.epochs + 1));
        }
        Ok(())
    }

    fn is_logged(&self, step: u64) -> bool {
        step.is_multiple_of(self.recipe.log_every as u64) || step == self.total_steps()
    }

    /// Fails if a step so far was not finite. It is asked before numbers are logged and weights saved.
    fn check_finite(&mut self) -> Result<()> {
        let Some(step) = self.sae.first_non_finite_step()? else { return Ok(()) };
        let report = self.sae.report(false)?;
        let terms: Vec<String> = report.losses.iter().map(|(name, loss)| format!("{name} {loss}")).collect();
        let folder = self.out.join("checkpoints");
        let good = match checkpoint::all(&folder)?.last() {
            Some(step) => format!("the last good checkpoint is {}", folder.join(step.to_string()).display()),
            None => "there is no checkpoint yet".into(),
        };
        Err(Error::NonFinite(format!(
            "step {step}: the loss is not finite (after step {}: {}, gradient norm {}); {good}; try a lower lr, or \
             look for extreme activations",
            self.progress.n_training_steps,
            terms.join(", "),
            report.grad_norm
        )))
    }

    fn log_step(&mut self, settings: &StepSettings, reporter: &mut dyn Reporter) -> Result<()> {
        let step = self.progress.n_training_steps;
        let window_ends = step.is_multiple_of(self.recipe.feature_sampling_window as u64);
        let evaluates = self.evaluator.is_some()
            && self.recipe.eval_every_n_steps.is_some_and(|every| step.is_multiple_of(every as u64));
        if !(self.is_logged(step) || window_ends || evaluates) {
            return Ok(());
        }
        self.check_finite()?;
        let report = self.sae.report(self.is_logged(step))?;
        let since = self.backend.download(&self.sae.firing.since_fired)?;
        let firing = metrics::Firing::of(&since, self.recipe.dead_feature_window);
        let coefficient = kind::of(&self.recipe).coefficient(&self.recipe).map(|coefficient| coefficient.key);
        let samples = self.progress.n_training_samples;
        let mut line = metrics::of_step(samples, coefficient, &report, settings, firing);
        if window_ends {
            let fired = self.backend.download(&self.sae.firing.fired_count)?;
            let n_samples = self.progress.n_frac_active_samples;
            line.extend(metrics::of_window(&fired, n_samples));
            let density = saelens::log_sparsity(&fired, n_samples);
            self.log.histogram(step, "plots/feature_density_line_chart", &density)?;
            // The last window stays for sparsity.safetensors.
            if step < self.total_steps() {
                self.backend.fill(&mut self.sae.firing.fired_count, 0)?;
                self.progress.n_frac_active_samples = 0;
            }
        }
        if evaluates {
            line.extend(self.evaluate()?.iter().flat_map(metrics::of_evaluation));
            let weights = self.sae.values.download(self.backend, self.sae_config.d_in)?;
            self.log.histogram(step, "weights/W_dec_norms", &weights.decoder_norms())?;
            for (name, key) in [("b_enc", "b_e"), ("b_gate", "b_gate"), ("b_mag", "b_mag")] {
                if let Some(vector) = weights.find(name) {
                    self.log.histogram(step, &format!("weights/{key}"), &vector.values)?;
                }
            }
        }
        self.log.write(step, samples, &line)?;
        if let Some(variance) = report.explained_variance {
            reporter.metrics(StepMetrics {
                loss: report.overall_loss(),
                l0: report.l0,
                explained_variance: variance.pooled,
                dead_features: firing.dead_features,
            });
            self.last = Some(report);
        }
        Ok(())
    }

    /// The SAE as it stands, on the held-out rows; none without a language model.
    fn evaluate(&self) -> Result<Option<Report>> {
        let Some(evaluator) = &self.evaluator else { return Ok(None) };
        let (config, weights) = self.trained()?.inference(&self.recipe);
        evaluator.evaluate(self.backend, &config, &weights).map(Some)
    }

    fn trained(&self) -> Result<Trained> {
        Trained::of(self.backend, &self.recipe, &self.sae_config, &self.sae)
    }

    /// Checkpoints on schedule and on the clock, and when a signal asks to stop.
    fn save_if_due(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let step = self.progress.n_training_steps;
        let stop = self.options.stop.load(Ordering::Relaxed);
        let by_the_clock = self
            .recipe
            .checkpoint_every_seconds
            .is_some_and(|seconds| self.last_checkpoint.elapsed().as_secs_f64() >= seconds);
        if self.is_kept(step) || by_the_clock || stop {
            self.save_checkpoint(reporter)?;
        }
        if stop {
            return Err(Error::Interrupted(self.out.clone()));
        }
        Ok(())
    }

    /// SAELens' `range(0, total, ceil(total / (n + 1)))[1:]`, in steps.
    fn is_kept(&self, step: u64) -> bool {
        let (total, n) = (self.total_steps(), self.recipe.n_checkpoints as u64);
        n > 0 && step < total && step.is_multiple_of(total.div_ceil(n + 1))
    }

    fn save_checkpoint(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        self.check_finite()?;
        self.log.sync()?;
        let folder = self.out.join("checkpoints");
        let state = checkpoint::State {
            backend: self.backend,
            config: &self.sae_config,
            kind: kind::of(&self.recipe),
            sae: &self.sae,
            source: self.source.as_ref(),
            progress: &self.progress,
        };
        let path = checkpoint::save(&folder, &state)?;
        // Checkpoints by the clock replace one another; the scheduled ones stay.
        for older in checkpoint::all(&folder)? {
            if older < self.progress.n_training_steps && !self.is_kept(older) {
                let older = folder.join(older.to_string());
                fs::remove_dir_all(&older).map_err(Error::io(&older, "remove"))?;
            }
        }
        self.last_checkpoint = Instant::now();
        reporter.message(&format!("saved {}", path.display()));
        Ok(())
    }

    /// Last checkpoint, last evaluation, and the SAELens inference folder.
    fn finish(mut self, reporter: &mut dyn Reporter) -> Result<Summary> {
        if self.recipe.save_final_checkpoint && self.progress.n_training_steps > self.first_step {
            self.save_checkpoint(reporter)?;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let dead_features = self.sae.count_dead()?;
        let report = self.evaluate()?;
        if let Some(report) = &report {
            let text = serde_json::to_string_pretty(report).expect("a report is plain data");
            write::text(&self.out.join("eval.json"), &format!("{text}\n"))?;
        }
        let samples = self.progress.n_frac_active_samples;
        export(self.backend, &self.recipe, &self.sae_config, &mut self.sae, samples, &self.out)?;
        let steps = self.progress.n_training_steps - self.first_step;
        let tokens = steps as f64 * self.recipe.train_batch_size_tokens as f64;
        // Without a model to evaluate with, the last step's numbers stand in; a run that had ended
        // when it was resumed has none.
        let last = self.last.as_ref();
        let l0 = report.as_ref().map(|report| report.sparsity.l0).or(last.map(|report| report.l0));
        let of_last = last.and_then(|report| report.explained_variance).map(|variance| variance.pooled);
        let variance = report.as_ref().map(|report| report.reconstruction_quality.explained_variance).or(of_last);
        Ok(Summary {
            steps: self.progress.n_training_steps,
            n_training_samples: self.progress.n_training_samples,
            l0,
            explained_variance: variance,
            ce_loss_score: report.map(|report| report.model_performance_preservation.ce_loss_score),
            dead_features: dead_features as u64,
            d_sae: self.sae_config.d_sae,
            tokens_per_second: (steps > 0).then_some(tokens / seconds),
            files: files_of(&self.out)?,
            out: self.out,
        })
    }
}

/// The names in a folder, sorted.
fn files_of(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder, "read"))?;
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    Ok(names)
}
