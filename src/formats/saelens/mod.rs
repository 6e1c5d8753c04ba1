//! An SAE as SAELens keeps it: a folder with `cfg.json`, `sae_weights.safetensors` and, after
//! training, `sparsity.safetensors` and `runner_cfg.json`. Source: SAELens 6.54, `saes/sae.py`,
//! `loading/pretrained_sae_loaders.py`.

pub(crate) mod cfg;
mod legacy;

pub use cfg::{to_json as cfg_json, SAELENS_VERSION};

use super::source::Source;
use super::tensors::{self, Tensor, TensorFile};
use super::write;
use crate::error::{Error, Result};
use crate::sae::batchtopk::to_jumprelu;
use crate::sae::config::{InferenceArchitecture, SaeConfig, TensorShapes};
use crate::sae::weights::{HostTensor, Weights};
use safetensors::Dtype;
use serde_json::Value;
use std::borrow::Cow;
use std::path::Path;

const CFG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";
const SPARSITY: &str = "sparsity.safetensors";
const RUNNER_CFG: &str = "runner_cfg.json";

/// In checkpoints from before SAELens trained thresholds themselves.
const LOG_THRESHOLD: &str = "log_threshold";

/// In checkpoints of BatchTopK: the running mean of the smallest value selected.
const TOPK_THRESHOLD: &str = "topk_threshold";

/// What a folder holds.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSae {
    /// From `cfg.json`.
    pub config: SaeConfig,
    /// Every tensor of the architecture, rounded to the config's dtype.
    pub weights: Weights,
    /// `log10` of how often each latent fired `[d_sae]`, where the folder has it.
    pub log_sparsity: Option<Vec<f32>>,
}

/// Whether this is a folder of SAELens. Llama Scope's newer one has a file of the same name.
pub(super) fn holds(source: &Source) -> bool {
    source.has(CFG) && source.has(WEIGHTS)
}

/// Reads a folder, in today's layout or in the one from before SAELens 6.
/// Errors: a file is missing or damaged; a key has no or a wrong value; an architecture or
/// normalisation that is not supported; a tensor is missing, too many, of the wrong shape or dtype,
/// or holds a value that is not finite.
pub fn load_folder(folder: &Path) -> Result<SavedSae> {
    let mut config = cfg::read(&folder.join(CFG))?;
    let of_batchtopk = config.architecture == InferenceArchitecture::JumpRelu;
    let weights = match TensorFile::open(folder.join(WEIGHTS))? {
        file if of_batchtopk && file.contains(TOPK_THRESHOLD) => read_batchtopk(&file, &mut config)?,
        file => read_weights(&file, &config, &config.tensors())?,
    };
    let sparsity = folder.join(SPARSITY);
    let log_sparsity = match sparsity.exists() {
        true => Some(TensorFile::open(&sparsity)?.f32_shaped("sparsity", &[config.d_sae])?),
        false => None,
    };
    Ok(SavedSae { config, weights, log_sparsity })
}

/// The dtype of each tensor of a folder, as it is stored. Error: the file is damaged.
pub fn stored_dtypes(folder: &Path) -> Result<Vec<(String, Dtype)>> {
    let file = TensorFile::open(folder.join(WEIGHTS))?;
    file.names().into_iter().map(|name| Ok((name.clone(), file.info(&name)?.dtype))).collect()
}

/// What training leaves beside the SAE itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainingNotes<'a> {
    /// `log10` of how often each latent fired `[d_sae]`: see [`log_sparsity`].
    pub log_sparsity: Option<&'a [f32]>,
    /// The settings of the run.
    pub runner_cfg: Option<&'a Value>,
}

/// SAELens' sparsity: `log10(fired / samples + 1e-10)` for every latent.
pub fn log_sparsity(fired_count: &[u32], n_samples: u64) -> Vec<f32> {
    fired_count.iter().map(|&fired| (fired as f32 / n_samples as f32 + 1e-10).log10()).collect()
}

/// Writes the folder that others load: inference settings only, and the decoder norms folded where
/// they take part in the features' values (as SAELens' `save_inference_model`).
pub fn save_inference(folder: &Path, config: &SaeConfig, weights: &Weights, notes: TrainingNotes) -> Result<()> {
    let mut weights = Cow::Borrowed(weights);
    if config.architecture.rescales_by_decoder_norm() {
        weights.to_mut().fold_w_dec_norm();
    }
    write::folder(folder)?;
    tensors::save(&folder.join(WEIGHTS), named(config, &weights).collect())?;
    save_notes(folder, &cfg::to_json(config, false), notes)
}

/// Writes the folder of a checkpoint: weights as they are, training settings too (as `save_model`
/// of a SAELens training SAE), and a BatchTopK's threshold so far.
pub fn save_training(
    folder: &Path,
    config: &SaeConfig,
    weights: &Weights,
    topk_threshold: Option<f64>,
    notes: TrainingNotes,
) -> Result<()> {
    write::folder(folder)?;
    let threshold = topk_threshold.map(|threshold| [threshold]);
    let scalar = threshold.iter().map(|threshold| (TOPK_THRESHOLD.into(), Tensor::f64(&[], threshold)));
    tensors::save(&folder.join(WEIGHTS), named(config, weights).chain(scalar).collect())?;
    save_notes(folder, &cfg::to_json(config, true), notes)
}

fn named<'a>(config: &SaeConfig, weights: &'a Weights) -> impl Iterator<Item = (String, Tensor<'a>)> {
    let dtype = config.dtype;
    weights.iter().map(move |(name, tensor)| (name.into(), Tensor::rounded(dtype, &tensor.shape, &tensor.values)))
}

fn save_notes(folder: &Path, cfg: &Value, notes: TrainingNotes) -> Result<()> {
    if let Some(sparsity) = notes.log_sparsity {
        tensors::save(&folder.join(SPARSITY), vec![("sparsity".into(), Tensor::f32(&[sparsity.len()], sparsity))])?;
    }
    if let Some(runner_cfg) = notes.runner_cfg {
        write::text(&folder.join(RUNNER_CFG), &format!("{runner_cfg:#}\n"))?;
    }
    write::text(&folder.join(CFG), &format!("{cfg:#}\n"))?;
    write::sync_folder(folder)
}

/// The weights of a BatchTopK in training, made those of its inference form.
fn read_batchtopk(file: &TensorFile, config: &mut SaeConfig) -> Result<Weights> {
    let parameters = config.tensors().into_iter().filter(|(name, _)| *name != "threshold");
    let scalar = (TOPK_THRESHOLD.into(), Vec::new());
    let mut weights = read_weights(file, config, &parameters.chain([scalar]).collect())?;
    let threshold = weights.remove(TOPK_THRESHOLD).map_or(0.0, |tensor| tensor.values[0]);
    let rescales = config.training_settings.get("rescale_acts_by_decoder_norm") != Some(&false.into());
    to_jumprelu(&mut weights, threshold.into(), rescales);
    Ok(weights)
}

fn read_weights(file: &TensorFile, config: &SaeConfig, expected: &TensorShapes) -> Result<Weights> {
    let path = file.path();
    for name in file.names() {
        let without_effect = name == "scaling_factor" && all_ones(&file.f32(&name)?);
        if !without_effect && name != LOG_THRESHOLD && expected.iter().all(|(known, _)| *known != name) {
            return Err(Error::format(path, unexpected_tensor(&name, config, expected)));
        }
    }
    let mut weights = Weights::default();
    for (name, shape) in expected {
        let values = match name.as_ref() {
            "threshold" if !file.contains(name) && file.contains(LOG_THRESHOLD) => {
                file.f32_shaped(LOG_THRESHOLD, shape)?.into_iter().map(f32::exp).collect()
            }
            _ => file.f32_shaped(name, shape)?,
        };
        let values = rounded(config.dtype, values);
        weights.insert(name, HostTensor { shape: shape.clone(), values });
    }
    super::source::check_finite(path, &weights)?;
    Ok(weights)
}

fn unexpected_tensor(name: &str, config: &SaeConfig, expected: &TensorShapes) -> String {
    if name == "scaling_factor" {
        return "tensor scaling_factor is not all ones; fine-tuned scaling factors are not supported, and neither are \
                they by SAELens 6"
            .into();
    }
    let known = expected.iter().map(|(name, _)| name.as_ref()).collect::<Vec<_>>().join(", ");
    format!("tensor {name} does not belong to architecture {}, which has {known}", config.architecture_name())
}

/// Within torch's `allclose`.
fn all_ones(values: &[f32]) -> bool {
    values.iter().all(|x| (x - 1.0).abs() <= 1e-5)
}

/// SAELens converts every tensor to the config's dtype.
fn rounded(dtype: Dtype, mut values: Vec<f32>) -> Vec<f32> {
    match dtype {
        Dtype::F16 => values.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
        Dtype::BF16 => values.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32()),
        _ => {}
    }
    values
}
