//! BatchTopK: `f = ReLU` of the `k B` largest pre-activations of the whole batch, with AuxK for dead
//! latents. What is saved for inference is a JumpReLU whose threshold is the running mean of the
//! smallest value that was selected.
//! Source: Bussmann et al. 2024 (arXiv 2412.06410) as SAELens' `batchtopk_sae.py` has it.

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, Listed, Onto};
use super::auxk::{self, AuxK, AuxKConfig};
use super::config::InferenceArchitecture;
use super::kind::{Kind, Operations, WorkSpace};
use super::report::{LossTerm, Metric};
use super::weights::{HostTensor, Weights};
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::{json, Value};

/// SAELens' `BatchTopKTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchTopKConfig {
    /// Latents kept in the mean row; need not be whole.
    pub k: f64,
    /// Weight of a batch in the running mean of the threshold.
    pub topk_threshold_lr: f64,
    /// Factor on AuxK's loss.
    pub aux_loss_coefficient: f64,
    /// Whether pre-activations are compared after multiplying by the decoder norms.
    pub rescale_acts_by_decoder_norm: bool,
}

impl BatchTopKConfig {
    pub(super) fn of(recipe: &Recipe) -> Self {
        BatchTopKConfig {
            k: recipe.k,
            topk_threshold_lr: recipe.topk_threshold_lr,
            aux_loss_coefficient: recipe.aux_loss_coefficient,
            rescale_acts_by_decoder_norm: recipe.rescale_acts_by_decoder_norm,
        }
    }

    pub(super) fn aux(&self) -> AuxKConfig {
        AuxKConfig {
            coefficient: self.aux_loss_coefficient,
            rank: Rank::Value,
            rescales: self.rescale_acts_by_decoder_norm,
        }
    }
}

/// Lists with the largest pre-activations of a batch, and the threshold that comes of them.
pub(super) struct Selection<B: Backend> {
    config: BatchTopKConfig,
    dims: Dims,
    /// The features.
    pub lists: FeatureLists<B>,
    longest: B::Buffer<u32>,
    threshold: B::Buffer<f64>,
}

/// Room in a row's list at first, in rows of the mean length.
const FIRST_ROOM: f64 = 4.0;

fn first_room(k: f64, d_sae: usize) -> usize {
    ((FIRST_ROOM * k).ceil() as usize).clamp(1, d_sae)
}

impl<B: Backend> Selection<B> {
    pub fn new(backend: &B, config: BatchTopKConfig, dims: Dims) -> Result<Self> {
        let stride = first_room(config.k, dims.d_sae);
        let lists = FeatureLists::new(backend, dims.rows, stride)?;
        Ok(Selection { config, dims, lists, longest: backend.zeros(1)?, threshold: backend.zeros(1)? })
    }

    /// The next step's `k`; lists grow when they have to.
    pub fn set_k(&mut self, k: f64) {
        self.config.k = k;
    }

    /// Selects, in lists made longer until every row fits; waits for the longest row's length. Returns
    /// whether they were made longer.
    pub fn select(&mut self, batch: &Batch<'_, B>) -> Result<bool> {
        let first_stride = self.lists.stride;
        loop {
            batch.backend.encode_batch_topk(EncodeBatchTopk {
                encoder: batch.encoder(),
                decoder_norm: self.config.rescale_acts_by_decoder_norm.then_some(batch.decoder_norm),
                n: (self.config.k * self.dims.rows as f64) as usize,
                threshold_lr: self.config.topk_threshold_lr,
                threshold: &mut self.threshold,
                lists: &mut self.lists,
                longest: &mut self.longest,
            })?;
            if !batch.make_room(&mut self.lists, &self.longest)? {
                return Ok(self.lists.stride > first_stride);
            }
        }
    }

    /// SAELens' `topk_threshold`.
    pub fn threshold(&self, backend: &B) -> Result<Vec<f64>> {
        backend.download(&self.threshold)
    }

    /// The threshold, for the log.
    pub fn metrics(&self, backend: &B) -> Result<Vec<Metric>> {
        Ok(vec![("topk_threshold", self.threshold(backend)?[0])])
    }

    /// Takes back what [`Selection::threshold`] gave.
    pub fn restore(&mut self, backend: &B, threshold: &[f64]) -> Result<()> {
        backend.write(&mut self.threshold, 0, threshold)
    }
}

/// The work space of a BatchTopK step.
pub struct BatchTopK<B: Backend> {
    selection: Selection<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    aux: Option<AuxK<B>>,
}

impl<B: Backend> BatchTopK<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: BatchTopKConfig, dims: Dims) -> Result<Self> {
        let aux = AuxK::new(backend, config.aux(), dims)?;
        let selection = Selection::new(backend, config, dims)?;
        let entries = dims.rows * selection.lists.stride;
        let by_latent = LatentLists::new(backend, dims.d_sae, entries)?;
        Ok(BatchTopK { selection, by_latent, value_gradient: backend.zeros(entries)?, aux })
    }
}

impl<B: Backend> Architecture<B> for BatchTopK<B> {
    fn set_k(&mut self, _backend: &B, k: f64) -> Result<()> {
        self.selection.set_k(k);
        Ok(())
    }

    fn begin(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        if self.selection.select(batch)? {
            let entries = batch.dims.rows * self.selection.lists.stride;
            self.by_latent = LatentLists::new(batch.backend, batch.dims.d_sae, entries)?;
            self.value_gradient = batch.backend.zeros(entries)?;
        }
        Ok(())
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        batch.decode(&self.selection.lists, &mut self.by_latent, &mut self.value_gradient)?;
        if let Some(aux) = &mut self.aux {
            let dead = batch.dead;
            aux.step(batch, dead, None, Onto::ListedRows, 0)?;
        }
        batch.update_firing(Features::Lists(&self.by_latent))?;
        batch.count_active(&self.by_latent)
    }

    fn listed(&self) -> Option<Listed<'_, B>> {
        Some(Listed {
            lists: &self.selection.lists,
            by_latent: &self.by_latent,
            pre_gradient: &self.value_gradient,
            norm_gradient: None,
            stored: self.aux.as_ref().map(AuxK::written),
        })
    }

    fn losses(&self, _backend: &B, sums: &[f64], n_dead: usize) -> Result<Vec<LossTerm>> {
        let Selection { config, dims, .. } = &self.selection;
        let loss = auxk::loss(config.aux_loss_coefficient, sums[0], n_dead, *dims);
        Ok(vec![("auxiliary_reconstruction_loss".into(), loss)])
    }

    fn metrics(&self, backend: &B) -> Result<Vec<Metric>> {
        self.selection.metrics(backend)
    }

    fn state(&self, backend: &B) -> Result<Vec<f64>> {
        self.selection.threshold(backend)
    }

    fn restore(&mut self, backend: &B, state: &[f64]) -> Result<()> {
        self.selection.restore(backend, state)
    }
}

/// The recipe's side of it.
pub struct BatchTopKKind;

impl Kind for BatchTopKKind {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::BatchTopK(BatchTopKConfig::of(recipe))
    }

    fn inference(&self, _recipe: &Recipe) -> InferenceArchitecture {
        InferenceArchitecture::JumpRelu
    }

    fn training_settings(&self, recipe: &Recipe) -> Value {
        json!({
            "k": recipe.k,
            "use_sparse_activations": false,
            "aux_loss_coefficient": recipe.aux_loss_coefficient,
            "rescale_acts_by_decoder_norm": recipe.rescale_acts_by_decoder_norm,
            "topk_threshold_lr": recipe.topk_threshold_lr,
        })
    }

    /// Of thresholds that differ from latent to latent their mean is taken.
    fn start_from(&self, recipe: &Recipe, weights: &mut Weights) -> Vec<f64> {
        let Some(thresholds) = weights.remove("threshold") else { return Vec::new() };
        let norms = recipe.rescale_acts_by_decoder_norm.then(|| weights.decoder_norms());
        let key = |(latent, &threshold): (usize, &f32)| {
            f64::from(threshold) * norms.as_ref().map_or(1.0, |norms| f64::from(norms[latent]))
        };
        let sum: f64 = thresholds.values.iter().enumerate().map(key).sum();
        vec![sum / thresholds.values.len() as f64]
    }

    /// Keys are in units of `h |W_dec|`, and W_dec is divided by the scale.
    fn fold_scale(&self, recipe: &Recipe, state: &mut [f64], scale: f32) {
        if recipe.rescale_acts_by_decoder_norm {
            state.iter_mut().for_each(|threshold| *threshold /= f64::from(scale));
        }
    }

    fn topk_threshold(&self, state: &[f64]) -> Option<f64> {
        state.first().copied()
    }

    fn finish(&self, recipe: &Recipe, weights: &mut Weights, state: &[f64]) {
        to_jumprelu(weights, state[0], recipe.rescale_acts_by_decoder_norm);
    }

    /// Index, value, gradient and place by latent, with room for rows longer than the mean one.
    fn work_space(&self, recipe: &Recipe, dims: Dims) -> WorkSpace {
        let (aux, room) =
            (auxk::work_space(recipe.aux_loss_coefficient, dims), first_room(recipe.largest_k(), dims.d_sae));
        WorkSpace {
            numbers: 4 * (dims.rows * room) as u64 + aux,
            formula: format!("4 * batch * {room} latents + {aux} for AuxK"),
        }
    }

    /// As TopK.
    fn operations(&self, recipe: &Recipe, _dims: Dims) -> Operations {
        Operations { dense: 1.0, gathered: 6.0 * recipe.k }
    }

    /// The threshold starts at 0, where half of all latents are active.
    fn room(&self, _recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        (dims.d_sae, "d_sae")
    }
}

/// Makes weights that were trained with a running threshold those of a JumpReLU SAE, by which SAELens
/// saves them. Where keys were multiplied by the decoder norms, so is the threshold: they are folded.
pub fn to_jumprelu(weights: &mut Weights, topk_threshold: f64, rescales: bool) {
    if rescales {
        weights.fold_w_dec_norm();
    }
    let d_sae = weights.get("b_enc").values.len();
    weights.insert("threshold", HostTensor { shape: vec![d_sae], values: vec![topk_threshold as f32; d_sae] });
}
