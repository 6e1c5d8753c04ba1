//! Metrics of single features that only need the weights.

use super::report::FeatureMetrics;
use crate::sae::weights::Weights;

/// Norms, biases and cosines of every feature; the metrics of activations are left empty.
pub(super) fn weight_metrics(weights: &Weights) -> FeatureMetrics {
    let (w_enc, w_dec) = (weights.encoder(), weights.get("W_dec"));
    let [d_sae, d_out] = w_dec.shape[..] else { unreachable!("the SAE was made with a [d_sae, d_out] decoder") };
    let (mut enc_enc, mut dec_dec, mut enc_dec) = (vec![0.0f64; d_sae], vec![0.0f64; d_sae], vec![0.0f64; d_sae]);
    let is_of_one_width = w_enc.shape[0] == d_out;
    for (dimension, row) in w_enc.values.chunks_exact(d_sae).enumerate() {
        for (latent, &e) in row.iter().enumerate() {
            let e = f64::from(e);
            // Vectors of two widths have no cosine.
            let d = if is_of_one_width { w_dec.values[latent * d_out + dimension].into() } else { f64::NAN };
            enc_enc[latent] += e * e;
            dec_dec[latent] += d * d;
            enc_dec[latent] += e * d;
        }
    }
    let norms = enc_enc.iter().zip(&dec_dec);
    FeatureMetrics {
        feature_density: Vec::new(),
        consistent_activation_heuristic: Vec::new(),
        encoder_norm: enc_enc.iter().map(|square| square.sqrt()).collect(),
        encoder_decoder_cosine_sim: enc_dec.iter().zip(norms).map(|(dot, (e, d))| dot / (e * d).sqrt()).collect(),
        encoder_bias: weights.find("b_enc").iter().flat_map(|bias| &bias.values).map(|&b| b.into()).collect(),
    }
}
