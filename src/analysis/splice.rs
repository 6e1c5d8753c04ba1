//! A model run with SAEs in the place of its hooks, as SAELens' `HookedSAETransformer`. Inside of an SAE
//! a [`Visitor`] reads and edits, under the hook's name:
//!
//! | name | value |
//! |---|---|
//! | `HOOK.hook_sae_input` | what is encoded, heads joined `[sequences, T, d_in]` |
//! | `HOOK.hook_sae_acts_pre` | before the activation function, but of matching pursuit `[sequences, T, d_sae]` |
//! | `HOOK.hook_sae_acts_post` | the features `[sequences, T, d_sae]` |
//! | `HOOK.hook_sae_recons` | decoded, before a normalisation is undone `[sequences, T, d_out]` |
//! | `HOOK.hook_sae_error` | with the error term: the model's own value less the clean reconstruction `[sequences, T, …]` |
//! | `HOOK.hook_sae_output` | what the model goes on with `[sequences, T, …]` |
//!
//! A transcoder reads at one hook and stands at another, `HOOK`. What its skip connection carries is added
//! to what it decodes (SAELens leaves that out here), as is what a temporal SAE predicts from the tokens before.
//! What nobody looks at stays on the device and sparse.

use crate::backend::{Add, Backend, Scale};
use crate::error::{Error, Result};
use crate::eval::{hooks_of, Hooks};
use crate::lm::{LanguageModel, Visitor};
use crate::sae::features::SparseFeatures;
use crate::sae::inference::{Pass, Sae};
use std::collections::BTreeMap;

/// What happens to a feature's activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// It is so much higher; activations may become negative.
    Add(f32),
    /// It is this.
    Set(f32),
}

impl Change {
    /// The activation afterwards.
    pub fn of(self, activation: f32) -> f32 {
        match self {
            Change::Add(more) => activation + more,
            Change::Set(value) => value,
        }
    }
}

/// A change of one feature at one position of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureEdit {
    /// Row `sequence * T + position` of the run.
    pub row: usize,
    /// Which feature.
    pub feature: u32,
    /// What happens to it.
    pub change: Change,
}

/// An SAE in the place of its hook.
pub struct Splice<'a, B: Backend> {
    sae: &'a Sae<B>,
    hooks: Hooks<'a>,
    use_error_term: bool,
    /// Changes in the next run, in this order.
    pub edits: Vec<FeatureEdit>,
    /// Rows of the next run where the SAE is bypassed; none where there are fewer.
    pub excluded: Vec<bool>,
    pass: Pass<B>,
    /// What is encoded, and rows of it that are not used yet.
    input: B::Buffer<f32>,
    waiting: usize,
    /// The model's own value at the output hook.
    own: B::Buffer<f32>,
    delta: B::Buffer<f32>,
}

impl<'a, B: Backend> Splice<'a, B> {
    /// An SAE where its metadata says that it belongs, for runs of up to `max_rows` tokens. With the
    /// error term the model goes on with its own activation, changed only by what is edited. Error: the
    /// SAE names no hook, or does not fit there.
    pub fn new(model: &LanguageModel<B>, sae: &'a Sae<B>, use_error_term: bool, max_rows: usize) -> Result<Self> {
        let hooks = hooks_of(model, sae)?;
        let zeros = |width| sae.backend().zeros(max_rows * width);
        let (d_in, d_out) = (sae.config().d_in, sae.config().d_out());
        Ok(Splice {
            sae,
            hooks,
            use_error_term,
            edits: Vec::new(),
            excluded: Vec::new(),
            pass: sae.pass(max_rows)?,
            input: zeros(d_in)?,
            waiting: 0,
            own: zeros(d_out)?,
            delta: zeros(d_out)?,
        })
    }

    /// The hook that it takes the place of.
    pub fn hook(&self) -> &'a str {
        self.hooks.output
    }

    /// Whether it has something to do there.
    pub fn is_at(&self, hook: &str) -> bool {
        hook == self.hooks.input || hook == self.hooks.output
    }

    /// The latest run's features, after edits.
    pub fn features(&self) -> Result<SparseFeatures> {
        self.pass.features(self.sae)
    }

    /// Keeps what is encoded once the model is at the output hook.
    fn read(&mut self, value: &B::Buffer<f32>, rows: usize) -> Result<()> {
        self.waiting = rows;
        self.sae.backend().copy(value, 0, &mut self.input, 0, rows * self.sae.config().d_in)
    }

    /// Replaces `value` by what the SAE makes of its input, shown to the visitor on the way.
    fn run(&mut self, value: &mut B::Buffer<f32>, shape: &[usize], visitor: &mut dyn Visitor<B>) -> Result<()> {
        let (sae, backend, rows) = (self.sae, self.sae.backend(), shape[0] * shape[1]);
        if std::mem::take(&mut self.waiting) != rows {
            return Err(self.hooks.in_wrong_order());
        }
        let (d_in, d_out, d_sae) = (sae.config().d_in, sae.config().d_out(), sae.config().d_sae);
        let (len, wide) = (rows * d_out, |width| [shape[0], shape[1], width]);
        let mut looks = Looks { backend, hook: self.hooks.output, visitor };

        backend.copy(value, 0, &mut self.own, 0, len)?;
        self.pass.set_context(shape[1]);
        self.pass.encode(sae, &self.input, rows)?;
        if self.use_error_term {
            self.pass.decode(sae)?;
            self.pass.add_bypass(sae, &self.input)?;
            backend.scale(Scale { from: self.pass.reconstruction(), factor: -1.0, len, to: &mut self.delta })?;
        }
        if looks.at("hook_sae_input", &mut self.input, &wide(d_in))? {
            self.pass.encode(sae, &self.input, rows)?;
        }
        if sae.config().architecture.has_pre_activations() && looks.wants("hook_sae_acts_pre") {
            let mut pre = backend.upload(&self.pass.pre_activations(sae)?)?;
            looks.at("hook_sae_acts_pre", &mut pre, &wide(d_sae))?;
            let features = self.pass.activate(sae, &backend.download(&pre)?)?;
            self.pass.set_features(sae, &features, 0, rows, None)?;
        }
        self.edit_features(rows)?;
        if looks.wants("hook_sae_acts_post") {
            let mut dense = backend.upload(&self.pass.features(sae)?.to_dense(d_sae))?;
            looks.at("hook_sae_acts_post", &mut dense, &wide(d_sae))?;
            let features = SparseFeatures::from_dense(&backend.download(&dense)?, d_sae);
            self.pass.set_features(sae, &features, 0, rows, None)?;
        }
        if looks.wants("hook_sae_recons") {
            self.pass.decode_normalized(sae)?;
            looks.at("hook_sae_recons", self.pass.reconstruction_mut(), &wide(d_out))?;
            self.pass.denormalize(sae)?;
        } else {
            self.pass.decode(sae)?;
        }
        self.pass.add_bypass(sae, &self.input)?;
        self.output(value, len, &mut looks, shape)?;
        self.bypass_excluded(value, rows)?;
        looks.at("hook_sae_output", value, shape)?;
        Ok(())
    }

    /// The reconstruction, or with the error term `x + (reconstruction - clean reconstruction)`, which is
    /// `x` to the last bit where nothing was edited.
    fn output(
        &mut self,
        value: &mut B::Buffer<f32>,
        len: usize,
        looks: &mut Looks<'_, B>,
        shape: &[usize],
    ) -> Result<()> {
        let backend = self.sae.backend();
        if !self.use_error_term {
            return backend.copy(self.pass.reconstruction(), 0, value, 0, len);
        }
        if looks.wants("hook_sae_error") {
            self.show_error(len, looks, shape)?;
        }
        backend.add(Add { from: self.pass.reconstruction(), to: &mut self.delta, len })?;
        backend.copy(&self.own, 0, value, 0, len)?;
        backend.add(Add { from: &self.delta, to: value, len })
    }

    /// Shows the error, 0 where the SAE is bypassed, and adds to `delta` how it was changed.
    fn show_error(&mut self, len: usize, looks: &mut Looks<'_, B>, shape: &[usize]) -> Result<()> {
        let (backend, d_out) = (self.sae.backend(), self.sae.config().d_out());
        let (mut x, mut minus_clean) = (vec![0.0; len], vec![0.0; len]);
        backend.read(&self.own, 0, &mut x)?;
        backend.read(&self.delta, 0, &mut minus_clean)?;
        let mut error: Vec<f32> = x.iter().zip(&minus_clean).map(|(x, minus_clean)| x + minus_clean).collect();
        for (row, _) in self.excluded.iter().enumerate().filter(|(_, &excluded)| excluded) {
            error[row * d_out..(row + 1) * d_out].fill(0.0);
        }
        let mut shown = backend.upload(&error)?;
        looks.at("hook_sae_error", &mut shown, shape)?;
        let edited = backend.download(&shown)?;
        for (delta, (edited, error)) in minus_clean.iter_mut().zip(edited.iter().zip(&error)) {
            *delta += edited - error;
        }
        backend.write(&mut self.delta, 0, &minus_clean)
    }

    fn edit_features(&mut self, rows: usize) -> Result<()> {
        if self.edits.is_empty() {
            return Ok(());
        }
        let d_sae = self.sae.config().d_sae;
        let mut of_rows: Vec<BTreeMap<u32, f32>> = vec![BTreeMap::new(); rows];
        let features = self.pass.features(self.sae)?;
        for (row, edited) in of_rows.iter_mut().enumerate() {
            let (indices, values) = features.row(row);
            edited.extend(indices.iter().copied().zip(values.iter().copied()));
        }
        for &FeatureEdit { row, feature, change } in &self.edits {
            if row >= rows || feature as usize >= d_sae {
                let what = format!("feature {feature} in row {row}; there are {d_sae} features and {rows} rows");
                return Err(Error::Shape { operation: "edit features", what });
            }
            let activation = of_rows[row].entry(feature).or_insert(0.0);
            *activation = change.of(*activation);
        }
        let mut edited = SparseFeatures::default();
        for row in of_rows {
            let (indices, values): (Vec<u32>, Vec<f32>) = row.into_iter().filter(|&(_, value)| value != 0.0).unzip();
            edited.push_row(&indices, &values);
        }
        self.pass.set_features(self.sae, &edited, 0, rows, None)
    }

    fn bypass_excluded(&self, value: &mut B::Buffer<f32>, rows: usize) -> Result<()> {
        let (backend, d_out) = (self.sae.backend(), self.sae.config().d_out());
        let excluded = self.excluded.iter().take(rows).enumerate().filter(|(_, &excluded)| excluded);
        excluded.into_iter().try_for_each(|(row, _)| backend.copy(&self.own, row * d_out, value, row * d_out, d_out))
    }
}

/// Shows the insides of an SAE to whoever wants them.
struct Looks<'v, B: Backend> {
    backend: &'v B,
    hook: &'v str,
    visitor: &'v mut dyn Visitor<B>,
}

impl<B: Backend> Looks<'_, B> {
    fn wants(&self, part: &str) -> bool {
        self.visitor.wants(&format!("{}.{part}", self.hook))
    }

    /// Whether anybody wanted to see it.
    fn at(&mut self, part: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<bool> {
        let wanted = self.wants(part);
        if wanted {
            self.visitor.visit(self.backend, &format!("{}.{part}", self.hook), value, shape)?;
        }
        Ok(wanted)
    }
}

/// SAEs in the places of their hooks; another visitor sees the model's hooks (those with an SAE as they
/// come in) and the insides of the SAEs. One that reads the features and silences one of them:
///
/// ```
/// use cusae::analysis::{Splice, Splices};
/// use cusae::backend::{Backend, Cpu};
/// use cusae::data::open_model;
/// use cusae::error::Result;
/// use cusae::formats::saelens;
/// use cusae::lm::{Processing, Visitor};
/// use cusae::sae::inference::Sae;
///
/// struct Silence(usize);
///
/// impl<B: Backend> Visitor<B> for Silence {
///     fn wants(&self, hook: &str) -> bool {
///         hook.ends_with(".hook_sae_acts_post")
///     }
///     fn visit(&mut self, backend: &B, _: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
///         let mut activations = backend.download(value)?; // [sequences, T, d_sae]
///         activations.chunks_exact_mut(shape[2]).for_each(|of_token| of_token[self.0] = 0.0);
///         backend.write(value, 0, &activations)
///     }
/// }
///
/// let model = open_model(&Cpu, "model", "embedded", Processing::None, false)?.model;
/// let saved = saelens::load_folder("tests/data/evals/trained-topk-resid/sae".as_ref())?;
/// let sae = Sae::new(&Cpu, &saved.config, &saved.weights)?;
/// let tokens = [1, 30, 400];
/// let mut forward = model.forward(1, tokens.len())?;
/// let mut splices = [Splice::new(&model, &sae, true, tokens.len())?];
/// forward.run(&model, &tokens, &mut Splices { splices: &mut splices, visitor: &mut Silence(7) }, None)?;
/// assert!(!splices[0].features()?.indices().contains(&7));
/// # Ok::<(), cusae::error::Error>(())
/// ```
pub struct Splices<'s, 'a, B: Backend> {
    /// The SAEs; of several at one hook, the later take what the earlier put out.
    pub splices: &'s mut [Splice<'a, B>],
    /// Who else looks.
    pub visitor: &'s mut dyn Visitor<B>,
}

impl<B: Backend> Visitor<B> for Splices<'_, '_, B> {
    fn wants(&self, hook: &str) -> bool {
        self.visitor.wants(hook) || self.splices.iter().any(|splice| splice.is_at(hook))
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        if self.visitor.wants(hook) {
            self.visitor.visit(backend, hook, value, shape)?;
        }
        let rows = shape[0] * shape[1];
        for splice in self.splices.iter_mut().filter(|splice| splice.hooks.output == hook) {
            if splice.hooks.input == hook {
                splice.read(value, rows)?;
            }
            splice.run(value, shape, self.visitor)?;
        }
        let only_read = |splice: &&mut Splice<B>| splice.hooks.input == hook && splice.hooks.output != hook;
        self.splices.iter_mut().filter(only_read).try_for_each(|splice| splice.read(value, rows))
    }
}
