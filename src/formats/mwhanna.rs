//! Transcoders by Michael Hanna (`mwhanna_transcoder`): `layer_N.safetensors`, with `config.yaml` and
//! wandb's settings beside it. Source: SAELens' loader of this name; the skip connection, which it does
//! not know, as in circuit-tracer.

use super::notes::Notes;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::TensorFile;
use crate::error::Result;
use crate::sae::config::{InferenceArchitecture, SaeConfig, Transcoder};
use serde_json::json;

/// Some of the repositories have the second.
const WANDB: [&str; 2] = ["wandb-config.yaml", "wanb-config.yaml"];

/// Whether this is a layer of such a repository.
pub fn holds(source: &Source) -> bool {
    source.is_file(".safetensors") && WANDB.iter().any(|name| source.file(name).is_file())
}

/// Reads the transcoder of one layer, from the MLP's input to its output.
pub fn load(source: &Source) -> Result<SavedSae> {
    let file = TensorFile::open(source.path())?;
    let w_enc = transposed(&file, "W_enc")?;
    let w_dec = matrix(&file, "W_dec")?;
    let mut config = SaeConfig::new(InferenceArchitecture::Standard, w_enc.shape[0], w_enc.shape[1]);
    let skip = file.contains("W_skip");
    config.transcoder = Some(Transcoder { d_out: w_dec.shape[1], skip });
    config.apply_b_dec_to_input = false;
    config.dtype = file.info("W_enc")?.dtype;
    let read = |path: std::path::PathBuf| path.exists().then(|| Notes::read(&path)).transpose();
    let base = read(source.file("config.yaml"))?;
    let wandb = WANDB.iter().find_map(|name| read(source.file(name)).transpose()).transpose()?;
    let layer = source.number_after("layer_");
    let hook = |hook: &str| layer.map(|layer| format!("blocks.{layer}.{hook}").into());
    // The repository of 14b has no config.yaml.
    let named = || source.parts().find_map(|part| part.strip_prefix("qwen3-")?.split("b-").next());
    let model = base.as_ref().and_then(|base| base.text("model_name")).map(str::to_string);
    config.metadata = metadata([
        ("model_name", model.or_else(|| Some(format!("Qwen/Qwen3-{}B", named()?))).map(Into::into)),
        ("hook_name", hook("mlp.hook_in")),
        ("hook_name_out", hook("hook_mlp_out")),
        ("model_from_pretrained_kwargs", Some(json!({"fold_ln": false}))),
        ("context_size", wandb.as_ref().and_then(|wandb| wandb.get("batch_size.value")).cloned()),
        ("dataset_path", Some(json!("monology/pile-uncopyrighted"))),
    ]);
    let shared =
        [("W_enc", w_enc), ("W_dec", w_dec), ("b_enc", tensor(&file, "b_enc")?), ("b_dec", tensor(&file, "b_dec")?)];
    if !skip {
        return assemble(file.path(), config, shared);
    }
    let [a, b, c, d] = shared;
    assemble(file.path(), config, [a, b, c, d, ("W_skip", matrix(&file, "W_skip")?)])
}
