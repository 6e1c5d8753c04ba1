//! The operations of a run, and how long they take at measured rates.

use super::{Measured, Rates, Sizes, Source};
use crate::lm::ModelConfig;
use crate::sae::kind::{self, Operations};
use indicatif::HumanDuration;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What a gathered multiplication costs, in those of a dense product: it waits for memory.
const SPARSE_COST: f64 = 10.0;

/// Operations in all, and the time they take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    /// Rates that were measured on this machine.
    pub rates: Rates,
    /// Floating-point operations of the language model for training.
    pub model_operations: f64,
    /// Those of the evaluations.
    pub evaluation_operations: f64,
    /// Dense ones of the SAE.
    pub sae_operations: f64,
    /// Those of the SAE on lists of active latents, each of which takes as long as ten dense ones.
    pub sparse_operations: f64,
    /// Parameters that Adam updates, steps times parameters.
    pub adam_updates: f64,
    /// Passes of the language model for training.
    pub passes: f64,
    /// Steps and passes that were done: see [`super::Plan::measure`].
    pub measured: Option<Measured>,
    /// The estimate: by what was measured, or else by the operations at the rates, which is the least.
    pub seconds: f64,
}

pub(super) fn estimate(sizes: &Sizes<'_>, rates: Rates) -> Time {
    let steps = sizes.steps as f64;
    let (sae, sparse) = sae_step(sizes);
    let (passes, model_operations, evaluation_operations) = match sizes.source {
        Source::Stored => (0.0, 0.0, 0.0),
        Source::Model { config, blocks } => {
            let (passes, operations) = training(sizes, config, *blocks);
            (passes, operations, evaluations(sizes, config, *blocks))
        }
    };
    let time = Time {
        rates,
        model_operations,
        evaluation_operations,
        sae_operations: steps * sae,
        sparse_operations: steps * sparse,
        adam_updates: steps * sizes.parameters() as f64,
        passes,
        measured: None,
        seconds: 0.0,
    };
    time.summed()
}

impl Time {
    /// With the seconds that follow from the operations.
    fn summed(mut self) -> Self {
        self.seconds = (self.model_operations + self.evaluation_operations) / self.rates.dense + self.sae_seconds();
        self
    }

    fn sae_seconds(&self) -> f64 {
        let dense = self.sae_operations + SPARSE_COST * self.sparse_operations;
        dense / self.rates.dense + self.adam_updates / self.rates.adam
    }

    /// Seconds of one of `steps` training steps and of a pass of the model, by their operations.
    pub(super) fn of_one(&self, steps: u64) -> [f64; 2] {
        let pass = if self.passes > 0.0 { self.model_operations / self.rates.dense / self.passes } else { 0.0 };
        [self.sae_seconds() / steps as f64, pass]
    }

    /// Takes what was measured for what is estimated by operations; evaluations run the model at the speed
    /// that it had in a pass.
    pub(super) fn take(&mut self, measured: Measured, steps: u64) {
        let in_passes = self.passes * measured.pass_seconds;
        let rate = if self.model_operations > 0.0 { self.model_operations / in_passes } else { self.rates.dense };
        self.seconds = steps as f64 * measured.step_seconds + in_passes + self.evaluation_operations / rate;
        self.measured = Some(measured);
    }

    /// That of two SAEs at once: the language model runs for both, up to the later one's hook.
    pub(super) fn and(self, other: Time) -> Time {
        let both = Time {
            model_operations: self.model_operations.max(other.model_operations),
            passes: self.passes.max(other.passes),
            evaluation_operations: self.evaluation_operations + other.evaluation_operations,
            sae_operations: self.sae_operations + other.sae_operations,
            sparse_operations: self.sparse_operations + other.sparse_operations,
            adam_updates: self.adam_updates + other.adam_updates,
            ..self
        };
        both.summed()
    }
}

/// Dense and sparse operations of a training step, 2 for each multiplication.
fn sae_step(sizes: &Sizes<'_>) -> (f64, f64) {
    let of_row = 2.0 * sizes.batch as f64 * sizes.d_in as f64;
    let Operations { dense, gathered } = kind::of(sizes.recipe).operations(sizes.recipe, sizes.dims());
    (dense * of_row * sizes.d_sae as f64, gathered * of_row)
}

/// Operations on one token in `blocks` blocks: every weight once, and scores and values of the
/// average of `context / 2` positions that attention looks at.
fn per_token(config: &ModelConfig, blocks: usize, context: usize) -> f64 {
    let (d_model, d_mlp) = (config.d_model as f64, config.d_mlp as f64);
    blocks as f64 * 2.0 * (4.0 * d_model * d_model + 2.0 * d_model * d_mlp + d_model * context as f64)
}

/// Passes and operations for the tokens of the run, those that fill the buffer, and those at positions that
/// are not used.
fn training(sizes: &Sizes<'_>, config: &ModelConfig, blocks: usize) -> (f64, f64) {
    let recipe = sizes.recipe;
    let used = recipe.training_context_size() as f64 / recipe.context_size as f64;
    let tokens = (sizes.steps * sizes.batch + recipe.buffer_tokens as u64) as f64 / used;
    let of_pass = (recipe.store_batch_size_prompts * recipe.context_size) as f64;
    (tokens / of_pass, tokens * per_token(config, blocks, recipe.context_size))
}

/// A batch of the first half is run through the whole model three times (as it is, with the SAE, with
/// the hook ablated) and unembedded seven times, as the divergence of a run needs both distributions;
/// one of the second half is run up to the hook. The SAE encodes both.
fn evaluations(sizes: &Sizes<'_>, config: &ModelConfig, blocks: usize) -> f64 {
    if sizes.recipe.architecture.transcodes() {
        return 0.0;
    }
    let recipe = sizes.recipe;
    // The last evaluation comes after the last step, whatever the interval.
    let during = recipe.eval_every_n_steps.map_or(0, |every| (sizes.steps - 1) / every as u64);
    let rows = (recipe.n_eval_batches * recipe.eval_batch_size_prompts()) as u64;
    let tokens = ((during + 1) * rows) as f64 * recipe.context_size as f64;
    let unembedding = 2.0 * config.d_model as f64 * config.d_vocab as f64;
    let model = per_token(config, 3 * config.n_layers + blocks, recipe.context_size);
    let sae = 2.0 * sizes.d_in as f64 * sizes.d_sae as f64;
    tokens * (model + 7.0 * unembedding + 2.0 * sae)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = HumanDuration(Duration::from_secs_f64(self.seconds));
        let giga = |operations: f64| operations / 1e9;
        match self.measured {
            Some(Measured { step_seconds, pass_seconds }) => writeln!(
                f,
                "time    about {duration} if this machine stays as busy as it is: a step took {step_seconds:.3} s just now, \
                 a pass of the model {pass_seconds:.3} s"
            )?,
            None => writeln!(f, "time    at least {duration}, at rates measured just now on this machine:")?,
        }
        writeln!(
            f,
            "        {:.0} GFLOP/s in dense products, {:.0} million Adam updates/s",
            giga(self.rates.dense),
            self.rates.adam / 1e6
        )?;
        writeln!(
            f,
            "        language model {:.0} GFLOP, evaluations {:.0} GFLOP",
            giga(self.model_operations),
            giga(self.evaluation_operations)
        )?;
        writeln!(
            f,
            "        SAE {:.0} GFLOP dense, {:.0} GFLOP on lists (counted {SPARSE_COST} times)",
            giga(self.sae_operations),
            giga(self.sparse_operations)
        )?;
        writeln!(f, "        Adam {:.0} million updates", self.adam_updates / 1e6)
    }
}
