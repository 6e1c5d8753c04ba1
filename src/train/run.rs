//! The run: recipe in, run folder out. Readable from top to bottom: open, train, finish.

use super::log::MetricsLog;
use super::schedule::{coefficient, LearningRate};
use super::{checkpoint, metrics, setup, Event, Options, Reporter, Summary};
use crate::backend::Backend;
use crate::config::{Architecture, Recipe};
use crate::data::ActivationSource;
use crate::error::{Error, Result};
use crate::eval::Report;
use crate::formats::{saelens, write};
use crate::sae::step::{StepReport, StepSettings, TrainingSae};
use crate::sae::SaeConfig;
use serde_json::{Map, Value};
use std::fs;
use std::path::PathBuf;
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
    evaluator: Option<setup::Evaluator<B>>,
    log: MetricsLog,
    schedule: LearningRate,
    progress: checkpoint::Progress,
    /// The last step's report, if a step was done.
    last: Option<StepReport>,
    started: Instant,
    first_step: u64,
    last_checkpoint: Instant,
}

impl<'a, B: Backend> Run<'a, B> {
    fn open(backend: &'a B, recipe: &Recipe, options: &'a Options, reporter: &mut dyn Reporter) -> Result<Self> {
        let resume = options.resume.as_deref().map(checkpoint::find).transpose()?;
        let out = match &resume {
            // A checkpoint lies in RUN/checkpoints/STEP.
            Some(checkpoint) => checkpoint.ancestors().nth(2).unwrap_or(checkpoint).to_path_buf(),
            None => options.out.clone(),
        };
        let recipe = if resume.is_some() { Recipe::load(&out.join("recipe.toml"))? } else { recipe.clone() };
        recipe.validate()?;
        let mut parts = setup::open(backend, &recipe, reporter)?;
        let recipe = recipe.resolve(parts.source.width())?;
        let sae_config = setup::sae_config(&recipe);
        let mut sae = TrainingSae::new(backend, setup::training_config(&recipe), &setup::weights(&recipe, &sae_config)?)?;

        write::folder(&out)?;
        let progress = match &resume {
            Some(checkpoint) => checkpoint::restore(checkpoint, backend, &mut sae, parts.source.as_mut())?,
            None => {
                write::text(&out.join("recipe.toml"), &recipe.to_toml())?;
                sae.input_scale = setup::input_scale(backend, &recipe, parts.source.as_mut(), reporter)?;
                checkpoint::Progress::default()
            }
        };
        let log = MetricsLog::open(&out, progress.n_training_steps, recipe.tensorboard)?;
        let now = Instant::now();
        Ok(Run {
            backend,
            options,
            sae_config,
            sae,
            source: parts.source,
            evaluator: parts.evaluator,
            log,
            schedule: setup::learning_rate(&recipe),
            progress,
            last: None,
            started: now,
            first_step: progress.n_training_steps,
            last_checkpoint: now,
            out,
            recipe,
        })
    }

    fn train(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let total = self.recipe.total_training_steps() as u64;
        let rows = self.recipe.train_batch_size_tokens;
        let mut batch = self.backend.zeros(rows * self.sae_config.d_in)?;
        reporter.event(&Event::Started { first_step: self.first_step, total_steps: total, batch_tokens: rows });
        while self.progress.n_training_steps < total {
            self.next_batch(&mut batch, reporter)?;
            let settings = self.settings();
            let report = self.sae.step(&batch, &settings)?;
            self.progress.n_training_steps += 1;
            self.progress.n_training_samples += rows as u64;
            self.progress.n_frac_active_samples += rows as u64;
            self.check_finite(&report)?;
            self.log_step(&report, &settings, reporter)?;
            self.last = Some(report);
            self.save_if_due(reporter)?;
        }
        Ok(())
    }

    fn next_batch(&mut self, batch: &mut B::Buffer<f32>, reporter: &mut dyn Reporter) -> Result<()> {
        if !self.source.next_batch(batch)? {
            return Err(Error::config(
                "training_tokens",
                format!(
                    "the activations end after {} of {} tokens; ask for fewer or give more",
                    self.progress.n_training_samples, self.recipe.training_tokens
                ),
            ));
        }
        for message in self.source.take_messages() {
            reporter.event(&Event::Message(message));
        }
        Ok(())
    }

    /// What the schedules say for the step to come.
    fn settings(&self) -> StepSettings {
        let step = self.progress.n_training_steps;
        let coefficient = match self.recipe.architecture {
            Architecture::Standard => {
                coefficient(self.recipe.l1_coefficient, self.recipe.l1_warm_up_steps() as u64, step)
            }
            Architecture::TopK => 0.0,
        };
        StepSettings { lr: self.schedule.at(step), coefficient, with_variance: self.is_logged(step + 1) }
    }

    fn is_logged(&self, step: u64) -> bool {
        step.is_multiple_of(self.recipe.log_every as u64) || step == self.recipe.total_training_steps() as u64
    }

    fn check_finite(&self, report: &StepReport) -> Result<()> {
        if report.overall_loss().is_finite() && report.grad_norm.is_finite() {
            return Ok(());
        }
        let terms: Vec<String> = report.losses.iter().map(|(name, loss)| format!("{name} {loss}")).collect();
        let folder = self.out.join("checkpoints");
        let good = match checkpoint::all(&folder)?.last() {
            Some(step) => format!("the last good checkpoint is {}", folder.join(step.to_string()).display()),
            None => "there is no checkpoint yet".into(),
        };
        let step = self.progress.n_training_steps;
        let terms = terms.join(", ");
        Err(Error::NonFinite(format!(
            "step {step}: the loss is not finite ({terms}, gradient norm {}); {good}; try a lower lr or look for \
             extreme activations",
            report.grad_norm
        )))
    }

    fn log_step(&mut self, report: &StepReport, settings: &StepSettings, reporter: &mut dyn Reporter) -> Result<()> {
        let step = self.progress.n_training_steps;
        let logged = self.is_logged(step);
        let window_ends = step.is_multiple_of(self.recipe.feature_sampling_window as u64);
        let evaluated = self.recipe.eval_every_n_steps.is_some_and(|every| step.is_multiple_of(every as u64))
            && self.evaluator.is_some();
        if !(logged || window_ends || evaluated) {
            reporter.event(&Event::Advanced { step });
            return Ok(());
        }
        let since = self.backend.download(&self.sae.firing.since_fired)?;
        let since = since.iter().map(|&n| f64::from(n)).sum::<f64>() / since.len() as f64;
        let architecture = self.recipe.architecture.name();
        let samples = self.progress.n_training_samples;
        let mut line = metrics::step_line(step, samples, architecture, report, settings, since);
        if window_ends {
            let fired = self.backend.download(&self.sae.firing.fired_count)?;
            line.extend(metrics::window_line(&fired, self.progress.n_frac_active_samples));
            // The last window stays for sparsity.safetensors.
            if step < self.recipe.total_training_steps() as u64 {
                self.backend.fill(&mut self.sae.firing.fired_count, 0)?;
                self.progress.n_frac_active_samples = 0;
            }
        }
        if evaluated {
            line.extend(self.evaluate()?.expect("an evaluator is there").to_metrics());
        }
        self.log.write(&line)?;
        reporter.event(&Event::Step { step, metrics: line });
        Ok(())
    }

    fn evaluate(&mut self) -> Result<Option<Report>> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(None) };
        let (config, weights) = setup::inference(self.backend, &self.sae_config, &self.sae)?;
        evaluator.evaluate(self.backend, &config, &weights).map(Some)
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
        let (total, n) = (self.recipe.total_training_steps() as u64, self.recipe.n_checkpoints as u64);
        n > 0 && step < total && step.is_multiple_of(total.div_ceil(n + 1))
    }

    fn save_checkpoint(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        self.log.sync()?;
        let folder = self.out.join("checkpoints");
        let (config, sae, source) = (&self.sae_config, &self.sae, self.source.as_ref());
        let path = checkpoint::save(&folder, self.backend, config, sae, source, &self.progress)?;
        // Checkpoints by the clock replace one another; the scheduled ones stay.
        for older in checkpoint::all(&folder)? {
            if older < self.progress.n_training_steps && !self.is_kept(older) {
                let older = folder.join(older.to_string());
                fs::remove_dir_all(&older).map_err(Error::io(&older, "remove"))?;
            }
        }
        self.last_checkpoint = Instant::now();
        reporter.event(&Event::Saved(path));
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
            write::text(&self.out.join("eval.json"), &text)?;
        }
        self.export(dead_features)?;
        reporter.event(&Event::Saved(self.out.clone()));
        let of_step = |value: fn(&StepReport) -> f64| self.last.as_ref().map_or(f64::NAN, value);
        let variance = |report: &StepReport| report.explained_variance.map_or(f64::NAN, |variance| variance.pooled);
        let steps = self.progress.n_training_steps - self.first_step;
        let tokens = steps as f64 * self.recipe.train_batch_size_tokens as f64;
        Ok(Summary {
            steps: self.progress.n_training_steps,
            training_tokens: self.progress.n_training_samples,
            l0: report.as_ref().map_or_else(|| of_step(|report| report.l0), |report| report.sparsity.l0),
            explained_variance: report
                .as_ref()
                .map_or_else(|| of_step(variance), |report| report.reconstruction_quality.explained_variance),
            ce_loss_score: report.map(|report| report.model_performance_preservation.ce_loss_score),
            dead_features,
            d_sae: self.sae_config.d_sae,
            seconds,
            tokens_per_second: tokens / seconds,
            out: self.out,
        })
    }

    fn export(&self, dead_features: usize) -> Result<()> {
        let (mut config, weights) = setup::inference(self.backend, &self.sae_config, &self.sae)?;
        let fired = self.backend.download(&self.sae.firing.fired_count)?;
        let samples = self.progress.n_frac_active_samples;
        let l0 = fired.iter().map(|&n| f64::from(n)).sum::<f64>() / samples.max(1) as f64;
        config.metadata.insert("l0".into(), l0.into());
        config.metadata.insert("num_dead_features".into(), dead_features.into());
        let sparsity = metrics::log_sparsity(&fired, samples);
        let runner: Map<String, Value> = setup::runner_config(&self.recipe, &self.sae_config);
        saelens::save_inference(&self.out, &config, &weights, Some(&sparsity), Some(&runner))
    }
}
