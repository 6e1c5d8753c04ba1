//! What a recipe does around the steps of one SAE: its schedules before a step, the control of its
//! coefficient and the resampling of its dead latents after it.

use super::control::TargetL0;
use super::schedule::{coefficient, LearningRate};
use super::setup;
use crate::backend::Backend;
use crate::config::Recipe;
use crate::error::Result;
use crate::random::{Random, Stream};
use crate::sae::kind::{self, Coefficient};
use crate::sae::resample::Candidates;
use crate::sae::step::{StepSettings, TrainingSae};

/// The course of a training.
pub struct Course {
    recipe: Recipe,
    learning_rate: LearningRate,
    coefficient: Option<Coefficient>,
    /// The control of the coefficient, where the recipe has a target.
    pub control: Option<TargetL0>,
    /// The inputs so far that the next resampling may start latents from.
    pub candidates: Candidates,
    latest: StepSettings,
}

impl Course {
    /// Of a resolved recipe.
    pub fn new(recipe: &Recipe) -> Self {
        Course {
            learning_rate: setup::learning_rate(recipe),
            coefficient: kind::of(recipe).coefficient(recipe),
            control: TargetL0::of(recipe),
            candidates: Candidates::default(),
            latest: StepSettings { lr: 0.0, coefficient: 0.0 },
            recipe: recipe.clone(),
        }
    }

    /// SAELens' name of the coefficient that changes, if there is one.
    pub fn coefficient_key(&self) -> Option<&'static str> {
        self.coefficient.map(|coefficient| coefficient.key)
    }

    /// What the latest step was done with.
    pub fn latest(&self) -> &StepSettings {
        &self.latest
    }

    /// What the next step is done with, `step` steps after the first.
    fn settings(&self, step: u64) -> StepSettings {
        let factor = self.control.as_ref().map_or(1.0, |control| control.factor);
        let of_step = |of: Coefficient| factor * coefficient(of.value, of.warm_up_steps as u64, step);
        StepSettings { lr: self.learning_rate.at(step), coefficient: self.coefficient.map_or(0.0, of_step) }
    }

    /// k of a step, `step` steps after the first, where it moves.
    pub fn k(&self, step: u64) -> Option<f64> {
        let (start, end) = (self.recipe.k_start?, self.recipe.k);
        let part = (step as f64 / self.recipe.k_anneal_steps() as f64).min(1.0);
        let k = if part < 1.0 { start + (end - start) * part } else { end };
        self.recipe.architecture.has_auxk().then(|| match self.recipe.architecture.selects_by_batch() {
            true => k,
            false => k.round(),
        })
    }

    /// Trains on a batch `[B, D]`; a transcoder predicts `y [B, D]`.
    pub fn step<B: Backend>(
        &mut self,
        sae: &mut TrainingSae<B>,
        batch: &B::Buffer<f32>,
        y: Option<&B::Buffer<f32>>,
    ) -> Result<()> {
        let step = sae.n_training_steps;
        if let Some(k) = self.k(step) {
            sae.set_k(k)?;
        }
        self.latest = self.settings(step);
        sae.step_towards(batch, y, &self.latest)?;
        if let Some(control) = self.control.as_mut().filter(|control| control.is_due(step + 1)) {
            control.observe(sae.report(false)?.l0);
        }
        if self.gathers(step + 1) {
            let mut random = Random::new(self.recipe.seed, Stream::Resampling, (step + 1) as u32);
            sae.gather_candidates(&mut self.candidates, &mut random)?;
        }
        if self.resamples(step + 1) {
            let candidates = std::mem::take(&mut self.candidates);
            sae.resample(&kind::of(&self.recipe).vectors(&self.recipe), &candidates)?;
        }
        Ok(())
    }

    /// Whether the batch of the step after which there are so many is one that the next resampling draws from.
    fn gathers(&self, steps: u64) -> bool {
        let Some(every) = self.recipe.resample_every else { return false };
        let next = steps.next_multiple_of(every as u64);
        next - steps < self.recipe.resample_batches as u64 && self.resamples(next)
    }

    /// Whether dead latents are resampled after so many steps: not where they would have less than a whole
    /// period to learn something.
    fn resamples(&self, steps: u64) -> bool {
        let total = self.recipe.total_training_steps() as u64;
        let every = |every: usize| steps.is_multiple_of(every as u64) && steps + every as u64 <= total;
        self.recipe.resample_every.is_some_and(every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Architecture;

    #[test]
    fn k_moves_in_equal_steps_and_stays() {
        let of = |architecture| Recipe {
            architecture,
            k: 4.0,
            k_start: Some(9.0),
            k_anneal_steps: crate::config::Auto::Value(4),
            ..Recipe::default()
        };
        let ks = |recipe: &Recipe| [0, 1, 2, 3, 4, 50].map(|step| Course::new(recipe).k(step).unwrap());
        assert_eq!(ks(&of(Architecture::BatchTopK)), [9.0, 7.75, 6.5, 5.25, 4.0, 4.0]);
        assert_eq!(ks(&of(Architecture::TopK)), [9.0, 8.0, 7.0, 5.0, 4.0, 4.0]);
        assert_eq!(Course::new(&of(Architecture::Standard)).k(0), None);
        assert_eq!(Course::new(&Recipe::default()).k(0), None);
    }

    #[test]
    fn latents_are_resampled_while_a_whole_period_is_left() {
        let (training_tokens, train_batch_size_tokens) = (100, 1);
        let recipe = Recipe { resample_every: Some(30), training_tokens, train_batch_size_tokens, ..Recipe::default() };
        let course = Course::new(&recipe);
        assert_eq!((1..=100).filter(|&steps| course.resamples(steps)).collect::<Vec<_>>(), [30, 60]);
    }

    #[test]
    fn the_last_batches_before_a_resampling_are_drawn_from() {
        let (training_tokens, train_batch_size_tokens, resample_batches) = (10, 1, 2);
        let recipe = Recipe { training_tokens, train_batch_size_tokens, resample_batches, ..Recipe::default() };
        let gathers = |resample_every, resample_batches| {
            let course = Course::new(&Recipe { resample_every, resample_batches, ..recipe.clone() });
            (1..=10).filter(|&steps| course.gathers(steps)).collect::<Vec<_>>()
        };
        assert_eq!(gathers(Some(4), 2), [3, 4]);
        assert_eq!(gathers(Some(3), 9), [1, 2, 3, 4, 5, 6], "all since the one before");
        assert!(gathers(None, 2).is_empty());
    }
}
