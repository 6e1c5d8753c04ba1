//! `cusae convert` and `cusae verify`: an SAE computes the same in every layout that has a form of it.

use cusae::formats::{self, torch};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).display().to_string()
}

fn cusae(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).output().unwrap()
}

/// The JSON that a command prints.
fn run(arguments: &[&str]) -> Value {
    let output = cusae(&[arguments, &["--json", "--device=cpu"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The one line of error.
fn refusal(arguments: &[&str], code: i32) -> String {
    let output = cusae(&[arguments, &["--device=cpu", "--quiet"]].concat());
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap().trim_end().to_string()
}

fn convert(from: &str, to: &str, out: &Path, more: &[&str]) -> Value {
    run(&[&["convert", "--from", from, "--to", to, "--out", out.to_str().unwrap()], more].concat())
}

const DICTIONARIES: &str = "formats/canrager/lm_sae";

/// Every pair of an SAE and a layout with a form of it. What changes is the rounding of f32: sums of
/// some 40 products of numbers around 1, so a few 1e-7 of the norm.
#[test]
fn converted_saes_compute_the_same() {
    let dictionary = |class: &str| data(&format!("{DICTIONARIES}/{class}/resid_post_layer_8/trainer_0"));
    let openai = |name: &str| data(&format!("formats/openaipublic/sparse-autoencoder/gpt2-small/{name}.pt"));
    let sparsify = |name: &str| data(&format!("formats/EleutherAI/sae-pythia-70m/{name}"));
    let gemma = data("formats/google/gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7");
    let cases: &[(String, &[&str])] = &[
        (dictionary("AutoEncoder"), &["saelens", "jumprelu", "openai", "dictionary_learning"]),
        (dictionary("AutoEncoderNew"), &["saelens", "jumprelu", "openai", "dictionary_learning"]),
        (dictionary("GatedAutoEncoder"), &["saelens", "jumprelu", "dictionary_learning"]),
        (dictionary("JumpReluAutoEncoder"), &["saelens", "jumprelu", "dictionary_learning"]),
        (dictionary("AutoEncoderTopK"), &["saelens", "sparsify", "dictionary_learning"]),
        (dictionary("MatryoshkaBatchTopKSAE"), &["saelens", "jumprelu", "dictionary_learning"]),
        (openai("v1_tied"), &["saelens", "dictionary_learning", "openai"]),
        (openai("v5_32k"), &["saelens", "openai"]),
        (sparsify("layers.3"), &["saelens", "sparsify", "dictionary_learning"]),
        (sparsify("gpt_neox.layers.5.mlp"), &["sparsify"]),
        (gemma, &["saelens", "jumprelu", "dictionary_learning"]),
        (data("saes/topk-none-bdec-rescale"), &["saelens", "sparsify", "dictionary_learning"]),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (n, (from, layouts)) in cases.iter().enumerate() {
        for to in *layouts {
            let out = folder.path().join(format!("{n}-{to}"));
            let report = convert(from, to, &out, &[]);
            println!("{report}");
            assert_eq!(report["active_in_one_only"], 0, "{from} to {to}");
            assert!(report["l0_before"].as_f64().unwrap() > 1.0, "{from} tells nothing");
            let difference = report["relative_difference"].as_f64().unwrap();
            assert!(difference <= 1e-6, "{from} to {to}: {difference}");
        }
    }
}

#[test]
fn a_topk_sae_becomes_jumprelu_with_as_many_active_latents_on_the_rows_given() {
    let folder = tempfile::tempdir().unwrap();
    let sae = data("saes/topk-none-bdec-rescale");
    let activations = format!("{sae}/io.safetensors:x");
    let report = convert(&sae, "jumprelu", folder.path(), &["--activations", &activations]);
    assert_eq!((&report["rows"], &report["rows_are"]), (&32.into(), &"activations".into()));
    assert_eq!(report["l0_after"], report["l0_before"]);
    assert_eq!(report["architecture_after"], "jumprelu");
    // One threshold cannot select k in every row, so that some latents change and the error is another.
    assert!(report["active_in_one_only"].as_u64().unwrap() > 0);
    assert!(report["mse_before"].as_f64().unwrap() > 0.0 && report["mse_after"].as_f64().unwrap() > 0.0);
    let message = refusal(&["convert", "--from", &sae, "--to=jumprelu", "--out", text(&folder.path().join("no"))], 2);
    assert_eq!(message, "error: --to: a TopK SAE gets its JumpReLU threshold from activations; give --activations");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_a_layout_has_no_form_of_is_refused_and_nothing_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let to = |from: &str, to: &str| refusal(&["convert", "--from", &data(from), "--to", to, "--out", text(&out)], 2);
    let message = to("saes/standard-layer_norm-bdec", "sparsify");
    assert_eq!(message, "error: --to: sparsify has no place for normalize_activations = layer_norm; use saelens");
    let message = to("saes/gated-fold-after", "openai");
    assert!(message.starts_with("error: --to: openai has no gated with b_dec taken from its input"), "{message}");
    let message = to("saes/standard-none-bdec", "sparsify");
    assert!(message.starts_with("error: --to: sparsify has no standard with b_dec taken from its input"), "{message}");
    let message = to("saes/topk-none-nobdec", "openai");
    assert!(message.starts_with("error: --to: openai has no topk with b_dec"), "{message}");
    let message = to("formats/EleutherAI/sae-pythia-70m/layers.4.mlp", "saelens");
    assert!(message.starts_with("error: --to: saelens has no topk_transcoder without b_dec"), "{message}");
    assert_eq!(
        to("saes/abstopk-layer_norm-bdec", "jumprelu"),
        "error: --to: an AbsTopK SAE has no JumpReLU form: its features have signs"
    );
    assert!(!out.exists());
}

#[test]
fn where_an_sae_belongs_travels_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let from = data(&format!("{DICTIONARIES}/AutoEncoderTopK/resid_post_layer_8/trainer_0"));
    let [saelens, back] = ["saelens", "back"].map(|name| folder.path().join(name));
    convert(&from, "saelens", &saelens, &[]);
    convert(text(&saelens), "dictionary_learning", &back, &[]);
    let config = formats::load(&back, None).unwrap().config;
    assert_eq!(config.hook_name(), Some("blocks.8.hook_resid_post"));
    assert_eq!(
        (&config.metadata["model_name"], &config.metadata["context_size"]),
        (&"pythia-70m-deduped".into(), &128.into())
    );
    assert_eq!(torch::open(&back.join("ae.pt")).unwrap().tensors.u32("k").unwrap(), [6]);
}

#[test]
fn dictionary_learning_has_a_class_for_either_use_of_b_dec() {
    for class in ["AutoEncoder", "AutoEncoderNew", "JumpReluAutoEncoder", "GatedAutoEncoder", "AutoEncoderTopK"] {
        let folder = tempfile::tempdir().unwrap();
        let from = data(&format!("{DICTIONARIES}/{class}/resid_post_layer_8/trainer_0"));
        convert(&from, "dictionary_learning", folder.path(), &[]);
        let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["trainer"]["dict_class"], class);
        let before = formats::load(Path::new(&from), None).unwrap();
        assert_eq!(formats::load(folder.path(), None).unwrap().weights, before.weights);
    }
}

/// A copy of a folder, to be changed.
fn copy(from: &str, to: &Path) {
    for entry in std::fs::read_dir(data(from)).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn edit_cfg(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path: PathBuf = folder.join("cfg.json");
    let mut cfg = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut cfg);
    std::fs::write(path, cfg.to_string()).unwrap();
}

#[test]
fn verify_says_what_is_in_an_sae() {
    let verdict = run(&["verify", "--sae", &data("saes/jumprelu-none-bdec")]);
    assert_eq!((&verdict["format"], &verdict["architecture"]), (&"sae_lens".into(), &"jumprelu".into()));
    let checks = verdict["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["finite values", "decoder norms", "encoder", "config and weights", "thresholds", "dtypes"]);
    assert!(checks.iter().all(|check| check["passed"] == true));
    assert_eq!(checks[2]["found"], "0 of 256 latents read nothing");
    assert_eq!(verdict["measured"], serde_json::json!([]));
}

#[test]
fn verify_fails_what_does_not_fit_its_notes() {
    let folder = tempfile::tempdir().unwrap();
    copy("saes/standard-none-bdec", folder.path());
    edit_cfg(folder.path(), |cfg| cfg["metadata"]["d_sae"] = 300.into());
    let message = refusal(&["verify", "--sae", text(folder.path())], 1);
    assert!(message.ends_with("1 checks failed, 0 claims do not hold; see above"), "{message}");
    let output = cusae(&["verify", "--sae", text(folder.path())]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("FAILED config and weights      metadata says d_sae = 300, the weights have 256"),
        "{printed}"
    );
    edit_cfg(folder.path(), |cfg| (cfg["metadata"]["d_sae"], cfg["dtype"]) = (256.into(), "bfloat16".into()));
    let printed = String::from_utf8(cusae(&["verify", "--sae", text(folder.path())]).stdout).unwrap();
    assert!(printed.contains("FAILED dtypes                  W_dec is stored as F32, cfg.json says BF16"), "{printed}");
}

#[test]
fn verify_measures_what_is_claimed() {
    let folder = tempfile::tempdir().unwrap();
    copy("evals/trained-topk-resid/sae", folder.path());
    let (model, tokens) = (data("gpt2-rand-tiny"), data("evals/trained-topk-resid/tokens.safetensors:recon_tokens"));
    let verify = [
        "verify",
        "--sae",
        text(folder.path()),
        "--model",
        &model,
        "--tokens",
        &tokens,
        "--n-eval-reconstruction-batches=1",
    ];
    let verdict = run(&verify);
    let measured = verdict["measured"].as_array().unwrap().clone();
    let metrics: Vec<_> = measured.iter().map(|m| m["metric"].as_str().unwrap()).collect();
    assert_eq!(metrics, ["l0", "explained_variance", "mse", "ce_loss_score", "kl_div_score", "dead_features"]);
    let l0 = measured[0]["measured"].as_f64().unwrap();
    edit_cfg(folder.path(), |cfg| cfg["metadata"]["l0"] = (l0 * 1.05).into());
    assert_eq!(run(&verify)["measured"][0]["agrees"], true);
    edit_cfg(folder.path(), |cfg| cfg["metadata"]["l0"] = (l0 * 1.2).into());
    assert!(refusal(&verify, 1).ends_with("0 checks failed, 1 claims do not hold; see above"));
}
