//! Generation with features changed: the SAE is spliced in with its error term, so that what the model
//! reads differs by the changed features' decoder rows and by nothing else.

use super::splice::{Change, FeatureEdit, Splice, Splices};
use crate::backend::{Backend, Sampling};
use crate::error::{Error, Result};
use crate::lm::{Generated, LanguageModel, Limits, Visitor};
use crate::sae::inference::Sae;
use std::ops::ControlFlow;

/// Where features are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Positions {
    /// At every token.
    All,
    /// At the tokens that are generated, not at the prompt's.
    Generated,
    /// At these positions, counted from the prompt's first token.
    These(Vec<usize>),
}

impl Positions {
    fn holds(&self, position: usize, prompt: usize) -> bool {
        match self {
            Positions::All => true,
            Positions::Generated => position >= prompt,
            Positions::These(positions) => positions.contains(&position),
        }
    }

    /// Error: the model never reads a position; it reads the prompt's and those of all new tokens but the last.
    pub fn check(&self, prompt: usize, max_new_tokens: usize) -> Result<()> {
        let Positions::These(positions) = self else { return Ok(()) };
        let read = prompt + max_new_tokens.saturating_sub(1);
        match positions.iter().find(|&&position| position >= read) {
            Some(position) => Err(Error::config(
                "positions",
                format!("{position}, expected less than {read}: {prompt} of the prompt and new tokens but the last"),
            )),
            None => Ok(()),
        }
    }
}

/// What is changed, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Steering {
    /// Features and their changes.
    pub changes: Vec<(u32, Change)>,
    /// Where.
    pub positions: Positions,
    /// Tokens of the prompt where nothing is changed, such as the first, on which SAEs are seldom trained.
    pub exclude_tokens: Vec<u32>,
}

/// Continues a prompt with features changed; otherwise as [`LanguageModel::generate`]. Errors: the SAE
/// does not fit the model; a feature or a position is not there.
pub fn steer<B: Backend>(
    model: &LanguageModel<B>,
    sae: &Sae<B>,
    prompt: &[u32],
    steering: &Steering,
    sampling: Sampling,
    limits: &Limits,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    let d_sae = sae.config().d_sae;
    if let Some((feature, _)) = steering.changes.iter().find(|(feature, _)| *feature as usize >= d_sae) {
        return Err(Error::config("feature", format!("{feature}, this SAE has features 0 to {}", d_sae - 1)));
    }
    if sae.config().architecture.temporal().is_some() {
        let what =
            "a temporal SAE needs the tokens before anew at each step of a generation; ablate runs whole prompts";
        return Err(Error::config("sae", what));
    }
    steering.positions.check(prompt.len(), limits.max_new_tokens)?;
    let splice = Splice::new(model, sae, true, prompt.len().max(1))?;
    let mut visitor = Steer { steering, prompt, past: 0, splice: [splice] };
    let mut on_token = |_, token| on_token(token);
    let mut generated = model.generate(&[prompt.to_vec()], sampling, limits, &mut visitor, &mut on_token)?;
    Ok(generated.remove(0))
}

/// Follows a generation: which positions the model is at is known from how many it has been through.
struct Steer<'s, 'a, B: Backend> {
    steering: &'s Steering,
    prompt: &'s [u32],
    past: usize,
    splice: [Splice<'a, B>; 1],
}

impl<B: Backend> Visitor<B> for Steer<'_, '_, B> {
    fn wants(&self, hook: &str) -> bool {
        self.splice[0].is_at(hook)
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        if hook == self.splice[0].hook() {
            self.splice[0].edits = self.edits(shape[1]);
            self.past += shape[1];
        }
        Splices { splices: &mut self.splice, visitor: &mut () }.visit(backend, hook, value, shape)
    }
}

impl<B: Backend> Steer<'_, '_, B> {
    /// The changes at the next `rows` positions.
    fn edits(&self, rows: usize) -> Vec<FeatureEdit> {
        let Steer { steering, prompt, past, .. } = self;
        let excluded =
            |position: usize| prompt.get(position).is_some_and(|token| steering.exclude_tokens.contains(token));
        let changed = |&row: &usize| steering.positions.holds(past + row, prompt.len()) && !excluded(past + row);
        let edits = |row| steering.changes.iter().map(move |&(feature, change)| FeatureEdit { row, feature, change });
        (0..rows).filter(changed).flat_map(edits).collect()
    }
}
