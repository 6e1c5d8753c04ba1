//! `sample_token`: likelihoods as whole numbers, so that their sums are exact in any order.

use super::functions::exponentiate;
use super::*;
use crate::random::{Random, Stream};
use rayon::prelude::*;

/// The likelihood of the largest logit; all others are in proportion, rounded down.
const LARGEST: f32 = (1u64 << 40) as f32;

pub(super) fn run(op: SampleToken<'_, Cpu>) -> Result<()> {
    let SampleToken { logits, rows, d_vocab, sampling, step, tokens } = op;
    let rows = tokens[..rows].par_iter_mut().zip(logits.par_chunks_exact(d_vocab)).enumerate();
    rows.for_each(|(row, (token, logits))| {
        let [high, low, ..] = Random::block(sampling.seed, Stream::Sampling, row as u32, step);
        *token = choose(logits, sampling, u64::from(high) << 32 | u64::from(low)) as u32;
    });
    Ok(())
}

/// The token that 64 random bits choose; the number of tokens if there is none.
fn choose(logits: &[f32], Sampling { temperature, top_k, top_p, .. }: Sampling, random: u64) -> usize {
    // Adding 0 makes 0 of -0.
    let score = |&logit: &f32| if temperature == 0.0 { logit } else { logit / temperature } + 0.0;
    let number = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    let scores: Vec<f32> = logits.iter().map(|logit| number(score(logit))).collect();
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return logits.len();
    }
    if temperature == 0.0 {
        return scores.iter().position(|&score| score == largest).unwrap_or(logits.len());
    }
    let mut likelihoods = likelihoods(&scores, largest);
    if top_k > 0 && top_k < scores.len() {
        let mut sorted = scores.clone();
        let (_, &mut least, _) = sorted.select_nth_unstable_by(top_k - 1, |a, b| b.total_cmp(a));
        scores.iter().zip(&mut likelihoods).filter(|(&score, _)| score < least).for_each(|(_, mass)| *mass = 0);
    }
    if top_p < 1.0 {
        leave_out_tail(&scores, &mut likelihoods, top_p);
    }
    let total: u64 = likelihoods.iter().sum();
    let mut rest = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let falls_into = |&mass: &u64| rest.checked_sub(mass).map(|less| rest = less).is_none();
    likelihoods.iter().position(falls_into).unwrap_or(logits.len())
}

/// e^(score - largest) of all, in units of 2^-40.
fn likelihoods(scores: &[f32], largest: f32) -> Vec<u64> {
    let mut relative = scores.to_vec();
    exponentiate(&mut relative, 1.0);
    let whole = |(&score, &relative)| if score == largest { LARGEST as u64 } else { (relative * LARGEST) as u64 };
    scores.iter().zip(&relative).map(whole).collect()
}

/// Sets the smallest likelihoods to 0 as long as they are at most `1 - top_p` of all together; of equal
/// scores that of the larger token first.
fn leave_out_tail(scores: &[f32], likelihoods: &mut [u64], top_p: f32) {
    let total: u64 = likelihoods.iter().sum();
    let most = (((1.0 - f64::from(top_p)) * total as f64) as u64).min(total - 1);
    let mut order: Vec<usize> = (0..scores.len()).filter(|&token| likelihoods[token] > 0).collect();
    order.sort_unstable_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
    let mut left_out = 0;
    for token in order {
        left_out += likelihoods[token];
        if left_out > most {
            return;
        }
        likelihoods[token] = 0;
    }
}
