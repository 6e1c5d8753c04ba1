//! How long steps take here and now: where that is cheap, a few are done.

use super::Plan;
use crate::backend::Backend;
use crate::config::{Recipe, Sweep};
use crate::data::open_model;
use crate::error::Result;
use crate::lm::Record;
use crate::random::{Random, Stream};
use crate::train::course::Course;
use crate::train::setup;
use serde::Serialize;
use std::time::Instant;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Seconds of a training step of all SAEs, as they start.
    pub step_seconds: f64,
    /// Seconds of a pass of the language model for training; 0 where activations are stored.
    pub pass_seconds: f64,
}

/// Steps and passes that are timed, after one that is not.
const TIMED: u32 = 3;

/// Steps and passes that take longer, by their operations, are not tried (seconds).
const CHEAP: f64 = 2.0;

impl Plan {
    /// With a time that follows from steps and passes of the model done now, on activations and tokens
    /// drawn at random; the plan as it is if one of them would take long. Errors: the model or weights to
    /// start from cannot be read.
    pub fn measure<B: Backend>(mut self, backend: &B, sweep: &Sweep) -> Result<Self> {
        let Some(time) = &mut self.time else { return Ok(self) };
        if time.of_one(self.steps).iter().any(|&seconds| seconds > CHEAP) {
            return Ok(self);
        }
        let (members, mut step_seconds) = (sweep.members()?, 0.0);
        for (member, sae) in members.iter().zip(&self.saes) {
            step_seconds += step(backend, &member.recipe.resolve(sae.d_in)?)?;
        }
        let recipe = &members[0].recipe;
        let hooks = setup::hook_names(&members);
        let pass_seconds = if time.passes > 0.0 { pass_of_model(backend, recipe, &hooks)? } else { 0.0 };
        time.take(Measured { step_seconds, pass_seconds }, self.steps);
        Ok(self)
    }
}

/// Seconds that `run` takes on average, not at best: other processes are there in the run, too.
fn average(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let start = Instant::now();
    (0..TIMED).try_for_each(|_| run())?;
    Ok(start.elapsed().as_secs_f64() / f64::from(TIMED))
}

fn step<B: Backend>(backend: &B, recipe: &Recipe) -> Result<f64> {
    let config = setup::sae_config(recipe, Default::default());
    let mut sae = setup::training_sae(backend, recipe, &config)?;
    let len = recipe.train_batch_size_tokens * config.d_in;
    let mut random = Random::new(recipe.seed, Stream::Buffer, 0);
    let batch: Vec<f32> = (0..len).map(|_| 2.0 * random.uniform() - 1.0).collect();
    let batch = backend.upload(&batch)?;
    let mut course = Course::new(recipe);
    average(|| {
        let y = config.transcoder.map(|_| &batch);
        course.step(&mut sae, &batch, y)?;
        // Reading a number waits for the device.
        backend.read(sae.values.get("b_dec"), 0, &mut [0.0])
    })
}

fn pass_of_model<B: Backend>(backend: &B, recipe: &Recipe, hooks: &[String]) -> Result<f64> {
    let model = open_model(backend, "model_name", &recipe.model_name, recipe.processing, recipe.autocast_lm)?.model;
    let last = model.last_hook(&hooks.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut forward = model.forward(recipe.store_batch_size_prompts, recipe.context_size)?;
    let mut random = Random::new(recipe.seed, Stream::Buffer, 0);
    let vocabulary = model.config().d_vocab as u32;
    let tokens: Vec<u32> =
        (0..recipe.store_batch_size_prompts * recipe.context_size).map(|_| random.below(vocabulary)).collect();
    average(|| {
        // Copying the values to the host waits for the device.
        forward.run(&model, &tokens, &mut Record::of([last]), Some(last))
    })
}
