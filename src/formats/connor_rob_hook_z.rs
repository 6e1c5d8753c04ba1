//! SAEs of attention outputs by Connor Kissane and Rob Krzyzanowski: `NAME.pt` with SAELens' names and
//! `NAME_cfg.json`. Source: SAELens' loader of this name.

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::torch;
use crate::error::Result;
use crate::sae::config::{InferenceArchitecture, ReshapeActivations, SaeConfig};
use serde_json::json;
use std::path::PathBuf;

/// Whether this is such a file.
pub fn holds(source: &Source) -> bool {
    source.is_file(".pt") && cfg(source).is_file()
}

/// Reads an SAE on the heads' outputs, taken together.
pub fn load(source: &Source) -> Result<SavedSae> {
    let notes = Notes::read(&cfg(source))?;
    let file = torch::open(source.path())?.tensors;
    let w_enc = matrix(&file, "W_enc")?;
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    for (key, found) in [("act_size", d_in), ("dict_size", d_sae)] {
        match notes.size(key)?.ok_or_else(|| notes.missing(key))? {
            said if said != found => {
                return Err(notes.wrong(key, &said.into(), &format!("{found}, as the weights have it")))
            }
            _ => {}
        }
    }
    let mut config = SaeConfig::new(InferenceArchitecture::Standard, d_in, d_sae);
    config.dtype = file.info("W_enc")?.dtype;
    config.reshape_activations = ReshapeActivations::HookZ;
    config.metadata = metadata([
        ("model_name", Some(json!("gpt2-small"))),
        ("hook_name", notes.get("act_name").cloned()),
        ("prepend_bos", Some(true.into())),
        ("dataset_path", Some(json!("Skylion007/openwebtext"))),
        ("context_size", Some(json!(128))),
    ]);
    let tensors = [
        ("W_enc", w_enc),
        ("W_dec", matrix(&file, "W_dec")?),
        ("b_enc", tensor(&file, "b_enc")?),
        ("b_dec", tensor(&file, "b_dec")?),
    ];
    assemble(file.path(), config, tensors)
}

fn cfg(source: &Source) -> PathBuf {
    let stem = source.path().file_stem().unwrap_or_default().to_string_lossy();
    source.path().with_file_name(format!("{stem}_cfg.json"))
}
