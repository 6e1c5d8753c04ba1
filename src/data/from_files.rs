//! Batches from stored activations: a store (`store.rs`), or one tensor `[n, d_in]` or
//! `[batches, batch, d_in]` of a safetensors or `.npy` file. Memory-mapped, never loaded whole.

use super::store::StoreIndex;
use super::{load_position, save_position, ActivationSource};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::formats::arrays;
use crate::formats::tensors::TensorFile;
use crate::random::{Random, Stream};
use rayon::prelude::*;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Rows of activations in files, seen as one matrix `[rows, d_in]`.
pub struct StoredActivations {
    parts: Vec<StoredPart>,
    width: usize,
    rows: usize,
    /// What a store says about where it comes from.
    metadata: Option<Map<String, Value>>,
}

struct StoredPart {
    file: TensorFile,
    tensor: String,
    /// Rows in the parts before.
    first: usize,
}

impl StoredActivations {
    /// Opens `FILE`, `FILE:TENSOR`, or the folder of a store. Of several tensors the one that is
    /// named after the colon is read, or else the one named `hook_name`.
    pub fn open(path: &str, hook_name: &str) -> Result<Self> {
        let (path, asked) = arrays::split_tensor_name(path);
        let mut stored = StoredActivations { parts: Vec::new(), width: 0, rows: 0, metadata: None };
        if path.is_dir() {
            let index = StoreIndex::read(&path)?;
            for shard in &index.shards {
                let rows = stored.push(&path.join(&shard.file), asked, hook_name)?;
                if rows != shard.rows {
                    let what = format!("holds {rows} rows, the index says {}; store the activations again", shard.rows);
                    return Err(Error::format(path.join(&shard.file), what));
                }
            }
            stored.metadata = Some(index.metadata);
        } else {
            stored.push(&path, asked, hook_name)?;
        }
        if stored.rows == 0 || stored.width == 0 {
            return Err(Error::format(&path, "holds no activations"));
        }
        Ok(stored)
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The name of the tensor that is read: in a store it is the hook's.
    pub fn tensor(&self) -> &str {
        &self.parts[0].tensor
    }

    /// What a store says about the model and the text that it was made with; none of a lone file.
    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.metadata.as_ref()
    }

    /// The first file.
    fn path(&self) -> &Path {
        self.parts[0].file.path()
    }

    fn push(&mut self, path: &Path, asked: Option<&str>, hook_name: &str) -> Result<usize> {
        let file = arrays::open(path)?;
        let tensor = match (asked, file.names().as_slice()) {
            (Some(asked), _) => asked.to_string(),
            (None, [only]) => only.clone(),
            (None, names) if names.iter().any(|name| name == hook_name) => hook_name.to_string(),
            (None, names) => {
                let what = format!("{} holds no {hook_name}; name one of {}", path.display(), names.join(", "));
                return Err(Error::config("hook_name", what));
            }
        };
        let info = file.info(&tensor)?;
        if !matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let what = format!("tensor {tensor} has dtype {:?}, expected F32, F16, BF16 or F64", info.dtype);
            return Err(Error::format(path, what));
        }
        let (rows, width) = match info.shape[..] {
            [rows, width] => (rows, width),
            [batches, batch, width] => (batches * batch, width),
            ref shape => {
                let what = format!("tensor {tensor} has shape {shape:?}, expected [n, d_in] or [batches, batch, d_in]");
                return Err(Error::format(path, what));
            }
        };
        if !self.parts.is_empty() && width != self.width {
            let what = format!("tensor {tensor} has rows of {width}, the files before have rows of {}", self.width);
            return Err(Error::format(path, what));
        }
        self.width = width;
        self.parts.push(StoredPart { file, tensor, first: self.rows });
        self.rows += rows;
        Ok(rows)
    }

    /// Copies one row. Error: it holds NaN or Inf.
    fn read_row(&self, row: usize, to: &mut [f32]) -> Result<()> {
        let part = &self.parts[self.parts.partition_point(|part| part.first <= row) - 1];
        let inside = row - part.first;
        to.copy_from_slice(&part.file.f32_range(&part.tensor, inside * self.width, self.width)?);
        match to.iter().find(|value| !value.is_finite()) {
            None => Ok(()),
            Some(value) => {
                let what = format!("tensor {}, row {inside} holds {value}; make the activations again", part.tensor);
                Err(Error::format(part.file.path(), what))
            }
        }
    }
}

/// How stored activations become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromFilesSettings {
    /// Rows in a batch; what is left of a pass after its last full batch is dropped.
    pub batch_size: usize,
    /// Whether every pass takes the rows in a new random order; in the order of the files otherwise.
    pub shuffle: bool,
    /// Of the run.
    pub seed: u64,
    /// Whether to begin again at the end.
    pub repeat: bool,
}

/// Batches from stored activations of some hooks.
pub struct FromFiles<B: Backend> {
    backend: B,
    /// One for every hook, all of as many rows.
    stored: Vec<StoredActivations>,
    settings: FromFilesSettings,
    at: FilePosition,
    /// The rows of this pass in their order; empty without shuffling.
    order: Vec<u32>,
    staging: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FilePosition {
    epoch: u32,
    /// Batches of this pass that were given.
    batch: usize,
    /// Of the files and the settings, to tell others apart.
    rows: usize,
    batch_size: usize,
}

impl<B: Backend> FromFiles<B> {
    /// Row n of every hook must belong to the same token. Errors: no hook, hooks of different numbers of
    /// rows, fewer rows than a batch, or more than can be shuffled.
    pub fn new(backend: &B, stored: Vec<StoredActivations>, settings: FromFilesSettings) -> Result<Self> {
        let first = stored.first().ok_or_else(|| Error::config("hook_name", "none is given"))?;
        let (rows, path) = (first.rows, first.path());
        if let Some(other) = stored.iter().find(|other| other.rows != rows) {
            let what = format!("{} has {rows} rows, {} has {}", first.tensor(), other.tensor(), other.rows);
            return Err(Error::format(path, format!("{what}; hooks that are read together have as many")));
        }
        if settings.batch_size == 0 || rows < settings.batch_size {
            let what = format!("holds {rows} rows, less than a batch of {}", settings.batch_size);
            return Err(Error::format(path, what));
        }
        if settings.shuffle && u32::try_from(rows).is_err() {
            let what = format!("holds {rows} rows; more than {} can only be read without shuffling", u32::MAX);
            return Err(Error::format(path, what));
        }
        let at = FilePosition { epoch: 0, batch: 0, rows, batch_size: settings.batch_size };
        let (order, staging) = (Vec::new(), Vec::new());
        let mut source = FromFiles { backend: backend.clone(), stored, settings, at, order, staging };
        source.shuffle();
        Ok(source)
    }

    fn shuffle(&mut self) {
        if self.settings.shuffle {
            let mut random = Random::new(self.settings.seed, Stream::Shuffle, self.at.epoch);
            self.order = random.permutation(self.at.rows);
        }
    }
}

impl<B: Backend> ActivationSource<B> for FromFiles<B> {
    fn widths(&self) -> Vec<usize> {
        self.stored.iter().map(StoredActivations::width).collect()
    }

    fn batch_size(&self) -> usize {
        self.settings.batch_size
    }

    fn next_batches(&mut self, batches: &mut [B::Buffer<f32>]) -> Result<bool> {
        if (self.at.batch + 1) * self.settings.batch_size > self.at.rows {
            if !self.settings.repeat {
                return Ok(false);
            }
            (self.at.epoch, self.at.batch) = (self.at.epoch + 1, 0);
            self.shuffle();
        }
        let (first, order) = (self.at.batch * self.settings.batch_size, &self.order);
        for (stored, batch) in self.stored.iter().zip(batches) {
            self.staging.resize(self.settings.batch_size * stored.width, 0.0);
            self.staging.par_chunks_mut(stored.width).enumerate().try_for_each(|(n, to)| {
                let row = order.get(first + n).map_or(first + n, |&row| row as usize);
                stored.read_row(row, to)
            })?;
            self.backend.write(batch, 0, &self.staging)?;
        }
        self.at.batch += 1;
        Ok(true)
    }

    fn epochs(&self) -> u64 {
        self.at.epoch.into()
    }

    fn tokens_read(&self) -> u64 {
        let a_pass = self.at.rows / self.settings.batch_size;
        ((self.at.epoch as usize * a_pass + self.at.batch) * self.settings.batch_size) as u64
    }

    fn save_state(&self, folder: &Path) -> Result<()> {
        save_position(folder, &self.at)
    }

    fn load_state(&mut self, folder: &Path) -> Result<()> {
        let at: FilePosition = load_position(folder)?;
        let batches = at.rows / at.batch_size.max(1);
        let (rows, batch_size) = (self.at.rows, self.settings.batch_size);
        if (at.rows, at.batch_size) != (rows, batch_size) || at.batch > batches {
            let what = format!(
                "holds {rows} rows, read in batches of {batch_size}; the run that is resumed had {} rows and batches of {}",
                at.rows, at.batch_size
            );
            return Err(Error::format(self.stored[0].path(), what));
        }
        self.at = at;
        self.shuffle();
        Ok(())
    }
}
