//! What an SAE is at inference, as the `cfg.json` of SAELens states it.

use crate::config::NormalizeActivations;
use safetensors::Dtype;
use serde_json::{Map, Value};

/// An architecture at inference, with the settings only it has. Some training architectures share
/// one: what they learned is then in the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InferenceArchitecture {
    /// `f = ReLU(h)`.
    Standard,
    /// `f = ReLU` of the k largest `h`.
    TopK {
        /// Latents selected for each row.
        k: usize,
        /// Whether `h` is multiplied by the decoder norms before the selection; the product is then
        /// the feature's value, and is divided by the norm again before decoding.
        rescale_acts_by_decoder_norm: bool,
    },
}

impl InferenceArchitecture {
    /// The names that `cfg.json` may have.
    pub const NAMES: &[&str] = &["standard", "topk"];

    /// SAELens' name.
    pub fn name(&self) -> &'static str {
        match self {
            InferenceArchitecture::Standard => "standard",
            InferenceArchitecture::TopK { .. } => "topk",
        }
    }

    /// Every tensor of the weights file with its shape, by SAELens' names, sorted.
    pub fn tensors(&self, d_in: usize, d_sae: usize) -> Vec<(&'static str, Vec<usize>)> {
        match self {
            InferenceArchitecture::Standard | InferenceArchitecture::TopK { .. } => vec![
                ("W_dec", vec![d_sae, d_in]),
                ("W_enc", vec![d_in, d_sae]),
                ("b_dec", vec![d_in]),
                ("b_enc", vec![d_sae]),
            ],
        }
    }

    /// Whether the decoder norms take part in the features' values.
    pub fn rescales_by_decoder_norm(&self) -> bool {
        matches!(self, InferenceArchitecture::TopK { rescale_acts_by_decoder_norm: true, .. })
    }
}

/// How activations with a head dimension reach the SAE (SAELens' `reshape_activations`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReshapeActivations {
    /// As they are: the last dimension is d_in.
    #[default]
    None,
    /// `[.., n_heads, d_head]` taken as `[.., n_heads * d_head]`, and back at the end.
    HookZ,
}

impl ReshapeActivations {
    /// SAELens' name.
    pub fn name(self) -> &'static str {
        match self {
            ReshapeActivations::None => "none",
            ReshapeActivations::HookZ => "hook_z",
        }
    }
}

/// All that inference needs besides the weights, and the notes that travel with it.
#[derive(Clone, Debug, PartialEq)]
pub struct SaeConfig {
    /// The architecture and its own settings.
    pub architecture: InferenceArchitecture,
    /// Width of the activations.
    pub d_in: usize,
    /// Number of latents.
    pub d_sae: usize,
    /// Number format of the weights file; computation is in f32.
    pub dtype: Dtype,
    /// Whether b_dec is subtracted from the encoder's input.
    pub apply_b_dec_to_input: bool,
    /// Normalisation of the activations. `ExpectedAverageOnlyIn` does nothing at inference: its
    /// factor is folded into the weights when training ends.
    pub normalize_activations: NormalizeActivations,
    /// Treatment of a head dimension.
    pub reshape_activations: ReshapeActivations,
    /// `hook_name`, `model_name` and other notes on where the SAE belongs.
    pub metadata: Map<String, Value>,
    /// Keys of `cfg.json` that inference does not need: a checkpoint's training settings.
    pub training_settings: Map<String, Value>,
}

impl SaeConfig {
    /// A f32 SAE without normalisation and without notes, b_dec subtracted from its input.
    pub fn new(architecture: InferenceArchitecture, d_in: usize, d_sae: usize) -> Self {
        SaeConfig {
            architecture,
            d_in,
            d_sae,
            dtype: Dtype::F32,
            apply_b_dec_to_input: true,
            normalize_activations: NormalizeActivations::None,
            reshape_activations: ReshapeActivations::None,
            metadata: Map::new(),
            training_settings: Map::new(),
        }
    }

    /// The hook whose activations the SAE reads, where the notes say it.
    pub fn hook_name(&self) -> Option<&str> {
        self.metadata.get("hook_name")?.as_str()
    }

    /// States how the SAE is trained: the settings of a checkpoint's `cfg.json`, and the same under
    /// `metadata`, where the inference `cfg.json` keeps them (SAELens' `training_architecture` and
    /// `training_architecture_details`).
    pub fn set_training(&mut self, training_architecture: &str, settings: Map<String, Value>) {
        self.metadata.insert("training_architecture".into(), training_architecture.into());
        self.metadata.insert("training_architecture_details".into(), Value::Object(settings.clone()));
        self.training_settings = settings;
    }
}
