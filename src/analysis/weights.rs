//! What a feature is by its weights alone: the tokens that its decoder row makes likely, the features
//! that point the same way, and how far encoder and decoder agree.

use crate::backend::Backend;
use crate::error::Result;
use crate::lm::LanguageModel;
use crate::sae::inference::Sae;
use crate::sae::similarity::cosines;
use rayon::prelude::*;
use serde::Serialize;

/// Features at a time: the logits of so many are in memory together.
const CHUNK: usize = 256;

/// Bins of a histogram of logits.
const BINS: usize = 50;

/// Every feature by its weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightStatistics {
    /// Tokens that one unit of the feature makes more likely, the strongest first, with the change of
    /// their logit but for the final LayerNorm's scale: `W_dec · W_U`, the direction centred and LayerNorm's
    /// gain included. Empty where the SAE's values are not part of the residual stream.
    pub top_tokens: Vec<Vec<(u32, f32)>>,
    /// Tokens that it makes less likely, the strongest first.
    pub bottom_tokens: Vec<Vec<(u32, f32)>>,
    /// The change of the logits of the whole vocabulary; empty as above.
    pub logit_histogram: Vec<LogitHistogram>,
    /// Features with the most similar decoder rows, by cosine.
    pub decoder_neighbours: Vec<Vec<(u32, f32)>>,
    /// Length of the decoder row.
    pub decoder_norm: Vec<f32>,
    /// Cosine of the feature's encoder column and decoder row; empty where their widths differ.
    pub encoder_decoder_cosine: Vec<f32>,
}

/// Logits in bins of equal width.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogitHistogram {
    /// The smallest.
    pub from: f32,
    /// The largest.
    pub to: f32,
    /// How many are in each bin.
    pub counts: Vec<u32>,
}

impl LogitHistogram {
    fn of(logits: &[f32]) -> Self {
        let (from, to) = logits.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        let mut counts = vec![0; BINS];
        let per_unit = BINS as f32 / (to - from).max(f32::MIN_POSITIVE);
        logits.iter().for_each(|x| counts[(((x - from) * per_unit) as usize).min(BINS - 1)] += 1);
        LogitHistogram { from, to, counts }
    }
}

/// Computes them: `tokens` tokens at each end, `neighbours` neighbours.
pub fn weight_statistics<B: Backend>(
    model: &LanguageModel<B>,
    sae: &Sae<B>,
    tokens: usize,
    neighbours: usize,
) -> Result<WeightStatistics> {
    let (d_in, d_out, d_sae) = (sae.config().d_in, sae.config().d_out(), sae.config().d_sae);
    let weights = sae.weights()?;
    let (encoder, w_dec) = (weights.encoder(), &weights.get("W_dec").values);
    let w_enc = &encoder.values;
    let decoder_norm: Vec<f32> = w_dec.par_chunks_exact(d_out).map(norm).collect();
    let comparable = if d_in == d_out { d_sae } else { 0 };
    let encoder_decoder_cosine = (0..comparable)
        .into_par_iter()
        .map(|feature| {
            let column: Vec<f32> = (0..d_in).map(|i| w_enc[i * d_sae + feature]).collect();
            cosine(&column, &w_dec[feature * d_out..][..d_out])
        })
        .collect();
    let mut found = WeightStatistics { decoder_norm, encoder_decoder_cosine, ..WeightStatistics::default() };
    let wanted = neighbours.min(d_sae - 1);
    cosines(sae.backend(), w_dec, d_out, &mut |_, cosines| {
        found.decoder_neighbours.par_extend(cosines.par_chunks_exact(d_sae).map(|row| largest(row, wanted, 1.0)));
        Ok(())
    })?;
    if super::attribute::reaches_the_end(crate::eval::hooks_of(model, sae)?.output) {
        let (d_vocab, tokens) = (model.config().d_vocab, tokens.min(model.config().d_vocab));
        for rows in w_dec.chunks(CHUNK * d_out) {
            let logits = model.logit_lens(rows)?;
            let of_row = logits.par_chunks_exact(d_vocab);
            found.top_tokens.par_extend(of_row.clone().map(|row| largest(row, tokens, 1.0)));
            found.logit_histogram.par_extend(of_row.clone().map(LogitHistogram::of));
            found.bottom_tokens.par_extend(of_row.map(|row| largest(row, tokens, -1.0)));
        }
    }
    Ok(found)
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt() as f32
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
    let norms = f64::from(norm(a)) * f64::from(norm(b));
    if norms > 0.0 {
        (dot / norms) as f32
    } else {
        0.0
    }
}

/// The `n` largest of `sign * values`, the largest first, of equal ones the earlier.
pub(super) fn largest(values: &[f32], n: usize, sign: f32) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
    for (at, &value) in values.iter().enumerate() {
        let is_beaten = |&(_, other): &(u32, f32)| (sign * value).total_cmp(&(sign * other)).is_gt();
        // One pass: of many values few get this far.
        if best.len() < n || best.last().is_some_and(is_beaten) {
            let place = best.partition_point(|it| !is_beaten(it));
            best.insert(place, (at as u32, value));
            best.truncate(n);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_and_smallest_come_in_order_ties_to_the_earlier() {
        let values = [0.5, -2.0, 3.0, 3.0, 0.0];
        assert_eq!(largest(&values, 3, 1.0), [(2, 3.0), (3, 3.0), (0, 0.5)]);
        assert_eq!(largest(&values, 2, -1.0), [(1, -2.0), (4, 0.0)]);
        assert_eq!(largest(&values, 9, 1.0).len(), 5);
    }
}
