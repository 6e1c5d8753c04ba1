//! Trains, evaluates and reads sparse autoencoders (SAEs) on language-model activations.
//!
//! The program `cusae` is a thin layer over this library. What computes is a [`backend::Backend`]:
//! [`backend::Cpu`], or a GPU by [`backend::Device::open`]; everything above is generic over it.
//!
//! # An SAE at work
//!
//! [`formats::load`] reads an SAE of any layout, [`sae::inference::Sae`] puts it on a device, and a
//! [`sae::inference::Pass`] has the buffers for batches of rows.
//!
//! ```
//! use cusae::backend::{Backend, Cpu};
//! use cusae::{formats, sae::inference::Sae};
//! use std::path::Path;
//!
//! # fn main() -> cusae::error::Result<()> {
//! let saved = formats::load(Path::new("tests/data/saes/topk-none-bdec-rescale"), None)?;
//! assert_eq!((saved.config.d_in, saved.config.d_sae), (64, 256));
//! let sae = Sae::new(&Cpu, &saved.config, &saved.weights)?;
//!
//! let rows = 3; // of activations of width d_in
//! let activations: Vec<f32> = (0..rows * 64).map(|i| (i as f32).sin()).collect();
//! let x = Cpu.upload(&activations)?;
//! let mut pass = sae.pass(rows)?;
//! pass.encode(&sae, &x, rows)?;
//! let features = pass.features(&sae)?;
//! let (latents, values) = features.row(0);
//! assert!(latents.len() <= 16 && latents.len() == values.len()); // its k is 16
//!
//! pass.decode(&sae)?;
//! let reconstruction = Cpu.download(pass.reconstruction())?; // [rows, d_in]
//! assert_eq!(reconstruction.len(), rows * 64);
//! # Ok(())
//! # }
//! ```
//!
//! # Training on batches of one's own
//!
//! [`train::Trainer`] does the steps of a [`config::Recipe`], whose keys are those of the command line and
//! of SAELens. ([`train::run`] does a whole run: model, text, logs, checkpoints, evaluation.)
//!
//! ```
//! use cusae::{backend::Cpu, config::Recipe, train::Trainer};
//!
//! # fn main() -> cusae::error::Result<()> {
//! let recipe = "k = 4\nd_sae = 64\ntrain_batch_size_tokens = 128\ntraining_tokens = 6400\nlr = 0.01";
//! let recipe = Recipe::from_toml("a recipe".as_ref(), recipe)?;
//! let d_in = 16;
//! let mut trainer = Trainer::new(&Cpu, &recipe, d_in)?;
//! let mut losses = Vec::new();
//! for step in 0..50 {
//!     // Rows of the model that is looked into; here, sums of two of eight directions.
//!     let row = |r: usize| (0..d_in).map(move |d| ((r % 8 * 31 + d * 7) as f32).sin() + ((r % 5 + d) as f32).cos());
//!     let batch: Vec<f32> = (0..128).flat_map(|r| row(step * 128 + r)).collect();
//!     trainer.step(&batch)?;
//!     losses.push(trainer.report()?.overall_loss());
//! }
//! assert!(losses[49] < 0.7 * losses[0]);
//!
//! let folder = std::env::temp_dir().join(format!("cusae-example-{}", std::process::id()));
//! trainer.save(&folder)?; // as SAELens' SAE.load_from_disk reads it
//! let again = cusae::formats::load(&folder, None)?;
//! assert_eq!(again.config.d_sae, 64);
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! # From C
//!
//! `include/cusae.h` has the same as C functions; `cargo build --release -p cusae-capi` makes `libcusae.so` and
//! `libcusae.a` of [`capi`].
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod analysis;
pub mod backend;
pub mod bench;
pub mod capi;
pub mod config;
pub mod data;
pub mod date;
pub mod embedded;
pub mod error;
pub mod eval;
pub mod formats;
pub mod hub;
pub mod lm;
pub mod machine;
pub mod random;
pub mod registry;
pub mod sae;
pub mod train;
