//! SAEs of openai/sparse_autoencoder: one `.pt` file. Source: its `model.py` (commit 4965b94).

use super::saelens::SavedSae;
use super::source::*;
use super::torch::{self, TorchFile};
use super::write;
use crate::config::NormalizeActivations;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use serde_json::{json, Map, Value};
use std::path::Path;

/// The file that [`save`] writes.
pub const FILE: &str = "autoencoder.pt";

/// Whether this is a file of OpenAI's autoencoder.
pub fn holds(source: &Source) -> bool {
    source.is_torch_with(&["pre_bias", "encoder.weight"])
}

/// Reads an autoencoder: ReLU, or TopK of layer-normed activations (`from_state_dict` knows by the one
/// that there is the other). A tied decoder, which is not in the file, is the encoder transposed.
pub fn load(source: &Source) -> Result<SavedSae> {
    let TorchFile { tensors: file, values } = torch::open(source.path())?;
    let path = file.path();
    let w_enc = transposed(&file, "encoder.weight")?;
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    let activation = values.get("activation").and_then(Value::as_str).unwrap_or("ReLU");
    let architecture = match activation {
        "ReLU" => InferenceArchitecture::Standard,
        "TopK" => InferenceArchitecture::TopK { k: k(path, &values, d_sae)?, rescale_acts_by_decoder_norm: false },
        other => return Err(Error::format(path, format!("activation is {other}, expected ReLU or TopK"))),
    };
    let mut config = SaeConfig::new(architecture, d_in, d_sae);
    if activation == "TopK" {
        config.normalize_activations = NormalizeActivations::LayerNorm;
    }
    config.dtype = file.info("encoder.weight")?.dtype;
    let w_dec = match file.contains("decoder.weight") {
        true => transposed(&file, "decoder.weight")?,
        false => matrix(&file, "encoder.weight")?,
    };
    config.metadata = metadata([("model_name", source.name().contains("gpt2-small").then(|| json!("gpt2-small")))]);
    let tensors = [
        ("W_enc", w_enc),
        ("W_dec", w_dec),
        ("b_enc", tensor(&file, "latent_bias")?),
        ("b_dec", tensor(&file, "pre_bias")?),
    ];
    assemble(path, config, tensors)
}

fn k(path: &Path, values: &Map<String, Value>, d_sae: usize) -> Result<usize> {
    let function = values.get("activation_state_dict.postact_fn").and_then(Value::as_str).unwrap_or("ReLU");
    if function != "ReLU" {
        return Err(Error::format(path, format!("postact_fn is {function}, expected ReLU")));
    }
    let k = values.get("activation_state_dict.k").and_then(Value::as_u64).unwrap_or(0) as usize;
    match (1..=d_sae).contains(&k) {
        true => Ok(k),
        false => Err(Error::format(path, format!("activation_state_dict.k is {k}, expected 1 to {d_sae}"))),
    }
}

/// Writes `autoencoder.pt` for OpenAI's `from_state_dict`. Errors: it is neither standard without a
/// normalisation nor TopK with `layer_norm`.
pub fn save(folder: &Path, saved: &SavedSae) -> Result<()> {
    let SavedSae { config, weights, .. } = saved;
    let normalization = config.normalize_activations;
    let values = match config.architecture {
        _ if config.transcoder.is_some() || !config.apply_b_dec_to_input => None,
        InferenceArchitecture::Standard if normalization == NormalizeActivations::None => {
            Some(vec![("activation", json!("ReLU"))])
        }
        InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm: false }
            if normalization == NormalizeActivations::LayerNorm =>
        {
            let state = json!({"k": k, "postact_fn": "ReLU"});
            Some(vec![("activation", json!("TopK")), ("activation_state_dict", state)])
        }
        _ => None,
    };
    let values = values.ok_or_else(|| super::cannot_write("openai", config))?;
    let (zeros, ones) = (full(config.d_sae, 0.0), full(config.d_sae, 1.0));
    let tensors = [
        ("pre_bias", torch::f32_tensor(weights.get("b_dec"))),
        ("latent_bias", torch::f32_tensor(weights.get("b_enc"))),
        ("stats_last_nonzero", super::tensors::Tensor::i64(&[config.d_sae], &vec![0; config.d_sae])),
        ("latents_activation_frequency", torch::f32_tensor(&ones)),
        ("latents_mean_square", torch::f32_tensor(&zeros)),
        ("encoder.weight", torch::f32_tensor(&weights.get("W_enc").transposed())),
        ("decoder.weight", torch::f32_tensor(&weights.get("W_dec").transposed())),
    ];
    write::folder(folder)?;
    let tensors = tensors.map(|(name, tensor)| (name.to_string(), tensor));
    torch::save(&folder.join(FILE), &tensors, &values)?;
    write::sync_folder(folder)
}
