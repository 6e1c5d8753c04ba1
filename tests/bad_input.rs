//! Bad input, as a user meets it: one sentence that names file or key, what was found, what was
//! expected; exit code 1 for a file and 2 for a setting; no panic, and nothing half-written.

use cusae::formats::tensors::{self, Tensor, TensorFile};
use safetensors::Dtype;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const SMALL_RUN: [&str; 4] = ["--out=run", "--d-sae=64", "--train-batch-size-tokens=16", "--training-tokens=64"];

const MODEL_AND_TOKENS: [&str; 5] = [
    "--model-name=model",
    "--dataset-path=tokens.safetensors",
    "--context-size=16",
    "--n-eval-batches=1",
    "--store-batch-size-prompts=1",
];

const MODEL_BIAS: &str = "transformer.h.2.mlp.c_fc.bias";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A folder with a model of 4096 tokens, a context of 256 and a width of 128, and tokens for it.
struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Case { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(case.path("model")).unwrap();
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(data("gpt2-rand-tiny").join(name), case.path("model").join(name)).unwrap();
        }
        case.tokens(3);
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Ten rows of 16 tokens; the last one ends with `last`.
    fn tokens(&self, last: u32) {
        let mut tokens = [7; 160];
        tokens[159] = last;
        self.save("tokens.safetensors", vec![("tokens", Tensor::u32(&[10, 16], &tokens))]);
    }

    fn save(&self, name: &str, tensors: Vec<(&str, Tensor)>) {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect();
        tensors::save(&self.path(name), tensors).unwrap();
    }

    /// Writes the model's weights again; `change` may drop or replace one.
    fn weights(&self, change: impl Fn(&str, Tensor<'static>) -> Option<Tensor<'static>>) {
        let file = TensorFile::open(data("gpt2-rand-tiny/model.safetensors")).unwrap();
        let changed = |name: String| {
            let (dtype, shape) = (file.info(&name).unwrap().dtype, file.shape(&name).unwrap().to_vec());
            let bytes = file.bytes(&name).unwrap().to_vec().into();
            change(&name, Tensor { dtype, shape, bytes }).map(|tensor| (name, tensor))
        };
        let tensors = file.names().into_iter().filter_map(changed).collect();
        tensors::save(&self.path("model/model.safetensors"), tensors).unwrap();
    }

    /// A tokenizer of so many words, beside the model.
    fn tokenizer(&self, words: usize) {
        let vocabulary: serde_json::Map<String, Value> = (0..words).map(|id| (format!("t{id}"), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"},
        });
        self.write("model/tokenizer.json", tokenizer.to_string());
    }

    /// Trains on the model and its tokens, with `flags` besides, and is refused with this exit code
    /// and a sentence that contains `expected`.
    fn train(&self, flags: &[&str], code: i32, expected: &str) {
        let usual: Vec<&str> = SMALL_RUN.iter().chain(&MODEL_AND_TOKENS).copied().collect();
        self.refused("train", &usual, flags, code, expected);
    }

    /// Trains on `activations`.
    fn train_on(&self, activations: &str, code: i32, expected: &str) {
        self.refused("train", &SMALL_RUN, &["--activations", activations], code, expected);
    }

    /// Runs a command with its usual flags, except those that are among `flags`, and with `flags`.
    fn refused(&self, command: &str, usual: &[&str], flags: &[&str], code: i32, expected: &str) {
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_string();
        let usual = usual.iter().filter(|usual| !flags.iter().any(|flag| name(flag) == name(usual)));
        let before = self.listing();
        let mut cusae = Command::new(env!("CARGO_BIN_EXE_cusae"));
        cusae.args([command, "--quiet"]).args(usual).args(flags);
        let output = cusae.current_dir(self.folder.path()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.contains(expected), "expected {expected:?}, found {stderr}");
        assert!(output.stdout.is_empty());
        assert_eq!(self.listing(), before, "something was left behind");
    }

    fn listing(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_these_cases_start_from_is_good() {
    let case = Case::new();
    let mut cusae = Command::new(env!("CARGO_BIN_EXE_cusae"));
    let output = cusae.arg("train").args(SMALL_RUN).args(MODEL_AND_TOKENS).current_dir(case.folder.path()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn missing_files() {
    let case = Case::new();
    case.train(&["--dataset-path=none.txt"], 1, "none.txt: cannot open: No such file");
    case.train_on("none.safetensors", 1, "none.safetensors: cannot open: No such file");
    case.refused("train", &SMALL_RUN, &["--init=./none"], 1, "./none: cannot open: No such file");
    case.refused("train", &SMALL_RUN, &["none.toml"], 1, "none.toml: cannot read: No such file");
    std::fs::remove_file(case.path("model/model.safetensors")).unwrap();
    case.train(&[], 1, "model: holds neither model.safetensors nor model.safetensors.index.json");
    std::fs::remove_file(case.path("model/config.json")).unwrap();
    case.train(&[], 1, "model/config.json: cannot read: No such file");
}

#[test]
fn truncated_safetensors() {
    let case = Case::new();
    for name in ["tokens.safetensors", "model/model.safetensors"] {
        let bytes = std::fs::read(case.path(name)).unwrap();
        case.write(name, &bytes[..bytes.len() - 8]);
        case.train(&[], 1, &format!("{name}: not a whole safetensors file"));
    }
}

#[test]
fn a_header_with_absurd_sizes() {
    let case = Case::new();
    // A header of 2^63 bytes; a tensor of 2^62 elements; offsets that overlap nothing in the file.
    let tensor =
        |shape: &str, end: u64| format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
    let file = |header: &str| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
    for bytes in [
        (1u64 << 63).to_le_bytes().to_vec(),
        file(&tensor("[4611686018427387904, 1]", 16)),
        file(&tensor("[4294967296, 4294967296]", 16)),
        file(&tensor("[4, 1]", 1 << 60)),
    ] {
        case.write("x.safetensors", bytes);
        case.train_on("x.safetensors", 1, "x.safetensors: not a whole safetensors file");
        let sae = data("saes/topk-none-nobdec").display().to_string();
        let flags = ["--sae", &sae, "--activations", "x.safetensors", "--out", "f"];
        case.refused("encode", &[], &flags, 1, "x.safetensors: not a whole safetensors file");
    }
}

#[test]
fn wrong_dtypes() {
    let case = Case::new();
    case.save("tokens.safetensors", vec![("tokens", Tensor::f32(&[10, 16], &[1.0; 160]))]);
    case.train(&[], 1, "tokens.safetensors: tensor tokens has dtype F32, expected integers");
    case.save("x.safetensors", vec![("x", Tensor::u32(&[16, 4], &[1; 64]))]);
    case.train_on("x.safetensors", 1, "tensor x has dtype U32, expected F32, F16, BF16 or F64");
    case.tokens(3);
    case.weights(|name, tensor| Some(if name == MODEL_BIAS { Tensor { dtype: Dtype::I32, ..tensor } } else { tensor }));
    case.train(&[], 1, &format!("tensor {MODEL_BIAS} has dtype I32, expected F32, F16 or BF16"));
}

#[test]
fn wrong_shapes() {
    let case = Case::new();
    case.save("tokens.safetensors", vec![("tokens", Tensor::u32(&[2, 5, 16], &[1; 160]))]);
    case.train(&[], 1, "tokens.safetensors: ");
    case.save("x.safetensors", vec![("x", Tensor::f32(&[64], &[1.0; 64]))]);
    case.train_on("x.safetensors", 1, "tensor x has shape [64], expected [n, d_in] or [batches, batch, d_in]");
    case.save("x.safetensors", vec![("x", Tensor::f32(&[16, 4], &[1.0; 64]))]);
    let flags = ["--activations=x.safetensors", "--d-in=8"];
    case.refused("train", &SMALL_RUN, &flags, 2, "d_in: found 8, but the activations of x.safetensors are 4 wide");
    case.tokens(3);
    case.weights(|name, tensor| {
        Some(if name == MODEL_BIAS { Tensor { shape: vec![2, 256], ..tensor } } else { tensor })
    });
    case.train(&[], 1, &format!("tensor {MODEL_BIAS} has shape [2, 256], config.json makes it [512]"));
}

#[test]
fn missing_tensors() {
    let case = Case::new();
    case.save("x.safetensors", vec![("x", Tensor::f32(&[16, 4], &[1.0; 64]))]);
    case.train_on("x.safetensors:y", 1, "x.safetensors: tensor y is missing; the file holds x");
    case.save("two.safetensors", vec![("a", Tensor::f32(&[1], &[1.0])), ("b", Tensor::f32(&[1], &[1.0]))]);
    case.train_on(
        "two.safetensors",
        2,
        "hook_name: two.safetensors holds no blocks.2.hook_resid_pre; name one of a, b",
    );
    case.weights(|name, tensor| (name != MODEL_BIAS).then_some(tensor));
    case.train(&[], 1, &format!("model.safetensors: tensor {MODEL_BIAS} is missing; config.json asks for it"));
}

#[test]
fn tokens_of_another_model() {
    let case = Case::new();
    case.tokenizer(40);
    case.write("text.txt", "t1 t2 t3");
    let expected = "tokenizer.json: this is the tokenizer of another model: it has 40 tokens, the model has 4096";
    case.train(&["--dataset-path=text.txt"], 1, expected);
    std::fs::remove_file(case.path("model/tokenizer.json")).unwrap();
    case.train(&["--dataset-path=text.txt"], 1, "text.txt: holds text, and the model has no tokenizer");
    case.tokens(4096);
    let expected = "tokens.safetensors: record 10 holds token 4096, outside the model's vocabulary of 4096";
    let flags = ["--model=model", "--tokens=tokens.safetensors", "--hook=hook_embed", "--out=a.safetensors"];
    case.refused("activations", &[], &flags, 1, expected);
}

#[test]
fn too_little_text() {
    let case = Case::new();
    case.tokenizer(4096);
    let no_bos = "--prepend-bos=false";
    let separator = "--sequence-separator-token=none";
    for (text, tokens) in [("", 0), ("t1 t2 t3", 3)] {
        case.write("text.txt", text);
        let expected = format!("text.txt: all the text is {tokens} tokens, less than one row of context_size 16");
        case.train(&["--dataset-path=text.txt", no_bos, separator], 1, &expected);
    }
    case.write("text.txt", "t1 ".repeat(20));
    let expected = "eval_dataset_path: the 1 rows of the data would all be set aside for evaluation";
    case.train(&["--dataset-path=text.txt", no_bos, separator], 2, expected);
}

#[test]
fn settings_that_do_not_fit_the_model() {
    let case = Case::new();
    case.train(&["--context-size=257"], 2, "context_size: found 257, this model takes at most 256");
    case.train(&["--k=65"], 2, "k: found 65, expected at most d_sae = 64");
    // d_sae is known only when the model is: 2 * 128.
    let flags = ["--d-sae=auto", "--expansion-factor=2", "--k=257"];
    case.train(&flags, 2, "k: found 257, expected at most d_sae = 256");
    case.train(&["--d-in=64"], 2, "d_in: found 64, but the activations of blocks.2.hook_resid_pre are 128 wide");
    let expected = "hook_name: blocks.4.hook_resid_pre does not exist in this model; nearest are blocks.";
    case.train(&["--hook-name=blocks.4.hook_resid_pre"], 2, expected);
    let flags = ["--hook-name=blocks.1.attn.hook_pattern"];
    case.train(&flags, 2, "hook_name: blocks.1.attn.hook_pattern does not hold one vector per token");
}

#[test]
fn activations_that_are_no_numbers() {
    let case = Case::new();
    let mut values = [0.5; 64];
    values[13] = f32::NAN;
    case.save("x.safetensors", vec![("x", Tensor::f32(&[16, 4], &values))]);
    case.train_on("x.safetensors", 1, "x.safetensors: tensor x, row 3 holds NaN; make the activations again");
}
