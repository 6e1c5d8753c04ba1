//! An SAE that nobody trained: its weights are sines, which are neither symmetric nor alike.

use cusae::sae::config::{InferenceArchitecture, SaeConfig};
use cusae::sae::temporal::TemporalConfig;
use cusae::sae::weights::{HostTensor, Weights};

/// A temporal SAE for blocks.2.hook_resid_pre of the embedded model: of 64 latents a token has 8.
pub fn temporal() -> (SaeConfig, Weights) {
    let temporal = TemporalConfig {
        n_heads: 2,
        n_attn_layers: 1,
        bottleneck_factor: 4,
        k: Some(8),
        tied_weights: true,
        activation_normalization_factor: None,
    };
    let mut config = SaeConfig::new(InferenceArchitecture::Temporal(temporal), 128, 64);
    config.set_hook("blocks.2.hook_resid_pre");
    config.metadata.insert("model_name".into(), "embedded".into());
    let mut weights = Weights::default();
    for (name, shape) in config.tensors() {
        let values = (0..shape.iter().product()).map(|i: usize| ((i + name.len()) as f32 * 0.7).sin() * 0.3).collect();
        weights.insert(&name, HostTensor { shape, values });
    }
    (config, weights)
}
