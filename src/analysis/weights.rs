//! What a feature is by its weights alone: the tokens that its decoder row makes likely, the features
//! that point the same way, and how far encoder and decoder agree.

use crate::backend::{ActivationFunction, Backend, Linear};
use crate::error::Result;
use crate::lm::LanguageModel;
use crate::sae::inference::Sae;
use rayon::prelude::*;

/// Features at a time: the logits of so many are in memory together.
const CHUNK: usize = 256;

/// Every feature by its weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightStatistics {
    /// Tokens that one unit of the feature makes more likely, the strongest first, with the change of
    /// their logit but for the final LayerNorm's scale: `W_dec · W_U`, the direction centred and LayerNorm's
    /// gain included. Empty where the SAE's values are not part of the residual stream.
    pub top_tokens: Vec<Vec<(u32, f32)>>,
    /// Tokens that it makes less likely, the strongest first.
    pub bottom_tokens: Vec<Vec<(u32, f32)>>,
    /// Features with the most similar decoder rows, by cosine.
    pub decoder_neighbours: Vec<Vec<(u32, f32)>>,
    /// Length of the decoder row.
    pub decoder_norm: Vec<f32>,
    /// Cosine of the feature's encoder column and decoder row.
    pub encoder_decoder_cosine: Vec<f32>,
}

/// Computes them: `tokens` tokens at each end, `neighbours` neighbours.
pub fn weight_statistics<B: Backend>(
    model: &LanguageModel<B>,
    sae: &Sae<B>,
    tokens: usize,
    neighbours: usize,
) -> Result<WeightStatistics> {
    let (d_in, d_sae) = (sae.config().d_in, sae.config().d_sae);
    let weights = sae.weights()?;
    let (w_enc, w_dec) = (&weights.get("W_enc").values, &weights.get("W_dec").values);
    let decoder_norm: Vec<f32> = w_dec.par_chunks_exact(d_in).map(norm).collect();
    let encoder_decoder_cosine = (0..d_sae)
        .into_par_iter()
        .map(|feature| {
            let column: Vec<f32> = (0..d_in).map(|i| w_enc[i * d_sae + feature]).collect();
            cosine(&column, &w_dec[feature * d_in..][..d_in])
        })
        .collect();
    let unit: Vec<f32> = w_dec
        .par_chunks_exact(d_in)
        .zip(&decoder_norm)
        .flat_map_iter(|(row, &norm)| row.iter().map(move |x| if norm > 0.0 { x / norm } else { 0.0 }))
        .collect();
    let mut found = WeightStatistics { decoder_norm, encoder_decoder_cosine, ..WeightStatistics::default() };

    let backend = sae.backend();
    let all = backend.upload(&unit)?;
    let in_stream = super::attribute::reaches_the_end(crate::eval::hook_of(model, sae)?);
    for (number, chunk) in unit.chunks(CHUNK * d_in).enumerate() {
        let rows = chunk.len() / d_in;
        let mut cosines = backend.zeros(rows * d_sae)?;
        backend.linear(Linear {
            x: &backend.upload(chunk)?,
            w: &all,
            w_is_transposed: true,
            bias: None,
            function: ActivationFunction::Identity,
            residual: None,
            rows,
            d_input: d_in,
            d_output: d_sae,
            out: &mut cosines,
        })?;
        let mut cosines = backend.download(&cosines)?;
        for (row, of_row) in cosines.chunks_exact_mut(d_sae).enumerate() {
            of_row[number * CHUNK + row] = f32::NEG_INFINITY;
        }
        let wanted = neighbours.min(d_sae - 1);
        found.decoder_neighbours.par_extend(cosines.par_chunks_exact(d_sae).map(|row| largest(row, wanted, 1.0)));
        if in_stream {
            let first = number * CHUNK * d_in;
            let logits = model.logit_lens(&w_dec[first..first + chunk.len()])?;
            let d_vocab = model.config().d_vocab;
            let (of_row, tokens) = (logits.par_chunks_exact(d_vocab), tokens.min(d_vocab));
            found.top_tokens.par_extend(of_row.clone().map(|row| largest(row, tokens, 1.0)));
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
fn largest(values: &[f32], n: usize, sign: f32) -> Vec<(u32, f32)> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    let by_size = |&a: &u32, &b: &u32| {
        let (x, y) = (sign * values[a as usize], sign * values[b as usize]);
        y.total_cmp(&x).then(a.cmp(&b))
    };
    if n < order.len() {
        order.select_nth_unstable_by(n, by_size);
        order.truncate(n);
    }
    order.sort_unstable_by(by_size);
    order.into_iter().map(|at| (at, values[at as usize])).collect()
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
