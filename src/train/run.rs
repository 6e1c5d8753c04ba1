//! The run: recipe in, run folder out. Readable from top to bottom: open, train, finish. A run trains a
//! list of SAEs on one stream of activations; mostly there is one in it.

use super::log::Log;
use super::progress::Reporter;
use super::summary::SweepSummary;
use super::trainee::{Due, Trainee};
use super::{b_dec, checkpoint, setup, Options, Summary};
use crate::backend::Backend;
use crate::config::{Recipe, Sweep};
use crate::data::ActivationSource;
use crate::error::{Error, Result};
use crate::formats::write;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Trains an SAE as the recipe says and leaves a run folder. Errors: a setting that cannot be used, a
/// file that cannot be read or written, a loss that is not finite, an interruption (after saving).
pub fn run<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    options: &Options,
    reporter: &mut dyn Reporter,
) -> Result<Summary> {
    run_sweep(backend, &recipe.clone().into(), options, reporter)?.of_one()
}

/// Trains all SAEs of a sweep in one pass over the data and leaves a run folder in which each has one of
/// its own. Each is bit for bit the SAE of its own run. Errors: as of [`run`].
pub fn run_sweep<B: Backend>(
    backend: &B,
    sweep: &Sweep,
    options: &Options,
    reporter: &mut dyn Reporter,
) -> Result<SweepSummary> {
    let mut run = Run::open(backend, sweep, options, reporter)?;
    run.train(reporter)?;
    run.finish(reporter)
}

/// How many steps at most go by until somebody looks whether they were finite.
const FINITE_EVERY: u64 = 100;

/// A run between its files and its next step.
struct Run<'a, B: Backend> {
    options: &'a Options,
    /// What all SAEs share stands in the first one's as well as in any other's.
    recipe: Recipe,
    out: PathBuf,
    saes: Vec<Trainee<B>>,
    /// One for every SAE.
    logs: Vec<Log>,
    source: Box<dyn ActivationSource<B>>,
    /// What the next step trains on, if there is one: a batch of every hook.
    batches: Vec<B::Buffer<f32>>,
    evaluator: Option<setup::Evaluator<B>>,
    epochs: u64,
    progress: checkpoint::Progress,
    started: Instant,
    first_step: u64,
    last_checkpoint: Instant,
}

impl<'a, B: Backend> Run<'a, B> {
    fn open(backend: &B, sweep: &Sweep, options: &'a Options, reporter: &mut dyn Reporter) -> Result<Self> {
        let members = sweep.members()?;
        let hook_names = setup::hook_names(&members);
        let parts = setup::open(backend, &members[0].recipe, &hook_names, reporter)?;
        let setup::Parts { mut source, evaluator, origins } = parts;
        let widths = source.widths();
        let mut saes = Vec::with_capacity(members.len());
        for member in members {
            let hook = hook_names.iter().position(|name| *name == member.recipe.hook_name).unwrap_or_default();
            let target = setup::target_hook(&member.recipe, &hook_names, &widths)?;
            let mut trainee = Trainee::new(backend, member, hook, widths[hook], origins[hook].clone())?;
            trainee.target = target;
            saes.push(trainee);
        }
        let (recipe, out) = (saes[0].recipe.clone(), options.out.clone());
        let progress = if options.resume {
            let checkpoint = checkpoint::newest(&out)?;
            reporter.message(&format!("going on from {}", checkpoint.display()));
            checkpoint::restore(&checkpoint, &mut saes, source.as_mut())?
        } else {
            let scales = setup::input_scales(backend, &recipe, source.as_mut(), reporter)?;
            for Trainee { hook, target, sae, .. } in &mut saes {
                sae.input_scale = scales[*hook];
                sae.output_scale = target.map_or(1.0, |target| scales[target]);
            }
            b_dec::initialize(backend, &recipe, source.as_mut(), &mut saes, reporter)?;
            checkpoint::Progress::default()
        };
        let now = Instant::now();
        let (epochs, rows) = (source.epochs(), recipe.train_batch_size_tokens);
        let total = recipe.total_training_steps() as u64;
        reporter.start(total * rows as u64, progress.n_training_samples);
        // The first batches are read before the run folder is made: data that cannot be used leaves none.
        let batches = widths.iter().map(|d_in| backend.zeros(rows * d_in));
        let mut batches = batches.collect::<Result<Vec<_>>>()?;
        if progress.n_training_steps < total {
            source.next_batches(&mut batches)?;
        }
        if !options.resume {
            write::folder(&out)?;
            if sweep.is_several() {
                write::text(&out.join("recipe.toml"), &sweep.to_toml())?;
            }
            for trainee in &saes {
                let folder = trainee.folder_in(&out);
                write::folder(&folder)?;
                write::text(&folder.join("recipe.toml"), &trainee.recipe.to_toml())?;
            }
        }
        let log =
            |trainee: &Trainee<B>| Log::open(&trainee.folder_in(&out), progress.n_training_steps, recipe.tensorboard);
        Ok(Run {
            logs: saes.iter().map(log).collect::<Result<_>>()?,
            epochs,
            first_step: progress.n_training_steps,
            started: now,
            last_checkpoint: now,
            options,
            recipe,
            out,
            saes,
            source,
            batches,
            evaluator,
            progress,
        })
    }

    fn train(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let total = self.total_steps();
        let rows = self.recipe.train_batch_size_tokens;
        while self.progress.n_training_steps < total {
            self.step()?;
            self.progress.n_training_steps += 1;
            self.progress.n_training_samples += rows as u64;
            self.progress.n_frac_active_samples += rows as u64;
            reporter.step(self.progress.n_training_samples);
            if self.progress.n_training_steps.is_multiple_of(FINITE_EVERY) {
                self.check_finite(reporter)?;
            }
            self.log_step(reporter)?;
            self.evaluator.as_mut().map_or(Ok(()), setup::Evaluator::read_rows)?;
            self.save_if_due(reporter)?;
            if self.progress.n_training_steps < total {
                self.next_batches(reporter)?;
            }
        }
        reporter.finish();
        Ok(())
    }

    /// A step of every SAE, and what the source can do for the next ones meanwhile.
    fn step(&mut self) -> Result<()> {
        let to_come = self.total_steps() - self.progress.n_training_steps - 1;
        let is_shared = self.saes[0].backend.is_shared();
        let Run { saes, batches, source, .. } = self;
        let mut train = || {
            let mut trained = saes.iter_mut().filter(|trainee| trainee.stopped.is_none());
            trained.try_for_each(|trainee| trainee.step(batches))
        };
        if !is_shared {
            return train();
        }
        let (trained, prepared) = rayon::join(train, || source.prepare(to_come));
        trained.and(prepared)
    }

    fn total_steps(&self) -> u64 {
        self.recipe.total_training_steps() as u64
    }

    fn next_batches(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let there_is_one = self.source.next_batches(&mut self.batches)?;
        debug_assert!(there_is_one, "the sources of a run repeat their data");
        if self.source.epochs() > self.epochs {
            self.epochs = self.source.epochs();
            reporter.message(&format!("the data ended and begins again (pass {})", self.epochs + 1));
        }
        Ok(())
    }

    /// Stops SAEs of which a step so far was not finite; fails if none is left. It is asked before numbers
    /// are logged and weights saved.
    fn check_finite(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let mut last = None;
        for trainee in self.saes.iter_mut().filter(|trainee| trainee.stopped.is_none()) {
            let Some(what) = trainee.not_finite()? else { continue };
            if !trainee.name.is_empty() {
                reporter.message(&format!("{} is stopped: {what}", trainee.name));
            }
            last = Some((what.clone(), trainee.terms()?));
            trainee.stopped = Some(what);
        }
        let (Some((what, terms)), true) = (last, self.saes.iter().all(|trainee| trainee.stopped.is_some())) else {
            return Ok(());
        };
        let folder = self.out.join("checkpoints");
        let good = match checkpoint::all(&folder)?.last() {
            Some(step) => format!("the last good checkpoint is {}", folder.join(step.to_string()).display()),
            None => "there is no checkpoint yet".into(),
        };
        Err(Error::NonFinite(format!(
            "{what} (after step {}: {terms}); {good}; try a lower lr, or look for extreme activations",
            self.progress.n_training_steps
        )))
    }

    fn log_step(&mut self, reporter: &mut dyn Reporter) -> Result<()> {
        let (step, last) = (self.progress.n_training_steps, self.progress.n_training_steps == self.total_steps());
        let every = |steps: usize| step.is_multiple_of(steps as u64);
        let due = Due {
            line: every(self.recipe.log_every) || last,
            window: every(self.recipe.feature_sampling_window),
            evaluation: self.evaluator.is_some() && self.recipe.eval_every_n_steps.is_some_and(every),
        };
        if !(due.line || due.window || due.evaluation) {
            return Ok(());
        }
        self.check_finite(reporter)?;
        let mut watched = Vec::new();
        let trained = self.saes.iter_mut().zip(&mut self.logs).filter(|(trainee, _)| trainee.stopped.is_none());
        for (trainee, log) in trained {
            watched.extend(trainee.log_step(&self.progress, due, self.evaluator.as_mut(), log)?);
        }
        // The last window stays for sparsity.safetensors.
        if due.window && !last {
            self.saes.iter_mut().try_for_each(Trainee::begin_window)?;
            self.progress.n_frac_active_samples = 0;
        }
        if due.line {
            reporter.metrics(&watched);
        }
        Ok(())
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
        self.check_finite(reporter)?;
        self.logs.iter_mut().try_for_each(Log::sync)?;
        let folder = self.out.join("checkpoints");
        let path = checkpoint::save(&folder, &self.saes, self.source.as_ref(), &self.progress)?;
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

    /// Last checkpoint, last evaluations, the SAELens folders, and a table of several SAEs.
    fn finish(mut self, reporter: &mut dyn Reporter) -> Result<SweepSummary> {
        if self.recipe.save_final_checkpoint && self.progress.n_training_steps > self.first_step {
            self.save_checkpoint(reporter)?;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        self.saes.iter_mut().for_each(|trainee| trainee.sae.end_training());
        let mut saes = Vec::with_capacity(self.saes.len());
        for trainee in &mut self.saes {
            saes.push(trainee.finish(&self.progress, self.evaluator.as_mut(), &self.out)?);
        }
        if saes.iter().any(|sae| !sae.name.is_empty()) {
            write::json(&self.out.join("summary.json"), &saes)?;
        }
        let steps = self.progress.n_training_steps - self.first_step;
        let tokens = steps as f64 * self.recipe.train_batch_size_tokens as f64;
        Ok(SweepSummary {
            steps: self.progress.n_training_steps,
            n_training_samples: self.progress.n_training_samples,
            tokens_per_second: (steps > 0).then_some(tokens / seconds),
            saes,
            out: self.out,
        })
    }
}
