//! An evaluation in SAEBench's layout of its core metrics (`CoreEvalOutput`, as its `eval_results/core` files
//! hold it). SAEBench writes NaN, which is no JSON, where there is nothing to take a mean of; here it is 0.

use super::report::{FeatureMetrics, Report};
use super::EvalConfig;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::formats::saelens::cfg;
use crate::sae::inference::Sae;
use crate::sae::similarity::cosines;
use serde_json::{json, Map, Value};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// What was evaluated, for the file.
pub struct Subject<'a> {
    /// The SAE as the user named it.
    pub name: &'a str,
    /// The model as the user named it.
    pub model: &'a str,
    /// The text.
    pub dataset: &'a str,
    /// Tokens in a row.
    pub context_size: usize,
}

/// The file's JSON. Error: the report lacks the metrics of single features.
pub fn core<B: Backend>(report: &Report, sae: &Sae<B>, config: &EvalConfig, subject: &Subject) -> Result<Value> {
    let features = report.feature_metrics.as_ref().ok_or_else(|| {
        Error::config("featurewise", "false, and SAEBench's file holds the metrics of single features")
    })?;
    let weights = sae.weights()?;
    let (w_enc, w_dec) = (weights.encoder().transposed(), weights.get("W_dec"));
    let encoder = largest_cosines(sae.backend(), &w_enc.values, sae.config().d_in)?;
    let decoder = largest_cosines(sae.backend(), &w_dec.values, sae.config().d_out())?;
    let bias: Vec<f64> = match weights.find("b_mag") {
        Some(bias) => bias.values.iter().map(|&x| x.into()).collect(),
        None => features.encoder_bias.clone(),
    };
    Ok(json!({
        "eval_type_id": "core",
        "eval_config": eval_config(config, subject),
        "eval_id": random_uuid(),
        "datetime_epoch_millis": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64),
        "eval_result_metrics": metrics(report, features, &encoder, &decoder),
        "eval_result_details": details(features, &bias, &encoder, &decoder),
        "sae_bench_commit_hash": format!("cusae {}", env!("CARGO_PKG_VERSION")),
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": subject.name,
        "sae_lens_version": null,
        "sae_cfg_dict": cfg::to_json(sae.config(), false),
        "eval_result_unstructured": {},
    }))
}

fn eval_config(config: &EvalConfig, subject: &Subject) -> Value {
    json!({
        "model_name": subject.model,
        "llm_dtype": "float32",
        "batch_size_prompts": config.batch_size_prompts,
        "n_eval_reconstruction_batches": config.n_eval_reconstruction_batches,
        "n_eval_sparsity_variance_batches": config.n_eval_sparsity_variance_batches,
        "dataset": subject.dataset,
        "context_size": subject.context_size,
        "compute_kl": true,
        "compute_ce_loss": true,
        "compute_l2_norms": true,
        "compute_sparsity_metrics": true,
        "compute_variance_metrics": true,
        "compute_featurewise_density_statistics": true,
        "compute_featurewise_weight_based_metrics": true,
        "exclude_special_tokens_from_reconstruction": !config.exclude_tokens.is_empty(),
        "verbose": false,
    })
}

fn metrics(report: &Report, features: &FeatureMetrics, encoder: &[f64], decoder: &[f64]) -> Value {
    let mut groups: Map<String, Value> = Map::new();
    for (group, key, value) in report.scalars() {
        // Not a metric of SAEBench.
        if key == "dead_features" {
            continue;
        }
        let value = if group == "token_stats" { json!(value as u64) } else { json!(number(value)) };
        groups.entry(group).or_insert_with(|| json!({}))[key] = value;
    }
    groups.insert("misc_metrics".into(), misc(&features.feature_density, encoder, decoder));
    Value::Object(groups)
}

fn misc(densities: &[f64], encoder: &[f64], decoder: &[f64]) -> Value {
    let mean = |values: &[f64]| number(values.iter().sum::<f64>() / values.len() as f64);
    let total: f64 = densities.iter().sum();
    let share = |above: f64| densities.iter().filter(|&&x| x > above).count() as f64 / densities.len() as f64;
    let weight = |above: f64| number(densities.iter().filter(|&&x| x > above).sum::<f64>() / total);
    json!({
        "freq_over_1_percent": share(0.01),
        "freq_over_10_percent": share(0.1),
        "normalized_freq_over_1_percent": weight(0.01),
        "normalized_freq_over_10_percent": weight(0.1),
        "average_max_encoder_cosine_sim": mean(encoder),
        "average_max_decoder_cosine_sim": mean(decoder),
        "frac_alive": share(0.0),
    })
}

fn details(features: &FeatureMetrics, bias: &[f64], encoder: &[f64], decoder: &[f64]) -> Vec<Value> {
    let of_feature = |feature: usize| {
        json!({
            "index": feature,
            "feature_density": number(features.feature_density[feature]),
            "consistent_activation_heuristic": number(features.consistent_activation_heuristic[feature]),
            "encoder_bias": bias.get(feature).copied().unwrap_or(0.0),
            "encoder_norm": number(features.encoder_norm[feature]),
            "encoder_decoder_cosine_sim": number(features.encoder_decoder_cosine_sim[feature]),
            "max_decoder_cosine_sim": decoder[feature],
            "max_encoder_cosine_sim": encoder[feature],
        })
    };
    (0..encoder.len()).map(of_feature).collect()
}

/// Every row's largest cosine with another row.
fn largest_cosines<B: Backend>(backend: &B, matrix: &[f32], width: usize) -> Result<Vec<f64>> {
    let rows = matrix.len() / width;
    let mut largest = Vec::with_capacity(rows);
    cosines(backend, matrix, width, &mut |_, cosines| {
        let of_rows = cosines.chunks_exact(rows).map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        largest.extend(of_rows.map(|x| number(x.into())));
        Ok(())
    })?;
    Ok(largest)
}

/// 0 for what is not a number.
fn number(x: f64) -> f64 {
    if x.is_finite() {
        x
    } else {
        0.0
    }
}

/// Version 4, from the randomness that the standard library seeds its hashes with.
fn random_uuid() -> String {
    let draw = || RandomState::new().build_hasher().finish();
    let (high, low) = (draw() & !0xf000 | 0x4000, draw() & !(0b11 << 62) | 0b10 << 62);
    let (a, b) = (format!("{high:016x}"), format!("{low:016x}"));
    format!("{}-{}-{}-{}-{}", &a[..8], &a[8..12], &a[12..], &b[..4], &b[4..])
}
