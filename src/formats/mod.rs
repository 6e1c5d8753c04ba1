//! Files: tensors, SAEs in the layouts of all who publish them, and writing that never leaves half a
//! file. [`load`] reads any of them; a new layout is one file beside this one and a line in
//! [`FORMATS`].

pub mod archive;
pub mod arrays;
mod connor_rob_hook_z;
pub mod dictionary_learning;
mod gemma_scope;
mod llama_scope;
mod mntss;
mod mwhanna;
mod notes;
pub mod npz;
pub mod openai;
pub mod pickle;
mod qwen_scope;
pub mod repository;
pub mod saelens;
mod source;
pub mod sparsify;
pub mod spill;
pub mod strided;
mod temporal;
pub mod tensor_stream;
pub mod tensors;
pub mod torch;
mod torch_linear;
mod torch_writer;
pub mod write;

pub use saelens::SavedSae;

use crate::config::NormalizeActivations;
use crate::error::{Error, Result};
use crate::sae::config::{InferenceArchitecture, SaeConfig};
use crate::sae::forms;
use source::Source;
use std::path::Path;

/// A layout of SAEs.
pub struct Format {
    /// Its name: SAELens' name of its loader.
    pub name: &'static str,
    /// Other names that it goes by.
    pub aliases: &'static [&'static str],
    /// What its folder holds, or which file is named.
    pub files: &'static str,
    holds: fn(&Source) -> bool,
    load: fn(&Source) -> Result<SavedSae>,
}

/// Every layout, in the order in which a folder or file is tried: whose marks are the surest first.
pub const FORMATS: &[Format] = &[
    Format {
        name: "sae_lens",
        aliases: &["saelens"],
        files: "cfg.json, sae_weights.safetensors; from before SAELens 6 too",
        holds: saelens::holds,
        load: |source| saelens::load_folder(source.path()),
    },
    Format {
        name: "sparsify",
        aliases: &[],
        files: "cfg.json, sae.safetensors",
        holds: sparsify::holds,
        load: sparsify::load,
    },
    Format {
        name: "gemma_2_transcoder",
        aliases: &[],
        files: "params.npz in a folder of transcoders",
        holds: gemma_scope::holds_gemma_2_transcoder,
        load: gemma_scope::load_gemma_2_transcoder,
    },
    Format {
        name: "gemma_2",
        aliases: &["gemma_scope"],
        files: "params.npz",
        holds: gemma_scope::holds_gemma_2,
        load: gemma_scope::load_gemma_2,
    },
    Format {
        name: "gemma_3",
        aliases: &["gemma_scope_2"],
        files: "params.safetensors, config.json",
        holds: gemma_scope::holds_gemma_3,
        load: gemma_scope::load_gemma_3,
    },
    Format {
        name: "llama_scope",
        aliases: &[],
        files: "hyperparams.json, checkpoints/final.safetensors",
        holds: llama_scope::holds,
        load: llama_scope::load,
    },
    Format {
        name: "llama_scope_r1_distill",
        aliases: &["r1_distill"],
        files: "config.json, sae_weights.safetensors",
        holds: llama_scope::holds_r1_distill,
        load: llama_scope::load_r1_distill,
    },
    Format {
        name: "connor_rob_hook_z",
        aliases: &[],
        files: "NAME.pt beside NAME_cfg.json",
        holds: connor_rob_hook_z::holds,
        load: connor_rob_hook_z::load,
    },
    Format {
        name: "qwen_scope",
        aliases: &[],
        files: "layerN.sae.pt in a folder named …-L0_K",
        holds: qwen_scope::holds,
        load: qwen_scope::load,
    },
    Format {
        name: "dictionary_learning_1",
        aliases: &["dictionary_learning"],
        files: "ae.pt, config.json",
        holds: dictionary_learning::holds,
        load: dictionary_learning::load,
    },
    Format { name: "openai", aliases: &[], files: "NAME.pt", holds: openai::holds, load: openai::load },
    Format {
        name: "goodfire",
        aliases: &[],
        files: "NAME.pt or NAME.pth",
        holds: torch_linear::holds_goodfire,
        load: torch_linear::load_goodfire,
    },
    Format {
        name: "deepseek_r1",
        aliases: &["deepseek"],
        files: "NAME.pt",
        holds: torch_linear::holds_deepseek_r1,
        load: torch_linear::load_deepseek_r1,
    },
    Format {
        name: "mntss_clt_layer_transcoder",
        aliases: &["mntss"],
        files: "W_enc_L.safetensors beside W_dec_L.safetensors and config.yaml",
        holds: mntss::holds,
        load: mntss::load,
    },
    Format {
        name: "mwhanna_transcoder",
        aliases: &["mwhanna"],
        files: "layer_N.safetensors beside wandb-config.yaml",
        holds: mwhanna::holds,
        load: mwhanna::load,
    },
    Format {
        name: "temporal",
        aliases: &[],
        files: "conf.yaml, latest_ckpt.safetensors",
        holds: temporal::holds,
        load: temporal::load,
    },
];

/// The name of the layout that a folder or file shows. Error: none fits.
pub fn layout(path: &Path) -> Result<&'static str> {
    Ok(detect(&Source::new(path)?)?.name)
}

/// The name of a layout by that or another of its names. Error: there is none.
pub fn named(name: &str) -> Result<&'static str> {
    Ok(find(name)?.name)
}

/// Reads the SAE in a folder or file, in the layout named, or in the one that its files show. What is
/// not in the files (model, hook, `k` of Qwen Scope) comes from the names in `path`, of which the Hub's
/// cache keeps those of the repository. Errors: there is no such layout; none fits; the files are
/// damaged, do not fit together or hold values that are not finite.
pub fn load(path: &Path, format: Option<&str>) -> Result<SavedSae> {
    let source = Source::new(path)?;
    let format = match format {
        Some(name) => find(name)?,
        None => detect(&source)?,
    };
    (format.load)(&source)
}

fn find(name: &str) -> Result<&'static Format> {
    let known = |format: &&Format| format.name == name || format.aliases.contains(&name);
    FORMATS.iter().find(known).ok_or_else(|| {
        let names = FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", ");
        Error::config("--format", format!("found {name:?}, expected one of {names}"))
    })
}

fn detect(source: &Source) -> Result<&'static Format> {
    FORMATS.iter().find(|format| (format.holds)(source)).ok_or_else(|| nothing_known(source))
}

/// Says what a path holds that is no SAE of a known layout. A torch file that cannot be read is said to
/// be so: it could not be looked into.
fn nothing_known(source: &Source) -> Error {
    let path = source.path();
    if path.is_file() {
        return match arrays::open(path) {
            Err(error) => error,
            Ok(file) => {
                let names = file.names();
                let shown = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
                Error::format(path, format!("holds {shown}, which is no SAE of a known layout; name one with --format"))
            }
        };
    }
    let mut names: Vec<String> = std::fs::read_dir(path)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    let shown = match names.len() {
        0 => "nothing".into(),
        n if n > 8 => format!("{}, … ({n} files)", names[..8].join(", ")),
        _ => names.join(", "),
    };
    Error::format(path, format!("holds {shown}: no SAE of a known layout; name its folder or file, and --format"))
}

/// The layouts that [`save`] writes. `jumprelu` is SAELens' layout of an SAE in JumpReLU form.
pub const WRITTEN: &[&str] = &["saelens", "jumprelu", "sparsify", "dictionary_learning", "openai"];

/// Writes an SAE in one of the layouts [`WRITTEN`], after bringing it to the form that the layout knows,
/// which computes the same. Errors: the layout has no form of this architecture; it cannot be written.
pub fn save(folder: &Path, saved: &SavedSae, layout: &str) -> Result<()> {
    let SavedSae { config, weights, log_sparsity } = saved;
    let transcodes = config.transcoder.is_some();
    let with_b_dec = |subtract: bool| {
        let mut saved = saved.clone();
        forms::without_rescaling(&mut saved.config, &mut saved.weights);
        if !transcodes {
            forms::set_apply_b_dec_to_input(&mut saved.config, &mut saved.weights, subtract);
        }
        saved
    };
    let only_here = config.architecture.is_tied() || config.architecture.temporal().is_some();
    if only_here && layout != "saelens" {
        return Err(cannot_write(layout, config));
    }
    match layout {
        "saelens" | "jumprelu" => {
            let of_encoder =
                matches!(config.architecture, InferenceArchitecture::Standard | InferenceArchitecture::JumpRelu);
            if transcodes && !of_encoder {
                return Err(cannot_write("saelens", config));
            }
            let notes = saelens::TrainingNotes { log_sparsity: log_sparsity.as_deref(), runner_cfg: None };
            saelens::save_inference(folder, config, weights, notes)
        }
        "sparsify" => sparsify::save(folder, &with_b_dec(true)),
        "openai" => openai::save(folder, &with_b_dec(true)),
        "dictionary_learning" => {
            let subtract = match config.architecture {
                // It has a class for either.
                InferenceArchitecture::Standard => config.apply_b_dec_to_input,
                architecture => architecture != InferenceArchitecture::JumpRelu,
            };
            dictionary_learning::save(folder, &with_b_dec(subtract))
        }
        other => Err(Error::config("--to", format!("found {other:?}, expected one of {}", WRITTEN.join(", ")))),
    }
}

/// Refuses to write an SAE whose activations are normalised where the layout does not know of it.
fn refuse_normalization(config: &SaeConfig, layout: &str) -> Result<()> {
    match config.normalize_activations {
        NormalizeActivations::None => Ok(()),
        other => {
            let what = format!("{layout} has no place for normalize_activations = {}; use saelens", other.name());
            Err(Error::config("--to", what))
        }
    }
}

/// Error: an SAE has no form in a layout.
fn cannot_write(layout: &str, config: &SaeConfig) -> Error {
    let subtracted = if config.apply_b_dec_to_input { "with" } else { "without" };
    let (name, normalization) = (config.architecture_name(), config.normalize_activations.name());
    let what = format!(
        "{layout} has no {name} {subtracted} b_dec taken from its input and normalize_activations = {normalization}; \
         use another"
    );
    Error::config("--to", what)
}
