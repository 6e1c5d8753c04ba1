//! The sparse autoencoder: parameters, training step, architectures.

pub mod architecture;
pub mod autocast;
pub mod auxk;
pub mod average;
pub mod batchtopk;
pub mod config;
pub mod features;
pub mod forms;
pub mod gated;
pub mod inference;
pub mod init;
pub mod inspect;
pub mod jumprelu;
pub mod kind;
pub mod matching_pursuit;
pub mod matryoshka;
pub mod parameters;
pub mod pursuit;
pub mod report;
mod resample;
pub mod similarity;
pub mod standard;
pub mod step;
pub mod topk;
pub mod transcoder;
pub mod unit_norm;
pub mod weights;
