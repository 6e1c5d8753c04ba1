//! A language model on a device.

use super::checkpoint::Checkpoint;
use super::config::ModelConfig;
use super::forward::Forward;
use super::hooks::{Hook, HookTable};
use super::processing::{process_block, process_ends, Processing};
use super::weights::{expect_all, read_block, read_ends, Block, Ends};
use crate::backend::{bf16, Backend};
use crate::embedded;
use crate::error::{Error, Result};
use crate::formats::tensors::TensorFile;
use std::path::Path;

/// A GPT-2 model, its weights on a device.
pub struct LanguageModel<B: Backend> {
    pub(super) backend: B,
    pub(super) config: ModelConfig,
    pub(super) hooks: HookTable,
    pub(super) blocks: Vec<Block<B::Buffer<f32>>>,
    pub(super) ends: Ends<B::Buffer<f32>>,
    /// The maps of each block in bf16, by [`super::autocast::Part`], if products take that.
    pub(super) rounded: Option<Vec<Vec<B::Buffer<bf16>>>>,
}

impl<B: Backend> LanguageModel<B> {
    /// Loads a folder that `transformers` wrote (`config.json`, `model.safetensors` or shards with
    /// an index). Errors: a file is missing or damaged, a key or a tensor is not what GPT-2 has.
    pub fn load(backend: &B, folder: &Path, processing: Processing) -> Result<Self> {
        let path = folder.join("config.json");
        let json = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let config = ModelConfig::parse(&path, &json)?;
        Self::from_parts(backend, config, &Checkpoint::open(folder)?, processing)
    }

    /// The small trained model that is part of the program.
    pub fn embedded(backend: &B, processing: Processing) -> Result<Self> {
        let config = ModelConfig::parse(Path::new("the embedded config.json"), embedded::MODEL_CONFIG)?;
        let weights = TensorFile::from_static("the embedded model.safetensors", embedded::MODEL_WEIGHTS)?;
        Self::from_parts(backend, config, &Checkpoint::from_file(weights), processing)
    }

    /// The same from a configuration and weights that are already open.
    pub fn from_parts(backend: &B, config: ModelConfig, weights: &Checkpoint, processing: Processing) -> Result<Self> {
        expect_all(weights, &config)?;
        let mut upload = |values: Vec<f32>| backend.upload(&values);
        let mut ends = read_ends(weights, &config)?;
        if processing == Processing::TransformerLens {
            ends = process_ends(ends, config.d_model)?;
        }
        let ends = ends.map(&mut upload)?;
        let mut blocks = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            let mut block = read_block(weights, &config, layer)?;
            if processing == Processing::TransformerLens {
                block = process_block(block, config.d_model)?;
            }
            blocks.push(block.map(&mut upload)?);
        }
        let hooks = HookTable::new(config.n_layers);
        Ok(LanguageModel { backend: backend.clone(), config, hooks, blocks, ends, rounded: None })
    }

    /// Shape and variant.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every hook in the order of the forward pass: TransformerLens' names; LayerNorm outputs after
    /// gain and bias as `….ln1.output`, `….ln2.output`, `ln_final.output`; `logits`;
    /// `loss_per_token`.
    pub fn hook_names(&self) -> Vec<String> {
        self.hooks.names().map(str::to_string).collect()
    }

    /// Shape of a hook's value for one sequence of `context` tokens: `[T, D]`, `[T, H, d_head]`,
    /// `[H, T, T]`, … Error: there is no such hook.
    pub fn hook_shape(&self, hook: &str, context: usize) -> Result<Vec<usize>> {
        Ok(self.hooks.find(hook)?.shape(&self.config, context))
    }

    /// Width of the vectors at a hook, heads joined: `d_in` of an SAE there. Errors: there is no
    /// such hook, or it holds no vector per token.
    pub fn hook_width(&self, hook: &str) -> Result<usize> {
        self.config.hook_width(hook)
    }

    /// The hook that the forward pass reaches last: the one to stop after. Errors: there is no such
    /// hook, or none is given.
    pub fn last_hook<'a>(&self, hooks: &[&'a str]) -> Result<&'a str> {
        let found: Vec<(Hook, &str)> =
            hooks.iter().map(|&name| Ok((self.hooks.find(name)?, name))).collect::<Result<_>>()?;
        let last = found.into_iter().max_by_key(|(hook, _)| *hook);
        last.map(|(_, name)| name).ok_or_else(|| Error::config("hook_name", "none is given"))
    }

    /// Buffers for runs of up to `max_sequences` sequences of exactly `context` tokens. Errors: the
    /// context is longer than the model's, or memory is short.
    pub fn forward(&self, max_sequences: usize, context: usize) -> Result<Forward<B>> {
        Forward::new(self, max_sequences, context)
    }

    /// The unembedding `[V, D]`.
    pub(super) fn w_u(&self) -> &B::Buffer<f32> {
        self.ends.w_u.as_ref().unwrap_or(&self.ends.w_e)
    }
}
