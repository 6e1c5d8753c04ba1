//! Arguments of the SAE's operations, one file per stage of a training step. See the parent module
//! for the conventions.
//!
//! Inside the engine one latent is one contiguous row in both matrices: `w_enc [F, D]` and
//! `w_dec [F, D]`. Features are lists wherever that is cheaper than a dense `[B, F]` matrix.

mod decode;
mod encode;
mod firing;
mod gated;
mod ghost;
mod gradient;
mod jumprelu;
mod lists;
mod optimizer;
mod rows;
mod sparsity;

pub use decode::*;
pub use encode::*;
pub use firing::*;
pub use gated::*;
pub use ghost::*;
pub use gradient::*;
pub use jumprelu::*;
pub use lists::*;
pub use optimizer::*;
pub use rows::*;
pub use sparsity::*;
