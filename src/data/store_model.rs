//! Runs a language model over rows of tokens and stores the activations of some hooks.

use super::from_model::Selection;
use super::rows::TokenRows;
use super::store::{StoreIndex, StoreSettings, StoreWriter, StoredHook, SHARD_BYTES};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::lm::{LanguageModel, Visitor};
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::path::Path;

/// What is stored, and how.
pub struct StoreRequest<'a> {
    /// Hooks, by TransformerLens' names.
    pub hook_names: &'a [String],
    /// Which positions of the rows.
    pub selection: Selection,
    /// Rows of tokens in one forward pass.
    pub prompts: usize,
    /// Tokens to store; fewer if the data ends before.
    pub tokens: usize,
    /// F32, F16 or BF16.
    pub dtype: Dtype,
    /// Whether to shuffle, with this seed.
    pub shuffle: Option<u64>,
    /// Kept in the index: model, text, context and so on.
    pub metadata: Map<String, Value>,
}

/// Stores activations in a folder; `progress` is told after every forward pass how many tokens are
/// stored. Errors: a hook does not exist or holds no vector per token, there is a store already,
/// nothing is left to store, whatever reading and writing can bring.
pub fn store_activations<B: Backend>(
    model: &LanguageModel<B>,
    rows: &mut TokenRows,
    folder: &Path,
    request: StoreRequest<'_>,
    progress: &mut dyn FnMut(usize),
) -> Result<StoreIndex> {
    let StoreRequest { hook_names, selection, prompts, tokens: wanted, dtype, shuffle, metadata } = request;
    if wanted == 0 {
        return Err(Error::config("training_tokens", "0 tokens are to be stored, expected at least 1"));
    }
    let hook = |name: &String| Ok(StoredHook { hook_name: name.clone(), d_in: model.hook_width(name)? });
    let hooks: Vec<StoredHook> = hook_names.iter().map(hook).collect::<Result<_>>()?;
    let last = model.last_hook(&hook_names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut forward = model.forward(prompts, rows.context_size())?;
    let mut take = Take { values: vec![Vec::new(); hooks.len()], hooks, chosen: Vec::new(), whole: Vec::new() };
    let (expected_rows, shard_bytes) = (wanted, SHARD_BYTES);
    let settings = StoreSettings { hooks: take.hooks.clone(), dtype, expected_rows, shard_bytes, shuffle, metadata };
    let mut writer = StoreWriter::create(folder, settings)?;
    let mut stored = 0;
    while stored < wanted {
        let tokens = next_tokens(rows, prompts)?;
        if tokens.is_empty() {
            break;
        }
        take.chosen = selection.rows(&tokens);
        take.chosen.truncate(wanted - stored);
        forward.run(model, &tokens, &mut take, Some(last))?;
        writer.append(&take.values)?;
        stored += take.chosen.len();
        progress(stored);
    }
    if stored == 0 {
        return Err(Error::config("exclude_special_tokens", "it leaves no token of all the text"));
    }
    writer.finish()
}

/// The tokens of up to `prompts` rows; none at the end of the data.
fn next_tokens(rows: &mut TokenRows, prompts: usize) -> Result<Vec<u32>> {
    let mut tokens = Vec::with_capacity(prompts * rows.context_size());
    for _ in 0..prompts {
        match rows.next_row()? {
            Some(row) => tokens.extend(row),
            None => break,
        }
    }
    Ok(tokens)
}

/// Takes the chosen rows of every hook to the host.
struct Take {
    hooks: Vec<StoredHook>,
    chosen: Vec<u32>,
    /// By hook `[chosen, d_in]`.
    values: Vec<Vec<f32>>,
    whole: Vec<f32>,
}

impl<B: Backend> Visitor<B> for Take {
    fn wants(&self, hook: &str) -> bool {
        self.hooks.iter().any(|wanted| wanted.hook_name == hook)
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        self.whole.resize(shape.iter().product(), 0.0);
        backend.read(value, 0, &mut self.whole)?;
        for (wanted, values) in self.hooks.iter().zip(&mut self.values).filter(|(wanted, _)| wanted.hook_name == hook) {
            values.clear();
            for &row in &self.chosen {
                values.extend_from_slice(&self.whole[row as usize * wanted.d_in..][..wanted.d_in]);
            }
        }
        Ok(())
    }
}
