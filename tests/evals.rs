//! Every metric is the one that SAELens' `run_evals` computes on the same model, SAE and tokens.
//!
//! Tolerances: SAELens in float32 and in float64 differ by at most 1.5e-6 (relative) in every
//! scalar and 1.3e-5 in per-token losses; a second float32 implementation gets 1e-4 and 1e-3.

use cusae::backend::Cpu;
use cusae::error::Result;
use cusae::eval::{evaluate, Downstream, EvalConfig, Report};
use cusae::formats::saelens::load_folder;
use cusae::formats::tensors::TensorFile;
use cusae::lm::{LanguageModel, Processing};
use cusae::sae::inference::Sae;
use serde_json::{json, Value};
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

const CONTEXT: usize = 64;

/// One evaluation of SAELens: `name` holds what it found, `source` the SAE and the tokens.
struct Case {
    name: &'static str,
    source: &'static str,
    exclude_tokens: Vec<u32>,
    model: LanguageModel<Cpu>,
    sae: Sae<Cpu>,
}

impl Case {
    fn new(name: &'static str, source: &'static str, exclude_tokens: Vec<u32>) -> Case {
        let model = LanguageModel::load(&Cpu, &data("gpt2-rand-tiny"), Processing::None).unwrap();
        let saved = load_folder(&data("evals").join(source).join("sae")).unwrap();
        let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
        Case { name, source, exclude_tokens, model, sae }
    }

    fn all() -> [Case; 4] {
        [
            Case::new("random-standard-resid", "random-standard-resid", vec![]),
            Case::new("random-standard-hook_z", "random-standard-hook_z", vec![]),
            Case::new("trained-topk-resid", "trained-topk-resid", vec![]),
            Case::new("trained-topk-resid-ignore-bos", "trained-topk-resid", vec![0]),
        ]
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        TensorFile::open(data("evals").join(self.source).join("tokens.safetensors")).unwrap().u32(name).unwrap()
    }

    /// The rows that SAELens read, in its order.
    fn rows(&self) -> Vec<Vec<u32>> {
        let tokens = [self.tokens("recon_tokens"), self.tokens("sparsity_tokens")].concat();
        tokens.chunks_exact(CONTEXT).map(<[u32]>::to_vec).collect()
    }

    fn config(&self) -> EvalConfig {
        EvalConfig {
            batch_size_prompts: 4,
            n_eval_reconstruction_batches: 2,
            n_eval_sparsity_variance_batches: 3,
            exclude_tokens: self.exclude_tokens.clone(),
            featurewise: true,
        }
    }

    fn evaluate(&self, rows: Vec<Vec<u32>>, config: &EvalConfig) -> Result<Report> {
        evaluate(&self.model, &self.sae, &mut rows.into_iter().map(Ok), config)
    }

    fn expected(&self, file: &str) -> PathBuf {
        data("evals").join(self.name).join(file)
    }
}

#[test]
fn every_scalar_is_saelens() {
    for case in Case::all() {
        let report = case.evaluate(case.rows(), &case.config()).unwrap();
        let expected = json(case.expected("metrics.json"));
        let mut scalars = report.scalars();
        scalars.retain(|(_, key, _)| key != "dead_features");
        for (group, key, value) in &scalars {
            let expected = expected["metrics"][group][key].as_f64().unwrap();
            let difference = (value - expected).abs();
            assert!(difference <= 1e-4 * expected.abs(), "{} {group}/{key}: {value}, expected {expected}", case.name);
        }
        let groups = expected["metrics"].as_object().unwrap();
        let keys: usize = groups.values().map(|group| group.as_object().unwrap().len()).sum();
        assert_eq!(scalars.len(), keys);
    }
}

#[test]
fn every_feature_metric_is_saelens() {
    for case in Case::all() {
        let report = case.evaluate(case.rows(), &case.config()).unwrap();
        let found = serde_json::to_value(&report).unwrap()["feature_metrics"].clone();
        let expected = json(case.expected("featurewise.json"));
        assert_eq!(found.as_object().unwrap().len(), expected.as_object().unwrap().len());
        for (key, expected) in expected.as_object().unwrap() {
            let (found, expected) = (found[key].as_array().unwrap(), expected.as_array().unwrap());
            assert_eq!(found.len(), expected.len());
            for (feature, (found, expected)) in found.iter().zip(expected).enumerate() {
                match (found.as_f64(), expected.as_f64()) {
                    (Some(a), Some(b)) => {
                        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{key} {feature}: {a}, {b}")
                    }
                    (found, expected) => assert_eq!(found, expected, "{key} {feature}"),
                }
            }
        }
        let silent = report.feature_metrics.unwrap().feature_density.iter().filter(|&&density| density == 0.0).count();
        assert_eq!(report.sparsity.dead_features, silent);
    }
}

#[test]
fn every_token_loss_is_saelens() {
    for case in Case::all() {
        let expected = TensorFile::open(case.expected("expected.safetensors")).unwrap();
        let mut downstream = Downstream::new(&case.model, &case.sae, 4, CONTEXT).unwrap();
        for (batch, tokens) in case.tokens("recon_tokens").chunks_exact(4 * CONTEXT).enumerate() {
            let excluded: Vec<bool> = tokens.iter().map(|token| case.exclude_tokens.contains(token)).collect();
            let losses = downstream.losses(tokens, &excluded).unwrap();
            for (name, found) in [
                ("ce_loss_without_sae", losses.ce_loss_without_sae),
                ("ce_loss_with_sae", losses.ce_loss_with_sae),
                ("ce_loss_with_ablation", losses.ce_loss_with_ablation),
                ("kl_div_with_sae", losses.kl_div_with_sae),
                ("kl_div_with_ablation", losses.kl_div_with_ablation),
            ] {
                let expected = expected.f32_range(name, batch * found.len(), found.len()).unwrap();
                for (position, (a, b)) in found.iter().zip(&expected).enumerate() {
                    assert!((a - b).abs() <= 1e-3, "{} {name} {position}: {a}, expected {b}", case.name);
                }
            }
        }
    }
}

#[test]
fn activations_features_and_reconstructions_at_the_hook_are_saelens() {
    for case in Case::all() {
        let expected = TensorFile::open(case.expected("expected.safetensors")).unwrap();
        let mut downstream = Downstream::new(&case.model, &case.sae, 2, CONTEXT).unwrap();
        let seen = downstream.encode(&case.tokens("recon_tokens")[..2 * CONTEXT]).unwrap();
        let features = seen.features.to_dense(case.sae.config().d_sae);
        for (name, found) in
            [("sae_in_rows01", seen.x), ("feature_acts_rows01", features), ("sae_out_rows01", seen.x_hat)]
        {
            let expected = expected.f32(name).unwrap();
            let largest = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Activations here reach 20; the model's own float32 error is 3e-6.
            assert!(found.len() == expected.len() && largest <= 5e-5, "{} {name}: {largest}", case.name);
        }
    }
}

#[test]
fn rows_may_end_early_and_a_last_batch_may_be_smaller() {
    let [case, ..] = Case::all();
    let config = EvalConfig { batch_size_prompts: 3, n_eval_sparsity_variance_batches: 9, ..case.config() };
    let report = case.evaluate(case.rows()[..10].to_vec(), &config).unwrap();
    assert_eq!(report.token_stats.total_tokens_eval_reconstruction, 6 * CONTEXT);
    assert_eq!(report.token_stats.total_tokens_eval_sparsity_variance, 4 * CONTEXT);
}

#[test]
fn the_json_has_saelens_groups_and_null_for_a_mean_of_nothing() {
    let [_, _, case, _] = Case::all();
    let config = EvalConfig { featurewise: false, ..case.config() };
    let report = serde_json::to_value(case.evaluate(case.rows(), &config).unwrap()).unwrap();
    let groups: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        groups,
        [
            "model_behavior_preservation",
            "model_performance_preservation",
            "reconstruction_quality",
            "shrinkage",
            "sparsity",
            "token_stats"
        ]
    );
    // Without a token that counts in the first part its losses are means of nothing.
    let rows = [vec![vec![0; CONTEXT]; 8], case.rows()[8..].to_vec()].concat();
    let config = EvalConfig { exclude_tokens: vec![0], ..config };
    let report = serde_json::to_value(case.evaluate(rows, &config).unwrap()).unwrap();
    assert_eq!(report["model_performance_preservation"]["ce_loss_with_sae"], Value::Null);
    assert!(report["reconstruction_quality"]["mse"].is_f64());
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let [case, ..] = Case::all();
    let refusal = |case: &Case, rows, config: &EvalConfig| case.evaluate(rows, config).unwrap_err().to_string();
    assert_eq!(
        refusal(&case, vec![], &case.config()),
        "text: it ended before the first row for any metric; give more text or fewer batches"
    );
    assert_eq!(
        refusal(&case, case.rows()[..8].to_vec(), &case.config()),
        "text: it ended before the first row for the metrics of activations and features \
         (n_eval_sparsity_variance_batches); give more text or fewer batches"
    );
    let none = EvalConfig { n_eval_reconstruction_batches: 0, ..case.config() };
    assert_eq!(refusal(&case, case.rows(), &none), "n_eval_reconstruction_batches: found 0, expected at least 1");
    assert_eq!(
        refusal(&case, vec![vec![1; 64], vec![1; 63]], &case.config()),
        "eval: a row has 63 tokens, the rows before have 64"
    );

    let with_metadata = |key: &str, value: Value| {
        let mut config = case.sae.config().clone();
        config.metadata.insert(key.into(), value);
        let sae = Sae::new(&Cpu, &config, &case.sae.weights().unwrap()).unwrap();
        evaluate(&case.model, &sae, &mut case.rows().into_iter().map(Ok), &case.config()).unwrap_err().to_string()
    };
    assert!(with_metadata("hook_name", Value::Null).starts_with("hook_name: the SAE's cfg.json does not name one"));
    assert!(with_metadata("hook_name", json!("blocks.9.hook_resid_pre")).starts_with("hook_name: blocks.9"));
    assert_eq!(
        with_metadata("hook_name", json!("blocks.1.mlp.hook_post")),
        "d_in: the SAE takes 128 values, blocks.1.mlp.hook_post of this model has 512; is it another model?"
    );
    assert_eq!(
        with_metadata("hook_head_index", json!(2)),
        "hook_head_index: SAEs on one attention head are not supported"
    );
}
