//! Gemma Scope: `gemma_2` (SAEs of Gemma 2 in `params.npz`), `gemma_2_transcoder` (the same file) and
//! `gemma_3` (Gemma Scope 2: `params.safetensors`, SAEs, transcoders and cross-layer transcoders). Model
//! and hook are only in the names of repository and folder. Source: SAELens' loaders of these names.

use super::notes::Notes;
use super::npz;
use super::saelens::SavedSae;
use super::source::*;
use super::tensors::TensorFile;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig, Transcoder};
use serde_json::json;

const PARAMS: &str = "params.npz";
const PARAMS_3: &str = "params.safetensors";

/// Whether this is a folder of Gemma Scope's SAEs.
pub fn holds_gemma_2(source: &Source) -> bool {
    source.has(PARAMS) && !source.name().contains("transcoder")
}

/// Whether this is a folder of Gemma Scope's transcoders. Their files are the same: the name says it.
pub fn holds_gemma_2_transcoder(source: &Source) -> bool {
    source.has(PARAMS) && source.name().contains("transcoder")
}

/// Whether this is a folder of Gemma Scope 2, or a file of its cross-layer transcoders.
pub fn holds_gemma_3(source: &Source) -> bool {
    let of_clt =
        || TensorFile::open(source.path()).is_ok_and(|file| file.contains("w_enc") && file.contains("threshold"));
    source.has(PARAMS_3) || (source.is_file(".safetensors") && of_clt())
}

/// Reads an SAE of Gemma 2. Embedding SAEs were trained on the embedding times `sqrt(d_in)`: the factor
/// is folded in.
pub fn load_gemma_2(source: &Source) -> Result<SavedSae> {
    let path = source.file(PARAMS);
    let file = npz::open(&path)?;
    let params = Params::of(&file)?;
    let mut config = params.config(None);
    let layer = source.number_after("layer_");
    let embedding = source.parts().any(|part| part == "embedding");
    let hook = match gemma_2_part(source) {
        Some("res") if embedding => Some("hook_embed".to_string()),
        Some("res") => layer.map(|layer| format!("blocks.{layer}.hook_resid_post")),
        Some("mlp") => layer.map(|layer| format!("blocks.{layer}.hook_mlp_out")),
        Some("att") => layer.map(|layer| format!("blocks.{layer}.attn.hook_z")),
        _ => None,
    };
    config.metadata = metadata([
        ("model_name", gemma_2_model(source).map(Into::into)),
        ("prepend_bos", Some(true.into())),
        ("dataset_path", Some(json!("monology/pile-uncopyrighted"))),
        ("context_size", Some(json!(1024))),
    ]);
    hook.iter().for_each(|hook| config.set_hook(hook));
    let mut saved = params.assemble(&file, config)?;
    if embedding {
        let root = (saved.config.d_in as f32).sqrt();
        saved.weights.scale("W_enc", 1.0 / root);
        saved.weights.scale("W_dec", root);
    }
    Ok(saved)
}

/// Reads a transcoder of Gemma 2, from the MLP's normalised input to its output.
pub fn load_gemma_2_transcoder(source: &Source) -> Result<SavedSae> {
    let path = source.file(PARAMS);
    let file = npz::open(&path)?;
    let params = Params::of(&file)?;
    let mut config = params.config(Some(false));
    let layer = source.number_after("layer_");
    let hook = |hook: &str| layer.map(|layer| format!("blocks.{layer}.{hook}").into());
    config.metadata = metadata([
        ("model_name", gemma_2_model(source).map(Into::into)),
        ("hook_name", hook("ln2.hook_normalized")),
        ("hook_name_out", hook("hook_mlp_out")),
        ("prepend_bos", Some(true.into())),
        ("dataset_path", Some(json!("monology/pile-uncopyrighted"))),
        ("context_size", Some(json!(1024))),
    ]);
    params.assemble(&file, config)
}

/// Reads an SAE, a transcoder, or one layer of a cross-layer transcoder of Gemma 3. The last is summed
/// over the layers that it writes to, as in SAELens: right for its features, not for reconstruction.
pub fn load_gemma_3(source: &Source) -> Result<SavedSae> {
    let path = if source.path().is_file() { source.path().to_path_buf() } else { source.file(PARAMS_3) };
    let file = TensorFile::open(&path)?;
    let params = Params::of(&file)?;
    let notes = source.file("config.json");
    let notes = notes.exists().then(|| Notes::read(&notes)).transpose()?;
    if let Some((notes, found)) = notes.as_ref().and_then(|notes| Some((notes, notes.get("architecture")?))) {
        if found != "jump_relu" {
            return Err(notes.wrong("architecture", found, "jump_relu"));
        }
    }
    let said = |key: &str| notes.as_ref().and_then(|notes| notes.text(key));
    let is = |kind: &str| source.name().contains(kind);
    let transcodes = is("transcoder") || is("clt") || said("hf_hook_point_out").is_some() || params.skip;
    let mut config = params.config(transcodes.then_some(params.skip));
    let layer = source.number_after("layer_");
    let hook = match () {
        () if transcodes => Some("hook_mlp_in"),
        () if is("resid_post") => Some("hook_resid_post"),
        () if is("attn_out") => Some("attn.hook_z"),
        () if is("mlp_out") => Some("hook_mlp_out"),
        () => None,
    };
    let in_layer = |hook: &str| layer.map(|layer| format!("blocks.{layer}.{hook}"));
    let hook = hook.and_then(in_layer);
    let hook_out = transcodes.then(|| in_layer("hook_mlp_out")).flatten();
    let model = said("model_name").map(str::to_string).or_else(|| {
        let repository = source.parts().find(|part| part.starts_with("gemma-scope-2-"))?;
        Some(repository.replace("gemma-scope-2", "gemma-3"))
    });
    config.metadata = metadata([
        ("model_name", model.map(|name| gemma_3_model(&name).into())),
        ("hook_name_out", hook_out.map(Into::into)),
        ("hf_hook_name", said("hf_hook_point_in").map(Into::into)),
        ("hf_hook_name_out", said("hf_hook_point_out").map(Into::into)),
        ("prepend_bos", Some(true.into())),
        ("dataset_path", Some(json!("monology/pile-uncopyrighted"))),
        ("context_size", Some(json!(1024))),
    ]);
    hook.iter().for_each(|hook| config.set_hook(hook));
    params.assemble(&file, config)
}

/// Shapes of a file's tensors.
struct Params {
    d_in: usize,
    d_sae: usize,
    d_out: usize,
    skip: bool,
}

const SKIP: &str = "affine_skip_connection";

impl Params {
    fn of(file: &TensorFile) -> Result<Params> {
        let refuse = |name: &str, shape: &[usize], expected: &str| {
            Error::format(file.path(), format!("tensor {name} has shape {shape:?}, expected {expected}"))
        };
        let &[d_in, d_sae] = file.shape("w_enc")? else {
            return Err(refuse("w_enc", file.shape("w_enc")?, "[d_in, d_sae]"));
        };
        let d_out = match *file.shape("w_dec")? {
            [_, d_out] | [_, _, d_out] => d_out,
            ref shape => return Err(refuse("w_dec", shape, "[d_sae, d_out]")),
        };
        Ok(Params { d_in, d_sae, d_out, skip: file.contains(SKIP) })
    }

    fn config(&self, transcoder_with_skip: Option<bool>) -> SaeConfig {
        let transcoder = transcoder_with_skip.map(|skip| Transcoder { d_out: self.d_out, skip });
        let config = SaeConfig::new(InferenceArchitecture::JumpRelu, self.d_in, self.d_sae);
        SaeConfig { transcoder, apply_b_dec_to_input: false, ..config }
    }

    fn assemble(&self, file: &TensorFile, config: SaeConfig) -> Result<SavedSae> {
        let shared = [
            ("W_enc", matrix(file, "w_enc")?),
            ("W_dec", sum_of_layers(tensor(file, "w_dec")?)),
            ("b_enc", tensor(file, "b_enc")?),
            ("b_dec", tensor(file, "b_dec")?),
            ("threshold", tensor(file, "threshold")?),
        ];
        if !self.skip {
            return assemble(file.path(), config, shared);
        }
        let [a, b, c, d, e] = shared;
        assemble(file.path(), config, [a, b, c, d, e, ("W_skip", transposed(file, SKIP)?)])
    }
}

/// What a repository `gemma-scope-9b-pt-res` is about: res, mlp, att.
fn gemma_2_part(source: &Source) -> Option<&str> {
    repository(source)?.rsplit('-').find(|part| ["res", "mlp", "att"].contains(part))
}

/// `gemma-2-9b-it` for a repository `gemma-scope-9b-it-res`; base models have no ending.
fn gemma_2_model(source: &Source) -> Option<String> {
    let mut parts = repository(source)?.strip_prefix("gemma-scope-")?.split('-');
    let (size, tuning) = (parts.next()?, parts.next()?);
    Some(format!("gemma-2-{size}{}", if tuning == "it" { "-it" } else { "" }))
}

fn repository(source: &Source) -> Option<&str> {
    source.parts().find(|part| part.starts_with("gemma-scope-"))
}

/// The Hub's name of a model: `gemma-v3-270m-pt` is `google/gemma-3-270m`.
fn gemma_3_model(name: &str) -> String {
    let name = name.replace("-v3", "-3");
    let name = if name.contains("270m") { name.replace("-pt", "") } else { name };
    if name.contains("google") {
        name
    } else {
        format!("google/{name}")
    }
}
