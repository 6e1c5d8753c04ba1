//! SAEs and transcoders of EleutherAI/sparsify: `cfg.json` and `sae.safetensors`. Source: its
//! `sparse_coder.py`, version 1.3.3. (SAELens 6.54 has a loader of this name that cannot load them: it
//! transposes a decoder that is not, and takes `num_latents: 0` for the width.)

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::{self, Tensor, TensorFile};
use super::write;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig, Transcoder};
use serde_json::json;
use std::path::Path;

const CFG: &str = "cfg.json";
const WEIGHTS: &str = "sae.safetensors";

/// Whether this is a folder of sparsify.
pub fn holds(source: &Source) -> bool {
    source.has(WEIGHTS)
}

/// Reads a sparse coder: the k largest after the ReLU; `b_dec` is taken from the input unless it
/// transcodes. Files of its first versions, whose TopK had signs, are AbsTopK.
pub fn load(source: &Source) -> Result<SavedSae> {
    let notes = Notes::read(&source.file(CFG))?;
    let file = TensorFile::open(source.file(WEIGHTS))?;
    let activation = notes.text("activation").unwrap_or("topk");
    if activation != "topk" {
        return Err(notes.wrong("activation", &activation.into(), "topk, the only one that is supported"));
    }
    let w_enc = transposed(&file, "encoder.weight")?;
    let [d_in, d_sae] = [w_enc.shape[0], w_enc.shape[1]];
    let k = notes.size("k")?.ok_or_else(|| notes.missing("k"))?;
    if k > d_sae {
        return Err(notes.wrong("k", &k.into(), &format!("at most the number of latents, {d_sae}")));
    }
    let architecture = match notes.switch("signed", false)? {
        true => InferenceArchitecture::AbsTopK { k, rescale_acts_by_decoder_norm: false },
        false => InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm: false },
    };
    let mut config = SaeConfig::new(architecture, d_in, d_sae);
    let skip = file.contains("W_skip");
    let w_dec = matrix(&file, "W_dec")?;
    if notes.switch("transcode", false)? || skip {
        config.transcoder = Some(Transcoder { d_out: w_dec.shape[1], skip });
        config.apply_b_dec_to_input = false;
    }
    config.dtype = file.info("encoder.weight")?.dtype;
    note_origin(&mut config, source)?;
    let shared = [
        ("W_enc", w_enc),
        ("W_dec", w_dec),
        ("b_enc", tensor(&file, "encoder.bias")?),
        ("b_dec", tensor(&file, "b_dec")?),
    ];
    if !skip {
        return assemble(file.path(), config, shared);
    }
    if !notes.switch("transcode", false)? {
        let what = "has W_skip without transcode; a skip connection of an SAE on its own input is not supported";
        return Err(Error::format(file.path(), what));
    }
    let [a, b, c, d] = shared;
    assemble(file.path(), config, [a, b, c, d, ("W_skip", matrix(&file, "W_skip")?)])
}

/// The folder is named after the module that was hooked; the run's settings are in the folder above.
fn note_origin(config: &mut SaeConfig, source: &Source) -> Result<()> {
    let run = source.file("../config.json");
    let run = run.exists().then(|| Notes::read(&run)).transpose()?;
    let said = |key: &str| run.as_ref().and_then(|run| run.get(key)).cloned();
    let module = source.parts().next().unwrap_or_default();
    let layer = number_after(module, "layers.").or_else(|| number_after(module, "h."));
    let ending = |name: &str| module.ends_with(name);
    let hook = match layer {
        _ if module == "embed_tokens" => Some("hook_embed".to_string()),
        Some(layer) if config.transcoder.is_some() && ending("mlp") => Some(format!("blocks.{layer}.hook_mlp_in")),
        Some(layer) if ending("mlp") => Some(format!("blocks.{layer}.hook_mlp_out")),
        Some(layer) if ending(&layer.to_string()) => Some(format!("blocks.{layer}.hook_resid_post")),
        _ => None,
    };
    config.metadata = metadata([
        ("model_name", said("model")),
        ("hook_name", hook.map(Into::into)),
        ("hf_hook_name", layer.map(|_| module.into())),
        ("dataset_path", said("dataset")),
        ("context_size", said("ctx_len")),
    ]);
    Ok(())
}

/// Writes the folder that sparsify's `load_from_disk` reads. Errors: it is not TopK or AbsTopK; its
/// normalisation has no place there.
pub fn save(folder: &Path, saved: &SavedSae) -> Result<()> {
    let SavedSae { config, weights, .. } = saved;
    super::refuse_normalization(config, "sparsify")?;
    let transcode = config.transcoder.is_some();
    // Other widths of output than of input have no place in its cfg.json.
    let fits = config.apply_b_dec_to_input != transcode && config.d_out() == config.d_in;
    let k = match config.architecture {
        InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm: false } if fits => k,
        _ => return Err(super::cannot_write("sparsify", config)),
    };
    let skip = config.transcoder.is_some_and(|transcoder| transcoder.skip);
    let names = [("W_dec", "W_dec"), ("b_dec", "b_dec"), ("b_enc", "encoder.bias"), ("W_skip", "W_skip")];
    let w_enc = weights.get("W_enc").transposed();
    let mut out = vec![("encoder.weight".to_string(), Tensor::rounded(config.dtype, &w_enc.shape, &w_enc.values))];
    for (ours, theirs) in names.into_iter().take(if skip { 4 } else { 3 }) {
        let tensor = weights.get(ours);
        out.push((theirs.into(), Tensor::rounded(config.dtype, &tensor.shape, &tensor.values)));
    }
    let cfg = json!({
        "activation": "topk", "expansion_factor": config.d_sae.div_ceil(config.d_in), "normalize_decoder": false,
        "num_latents": config.d_sae, "k": k, "multi_topk": false, "skip_connection": skip, "transcode": transcode,
        "d_in": config.d_in,
    });
    write::folder(folder)?;
    tensors::save(&folder.join(WEIGHTS), out)?;
    write::text(&folder.join(CFG), &format!("{cfg:#}\n"))?;
    write::sync_folder(folder)
}
