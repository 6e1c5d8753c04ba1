//! Matryoshka BatchTopK: a BatchTopK of which the first `w` latents must reconstruct the activations on
//! their own, too, for several widths `w`; the errors of all widths are added up. AuxK acts on the whole,
//! or on every level by itself.
//! Source: Bussmann et al. 2025 (arXiv 2503.17547) as SAELens' `matryoshka_batchtopk_sae.py` has it.
//!
//! With `d_j` what the latents between two widths decode to, the reconstruction of level `l` is
//! `b_dec + d_0 + … + d_l`: its error is what `d_l` leaves of the error before. The gradient of `d_j` is
//! the sum of those of the levels from `j` on.

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, Listed, Onto};
use super::auxk::{self, AuxK};
use super::batchtopk::{BatchTopKConfig, BatchTopKKind, Selection};
use super::config::InferenceArchitecture;
use super::kind::{merged, Kind, Operations, WorkSpace};
use super::report::{LossTerm, Metric};
use super::weights::Weights;
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::{json, Value};
use std::ops::Range;

/// SAELens' `MatryoshkaBatchTopKTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct MatryoshkaConfig {
    /// The selection's settings.
    pub batchtopk: BatchTopKConfig,
    /// The levels' widths, ascending, the last one d_sae.
    pub matryoshka_widths: Vec<usize>,
    /// Whether AuxK acts on every level by itself.
    pub use_matryoshka_aux_loss: bool,
}

/// The work space of a Matryoshka step.
pub struct Matryoshka<B: Backend> {
    config: MatryoshkaConfig,
    dims: Dims,
    selection: Selection<B>,
    by_latent: LatentLists<B>,
    value_gradient: B::Buffer<f32>,
    slice: FeatureLists<B>,
    /// All but the last.
    inner: Vec<Inner<B>>,
    reconstruction: B::Buffer<f32>,
    /// What the levels so far leave of the activations; after them, where it is kept, the gradient of the last
    /// level's error.
    error: B::Buffer<f32>,
    keeps_error_gradient: bool,
    no_shift: B::Buffer<f32>,
    aux: Option<AuxK<B>>,
    /// Of every level with an AuxK of its own.
    dead: Vec<DeadLatents<B>>,
}

/// The reconstruction of an inner level.
struct Inner<B: Backend> {
    gradient: B::Buffer<f32>,
    squared_error: B::Buffer<f32>,
}

impl<B: Backend> Matryoshka<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: MatryoshkaConfig, dims: Dims) -> Result<Self> {
        let Dims { rows, d_in, d_sae } = dims;
        let selection = Selection::new(backend, config.batchtopk.clone(), dims)?;
        let stride = selection.lists.stride;
        let levels = config.matryoshka_widths.len();
        let inner = || Ok(Inner { gradient: backend.zeros(rows * d_in)?, squared_error: backend.zeros(rows)? });
        let with_dead = if config.use_matryoshka_aux_loss { levels } else { 0 };
        Ok(Matryoshka {
            dims,
            selection,
            by_latent: LatentLists::new(backend, d_sae, rows * stride)?,
            value_gradient: backend.zeros(rows * stride)?,
            slice: FeatureLists::new(backend, rows, stride)?,
            inner: (1..levels).map(|_| inner()).collect::<Result<_>>()?,
            reconstruction: backend.zeros(rows * d_in)?,
            error: backend.zeros(rows * d_in)?,
            keeps_error_gradient: false,
            no_shift: backend.zeros(rows)?,
            aux: AuxK::new(backend, config.batchtopk.aux(), dims)?,
            dead: (0..with_dead).map(|_| DeadLatents::none(backend, d_sae)).collect::<Result<_>>()?,
            config,
        })
    }

    /// The latents of a level that are not of the one before.
    fn latents(&self, level: usize) -> Range<usize> {
        let widths = &self.config.matryoshka_widths;
        level.checked_sub(1).map_or(0, |before| widths[before])..widths[level]
    }

    fn take_slice(&mut self, level: usize, batch: &Batch<'_, B>) -> Result<()> {
        let (latents, rows) = (self.latents(level), self.dims.rows);
        let (lists, out) = (&self.selection.lists, &mut self.slice);
        batch.backend.slice_lists(SliceLists { lists, latents, rows, out })
    }

    /// Every level's reconstruction and the gradient of its error, the last one's in the batch.
    fn decode(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, len) = (batch.backend, self.dims.rows * self.dims.d_in);
        backend.copy(batch.target, 0, &mut self.error, 0, len)?;
        for level in 0..=self.inner.len() {
            self.take_slice(level, batch)?;
            let mut decoder = batch.decoder();
            decoder.target = &self.error;
            if level > 0 {
                // What is taken from an activation and given back is in the error already.
                decoder.b_dec = None;
                decoder.denormalize =
                    decoder.denormalize.map(|of_rows| Denormalize { row_shift: &self.no_shift, ..of_rows });
            }
            if let Some(inner) = self.inner.get_mut(level) {
                decoder.gradient = &mut inner.gradient;
                decoder.squared_error = &mut inner.squared_error;
                decoder.reconstruction = Some(&mut self.reconstruction);
            }
            backend.decode_sparse(DecodeSparse {
                decoder,
                lists: &self.slice,
                dead_weight: None,
                value_gradient: None,
            })?;
            if level < self.inner.len() {
                // The last level's gradient, which is yet to come, lends its place.
                let negative = &mut *batch.output_gradient;
                backend.scale(Scale { from: &self.reconstruction, factor: -1.0, len, to: negative })?;
                backend.add(Add { from: negative, to: &mut self.error, len })?;
            }
        }
        Ok(())
    }

    /// From the last level to the first: the sum of the gradients so far is that of the level's latents.
    fn differentiate(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        for level in (0..=self.inner.len()).rev() {
            let is_last = level == self.inner.len();
            if let Some(inner) = self.inner.get(level) {
                let (from, to) = (&inner.gradient, &mut *batch.output_gradient);
                backend.add(Add { from, to, len: rows * d_in })?;
            }
            self.take_slice(level, batch)?;
            backend.gradient_values(GradientValues {
                lists: &self.slice,
                w_dec: batch.w_dec(),
                gradient: batch.output_gradient,
                rows,
                d_in,
                value_gradient: &mut self.value_gradient,
            })?;
            let by_latent = &mut self.by_latent;
            backend.transpose_lists(TransposeLists { lists: &self.slice, rows, d_sae, by_latent })?;
            let listed = Listed {
                lists: &self.slice,
                by_latent: &self.by_latent,
                pre_gradient: &self.value_gradient,
                norm_gradient: None,
                stored: None,
            };
            batch.write_gradients(listed, None, if is_last { Onto::Nothing } else { Onto::Written })?;
            if self.config.use_matryoshka_aux_loss || is_last {
                self.auxiliary_step(level, batch)?;
            }
        }
        Ok(())
    }

    /// AuxK of a level, or of the whole.
    fn auxiliary_step(&mut self, level: usize, batch: &mut Batch<'_, B>) -> Result<()> {
        let latents = self.latents(level);
        let Some(aux) = &mut self.aux else { return Ok(()) };
        let Some(dead) = self.dead.get_mut(level) else {
            let dead = batch.dead;
            return aux.step(batch, dead, None, Onto::Written, 0);
        };
        let (since_fired, window) = (&batch.firing.since_fired, batch.dead_feature_window);
        batch.backend.find_dead(FindDead { since_fired, window, latents, dead })?;
        aux.step(batch, dead, self.inner.get(level).map(|inner| &inner.gradient), Onto::Written, level)
    }

    /// Terms of AuxK; those of the inner levels follow.
    fn aux_terms(&self) -> usize {
        self.dead.len().max(1)
    }

    fn auxiliary_loss(&self, backend: &B, sums: &[f64], n_dead: usize) -> Result<f64> {
        let of = |sum, n_dead| auxk::loss(self.config.batchtopk.aux_loss_coefficient, sum, n_dead, self.dims);
        if self.dead.is_empty() {
            return Ok(of(sums[0], n_dead));
        }
        let of_level = |(dead, &sum): (&DeadLatents<B>, &f64)| -> Result<f64> {
            Ok(of(sum, backend.read_element(&dead.count, 0)? as usize))
        };
        self.dead.iter().zip(sums).map(of_level).sum()
    }
}

impl<B: Backend> Architecture<B> for Matryoshka<B> {
    fn terms(&self) -> usize {
        self.aux_terms() + self.inner.len()
    }

    fn set_k(&mut self, _backend: &B, k: f64) -> Result<()> {
        self.selection.set_k(k);
        Ok(())
    }

    fn begin(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        if self.selection.select(batch)? {
            let (backend, Dims { rows, d_sae, .. }, stride) = (batch.backend, self.dims, self.selection.lists.stride);
            self.by_latent = LatentLists::new(backend, d_sae, rows * stride)?;
            self.value_gradient = backend.zeros(rows * stride)?;
            self.slice = FeatureLists::new(backend, rows, stride)?;
        }
        Ok(())
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        self.decode(batch)?;
        if self.keeps_error_gradient {
            backend.copy(batch.output_gradient, 0, &mut self.error, 0, rows * batch.dims.d_in)?;
        }
        self.differentiate(batch)?;
        let first = self.aux_terms();
        for (level, inner) in self.inner.iter().enumerate() {
            batch.sum_term(first + level, &inner.squared_error)?;
        }
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.selection.lists, rows, d_sae, by_latent })?;
        batch.update_firing(Features::Lists(&self.by_latent))?;
        batch.count_active(&self.by_latent)
    }

    fn keep_error_gradient(&mut self, _backend: &B) -> Result<()> {
        self.keeps_error_gradient = true;
        Ok(())
    }

    fn error_gradient(&self) -> Option<&B::Buffer<f32>> {
        self.keeps_error_gradient.then_some(&self.error)
    }

    fn losses(&self, backend: &B, sums: &[f64], n_dead: usize) -> Result<Vec<LossTerm>> {
        let mut losses = vec![("auxiliary_reconstruction_loss".into(), self.auxiliary_loss(backend, sums, n_dead)?)];
        let inner = self.config.matryoshka_widths.iter().zip(&sums[self.aux_terms()..]);
        losses.extend(inner.map(|(w, sum)| (format!("inner_mse_loss_{w}").into(), sum / self.dims.rows as f64)));
        Ok(losses)
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
pub struct MatryoshkaKind;

impl Kind for MatryoshkaKind {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::Matryoshka(MatryoshkaConfig {
            batchtopk: BatchTopKConfig::of(recipe),
            matryoshka_widths: recipe.matryoshka_widths.clone(),
            use_matryoshka_aux_loss: recipe.use_matryoshka_aux_loss,
        })
    }

    fn inference(&self, recipe: &Recipe) -> InferenceArchitecture {
        BatchTopKKind.inference(recipe)
    }

    fn training_settings(&self, recipe: &Recipe) -> Value {
        let own = json!({
            "matryoshka_widths": recipe.matryoshka_widths,
            "use_matryoshka_aux_loss": recipe.use_matryoshka_aux_loss,
        });
        merged(BatchTopKKind.training_settings(recipe), own)
    }

    fn start_from(&self, recipe: &Recipe, weights: &mut Weights) -> Vec<f64> {
        BatchTopKKind.start_from(recipe, weights)
    }

    fn fold_scale(&self, recipe: &Recipe, state: &mut [f64], scale: f32) {
        BatchTopKKind.fold_scale(recipe, state, scale);
    }

    fn topk_threshold(&self, state: &[f64]) -> Option<f64> {
        BatchTopKKind.topk_threshold(state)
    }

    fn finish(&self, recipe: &Recipe, weights: &mut Weights, state: &[f64]) {
        BatchTopKKind.finish(recipe, weights, state);
    }

    /// That of BatchTopK, lists of one level, the gradient of each inner level, a reconstruction and the
    /// error that the levels so far leave.
    fn work_space(&self, recipe: &Recipe, dims: Dims) -> WorkSpace {
        let of_lists = BatchTopKKind.work_space(recipe, dims);
        let of_level =
            BatchTopKKind.work_space(&Recipe { aux_loss_coefficient: 0.0, ..recipe.clone() }, dims).numbers / 2;
        let levels = recipe.matryoshka_widths.len() as u64;
        WorkSpace {
            numbers: of_lists.numbers + of_level + (levels + 1) * (dims.rows * dims.d_in) as u64,
            formula: format!("{} + {of_level} of a level + {} * batch * d_in", of_lists.formula, levels + 1),
        }
    }

    /// As TopK: every latent is in one level only.
    fn operations(&self, recipe: &Recipe, dims: Dims) -> Operations {
        BatchTopKKind.operations(recipe, dims)
    }

    fn room(&self, recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        BatchTopKKind.room(recipe, dims)
    }
}
