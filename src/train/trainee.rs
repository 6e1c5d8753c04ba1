//! One SAE of a run: what is its own, from its first weights to the folder that others load.

use super::checkpoint::Progress;
use super::course::Course;
use super::export::{export, Trained};
use super::log::Log;
use super::progress::StepMetrics;
use super::summary::SaeSummary;
use super::{metrics, setup};
use crate::backend::Backend;
use crate::config::{Member, Recipe};
use crate::error::Result;
use crate::eval::Report;
use crate::formats::saelens;
use crate::formats::write;
use crate::sae::config::SaeConfig;
use crate::sae::report::StepReport;
use crate::sae::step::TrainingSae;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use toml::Table;

/// What is to be done after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// A line of metrics that a step gives.
    pub line: bool,
    /// The end of a `feature_sampling_window`.
    pub window: bool,
    /// An evaluation.
    pub evaluation: bool,
}

/// An SAE in training.
pub struct Trainee<B: Backend> {
    /// Where everything is computed.
    pub backend: B,
    /// What tells it from the others of its run; empty where there is only one.
    pub name: String,
    settings: Table,
    /// Without `auto`: every number stands in it.
    pub recipe: Recipe,
    /// Its place among the hooks of the run.
    pub hook: usize,
    /// Likewise of a transcoder's output.
    pub target: Option<usize>,
    /// What `cfg.json` says while it is trained.
    pub config: SaeConfig,
    /// Parameters, optimizer state and statistics.
    pub sae: TrainingSae<B>,
    /// Schedules, control and resampling.
    pub course: Course,
    /// Why it is trained no further than the others of its run, if so.
    pub stopped: Option<String>,
    /// The report of the last logged step, which the last step of a run is.
    last: Option<StepReport>,
}

impl<B: Backend> Trainee<B> {
    /// An SAE before its first step, on activations of width `d_in` that come from the run's n-th hook;
    /// `origin` is as for [`setup::sae_config`]. Errors: its recipe is impossible, or the weights that it
    /// is to start from cannot be used.
    pub fn new(backend: &B, member: Member, hook: usize, d_in: usize, origin: Map<String, Value>) -> Result<Self> {
        let recipe = member.recipe.resolve(d_in)?;
        let config = setup::sae_config(&recipe, origin);
        let sae = setup::training_sae(backend, &recipe, &config)?;
        Ok(Trainee {
            backend: backend.clone(),
            name: member.name,
            settings: member.settings,
            course: Course::new(&recipe),
            recipe,
            hook,
            target: None,
            config,
            sae,
            stopped: None,
            last: None,
        })
    }

    /// Its own folder in one of the run's: that itself, if it is alone.
    pub fn folder_in(&self, folder: &Path) -> PathBuf {
        if self.name.is_empty() {
            return folder.to_path_buf();
        }
        folder.join(&self.name)
    }

    /// Trains on the batches `[B, D]` of all hooks.
    pub fn step(&mut self, batches: &[B::Buffer<f32>]) -> Result<()> {
        let y = self.target.map(|target| &batches[target]);
        self.course.step(&mut self.sae, &batches[self.hook], y)
    }

    /// What is wrong, if a step so far was not finite. Waits for the device.
    pub fn not_finite(&mut self) -> Result<Option<String>> {
        let step = self.sae.first_non_finite_step()?;
        Ok(step.map(|step| format!("step {step}: the loss is not finite")))
    }

    /// The loss of the latest step, term by term.
    pub fn terms(&mut self) -> Result<String> {
        let report = self.sae.report(false)?;
        let terms: Vec<String> = report.losses.iter().map(|(name, loss)| format!("{name} {loss}")).collect();
        Ok(format!("{}, gradient norm {}", terms.join(", "), report.grad_norm))
    }

    /// Logs what is due after a step; on a line's step, what people watch.
    pub fn log_step(
        &mut self,
        progress: &Progress,
        due: Due,
        evaluator: Option<&mut setup::Evaluator<B>>,
        log: &mut Log,
    ) -> Result<Option<StepMetrics>> {
        let (step, samples) = (progress.n_training_steps, progress.n_training_samples);
        let report = self.sae.report(due.line)?;
        let since = self.backend.download(&self.sae.firing.since_fired)?;
        let firing = metrics::Firing::of(&since, self.recipe.dead_feature_window);
        let (coefficient, settings) = (self.course.coefficient_key(), self.course.latest());
        let mut line = metrics::of_step(samples, coefficient, &report, settings, firing);
        if let Some(k) = self.course.k(step - 1) {
            line.insert("details/k".into(), k.into());
        }
        if due.window {
            let fired = self.backend.download(&self.sae.firing.fired_count)?;
            line.extend(metrics::of_window(&fired, progress.n_frac_active_samples));
            let density = saelens::log_sparsity(&fired, progress.n_frac_active_samples);
            log.histogram(step, "plots/feature_density_line_chart", &density)?;
        }
        if due.evaluation {
            line.extend(self.evaluate(evaluator)?.iter().flat_map(metrics::of_evaluation));
            let weights = self.sae.values.download(&self.backend, self.config.d_in)?;
            log.histogram(step, "weights/W_dec_norms", &weights.decoder_norms())?;
            for (name, key) in [("b_enc", "b_e"), ("b_gate", "b_gate"), ("b_mag", "b_mag")] {
                if let Some(vector) = weights.find(name) {
                    log.histogram(step, &format!("weights/{key}"), &vector.values)?;
                }
            }
        }
        log.write(step, samples, &line)?;
        let watched = report.explained_variance.map(|variance| StepMetrics {
            name: self.name.clone(),
            loss: report.overall_loss(),
            l0: report.l0,
            explained_variance: variance.pooled,
            dead_features: firing.dead_features,
        });
        if watched.is_some() {
            self.last = Some(report);
        }
        Ok(watched)
    }

    /// Counts firing from 0 again.
    pub fn begin_window(&mut self) -> Result<()> {
        self.backend.fill(&mut self.sae.firing.fired_count, 0)
    }

    /// The SAE as it stands, on the held-out rows; none without a language model.
    fn evaluate(&self, evaluator: Option<&mut setup::Evaluator<B>>) -> Result<Option<Report>> {
        let Some(evaluator) = evaluator else { return Ok(None) };
        let trained = Trained::of(&self.backend, &self.recipe, &self.config, &self.sae)?;
        let (config, weights) = trained.inference(&self.recipe);
        evaluator.evaluate(&self.backend, &config, weights).map(Some)
    }

    /// Last evaluation, and the SAELens folder, into the run folder `out`.
    pub fn finish(
        &mut self,
        progress: &Progress,
        evaluator: Option<&mut setup::Evaluator<B>>,
        out: &Path,
    ) -> Result<SaeSummary> {
        let dead_features = self.sae.count_dead()?;
        let mut summary = SaeSummary {
            name: self.name.clone(),
            settings: self.settings.clone(),
            stopped: self.stopped.clone(),
            l0: None,
            explained_variance: None,
            ce_loss_score: None,
            dead_features: dead_features as u64,
            d_sae: self.config.d_sae,
        };
        if summary.stopped.is_some() {
            return Ok(summary);
        }
        let out = self.folder_in(out);
        let report = self.evaluate(evaluator)?;
        if let Some(report) = &report {
            write::json(&out.join("eval.json"), report)?;
        }
        let samples = progress.n_frac_active_samples;
        export(&self.backend, &self.recipe, &self.config, &mut self.sae, samples, &out)?;
        // Without a model to evaluate with, the last step's numbers stand in; a run that had ended
        // when it was resumed has none.
        let last = self.last.as_ref();
        summary.l0 = report.as_ref().map(|report| report.sparsity.l0).or(last.map(|report| report.l0));
        let of_last = last.and_then(|report| report.explained_variance).map(|variance| variance.pooled);
        let variance = report.as_ref().map(|report| report.reconstruction_quality.explained_variance);
        summary.explained_variance = variance.or(of_last);
        summary.ce_loss_score = report.map(|report| report.model_performance_preservation.ce_loss_score);
        Ok(summary)
    }
}
