//! Batches from a language model: rows of tokens, the model up to one hook, the positions that are
//! wanted, the mixing buffer. As SAELens' `training/activations_store.py`, but that the prompts left
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

/// In a checkpoint: the activations that wait for their batch.
const BUFFER_FILE: &str = "activation_buffer.safetensors";

/// Which activations are taken, and how they are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct FromModelSettings {
    /// The hook, by TransformerLens' name.
    pub hook_name: String,
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
    /// What a recipe asks for: endless batches. Error: special tokens are to be excluded, and no
    /// tokenizer says which they are.
    pub fn of(recipe: &Recipe, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        Ok(FromModelSettings {
            hook_name: recipe.hook_name.clone(),
            seqpos_slice: recipe.seqpos_slice,
            excluded_ids: excluded_ids(&recipe.exclude_special_tokens, tokenizer)?,
            prompts: recipe.store_batch_size_prompts,
            mixing: MixingSettings {
                buffer_tokens: recipe.buffer_tokens,
                batch_size: recipe.train_batch_size_tokens,
                mix_fraction: recipe.activations_mixing_fraction,
                seed: recipe.seed,
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

/// Batches of a model's activations at one hook.
pub struct FromModel<B: Backend> {
    model: Arc<LanguageModel<B>>,
    forward: Forward<B>,
    rows: TokenRows,
    hook_name: String,
    selection: Selection,
    repeat: bool,
    buffer: MixingBuffer<B>,
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
    /// Errors: the hook does not exist or holds no vector per token, the context is longer than the
    /// model's, settings of the buffer that cannot be used, no memory.
    pub fn new(
        backend: &B,
        model: Arc<LanguageModel<B>>,
        rows: TokenRows,
        settings: FromModelSettings,
    ) -> Result<Self> {
        let FromModelSettings { hook_name, seqpos_slice, excluded_ids, prompts, mixing, repeat } = settings;
        if prompts == 0 {
            return Err(Error::config("store_batch_size_prompts", "0 is too small, expected at least 1"));
        }
        let width = model.hook_width(&hook_name)?;
        let forward = model.forward(prompts, rows.context_size())?;
        let selection = Selection::new(seqpos_slice, excluded_ids, rows.context_size())?;
        let buffer = MixingBuffer::new(backend, mixing, width, prompts * selection.positions.len())?;
        let batch_size = mixing.batch_size;
        Ok(FromModel {
            model,
            forward,
            rows,
            hook_name,
            selection,
            repeat,
            buffer,
            batch_size,
            epoch: 0,
            tokens_read: 0,
            read_before: 0,
        })
    }

    /// Runs the model on the next rows and puts their activations into the buffer.
    fn read(&mut self) -> Result<()> {
        let tokens = self.next_tokens()?;
        if tokens.is_empty() {
            return self.buffer.finish();
        }
        let chosen = self.selection.rows(&tokens);
        self.tokens_read += chosen.len() as u64;
        let mut collect = Collect { hook_name: &self.hook_name, buffer: &mut self.buffer, chosen: &chosen };
        self.forward.run(&self.model, &tokens, &mut collect, Some(&self.hook_name))
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
    fn width(&self) -> usize {
        self.buffer.width()
    }

    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn next_batch(&mut self, batch: &mut B::Buffer<f32>) -> Result<bool> {
        while self.buffer.wants_rows() {
            self.read()?;
        }
        self.buffer.next_batch(batch)
    }

    fn epochs(&self) -> u64 {
        self.epoch
    }

    fn tokens_read(&self) -> u64 {
        self.tokens_read
    }

    fn save_state(&self, folder: &Path) -> Result<()> {
        self.buffer.save(&folder.join(BUFFER_FILE))?;
        let (epoch, tokens_read, read_before) = (self.epoch, self.tokens_read, self.read_before);
        save_position(folder, &ModelPosition { rows: self.rows.position(), epoch, tokens_read, read_before })
    }

    fn load_state(&mut self, folder: &Path) -> Result<()> {
        let at: ModelPosition = load_position(folder)?;
        self.buffer.load(&folder.join(BUFFER_FILE))?;
        (self.epoch, self.tokens_read, self.read_before) = (at.epoch, at.tokens_read, at.read_before);
        self.rows.seek(&at.rows)
    }
}

/// Puts the chosen rows of one hook into the buffer.
struct Collect<'a, B: Backend> {
    hook_name: &'a str,
    buffer: &'a mut MixingBuffer<B>,
    chosen: &'a [u32],
}

impl<B: Backend> Visitor<B> for Collect<'_, B> {
    fn wants(&self, hook: &str) -> bool {
        hook == self.hook_name
    }

    fn visit(&mut self, _: &B, _: &str, value: &mut B::Buffer<f32>, _: &[usize]) -> Result<()> {
        self.buffer.append(value, self.chosen)
    }
}
