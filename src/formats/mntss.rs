//! One layer of a cross-layer transcoder by mntss (`mntss_clt_layer_transcoder`): `W_enc_L.safetensors`,
//! `W_dec_L.safetensors` and `config.yaml`. The decoders to all later layers are summed, as in SAELens:
//! right for the layer's features, not for reconstruction.

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::TensorFile;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig, Transcoder};
use crate::sae::weights::HostTensor;
use serde_json::json;

/// Whether this is the encoder of a layer.
pub fn holds(source: &Source) -> bool {
    source.is_file(".safetensors") && source.parts().next().is_some_and(|name| name.starts_with("W_enc_"))
}

/// Reads a layer by its `W_enc_L.safetensors`. Error: the file is not named so.
pub fn load(source: &Source) -> Result<SavedSae> {
    let name = source.parts().next().unwrap_or_default();
    let layer = number_after(name, "W_enc_").ok_or_else(|| {
        Error::format(
            source.path(),
            "name the encoder of a layer, such as W_enc_0.safetensors; its decoder lies beside it",
        )
    })?;
    let encoder = TensorFile::open(source.path())?;
    let decoder = TensorFile::open(source.file(&format!("W_dec_{layer}.safetensors")))?;
    let notes = Notes::read(&source.file("config.yaml"))?;
    let w_enc = transposed(&encoder, &format!("W_enc_{layer}"))?;
    let w_dec = sum_of_layers(tensor(&decoder, &format!("W_dec_{layer}"))?);
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    let mut config = SaeConfig::new(InferenceArchitecture::Standard, d_in, d_sae);
    config.transcoder = Some(Transcoder { d_out: w_dec.shape.last().copied().unwrap_or(0), skip: false });
    config.apply_b_dec_to_input = false;
    config.dtype = encoder.info(&format!("W_enc_{layer}"))?.dtype;
    let hook = |key: &str| notes.text(key).map(|hook| format!("blocks.{layer}.{hook}").into());
    config.metadata = metadata([
        ("model_name", notes.get("model_name").cloned()),
        ("hook_name", hook("feature_input_hook")),
        ("hook_name_out", hook("feature_output_hook")),
        ("model_from_pretrained_kwargs", Some(json!({"fold_ln": false}))),
    ]);
    let tensors: [(&str, HostTensor); 4] = [
        ("W_enc", w_enc),
        ("W_dec", w_dec),
        ("b_enc", tensor(&encoder, &format!("b_enc_{layer}"))?),
        ("b_dec", tensor(&encoder, &format!("b_dec_{layer}"))?),
    ];
    assemble(encoder.path(), config, tensors)
}
