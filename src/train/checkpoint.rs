//! Checkpoints: everything that a run needs to go on bit for bit, in one folder per checkpoint,
//! `checkpoints/STEP/`, which appears whole or not at all.
//!
//! | file | holds |
//! |---|---|
//! | `cfg.json`, `sae_weights.safetensors` | SAELens' training flavour |
//! | `optimizer.safetensors` | `exp_avg.NAME`, `exp_avg_sq.NAME`, with `ema_decay` `average.NAME`, in SAELens' shapes |
//! | `statistics.safetensors` | `act_freq_scores`, `n_forward_passes_since_fired`, `input_scale`, of a transcoder `output_scale`, `architecture_state`, with `target_l0` `coefficient_factor`, before a resampling `resampling_keys`, `resampling_inputs`, `resampling_missing` |
//! | `trainer_state.json` | steps, samples, and the version that wrote it |
//! | `activations/` | the activation buffer of every hook and the position in the data |
//!
//! Where several SAEs are trained, the first three lie in a folder of each one's name.

use super::trainee::Trainee;
use crate::backend::Backend;
use crate::config::NormalizeActivations;
use crate::data::ActivationSource;
use crate::error::{Error, Result};
use crate::formats::saelens::{self, SavedSae, TrainingNotes};
use crate::formats::tensors::{self, Fetched, Tensor, TensorFile};
use crate::formats::write;
use crate::sae::config::InferenceArchitecture;
use crate::sae::kind;
use crate::sae::parameters::Named;
use crate::sae::resample::{Candidate, Candidates};
use crate::sae::weights::{HostTensor, Weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const STATISTICS: &str = "statistics.safetensors";
const INPUT_SCALE: &str = "input_scale";
const OUTPUT_SCALE: &str = "output_scale";
const COEFFICIENT_FACTOR: &str = "coefficient_factor";
const RESAMPLING: [&str; 3] = ["resampling_keys", "resampling_inputs", "resampling_missing"];

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Steps done.
    pub n_training_steps: u64,
    /// Tokens trained on.
    pub n_training_samples: u64,
    /// Tokens counted in the current `feature_sampling_window`.
    pub n_frac_active_samples: u64,
}

#[derive(Serialize, Deserialize)]
struct TrainerState {
    cusae_version: String,
    #[serde(flatten)]
    progress: Progress,
    /// SAEs that are trained no further, and why: nothing else is kept of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    stopped: BTreeMap<String, String>,
}

/// Saves a checkpoint as `folder/STEP` and returns its path. Nothing is visible under that name
/// before all of it is on the disk.
pub fn save<B: Backend>(
    folder: &Path,
    saes: &[Trainee<B>],
    source: &dyn ActivationSource<B>,
    progress: &Progress,
) -> Result<PathBuf> {
    write::folder(folder)?;
    let step = progress.n_training_steps;
    let path = folder.join(step.to_string());
    let partial = folder.join(format!(".{step}.partial"));
    let _ = fs::remove_dir_all(&partial);
    let result = fill(&partial, saes, source, progress).and_then(|()| {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io(&path, "replace"))?;
        }
        fs::rename(&partial, &path).map_err(Error::io(&path, "rename"))?;
        write::sync_folder(folder)
    });
    if result.is_err() {
        // What could not be finished is not left lying about; the first error is reported.
        let _ = fs::remove_dir_all(&partial);
    }
    result.map(|()| path)
}

fn fill<B: Backend>(
    folder: &Path,
    saes: &[Trainee<B>],
    source: &dyn ActivationSource<B>,
    progress: &Progress,
) -> Result<()> {
    write::folder(folder)?;
    let mut stopped = BTreeMap::new();
    for trainee in saes {
        match &trainee.stopped {
            Some(why) => _ = stopped.insert(trainee.name.clone(), why.clone()),
            None => save_sae(&trainee.folder_in(folder), trainee)?,
        }
    }
    let activations = folder.join("activations");
    write::folder(&activations)?;
    source.save_state(&activations)?;
    write::sync_folder(&activations)?;
    let cusae_version = env!("CARGO_PKG_VERSION").into();
    write::json(&folder.join("trainer_state.json"), &TrainerState { cusae_version, progress: *progress, stopped })?;
    write::sync_folder(folder)
}

fn save_sae<B: Backend>(folder: &Path, trainee: &Trainee<B>) -> Result<()> {
    let Trainee { backend, config, sae, course, .. } = trainee;
    write::folder(folder)?;
    let d_in = config.d_in;
    let (weights, architecture) = (sae.values.download(backend, d_in)?, sae.architecture_state()?);
    let topk_threshold = kind::of(&trainee.recipe).topk_threshold(&architecture);
    saelens::save_training(folder, config, &weights, topk_threshold, TrainingNotes::default())?;
    drop(weights);
    let moments = [("exp_avg", &sae.exp_avg), ("exp_avg_sq", &sae.exp_avg_sq)].into_iter();
    let moments = moments.chain(sae.average.iter().map(|average| ("average", &average.values)));
    let fetched = moments.flat_map(|(prefix, named)| {
        named.by_tensor(backend, d_in).map(move |(name, shape, download)| {
            (format!("{prefix}.{name}"), Fetched { shape, fetch: Box::new(download) })
        })
    });
    tensors::save_fetched(&folder.join("optimizer.safetensors"), fetched.collect())?;

    let fired = backend.download(&sae.firing.fired_count)?;
    let since = backend.download(&sae.firing.since_fired)?;
    let (scale, output_scale) = ([sae.input_scale], [sae.output_scale]);
    let factor = course.control.as_ref().map(|control| [control.factor]);
    let mut statistics = vec![
        ("act_freq_scores".into(), Tensor::u32(&[fired.len()], &fired)),
        ("n_forward_passes_since_fired".into(), Tensor::u32(&[since.len()], &since)),
        (INPUT_SCALE.into(), Tensor::f32(&[1], &scale)),
        ("architecture_state".into(), Tensor::f64(&[architecture.len()], &architecture)),
    ];
    if config.transcoder.is_some() {
        statistics.push((OUTPUT_SCALE.into(), Tensor::f32(&[1], &output_scale)));
    }
    if let Some(factor) = &factor {
        statistics.push((COEFFICIENT_FACTOR.into(), Tensor::f64(&[1], factor)));
    }
    let candidates = &course.candidates.0;
    let keys: Vec<f64> = candidates.iter().map(|candidate| candidate.key).collect();
    let inputs: Vec<f32> = candidates.iter().flat_map(|candidate| candidate.input.iter().copied()).collect();
    let missing: Vec<f32> = candidates.iter().flat_map(|candidate| candidate.missing.iter().copied()).collect();
    if !keys.is_empty() {
        let [of_keys, of_inputs, of_missing] = RESAMPLING.map(str::to_string);
        statistics.push((of_keys, Tensor::f64(&[keys.len()], &keys)));
        statistics.push((of_inputs, Tensor::f32(&[keys.len(), d_in], &inputs)));
        statistics.push((of_missing, Tensor::f32(&[keys.len(), missing.len() / keys.len()], &missing)));
    }
    tensors::save(&folder.join(STATISTICS), statistics)?;
    write::sync_folder(folder)
}

/// The newest checkpoint of a run folder. Error: there is none.
pub fn newest(run: &Path) -> Result<PathBuf> {
    let folder = run.join("checkpoints");
    let newest = all(&folder)?.pop().map(|step| folder.join(step.to_string()));
    newest.ok_or_else(|| Error::format(&folder, "holds no checkpoint to continue from; start the run anew"))
}

/// The steps of all checkpoints in a run's `checkpoints` folder, ascending.
pub fn all(folder: &Path) -> Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder, "read"))?,
    };
    let mut steps: Vec<u64> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|step: &u64| folder.join(step.to_string()).join("trainer_state.json").exists())
        .collect();
    steps.sort_unstable();
    Ok(steps)
}

fn state(checkpoint: &Path) -> Result<TrainerState> {
    let path = checkpoint.join("trainer_state.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    serde_json::from_str(&text)
        .map_err(|e| Error::format(&path, format!("not the state of a cusae run ({e}); choose another checkpoint")))
}

/// Brings SAEs (made for the same recipe) and `source` to where the checkpoint stands.
pub fn restore<B: Backend>(
    checkpoint: &Path,
    saes: &mut [Trainee<B>],
    source: &mut dyn ActivationSource<B>,
) -> Result<Progress> {
    let TrainerState { progress, mut stopped, .. } = state(checkpoint)?;
    for trainee in saes {
        trainee.stopped = stopped.remove(&trainee.name);
        if trainee.stopped.is_some() {
            continue;
        }
        trainee.sae.n_training_steps = progress.n_training_steps;
        restore_sae(&trainee.folder_in(checkpoint), trainee)?;
    }
    source.load_state(&checkpoint.join("activations"))?;
    Ok(progress)
}

fn restore_sae<B: Backend>(checkpoint: &Path, trainee: &mut Trainee<B>) -> Result<()> {
    let Trainee { backend, recipe, sae, course, .. } = trainee;
    let backend = &*backend;
    let (d_in, d_sae) = (sae.config().d_in, sae.config().d_sae);
    let own = sae.values.download(backend, d_in)?;
    sae.values = read_like(&own, backend, &checkpoint.join("sae_weights.safetensors"), "")?;
    let optimizer = checkpoint.join("optimizer.safetensors");
    sae.exp_avg = read_like(&own, backend, &optimizer, "exp_avg.")?;
    sae.exp_avg_sq = read_like(&own, backend, &optimizer, "exp_avg_sq.")?;
    if let Some(average) = &mut sae.average {
        average.values = read_like(&own, backend, &optimizer, "average.")?;
    }
    let statistics = TensorFile::open(checkpoint.join(STATISTICS))?;
    for (name, counts) in [
        ("act_freq_scores", &mut sae.firing.fired_count),
        ("n_forward_passes_since_fired", &mut sae.firing.since_fired),
    ] {
        statistics.expect_shape(name, &[d_sae])?;
        *counts = backend.upload(&statistics.u32(name)?)?;
    }
    sae.input_scale = statistics.f32_shaped(INPUT_SCALE, &[1])?[0];
    if recipe.architecture.transcodes() {
        sae.output_scale = statistics.f32_shaped(OUTPUT_SCALE, &[1])?[0];
    }
    if let Some(control) = &mut course.control {
        statistics.expect_shape(COEFFICIENT_FACTOR, &[1])?;
        control.factor = statistics.f64(COEFFICIENT_FACTOR)?[0];
    }
    course.candidates = candidates(&statistics, d_in, recipe.architecture.transcodes())?;
    let architecture = statistics.f64("architecture_state")?;
    sae.restore_architecture(&architecture)?;
    sae.parameters_changed()
}

/// Those that had been gathered; mostly there are none.
fn candidates(statistics: &TensorFile, d_in: usize, transcodes: bool) -> Result<Candidates> {
    let [of_keys, of_inputs, of_missing] = RESAMPLING;
    if !statistics.contains(of_keys) {
        return Ok(Candidates::default());
    }
    let keys = statistics.f64(of_keys)?;
    let d_missing = if transcodes { d_in } else { 0 };
    let inputs = statistics.f32_shaped(of_inputs, &[keys.len(), d_in])?;
    let missing = statistics.f32_shaped(of_missing, &[keys.len(), d_missing])?;
    let candidate = |(n, &key): (usize, &f64)| Candidate {
        key,
        input: inputs[n * d_in..][..d_in].to_vec(),
        missing: missing[n * d_missing..][..d_missing].to_vec(),
    };
    Ok(Candidates(keys.iter().enumerate().map(candidate).collect()))
}

/// Makes the SAE of a checkpoint whose activations were scaled in training one for activations as they
/// are; any other stays as it is. Error: the checkpoint's statistics are damaged.
pub fn fold_input_scale(folder: &Path, saved: &mut SavedSae) -> Result<()> {
    let path = folder.join(STATISTICS);
    if saved.config.normalize_activations == NormalizeActivations::ExpectedAverageOnlyIn && path.exists() {
        let statistics = TensorFile::open(path)?;
        let of_decoder = if saved.config.transcoder.is_some() { OUTPUT_SCALE } else { INPUT_SCALE };
        let scale = |name| Ok::<_, Error>(statistics.f32_shaped(name, &[1])?[0]);
        saved.weights.fold_scales(&mut saved.config, [scale(INPUT_SCALE)?, scale(of_decoder)?]);
        // A BatchTopK's features are in units of the decoder's norms, which the scale has just changed.
        let rescales = saved.config.training_settings.get("rescale_acts_by_decoder_norm") == Some(&true.into());
        if rescales && saved.config.architecture == InferenceArchitecture::JumpRelu {
            saved.weights.fold_w_dec_norm();
        }
    }
    Ok(())
}

/// Tensors of the same names and shapes as `own`, from a file.
fn read_like<B: Backend>(own: &Weights, backend: &B, path: &Path, prefix: &str) -> Result<Named<B>> {
    let file = TensorFile::open(path)?;
    let mut weights = Weights::default();
    for (name, tensor) in own.iter() {
        let values = file.f32_shaped(&format!("{prefix}{name}"), &tensor.shape)?;
        weights.insert(name, HostTensor { shape: tensor.shape.clone(), values });
    }
    Named::upload(backend, &weights)
}
