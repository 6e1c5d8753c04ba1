//! SAEs in the layouts of all who publish them: each is recognised, and computes what the package that
//! it belongs to computes. The files and expected values are of `scripts/make_format_fixtures.py`.
//!
//! Tolerance 2e-5: two f32 implementations of sums of 12 and 40 products of numbers around 1.

use cusae::backend::Cpu;
use cusae::config::NormalizeActivations;
use cusae::formats::{self, tensors::TensorFile, SavedSae};
use cusae::sae::config::ReshapeActivations;
use cusae::sae::inference::Sae;
use serde_json::Value;
use std::path::{Path, PathBuf};

const TOLERANCE: f32 = 2e-5;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats").join(name)
}

fn cases() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(data("cases.json")).unwrap()).unwrap()
}

fn path_of(case: &Value) -> PathBuf {
    data(case["path"].as_str().unwrap())
}

/// The file with x, feature_acts and reconstruction.
fn expected(path: &Path) -> TensorFile {
    let beside = PathBuf::from(format!("{}.io.safetensors", path.display()));
    TensorFile::open(if path.is_dir() { path.join("io.safetensors") } else { beside }).unwrap()
}

/// Features and reconstructions of `x`, dense.
fn compute(saved: &SavedSae, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let sae = Sae::new(&Cpu, &saved.config, &saved.weights).unwrap();
    let rows = x.len() / saved.config.d_in;
    let mut pass = sae.pass(rows).unwrap();
    // What a temporal SAE needs to know: the rows are two sequences.
    pass.set_context(rows / 2);
    pass.forward(&sae, &x.to_vec(), rows).unwrap();
    (pass.features(&sae).unwrap().to_dense(saved.config.d_sae), pass.reconstruction().clone())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_layout_computes_what_its_own_package_computes() {
    for case in cases() {
        let path = path_of(&case);
        let saved = formats::load(&path, None).unwrap();
        let io = expected(&path);
        let (acts, reconstruction) = compute(&saved, &io.f32("x").unwrap());
        let expected_acts = io.f32("feature_acts").unwrap();
        assert!(expected_acts.iter().any(|&a| a != 0.0) && expected_acts.contains(&0.0), "{path:?}: tells nothing");
        let same = acts.iter().zip(&expected_acts).all(|(a, b)| (*a != 0.0) == (*b != 0.0));
        assert!(same, "{path:?}: other latents are active");
        let acts = largest_difference(&acts, &expected_acts);
        let reconstruction = largest_difference(&reconstruction, &io.f32("reconstruction").unwrap());
        println!("{} {}: {acts:.1e} {reconstruction:.1e}", case["format"], case["path"]);
        assert!(acts <= TOLERANCE, "{path:?}: features differ by {acts}");
        assert!(reconstruction <= TOLERANCE, "{path:?}: reconstructions differ by {reconstruction}");
    }
}

#[test]
fn every_layout_is_recognised_and_can_be_named() {
    for case in cases() {
        let (path, format) = (path_of(&case), case["format"].as_str().unwrap());
        assert_eq!(formats::layout(&path).unwrap(), format, "{path:?}");
        assert_eq!(formats::load(&path, Some(format)).unwrap(), formats::load(&path, None).unwrap(), "{path:?}");
    }
    let mut tested: Vec<_> = cases().iter().map(|case| case["format"].as_str().unwrap().to_string()).collect();
    tested.push("sae_lens".into());
    for format in formats::FORMATS {
        assert!(tested.iter().any(|tested| tested == format.name), "no case of {}", format.name);
    }
    let path = data("openaipublic/sparse-autoencoder/gpt2-small/v1.pt");
    let message = formats::load(&path, Some("gemma")).unwrap_err().to_string();
    assert!(message.starts_with("--format: found \"gemma\", expected one of sae_lens, sparsify, "), "{message}");
}

#[test]
fn architecture_model_and_hook_are_known_as_far_as_files_and_names_say() {
    for case in cases() {
        let path = path_of(&case);
        let config = formats::load(&path, None).unwrap().config;
        assert_eq!(config.architecture_name(), case["architecture"].as_str().unwrap(), "{path:?}");
        assert_eq!(config.apply_b_dec_to_input, case["apply_b_dec_to_input"], "{path:?}");
        for (key, value) in case["metadata"].as_object().unwrap() {
            assert_eq!(config.metadata.get(key), Some(value), "{path:?}: {key}");
        }
    }
}

#[test]
fn heads_are_taken_together_and_factors_folded() {
    let of = |name: &str| formats::load(&data(name), None).unwrap().config;
    let z = of("google/gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_7");
    assert_eq!(z.reshape_activations, ReshapeActivations::HookZ);
    let folded = of("fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L7R-8x");
    assert_eq!(folded.normalize_activations, NormalizeActivations::None);
    let unknown = of("fnlp/Llama-Scope-R1-Distill/0-Slimpajama-800M-OpenR1-Math-220k/L9R");
    assert_eq!(unknown.normalize_activations, NormalizeActivations::ExpectedAverageOnlyIn);
}

#[test]
fn the_cache_of_the_hub_keeps_the_names_that_say_where_an_sae_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot = folder.path().join("models--google--gemma-scope-9b-it-res/snapshots/0123abc");
    let sae = snapshot.join("layer_31/width_16k/average_l0_9");
    std::fs::create_dir_all(&sae).unwrap();
    let params = data("google/gemma-scope-9b-it-res/layer_20/width_16k/average_l0_9/params.npz");
    std::fs::copy(params, sae.join("params.npz")).unwrap();
    let config = formats::load(&sae, None).unwrap().config;
    assert_eq!(config.metadata["model_name"], "gemma-2-9b-it");
    assert_eq!(config.hook_name(), Some("blocks.31.hook_resid_post"));
}

#[test]
fn a_folder_without_telling_names_is_read_and_belongs_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let params = data("google/gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_7/params.npz");
    std::fs::copy(params, folder.path().join("params.npz")).unwrap();
    let config = formats::load(folder.path(), None).unwrap().config;
    assert_eq!((config.d_in, config.d_sae), (12, 40));
    assert_eq!((config.hook_name(), config.metadata.get("model_name")), (None, None));
}

#[test]
fn what_only_a_name_says_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer2.sae.pt");
    std::fs::copy(data("Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5/layer2.sae.pt"), &file).unwrap();
    let message = formats::load(&file, None).unwrap_err().to_string();
    assert!(message.contains("k is not in the file, and no folder's name says it"), "{message}");
}

#[test]
fn settings_of_a_temporal_sae_that_cannot_be_are_refused() {
    let whole = data("canrager/temporalSAEs/gemma-2-2B/layer_12/temporal");
    let conf = std::fs::read_to_string(whole.join("conf.yaml")).unwrap();
    let refusal = |from: &str, to: &str| {
        let folder = tempfile::tempdir().unwrap();
        let file = "latest_ckpt.safetensors";
        std::fs::copy(whole.join(file), folder.path().join(file)).unwrap();
        assert!(conf.contains(from));
        std::fs::write(folder.path().join("conf.yaml"), conf.replace(from, to)).unwrap();
        let message = formats::load(folder.path(), None).unwrap_err().to_string();
        message.replace(&format!("{}/", folder.path().display()), "")
    };
    for (from, to, expected) in [
        ("kval_topk: 6", "kval_topk: 49", "conf.yaml: sae.kval_topk is 49, expected at most the number of latents, 48"),
        ("sae_diff_type: topk", "sae_diff_type: tanh", "conf.yaml: sae.sae_diff_type is \"tanh\", expected relu or topk"),
        ("scaling_factor: 0.25", "scaling_factor: 0", "conf.yaml: sae.scaling_factor is 0.0, expected a number that is not 0"),
        ("dtype: float32", "dtype: int8", "conf.yaml: data.dtype is \"int8\", expected float32, float64, float16 or bfloat16"),
        (
            "n_heads: 2",
            "n_heads: 5",
            "conf.yaml: sae.n_heads is 5, expected one that divides: bottleneck_factor times n_heads is 20, expected a \
             divisor of d_sae = 48",
        ),
        (
            "tied_weights: false",
            "tied_weights: true",
            "latest_ckpt.safetensors: W_enc does not belong to temporal",
        ),
    ] {
        assert_eq!(refusal(from, to), expected);
    }
}

#[test]
fn a_folder_of_something_else_is_named_with_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.bin"), "").unwrap();
    let message = formats::load(folder.path(), None).unwrap_err().to_string();
    assert!(message.ends_with("holds model.bin: no SAE of a known layout; name its folder or file, and --format"));
    let message = formats::load(&folder.path().join("absent"), None).unwrap_err().to_string();
    assert!(message.contains("absent: cannot open: "), "{message}");
}
