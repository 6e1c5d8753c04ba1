//! `cusae encode`, `decode` and `eval` from the outside: what they write, print and refuse.

use cusae::formats::tensors::{self, Tensor, TensorFile};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn data(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).display().to_string()
}

fn cusae(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(arguments).output().unwrap()
}

fn run(arguments: &[&str]) -> Value {
    let output = cusae(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Exit code and the one line of error.
fn refusal(arguments: &[&str]) -> (i32, String) {
    let output = cusae(arguments);
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest <= tolerance, "{largest}");
}

const D_SAE: usize = 256;

#[test]
fn encode_writes_saelens_features_and_reconstructions_sparse_and_dense() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["topk-none-bdec-rescale", "standard-hook_z", "standard-layer_norm-bdec"] {
        let (sae, io) = (data(&format!("saes/{name}")), data(&format!("saes/{name}/io.safetensors")));
        let expected = TensorFile::open(&io).unwrap();
        let activations = format!("{io}:x");
        let [sparse, dense] = ["sparse", "dense"].map(|file| folder.path().join(file));
        let encode = ["encode", "--sae", &sae, "--activations", &activations];

        let summary = run(&[&encode[..], &["--out", text(&sparse), "--reconstruct"]].concat());
        let file = TensorFile::open(&sparse).unwrap();
        let (indptr, indices) = (file.u32("indptr").unwrap(), file.u32("indices").unwrap());
        let values = file.f32_shaped("values", &[indices.len()]).unwrap();
        let mut acts = vec![0.0; 32 * D_SAE];
        for row in 0..32 {
            for entry in indptr[row] as usize..indptr[row + 1] as usize {
                acts[row * D_SAE + indices[entry] as usize] = values[entry];
            }
        }
        assert_close(&acts, &expected.f32("feature_acts").unwrap(), 2e-5);
        let shape = expected.shape("reconstruction").unwrap();
        let reconstruction = file.f32_shaped("reconstruction", shape).unwrap();
        assert_close(&reconstruction, &expected.f32("reconstruction").unwrap(), 2e-5);
        assert_eq!(summary["rows"], 32);
        assert_eq!(summary["l0"].as_f64().unwrap(), indices.len() as f64 / 32.0);

        run(&[&encode[..], &["--out", text(&dense), "--dense"]].concat());
        let file = TensorFile::open(&dense).unwrap();
        assert_eq!(file.f32_shaped("feature_acts", &[32, D_SAE]).unwrap(), acts);

        // Both files decode to the same activations, whatever the SAE normalises.
        for features in [&sparse, &dense] {
            let out = folder.path().join("decoded");
            run(&["decode", "--sae", &sae, "--features", text(features), "--out", text(&out)]);
            let decoded = TensorFile::open(&out).unwrap().f32_shaped("reconstruction", &[32, 64]).unwrap();
            assert_close(&decoded, &reconstruction, 1e-6);
        }
    }
}

/// 4,160 rows are two pieces of whole sequences. Features are below 0.06; what is decoded leaves out what the
/// tokens before predict, as in SAELens.
#[test]
fn a_temporal_sae_is_given_whole_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let [activations, out, decoded] = ["x", "out", "decoded"].map(|file| folder.path().join(file));
    let io = TensorFile::open(data("saes/temporal-relu-scalar/io.safetensors")).unwrap();
    let sae = data("saes/temporal-relu-scalar");
    let (x, repeats) = (io.f32("x").unwrap(), 130);
    let save = |shape: &[usize]| {
        tensors::save(&activations, vec![("x".into(), Tensor::f32(shape, &x.repeat(repeats)))]).unwrap();
    };
    save(&[4 * repeats, 8, 64]);
    let encode = ["encode", "--sae", &sae, "--activations", text(&activations), "--out", text(&out)];
    run(&[&encode[..], &["--reconstruct", "--dense"]].concat());
    let file = TensorFile::open(&out).unwrap();
    let of = |name: &str| io.f32(name).unwrap().repeat(repeats);
    assert_close(&file.f32("feature_acts").unwrap(), &of("feature_acts"), 2e-7);
    assert_close(&file.f32("z_pred").unwrap(), &of("z_pred"), 2e-5);
    assert_close(&file.f32("reconstruction").unwrap(), &of("reconstruction"), 2e-5);
    run(&["decode", "--sae", &sae, "--features", text(&out), "--out", text(&decoded)]);
    assert_close(&TensorFile::open(&decoded).unwrap().f32("reconstruction").unwrap(), &of("decoded"), 2e-5);

    save(&[32 * repeats, 64]);
    let (code, error) = refusal(&encode);
    let expected = "tensor x has shape [4160, 64], expected [sequences, T, 64]: a temporal SAE reads whole sequences\n";
    assert!(code == 1 && error.ends_with(expected), "{error}");
}

#[test]
fn many_rows_are_encoded_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let [activations, out, decoded] = ["x", "out", "decoded"].map(|file| folder.path().join(file));
    let io = TensorFile::open(data("saes/topk-none-nobdec/io.safetensors")).unwrap();
    let sae = data("saes/topk-none-nobdec");
    let (x, expected) = (io.f32("x").unwrap(), io.f32("reconstruction").unwrap());
    let repeats = 260; // 8,320 rows: two whole pieces and a rest.
    let shape = [repeats, 32, 64];
    tensors::save(&activations, vec![("x".into(), Tensor::f32(&shape, &x.repeat(repeats)))]).unwrap();
    run(&["encode", "--sae", &sae, "--activations", text(&activations), "--out", text(&out), "--reconstruct"]);
    let reconstruction = TensorFile::open(&out).unwrap().f32_shaped("reconstruction", &shape).unwrap();
    assert_close(&reconstruction, &expected.repeat(repeats), 2e-5);
    run(&["decode", "--sae", &sae, "--features", text(&out), "--out", text(&decoded)]);
    let decoded = TensorFile::open(&decoded).unwrap().f32("reconstruction").unwrap();
    assert_close(&decoded, &reconstruction, 1e-6);
}

#[test]
fn eval_prints_saelens_metrics_as_json_and_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let [tokens, out] = ["tokens.safetensors", "eval.json"].map(|file| folder.path().join(file));
    let file = TensorFile::open(data("evals/trained-topk-resid/tokens.safetensors")).unwrap();
    let rows = [file.u32("recon_tokens").unwrap(), file.u32("sparsity_tokens").unwrap()].concat();
    tensors::save(&tokens, vec![("tokens".into(), Tensor::i64(&[20, 64], &rows))]).unwrap();
    let expected: Value = serde_json::from_str(
        &std::fs::read_to_string(data("evals/trained-topk-resid-ignore-bos/metrics.json")).unwrap(),
    )
    .unwrap();
    let (sae, model) = (data("evals/trained-topk-resid/sae"), data("gpt2-rand-tiny"));
    let arguments = [
        ["eval", "--sae", &sae],
        ["--model", &model, "--tokens"],
        [text(&tokens), "--context-size", "64"],
        ["--batch-size-prompts", "4", "--n-eval-reconstruction-batches"],
        ["2", "--n-eval-sparsity-variance-batches", "3"],
        ["--exclude-special-tokens", "[0]", "--quiet"],
    ]
    .concat();
    let report = run(&[&arguments[..], &["--out", text(&out)]].concat());
    for (group, metrics) in expected["metrics"].as_object().unwrap() {
        for (key, expected) in metrics.as_object().unwrap() {
            let (found, expected) = (report[group][key].as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{group} {key}: {found}, {expected}");
        }
    }
    assert_eq!(report["feature_metrics"]["feature_density"].as_array().unwrap().len(), 512);
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(written, report);

    let table = String::from_utf8(cusae(&arguments).stdout).unwrap();
    assert!(table.contains("model performance preservation\n  ce_loss_score "), "{table}");
    let l1 = format!("  l1{:>48.6}\n", report["sparsity"]["l1"].as_f64().unwrap());
    assert!(table.contains(&l1), "{table}");
}

#[test]
fn what_is_not_said_comes_from_the_sae_and_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (sae, model) = (data("evals/trained-topk-resid/sae"), data("gpt2-rand-tiny"));
    let tokens = format!("{}:sparsity_tokens", data("evals/trained-topk-resid/tokens.safetensors"));
    let eval = |sae: &str, more: &[&str]| {
        let few = ["--batch-size-prompts", "2", "--n-eval-reconstruction-batches", "1", "--quiet"];
        let common = ["eval", "--sae", sae, "--model", &model, "--tokens", &tokens];
        run(&[&common[..], &few, more].concat())
    };
    // The SAE's context_size is 64; token 0 is the model's bos and eos, and it has no tokenizer.
    let report = eval(&sae, &[]);
    assert_eq!(report["token_stats"]["total_tokens_eval_sparsity_variance"], 2 * 64);
    assert_eq!(report, eval(&sae, &["--context-size", "64", "--exclude-special-tokens", "[0]"]));
    assert_ne!(report, eval(&sae, &["--exclude-special-tokens", "false"]));

    // An SAE of a processed model says so in its metadata.
    let processed = folder.path().join("sae");
    std::fs::create_dir(&processed).unwrap();
    std::fs::copy(format!("{sae}/sae_weights.safetensors"), processed.join("sae_weights.safetensors")).unwrap();
    let mut cfg: Value = serde_json::from_str(&std::fs::read_to_string(format!("{sae}/cfg.json")).unwrap()).unwrap();
    cfg["metadata"]["model_from_pretrained_kwargs"]["center_writing_weights"] = true.into();
    std::fs::write(processed.join("cfg.json"), cfg.to_string()).unwrap();
    let report = eval(text(&processed), &[]);
    assert_eq!(report, eval(&sae, &["--processing", "transformer-lens"]));
    assert_ne!(report, eval(&sae, &[]));
}

#[test]
fn a_text_that_is_too_short_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens.safetensors");
    let rows: Vec<u32> = (0..3 * 16).map(|i| i * 7 % 97).collect();
    tensors::save(&tokens, vec![("tokens".into(), Tensor::i64(&[3, 16], &rows))]).unwrap();
    let (sae, model) = (data("evals/trained-topk-resid/sae"), data("gpt2-rand-tiny"));
    let output = cusae(
        &[
            ["eval", "--json", "--sae", &sae],
            ["--model", &model, "--tokens", text(&tokens)],
            ["--context-size", "16", "--batch-size-prompts", "2"],
            ["--n-eval-reconstruction-batches", "2", "--n-eval-sparsity-variance-batches", "1"],
        ]
        .concat(),
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["token_stats"]["total_tokens_eval_reconstruction"], 4 * 16);
    assert_eq!(report["token_stats"]["total_tokens_eval_sparsity_variance"], 2 * 16);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("begun again").count(), 1, "{said}");
}

#[test]
fn what_cannot_be_encoded_is_refused_in_one_line_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let [activations, out] = ["x.safetensors", "out"].map(|file| folder.path().join(file));
    let sae = data("saes/topk-none-nobdec");
    let encode = |tensor: Tensor, expected: &str| {
        tensors::save(&activations, vec![("x".into(), tensor)]).unwrap();
        let file = text(&activations);
        let (code, message) = refusal(&["encode", "--sae", &sae, "--activations", file, "--out", text(&out)]);
        assert_eq!((code, message), (1, format!("error: {file}: tensor x {expected}\n")));
    };
    let values = vec![1.0f32; 130];
    encode(Tensor::f32(&[2, 65], &values), "has shape [2, 65], expected rows of 64, the SAE's width");
    encode(Tensor::f32(&[0, 64], &[]), "holds no rows");
    encode(Tensor::i64(&[1, 64], &[1; 64]), "has dtype I64, expected F32, F16, BF16 or F64");
    let mut with_nan = vec![0.0f32; 128];
    with_nan[100] = f32::NAN;
    encode(Tensor::f32(&[2, 64], &with_nan), "holds NaN in row 1, expected finite numbers");

    let missing = folder.path().join("none.safetensors");
    let (code, message) = refusal(&["encode", "--sae", &sae, "--activations", text(&missing), "--out", text(&out)]);
    assert_eq!((code, message.contains("none.safetensors: cannot open")), (1, true), "{message}");
    let (code, message) =
        refusal(&["encode", "--sae", "gpt2-smal-res-jb:x", "--activations", "a", "--out", text(&out)]);
    assert_eq!(
        (code, message.starts_with("error: --sae: there is no release gpt2-smal-res-jb; did you mean ")),
        (2, true),
        "{message}"
    );
    assert!(!out.exists());
}

#[test]
fn what_cannot_be_decoded_is_refused_in_one_line_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let [features, out] = ["f.safetensors", "out"].map(|file| folder.path().join(file));
    let decode = |sae: &str, tensors: Vec<(&str, Tensor)>, expected: &str| {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        tensors::save(&features, tensors).unwrap();
        let file = text(&features);
        let (code, message) = refusal(&["decode", "--sae", &data(sae), "--features", file, "--out", text(&out)]);
        assert_eq!(code, 1);
        assert!(message.starts_with(&format!("error: {file}: {expected}")), "{message}");
    };
    let sparse = |indptr: &[u32], indices: &[u32], values: &'static [f32]| {
        vec![
            ("indptr", Tensor::i64(&[indptr.len()], indptr)),
            ("indices", Tensor::i64(&[indices.len()], indices)),
            ("values", Tensor::f32(&[values.len()], values)),
        ]
    };
    let plain = "saes/topk-none-nobdec";
    decode(plain, sparse(&[0, 2], &[0], &[1.0]), "features: indptr does not rise from 0 to the number of indices, 1");
    decode(plain, sparse(&[0, 1], &[256], &[1.0]), "holds feature 256, expected features below the SAE's d_sae = 256");
    decode(plain, sparse(&[0, 1], &[3], &[f32::NAN]), "holds a feature's value NaN, expected finite numbers");
    decode(plain, sparse(&[0, 1], &[3], &[1.0])[..2].to_vec(), "holds indices, indptr, expected indptr, indices");
    let wide = vec![0.0; 257];
    decode(
        plain,
        vec![("feature_acts", Tensor::f32(&[1, 257], &wide))],
        "tensor feature_acts has shape [1, 257], expected [1, 256]",
    );
    decode("saes/standard-layer_norm-bdec", sparse(&[0, 1], &[3], &[1.0]), "holds no row_scale and row_shift");
    assert!(!out.exists());
}

#[test]
fn what_cannot_be_evaluated_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens.safetensors");
    tensors::save(&tokens, vec![("tokens".into(), Tensor::i64(&[2, 16], &[96; 32]))]).unwrap();
    let (sae, model) = (data("evals/trained-topk-resid/sae"), data("gpt2-rand-tiny"));
    let eval = |sae: &str, more: &[&str]| {
        let arguments = ["eval", "--sae", sae, "--model", &model, "--context-size", "16", "--quiet"];
        refusal(&[&arguments[..], more].concat())
    };
    assert_eq!(
        eval(&sae, &[]),
        (2, "error: --text: nothing to evaluate on; give --text FILE or --tokens FILE\n".into())
    );
    // The SAE takes 64 values; the model's stream has 128.
    let (code, message) = eval(&data("saes/topk-none-nobdec"), &["--tokens", text(&tokens)]);
    assert_eq!(code, 2);
    assert_eq!(
        message,
        "error: d_in: the SAE takes 64 values, blocks.2.hook_resid_pre of this model has 128; is it another model?\n"
    );
    let (code, message) = eval(&sae, &["--tokens", text(&tokens), "--exclude-special-tokens", "bos"]);
    assert_eq!((code, message.contains("expected true, false or a list of token ids")), (2, true), "{message}");
}
