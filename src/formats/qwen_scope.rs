//! Qwen Scope: `layerN.sae.pt`, TopK. `k` is only in the repository's name, which ends in `-L0_50`.
//! Source: SAELens' loader of this name.

use super::saelens::SavedSae;
use super::source::*;
use super::torch;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use serde_json::json;

/// Whether this is a file of Qwen Scope.
pub fn holds(source: &Source) -> bool {
    source.is_file(".sae.pt")
}

/// Reads an SAE of one layer. Error: no folder's name says `L0_K`.
pub fn load(source: &Source) -> Result<SavedSae> {
    let file = torch::open(source.path())?.tensors;
    let path = file.path();
    let w_enc = transposed(&file, "W_enc")?;
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    let k = source.number_after("-L0_").filter(|k| (1..=d_sae).contains(k)).ok_or_else(|| {
        let what = format!(
            "k is not in the file, and no folder's name says it; keep it in a folder named as the repository, such as \
             SAE-Res-Qwen3-1.7B-Base-W32K-L0_50 (1 to {d_sae})"
        );
        Error::format(path, what)
    })?;
    let architecture = InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm: false };
    let mut config = SaeConfig::new(architecture, d_in, d_sae);
    config.apply_b_dec_to_input = false;
    config.dtype = file.info("W_enc")?.dtype;
    let layer = source.number_after("layer");
    let model = source.parts().find_map(|part| part.strip_prefix("SAE-Res-")?.split("-W").next());
    config.metadata = metadata([
        ("model_name", model.map(|model| format!("Qwen/{model}").into())),
        ("hook_name", layer.map(|layer| format!("blocks.{layer}.hook_resid_post").into())),
        ("hf_hook_name", layer.map(|layer| format!("model.layers.{layer}").into())),
        ("prepend_bos", Some(true.into())),
        ("context_size", Some(json!(1024))),
    ]);
    let tensors = [
        ("W_enc", w_enc),
        ("W_dec", transposed(&file, "W_dec")?),
        ("b_enc", tensor(&file, "b_enc")?),
        ("b_dec", tensor(&file, "b_dec")?),
    ];
    assemble(path, config, tensors)
}
