//! Initial weights, as SAELens makes them (`sae.py: initialize_weights`).

use super::weights::{HostTensor, Weights};
use crate::random::{Random, Stream};
use rayon::prelude::*;

/// Rows that a thread makes at least.
const LATENTS: usize = 64;

/// `W_dec` from torch's `kaiming_uniform_` (uniform in ±sqrt(6 / d_in)), its rows brought to
/// `decoder_init_norm` unless that is none; `W_enc = W_decᵀ`, a copy; b_dec 0,
/// and `vectors` of one number for each latent.
pub fn initial_weights(
    [d_in, d_sae]: [usize; 2],
    vectors: &[(&str, f32)],
    decoder_init_norm: Option<f32>,
    seed: u64,
) -> Weights {
    let bound = (6.0 / d_in as f32).sqrt();
    let mut w_dec = HostTensor { shape: vec![d_sae, d_in], values: vec![0.0; d_sae * d_in] };
    w_dec.values.par_chunks_mut(d_in).with_min_len(LATENTS).enumerate().for_each(|(latent, row)| {
        Random::at(seed, Stream::Weights, 0, (latent * d_in) as u64).fill_uniform(row);
        row.iter_mut().for_each(|x| *x = (*x * 2.0 - 1.0) * bound);
        if let Some(wanted) = decoder_init_norm {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() as f32;
            row.iter_mut().for_each(|x| *x *= wanted / norm);
        }
    });
    let mut weights = Weights::default();
    weights.insert("W_enc", w_dec.transposed());
    for &(name, value) in vectors {
        weights.insert(name, HostTensor { shape: vec![d_sae], values: vec![value; d_sae] });
    }
    weights.insert("W_dec", w_dec);
    weights.insert("b_dec", HostTensor { shape: vec![d_in], values: vec![0.0; d_in] });
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_rows_have_the_norm_asked_for_and_the_encoder_is_its_transpose() {
        let weights = initial_weights([16, 40], &[("b_enc", 0.0)], Some(0.1), 3);
        let (w_enc, w_dec) = (&weights.get("W_enc").values, &weights.get("W_dec").values);
        for (latent, row) in w_dec.chunks_exact(16).enumerate() {
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((norm - 0.1).abs() < 1e-6, "{norm}");
            assert!((0..16).all(|d| w_enc[d * 40 + latent] == row[d]));
        }
    }

    #[test]
    fn without_a_norm_the_rows_are_kaiming_uniform() {
        let weights = initial_weights([24, 4000], &[], None, 3);
        let values = &weights.get("W_dec").values;
        let bound = 0.5; // sqrt(6 / 24)
        assert!(values.iter().all(|x| x.abs() <= bound));
        let variance = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
        // A uniform variable's variance is bound² / 3; 96,000 samples give it to about 0.3 %.
        assert!((variance / (bound * bound / 3.0) - 1.0).abs() < 0.02, "{variance}");
    }
}
