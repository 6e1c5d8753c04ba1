//! What the model loses without a feature: runs with features set to zero next to the run with all of
//! them.

use super::features::FeatureReader;
use super::splice::{Change, FeatureEdit, Splice, Splices};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::lm::{Forward, LanguageModel};
use crate::sae::inference::Sae;
use std::collections::BTreeSet;

/// Tokens that one run takes at most: more sequences than that do not make a run any faster.
const ROWS_IN_A_RUN: usize = 2048;

/// What to set to zero, and what to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct AblationRequest {
    /// The features; none: every one that is active where they are set to zero.
    pub features: Option<Vec<u32>>,
    /// The position where; none: at all positions.
    pub position: Option<usize>,
    /// The token whose logit and probability after the last position are looked at.
    pub target: u32,
    /// Whether the SAE's error is kept, so that nothing but the features changes.
    pub use_error_term: bool,
    /// Tokens that pass the SAE by: nothing is set to zero there, and the model keeps its own activation.
    pub exclude_tokens: Vec<u32>,
}

impl AblationRequest {
    /// Whether each token passes the SAE by.
    fn excluded(&self, tokens: &[u32]) -> Vec<bool> {
        tokens.iter().map(|token| self.exclude_tokens.contains(token)).collect()
    }
}

/// How the model does on the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// The target's logit after the last token.
    pub logit: f64,
    /// The target's probability there.
    pub probability: f64,
    /// Mean cross-entropy of the prompt's tokens but the first, in nats; NaN for a prompt of one.
    pub loss: f64,
}

/// The outcome without one feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ablation {
    /// Which feature was set to zero.
    pub feature: u32,
    /// Its largest activation at the positions in question.
    pub activation: f32,
    /// What came of it.
    pub outcome: Outcome,
}

/// All runs of an ablation.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    /// The model itself.
    pub model: Outcome,
    /// With the SAE spliced in and nothing set to zero.
    pub sae: Outcome,
    /// With all the features set to zero together.
    pub together: Outcome,
    /// With each alone, the largest fall of the target's logit first.
    pub each: Vec<Ablation>,
}

/// Runs the prompt with the features set to zero, each alone and all together. Errors: the SAE does not
/// fit the model; a feature, position or token is not there.
pub fn ablate<B: Backend>(
    model: &LanguageModel<B>,
    sae: &Sae<B>,
    tokens: &[u32],
    request: &AblationRequest,
) -> Result<Effects> {
    check(model, sae, tokens, request)?;
    let features = FeatureReader::new(model, sae, 1, tokens.len())?.read(tokens)?;
    let excluded = request.excluded(tokens);
    let asked = request.position.map_or(0..tokens.len(), |position| position..position + 1);
    let rows: Vec<usize> = asked.filter(|&row| !excluded[row]).collect();
    let active: BTreeSet<u32> = rows.iter().flat_map(|&row| features.row(row).0).copied().collect();
    // Each once, however often it is asked for.
    let asked: Option<BTreeSet<u32>> = request.features.as_ref().map(|features| features.iter().copied().collect());
    let wanted: Vec<u32> = asked.unwrap_or(active).into_iter().collect();
    let largest = |feature: u32| {
        let of_row = |&row: &usize| {
            let (indices, values) = features.row(row);
            indices.iter().position(|&found| found == feature).map_or(0.0, |at| values[at])
        };
        rows.iter().map(of_row).fold(0.0, f32::max)
    };

    // Run 0 changes nothing, run 1 everything, the others one feature each.
    let sets: Vec<&[u32]> = [&[][..], &wanted[..]].into_iter().chain(wanted.chunks(1)).collect();
    let mut runs = Runs::new(model, sae, tokens, request)?;
    let mut outcomes = Vec::with_capacity(sets.len());
    for chunk in sets.chunks(runs.forward.max_sequences()) {
        outcomes.extend(runs.run(chunk, &rows)?);
    }
    let alone = wanted.iter().zip(&outcomes[2..]);
    let mut each: Vec<Ablation> =
        alone.map(|(&feature, &outcome)| Ablation { feature, activation: largest(feature), outcome }).collect();
    each.sort_by(|a, b| a.outcome.logit.total_cmp(&b.outcome.logit).then(a.feature.cmp(&b.feature)));
    Ok(Effects { model: runs.clean(sets.len())?, sae: outcomes[0], together: outcomes[1], each })
}

fn check<B: Backend>(model: &LanguageModel<B>, sae: &Sae<B>, tokens: &[u32], request: &AblationRequest) -> Result<()> {
    let (d_sae, d_vocab) = (sae.config().d_sae, model.config().d_vocab);
    if let Some(feature) = request.features.iter().flatten().find(|&&feature| feature as usize >= d_sae) {
        return Err(Error::config("feature", format!("{feature}, this SAE has features 0 to {}", d_sae - 1)));
    }
    if let Some(position) = request.position.filter(|&position| position >= tokens.len()) {
        return Err(Error::config("position", format!("{position}, the prompt has {} tokens", tokens.len())));
    }
    if request.target as usize >= d_vocab {
        return Err(Error::config("target", format!("token id {}, the vocabulary has {d_vocab}", request.target)));
    }
    Ok(())
}

/// Copies of the prompt that run together, each with its own features set to zero.
struct Runs<'a, B: Backend> {
    model: &'a LanguageModel<B>,
    tokens: &'a [u32],
    target: usize,
    forward: Forward<B>,
    splice: Splice<'a, B>,
}

impl<'a, B: Backend> Runs<'a, B> {
    fn new(model: &'a LanguageModel<B>, sae: &'a Sae<B>, tokens: &'a [u32], request: &AblationRequest) -> Result<Self> {
        let sequences = (ROWS_IN_A_RUN / tokens.len()).max(1);
        let mut splice = Splice::new(model, sae, request.use_error_term, sequences * tokens.len())?;
        splice.excluded = request.excluded(tokens).repeat(sequences);
        let forward = model.forward(sequences, tokens.len())?;
        Ok(Runs { model, tokens, target: request.target as usize, forward, splice })
    }

    /// Outcome for every set of features.
    fn run(&mut self, sets: &[&[u32]], rows: &[usize]) -> Result<Vec<Outcome>> {
        let context = self.tokens.len();
        self.splice.edits.clear();
        for (sequence, set) in sets.iter().enumerate() {
            let zero =
                |(&feature, &row)| FeatureEdit { row: sequence * context + row, feature, change: Change::Set(0.0) };
            let pairs = set.iter().flat_map(|feature| rows.iter().map(move |row| (feature, row)));
            self.splice.edits.extend(pairs.map(zero));
        }
        let splices = std::slice::from_mut(&mut self.splice);
        let copies = self.tokens.repeat(sets.len());
        self.forward.run(self.model, &copies, &mut Splices { splices, visitor: &mut () }, None)?;
        self.outcomes(sets.len())
    }

    /// Outcome of the model itself; run with as many copies as the others, so that its products are rounded
    /// as theirs.
    fn clean(&mut self, sets: usize) -> Result<Outcome> {
        let copies = self.tokens.repeat(sets.min(self.forward.max_sequences()));
        self.forward.run(self.model, &copies, &mut (), None)?;
        Ok(self.outcomes(copies.len() / self.tokens.len())?[0])
    }

    fn outcomes(&mut self, sequences: usize) -> Result<Vec<Outcome>> {
        let (context, d_vocab) = (self.tokens.len(), self.model.config().d_vocab);
        let last: Vec<usize> = (1..=sequences).map(|sequence| sequence * context - 1).collect();
        let logits = self.forward.logits_of_rows(self.model, &last)?;
        let losses = self.forward.loss_per_token(self.model)?;
        let outcome = |sequence: usize| {
            let logits = &logits[sequence * d_vocab..(sequence + 1) * d_vocab];
            let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let sum: f64 = logits.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
            let logit = f64::from(logits[self.target]);
            let losses = &losses[sequence * (context - 1)..(sequence + 1) * (context - 1)];
            let loss = losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len() as f64;
            Outcome { logit, probability: (logit - largest).exp() / sum, loss }
        };
        Ok((0..sequences).map(outcome).collect())
    }
}
