//! Standard: `f = ReLU(h)` with `l1_coefficient * mean_b ||f ⊙ |W_dec|||_p`.
//! Source: SAELens `standard_sae.py`; Anthropic, "Circuits updates, April 2024".
//!
//! Early in training half of all latents are active and dense products are the fastest way; later
//! a row has a few dozen. The step goes over to lists when the last batch was sparse enough, and back
//! when a row does not fit any more.

use super::architecture::{Architecture, ArchitectureConfig, Batch, Dims, Listed};
use super::config::InferenceArchitecture;
use super::kind::{Coefficient, Kind, Operations, WorkSpace};
use super::report::LossTerm;
use crate::backend::*;
use crate::config::Recipe;
use crate::error::Result;
use serde_json::{json, Value};

/// SAELens' `StandardTrainingSAEConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct StandardConfig {
    /// The norm's p.
    pub lp_norm: f64,
}

/// Room in a row's list, as a part of d_sae. It is wide because some rows, above all those of the
/// first token, are far denser than the mean one; room that is not used costs no memory on the CPU.
const ROOM_PART: usize = 4;
/// Lists are taken when the mean row has at most this part of d_sae active: a gathered row costs
/// about as much time as ten of a dense product.
const SPARSE_PART: usize = 16;

/// The work space of a standard step.
pub struct Standard<B: Backend> {
    config: StandardConfig,
    dims: Dims,
    form: Form<B>,
    /// Whether the latest batch was sparse enough for lists.
    is_sparse: bool,
    row_loss: B::Buffer<f32>,
}

/// How the features of the next batch are held. Only one form's work space exists at a time.
enum Form<B: Backend> {
    Dense {
        features: B::Buffer<f32>,
        gradient: B::Buffer<f32>,
        norm_gradient: B::Buffer<f32>,
        counts: B::Buffer<u32>,
    },
    Lists {
        lists: FeatureLists<B>,
        by_latent: LatentLists<B>,
        value_gradient: B::Buffer<f32>,
        norm_gradient: B::Buffer<f32>,
        longest: B::Buffer<u32>,
    },
}

impl<B: Backend> Form<B> {
    fn dense(backend: &B, Dims { rows, d_sae, .. }: Dims) -> Result<Self> {
        Ok(Form::Dense {
            features: backend.zeros(rows * d_sae)?,
            gradient: backend.zeros(rows * d_sae)?,
            norm_gradient: backend.zeros(d_sae)?,
            counts: backend.zeros(rows)?,
        })
    }

    fn lists(backend: &B, dims: Dims) -> Result<Self> {
        let (rows, stride) = (dims.rows, list_room(dims));
        Ok(Form::Lists {
            lists: FeatureLists::new(backend, rows, stride)?,
            by_latent: LatentLists::new(backend, dims.d_sae, rows * stride)?,
            value_gradient: backend.zeros(rows * stride)?,
            norm_gradient: backend.zeros(rows * stride)?,
            longest: backend.zeros(1)?,
        })
    }
}

fn list_room(dims: Dims) -> usize {
    (dims.d_sae / ROOM_PART).max(1)
}

impl<B: Backend> Standard<B> {
    /// Work space for batches of these sizes.
    pub fn new(backend: &B, config: StandardConfig, dims: Dims) -> Result<Self> {
        Ok(Standard {
            config,
            dims,
            form: Form::dense(backend, dims)?,
            is_sparse: false,
            row_loss: backend.zeros(dims.rows)?,
        })
    }

    fn step_on_lists(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_sae, .. }) = (batch.backend, batch.dims);
        let Form::Lists { lists, by_latent, value_gradient, norm_gradient, .. } = &mut self.form else {
            unreachable!("the form is lists")
        };
        backend.decode_sparse(DecodeSparse {
            decoder: batch.decoder(),
            lists,
            dead_weight: None,
            value_gradient: Some(&mut *value_gradient),
        })?;
        backend.sparsity_lp(SparsityLp {
            lists,
            decoder_norm: batch.decoder_norm,
            scalars: batch.scalars,
            p: self.config.lp_norm as f32,
            gradient_scale: 1.0 / rows as f32,
            rows,
            value_gradient,
            norm_gradient,
            loss: &mut self.row_loss,
        })?;
        backend.transpose_lists(TransposeLists { lists, rows, d_sae, by_latent })?;
        batch.update_firing(Features::Lists(by_latent))?;
        batch.count_active(by_latent)
    }

    /// Waits for the counts of active latents, which decide about the next step's form.
    fn step_dense(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let (backend, Dims { rows, d_in, d_sae }, bf16) = (batch.backend, batch.dims, batch.rounded.is_some());
        let Form::Dense { features, gradient, norm_gradient, counts } = &mut self.form else {
            unreachable!("the form is dense")
        };
        backend.encode_relu_dense(EncodeReluDense { encoder: batch.encoder(), features, counts })?;
        backend.decode_dense(DecodeDense {
            decoder: batch.f32_decoder(),
            features,
            feature_gradient: gradient,
            bf16,
        })?;
        backend.sparsity_lp_dense(SparsityLpDense {
            features,
            decoder_norm: batch.decoder_norm,
            scalars: batch.scalars,
            p: self.config.lp_norm as f32,
            gradient_scale: 1.0 / rows as f32,
            rows,
            d_sae,
            feature_gradient: gradient,
            norm_gradient,
            loss: &mut self.row_loss,
        })?;
        let norm = NormGradient { norm_gradient, decoder_norm: batch.decoder_norm, w_dec: batch.values.get("W_dec") };
        backend.gradient_dense(GradientDense {
            features,
            pre_gradient: gradient,
            gradient: batch.output_gradient,
            input: batch.input,
            norm: Some(norm),
            rows,
            d_in,
            d_sae,
            bf16,
            out: batch.gradients.weight_gradients(false),
        })?;
        batch.update_firing(Features::Dense(features))?;
        let counts = backend.download(counts)?;
        let active: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        backend.write(&mut batch.measurements.active, 0, &[u32::try_from(active).unwrap_or(u32::MAX)])?;
        let largest = counts.iter().copied().max().unwrap_or(0) as usize;
        // Some room is left, so that the form does not change back and forth.
        self.is_sparse = largest <= list_room(self.dims) * 3 / 4 && active <= (rows * d_sae / SPARSE_PART) as u64;
        Ok(())
    }
}

impl<B: Backend> Architecture<B> for Standard<B> {
    /// Where lists are in use, encodes into them. Whether every row fits decides about the rest of the
    /// step, so that 4 bytes are waited for here.
    fn begin(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        let backend = batch.backend;
        if self.is_sparse && matches!(self.form, Form::Dense { .. }) {
            self.form = Form::lists(backend, self.dims)?;
        }
        let Form::Lists { lists, longest, .. } = &mut self.form else { return Ok(()) };
        backend.encode_relu(EncodeRelu { encoder: batch.encoder(), lists, longest })?;
        if backend.read_element(longest, 0)? as usize > lists.stride {
            (self.form, self.is_sparse) = (Form::dense(backend, self.dims)?, false);
        }
        Ok(())
    }

    fn repeats(&self) -> bool {
        matches!(self.form, Form::Lists { .. })
    }

    fn step(&mut self, batch: &mut Batch<'_, B>) -> Result<()> {
        match self.form {
            Form::Lists { .. } => self.step_on_lists(batch)?,
            Form::Dense { .. } => self.step_dense(batch)?,
        }
        batch.sum_term(0, &self.row_loss)
    }

    fn listed(&self) -> Option<Listed<'_, B>> {
        let Form::Lists { lists, by_latent, value_gradient, norm_gradient, .. } = &self.form else { return None };
        let norm_gradient = Some(norm_gradient);
        Some(Listed { lists, by_latent, pre_gradient: value_gradient, norm_gradient, stored: None })
    }

    fn losses(&self, _backend: &B, sums: &[f64], _n_dead: usize) -> Result<Vec<LossTerm>> {
        Ok(vec![("l1_loss".into(), sums[0] / self.dims.rows as f64)])
    }

    /// Dense or lists: they round differently, so a resumed run must go on in the same form.
    fn state(&self, _backend: &B) -> Result<Vec<f64>> {
        Ok(vec![f64::from(u8::from(self.is_sparse))])
    }

    fn restore(&mut self, _backend: &B, state: &[f64]) -> Result<()> {
        self.is_sparse = state == [1.0];
        Ok(())
    }
}

/// The recipe's side of it.
pub struct StandardKind;

impl Kind for StandardKind {
    fn config(&self, recipe: &Recipe) -> ArchitectureConfig {
        ArchitectureConfig::Standard(StandardConfig { lp_norm: recipe.lp_norm })
    }

    fn inference(&self, _recipe: &Recipe) -> InferenceArchitecture {
        InferenceArchitecture::Standard
    }

    fn coefficient(&self, recipe: &Recipe) -> Option<Coefficient> {
        let (value, warm_up_steps) = (recipe.l1_coefficient, recipe.l1_warm_up_steps());
        Some(Coefficient { key: "l1_coefficient", value, warm_up_steps })
    }

    fn training_settings(&self, recipe: &Recipe) -> Value {
        json!({
            "l1_coefficient": recipe.l1_coefficient,
            "lp_norm": recipe.lp_norm,
            "l1_warm_up_steps": recipe.l1_warm_up_steps(),
        })
    }

    fn work_space(&self, _recipe: &Recipe, Dims { rows, d_sae, .. }: Dims) -> WorkSpace {
        WorkSpace { numbers: (2 * rows * d_sae) as u64, formula: "2 * batch * d_sae".into() }
    }

    /// Five dense products at first; lists come later and are faster.
    fn operations(&self, _recipe: &Recipe, _dims: Dims) -> Operations {
        Operations { dense: 5.0, gathered: 0.0 }
    }

    /// How many latents are active is not known before; at most all.
    fn room(&self, _recipe: &Recipe, dims: Dims) -> (usize, &'static str) {
        (dims.d_sae, "d_sae")
    }
}
