//! The features of tokens: the model as far as the SAE's hook, and the SAE on what is there.

use crate::backend::Backend;
use crate::error::Result;
use crate::lm::{Forward, LanguageModel, Visitor};
use crate::sae::features::SparseFeatures;
use crate::sae::inference::{Pass, Sae};

/// A model and an SAE, with buffers for rows of tokens of one length.
pub struct FeatureReader<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    sae: &'a Sae<B>,
    hook: &'a str,
    forward: Forward<B>,
    pass: Pass<B>,
}

impl<'a, B: Backend> FeatureReader<'a, B> {
    /// Buffers for up to `max_sequences` rows of `context` tokens. Errors: the SAE names no hook or does
    /// not fit there; the context is longer than the model's.
    pub fn new(model: &'a LanguageModel<B>, sae: &'a Sae<B>, max_sequences: usize, context: usize) -> Result<Self> {
        let hook = crate::eval::hooks_of(model, sae)?.input;
        let (forward, pass) = (model.forward(max_sequences, context)?, sae.pass(max_sequences * context)?);
        Ok(FeatureReader { model, sae, hook, forward, pass })
    }

    /// Features of `tokens [sequences, T]`, a row for each token, as SAELens' `encode` has them. Error: a
    /// token is not in the model's vocabulary.
    pub fn read(&mut self, tokens: &[u32]) -> Result<SparseFeatures> {
        self.encode(tokens, None)
    }

    /// The same, and the activations that are encoded `[sequences * T, d_in]`.
    pub fn read_with_input(&mut self, tokens: &[u32]) -> Result<(SparseFeatures, Vec<f32>)> {
        let mut input = Vec::new();
        Ok((self.encode(tokens, Some(&mut input))?, input))
    }

    fn encode(&mut self, tokens: &[u32], input: Option<&mut Vec<f32>>) -> Result<SparseFeatures> {
        let mut encode = Encode { sae: self.sae, pass: &mut self.pass, hook: self.hook, rows: tokens.len(), input };
        self.forward.run(self.model, tokens, &mut encode, Some(self.hook))?;
        self.pass.features(self.sae)
    }

    /// What a row's reconstruction is multiplied by on its way out, for every row of the latest batch;
    /// none if the SAE does not normalise activations.
    pub fn row_scale(&self) -> Result<Option<Vec<f32>>> {
        Ok(self.pass.row_normalization(self.sae)?.map(|(scale, _)| scale))
    }
}

struct Encode<'a, B: Backend> {
    sae: &'a Sae<B>,
    pass: &'a mut Pass<B>,
    hook: &'a str,
    rows: usize,
    /// Gets what is encoded.
    input: Option<&'a mut Vec<f32>>,
}

impl<B: Backend> Visitor<B> for Encode<'_, B> {
    fn wants(&self, hook: &str) -> bool {
        hook == self.hook
    }

    fn visit(&mut self, backend: &B, _: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        if let Some(input) = &mut self.input {
            input.resize(self.rows * self.sae.config().d_in, 0.0);
            backend.read(value, 0, input)?;
        }
        self.pass.set_context(shape[1]);
        self.pass.encode(self.sae, value, self.rows)
    }
}

/// The `n` largest entries of a row of features, the largest first, ties to the smaller feature.
pub fn top_of_row(features: &SparseFeatures, row: usize, n: usize) -> Vec<(u32, f32)> {
    let (indices, values) = features.row(row);
    let mut entries: Vec<(u32, f32)> = indices.iter().copied().zip(values.iter().copied()).collect();
    entries.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    entries.truncate(n);
    entries
}
