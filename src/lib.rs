//! Trains, evaluates and reads sparse autoencoders on language-model activations.
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod analysis;
pub mod backend;
pub mod bench;
pub mod config;
pub mod data;
pub mod date;
pub mod embedded;
pub mod error;
pub mod eval;
pub mod formats;
pub mod lm;
pub mod machine;
pub mod random;
pub mod registry;
pub mod sae;
pub mod train;
