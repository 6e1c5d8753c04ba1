//! Generation: tokens are drawn one after another, each from the model's logits after all before it.
//! Keys and values are kept, so that a step costs one position; hooks can be read and edited at each.

use super::cache::Cache;
use super::forward::Forward;
use super::hooks::Visitor;
use super::model::LanguageModel;
use crate::backend::{Backend, SampleToken, Sampling};
use crate::error::{Error, Result};
use std::ops::ControlFlow;

/// When generation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens generated for each prompt.
    pub max_new_tokens: usize,
    /// Tokens that end a sequence, each part of it: usually `eos_token_id`.
    pub stop_tokens: Vec<u32>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `max_new_tokens` were generated.
    MaxNewTokens,
    /// A stop token came.
    StopToken,
    /// The model's context is full.
    Context,
    /// The caller had enough.
    Interrupted,
}

/// What was generated for one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, a stop token included.
    pub tokens: Vec<u32>,
    /// Why there are no more.
    pub end: End,
}

/// Several sequences of one length that grow together.
pub struct Generation<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    forward: Forward<B>,
    sequences: usize,
    drawn: B::Buffer<u32>,
    step: u64,
}

impl<'a, B: Backend> Generation<'a, B> {
    /// Buffers for `sequences` sequences of up to `room` tokens, that grow by at most `longest_run` at
    /// once (the length of the prompts). Error: `room` is more than the model's context.
    pub fn new(model: &'a LanguageModel<B>, sequences: usize, longest_run: usize, room: usize) -> Result<Self> {
        if room > model.config.n_ctx {
            let what = format!("{room} tokens, this model takes at most {}", model.config.n_ctx);
            return Err(Error::config("context_size", what));
        }
        let cache = Cache::new(model, sequences, room)?;
        let forward = Forward::with_cache(model, sequences, longest_run, Some(cache))?;
        Ok(Generation { model, forward, sequences, drawn: model.backend.zeros(sequences)?, step: 0 })
    }

    /// Runs the model on the next tokens `[sequences, T]` of all sequences and draws the token after
    /// them for each. The visitor sees the values of these positions only: `[sequences, T, …]`, patterns
    /// as `[sequences, H, T, past + T]`, and `logits`, from which the token is then drawn, as
    /// `[sequences, 1, V]`. Errors: there is no room for the tokens; logits are not numbers.
    pub fn next(&mut self, tokens: &[u32], sampling: Sampling, visitor: &mut dyn Visitor<B>) -> Result<Vec<u32>> {
        let (backend, d_vocab) = (&self.model.backend, self.model.config.d_vocab);
        let logits = self.forward.extend(self.model, tokens, visitor)?;
        let (rows, step, drawn) = (self.sequences, self.step, &mut self.drawn);
        backend.sample_token(SampleToken { logits, rows, d_vocab, sampling, step, tokens: drawn })?;
        self.step += 1;
        let drawn = backend.download(&self.drawn)?;
        match drawn.iter().position(|&token| token as usize == d_vocab) {
            Some(sequence) => Err(Error::NonFinite(format!("generate: sequence {sequence}'s logits are not numbers"))),
            None => Ok(drawn),
        }
    }
}

impl<B: Backend> LanguageModel<B> {
    /// Continues prompts of one length. `on_token(sequence, token)` gets every token as soon as it is
    /// there and may end all sequences. A prompt of `n_ctx` tokens gets one more. The tokens depend on
    /// the prompts, the settings and the seed alone. Errors: there is no prompt, one is empty, longer
    /// than the context or not as long as the first; a token is not in the vocabulary; a setting is out
    /// of its range; what the visitor returns.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: Sampling,
        limits: &Limits,
        visitor: &mut dyn Visitor<B>,
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>> {
        let length = self.prompt_length(prompts)?;
        // The last token is drawn but not run.
        let most = limits.max_new_tokens.min(self.config.n_ctx - length + 1);
        let end = if most < limits.max_new_tokens { End::Context } else { End::MaxNewTokens };
        let mut generated = vec![Generated { tokens: Vec::new(), end }; prompts.len()];
        if most == 0 {
            return Ok(generated);
        }
        let mut generation = Generation::new(self, prompts.len(), length, length + most - 1)?;
        let mut tokens = prompts.concat();
        let mut stopped = vec![false; prompts.len()];
        for _ in 0..most {
            tokens = generation.next(&tokens, sampling, visitor)?;
            for (sequence, &token) in tokens.iter().enumerate().filter(|(sequence, _)| !stopped[*sequence]) {
                generated[sequence].tokens.push(token);
                if on_token(sequence, token).is_break() {
                    generated.iter_mut().filter(|it| it.end != End::StopToken).for_each(|it| it.end = End::Interrupted);
                    return Ok(generated);
                }
                if limits.stop_tokens.contains(&token) {
                    generated[sequence].end = End::StopToken;
                }
            }
            for (stopped, generated) in stopped.iter_mut().zip(&generated) {
                *stopped = generated.end == End::StopToken;
            }
            if stopped.iter().all(|&stopped| stopped) {
                break;
            }
        }
        Ok(generated)
    }

    /// The prompts' one length.
    fn prompt_length(&self, prompts: &[Vec<u32>]) -> Result<usize> {
        let refuse = |what| Err(Error::Shape { operation: "generate", what });
        let Some(first) = prompts.first() else { return refuse("there is no prompt".to_string()) };
        let (length, n_ctx) = (first.len(), self.config.n_ctx);
        if length == 0 || length > n_ctx {
            return refuse(format!("a prompt has {length} tokens, expected 1 to {n_ctx}, the model's context"));
        }
        match prompts.iter().find(|prompt| prompt.len() != length) {
            Some(other) => {
                refuse(format!("prompts have {length} and {} tokens, expected all of one length", other.len()))
            }
            None => Ok(length),
        }
    }
}
