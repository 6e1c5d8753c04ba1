//! Llama Scope: `llama_scope` (`hyperparams.json` and `checkpoints/final.safetensors`) and
//! `llama_scope_r1_distill` (`config.json` and `sae_weights.safetensors`). Both were trained on
//! activations scaled to a mean norm of `sqrt(d_in)`. Source: SAELens' loaders of these names.

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::TensorFile;
use crate::config::NormalizeActivations;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use crate::sae::weights::HostTensor;
use serde_json::json;

const HYPERPARAMS: &str = "hyperparams.json";
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "sae_weights.safetensors";
const NORM: &str = "dataset_average_activation_norm.in";

/// Whether this is a folder of Llama Scope.
pub fn holds(source: &Source) -> bool {
    source.has(HYPERPARAMS)
}

/// Whether this is a folder of Llama Scope R1-Distill.
pub fn holds_r1_distill(source: &Source) -> bool {
    source.has(CONFIG) && source.has(WEIGHTS)
}

/// Reads an SAE of Llama Scope. Its threshold is one number, in the units of unscaled activations, as
/// SAELens takes it: it is multiplied by the factor `sqrt(d_in) / norm`, which is then folded into the
/// weights.
pub fn load(source: &Source) -> Result<SavedSae> {
    let notes = Notes::read(&source.file(HYPERPARAMS))?;
    let file = TensorFile::open(source.file("checkpoints/final.safetensors"))?;
    let factor = factor(&notes)?.ok_or_else(|| notes.missing(NORM))?;
    let threshold = notes.number("jump_relu_threshold")?.ok_or_else(|| notes.missing("jump_relu_threshold"))?;
    let w_enc = transposed(&file, "encoder.weight")?;
    let threshold = full(w_enc.shape[1], (threshold * factor) as f32);
    let mut saved = assembled(source, &notes, &file, w_enc, threshold)?;
    fold(&mut saved, factor);
    Ok(saved)
}

/// Reads an SAE of Llama Scope R1-Distill: a threshold for each latent, as its logarithm. The factor is
/// folded in if the config has the norm it comes from; else SAELens' registry has it.
pub fn load_r1_distill(source: &Source) -> Result<SavedSae> {
    let notes = Notes::read(&source.file(CONFIG))?;
    let file = TensorFile::open(source.file(WEIGHTS))?;
    let w_enc = transposed(&file, "encoder.weight")?;
    let log_threshold = per_latent(&file, "log_jumprelu_threshold", w_enc.shape[1])?;
    let values = log_threshold.values.iter().map(|x| x.exp()).collect();
    let threshold = HostTensor { values, ..log_threshold };
    let mut saved = assembled(source, &notes, &file, w_enc, threshold)?;
    match factor(&notes)? {
        Some(factor) => fold(&mut saved, factor),
        None => saved.config.normalize_activations = NormalizeActivations::ExpectedAverageOnlyIn,
    }
    Ok(saved)
}

/// `sqrt(d_in) / norm`, where the norm is known.
fn factor(notes: &Notes) -> Result<Option<f64>> {
    let d_in = notes.size("d_model")?.ok_or_else(|| notes.missing("d_model"))?;
    let Some(norm) = notes.number(NORM)? else { return Ok(None) };
    if !norm.is_finite() || norm <= 0.0 {
        return Err(notes.wrong(NORM, &json!(norm), "a number above 0"));
    }
    Ok(Some((d_in as f64).sqrt() / norm))
}

fn fold(saved: &mut SavedSae, factor: f64) {
    saved.weights.fold_activation_norm_scaling_factor(&mut saved.config, factor as f32);
}

fn assembled(
    source: &Source,
    notes: &Notes,
    file: &TensorFile,
    w_enc: HostTensor,
    threshold: HostTensor,
) -> Result<SavedSae> {
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    if notes.size("d_model")? != Some(d_in) {
        let what = format!("encoder.weight is for d_model = {d_in}, which {} does not say", source.path().display());
        return Err(Error::format(file.path(), what));
    }
    let mut config = SaeConfig::new(InferenceArchitecture::JumpRelu, d_in, d_sae);
    config.apply_b_dec_to_input = false;
    config.dtype = file.info("encoder.weight")?.dtype;
    config.metadata = metadata([
        ("model_name", Some(json!("meta-llama/Llama-3.1-8B"))),
        ("prepend_bos", Some(true.into())),
        ("dataset_path", Some(json!("cerebras/SlimPajama-627B"))),
        ("context_size", Some(json!(1024))),
    ]);
    notes.text("hook_point_in").iter().for_each(|hook| config.set_hook(hook));
    let tensors = [
        ("W_enc", w_enc),
        ("W_dec", transposed(file, "decoder.weight")?),
        ("b_enc", tensor(file, "encoder.bias")?),
        ("b_dec", tensor(file, "decoder.bias")?),
        ("threshold", threshold),
    ];
    assemble(file.path(), config, tensors)
}
