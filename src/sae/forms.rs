//! Other forms of the same SAE: other weights, by which it computes the same.

use super::config::{InferenceArchitecture, SaeConfig};
use super::weights::{HostTensor, Weights};
use crate::error::{Error, Result};

/// Takes b_dec from the input, or not, and moves the difference to the encoder's biases:
/// `(x - b_dec) W_enc + b = x W_enc + (b - b_dec W_enc)`. Not for transcoders, whose b_dec is of
/// another space.
pub fn set_apply_b_dec_to_input(config: &mut SaeConfig, weights: &mut Weights, subtract: bool) {
    if config.apply_b_dec_to_input == subtract {
        return;
    }
    config.apply_b_dec_to_input = subtract;
    let sign = if subtract { 1.0 } else { -1.0 };
    let (b_dec, w_enc) = (weights.get("b_dec"), weights.get("W_enc"));
    let mut shift = vec![0.0f64; config.d_sae];
    for (&b, row) in b_dec.values.iter().zip(w_enc.values.chunks_exact(config.d_sae)) {
        shift.iter_mut().zip(row).for_each(|(sum, &w)| *sum += sign * f64::from(b) * f64::from(w));
    }
    let r_mag = weights.find("r_mag").cloned();
    let add = |values: &mut [f32], gain: &dyn Fn(usize) -> f64| {
        for (latent, value) in values.iter_mut().enumerate() {
            *value = (f64::from(*value) + shift[latent] * gain(latent)) as f32;
        }
    };
    match r_mag {
        None => add(weights.values_mut("b_enc"), &|_| 1.0),
        Some(r_mag) => {
            add(weights.values_mut("b_gate"), &|_| 1.0);
            add(weights.values_mut("b_mag"), &|latent| f64::from(r_mag.values[latent]).exp());
        }
    }
}

/// Folds the decoder norms, where they take part in the features' values: on unit rows they do not.
pub fn without_rescaling(config: &mut SaeConfig, weights: &mut Weights) {
    use InferenceArchitecture::{AbsTopK, TopK};
    if config.architecture.rescales_by_decoder_norm() {
        weights.fold_w_dec_norm();
    }
    if let TopK { rescale_acts_by_decoder_norm, .. } | AbsTopK { rescale_acts_by_decoder_norm, .. } =
        &mut config.architecture
    {
        *rescale_acts_by_decoder_norm = false;
    }
}

/// Brings an SAE to JumpReLU form. Standard and gated SAEs compute the same afterwards, a gated one by
/// `π > 0 ⟺ m > b_mag - e^r_mag b_gate`. TopK's selection becomes one `threshold`, which only the mean
/// number of active latents can be chosen to keep. Errors: TopK without a threshold; AbsTopK, whose
/// features have signs.
pub fn to_jumprelu(config: &mut SaeConfig, weights: &mut Weights, threshold: Option<f32>) -> Result<()> {
    let d_sae = config.d_sae;
    let everywhere = |value: f32| HostTensor { shape: vec![d_sae], values: vec![value; d_sae] };
    let refuse = |what: &str| Err(Error::config("--to", what));
    let threshold = match config.architecture {
        InferenceArchitecture::JumpRelu => return Ok(()),
        InferenceArchitecture::Standard => everywhere(0.0),
        InferenceArchitecture::Gated => gate_as_threshold(weights, d_sae),
        InferenceArchitecture::TopK { .. } => {
            without_rescaling(config, weights);
            match threshold {
                Some(threshold) => everywhere(threshold),
                None => return refuse("a TopK SAE gets its JumpReLU threshold from activations; give --activations"),
            }
        }
        InferenceArchitecture::MatchingPursuit(_) => {
            return refuse("a matching pursuit SAE has no JumpReLU form: its features depend on one another");
        }
        InferenceArchitecture::Temporal(_) => {
            return refuse("a temporal SAE has no JumpReLU form: its features depend on the tokens before");
        }
        InferenceArchitecture::AbsTopK { .. } => {
            return refuse("an AbsTopK SAE has no JumpReLU form: its features have signs");
        }
    };
    weights.insert("threshold", threshold);
    config.architecture = InferenceArchitecture::JumpRelu;
    Ok(())
}

/// Brings the two paths of a gated SAE to one; gives the threshold of each latent.
fn gate_as_threshold(weights: &mut Weights, d_sae: usize) -> HostTensor {
    let of = |weights: &mut Weights, name: &str| weights.remove(name).map_or_else(Vec::new, |tensor| tensor.values);
    let [b_gate, b_mag, r_mag] = ["b_gate", "b_mag", "r_mag"].map(|name| of(weights, name));
    let gain: Vec<f64> = r_mag.iter().map(|&r| f64::from(r).exp()).collect();
    for row in weights.values_mut("W_enc").chunks_exact_mut(d_sae) {
        row.iter_mut().zip(&gain).for_each(|(w, gain)| *w = (f64::from(*w) * gain) as f32);
    }
    let threshold =
        b_mag.iter().zip(&b_gate).zip(&gain).map(|((&m, &g), gain)| (f64::from(m) - gain * f64::from(g)) as f32);
    let threshold = HostTensor { shape: vec![d_sae], values: threshold.collect() };
    weights.insert("b_enc", HostTensor { shape: vec![d_sae], values: b_mag });
    threshold
}
