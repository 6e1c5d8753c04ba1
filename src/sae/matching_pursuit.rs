//! Matching pursuit in training: the decoder is the encoder, too, and the only loss is the reconstruction's.
//! Source: SAELens `matching_pursuit_sae.py`. See [`super::pursuit`].

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, EncoderSums};
use super::config::InferenceArchitecture;
use super::kind::{Kind, Operations, WorkSpace};
use super::pursuit::{Dictionary, Pursuit, PursuitConfig, PursuitGradient};
use super::report::{LossTerm, Metric};
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::{json, Value};

/// The work space of a step.
pub struct MatchingPursuit<B: Backend> {
    config: PursuitConfig,
    pursuit: Pursuit<B>,
    gradient: PursuitGradient<B>,
    lists: FeatureLists<B>,
    by_latent: LatentLists<B>,
    /// Active latents of each row of the latest batch, and the squared norm of its error.
    active: Vec<usize>,
    squared_error: Vec<f32>,
}

impl<B: Backend> MatchingPursuit<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: PursuitConfig, Dims { rows, d_in, d_sae }: Dims) -> Result<Self> {
        Ok(MatchingPursuit {
            config,
            pursuit: Pursuit::new(backend, config, rows, [d_in, d_sae])?,
            gradient: PursuitGradient::new(backend, rows, [d_in, d_sae])?,
            lists: FeatureLists::new(backend, rows, 1)?,
            by_latent: LatentLists::new(backend, d_sae, rows)?,
            active: vec![0; rows],
            squared_error: vec![0.0; rows],
        })
    }

    /// Encodes into lists, which are made longer where a row does not fit.
    fn encode(&mut self, batch: &Batch<'_, B>, of: &Dictionary<'_, B>) -> Result<()> {
        let Dims { rows, d_sae, .. } = batch.dims;
        let features = self.pursuit.run(of, batch.input, rows)?;
        self.active = (0..rows).map(|row| features.row(row).0.len()).collect();
        let longest = self.active.iter().copied().max().unwrap_or(0);
        if longest > self.lists.stride {
            self.lists = FeatureLists::new(batch.backend, rows, longest)?;
            self.by_latent = LatentLists::new(batch.backend, d_sae, rows * longest)?;
        }
        features.write(batch.backend, 0..rows, &mut self.lists)
    }
}

impl<B: Backend> Architecture<B> for MatchingPursuit<B> {
    fn terms(&self) -> usize {
        0
    }

    /// Every latent that is taken is waited for.
    fn repeats(&self) -> bool {
        false
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        let of = Dictionary { backend, w_dec: batch.values.get("W_dec"), d_in, d_sae };
        self.encode(batch, &of)?;
        let (subtracts_b_dec, lists) = (batch.apply_b_dec_to_input, &self.lists);
        let mut decoder = batch.decoder();
        decoder.b_dec = decoder.b_dec.filter(|_| subtracts_b_dec);
        backend.decode_sparse(DecodeSparse { decoder, lists, dead_weight: None, value_gradient: None })?;
        backend.read(batch.squared_error, 0, &mut self.squared_error)?;
        let (gradient, w_dec) = (&mut *batch.output_gradient, batch.gradients.get_mut("W_dec"));
        self.gradient.run(&of, &mut self.pursuit, rows, gradient, w_dec)?;
        if !subtracts_b_dec {
            // Then it takes no part at all.
            backend.fill(batch.output_gradient, 0.0)?;
        }
        let by_latent = &mut self.by_latent;
        backend.transpose_lists(TransposeLists { lists, rows, d_sae, by_latent })?;
        batch.update_firing(Features::Lists(&self.by_latent))?;
        batch.count_active(&self.by_latent)
    }

    fn encoder_sums(&self) -> EncoderSums<'_, B> {
        EncoderSums::InOutputGradient
    }

    fn losses(&self, _backend: &B, _sums: &[f64], _n_dead: usize) -> Result<Vec<LossTerm>> {
        Ok(Vec::new())
    }

    fn metrics(&self, _backend: &B) -> Result<Vec<Metric>> {
        let rows = self.active.len() as f64;
        let norms = || self.squared_error.iter().map(|&square| f64::from(square).sqrt());
        let converged = norms().filter(|&norm| norm < self.config.residual_threshold).count();
        Ok(vec![
            ("max_l0", self.active.iter().copied().max().unwrap_or(0) as f64),
            ("min_l0", self.active.iter().copied().min().unwrap_or(0) as f64),
            ("residual_norm", norms().sum::<f64>() / rows),
            ("residual_threshold_converged_portion", converged as f64 / rows),
        ])
    }
}

/// The recipe's side of it.
pub struct MatchingPursuitKind;

fn settings(recipe: &Recipe) -> PursuitConfig {
    PursuitConfig {
        residual_threshold: recipe.residual_threshold,
        max_iterations: recipe.max_iterations,
        stop_on_duplicate_support: recipe.stop_on_duplicate_support,
    }
}

/// Latents of a row at most.
fn iterations(recipe: &Recipe, dims: Dims) -> usize {
    recipe.max_iterations.unwrap_or(dims.d_in)
}

impl Kind for MatchingPursuitKind {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::MatchingPursuit(settings(recipe))
    }

    fn inference(&self, recipe: &Recipe) -> InferenceArchitecture {
        InferenceArchitecture::MatchingPursuit(settings(recipe))
    }

    fn vectors(&self, _recipe: &Recipe) -> Vec<(&'static str, f32)> {
        Vec::new()
    }

    fn is_tied(&self) -> bool {
        true
    }

    /// All that it has are settings of inference, too.
    fn training_settings(&self, _recipe: &Recipe) -> Value {
        json!({})
    }

    /// Lists of every iteration and of the features by row and by latent, three batches, and W_dec's gradient
    /// as the encoder.
    fn work_space(&self, recipe: &Recipe, dims: Dims) -> WorkSpace {
        let (iterations, Dims { rows, d_in, d_sae }) = (iterations(recipe, dims), dims);
        WorkSpace {
            numbers: (rows * (6 * iterations + 3 * d_in) + d_sae * d_in) as u64,
            formula: format!("batch * (6 * {iterations} iterations + 3 * d_in) + d_sae * d_in"),
        }
    }

    /// A product for each iteration, though not of rows that are finished; and back, four gathers.
    fn operations(&self, recipe: &Recipe, dims: Dims) -> Operations {
        let iterations = iterations(recipe, dims) as f64;
        Operations { dense: iterations, gathered: 6.0 * iterations }
    }

    fn room(&self, recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        (iterations(recipe, dims).min(dims.d_sae), "max_iterations")
    }
}
