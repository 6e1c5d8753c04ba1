//! From text, token files or stored activations to batches of activation rows.

pub mod documents;
mod parquet_file;
pub mod rows;
mod text_files;
mod token_files;
pub mod token_settings;
pub mod tokenizer;

pub use documents::Documents;
pub use rows::{Packing, Position, TokenRows};
pub use token_settings::{ExcludeSpecialTokens, SeqposSlice, SequenceSeparator};
pub use tokenizer::Tokenizer;
