//! The C interface, `include/cusae.h`, which says what every function does. The crate in `capi/` makes
//! the shared and the static library of it.
//!
//! A handle is a mutex around what it stands for. No panic leaves a function, and no error: it becomes
//! a status and this thread's text.

mod engine;
mod features;
mod numbers;
mod pointers;
mod sae;
mod status;
mod trainer;

pub use engine::*;
pub use features::*;
pub use sae::*;
pub use status::{cusae_error_text, Status};
pub use trainer::*;

use crate::sae::config::SaeConfig;
use std::ffi::c_char;

/// See `include/cusae.h`.
#[no_mangle]
pub extern "C" fn cusae_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// `cusae_sizes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Width of the activations.
    pub d_in: usize,
    /// Width of the reconstruction.
    pub d_out: usize,
    /// Number of latents.
    pub d_sae: usize,
}

impl From<&SaeConfig> for Sizes {
    fn from(config: &SaeConfig) -> Self {
        Sizes { d_in: config.d_in, d_out: config.d_out(), d_sae: config.d_sae }
    }
}
