//! Transcoders: the architecture encodes one hook's activations, and what it decodes is compared with another
//! hook's. A skip transcoder adds `x W_skipᵀ`, with `x` as it came. Of `expected_average_only_in` each hook has a factor
//! of its own, and all of them are folded into the weights in the end. b_dec is of the output and is subtracted
//! from nothing, and a normalisation of the input is not undone, as at inference in SAELens'
//! `transcoder.py`, which does not train them. Source: Dunefsky et al. 2024 (arXiv 2406.11944); Paulo et al.
//! 2025 (arXiv 2501.18823) for the skip connection, which starts at 0.

use super::architecture::{ArchitectureConfig, Dims};
use super::config::InferenceArchitecture;
use super::kind::{Coefficient, Kind, Operations, WorkSpace};
use super::parameters::Named;
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::Value;

/// The work space of a skip connection in training.
pub struct Skip<B: Backend> {
    /// The input, without a normalisation of its rows `[B, D]`.
    x: B::Buffer<f32>,
    room: B::Buffer<f32>,
    /// What is left for the decoder: the target less what the connection carries `[B, D]`.
    pub target: B::Buffer<f32>,
    of_matrix: B::Buffer<f32>,
    of_bias: B::Buffer<f32>,
}

/// A batch `[B, D]` and the factor on it.
pub struct Scaled<'a, B: Backend> {
    /// As it came.
    pub x: &'a B::Buffer<f32>,
    /// Of `expected_average_only_in`, or 1.
    pub factor: f32,
}

impl<B: Backend> Skip<B> {
    /// None where the parameters have no `W_skip`.
    pub fn of(backend: &B, values: &Named<B>, Dims { rows, d_in, .. }: Dims) -> Result<Option<Self>> {
        if !values.contains("W_skip") {
            return Ok(None);
        }
        Ok(Some(Skip {
            x: backend.zeros(rows * d_in)?,
            room: backend.zeros(rows * d_in)?,
            target: backend.zeros(rows * d_in)?,
            of_matrix: backend.zeros(d_in * d_in)?,
            of_bias: backend.zeros(d_in)?,
        }))
    }

    /// Takes what `W_skip` carries of a batch `x` from `y`, which is to be predicted.
    pub fn begin(
        &mut self,
        backend: &B,
        Scaled { x, factor }: Scaled<'_, B>,
        y: &B::Buffer<f32>,
        w_skip: &B::Buffer<f32>,
        Dims { rows, d_in, .. }: Dims,
    ) -> Result<()> {
        let len = rows * d_in;
        backend.scale(Scale { from: x, factor, len, to: &mut self.x })?;
        backend.scale(Scale { from: y, factor: -1.0, len, to: &mut self.target })?;
        backend.linear(Linear {
            x: Matrix::F32(&self.x),
            w: Matrix::F32(w_skip),
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: Some(&self.target),
            rows,
            d_input: d_in,
            d_output: d_in,
            out: &mut self.room,
        })?;
        backend.scale(Scale { from: &self.room, factor: -1.0, len, to: &mut self.target })
    }

    /// `g_W_skip = gᵀ x`, with `g` the gradient of what is predicted.
    pub fn gradient(
        &mut self,
        backend: &B,
        gradient: &B::Buffer<f32>,
        out: &mut B::Buffer<f32>,
        Dims { rows, d_in, .. }: Dims,
    ) -> Result<()> {
        // The product of dense features with a gradient has the same form; its other half is not wanted.
        backend.gradient_dense(GradientDense {
            features: gradient,
            pre_gradient: gradient,
            gradient: &self.x,
            input: &self.x,
            norm: None,
            rows,
            d_in,
            d_sae: d_in,
            bf16: false,
            out: WeightGradients {
                w_enc: &mut self.of_matrix,
                b_enc: &mut self.of_bias,
                w_dec: out,
                accumulate: false,
                only_listed: false,
            },
        })
    }
}

/// The recipe's side: that of the architecture that encodes, and whether there is a skip connection.
pub struct TranscoderKind<K: Kind> {
    /// The architecture that encodes.
    pub encoder: K,
    /// Whether it skips.
    pub skip: bool,
}

impl<K: Kind> Kind for TranscoderKind<K> {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        self.encoder.config(recipe)
    }

    fn inference(&self, recipe: &Recipe) -> InferenceArchitecture {
        self.encoder.inference(recipe)
    }

    fn vectors(&self, recipe: &Recipe) -> Vec<(&'static str, f32)> {
        self.encoder.vectors(recipe)
    }

    fn skips(&self) -> bool {
        self.skip
    }

    fn coefficient(&self, recipe: &Recipe) -> Option<Coefficient> {
        self.encoder.coefficient(recipe)
    }

    fn training_settings(&self, recipe: &Recipe) -> Value {
        self.encoder.training_settings(recipe)
    }

    /// The encoder's and a batch to predict; of a skip connection three more and a gradient that is not wanted.
    fn work_space(&self, recipe: &Recipe, dims: Dims) -> WorkSpace {
        let WorkSpace { numbers, formula } = self.encoder.work_space(recipe, dims);
        let Dims { rows, d_in, .. } = dims;
        let (more, of) = match self.skip {
            false => (rows * d_in, "batch * d_in"),
            true => (4 * rows * d_in + d_in * d_in, "4 * batch * d_in + d_in * d_in"),
        };
        WorkSpace { numbers: numbers + more as u64, formula: format!("{formula} + {of}") }
    }

    fn operations(&self, recipe: &Recipe, dims: Dims) -> Operations {
        self.encoder.operations(recipe, dims)
    }

    fn room(&self, recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        self.encoder.room(recipe, dims)
    }
}
