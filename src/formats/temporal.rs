//! Temporal SAEs (`conf.yaml` and `latest_ckpt.safetensors`, arXiv 2511.01836) are recognised, and not
//! read: they predict a part of every token's features from the tokens before it.

use super::saelens::SavedSae;
use super::source::Source;
use crate::error::{Error, Result};

/// Whether this is a folder of a temporal SAE.
pub fn holds(source: &Source) -> bool {
    source.has("conf.yaml") && source.has("latest_ckpt.safetensors")
}

/// Says that it is not supported.
pub fn load(source: &Source) -> Result<SavedSae> {
    let what = "is a temporal SAE, which is not supported: its features depend on the tokens before";
    Err(Error::format(source.path(), what))
}
