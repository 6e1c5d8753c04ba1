//! JumpReLU: `f = h` where `h` exceeds the latent's own threshold, which is learned through
//! straight-through estimators, with a penalty on the number of active latents.
//! Source: Rajamanoharan et al. 2024 (arXiv 2407.14435); Anthropic, "Circuits updates, January 2025"
//! (tanh, estimators that reach the input, pre-activation loss); Gemma Scope 2 (quadratic), as SAELens'
//! `jumprelu_sae.py` has them. The threshold itself is trained, not its logarithm, and is brought back
//! to 0 where a step took it below.

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, Listed, Onto};
use super::config::InferenceArchitecture;
use super::kind::{room_at_the_start, Coefficient, Kind, Operations, WorkSpace};
use super::parameters::Named;
use super::report::LossTerm;
use crate::backend::*;
use crate::config::{JumpReluSparsityLossMode, Recipe};
use crate::error::Result;
use serde_json::{json, Value};

/// SAELens' `JumpReLUTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct JumpReluConfig {
    /// Width of the estimators' window (`jumprelu_bandwidth`).
    pub bandwidth: f64,
    /// The sparsity term (`jumprelu_sparsity_loss_mode`).
    pub sparsity: JumpReluSparsity,
    /// Whether the estimators' gradient reaches the encoder too (`jumprelu_ste_to_input`).
    pub ste_to_input: bool,
    /// Factor on the loss that pulls dead latents' pre-activations up to their thresholds.
    pub pre_act_loss_coefficient: Option<f64>,
}

/// Room in a row's list at first, as a part of d_sae: thresholds start near 0, where half of all
/// latents are active.
const FIRST_ROOM_PART: usize = 4;

/// The work space of a JumpReLU step. Lists hold the active latents and those in the window.
pub struct JumpRelu<B: Backend> {
    config: JumpReluConfig,
    dims: Dims,
    lists: FeatureLists<B>,
    longest: B::Buffer<u32>,
    entries: Entries<B>,
    active: B::Buffer<u32>,
    row_loss: B::Buffer<f32>,
    latent_loss: B::Buffer<f32>,
}

/// What there is for every entry of the lists.
struct Entries<B: Backend> {
    by_latent: LatentLists<B>,
    pre_activations: B::Buffer<f32>,
    value_gradient: B::Buffer<f32>,
    threshold_gradient: B::Buffer<f32>,
    norm_gradient: B::Buffer<f32>,
}

impl<B: Backend> Entries<B> {
    fn new(backend: &B, d_sae: usize, entries: usize) -> Result<Self> {
        Ok(Entries {
            by_latent: LatentLists::new(backend, d_sae, entries)?,
            pre_activations: backend.zeros(entries)?,
            value_gradient: backend.zeros(entries)?,
            threshold_gradient: backend.zeros(entries)?,
            norm_gradient: backend.zeros(entries)?,
        })
    }
}

impl<B: Backend> JumpRelu<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: JumpReluConfig, dims: Dims) -> Result<Self> {
        let Dims { rows, d_sae, .. } = dims;
        let stride = (d_sae / FIRST_ROOM_PART).max(1);
        Ok(JumpRelu {
            config,
            dims,
            lists: FeatureLists::new(backend, rows, stride)?,
            longest: backend.zeros(1)?,
            entries: Entries::new(backend, d_sae, rows * stride)?,
            active: backend.zeros(rows)?,
            row_loss: backend.zeros(rows)?,
            latent_loss: backend.zeros(d_sae)?,
        })
    }

    /// The estimators' gradients of pre-activations and thresholds, and the sparsity term.
    fn differentiate(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let Entries { pre_activations, value_gradient, threshold_gradient, norm_gradient, .. } = &mut self.entries;
        batch.backend.jumprelu_gradient(JumpReluGradient {
            lists: &self.lists,
            pre_activations,
            threshold: batch.values.get("threshold"),
            decoder_norm: batch.decoder_norm,
            bandwidth: self.config.bandwidth as f32,
            ste_to_input: self.config.ste_to_input,
            sparsity: self.config.sparsity,
            scalars: batch.scalars,
            gradient_scale: 1.0 / batch.dims.rows as f32,
            rows: batch.dims.rows,
            value_gradient,
            threshold_gradient,
            norm_gradient,
            active: &mut self.active,
            loss: &mut self.row_loss,
        })?;
        batch.sum_term(0, &self.row_loss)
    }

    /// What the gradients of the weights are sums of.
    fn sums(&self) -> Listed<'_, B> {
        let Entries { by_latent, value_gradient, norm_gradient, .. } = &self.entries;
        let has_norm_term = matches!(self.config.sparsity, JumpReluSparsity::Tanh { .. });
        Listed {
            lists: &self.lists,
            by_latent,
            pre_gradient: value_gradient,
            norm_gradient: has_norm_term.then_some(norm_gradient),
            stored: None,
        }
    }

    /// `c * mean_b Σ ReLU(threshold - h) |W_dec|` over dead latents.
    fn pull_dead_latents(&mut self, coefficient: f64, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        let (encoder, scalars) = (batch.f32_encoder(), [coefficient as f32, 1.0 / rows as f32]);
        let names = ["W_enc", "b_enc", "W_dec", "threshold"];
        let [w_enc, b_enc, w_dec, threshold_gradient] = batch.gradients.get_many_mut(names);
        backend.pre_act_loss(PreActLoss {
            encoder,
            threshold: batch.values.get("threshold"),
            decoder_norm: batch.decoder_norm,
            w_dec: batch.values.get("W_dec"),
            dead: batch.dead,
            coefficient: scalars[0],
            gradient_scale: scalars[1],
            out: WeightGradients { w_enc, b_enc, w_dec, accumulate: true, only_listed: false },
            threshold_gradient,
            loss: &mut self.latent_loss,
        })?;
        batch.sum_term_over(1, &self.latent_loss, d_sae)
    }
}

impl<B: Backend> Architecture<B> for JumpRelu<B> {
    fn terms(&self) -> usize {
        2
    }

    fn project(&mut self, backend: &B, values: &mut Named<B>) -> Result<()> {
        let (function, to, len) = (ActivationFunction::Relu, values.get_mut("threshold"), self.dims.d_sae);
        backend.activate(Activate { function, to, len })
    }

    /// Encodes, in lists made longer until every row fits; waits for the longest row's length.
    fn begin(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        loop {
            batch.backend.encode_jumprelu(EncodeJumpRelu {
                encoder: batch.encoder(),
                threshold: batch.values.get("threshold"),
                bandwidth: Some(self.config.bandwidth as f32),
                lists: &mut self.lists,
                longest: &mut self.longest,
                pre_activations: Some(&mut self.entries.pre_activations),
            })?;
            if !batch.make_room(&mut self.lists, &self.longest)? {
                return Ok(());
            }
            self.entries = Entries::new(batch.backend, self.dims.d_sae, self.dims.rows * self.lists.stride)?;
        }
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        backend.decode_sparse(DecodeSparse {
            decoder: batch.decoder(),
            lists: &self.lists,
            dead_weight: None,
            value_gradient: Some(&mut self.entries.value_gradient),
        })?;
        self.differentiate(batch)?;
        let by_latent = &mut self.entries.by_latent;
        backend.transpose_lists(TransposeLists { lists: &self.lists, rows, d_sae, by_latent })?;
        let Entries { by_latent, threshold_gradient, .. } = &self.entries;
        let out = batch.gradients.get_mut("threshold");
        backend.sum_by_latent(SumByLatent { values: threshold_gradient, by_latent, d_sae, out })?;
        batch.update_firing(Features::Values(by_latent, &self.lists))?;
        if let Some(coefficient) = self.config.pre_act_loss_coefficient {
            batch.write_gradients(self.sums(), None, Onto::Nothing)?;
            self.pull_dead_latents(coefficient, batch)?;
        }
        Ok(())
    }

    /// The loss of dead latents adds to gradients that are written.
    fn listed(&self) -> Option<Listed<'_, B>> {
        self.config.pre_act_loss_coefficient.is_none().then(|| self.sums())
    }

    fn active(&self, backend: &B) -> Result<Option<u64>> {
        Ok(Some(backend.download(&self.active)?.into_iter().map(u64::from).sum()))
    }

    fn losses(&self, _backend: &B, sums: &[f64], _n_dead: usize) -> Result<Vec<LossTerm>> {
        let rows = self.dims.rows as f64;
        let mut losses = vec![("l0_loss".into(), sums[0] / rows)];
        if self.config.pre_act_loss_coefficient.is_some() {
            losses.push(("pre_act_loss".into(), sums[1] / rows));
        }
        Ok(losses)
    }
}

/// The recipe's side of it.
pub struct JumpReluKind;

impl Kind for JumpReluKind {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::JumpRelu(JumpReluConfig {
            bandwidth: recipe.jumprelu_bandwidth,
            sparsity: match recipe.jumprelu_sparsity_loss_mode {
                JumpReluSparsityLossMode::Step => JumpReluSparsity::Step,
                JumpReluSparsityLossMode::Tanh => JumpReluSparsity::Tanh { scale: recipe.jumprelu_tanh_scale as f32 },
                JumpReluSparsityLossMode::Quadratic => {
                    let target = recipe.target_l0.expect("the recipe was validated");
                    JumpReluSparsity::Quadratic { target: target as f32 }
                }
            },
            ste_to_input: recipe.jumprelu_ste_to_input,
            pre_act_loss_coefficient: recipe.pre_act_loss_coefficient,
        })
    }

    fn inference(&self, _recipe: &Recipe) -> InferenceArchitecture {
        InferenceArchitecture::JumpRelu
    }

    fn vectors(&self, recipe: &Recipe) -> Vec<(&'static str, f32)> {
        vec![("b_enc", 0.0), ("threshold", recipe.jumprelu_init_threshold as f32)]
    }

    fn coefficient(&self, recipe: &Recipe) -> Option<Coefficient> {
        let (value, warm_up_steps) = (recipe.l0_coefficient, recipe.l0_warm_up_steps());
        Some(Coefficient { key: "l0_coefficient", value, warm_up_steps })
    }

    fn training_settings(&self, recipe: &Recipe) -> Value {
        json!({
            "jumprelu_init_threshold": recipe.jumprelu_init_threshold,
            "jumprelu_bandwidth": recipe.jumprelu_bandwidth,
            "jumprelu_sparsity_loss_mode": recipe.jumprelu_sparsity_loss_mode.name(),
            "l0_coefficient": recipe.l0_coefficient,
            "l0_warm_up_steps": recipe.l0_warm_up_steps(),
            "pre_act_loss_coefficient": recipe.pre_act_loss_coefficient,
            "jumprelu_tanh_scale": recipe.jumprelu_tanh_scale,
            "jumprelu_ste_to_input": recipe.jumprelu_ste_to_input,
            "target_l0": recipe.target_l0,
        })
    }

    /// Index, value, pre-activation, three gradients and a place by latent.
    fn work_space(&self, _recipe: &Recipe, Dims { rows, d_sae, .. }: Dims) -> WorkSpace {
        WorkSpace { numbers: 7 * rows as u64 * room_at_the_start(d_sae), formula: "7 * batch * 5/8 of d_sae".into() }
    }

    /// Decoding, its gradient, and those of both matrices twice; of half of all latents at first.
    fn operations(&self, _recipe: &Recipe, dims: Dims) -> Operations {
        Operations { dense: 1.0, gathered: 6.0 * dims.d_sae as f64 / 2.0 }
    }

    fn room(&self, _recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        (dims.d_sae, "d_sae")
    }
}
