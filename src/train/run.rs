//! The run: from a recipe to a trained SAE.

use super::progress::Reporter;
use super::{Options, Summary};
use crate::backend::Backend;
use crate::config::Recipe;
use crate::error::{Error, Result};

/// Trains as the recipe says and leaves everything in `options.out`.
pub fn run<B: Backend>(_: &B, _: &Recipe, _: &Options, _: &mut dyn Reporter) -> Result<Summary> {
    Err(Error::config("train", "this build cannot train yet"))
}
