//! `cusae activations` from the outside: what it writes, prints and refuses.

use cusae::formats::tensors::{self, Tensor, TensorFile};
use safetensors::Dtype;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn data(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/gpt2-rand-tiny").join(name).display().to_string()
}

/// Runs the tiny model on its tokens; `arguments` follow.
fn activations(arguments: &[&str]) -> Output {
    let (model, tokens) = (data(""), data("tokens.safetensors"));
    let command = ["activations", "--model", &model, "--tokens", &tokens];
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(command).args(arguments).output().unwrap()
}

fn written(arguments: &[&str]) -> Value {
    let output = activations(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit code and the one line of error.
fn refusal(arguments: &[&str]) -> (i32, String) {
    let output = activations(&[arguments, &["--quiet"]].concat());
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_holds_one_tensor_per_hook_with_the_rows_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    let hooks = ["blocks.1.attn.hook_z", "blocks.3.attn.hook_pattern", "hook_embed", "loss_per_token"];
    for (processing, expected) in
        [("none", "expected.safetensors"), ("transformer-lens", "expected_tl_processed.safetensors")]
    {
        // One row at a time: the pieces must come one behind the other.
        let settings = ["--processing", processing, "--store-batch-size-prompts", "1", "--out", text(&out), "--hook"];
        let summary = written(&[&settings[..], &hooks[..]].concat());
        let (file, expected) = (TensorFile::open(&out).unwrap(), TensorFile::open(data(expected)).unwrap());
        assert_eq!(file.names().len(), hooks.len());
        for hook in hooks.into_iter().filter(|hook| expected.contains(hook)) {
            let found = file.f32_shaped(hook, expected.shape(hook).unwrap()).unwrap();
            let wanted = expected.f32(hook).unwrap();
            let error = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 1e-4, "{hook}: {error}");
            assert_eq!(summary["tensors"][hook], serde_json::json!(file.shape(hook).unwrap()));
        }
    }
}

#[test]
fn rows_and_context_can_be_cut_and_the_format_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    let hook = "blocks.2.hook_resid_pre";
    written(&["--hook", hook, hook, "--rows", "1", "--context-size", "8", "--dtype", "float16", "--out", text(&out)]);
    let file = TensorFile::open(&out).unwrap();
    assert_eq!(file.info(hook).unwrap().dtype, Dtype::F16);
    let found = file.f32_shaped(hook, &[1, 8, 128]).unwrap();
    let wanted = TensorFile::open(data("expected.safetensors")).unwrap().f32_range(hook, 0, 8 * 128).unwrap();
    // Half precision has 11 bits.
    assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= b.abs() / 2000.0 + 1e-4));
}

#[test]
fn any_other_name_is_a_folder_to_train_from() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let hooks = ["blocks.2.hook_resid_pre", "blocks.1.attn.hook_z"];
    let arguments = ["--seqpos-slice", "1:", "--no-shuffle", "--out", text(&out), "--hook", hooks[0], hooks[1]];
    let summary = written(&arguments);
    assert_eq!(summary["tensors"][hooks[1]], serde_json::json!([62, 128]));
    let index: Value = serde_json::from_slice(&std::fs::read(out.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["context_size"], 32);
    assert_eq!(index["metadata"]["seqpos_slice"], serde_json::json!([1, null]));
    assert_eq!(index["metadata"]["exclude_special_tokens"], false);
    let shard = TensorFile::open(out.join(index["shards"][0]["file"].as_str().unwrap())).unwrap();
    let found = shard.f32_range(hooks[0], 0, 31 * 128).unwrap();
    let wanted = TensorFile::open(data("expected.safetensors")).unwrap().f32_range(hooks[0], 128, 31 * 128).unwrap();
    assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4));
}

/// Trains a small SAE and returns its `cfg.json`.
fn train(activations: &str, run: &Path, more: &[&str]) -> Value {
    let arguments =
        ["train", "--quiet", "--activations", activations, "--out", text(run), "--d-sae", "128", "--k", "8"];
    let small = ["--train-batch-size-tokens", "16", "--training-tokens", "64"];
    let output = cusae(&[&arguments[..], &small, more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(run.join("cfg.json")).unwrap()).unwrap()
}

fn cusae(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).output().unwrap()
}

#[test]
fn an_sae_trained_on_a_store_names_the_model_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let [store, run] = ["store", "run"].map(|name| folder.path().join(name));
    let hook = "blocks.1.attn.hook_z";
    let which = ["--seqpos-slice", "2:-1", "--exclude-special-tokens", "[0, 7]"];
    let arguments = ["--processing", "transformer-lens", "--out", text(&store), "--hook", hook, "hook_embed"];
    written(&[&which[..], &arguments].concat());
    let config = train(text(&store), &run, &["--hook-name", hook]);
    assert_eq!(config["reshape_activations"], "hook_z");
    let metadata = &config["metadata"];
    assert_eq!((&metadata["model_name"], &metadata["hook_name"]), (&data("").into(), &hook.into()));
    assert_eq!(
        (&metadata["context_size"], &metadata["dataset_path"]),
        (&32.into(), &data("tokens.safetensors").into())
    );
    assert_eq!(metadata["model_from_pretrained_kwargs"]["center_writing_weights"], true);
    assert_eq!(metadata["seqpos_slice"], serde_json::json!([2, -1]));
    assert_eq!(metadata["exclude_special_tokens"], serde_json::json!([0, 7]));
    // So an evaluation needs not be told the model.
    let tokens = data("tokens.safetensors");
    let output = cusae(&["eval", "--quiet", "--json", "--sae", text(&run), "--tokens", &tokens]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn rows_of_a_file_are_trained_on_in_their_order_and_their_model_is_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let [file, run] = ["a.safetensors", "run"].map(|name| folder.path().join(name));
    let hook = "blocks.1.hook_resid_pre";
    written(&["--out", text(&file), "--hook", hook]);
    let metadata = train(text(&file), &run, &["--no-shuffle"])["metadata"].take();
    assert_eq!((&metadata["model_name"], &metadata["dataset_path"]), (&Value::Null, &Value::Null));
    assert_eq!(metadata["hook_name"], hook);
    let output = cusae(&["eval", "--sae", text(&run), "--tokens", &data("tokens.safetensors")]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("error: --model: the SAE's cfg.json does not name one"), "{line}");

    // A run that has ended has nothing left to do, and nothing to measure.
    let files =
        || ["sae_weights.safetensors", "cfg.json", "metrics.jsonl"].map(|name| std::fs::read(run.join(name)).unwrap());
    let before = files();
    let output = cusae(&["train", "--quiet", "--json", "--resume", text(&run)]);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["steps"], &summary["l0"], &summary["tokens_per_second"]),
        (&4.into(), &Value::Null, &Value::Null)
    );
    assert!(files() == before);
}

#[test]
fn the_embedded_model_runs_on_text() {
    let folder = tempfile::tempdir().unwrap();
    let (out, story) = (folder.path().join("a.safetensors"), folder.path().join("story.txt"));
    std::fs::write(&story, "It was the best of times, it was the worst of times. ".repeat(20)).unwrap();
    let arguments = ["activations", "--hook", "loss_per_token", "--context-size", "32", "--out", text(&out), "--text"];
    let output = Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).arg(&story).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let file = TensorFile::open(&out).unwrap();
    let [rows, 31] = *file.shape("loss_per_token").unwrap() else { panic!("{printed}") };
    assert!(rows > 5 && printed.contains(&format!("loss_per_token [{rows}, 31]")), "{printed}");
}

#[test]
fn what_cannot_be_done_is_said_in_one_line_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.safetensors");
    let hook = ["--hook", "blocks.1.hook_resid_pre"];
    let refused = |arguments: &[&str], code, part: &str| {
        let (found, line) = refusal(&[arguments, &["--out", text(&out)]].concat());
        assert_eq!(found, code, "{line}");
        assert!(line.starts_with("error: ") && line.lines().count() == 1 && line.contains(part), "{line}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{line}");
    };
    refused(&["--hook", "blocks.9.hook_resid_pre"], 2, "hook_name: blocks.9.hook_resid_pre does not exist");
    refused(&[&hook[..], &["--context-size", "257"]].concat(), 2, "context_size: 257 tokens, this model takes from 1");
    refused(&[&hook[..], &["--no-shuffle"]].concat(), 2, "--no-shuffle: one file holds all rows in order");
    refused(&[&hook[..], &["--context-size", "40"]].concat(), 1, "has 32 tokens, expected at least context_size 40");
}

#[test]
fn a_token_of_another_vocabulary_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, out) = (folder.path().join("t.safetensors"), folder.path().join("a.safetensors"));
    tensors::save(&tokens, vec![("tokens".into(), Tensor::u32(&[2, 2], &[1, 2, 3, 4096]))]).unwrap();
    let arguments = ["activations", "--quiet", "--hook", "hook_embed", "--out", text(&out), "--tokens", text(&tokens)];
    let output =
        Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).args(["--model", &data("")]).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(line.contains("holds token 4096, outside the model's vocabulary of 4096"), "{line}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
