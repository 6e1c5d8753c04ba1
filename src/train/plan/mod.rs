//! What a run will need, before it is started: steps, memory, disk and an estimate of the time.
//!
//! Bytes are 4 for every number that the run holds (all are f32 or u32), counted in `memory.rs` and
//! `disk.rs`; operations are counted in `time.rs`. Small things (programs, tokenizers, lists of
//! text) are not counted.

mod disk;
mod measured;
mod memory;
mod rates;
mod time;
mod together;

pub use measured::Measured;
pub use rates::Rates;
pub use time::Time;

use crate::config::{Recipe, Sweep};
use crate::data::StoredActivations;
use crate::embedded;
use crate::error::{Error, Result};
use crate::hub;
use crate::lm::ModelConfig;
use crate::machine::{self, Memory};
use crate::sae::architecture::Dims;
use crate::sae::kind;
use indicatif::{BinaryBytes, HumanCount};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What a run will need.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What is trained.
    pub saes: Vec<PlannedSae>,
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
    /// Bytes that the disk of the run folder has room for, where it is known: see [`Plan::in_folder`].
    pub free_disk: Option<u64>,
    /// Operations and an estimate of how long they take, where rates were measured.
    pub time: Option<Time>,
}

/// One SAE of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedSae {
    /// What tells it from others; empty where there is only one.
    pub name: String,
    /// Where its activations come from.
    pub hook_name: String,
    /// Kind of SAE.
    pub architecture: &'static str,
    /// Width of the activations.
    pub d_in: usize,
    /// Number of latents.
    pub d_sae: usize,
    /// Numbers that the SAE learns.
    pub parameters: u64,
}

/// What needs a part, where several SAEs are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Every SAE.
    Sae,
    /// Every hook.
    Hook,
    /// The run, once: as much as the SAE that needs most of it.
    Run,
}

/// One use of memory or disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is for.
    pub what: &'static str,
    /// What needs it.
    #[serde(skip)]
    pub of: Of,
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
    /// W_enc unless it is W_dec, W_dec, the vectors of latents, b_dec.
    fn parameters(&self) -> u64 {
        let kind = kind::of(self.recipe);
        let (vectors, matrices) = (kind.vectors(self.recipe).len() as u64, if kind.is_tied() { 1 } else { 2 });
        let skip = if kind.skips() { self.d_in * self.d_in } else { 0 };
        skip + matrices * self.d_in * self.d_sae + vectors * self.d_sae + self.d_in
    }

    /// Hooks that are read: a transcoder's output, too.
    fn hooks(&self) -> u64 {
        if self.recipe.architecture.transcodes() {
            2
        } else {
            1
        }
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
    /// The plan of a recipe, of all SAEs in it together. It reads the model's configuration or the header
    /// of the stored activations, nothing else. Errors: these cannot be read; the recipe is impossible.
    pub fn new(sweep: &Sweep, machine_memory: Option<Memory>, rates: Option<Rates>) -> Result<Self> {
        let mut plans = Vec::new();
        for member in sweep.members()? {
            let (source, d_in) = open_source(&member.recipe)?;
            let mut plan = Self::of(&member.recipe.resolve(d_in)?, &source, d_in, machine_memory, rates)?;
            plan.saes[0].name = member.name;
            plans.push(plan);
        }
        Ok(together::plan(plans))
    }

    /// The plan of the resolved recipe of one SAE on activations of this width. Error: it is impossible.
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
            saes: vec![PlannedSae {
                name: String::new(),
                hook_name: recipe.hook_name.clone(),
                architecture: recipe.architecture.name(),
                d_in,
                d_sae,
                parameters: sizes.parameters(),
            }],
            steps,
            training_tokens: steps * batch,
            memory_bytes: sum(&memory),
            memory,
            machine_memory,
            disk_bytes: sum(&disk),
            disk,
            free_disk: None,
            time: rates.map(|rates| time::estimate(&sizes, rates)),
        })
    }

    /// The plan of a new run in this folder, with the room that its disk has.
    pub fn in_folder(self, out: &Path) -> Self {
        Plan { free_disk: machine::free_disk(out), ..self }
    }

    /// Error: the run needs more memory than the machine has, or more disk space than there is.
    pub fn check(&self) -> Result<()> {
        let memory = self.machine_memory.map(|memory| memory.total);
        let needed = (&self.memory[..], self.memory_bytes);
        check("memory", needed, memory, "this machine has")?;
        check("disk", (&self.disk, self.disk_bytes), self.free_disk, "the disk of its folder has room for")
    }
}

fn check(what: &str, (parts, needed): (&[Part], u64), there: Option<u64>, has: &str) -> Result<()> {
    let too_little = there.filter(|&there| there < needed);
    let (Some(there), Some(largest)) = (too_little, parts.iter().max_by_key(|part| part.bytes)) else {
        return Ok(());
    };
    let parts = parts.iter().map(|part| format!("{} {}", part.what, BinaryBytes(part.bytes)));
    let sentence = format!(
        "the run needs {} and {has} {}: {}; make the largest part smaller, which is {}",
        BinaryBytes(needed),
        BinaryBytes(there),
        parts.collect::<Vec<_>>().join(" + "),
        largest.formula,
    );
    Err(Error::config(what, sentence))
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
    let d_in = config.hook_width(&recipe.hook_name)?;
    let out = recipe.hook_name_out.as_ref().map_or(Ok(0), |out| config.blocks_to(out))?;
    let blocks = out.max(config.blocks_to(&recipe.hook_name)?);
    Ok((Source::Model { config: Box::new(config), blocks }, d_in))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tokens = HumanCount(self.training_tokens);
        for (n, sae) in self.saes.iter().enumerate() {
            let PlannedSae { name, architecture, d_in, d_sae, .. } = sae;
            let (title, name) = (if n == 0 { "SAE" } else { "" }, name.replace(',', " "));
            let colon = if name.is_empty() { "" } else { ": " };
            writeln!(f, "{title:<8}{name}{colon}{architecture}, d_in {d_in}, d_sae {d_sae}")?;
            writeln!(f, "        {} parameters", HumanCount(sae.parameters))?;
        }
        writeln!(f, "steps   {}, {tokens} tokens", HumanCount(self.steps))?;
        let machine = self.machine_memory.map(|memory| format!("of {}", BinaryBytes(memory.total)));
        write_parts(f, "memory", &self.memory, self.memory_bytes, &machine.unwrap_or_default())?;
        let free = self.free_disk.map(|free| format!("of {} free", BinaryBytes(free)));
        write_parts(f, "disk", &self.disk, self.disk_bytes, &free.unwrap_or_default())?;
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
