//! From text, token files or stored activations to batches of activation rows.

pub mod activation_file;
pub mod documents;
pub mod from_files;
pub mod from_model;
pub mod mixing_buffer;
pub mod open_model;
mod parquet_file;
pub mod rows;
pub mod store;
pub mod store_model;
mod text_files;
mod token_files;
pub mod tokenizer;

pub use activation_file::ActivationFile;
pub use documents::Documents;
pub use from_files::{FromFiles, FromFilesSettings, StoredActivations};
pub use from_model::{FromModel, FromModelSettings, Selection};
pub use mixing_buffer::{MixingBuffer, MixingSettings};
pub use open_model::{open_model, ModelAndTokenizer};
pub use rows::{Packing, Position, TokenRows};
pub use store::{StoreIndex, StoreSettings, StoreWriter};
pub use store_model::{store_activations, StoreRequest};
pub use tokenizer::Tokenizer;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::formats::write;
use serde::{de::DeserializeOwned, Serialize};
use std::path::Path;

/// Where a trainer's batches come from: one batch of every hook at a time, row n of each from the same
/// token. The batches to come are a function of the settings and the saved state alone, so that a
/// resumed run continues bit for bit; those of one hook do not depend on which others are read with it.
pub trait ActivationSource<B: Backend>: Send {
    /// Width of a row (`d_in`) of every hook.
    fn widths(&self) -> Vec<usize>;
    /// Rows in a batch.
    fn batch_size(&self) -> usize;
    /// Fills the batch `[batch_size, d_in]` of every hook; false at the end of data that is not to be
    /// repeated.
    fn next_batches(&mut self, batches: &mut [B::Buffer<f32>]) -> Result<bool>;
    /// Does some of the work of the batches to come, if so many or fewer will be asked for: while the last ones are
    /// trained on, where cores are free. It changes no batch.
    fn prepare(&mut self, _batches_to_come: u64) -> Result<()> {
        Ok(())
    }
    /// How often the data ended and was begun again; worth a warning whenever it grows.
    fn epochs(&self) -> u64;
    /// Activations (tokens) read so far, those that still wait in a buffer included.
    fn tokens_read(&self) -> u64;
    /// Writes the state into files of a folder.
    fn save_state(&self, folder: &Path) -> Result<()>;
    /// Continues from a state that a source of the same settings wrote.
    fn load_state(&mut self, folder: &Path) -> Result<()>;
}

/// In a checkpoint: where the data is.
const POSITION_FILE: &str = "data_position.json";

fn save_position(folder: &Path, position: &impl Serialize) -> Result<()> {
    write::json(&folder.join(POSITION_FILE), position)
}

fn load_position<T: DeserializeOwned>(folder: &Path) -> Result<T> {
    let path = folder.join(POSITION_FILE);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    serde_json::from_str(&text).map_err(|e| {
        Error::format(&path, format!("not the position of this kind of data ({e}); resume with the recipe of the run"))
    })
}
