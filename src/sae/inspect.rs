//! What can be said of an SAE from its weights alone: whether they can do what its config says.

use super::config::{InferenceArchitecture, SaeConfig};
use super::weights::Weights;
use serde::Serialize;

/// SAELens' `log10(0 + 1e-10)`: a latent that never fired, within a rounding of f32.
const NEVER: f32 = -9.99;

/// Relative difference of L0 from the sum of its parts that logarithms in f32 explain.
const ROUNDING: f64 = 1e-3;

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is as it must be.
    pub passed: bool,
    /// What was found.
    pub found: String,
}

/// Looks at weights that have the shapes of their config. A latent that can never be active, or whose
/// activity changes nothing, is dead weight and named, but not wrong.
pub fn inspect(config: &SaeConfig, weights: &Weights, log_sparsity: Option<&[f32]>) -> Vec<Check> {
    let mut checks =
        vec![finite(weights), decoder_norms(config, weights), encoder(config, weights), claimed_sizes(config)];
    if config.architecture == InferenceArchitecture::JumpRelu {
        checks.push(thresholds(weights));
    }
    if let Some(log_sparsity) = log_sparsity {
        checks.push(sparsity(config, log_sparsity));
    }
    checks
}

fn check(name: &'static str, passed: bool, found: impl Into<String>) -> Check {
    Check { name, passed, found: found.into() }
}

fn finite(weights: &Weights) -> Check {
    let values: usize = weights.iter().map(|(_, tensor)| tensor.values.len()).sum();
    match weights.find_non_finite() {
        None => check("finite values", true, format!("{values} values in {} tensors", weights.iter().count())),
        Some((name, at)) => check("finite values", false, format!("value {at} of {name} is not finite")),
    }
}

fn decoder_norms(config: &SaeConfig, weights: &Weights) -> Check {
    let norms = weights.decoder_norms();
    let zero = norms.iter().filter(|&&norm| norm <= 1e-8).count();
    let least = norms.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = norms.iter().copied().fold(0.0, f32::max);
    let dead = if zero > 0 { format!("; {zero} latents write nothing") } else { String::new() };
    // Divided by their norm, rows of zeros would be read as noise.
    let passed = zero == 0 || !config.architecture.rescales_by_decoder_norm();
    check("decoder norms", passed && zero < norms.len(), format!("from {least:.4} to {largest:.4}{dead}"))
}

fn encoder(config: &SaeConfig, weights: &Weights) -> Check {
    let mut blind = vec![true; config.d_sae];
    for row in weights.encoder().values.chunks_exact(config.d_sae) {
        row.iter().zip(&mut blind).filter(|(&w, _)| w != 0.0).for_each(|(_, blind)| *blind = false);
    }
    let blind = blind.iter().filter(|&&blind| blind).count();
    check("encoder", blind < config.d_sae, format!("{blind} of {} latents read nothing", config.d_sae))
}

/// Sizes that the notes repeat.
fn claimed_sizes(config: &SaeConfig) -> Check {
    let claims = [("d_in", config.d_in), ("d_sae", config.d_sae)];
    let other = claims.iter().find_map(|&(key, found)| {
        let said = config.metadata.get(key)?.as_u64()?;
        (said != found as u64).then(|| format!("metadata says {key} = {said}, the weights have {found}"))
    });
    let hook = config.hook_name().map_or("no hook is named".into(), |hook| format!("for {hook}"));
    check("config and weights", other.is_none(), other.unwrap_or(hook))
}

fn thresholds(weights: &Weights) -> Check {
    let values = &weights.get("threshold").values;
    let (least, largest) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    let below = values.iter().filter(|&&threshold| threshold < 0.0).count();
    // A threshold below 0 is one at 0: the ReLU is there as well.
    check("thresholds", true, format!("from {least:.4} to {largest:.4}, {below} below 0"))
}

/// How many latents are dead in the file is not compared with how many the training calls dead: the file counts
/// since the last `feature_sampling_window` began, the other over the last `dead_feature_window`.
fn sparsity(config: &SaeConfig, log_sparsity: &[f32]) -> Check {
    let dead = log_sparsity.iter().filter(|&&log| log <= NEVER).count();
    let l0: f64 = log_sparsity.iter().map(|&log| 10f64.powf(f64::from(log))).sum();
    let found = format!("{dead} latents did not fire, L0 {l0:.2}");
    if let Some(log) = log_sparsity.iter().find(|log| !(-10.001..=0.001).contains(*log)) {
        return check("sparsity.safetensors", false, format!("{found}; {log} is the logarithm of no share of tokens"));
    }
    let claimed = config.metadata.get("l0").and_then(serde_json::Value::as_f64);
    match claimed.filter(|claimed| (claimed - l0).abs() > ROUNDING * claimed.max(1.0)) {
        Some(claimed) => check("sparsity.safetensors", false, format!("{found}; cfg.json says l0 = {claimed:.2}")),
        None => check("sparsity.safetensors", true, found),
    }
}
