//! What an architecture is outside its training step: which settings of a recipe it takes, how its
//! weights start, what it becomes when training ends, and what it needs. Every architecture says so in
//! its own file; [`of`] is the only list.

use super::architecture::{ArchitectureConfig, Dims};
use super::batchtopk::BatchTopKKind;
use super::config::InferenceArchitecture;
use super::gated::GatedKind;
use super::jumprelu::JumpReluKind;
use super::matching_pursuit::MatchingPursuitKind;
use super::matryoshka::MatryoshkaKind;
use super::standard::StandardKind;
use super::topk::TopKKind;
use super::transcoder::TranscoderKind;
use super::weights::Weights;
use crate::backend::Rank;
use crate::config::{Architecture, Recipe};
use serde_json::{Map, Value};

/// The kind of a recipe's architecture.
pub fn of(recipe: &Recipe) -> &'static dyn Kind {
    match recipe.architecture {
        Architecture::Standard => &StandardKind,
        Architecture::Gated => &GatedKind,
        Architecture::JumpRelu => &JumpReluKind,
        Architecture::TopK => &TopKKind(Rank::Value),
        Architecture::AbsTopK => &TopKKind(Rank::Magnitude),
        Architecture::BatchTopK => &BatchTopKKind,
        Architecture::Matryoshka => &MatryoshkaKind,
        Architecture::MatchingPursuit => &MatchingPursuitKind,
        Architecture::Transcoder => &TranscoderKind { encoder: StandardKind, skip: false },
        Architecture::SkipTranscoder => &TranscoderKind { encoder: StandardKind, skip: true },
        Architecture::JumpReluTranscoder => &TranscoderKind { encoder: JumpReluKind, skip: false },
        Architecture::JumpReluSkipTranscoder => &TranscoderKind { encoder: JumpReluKind, skip: true },
    }
}

/// An architecture's side of a recipe.
pub trait Kind: Sync {
    /// The settings of the training step.
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig;

    /// What the trained SAE is at inference.
    fn inference(&self, recipe: &Recipe) -> InferenceArchitecture;

    /// The parameters that hold one number for each latent, with the number that they start from.
    fn vectors(&self, _recipe: &Recipe) -> Vec<(&'static str, f32)> {
        vec![("b_enc", 0.0)]
    }

    /// Whether the decoder is the encoder, too: there is no W_enc.
    fn is_tied(&self) -> bool {
        false
    }

    /// Whether the input is carried to the output by a matrix `W_skip`, too.
    fn skips(&self) -> bool {
        false
    }

    /// The coefficient that is warmed up, if there is one.
    fn coefficient(&self, _recipe: &Recipe) -> Option<Coefficient> {
        None
    }

    /// The keys that SAELens' training configuration has beyond the inference one's and beyond those that
    /// all have.
    fn training_settings(&self, recipe: &Recipe) -> Value;

    /// Makes weights as they are saved for inference those that training starts from; returns the state
    /// that goes with them ([`super::architecture::Architecture::restore`]), if there is one.
    fn start_from(&self, _recipe: &Recipe, _weights: &mut Weights) -> Vec<f64> {
        Vec::new()
    }

    /// Follows the weights in folding a scale of the activations: see
    /// [`Weights::fold_activation_norm_scaling_factor`].
    fn fold_scale(&self, _recipe: &Recipe, _state: &mut [f64], _scale: f32) {}

    /// SAELens' `topk_threshold`, where the state has it.
    fn topk_threshold(&self, _state: &[f64]) -> Option<f64> {
        None
    }

    /// Makes weights as they are trained those of [`Kind::inference`], from the state that goes with them.
    fn finish(&self, _recipe: &Recipe, _weights: &mut Weights, _state: &[f64]) {}

    /// The work space of a step in numbers of four bytes, besides that which all architectures have.
    fn work_space(&self, recipe: &Recipe, dims: Dims) -> WorkSpace;

    /// The operations of a step.
    fn operations(&self, recipe: &Recipe, dims: Dims) -> Operations;

    /// How many latents of a row an evaluation needs room for, and what that number is called.
    fn room(&self, recipe: &Recipe, dims: Dims) -> (usize, &'static str);
}

/// A loss' factor that rises from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficient {
    /// SAELens' name.
    pub key: &'static str,
    /// The value after the warm-up.
    pub value: f64,
    /// Steps over which it rises.
    pub warm_up_steps: usize,
}

/// Numbers of four bytes, and how they were counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkSpace {
    /// How many.
    pub numbers: u64,
    /// The formula.
    pub formula: String,
}

/// What a training step computes, for an estimate of the time it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operations {
    /// Dense products of the size of `input · w_encᵀ`.
    pub dense: f64,
    /// Rows of W_enc or W_dec that are gathered for each row of the batch.
    pub gathered: f64,
}

/// At the start half of all latents are active, and lists get a quarter of room more than they need.
pub(super) fn room_at_the_start(d_sae: usize) -> u64 {
    d_sae as u64 * 5 / 8
}

/// Dead latents that a plan has room for: one in twenty. How many there will be is not known.
pub(crate) fn dead_of_a_plan(d_sae: usize) -> usize {
    d_sae / 20
}

/// Two settings as one, for architectures that have those of another and more.
pub(super) fn merged(settings: Value, more: Value) -> Value {
    match (settings, more) {
        (Value::Object(settings), Value::Object(more)) => {
            Value::Object(settings.into_iter().chain(more).collect::<Map<_, _>>())
        }
        (settings, _) => settings,
    }
}
