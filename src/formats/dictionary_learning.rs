//! SAEs of saprmarks/dictionary_learning: `ae.pt` and `config.json`. Source: its `dictionary.py` and
//! `trainers/*`, version 0.1.0. SAELens' loader `dictionary_learning_1` takes AutoEncoderNew for
//! AutoEncoder; here it is read as what it is.

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::{Tensor, TensorFile};
use super::torch::{self, TorchFile};
use super::write;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use serde_json::{json, Value};
use std::path::Path;

const WEIGHTS: &str = "ae.pt";
const CONFIG: &str = "config.json";

/// Whether this is a folder of dictionary_learning, or one of its checkpoints.
pub fn holds(source: &Source) -> bool {
    source.has(WEIGHTS) || source.is_file("ae.pt") || (source.is_file(".pt") && trainer_config(source).is_some())
}

fn trainer_config(source: &Source) -> Option<Notes> {
    // Checkpoints are in a folder of their own, beside the config.
    let candidates = [source.file(CONFIG), source.file("../config.json")];
    candidates.iter().filter_map(|path| Notes::read(path).ok()).find(|notes| notes.get("trainer").is_some())
}

/// Reads any of its dictionaries but the identity. BatchTopK and Matryoshka are JumpReLU with the one
/// threshold that training found. Without a config the class is known by the names of its tensors.
pub fn load(source: &Source) -> Result<SavedSae> {
    let path = if source.path().is_dir() { source.file(WEIGHTS) } else { source.path().to_path_buf() };
    let TorchFile { tensors: file, values } = torch::open(&path)?;
    let notes = trainer_config(source);
    let class = notes.as_ref().and_then(|notes| notes.text("trainer.dict_class"));
    let class = class.map_or_else(|| class_of(&path, &file, &values), |class| Ok(class.to_string()))?;
    let w_enc = match file.contains("W_enc") {
        true => matrix(&file, "W_enc")?,
        false => transposed(&file, "encoder.weight")?,
    };
    let w_dec = match file.contains("W_dec") {
        true => matrix(&file, "W_dec")?,
        false => transposed(&file, "decoder.weight")?,
    };
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    let b_dec = tensor(&file, one_of(&file, &["b_dec", "bias", "decoder_bias", "decoder.bias"])?)?;
    let (architecture, apply_b_dec_to_input) = match class.as_str() {
        "AutoEncoder" => (InferenceArchitecture::Standard, true),
        "AutoEncoderNew" => (InferenceArchitecture::Standard, false),
        "GatedAutoEncoder" => (InferenceArchitecture::Gated, true),
        "JumpReluAutoEncoder" => (InferenceArchitecture::JumpRelu, false),
        "BatchTopKSAE" | "MatryoshkaBatchTopKSAE" => (InferenceArchitecture::JumpRelu, true),
        "AutoEncoderTopK" => {
            (InferenceArchitecture::TopK { k: k(&path, &file, d_sae)?, rescale_acts_by_decoder_norm: false }, true)
        }
        other => {
            let what = format!(
                "class {other} is not known; AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, \
                 AutoEncoderTopK, BatchTopKSAE and MatryoshkaBatchTopKSAE are"
            );
            return Err(Error::format(&path, what));
        }
    };
    let mut config = SaeConfig::new(architecture, d_in, d_sae);
    config.apply_b_dec_to_input = apply_b_dec_to_input;
    config.dtype = file.info(one_of(&file, &["W_enc", "encoder.weight"])?)?.dtype;
    note_origin(&mut config, notes.as_ref());
    if architecture == InferenceArchitecture::Gated {
        let tensors = [
            ("W_enc", w_enc),
            ("W_dec", w_dec),
            ("b_dec", b_dec),
            ("b_gate", tensor(&file, "gate_bias")?),
            ("b_mag", tensor(&file, "mag_bias")?),
            ("r_mag", tensor(&file, "r_mag")?),
        ];
        return assemble(&path, config, tensors);
    }
    let b_enc = tensor(&file, one_of(&file, &["b_enc", "encoder.bias"])?)?;
    let shared = [("W_enc", w_enc), ("W_dec", w_dec), ("b_dec", b_dec), ("b_enc", b_enc)];
    if architecture != InferenceArchitecture::JumpRelu {
        return assemble(&path, config, shared);
    }
    let mut threshold = per_latent(&file, "threshold", d_sae)?;
    if class != "JumpReluAutoEncoder" {
        // Before training has set it, it is -1: everything that the ReLU leaves is above it.
        threshold.values.iter_mut().for_each(|x| *x = x.max(0.0));
    }
    let [a, b, c, d] = shared;
    assemble(&path, config, [a, b, c, d, ("threshold", threshold)])
}

/// The class whose state_dict has these names.
fn class_of(path: &Path, file: &TensorFile, values: &serde_json::Map<String, Value>) -> Result<String> {
    let has = |name: &str| file.contains(name) || values.contains_key(name);
    let class = match () {
        () if has("r_mag") => "GatedAutoEncoder",
        () if has("group_sizes") => "MatryoshkaBatchTopKSAE",
        () if has("k") => {
            let what = format!(
                "AutoEncoderTopK and BatchTopKSAE have tensors of the same names; add the {CONFIG} that names the class \
                 as trainer.dict_class"
            );
            return Err(Error::format(path, what));
        }
        () if has("W_enc") && has("threshold") => "JumpReluAutoEncoder",
        () if has("decoder.bias") => "AutoEncoderNew",
        () => "AutoEncoder",
    };
    Ok(class.into())
}

fn k(path: &Path, file: &TensorFile, d_sae: usize) -> Result<usize> {
    let k = file.u32("k")?.first().map_or(0, |&k| k as usize);
    match (1..=d_sae).contains(&k) {
        true => Ok(k),
        false => Err(Error::format(path, format!("k is {k}, expected 1 to d_sae = {d_sae}"))),
    }
}

fn note_origin(config: &mut SaeConfig, notes: Option<&Notes>) {
    let text = |name: &str| notes.and_then(|notes| notes.text(name));
    let number = |name: &str| notes.and_then(|notes| notes.get(name)).and_then(Value::as_u64);
    let model = text("trainer.lm_name").map(|name| name.rsplit('/').next().unwrap_or(name).into());
    config.metadata = metadata([
        ("model_name", model),
        ("hook_name", number("trainer.layer").map(|layer| format!("blocks.{layer}.hook_resid_post").into())),
        ("context_size", number("buffer.ctx_len").map(Into::into)),
        ("dataset_path", Some(json!("monology/pile-uncopyrighted"))),
        ("prepend_bos", Some(true.into())),
    ]);
}

/// Writes the folder that dictionary_learning's `load_dictionary` reads. Errors: the architecture or
/// normalisation has no class there.
pub fn save(folder: &Path, saved: &SavedSae) -> Result<()> {
    let SavedSae { config, weights, .. } = saved;
    super::refuse_normalization(config, "dictionary_learning")?;
    let as_is = |ours: &str, theirs: &str| (theirs.to_string(), torch::f32_tensor(weights.get(ours)));
    let turned = |ours: &str, theirs: &str| (theirs.to_string(), torch::f32_tensor(&weights.get(ours).transposed()));
    let linear = [turned("W_enc", "encoder.weight"), turned("W_dec", "decoder.weight")];
    let (class, mut tensors, k) = match config.architecture {
        _ if config.transcoder.is_some() => return Err(super::cannot_write("dictionary_learning", config)),
        InferenceArchitecture::Standard if config.apply_b_dec_to_input => {
            ("AutoEncoder", vec![as_is("b_dec", "bias"), as_is("b_enc", "encoder.bias")], None)
        }
        InferenceArchitecture::Standard => {
            ("AutoEncoderNew", vec![as_is("b_dec", "decoder.bias"), as_is("b_enc", "encoder.bias")], None)
        }
        InferenceArchitecture::Gated if config.apply_b_dec_to_input => (
            "GatedAutoEncoder",
            vec![
                as_is("b_dec", "decoder_bias"),
                as_is("b_gate", "gate_bias"),
                as_is("b_mag", "mag_bias"),
                as_is("r_mag", "r_mag"),
            ],
            None,
        ),
        InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm: false } if config.apply_b_dec_to_input => {
            let scalars = [("k", Tensor::i64(&[], &[k as u32])), ("threshold", Tensor::f32(&[], &[-1.0]))];
            let mut tensors = vec![as_is("b_dec", "b_dec"), as_is("b_enc", "encoder.bias")];
            tensors.extend(scalars.map(|(name, tensor)| (name.to_string(), tensor)));
            ("AutoEncoderTopK", tensors, Some(k))
        }
        InferenceArchitecture::JumpRelu if !config.apply_b_dec_to_input => (
            "JumpReluAutoEncoder",
            ["W_enc", "W_dec", "b_enc", "b_dec", "threshold"].map(|name| as_is(name, name)).into(),
            None,
        ),
        _ => return Err(super::cannot_write("dictionary_learning", config)),
    };
    if class != "JumpReluAutoEncoder" {
        tensors.extend(linear);
    }
    let note = |key: &str| config.metadata.get(key).cloned().unwrap_or(Value::Null);
    let layer = config.hook_name().and_then(|hook| number_after(hook, "blocks."));
    let mut trainer = json!({
        "dict_class": class, "activation_dim": config.d_in, "dict_size": config.d_sae, "lm_name": note("model_name"),
        "layer": layer, "submodule_name": note("hook_name"),
    });
    if let Some(k) = k {
        trainer["k"] = k.into();
    }
    let notes = json!({"trainer": trainer, "buffer": {"ctx_len": note("context_size"), "d_submodule": config.d_in}});
    write::folder(folder)?;
    torch::save(&folder.join(WEIGHTS), &tensors, &[])?;
    write::text(&folder.join(CONFIG), &format!("{notes:#}\n"))?;
    write::sync_folder(folder)
}
