//! From text, token files or stored activations to batches of activation rows.

pub mod documents;
pub mod mixing_buffer;
mod parquet_file;
pub mod rows;
mod text_files;
mod token_files;
pub mod tokenizer;

pub use documents::Documents;
pub use mixing_buffer::{MixingBuffer, MixingSettings};
pub use rows::{Packing, Position, TokenRows};
pub use tokenizer::Tokenizer;
