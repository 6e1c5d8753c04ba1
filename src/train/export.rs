//! From an SAE in training to the SAE that others load.

use super::setup::runner_config;
use crate::backend::Backend;
use crate::config::{Format, NormalizeActivations, Recipe};
use crate::error::Result;
use crate::formats::saelens::{self, TrainingNotes};
use crate::sae::config::SaeConfig;
use crate::sae::kind;
use crate::sae::step::TrainingSae;
use crate::sae::weights::Weights;
use std::path::Path;

/// An SAE on the host as it is trained, the scale of the activations folded into its weights.
pub struct Trained {
    /// What `cfg.json` says.
    pub config: SaeConfig,
    /// The weights, with the parameters of training.
    pub weights: Weights,
    /// The architecture's state for the weights.
    pub state: Vec<f64>,
}

impl Trained {
    /// The SAE as it stands.
    pub fn of<B: Backend>(backend: &B, recipe: &Recipe, config: &SaeConfig, sae: &TrainingSae<B>) -> Result<Self> {
        let (mut config, mut weights) = (config.clone(), sae.result().download(backend, config.d_in)?);
        let mut state = sae.architecture_state()?;
        if config.normalize_activations == NormalizeActivations::ExpectedAverageOnlyIn {
            let of_decoder = if config.transcoder.is_some() { sae.output_scale } else { sae.input_scale };
            weights.fold_scales(&mut config, [sae.input_scale, of_decoder]);
            kind::of(recipe).fold_scale(recipe, &mut state, sae.input_scale);
        }
        Ok(Trained { config, weights, state })
    }

    /// As others will load it.
    pub fn inference(mut self, recipe: &Recipe) -> (SaeConfig, Weights) {
        kind::of(recipe).finish(recipe, &mut self.weights, &self.state);
        (self.config, self.weights)
    }
}

/// Writes the folder that others load, in the recipe's format, with what training knows of the latents:
/// how often each fired in the last `n_frac_active_samples` rows, and how many are dead.
pub fn export<B: Backend>(
    backend: &B,
    recipe: &Recipe,
    config: &SaeConfig,
    sae: &mut TrainingSae<B>,
    n_frac_active_samples: u64,
    out: &Path,
) -> Result<()> {
    let dead_features = sae.count_dead()?;
    let mut trained = Trained::of(backend, recipe, config, sae)?;
    let fired = backend.download(&sae.firing.fired_count)?;
    let l0 = fired.iter().map(|&n| f64::from(n)).sum::<f64>() / n_frac_active_samples.max(1) as f64;
    trained.config.metadata.insert("l0".into(), l0.into());
    trained.config.metadata.insert("num_dead_features".into(), dead_features.into());
    let sparsity = saelens::log_sparsity(&fired, n_frac_active_samples);
    let runner = runner_config(recipe, config);
    let notes = TrainingNotes { log_sparsity: Some(&sparsity), runner_cfg: Some(&runner) };
    match recipe.format {
        Format::SaeLens => {
            let (config, weights) = trained.inference(recipe);
            saelens::save_inference(out, &config, &weights, notes)
        }
        Format::SaeLensCheckpoint => {
            let topk_threshold = kind::of(recipe).topk_threshold(&trained.state);
            saelens::save_training(out, &trained.config, &trained.weights, topk_threshold, notes)
        }
    }
}
