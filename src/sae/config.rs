//! What an SAE is at inference, as the `cfg.json` of SAELens states it.

use super::pursuit::PursuitConfig;
use super::temporal::TemporalConfig;
use crate::config::NormalizeActivations;
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// An architecture at inference, with the settings only it has. Some training architectures share
/// one: what they learned is then in the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InferenceArchitecture {
    /// `f = ReLU(h)`.
    Standard,
    /// `f = ReLU(m)` where the gate `π > 0`; both from one product: `π = u + b_gate`,
    /// `m = e^r_mag u + b_mag`.
    Gated,
    /// `f = ReLU(h)` where `h > threshold`.
    JumpRelu,
    /// `f = ReLU` of the k largest `h`.
    TopK {
        /// Latents selected for each row.
        k: usize,
        /// Whether `h` is multiplied by the decoder norms before the selection; the product is then
        /// the feature's value, and is divided by the norm again before decoding.
        rescale_acts_by_decoder_norm: bool,
    },
    /// The k of the largest magnitude, with their signs.
    AbsTopK {
        /// Latents selected for each row.
        k: usize,
        /// As in TopK.
        rescale_acts_by_decoder_norm: bool,
    },
    /// One latent after another takes its part of what is left; the decoder is the encoder, too, and b_dec
    /// is added only where it is subtracted.
    MatchingPursuit(PursuitConfig),
    /// `f = ReLU(h)`, or of the k largest `h`, of what the tokens before do not predict.
    Temporal(TemporalConfig),
}

/// The tensors of a weights file: their names and shapes.
pub type TensorShapes = Vec<(Cow<'static, str>, Vec<usize>)>;

/// What makes an SAE a transcoder: it predicts other activations than it reads. The architecture says
/// how it encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcoder {
    /// Width of the activations that are predicted.
    pub d_out: usize,
    /// Whether `x W_skipᵀ` is added to what is decoded.
    pub skip: bool,
}

impl InferenceArchitecture {
    /// SAELens' name.
    pub fn name(&self) -> &'static str {
        match self {
            InferenceArchitecture::Standard => "standard",
            InferenceArchitecture::Gated => "gated",
            InferenceArchitecture::JumpRelu => "jumprelu",
            InferenceArchitecture::TopK { .. } => "topk",
            InferenceArchitecture::AbsTopK { .. } => "abstopk",
            InferenceArchitecture::MatchingPursuit(_) => "matching_pursuit",
            InferenceArchitecture::Temporal(_) => "temporal",
        }
    }

    /// Every tensor of the weights file with its shape, by SAELens' names, sorted.
    pub fn tensors(&self, d_in: usize, d_sae: usize) -> TensorShapes {
        let own: &[&str] = match self {
            InferenceArchitecture::Gated => &["b_gate", "b_mag", "r_mag"],
            InferenceArchitecture::JumpRelu => &["b_enc", "threshold"],
            InferenceArchitecture::MatchingPursuit(_) | InferenceArchitecture::Temporal(_) => &[],
            _ => &["b_enc"],
        };
        let shared = [("W_dec", vec![d_sae, d_in]), ("b_dec", vec![d_in])];
        let encoder = (!self.is_tied()).then(|| ("W_enc", vec![d_in, d_sae]));
        let vectors = own.iter().map(|&name| (name, vec![d_sae])).chain(shared).chain(encoder);
        let mut tensors: TensorShapes = vectors.map(|(name, shape)| (name.into(), shape)).collect();
        if let InferenceArchitecture::Temporal(temporal) = self {
            tensors.extend(temporal.tensors(d_sae));
        }
        tensors.sort();
        tensors
    }

    /// Whether the decoder is the encoder, too: there is no W_enc.
    pub fn is_tied(&self) -> bool {
        use InferenceArchitecture::{MatchingPursuit, Temporal};
        matches!(self, MatchingPursuit(_) | Temporal(TemporalConfig { tied_weights: true, .. }))
    }

    /// Whether features are made by a function of one value each.
    pub fn has_pre_activations(&self) -> bool {
        !matches!(self, InferenceArchitecture::MatchingPursuit(_))
    }

    /// What it takes from the tokens before, if it does.
    pub fn temporal(&self) -> Option<&TemporalConfig> {
        match self {
            InferenceArchitecture::Temporal(temporal) => Some(temporal),
            _ => None,
        }
    }

    /// Whether the decoder norms take part in the features' values.
    pub fn rescales_by_decoder_norm(&self) -> bool {
        use InferenceArchitecture::{AbsTopK, TopK};
        matches!(
            self,
            TopK { rescale_acts_by_decoder_norm: true, .. } | AbsTopK { rescale_acts_by_decoder_norm: true, .. }
        )
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
    /// What is predicted, if it is not what is read.
    pub transcoder: Option<Transcoder>,
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
            transcoder: None,
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

    /// The name in `cfg.json`: the architecture's, or that of its transcoder. SAELens has transcoders
    /// of standard and jumprelu; the names of the others follow theirs.
    pub fn architecture_name(&self) -> String {
        let skip = match self.transcoder {
            None => return self.architecture.name().into(),
            Some(Transcoder { skip: false, .. }) => "",
            Some(Transcoder { skip: true, .. }) => "skip_",
        };
        match self.architecture {
            InferenceArchitecture::Standard => format!("{skip}transcoder"),
            other => format!("{}_{skip}transcoder", other.name()),
        }
    }

    /// Width of what is decoded.
    pub fn d_out(&self) -> usize {
        self.transcoder.map_or(self.d_in, |transcoder| transcoder.d_out)
    }

    /// Every tensor of the weights file with its shape, by SAELens' names, sorted.
    pub fn tensors(&self) -> TensorShapes {
        let mut tensors = self.architecture.tensors(self.d_in, self.d_sae);
        if let Some(Transcoder { d_out, skip }) = self.transcoder {
            for (name, shape) in &mut tensors {
                match name.as_ref() {
                    "W_dec" => *shape = vec![self.d_sae, d_out],
                    "b_dec" => *shape = vec![d_out],
                    _ => {}
                }
            }
            if skip {
                tensors.push(("W_skip".into(), vec![d_out, self.d_in]));
            }
            tensors.sort();
        }
        tensors
    }

    /// Notes the hook that the SAE belongs at; the heads of `hook_z` are taken together.
    pub fn set_hook(&mut self, hook_name: &str) {
        if hook_name.contains("hook_z") {
            self.reshape_activations = ReshapeActivations::HookZ;
        }
        self.metadata.insert("hook_name".into(), hook_name.into());
    }

    /// The hook whose activations the SAE reads, where the notes say it.
    pub fn hook_name(&self) -> Option<&str> {
        self.metadata.get("hook_name")?.as_str()
    }

    /// SAELens' name of the architecture that the SAE was trained as, where the notes say it.
    pub fn training_architecture(&self) -> Option<&str> {
        self.metadata.get("training_architecture")?.as_str()
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
