//! The model with an SAE spliced in, next to the model itself and the model with zeros there.

use super::hooks::{hooks_of, Hooks};
use crate::backend::Backend;
use crate::error::Result;
use crate::lm::{Forward, LanguageModel, Visitor};
use crate::sae::features::SparseFeatures;
use crate::sae::inference::{Pass, Sae};

/// Losses of a batch in nats: cross-entropy of the next token `[sequences, T - 1]`, and
/// KL(clean || changed) `[sequences, T]`.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLosses {
    /// Of the model itself.
    pub ce_loss_without_sae: Vec<f32>,
    /// With the reconstruction at the hook.
    pub ce_loss_with_sae: Vec<f32>,
    /// With zeros at the hook.
    pub ce_loss_with_ablation: Vec<f32>,
    /// With the reconstruction at the hook.
    pub kl_div_with_sae: Vec<f32>,
    /// With zeros at the hook.
    pub kl_div_with_ablation: Vec<f32>,
}

/// A batch on its way through the SAE, on the host.
pub struct Encoded {
    /// Activations `[rows, d_out]`; of a transcoder those that it predicts.
    pub x: Vec<f32>,
    /// Their reconstructions `[rows, d_out]`.
    pub x_hat: Vec<f32>,
    /// Their features.
    pub features: SparseFeatures,
}

/// A model, an SAE at one of its hooks, and buffers for batches of rows.
pub struct Downstream<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    sae: &'a Sae<B>,
    hooks: Hooks<'a>,
    forward: Forward<B>,
    pass: Pass<B>,
    /// `ln_final.output` of the clean run.
    clean: B::Buffer<f32>,
}

impl<'a, B: Backend> Downstream<'a, B> {
    /// Buffers for batches of up to `max_sequences` rows of `context` tokens. Errors: the SAE names no hook or
    /// does not fit there; the context is longer than the model's, or memory is short.
    pub fn new(model: &'a LanguageModel<B>, sae: &'a Sae<B>, max_sequences: usize, context: usize) -> Result<Self> {
        let (hooks, rows) = (hooks_of(model, sae)?, max_sequences * context);
        let forward = model.forward(max_sequences, context)?;
        let clean = sae.backend().zeros(rows * model.config().d_model)?;
        Ok(Downstream { model, sae, hooks, forward, pass: sae.pass(rows)?, clean })
    }

    /// Runs `tokens [sequences, T]` three times. Where `excluded`, the reconstruction is not used;
    /// ablation is everywhere.
    pub fn losses(&mut self, tokens: &[u32], excluded: &[bool]) -> Result<TokenLosses> {
        let backend = self.sae.backend();
        self.forward.run(self.model, tokens, &mut (), None)?;
        let ce_loss_without_sae = self.forward.loss_per_token(self.model)?;
        let len = tokens.len() * self.model.config().d_model;
        backend.copy(self.forward.final_output()?, 0, &mut self.clean, 0, len)?;

        let mut splice = Splice { at: Place::new(self.sae, &mut self.pass, self.hooks), excluded };
        self.forward.run(self.model, tokens, &mut splice, None)?;
        let ce_loss_with_sae = self.forward.loss_per_token(self.model)?;
        let kl_div_with_sae = self.forward.kl_divergence_from(self.model, &self.clean)?;

        self.forward.run(self.model, tokens, &mut Ablate { hook: self.hooks.output }, None)?;
        let ce_loss_with_ablation = self.forward.loss_per_token(self.model)?;
        let kl_div_with_ablation = self.forward.kl_divergence_from(self.model, &self.clean)?;
        Ok(TokenLosses {
            ce_loss_without_sae,
            ce_loss_with_sae,
            ce_loss_with_ablation,
            kl_div_with_sae,
            kl_div_with_ablation,
        })
    }

    /// Runs `tokens [sequences, T]` as far as the hook, and the SAE on what is there.
    pub fn encode(&mut self, tokens: &[u32]) -> Result<Encoded> {
        let n = tokens.len() * self.sae.config().d_out();
        let mut look = Look { at: Place::new(self.sae, &mut self.pass, self.hooks), x: vec![0.0; n] };
        self.forward.run(self.model, tokens, &mut look, Some(self.hooks.output))?;
        let x = look.x;
        let mut x_hat = vec![0.0; n];
        self.sae.backend().read(self.pass.reconstruction(), 0, &mut x_hat)?;
        Ok(Encoded { x, x_hat, features: self.pass.features(self.sae)? })
    }
}

/// The SAE between the hook that it reads and the one whose value it gives.
struct Place<'a, B: Backend> {
    sae: &'a Sae<B>,
    pass: &'a mut Pass<B>,
    hooks: Hooks<'a>,
    has_read: bool,
}

impl<'a, B: Backend> Place<'a, B> {
    fn new(sae: &'a Sae<B>, pass: &'a mut Pass<B>, hooks: Hooks<'a>) -> Self {
        Place { sae, pass, hooks, has_read: false }
    }

    fn wants(&self, hook: &str) -> bool {
        hook == self.hooks.input || hook == self.hooks.output
    }

    /// Reads, where it is to; whether the reconstruction belongs here. Error: nothing was read before.
    fn read(&mut self, hook: &str, value: &B::Buffer<f32>, shape: &[usize]) -> Result<bool> {
        if hook == self.hooks.input {
            self.pass.set_context(shape[1]);
            self.pass.forward(self.sae, value, shape[0] * shape[1])?;
            self.has_read = true;
        }
        let is_output = hook == self.hooks.output;
        if is_output && !self.has_read {
            return Err(self.hooks.in_wrong_order());
        }
        Ok(is_output)
    }
}

/// Puts reconstructions in the place of activations.
struct Splice<'a, B: Backend> {
    at: Place<'a, B>,
    excluded: &'a [bool],
}

impl<B: Backend> Visitor<B> for Splice<'_, B> {
    fn wants(&self, hook: &str) -> bool {
        self.at.wants(hook)
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        if !self.at.read(hook, value, shape)? {
            return Ok(());
        }
        let d_out = self.at.sae.config().d_out();
        let mut first = 0;
        for run in self.excluded.chunk_by(|a, b| a == b) {
            if !run[0] {
                let from = self.at.pass.reconstruction();
                backend.copy(from, first * d_out, value, first * d_out, run.len() * d_out)?;
            }
            first += run.len();
        }
        Ok(())
    }
}

/// Puts zeros in the place of activations.
struct Ablate<'a> {
    hook: &'a str,
}

impl<B: Backend> Visitor<B> for Ablate<'_> {
    fn wants(&self, hook: &str) -> bool {
        hook == self.hook
    }

    fn visit(&mut self, backend: &B, _: &str, value: &mut B::Buffer<f32>, _: &[usize]) -> Result<()> {
        backend.fill(value, 0.0)
    }
}

/// Runs the SAE and leaves activations as they are.
struct Look<'a, B: Backend> {
    at: Place<'a, B>,
    x: Vec<f32>,
}

impl<B: Backend> Visitor<B> for Look<'_, B> {
    fn wants(&self, hook: &str) -> bool {
        self.at.wants(hook)
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        match self.at.read(hook, value, shape)? {
            true => backend.read(value, 0, &mut self.x),
            false => Ok(()),
        }
    }
}
