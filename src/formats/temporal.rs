//! Temporal SAEs of their authors: `conf.yaml` and `latest_ckpt.safetensors` (arXiv 2511.01836), in a folder
//! `layer_N/…`. Source: SAELens 6.54, `temporal_sae_huggingface_loader`.

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::{parse_dtype, TensorFile};
use crate::error::Result;
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use crate::sae::temporal::TemporalConfig;
use crate::sae::weights::HostTensor;

const CONF: &str = "conf.yaml";
const WEIGHTS: &str = "latest_ckpt.safetensors";

/// Whether this is a folder of a temporal SAE.
pub fn holds(source: &Source) -> bool {
    source.has(CONF) && source.has(WEIGHTS)
}

/// Reads one: `D [d_sae, d_in]` is the decoder, `b` its bias, `E [d_in, d_sae]` the encoder where the two are
/// not tied; activations are multiplied by `scaling_factor`.
pub fn load(source: &Source) -> Result<SavedSae> {
    let notes = Notes::read(&source.file(CONF))?;
    let file = TensorFile::open(source.file(WEIGHTS))?;
    let w_dec = matrix(&file, "D")?;
    let [d_sae, d_in] = [w_dec.shape[0], w_dec.shape[1]];
    let mut config = SaeConfig::new(InferenceArchitecture::Temporal(settings(&notes, d_sae)?), d_in, d_sae);
    if let Some(dtype) = notes.text("data.dtype") {
        let expected = "float32, float64, float16 or bfloat16";
        config.dtype = parse_dtype(dtype).ok_or_else(|| notes.wrong("data.dtype", &dtype.into(), expected))?;
    }
    if let Some(layer) = source.number_after("layer_") {
        config.set_hook(&format!("blocks.{layer}.hook_resid_post"));
    }
    let mut tensors: Vec<(String, HostTensor)> = vec![("W_dec".into(), w_dec), ("b_dec".into(), tensor(&file, "b")?)];
    if file.contains("E") {
        tensors.push(("W_enc".into(), matrix(&file, "E")?));
    }
    for name in file.names().into_iter().filter(|name| name.starts_with("attn_layers.")) {
        let of_layer = tensor(&file, &name)?;
        tensors.push((name, of_layer));
    }
    assemble(file.path(), config, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())))
}

fn settings(notes: &Notes, d_sae: usize) -> Result<TemporalConfig> {
    let size = |name: &str| notes.size(name)?.ok_or_else(|| notes.missing(name));
    let kind = notes.text("sae.sae_diff_type").unwrap_or("topk");
    let k = match kind {
        "relu" => None,
        "topk" => notes.size("sae.kval_topk")?,
        other => return Err(notes.wrong("sae.sae_diff_type", &other.into(), "relu or topk")),
    };
    if let Some(k) = k.filter(|&k| k > d_sae) {
        return Err(notes.wrong("sae.kval_topk", &k.into(), &format!("at most the number of latents, {d_sae}")));
    }
    let factor = notes.number("sae.scaling_factor")?.ok_or_else(|| notes.missing("sae.scaling_factor"))?;
    if !(factor as f32).is_normal() {
        return Err(notes.wrong("sae.scaling_factor", &factor.into(), "a number that is not 0"));
    }
    let temporal = TemporalConfig {
        n_heads: size("sae.n_heads")?,
        n_attn_layers: size("sae.n_attn_layers")?,
        bottleneck_factor: size("sae.bottleneck_factor")?,
        k,
        tied_weights: notes.switch("sae.tied_weights", true)?,
        activation_normalization_factor: Some(factor),
    };
    let heads = temporal.n_heads.into();
    temporal.check(d_sae).map_err(|what| notes.wrong("sae.n_heads", &heads, &format!("one that divides: {what}")))?;
    Ok(temporal)
}
