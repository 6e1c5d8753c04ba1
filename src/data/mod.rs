//! From text, token files or stored activations to batches of activation rows.

pub mod tokenizer;

pub use tokenizer::Tokenizer;
