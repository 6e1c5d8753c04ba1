//! What a user reads when a model folder, or what is asked of a model, is wrong.

use cusae::backend::Cpu;
use cusae::error::Error;
use cusae::formats::tensors::{self, Tensor, TensorFile};
use cusae::lm::{LanguageModel, Processing, Record};
use safetensors::Dtype;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gpt2-rand-tiny")
}

/// A copy of the tiny model in a folder of its own.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(source().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Result<LanguageModel<Cpu>, Error> {
    LanguageModel::load(&Cpu, folder, Processing::None)
}

fn message(folder: &Path) -> String {
    load(folder).err().unwrap().to_string()
}

/// Writes the tensors again; `change` may drop or replace one.
fn rewrite(folder: &Path, change: impl Fn(&str, Tensor<'static>) -> Option<Tensor<'static>>) {
    let file = TensorFile::open(source().join("model.safetensors")).unwrap();
    let tensor = |name: &str| Tensor {
        dtype: file.info(name).unwrap().dtype,
        shape: file.shape(name).unwrap().to_vec(),
        bytes: file.bytes(name).unwrap().to_vec().into(),
    };
    let names = file.names().into_iter();
    let tensors = names.filter_map(|name| change(&name, tensor(&name)).map(|tensor| (name, tensor))).collect();
    tensors::save(&folder.join("model.safetensors"), tensors).unwrap();
}

fn set_config(folder: &Path, key: &str, value: &str) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = serde_json::from_str(value).unwrap();
    std::fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_folder_without_config_or_weights() {
    let folder = tempfile::tempdir().unwrap();
    assert!(message(folder.path()).contains("config.json: cannot read: No such file"), "{}", message(folder.path()));
    std::fs::copy(source().join("config.json"), folder.path().join("config.json")).unwrap();
    let found = message(folder.path());
    assert!(found.contains("holds neither model.safetensors nor model.safetensors.index.json"), "{found}");
}

#[test]
fn a_model_of_another_family_or_variant() {
    for (key, value, part) in [
        ("model_type", "\"llama\"", "config.json: model_type is \"llama\", expected \"gpt2\""),
        (
            "activation_function",
            "\"laplace\"",
            "config.json: activation_function is \"laplace\", expected one of gelu_new",
        ),
        ("add_cross_attention", "true", "config.json: add_cross_attention is true, expected false"),
        ("n_head", "3", "config.json: n_embd 128 is not a multiple of n_head 3"),
    ] {
        let folder = copy();
        set_config(folder.path(), key, value);
        assert!(message(folder.path()).contains(part), "{}", message(folder.path()));
    }
}

#[test]
fn a_truncated_weight_file() {
    let folder = copy();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let found = message(folder.path());
    assert!(found.contains("model.safetensors: not a whole safetensors file"), "{found}");
}

#[test]
fn a_tensor_that_is_missing_or_has_another_shape_or_dtype() {
    let name = "transformer.h.2.mlp.c_fc.bias";
    let folder = copy();
    rewrite(folder.path(), |found, tensor| (found != name).then_some(tensor));
    let found = message(folder.path());
    assert!(
        found.ends_with("model.safetensors: tensor transformer.h.2.mlp.c_fc.bias is missing; config.json asks for it")
    );

    rewrite(folder.path(), |found, tensor| match found == name {
        true => Some(Tensor { dtype: Dtype::I32, ..tensor }),
        false => Some(tensor),
    });
    let found = message(folder.path());
    assert!(found.ends_with("transformer.h.2.mlp.c_fc.bias has dtype I32, expected F32, F16 or BF16"), "{found}");

    rewrite(folder.path(), |_, tensor| Some(tensor));
    set_config(folder.path(), "n_inner", "500");
    let found = message(folder.path());
    assert!(found.ends_with("transformer.h.0.mlp.c_fc.weight has shape [128, 512], config.json makes it [128, 500]"));

    // More than any memory: refused before anything is allocated.
    set_config(folder.path(), "vocab_size", "4000000000");
    assert!(message(folder.path()).contains("wte.weight has shape [4096, 128]"), "{}", message(folder.path()));
}

#[test]
fn an_untied_model_without_a_head() {
    let folder = copy();
    set_config(folder.path(), "tie_word_embeddings", "false");
    assert!(message(folder.path()).ends_with("tensor lm_head.weight is missing; config.json asks for it"));
}

#[test]
fn weights_that_are_not_finite() {
    let folder = copy();
    rewrite(folder.path(), |name, tensor| {
        let mut bytes = tensor.bytes.to_vec();
        if name == "transformer.ln_f.bias" {
            bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        Some(Tensor { bytes: bytes.into(), ..tensor })
    });
    let found = message(folder.path());
    assert!(found.ends_with("tensor transformer.ln_f.bias holds NaN at element 2, expected finite numbers"), "{found}");
}

/// Cuts the tensors into two files with an index, as `transformers` does above `max_shard_size`.
fn shard(folder: &Path) {
    let file = TensorFile::open(source().join("model.safetensors")).unwrap();
    let (mut map, mut shards) = (serde_json::Map::new(), [vec![], vec![]]);
    for (i, name) in file.names().into_iter().enumerate() {
        let values = file.f32(&name).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let tensor = Tensor { bytes: bytes.into(), ..Tensor::f32(file.shape(&name).unwrap(), &[]) };
        map.insert(name.clone(), format!("model-{}-of-2.safetensors", i % 2 + 1).into());
        shards[i % 2].push((name, tensor));
    }
    for (i, tensors) in shards.into_iter().enumerate() {
        tensors::save(&folder.join(format!("model-{}-of-2.safetensors", i + 1)), tensors).unwrap();
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
}

#[test]
fn shards_are_read_and_a_missing_one_is_named() {
    let folder = copy();
    shard(folder.path());
    let run = |model: LanguageModel<Cpu>| {
        let mut record = Record::of(["blocks.3.hook_resid_post"]);
        model.forward(1, 3).unwrap().run(&model, &[0, 5, 9], &mut record, None).unwrap();
        record.values
    };
    assert_eq!(run(load(folder.path()).unwrap()), run(load(&source()).unwrap()));
    std::fs::remove_file(folder.path().join("model-2-of-2.safetensors")).unwrap();
    let found = message(folder.path());
    assert!(found.contains("model-2-of-2.safetensors: cannot open: No such file"), "{found}");
    std::fs::write(folder.path().join("model.safetensors.index.json"), "{}").unwrap();
    let found = message(folder.path());
    assert!(found.contains("index.json: weight_map is missing or does not name files"), "{found}");
}

#[test]
fn what_a_model_cannot_run() {
    let model = load(&source()).unwrap();
    let too_long = model.forward(1, 257).err().unwrap();
    assert_eq!(too_long.to_string(), "context_size: 257 tokens, this model takes from 1 to 256");
    assert_eq!(too_long.exit_code(), 2);
    let mut forward = model.forward(2, 4).unwrap();
    let mut run =
        |tokens: &[u32], stop: Option<&str>| forward.run(&model, tokens, &mut (), stop).unwrap_err().to_string();
    let outside = "forward: token id 4096 is outside the vocabulary of 4096; was the text tokenized for another model?";
    assert_eq!(run(&[1, 2, 3, 4096], None), outside);
    for tokens in [&[][..], &[0; 6], &[0; 12]] {
        let expected = format!("forward: {} tokens are not 1 to 2 sequences of 4", tokens.len());
        assert_eq!(run(tokens, None), expected);
    }
    let unknown = run(&[0; 4], Some("blocks.4.hook_resid_pre"));
    assert!(unknown.starts_with("hook_name: blocks.4.hook_resid_pre does not exist in this model; nearest are blocks."));
    assert!(model.hook_shape("hook_nothing", 4).is_err() && model.hook_width("hook_nothing").is_err());
    assert!(model.last_hook(&["hook_embed", "hook_nothing"]).is_err() && model.last_hook(&[]).is_err());
}

#[test]
fn a_loss_is_only_told_after_a_whole_run() {
    let model = load(&source()).unwrap();
    let mut forward = model.forward(1, 4).unwrap();
    let expected = "loss_per_token: the last run did not go to the end of the model";
    assert_eq!(forward.loss_per_token(&model).unwrap_err().to_string(), expected);
    forward.run(&model, &[0; 4], &mut (), None).unwrap();
    assert_eq!(forward.loss_per_token(&model).unwrap().len(), 3);
    forward.run(&model, &[0; 4], &mut (), Some("blocks.1.hook_resid_pre")).unwrap();
    assert_eq!(forward.loss_per_token(&model).unwrap_err().to_string(), expected);
    assert!(forward.final_output().is_err());
}
