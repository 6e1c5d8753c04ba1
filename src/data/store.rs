//! Activations on disk: a folder of safetensors shards, one tensor `[n, d]` per hook, and an
//! `index.json` that is written last, so that a folder with an index is whole.
//!
//! Shuffling on write takes the memory of one shard: every row goes to a shard drawn at random,
//! and each shard is permuted when all rows are there, which makes every order equally likely. Row i of every hook belongs to the same token.

use crate::error::{Error, Result};
use crate::formats::tensors::{self, Tensor};
use crate::formats::write;
use crate::random::{Random, Stream};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The file that makes a folder of shards a store.
pub const INDEX_FILE: &str = "index.json";

/// A good size of a shard.
pub const SHARD_BYTES: usize = 256 << 20;

/// Shards are written side by side, each an open file: very large stores have larger shards.
const MOST_SHARDS: usize = 256;

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreIndex {
    /// Hook names and widths, in the order of the forward pass.
    pub hooks: Vec<StoredHook>,
    /// Number format, as torch names it.
    pub dtype: String,
    /// Rows (tokens) in all.
    pub rows: usize,
    /// Whether the rows are in random order.
    pub shuffled: bool,
    /// The files, in order.
    pub shards: Vec<Shard>,
    /// What made the activations: model, text, context and so on.
    pub metadata: Map<String, Value>,
}

/// One hook of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredHook {
    /// TransformerLens' name, which is also the tensor's.
    pub hook_name: String,
    /// Width of its rows.
    pub d_in: usize,
}

/// One file of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its name in the folder.
    pub file: String,
    /// Its rows.
    pub rows: usize,
}

impl StoreIndex {
    /// Reads the index of a folder. Error: there is none, as in a folder that was not finished.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(INDEX_FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::format(
                folder,
                format!("holds no {INDEX_FILE}: no activations were stored here, or not to the end"),
            ),
            _ => Error::io(&path, "read")(e),
        })?;
        serde_json::from_str(&text).map_err(|e| Error::format(&path, format!("not an index of activations: {e}")))
    }
}

/// How activations are stored.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The hooks, in the order in which [`StoreWriter::append`] is given them.
    pub hooks: Vec<StoredHook>,
    /// F32, F16 or BF16.
    pub dtype: Dtype,
    /// Rows that will come, as far as is known: it decides the number of shards.
    pub expected_rows: usize,
    /// Bytes of a shard, and of memory; [`SHARD_BYTES`] is good.
    pub shard_bytes: usize,
    /// Whether to shuffle, with this seed.
    pub shuffle: Option<u64>,
    /// Kept in the index.
    pub metadata: Map<String, Value>,
}

/// Writes a store.
pub struct StoreWriter {
    folder: PathBuf,
    settings: StoreSettings,
    /// Bytes of one element, and of one row of all hooks.
    element: usize,
    row_bytes: usize,
    rows_per_shard: usize,
    /// Draws the shard of every row.
    draw: Random,
    parts: Vec<Part>,
    shards: Vec<Shard>,
}

/// The rows of one shard while they come in: all hooks side by side.
struct Part {
    path: PathBuf,
    out: BufWriter<File>,
    rows: usize,
}

impl Drop for Part {
    /// Parts go when they became shards, or when the store was given up.
    fn drop(&mut self) {
        // Nothing can be done, or need be, about a part that cannot be deleted.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl StoreWriter {
    /// Begins a store in a folder, which is made. Errors: there is a store already, a dtype that
    /// cannot be stored, the folder cannot be written.
    pub fn create(folder: &Path, settings: StoreSettings) -> Result<Self> {
        if folder.join(INDEX_FILE).exists() {
            return Err(Error::format(folder, "holds stored activations already; name another folder or delete it"));
        }
        let element = match settings.dtype {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            other => {
                return Err(Error::config("dtype", format!("{other:?} cannot be stored, expected F32, F16 or BF16")))
            }
        };
        write::folder(folder)?;
        let row_bytes = element * settings.hooks.iter().map(|hook| hook.d_in).sum::<usize>();
        let n_shards = (settings.expected_rows * row_bytes).div_ceil(settings.shard_bytes.max(1)).clamp(1, MOST_SHARDS);
        let rows_per_shard = settings.expected_rows.div_ceil(n_shards).max(1);
        let mut writer = StoreWriter {
            folder: folder.to_path_buf(),
            draw: Random::new(settings.shuffle.unwrap_or(0), Stream::Store, 0),
            settings,
            element,
            row_bytes,
            rows_per_shard,
            parts: Vec::new(),
            shards: Vec::new(),
        };
        for number in 0..if writer.settings.shuffle.is_some() { n_shards } else { 1 } {
            let part = writer.open_part(number)?;
            writer.parts.push(part);
        }
        Ok(writer)
    }

    /// Adds rows: for every hook its values `[n, d_in]`, n the same for all.
    pub fn append(&mut self, values: &[Vec<f32>]) -> Result<()> {
        let rows: Vec<usize> = values.iter().zip(&self.settings.hooks).map(|(v, hook)| v.len() / hook.d_in).collect();
        let n = rows.first().copied().unwrap_or(0);
        if values.len() != self.settings.hooks.len() || rows.iter().any(|&rows| rows != n) {
            let what =
                format!("rows of {} hooks are given, {rows:?}; expected {}", rows.len(), self.settings.hooks.len());
            return Err(Error::Shape { operation: "store_activations", what });
        }
        let mut bytes = Vec::with_capacity(self.row_bytes);
        for row in 0..n {
            bytes.clear();
            for (values, hook) in values.iter().zip(&self.settings.hooks) {
                let values = &values[row * hook.d_in..][..hook.d_in];
                bytes.extend_from_slice(&Tensor::rounded(self.settings.dtype, &[hook.d_in], values).bytes);
            }
            self.push(&bytes)?;
        }
        Ok(())
    }

    /// Writes the shards and, last, the index.
    pub fn finish(mut self) -> Result<StoreIndex> {
        for part in std::mem::take(&mut self.parts) {
            self.close(part)?;
        }
        let index = StoreIndex {
            rows: self.shards.iter().map(|shard| shard.rows).sum(),
            hooks: self.settings.hooks,
            dtype: match self.settings.dtype {
                Dtype::F16 => "float16",
                Dtype::BF16 => "bfloat16",
                _ => "float32",
            }
            .to_string(),
            shuffled: self.settings.shuffle.is_some(),
            shards: self.shards,
            metadata: self.settings.metadata,
        };
        let path = self.folder.join(INDEX_FILE);
        let text = serde_json::to_string_pretty(&index)
            .map_err(|e| Error::format(&path, format!("cannot be written as JSON: {e}")))?;
        write::text(&path, &(text + "\n"))?;
        write::sync_folder(&self.folder)?;
        Ok(index)
    }

    fn open_part(&self, number: usize) -> Result<Part> {
        let path = self.folder.join(format!(".part-{number:05}"));
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        Ok(Part { path, out: BufWriter::new(file), rows: 0 })
    }

    fn push(&mut self, row: &[u8]) -> Result<()> {
        let chosen = match self.settings.shuffle {
            Some(_) => self.draw.below(self.parts.len() as u32) as usize,
            None => 0,
        };
        let part = &mut self.parts[chosen];
        part.out.write_all(row).map_err(Error::io(&part.path, "write"))?;
        part.rows += 1;
        if self.settings.shuffle.is_none() && part.rows == self.rows_per_shard {
            let next = self.open_part(self.shards.len() + 1)?;
            let full = std::mem::replace(&mut self.parts[0], next);
            self.close(full)?;
        }
        Ok(())
    }

    /// Turns a part into a shard.
    fn close(&mut self, mut part: Part) -> Result<()> {
        part.out.flush().map_err(Error::io(&part.path, "write"))?;
        if part.rows > 0 {
            let bytes = std::fs::read(&part.path).map_err(Error::io(&part.path, "read"))?;
            let file = format!("activations-{:05}.safetensors", self.shards.len());
            tensors::save(&self.folder.join(&file), self.tensors(&bytes, part.rows))?;
            self.shards.push(Shard { file, rows: part.rows });
        }
        Ok(())
    }

    /// The rows of a part, in their final order, hook by hook.
    fn tensors(&self, bytes: &[u8], rows: usize) -> Vec<(String, Tensor<'static>)> {
        let order: Vec<u32> = match self.settings.shuffle {
            Some(seed) => Random::new(seed, Stream::Store, 1 + self.shards.len() as u32).permutation(rows),
            None => (0..rows as u32).collect(),
        };
        let mut from = 0;
        let tensor = |hook: &StoredHook| {
            let width = hook.d_in * self.element;
            let mut values = Vec::with_capacity(rows * width);
            for &row in &order {
                values.extend_from_slice(&bytes[row as usize * self.row_bytes + from..][..width]);
            }
            from += width;
            let shape = vec![rows, hook.d_in];
            (hook.hook_name.clone(), Tensor { dtype: self.settings.dtype, shape, bytes: Cow::Owned(values) })
        };
        self.settings.hooks.iter().map(tensor).collect()
    }
}
