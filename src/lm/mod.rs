//! Language models: a GPT-2 family forward pass whose every TransformerLens hook can be read and
//! edited, from the files that Hugging Face's `transformers` writes; and generation with it.

mod autocast;
mod backward;
mod cache;
mod checkpoint;
mod config;
mod forward;
mod generate;
mod hooks;
mod model;
mod processing;
mod weights;

pub use backward::LogitSum;
pub use checkpoint::Checkpoint;
pub use config::ModelConfig;
pub use forward::Forward;
pub use generate::{End, Generated, Generation, Limits};
pub use hooks::{Record, Visitor};
pub use model::LanguageModel;
pub use processing::Processing;
