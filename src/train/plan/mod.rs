//! What a run will need, before it is started: steps, memory, disk and an estimate of the time.
//!
//! Bytes are 4 for every number that the run holds (all are f32 or u32), counted in `memory.rs` and
//! `disk.rs`; operations are counted in `time.rs`. Small things (programs, tokenizers, lists of
//! text) are not counted.

mod disk;
mod memory;
mod rates;
mod time;

pub use rates::Rates;
pub use time::Time;

use crate::config::Recipe;
use crate::data::StoredActivations;
use crate::embedded;
use crate::error::{Error, Result};
use crate::hub;
use crate::lm::ModelConfig;
use crate::machine::Memory;
use crate::sae::architecture::Dims;
use crate::sae::kind;
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What a run will need.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Kind of SAE.
    pub architecture: &'static str,
    /// Width of the activations.
    pub d_in: usize,
    /// Number of latents.
    pub d_sae: usize,
    /// Numbers that the SAE learns.
    pub parameters: u64,
    /// Steps of the run.
    pub steps: u64,
    /// Tokens of the run: `steps * train_batch_size_tokens`.
    pub training_tokens: u64,
    /// Memory by use.
    pub memory: Vec<Part>,
    /// Memory in all, in bytes.
    pub memory_bytes: u64,
    /// Memory of the machine, where it is known.
    pub machine_memory: Option<Memory>,
    /// Disk space by use.
    pub disk: Vec<Part>,
    /// Disk space in all, in bytes.
    pub disk_bytes: u64,
    /// Operations and an estimate of how long they take, where rates were measured.
    pub time: Option<Time>,
}

/// One use of memory or disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is for.
    pub what: &'static str,
    /// How much.
    pub bytes: u64,
    /// How that was counted.
    pub formula: String,
}

/// Where activations come from, as far as a plan has to know.
#[derive(Clone, Debug)]
pub enum Source {
    /// A language model, run up to a hook.
    Model {
        /// Its shape.
        config: Box<ModelConfig>,
        /// Blocks that a pass up to the hook runs.
        blocks: usize,
    },
    /// Files, read through a memory map.
    Stored,
}

/// The numbers that everything is counted from.
struct Sizes<'a> {
    recipe: &'a Recipe,
    source: &'a Source,
    d_in: u64,
    d_sae: u64,
    batch: u64,
    steps: u64,
}

impl Sizes<'_> {
    /// W_enc, W_dec, the vectors of latents, b_dec.
    fn parameters(&self) -> u64 {
        let vectors = kind::of(self.recipe).vectors(self.recipe).len() as u64;
        2 * self.d_in * self.d_sae + vectors * self.d_sae + self.d_in
    }

    fn dims(&self) -> Dims {
        Dims { rows: self.batch as usize, d_in: self.d_in as usize, d_sae: self.d_sae as usize }
    }

    /// Rows that the activation buffer has room for (`data::MixingBuffer`).
    fn buffer_rows(&self) -> u64 {
        if let Source::Stored = self.source {
            return 0;
        }
        let buffer = self.recipe.buffer_tokens as u64;
        let kept = (buffer as f64 * self.recipe.activations_mixing_fraction) as u64;
        let left = (buffer - 1).max(kept + self.batch - 1);
        left + (self.recipe.store_batch_size_prompts * self.recipe.training_context_size()) as u64
    }
}

impl Plan {
    /// The plan of a recipe. It reads the model's configuration or the header of the stored
    /// activations, nothing else. Errors: these cannot be read; the recipe is impossible.
    pub fn new(recipe: &Recipe, machine_memory: Option<Memory>, rates: Option<Rates>) -> Result<Self> {
        recipe.validate()?;
        let (source, d_in) = open_source(recipe)?;
        Self::of(&recipe.resolve(d_in)?, &source, d_in, machine_memory, rates)
    }

    /// The plan of a resolved recipe on activations of this width. Error: it is impossible.
    pub fn of(
        recipe: &Recipe,
        source: &Source,
        d_in: usize,
        machine_memory: Option<Memory>,
        rates: Option<Rates>,
    ) -> Result<Self> {
        let (d_sae, steps) = (recipe.d_sae(d_in), recipe.total_training_steps() as u64);
        let batch = recipe.train_batch_size_tokens as u64;
        let sizes = Sizes { recipe, source, d_in: d_in as u64, d_sae: d_sae as u64, batch, steps };
        let (memory, disk) = (memory::parts(&sizes), disk::parts(&sizes));
        Ok(Plan {
            architecture: recipe.architecture.name(),
            d_in,
            d_sae,
            parameters: sizes.parameters(),
            steps,
            training_tokens: steps * batch,
            memory_bytes: sum(&memory),
            memory,
            machine_memory,
            disk_bytes: sum(&disk),
            disk,
            time: rates.map(|rates| time::estimate(&sizes, rates)),
        })
    }

    /// Error: the run needs more memory than the machine has.
    pub fn check_memory(&self) -> Result<()> {
        let too_small = self.machine_memory.filter(|machine| machine.total < self.memory_bytes);
        let (Some(machine), Some(largest)) = (too_small, self.memory.iter().max_by_key(|part| part.bytes)) else {
            return Ok(());
        };
        let parts = self.memory.iter().map(|part| format!("{} {}", part.what, BinaryBytes(part.bytes)));
        let what = format!(
            "the run needs {} and this machine has {}: {}; make the largest part smaller, which is {}",
            BinaryBytes(self.memory_bytes),
            BinaryBytes(machine.total),
            parts.collect::<Vec<_>>().join(" + "),
            largest.formula,
        );
        Err(Error::config("memory", what))
    }
}

fn sum(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.bytes).sum()
}

fn open_source(recipe: &Recipe) -> Result<(Source, usize)> {
    if let Some(path) = &recipe.cached_activations_path {
        return Ok((Source::Stored, StoredActivations::open(path, &recipe.hook_name)?.width()));
    }
    let config = if recipe.model_name == "embedded" {
        ModelConfig::parse(Path::new("the embedded config.json"), embedded::MODEL_CONFIG)?
    } else {
        let path = hub::model_config("model_name", &recipe.model_name)?;
        ModelConfig::parse(&path, &std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?)?
    };
    if recipe.context_size > config.n_ctx {
        let what = format!("found {}, this model takes at most {}", recipe.context_size, config.n_ctx);
        return Err(Error::config("context_size", what));
    }
    let (d_in, blocks) = (config.hook_width(&recipe.hook_name)?, config.blocks_to(&recipe.hook_name)?);
    Ok((Source::Model { config: Box::new(config), blocks }, d_in))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = HumanCount(self.training_tokens);
        writeln!(f, "SAE     {}, d_in {}, d_sae {}", self.architecture, self.d_in, self.d_sae)?;
        writeln!(f, "        {} parameters", HumanCount(self.parameters))?;
        writeln!(f, "steps   {}, {tokens} tokens", HumanCount(self.steps))?;
        let machine = self.machine_memory.map(|memory| format!("of {}", BinaryBytes(memory.total)));
        write_parts(f, "memory", &self.memory, self.memory_bytes, &machine.unwrap_or_default())?;
        write_parts(f, "disk", &self.disk, self.disk_bytes, "")?;
        self.time.as_ref().map_or(Ok(()), |time| time.fmt(f))
    }
}

fn write_parts(f: &mut fmt::Formatter<'_>, name: &str, parts: &[Part], bytes: u64, note: &str) -> fmt::Result {
    writeln!(f, "{name:<8}{:>11} {note}", BinaryBytes(bytes).to_string())?;
    for part in parts {
        writeln!(f, "        {:>11}  {}: {}", BinaryBytes(part.bytes).to_string(), part.what, part.formula)?;
    }
    Ok(())
}
