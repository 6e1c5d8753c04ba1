//! TopK: `f = ReLU` of the k largest pre-activations of every row, with AuxK for dead latents; and
//! AbsTopK: the k of the largest magnitude with their signs.
//! Source: Gao et al. 2024 (arXiv 2406.04093) as SAELens' `topk_sae.py` has it; arXiv 2510.00404 and
//! `abstopk_sae.py`.
//!
//! With `rescale_acts_by_decoder_norm` SAELens selects on `h n` and decodes `f / n`, where `n` is
//! the norm of the latent's decoder row. The factor cancels in the reconstruction and in every
//! gradient (the two ways that lead through `n` are equal and opposite), so that here it only takes
//! part in the selection, and lists hold `h`.

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, Listed, Onto};
use super::auxk::{self, AuxK, AuxKConfig};
use super::config::InferenceArchitecture;
use super::kind::{Kind, Operations, WorkSpace};
use super::report::LossTerm;
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::{json, Value};

/// SAELens' `TopKTrainingSAEConfig`, and `AbsTopKTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopKConfig {
    /// Latents kept in each row.
    pub k: usize,
    /// What is compared: values in TopK, magnitudes in AbsTopK.
    pub rank: Rank,
    /// Factor on AuxK's loss.
    pub aux_loss_coefficient: f64,
    /// Whether pre-activations are compared after multiplying by the decoder norms.
    pub rescale_acts_by_decoder_norm: bool,
}

/// The work space of a TopK step.
pub struct TopK<B: Backend> {
    config: TopKConfig,
    dims: Dims,
    /// That of the next step.
    k: usize,
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    aux: Option<AuxK<B>>,
}

impl<B: Backend> TopK<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: TopKConfig, dims: Dims) -> Result<Self> {
        let (k, Dims { rows, d_sae, .. }) = (config.k, dims);
        let aux = AuxKConfig {
            coefficient: config.aux_loss_coefficient,
            rank: config.rank,
            rescales: config.rescale_acts_by_decoder_norm,
        };
        Ok(TopK {
            config,
            dims,
            k,
            lists: FeatureLists::new(backend, rows, k)?,
            by_latent: LatentLists::new(backend, d_sae, rows * k)?,
            value_gradient: backend.zeros(rows * k)?,
            aux: AuxK::new(backend, aux, dims)?,
        })
    }
}

impl<B: Backend> Architecture<B> for TopK<B> {
    fn set_k(&mut self, backend: &B, k: f64) -> Result<()> {
        self.k = k as usize;
        if self.k > self.lists.stride {
            let Dims { rows, d_sae, .. } = self.dims;
            self.lists = FeatureLists::new(backend, rows, self.k)?;
            self.by_latent = LatentLists::new(backend, d_sae, rows * self.k)?;
            self.value_gradient = backend.zeros(rows * self.k)?;
        }
        Ok(())
    }

    /// Not while k moves.
    fn repeats(&self) -> bool {
        self.k == self.config.k
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        batch.backend.encode_topk(EncodeTopk {
            encoder: batch.encoder(),
            rank: self.config.rank,
            decoder_norm: self.config.rescale_acts_by_decoder_norm.then_some(batch.decoder_norm),
            k: self.k,
            lists: &mut self.lists,
        })?;
        batch.decode(&self.lists, &mut self.by_latent, &mut self.value_gradient)?;
        if let Some(aux) = &mut self.aux {
            let dead = batch.dead;
            aux.step(batch, dead, None, Onto::ListedRows, 0)?;
        }
        batch.update_firing(Features::Lists(&self.by_latent))?;
        batch.count_active(&self.by_latent)
    }

    fn listed(&self) -> Option<Listed<'_, B>> {
        Some(Listed {
            lists: &self.lists,
            by_latent: &self.by_latent,
            pre_gradient: &self.value_gradient,
            norm_gradient: None,
            stored: self.aux.as_ref().map(AuxK::written),
        })
    }

    fn losses(&self, _backend: &B, sums: &[f64], n_dead: usize) -> Result<Vec<LossTerm>> {
        let loss = auxk::loss(self.config.aux_loss_coefficient, sums[0], n_dead, self.dims);
        Ok(vec![("auxiliary_reconstruction_loss".into(), loss)])
    }
}

/// The recipe's side of it, by what is compared.
pub struct TopKKind(pub Rank);

impl Kind for TopKKind {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::TopK(TopKConfig {
            k: recipe.k as usize,
            rank: self.0,
            aux_loss_coefficient: recipe.aux_loss_coefficient,
            rescale_acts_by_decoder_norm: recipe.rescale_acts_by_decoder_norm,
        })
    }

    fn inference(&self, recipe: &Recipe) -> InferenceArchitecture {
        let (k, rescale_acts_by_decoder_norm) = (recipe.k as usize, recipe.rescale_acts_by_decoder_norm);
        match self.0 {
            Rank::Value => InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm },
            Rank::Magnitude => InferenceArchitecture::AbsTopK { k, rescale_acts_by_decoder_norm },
        }
    }

    /// SAELens' AbsTopK cannot be sparse.
    fn training_settings(&self, recipe: &Recipe) -> Value {
        json!({
            "use_sparse_activations": self.0 == Rank::Value,
            "aux_loss_coefficient": recipe.aux_loss_coefficient,
        })
    }

    /// Index, value, gradient and place by latent; likewise for AuxK, once a latent has died.
    fn work_space(&self, recipe: &Recipe, dims: Dims) -> WorkSpace {
        let aux = auxk::work_space(recipe.aux_loss_coefficient, dims);
        WorkSpace {
            numbers: 4 * (dims.rows * recipe.largest_k() as usize) as u64 + aux,
            formula: format!("4 * batch * k {} + {aux} for AuxK", recipe.largest_k()),
        }
    }

    /// Lists are gathered six times: decoding, its gradient, and those of both matrices twice.
    fn operations(&self, recipe: &Recipe, _dims: Dims) -> Operations {
        Operations { dense: 1.0, gathered: 6.0 * recipe.k }
    }

    fn room(&self, recipe: &Recipe, _dims: Dims) -> (usize, &'static str) {
        (recipe.k as usize, "k")
    }
}
