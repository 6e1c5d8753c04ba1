//! Batches from a language model: rows of tokens, the model up to the last hook, the positions that are
//! wanted, a mixing buffer for every hook. As SAELens' `training/activations_store.py`, but that the prompts left
//! at the end of the data are not dropped: they share a forward pass with the first of the next pass.

use super::mixing_buffer::{MixingBuffer, MixingSettings};
use super::rows::{Position, TokenRows};
use super::tokenizer::{excluded_ids, Tokenizer};
use super::{load_position, save_position, ActivationSource};
use crate::backend::Backend;
use crate::config::{Recipe, SeqposSlice};
use crate::error::{Error, Result};
use crate::lm::{Forward, LanguageModel, Visitor};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// In a checkpoint: the activations of a hook that wait for their batch.
fn buffer_file(hook_name: &str) -> String {
    format!("{hook_name}.safetensors")
}

/// Which activations are taken, and how they are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct FromModelSettings {
    /// The hooks, by TransformerLens' names, each once.
    pub hook_names: Vec<String>,
    /// Positions of a row that are used.
    pub seqpos_slice: SeqposSlice,
    /// Tokens whose activations are left out.
    pub excluded_ids: Vec<u32>,
    /// Rows in one forward pass (`store_batch_size_prompts`).
    pub prompts: usize,
    /// The buffer.
    pub mixing: MixingSettings,
    /// Whether to begin again at the end of the data.
    pub repeat: bool,
}

impl FromModelSettings {
    /// What the recipe of one SAE asks for: endless batches. Error: special tokens are to be excluded, and no
    /// tokenizer says which they are.
    pub fn of(recipe: &Recipe, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        Ok(FromModelSettings {
            hook_names: vec![recipe.hook_name.clone()],
            seqpos_slice: recipe.seqpos_slice,
            excluded_ids: excluded_ids(&recipe.exclude_special_tokens, tokenizer)?,
            prompts: recipe.store_batch_size_prompts,
            mixing: MixingSettings {
                buffer_tokens: recipe.buffer_tokens,
                batch_size: recipe.train_batch_size_tokens,
                mix_fraction: recipe.activations_mixing_fraction,
                seed: recipe.data_seed(),
            },
            repeat: true,
        })
    }
}

/// The rows of a forward pass's output that are used: those of certain positions whose token is not
/// excluded.
pub struct Selection {
    positions: Vec<usize>,
    excluded_ids: Vec<u32>,
    context: usize,
}

impl Selection {
    /// Error: the slice leaves no position.
    pub fn new(slice: SeqposSlice, excluded_ids: Vec<u32>, context: usize) -> Result<Self> {
        let positions = slice.positions(context);
        if positions.is_empty() {
            return Err(Error::config("seqpos_slice", format!("it leaves no position of a context of {context}")));
        }
        Ok(Selection { positions, excluded_ids, context })
    }

    /// Positions of one sequence that may be used.
    pub fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// The chosen rows of `tokens [sequences, context]`, ascending.
    pub fn rows(&self, tokens: &[u32]) -> Vec<u32> {
        let sequences = (0..tokens.len()).step_by(self.context);
        let rows = sequences.flat_map(|first| self.positions.iter().map(move |position| first + position));
        rows.filter(|&row| !self.excluded_ids.contains(&tokens[row])).map(|row| row as u32).collect()
    }
}

/// Batches of a model's activations at some hooks.
pub struct FromModel<B: Backend> {
    model: Arc<LanguageModel<B>>,
    forward: Forward<B>,
    rows: TokenRows,
    hook_names: Vec<String>,
    /// Where the forward pass stops.
    last_hook: String,
    selection: Selection,
    repeat: bool,
    /// One for every hook. They get the same rows and shuffle alike, so that all want rows at once.
    buffers: Vec<MixingBuffer<B>>,
    batch_size: usize,
    epoch: u64,
    tokens_read: u64,
    /// `tokens_read` when this pass over the data began.
    read_before: u64,
}

#[derive(Serialize, Deserialize)]
struct ModelPosition {
    rows: Position,
    epoch: u64,
    tokens_read: u64,
    read_before: u64,
}

impl<B: Backend> FromModel<B> {
    /// Errors: a hook does not exist or holds no vector per token, the context is longer than the
    /// model's, settings of the buffer that cannot be used, no memory.
    pub fn new(
        backend: &B,
        model: Arc<LanguageModel<B>>,
        rows: TokenRows,
        settings: FromModelSettings,
    ) -> Result<Self> {
        let FromModelSettings { hook_names, seqpos_slice, excluded_ids, prompts, mixing, repeat } = settings;
        if prompts == 0 {
            return Err(Error::config("store_batch_size_prompts", "0 is too small, expected at least 1"));
        }
        let last_hook = model.last_hook(&hook_names.iter().map(String::as_str).collect::<Vec<_>>())?.to_string();
        let forward = model.forward(prompts, rows.context_size())?;
        let selection = Selection::new(seqpos_slice, excluded_ids, rows.context_size())?;
        let largest_append = prompts * selection.positions.len();
        let buffer = |name: &String| MixingBuffer::new(backend, mixing, model.hook_width(name)?, largest_append);
        let buffers = hook_names.iter().map(buffer).collect::<Result<_>>()?;
        let batch_size = mixing.batch_size;
        Ok(FromModel {
            model,
            forward,
            rows,
            hook_names,
            last_hook,
            selection,
            repeat,
            buffers,
            batch_size,
            epoch: 0,
            tokens_read: 0,
            read_before: 0,
        })
    }

    /// Runs the model on the next rows and puts their activations into the buffers.
    fn read(&mut self) -> Result<()> {
        let tokens = self.next_tokens()?;
        if tokens.is_empty() {
            return self.buffers.iter_mut().try_for_each(MixingBuffer::finish);
        }
        let chosen = self.selection.rows(&tokens);
        self.tokens_read += chosen.len() as u64;
        let mut collect = Collect { hook_names: &self.hook_names, buffers: &mut self.buffers, chosen: &chosen };
        self.forward.run(&self.model, &tokens, &mut collect, Some(&self.last_hook))
    }

    /// The tokens of the next rows, as many as one forward pass takes; fewer only at the end of data
    /// that is not repeated.
    fn next_tokens(&mut self) -> Result<Vec<u32>> {
        let wanted = self.forward.max_sequences() * self.forward.context();
        let mut tokens = Vec::with_capacity(wanted);
        while tokens.len() < wanted {
            match self.rows.next_row()? {
                Some(row) => tokens.extend(row),
                None if !self.repeat => break,
                None => self.begin_again(&tokens)?,
            }
        }
        Ok(tokens)
    }

    fn begin_again(&mut self, pending: &[u32]) -> Result<()> {
        if self.tokens_read == self.read_before && self.selection.rows(pending).is_empty() {
            return Err(Error::config("exclude_special_tokens", "it leaves no token of all the text"));
        }
        (self.epoch, self.read_before) = (self.epoch + 1, self.tokens_read);
        self.rows.rewind()
    }
}

impl<B: Backend> ActivationSource<B> for FromModel<B> {
    fn widths(&self) -> Vec<usize> {
        self.buffers.iter().map(MixingBuffer::width).collect()
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn next_batches(&mut self, batches: &mut [B::Buffer<f32>]) -> Result<bool> {
        while self.buffers.iter().any(MixingBuffer::wants_rows) {
            self.read()?;
        }
        let mut there_is_one = true;
        for (buffer, batch) in self.buffers.iter_mut().zip(batches) {
            there_is_one &= buffer.next_batch(batch)?;
        }
        Ok(there_is_one)
    }

    /// Runs the model for the rows that will be wanted, as far as there is room for them.
    fn prepare(&mut self, batches_to_come: u64) -> Result<()> {
        let largest = self.forward.max_sequences() * self.selection.positions.len();
        let reads = |buffer: &MixingBuffer<B>| buffer.has_room(largest) && (buffer.left() as u64) < batches_to_come;
        // Data that ends does so when rows are wanted.
        while self.repeat && self.buffers.iter().all(reads) {
            self.read()?;
        }
        Ok(())
    }

    fn epochs(&self) -> u64 {
        self.epoch
    }

    fn tokens_read(&self) -> u64 {
        self.tokens_read
    }

    fn save_state(&self, folder: &Path) -> Result<()> {
        for (buffer, hook_name) in self.buffers.iter().zip(&self.hook_names) {
            buffer.save(&folder.join(buffer_file(hook_name)))?;
        }
        let (epoch, tokens_read, read_before) = (self.epoch, self.tokens_read, self.read_before);
        save_position(folder, &ModelPosition { rows: self.rows.position(), epoch, tokens_read, read_before })
    }

    fn load_state(&mut self, folder: &Path) -> Result<()> {
        let at: ModelPosition = load_position(folder)?;
        for (buffer, hook_name) in self.buffers.iter_mut().zip(&self.hook_names) {
            buffer.load(&folder.join(buffer_file(hook_name)))?;
        }
        (self.epoch, self.tokens_read, self.read_before) = (at.epoch, at.tokens_read, at.read_before);
        self.rows.seek(&at.rows)
    }
}

/// Puts the chosen rows of every hook into its buffer.
struct Collect<'a, B: Backend> {
    hook_names: &'a [String],
    buffers: &'a mut [MixingBuffer<B>],
    chosen: &'a [u32],
}

impl<B: Backend> Visitor<B> for Collect<'_, B> {
    fn wants(&self, hook: &str) -> bool {
        self.hook_names.iter().any(|name| name == hook)
    }

    fn visit(&mut self, _: &B, hook: &str, value: &mut B::Buffer<f32>, _: &[usize]) -> Result<()> {
        let of_hook = self.buffers.iter_mut().zip(self.hook_names).find(|(_, name)| *name == hook);
        of_hook.map_or(Ok(()), |(buffer, _)| buffer.append(value, self.chosen))
    }
}
