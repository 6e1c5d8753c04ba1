//! Gated: one product with the encoder decides which latents are active and, scaled and shifted latent
//! by latent, how much: `u = x W_enc`, `π = u + b_gate`, `f = 1[π > 0] ReLU(e^r_mag u + b_mag)`. The
//! gates learn from a penalty and from a reconstruction of their own, `ReLU(π) W_dec + b_dec`.
//! Source: Rajamanoharan et al. 2024 (arXiv 2404.16014) as SAELens' `gated_sae.py` has it: there the
//! reconstruction from gates has its way to the decoder, too (the paper's is a frozen copy).
//!
//! Ghost gradients go by the magnitude `e^r_mag u + b_mag` of a dead latent, whether its gate is open or not, as in
//! SAELens before version 6: b_gate gets none, but W_enc, by which gates open, does.

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, EncoderSums, Listed};
use super::autocast::summands;
use super::config::InferenceArchitecture;
use super::kind::{dead_of_a_plan, room_at_the_start, Coefficient, Kind, Operations, WorkSpace};
use super::report::LossTerm;
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::{json, Value};

/// Room in a row's list at first, as a part of d_sae: at the start half of all gates are open.
const FIRST_ROOM_PART: usize = 4;

/// The work space of a gated step.
pub struct Gated<B: Backend> {
    dims: Dims,
    gates: FeatureLists<B>,
    longest: B::Buffer<u32>,
    features: FeatureLists<B>,
    entries: Entries<B>,
    gate_output_gradient: B::Buffer<f32>,
    gate_squared_error: B::Buffer<f32>,
    row_loss: B::Buffer<f32>,
    /// Gradients of `u`, summed over the batch `[F]`.
    sums: B::Buffer<f32>,
    ghost: Option<Ghost<B>>,
}

/// What ghost gradients need here.
struct Ghost<B: Backend> {
    error_gradient: B::Buffer<f32>,
    /// Of the dead latents.
    gates: FeatureLists<B>,
    entries: [B::Buffer<f32>; 3],
    of_latents: B::Buffer<f32>,
}

impl<B: Backend> Ghost<B> {
    fn new(backend: &B, Dims { rows, d_in, d_sae }: Dims, stride: usize) -> Result<Self> {
        let entries = || backend.zeros(rows * stride);
        Ok(Ghost {
            error_gradient: backend.zeros(rows * d_in)?,
            gates: FeatureLists::new(backend, rows, stride)?,
            entries: [entries()?, entries()?, entries()?],
            of_latents: backend.zeros(d_sae)?,
        })
    }
}

/// What there is for every open gate.
struct Entries<B: Backend> {
    by_latent: LatentLists<B>,
    gate_gradient: B::Buffer<f32>,
    norm_gradient: B::Buffer<f32>,
    value_gradient: B::Buffer<f32>,
    b_mag_gradient: B::Buffer<f32>,
    r_mag_gradient: B::Buffer<f32>,
}

impl<B: Backend> Entries<B> {
    fn new(backend: &B, d_sae: usize, entries: usize) -> Result<Self> {
        Ok(Entries {
            by_latent: LatentLists::new(backend, d_sae, entries)?,
            gate_gradient: backend.zeros(entries)?,
            norm_gradient: backend.zeros(entries)?,
            value_gradient: backend.zeros(entries)?,
            b_mag_gradient: backend.zeros(entries)?,
            r_mag_gradient: backend.zeros(entries)?,
        })
    }
}

impl<B: Backend> Gated<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, dims: Dims) -> Result<Self> {
        let Dims { rows, d_in, d_sae } = dims;
        let stride = (d_sae / FIRST_ROOM_PART).max(1);
        Ok(Gated {
            dims,
            gates: FeatureLists::new(backend, rows, stride)?,
            longest: backend.zeros(1)?,
            features: FeatureLists::new(backend, rows, stride)?,
            entries: Entries::new(backend, d_sae, rows * stride)?,
            gate_output_gradient: backend.zeros(rows * d_in)?,
            gate_squared_error: backend.zeros(rows)?,
            row_loss: backend.zeros(rows)?,
            sums: backend.zeros(d_sae)?,
            ghost: None,
        })
    }

    /// Both reconstructions, and the gradients of features and gates.
    fn decode(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, .. }) = (batch.backend, batch.dims);
        let Entries { gate_gradient, norm_gradient, value_gradient, .. } = &mut self.entries;
        backend.decode_sparse(DecodeSparse {
            decoder: batch.decoder(),
            lists: &self.features,
            dead_weight: None,
            value_gradient: Some(value_gradient),
        })?;
        backend.decode_sparse(DecodeSparse {
            decoder: Decoder {
                gradient: &mut self.gate_output_gradient,
                squared_error: &mut self.gate_squared_error,
                ..batch.decoder()
            },
            lists: &self.gates,
            dead_weight: None,
            value_gradient: Some(gate_gradient),
        })?;
        backend.sparsity_lp(SparsityLp {
            lists: &self.gates,
            decoder_norm: batch.decoder_norm,
            scalars: batch.scalars,
            p: 1.0,
            gradient_scale: 1.0 / rows as f32,
            rows,
            value_gradient: gate_gradient,
            norm_gradient,
            loss: &mut self.row_loss,
        })
    }

    /// The gradients of the weights from the features, then from the gates.
    fn weight_gradients(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        let Entries { by_latent, gate_gradient, norm_gradient, value_gradient, .. } = &self.entries;
        let norm_gradient =
            NormGradient { norm_gradient, decoder_norm: batch.decoder_norm, w_dec: batch.values.get("W_dec") };
        let of_features = (&self.features, value_gradient, &*batch.output_gradient, None, false);
        let of_gates = (&self.gates, gate_gradient, &self.gate_output_gradient, Some(norm_gradient), true);
        for (lists, pre_gradient, gradient, norm, accumulate) in [of_features, of_gates] {
            let [w_enc, w_dec] = batch.gradients.get_many_mut(["W_enc", "W_dec"]);
            let [gradient, input] = summands(backend, batch.rounded.as_deref_mut(), gradient, batch.input)?;
            backend.gradient_sparse(GradientSparse {
                lists,
                by_latent,
                pre_gradient,
                gradient,
                input,
                norm,
                rows,
                d_in,
                d_sae,
                out: WeightGradients { w_enc, b_enc: &mut self.sums, w_dec, accumulate, only_listed: false },
            })?;
        }
        Ok(())
    }

    fn bias_gradients(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let Entries { by_latent, gate_gradient, b_mag_gradient, r_mag_gradient, .. } = &self.entries;
        for (name, values) in [("b_gate", gate_gradient), ("b_mag", b_mag_gradient), ("r_mag", r_mag_gradient)] {
            let out = batch.gradients.get_mut(name);
            batch.backend.sum_by_latent(SumByLatent { values, by_latent, d_sae: batch.dims.d_sae, out })?;
        }
        Ok(())
    }
}

impl<B: Backend> Architecture<B> for Gated<B> {
    fn terms(&self) -> usize {
        2
    }

    /// Opens gates, in lists made longer until every row fits; waits for the longest row's length.
    fn begin(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let Dims { rows, d_sae, .. } = batch.dims;
        loop {
            let (lists, longest) = (&mut self.gates, &mut self.longest);
            batch.backend.encode_relu(EncodeRelu { encoder: batch.encoder_with("b_gate"), lists, longest })?;
            if !batch.make_room(&mut self.gates, &self.longest)? {
                return Ok(());
            }
            self.features = FeatureLists::new(batch.backend, rows, self.gates.stride)?;
            self.entries = Entries::new(batch.backend, d_sae, rows * self.gates.stride)?;
        }
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, batch.dims);
        let [b_gate, b_mag, r_mag] = ["b_gate", "b_mag", "r_mag"].map(|name| batch.values.get(name));
        let (gates, features, rectifies) = (&self.gates, &mut self.features, true);
        backend.gate(Gate { gates, b_gate, b_mag, r_mag, rectifies, rows, features })?;
        self.decode(batch)?;
        let Entries { by_latent, value_gradient, b_mag_gradient, r_mag_gradient, .. } = &mut self.entries;
        backend.gate_gradient(GateGradient {
            gates: &self.gates,
            features: &self.features,
            b_gate,
            r_mag,
            rows,
            value_gradient,
            b_mag_gradient,
            r_mag_gradient,
        })?;
        backend.transpose_lists(TransposeLists { lists: &self.gates, rows, d_sae, by_latent })?;
        self.weight_gradients(batch)?;
        self.bias_gradients(batch)?;
        if let Some(ghost) = &mut self.ghost {
            backend.copy(batch.output_gradient, 0, &mut ghost.error_gradient, 0, rows * d_in)?;
        }
        // b_dec is part of both reconstructions.
        let (from, to) = (&self.gate_output_gradient, &mut *batch.output_gradient);
        backend.add(Add { from, to, len: rows * d_in })?;
        batch.update_firing(Features::Values(&self.entries.by_latent, &self.features))?;
        batch.sum_term(0, &self.row_loss)?;
        batch.sum_term(1, &self.gate_squared_error)
    }

    fn encoder_sums(&self) -> EncoderSums<'_, B> {
        EncoderSums::Own(&self.sums)
    }

    fn keep_error_gradient(&mut self, backend: &B) -> Result<()> {
        self.ghost = Some(Ghost::new(backend, self.dims, 0)?);
        Ok(())
    }

    fn error_gradient(&self) -> Option<&B::Buffer<f32>> {
        self.ghost.as_ref().map(|ghost| &ghost.error_gradient)
    }

    fn encode_dead(&mut self, batch: &Batch<'_, B>, k: usize, lists: &mut FeatureLists<B>) -> Result<()> {
        let (backend, ghost) = (batch.backend, self.ghost.as_mut().expect("kept before the first step"));
        if ghost.gates.stride != lists.stride {
            let error_gradient = std::mem::replace(&mut ghost.error_gradient, backend.zeros(0)?);
            *ghost = Ghost { error_gradient, ..Ghost::new(backend, self.dims, lists.stride)? };
        }
        batch.encode_dead_with("b_gate", k, &mut ghost.gates)?;
        let [b_gate, b_mag, r_mag] = ["b_gate", "b_mag", "r_mag"].map(|name| batch.values.get(name));
        let (gates, rectifies, rows) = (&ghost.gates, false, self.dims.rows);
        backend.gate(Gate { gates, b_gate, b_mag, r_mag, rectifies, rows, features: lists })
    }

    fn add_dead(
        &mut self,
        batch: &mut Batch<'_, B>,
        of: Listed<'_, B>,
        output_gradient: &B::Buffer<f32>,
    ) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }) = (batch.backend, self.dims);
        let Ghost { gates, entries, of_latents, .. } = self.ghost.as_mut().expect("kept before the first step");
        let [u_gradient, b_mag_gradient, r_mag_gradient] = entries;
        backend.copy(of.pre_gradient, 0, u_gradient, 0, rows * gates.stride)?;
        backend.gate_gradient(GateGradient {
            gates,
            features: of.lists,
            b_gate: batch.values.get("b_gate"),
            r_mag: batch.values.get("r_mag"),
            rows,
            value_gradient: u_gradient,
            b_mag_gradient,
            r_mag_gradient,
        })?;
        let by_latent = of.by_latent;
        for (name, values) in [("b_mag", &*b_mag_gradient), ("r_mag", &*r_mag_gradient)] {
            backend.sum_by_latent(SumByLatent { values, by_latent, d_sae, out: of_latents })?;
            backend.add(Add { from: of_latents, to: batch.gradients.get_mut(name), len: d_sae })?;
        }
        let [w_enc, w_dec] = batch.gradients.get_many_mut(["W_enc", "W_dec"]);
        let b_enc = &mut self.sums;
        let [gradient, input] = summands(backend, batch.rounded.as_deref_mut(), output_gradient, batch.input)?;
        backend.gradient_sparse(GradientSparse {
            lists: of.lists,
            by_latent,
            pre_gradient: u_gradient,
            gradient,
            input,
            norm: None,
            rows,
            d_in,
            d_sae,
            out: WeightGradients { w_enc, b_enc, w_dec, accumulate: true, only_listed: false },
        })
    }

    fn active(&self, backend: &B) -> Result<Option<u64>> {
        let FeatureLists { stride, counts, values, .. } = &self.features;
        let (counts, values) = (backend.download(counts)?, backend.download(values)?);
        let of_row = |(&count, values): (&u32, &[f32])| values[..count as usize].iter().filter(|&&f| f != 0.0).count();
        Ok(Some(counts.iter().zip(values.chunks_exact(*stride)).map(of_row).sum::<usize>() as u64))
    }

    fn losses(&self, _backend: &B, sums: &[f64], _n_dead: usize) -> Result<Vec<LossTerm>> {
        let names = ["l1_loss", "auxiliary_reconstruction_loss"];
        Ok(names.into_iter().zip(sums).map(|(name, sum)| (name.into(), sum / self.dims.rows as f64)).collect())
    }
}

/// The recipe's side of it.
pub struct GatedKind;

impl Kind for GatedKind {
    fn config(&self, _recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::Gated
    }

    fn inference(&self, _recipe: &Recipe) -> InferenceArchitecture {
        InferenceArchitecture::Gated
    }

    fn vectors(&self, _recipe: &Recipe) -> Vec<(&'static str, f32)> {
        vec![("b_gate", 0.0), ("b_mag", 0.0), ("r_mag", 0.0)]
    }

    fn coefficient(&self, recipe: &Recipe) -> Option<Coefficient> {
        let (value, warm_up_steps) = (recipe.l1_coefficient, recipe.l1_warm_up_steps());
        Some(Coefficient { key: "l1_coefficient", value, warm_up_steps })
    }

    fn training_settings(&self, recipe: &Recipe) -> Value {
        json!({ "l1_coefficient": recipe.l1_coefficient, "l1_warm_up_steps": recipe.l1_warm_up_steps() })
    }

    /// Index and value of gates and of features, a place by latent, and five gradients; and the gates'
    /// reconstruction.
    fn work_space(&self, recipe: &Recipe, Dims { rows, d_in, d_sae }: Dims) -> WorkSpace {
        let numbers = 10 * rows as u64 * room_at_the_start(d_sae) + (rows * d_in) as u64;
        let formula = "10 * batch * 5/8 of d_sae + batch * d_in";
        if !recipe.use_ghost_grads {
            return WorkSpace { numbers, formula: formula.into() };
        }
        // The dead latents' gates, their values, and three gradients of each.
        let of_ghosts = rows * d_in + 5 * rows * dead_of_a_plan(d_sae) + d_sae;
        WorkSpace {
            numbers: numbers + of_ghosts as u64,
            formula: format!("{formula} + batch * d_in + 5 * batch * d_sae / 20 + d_sae"),
        }
    }

    /// Both reconstructions: decoding, its gradient, and those of both matrices; of all gates at first.
    fn operations(&self, _recipe: &Recipe, dims: Dims) -> Operations {
        Operations { dense: 1.0, gathered: 8.0 * dims.d_sae as f64 / 2.0 }
    }

    fn room(&self, _recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        (dims.d_sae, "d_sae")
    }
}
