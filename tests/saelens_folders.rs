//! Folders of SAELens are read, and what is written is what SAELens would have written.

use cusae::config::NormalizeActivations;
use cusae::error::Error;
use cusae::formats::saelens::{load_folder, log_sparsity, save_inference, save_training, TrainingNotes};
use cusae::formats::tensors::{self, Tensor, TensorFile};
use cusae::sae::config::{InferenceArchitecture, ReshapeActivations, SaeConfig};
use cusae::sae::weights::{HostTensor, Weights};
use safetensors::Dtype;
use serde_json::{json, Value};
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/saes").join(name)
}

/// The names of all folders.
fn folders() -> Vec<String> {
    let all = std::fs::read_dir(data("")).unwrap().map(|entry| entry.unwrap());
    let folders = all.filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Equal but for one rounding of an f32.
fn assert_close(found: &Weights, expected: &Weights) {
    for ((name, found), (_, expected)) in found.iter().zip(expected.iter()) {
        assert_eq!(found.shape, expected.shape, "{name}");
        for (&a, &b) in found.values.iter().zip(&expected.values) {
            assert!((a - b).abs() <= 2.0 * f32::EPSILON * b.abs(), "{name}: {a} and {b}");
        }
    }
}

const TOPK_16: InferenceArchitecture = InferenceArchitecture::TopK { k: 16, rescale_acts_by_decoder_norm: false };

#[test]
fn every_setting_of_a_cfg_is_read() {
    let config = load_folder(&data("standard-constant_norm_rescale-nobdec")).unwrap().config;
    assert_eq!(config.architecture, InferenceArchitecture::Standard);
    assert_eq!((config.d_in, config.d_sae, config.dtype), (64, 256, Dtype::F32));
    assert!(!config.apply_b_dec_to_input);
    assert_eq!(config.normalize_activations, NormalizeActivations::ConstantNormRescale);
    assert_eq!(config.reshape_activations, ReshapeActivations::None);
    assert_eq!(config.hook_name(), Some("blocks.2.hook_resid_pre"));
    assert!(config.training_settings.is_empty());

    let config = load_folder(&data("topk-layer_norm-bdec-rescale")).unwrap().config;
    assert_eq!(config.architecture, InferenceArchitecture::TopK { k: 16, rescale_acts_by_decoder_norm: true });
    assert_eq!(config.normalize_activations, NormalizeActivations::LayerNorm);
    assert!(config.apply_b_dec_to_input);

    let config = load_folder(&data("standard-hook_z")).unwrap().config;
    assert_eq!(config.reshape_activations, ReshapeActivations::HookZ);
}

#[test]
fn whitening_that_saelens_leaves_to_training_does_nothing_here_either() {
    let folder = tempfile::tempdir().unwrap();
    let SavedParts { config, weights } = small();
    save_inference(folder.path(), &config, &weights, TrainingNotes::default()).unwrap();
    edit_cfg(folder.path(), |cfg| cfg["normalize_activations"] = "covariance_whitening".into());
    assert_eq!(load_folder(folder.path()).unwrap().config.normalize_activations, NormalizeActivations::None);
}

#[test]
fn folders_from_before_version_6_are_read() {
    let of = |name: &str| load_folder(&data(name)).unwrap().config;
    let config = of("legacy-res-jb");
    assert_eq!(config.architecture, InferenceArchitecture::Standard);
    assert_eq!(config.hook_name(), Some("blocks.2.hook_resid_pre"));
    assert!(config.apply_b_dec_to_input);
    assert_eq!(config.normalize_activations, NormalizeActivations::None);
    assert_eq!(config.metadata["prepend_bos"], true);
    assert_eq!(config.metadata["context_size"], 128);

    assert_eq!(of("legacy-v3-topk").architecture, TOPK_16);
    assert_eq!(of("legacy-v3-hook-z").reshape_activations, ReshapeActivations::HookZ);
    let scaled = of("legacy-v3-standard-normbool").normalize_activations;
    assert_eq!(scaled, NormalizeActivations::ExpectedAverageOnlyIn);
}

#[test]
fn a_scaling_factor_of_ones_is_left_out() {
    let with = TensorFile::open(data("legacy-res-jb/sae_weights.safetensors")).unwrap();
    assert!(with.contains("scaling_factor"));
    let weights = load_folder(&data("legacy-res-jb")).unwrap().weights;
    assert_eq!(weights.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["W_dec", "W_enc", "b_dec", "b_enc"]);
}

#[test]
fn the_inference_folder_of_a_checkpoint_is_the_one_saelens_writes() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = load_folder(&data("training-topk-checkpoint")).unwrap();
    save_inference(folder.path(), &checkpoint.config, &checkpoint.weights, TrainingNotes::default()).unwrap();
    assert_eq!(json(&folder.path().join("cfg.json")), json(&data("training-topk-inference/cfg.json")));
    let written = load_folder(folder.path()).unwrap();
    assert_close(&written.weights, &load_folder(&data("training-topk-inference")).unwrap().weights);
    for norm in written.weights.decoder_norms() {
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
}

#[test]
fn a_checkpoint_is_written_as_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = load_folder(&data("training-topk-checkpoint")).unwrap();
    save_training(folder.path(), &checkpoint.config, &checkpoint.weights, None, TrainingNotes::default()).unwrap();
    assert_eq!(json(&folder.path().join("cfg.json")), json(&data("training-topk-checkpoint/cfg.json")));
    assert_eq!(load_folder(folder.path()).unwrap(), checkpoint);
}

/// SAELens' BatchTopK after 50 steps, its threshold as it was then, and what SAELens saved of it.
#[test]
fn a_checkpoint_of_batchtopk_is_read_as_what_saelens_saves_of_it() {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/train/batchtopk-aux");
    let last = TensorFile::open(run.join("final.safetensors")).unwrap();
    let mut weights = Weights::default();
    for name in ["W_dec", "W_enc", "b_dec", "b_enc"] {
        weights.insert(name, tensor(last.shape(name).unwrap(), &last.f32(name).unwrap()));
    }
    let threshold = json(&run.join("trace.json"))[49]["topk_threshold_after"].as_f64();
    let settings = json(&run.join("config.json"))["sae"].clone();
    let mut config = SaeConfig::new(InferenceArchitecture::JumpRelu, 64, 256);
    config
        .set_training("batchtopk", settings["metadata"]["training_architecture_details"].as_object().unwrap().clone());

    let folder = tempfile::tempdir().unwrap();
    save_training(folder.path(), &config, &weights, threshold, TrainingNotes::default()).unwrap();
    let cfg = json(&folder.path().join("cfg.json"));
    assert_eq!((&cfg["architecture"], &cfg["k"]), (&json!("batchtopk"), &json!(8.0)));
    let file = TensorFile::open(folder.path().join("sae_weights.safetensors")).unwrap();
    assert!(!file.contains("threshold"));
    assert_eq!(
        (file.shape("topk_threshold").unwrap(), file.f64("topk_threshold").unwrap()[0]),
        (&[][..], threshold.unwrap())
    );

    let (read, saelens) = (load_folder(folder.path()).unwrap(), load_folder(&run.join("export")).unwrap());
    assert_eq!(read.config.architecture, saelens.config.architecture);
    for ((name, found), (_, expected)) in read.weights.iter().zip(saelens.weights.iter()) {
        let largest = expected.values.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        for (a, b) in found.values.iter().zip(&expected.values) {
            // Norms are summed in another order.
            assert!((a - b).abs() <= 4.0 * f32::EPSILON * largest, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn training_settings_stand_at_the_top_of_a_checkpoint_and_in_every_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let SavedParts { mut config, weights } = small();
    let Value::Object(settings) = json!({"l1_coefficient": 5.0, "lp_norm": 1.0}) else { unreachable!() };
    config.set_training("standard", settings);
    let details = json!({"l1_coefficient": 5.0, "lp_norm": 1.0});

    save_training(folder.path(), &config, &weights, None, TrainingNotes::default()).unwrap();
    let cfg = json(&folder.path().join("cfg.json"));
    assert_eq!(cfg["l1_coefficient"], 5.0);
    assert_eq!(cfg["metadata"]["training_architecture_details"], details);

    save_inference(folder.path(), &config, &weights, TrainingNotes::default()).unwrap();
    let cfg = json(&folder.path().join("cfg.json"));
    assert_eq!(cfg.get("l1_coefficient"), None);
    assert_eq!(cfg["metadata"]["training_architecture"], "standard");
    assert_eq!(cfg["metadata"]["training_architecture_details"], details);
}

#[test]
fn a_folder_that_does_not_name_a_version_is_written_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let legacy = load_folder(&data("legacy-v3-topk")).unwrap();
    save_inference(folder.path(), &legacy.config, &legacy.weights, TrainingNotes::default()).unwrap();
    let cfg = json(&folder.path().join("cfg.json"));
    assert_eq!(cfg["metadata"]["sae_lens_version"], "6.54.12");
    let mut keys: Vec<_> = cfg.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = "apply_b_dec_to_input architecture d_in d_sae device dtype k metadata normalize_activations \
                    rescale_acts_by_decoder_norm reshape_activations";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(load_folder(folder.path()).unwrap().config.architecture, TOPK_16);
}

#[test]
fn weights_are_written_and_read_in_the_dtype_of_the_cfg() {
    let folder = tempfile::tempdir().unwrap();
    let SavedParts { mut config, weights } = small();
    for dtype in [Dtype::F16, Dtype::BF16, Dtype::F64] {
        config.dtype = dtype;
        save_inference(folder.path(), &config, &weights, TrainingNotes::default()).unwrap();
        let file = TensorFile::open(folder.path().join("sae_weights.safetensors")).unwrap();
        assert_eq!(file.info("W_enc").unwrap().dtype, dtype);
        assert_eq!(load_folder(folder.path()).unwrap().weights.get("W_enc").values, file.f32("W_enc").unwrap());
    }
    // A float32 file whose cfg says bfloat16 is rounded as SAELens rounds it.
    let precise = 1.0 + f32::EPSILON;
    save_inference(folder.path(), &config, &weights, TrainingNotes::default()).unwrap();
    edit_cfg(folder.path(), |cfg| cfg["dtype"] = "torch.bfloat16".into());
    edit_weights(folder.path(), |weights| weights.insert("b_dec", tensor(&[3], &[precise, 0.5, -2.0])));
    assert_eq!(load_folder(folder.path()).unwrap().weights.get("b_dec").values, [1.0, 0.5, -2.0]);
}

#[test]
fn the_notes_of_a_run_are_written_and_the_sparsity_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let SavedParts { config, weights } = small();
    let sparsity = log_sparsity(&[0, 1, 50, 1000], 1000);
    // log10(1e-10), log10(1e-3), log10(0.05), log10(1), each within a rounding of f32.
    for (found, expected) in sparsity.iter().zip([-10.0, -3.0, -1.30103, 0.0]) {
        assert!((found - expected).abs() < 2e-6, "{found}, expected {expected}");
    }
    let runner_cfg = json!({"training_tokens": 1000});
    let notes = TrainingNotes { log_sparsity: Some(&sparsity), runner_cfg: Some(&runner_cfg) };
    save_inference(folder.path(), &config, &weights, notes).unwrap();
    assert_eq!(load_folder(folder.path()).unwrap().log_sparsity, Some(sparsity));
    assert_eq!(json(&folder.path().join("runner_cfg.json")), runner_cfg);
}

#[test]
fn folding_the_decoder_norms_gives_saelens_weights() {
    for architecture in ["standard", "gated", "jumprelu"] {
        let mut weights = load_folder(&data(&format!("{architecture}-fold-before"))).unwrap().weights;
        weights.fold_w_dec_norm();
        assert_close(&weights, &load_folder(&data(&format!("{architecture}-fold-after"))).unwrap().weights);
    }
}

/// But where decoder norms are folded on the way, or a normalisation is one that does nothing.
#[test]
fn every_architecture_is_written_as_it_was_read() {
    let others = ["legacy", "checkpoint", "whitening"];
    let inference = |name: &String| !others.iter().any(|other| name.contains(other));
    for name in folders().into_iter().filter(inference) {
        let folder = tempfile::tempdir().unwrap();
        let read = load_folder(&data(&name)).unwrap();
        if read.config.architecture.rescales_by_decoder_norm() {
            continue;
        }
        save_inference(folder.path(), &read.config, &read.weights, TrainingNotes::default()).unwrap();
        assert!(load_folder(folder.path()).unwrap() == read, "{name}");
        assert_eq!(json(&folder.path().join("cfg.json")), json(&data(&name).join("cfg.json")), "{name}");
    }
}

#[test]
fn folding_the_scaling_factor_gives_saelens_weights_and_cfg() {
    let mut before = load_folder(&data("standard-scalefold-before")).unwrap();
    before.weights.fold_activation_norm_scaling_factor(&mut before.config, 1.75);
    let after = load_folder(&data("standard-scalefold-after")).unwrap();
    assert_close(&before.weights, &after.weights);
    assert_eq!(before.config, after.config);
}

/// An SAE of d_in 3 and d_sae 4.
struct SavedParts {
    config: SaeConfig,
    weights: Weights,
}

fn tensor(shape: &[usize], values: &[f32]) -> HostTensor {
    HostTensor { shape: shape.to_vec(), values: values.to_vec() }
}

fn small() -> SavedParts {
    let ramp = |n: usize| (1..=n).map(|i| i as f32 / 7.0).collect::<Vec<f32>>();
    let mut weights = Weights::default();
    for (name, shape) in [("W_enc", vec![3, 4]), ("W_dec", vec![4, 3]), ("b_enc", vec![4]), ("b_dec", vec![3])] {
        let values = ramp(shape.iter().product());
        weights.insert(name, HostTensor { shape, values });
    }
    SavedParts { config: SaeConfig::new(InferenceArchitecture::Standard, 3, 4), weights }
}

fn edit_cfg(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("cfg.json");
    let mut cfg = json(&path);
    edit(&mut cfg);
    std::fs::write(path, cfg.to_string()).unwrap();
}

fn edit_weights(folder: &Path, edit: impl FnOnce(&mut Weights)) {
    let path = folder.join("sae_weights.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let mut weights = Weights::default();
    for name in file.names() {
        weights.insert(&name, tensor(file.shape(&name).unwrap(), &file.f32(&name).unwrap()));
    }
    edit(&mut weights);
    let named = weights.iter().map(|(name, t)| (name.to_string(), Tensor::f32(&t.shape, &t.values))).collect();
    tensors::save(&path, named).unwrap();
}

/// The sentence that refuses the small SAE after `damage` was done to its folder.
fn refusal(damage: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let SavedParts { config, weights } = small();
    save_inference(folder.path(), &config, &weights, TrainingNotes::default()).unwrap();
    load_folder(folder.path()).unwrap();
    damage(folder.path());
    let error = load_folder(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. } | Error::Format { .. }), "{error:?}");
    let message = error.to_string();
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn refusal_of_cfg(edit: impl FnOnce(&mut Value)) -> String {
    refusal(|folder| edit_cfg(folder, edit))
}

fn refusal_of_weights(edit: impl FnOnce(&mut Weights)) -> String {
    refusal(|folder| edit_weights(folder, edit))
}

#[test]
fn missing_files_are_named() {
    for name in ["cfg.json", "sae_weights.safetensors"] {
        let message = refusal(|folder| std::fs::remove_file(folder.join(name)).unwrap());
        assert!(message.starts_with(&format!("{name}: cannot ")), "{message}");
    }
}

#[test]
fn damaged_files_are_refused() {
    let cut = |name: &'static str, length: usize| {
        refusal(move |folder| {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            std::fs::write(folder.join(name), &bytes[..length]).unwrap();
        })
    };
    assert!(cut("cfg.json", 30).starts_with("cfg.json: not JSON: EOF"), "{}", cut("cfg.json", 30));
    let message = cut("sae_weights.safetensors", 200);
    assert!(message.starts_with("sae_weights.safetensors: not a whole safetensors file"), "{message}");
    let message = refusal(|folder| {
        // A header that claims 2^62 bytes.
        std::fs::write(folder.join("sae_weights.safetensors"), (1u64 << 62).to_le_bytes()).unwrap();
    });
    assert!(message.starts_with("sae_weights.safetensors: not a whole safetensors file"), "{message}");
}

#[test]
fn wrong_keys_are_named_with_what_is_possible() {
    let wrong = |key: &'static str, value: Value| refusal_of_cfg(move |cfg| cfg[key] = value);
    assert_eq!(wrong("d_in", json!(0)), "cfg.json: d_in is 0, expected a whole number above 0");
    assert_eq!(wrong("d_sae", json!("4")), "cfg.json: d_sae is \"4\", expected a whole number above 0");
    assert_eq!(
        wrong("dtype", json!("int8")),
        "cfg.json: dtype is \"int8\", expected float32, float64, float16 or bfloat16"
    );
    assert_eq!(wrong("apply_b_dec_to_input", json!(1)), "cfg.json: apply_b_dec_to_input is 1, expected true or false");
    assert_eq!(
        wrong("normalize_activations", json!("batch_norm")),
        "cfg.json: normalize_activations is \"batch_norm\", expected none, expected_average_only_in, \
         constant_norm_rescale, layer_norm"
    );
    let message = refusal_of_cfg(|cfg| {
        cfg["sae_lens_version"] = "6.1".into();
        cfg["metadata"] = 7.into();
    });
    assert_eq!(message, "cfg.json: metadata is 7, expected an object");
    assert_eq!(
        refusal_of_cfg(|cfg| {
            cfg.as_object_mut().unwrap().remove("d_in");
        }),
        "cfg.json: key d_in is missing; is this the cfg.json of an SAE?"
    );
}

#[test]
fn other_architectures_are_refused_by_name() {
    let of = |name: &'static str| refusal_of_cfg(move |cfg| cfg["architecture"] = name.into());
    let message = of("temporal");
    assert_eq!(message, "cfg.json: bottleneck_factor times n_heads is 512, expected a divisor of d_sae = 4");
    let message = of("nonsense");
    assert!(message.starts_with("cfg.json: architecture nonsense is not known; standard, gated, "), "{message}");
    let message = of("skip_transcoder");
    assert_eq!(message, "cfg.json: key d_out is missing; is this the cfg.json of an SAE?");
    let message = refusal_of_cfg(|cfg| {
        cfg["architecture"] = "transcoder".into();
        cfg["d_out"] = 3.into();
        cfg["apply_b_dec_to_input"] = true.into();
    });
    assert_eq!(
        message,
        "cfg.json: apply_b_dec_to_input is true, expected false: a transcoder's b_dec is of its output"
    );
}

#[test]
fn k_larger_than_d_sae_is_refused() {
    let with_k = |k: usize| {
        refusal_of_cfg(move |cfg| {
            cfg["architecture"] = "topk".into();
            cfg["k"] = k.into();
        })
    };
    assert_eq!(with_k(5), "cfg.json: k is 5, expected at most d_sae = 4");
}

#[test]
fn wrong_tensors_are_named() {
    assert_eq!(
        refusal_of_cfg(|cfg| cfg["d_sae"] = 5.into()),
        "sae_weights.safetensors: tensor W_dec has shape [4, 3], expected [5, 3]"
    );
    let missing = refusal(|folder| {
        let t = Tensor::f32(&[4, 3], &[1.0; 12]);
        tensors::save(&folder.join("sae_weights.safetensors"), vec![("W_dec".into(), t)]).unwrap();
    });
    assert_eq!(missing, "sae_weights.safetensors: tensor W_enc is missing; the file holds W_dec");
    assert_eq!(
        refusal_of_weights(|weights| weights.insert("threshold", tensor(&[4], &[0.0; 4]))),
        "sae_weights.safetensors: tensor threshold does not belong to architecture standard, which has \
         W_dec, W_enc, b_dec, b_enc"
    );
    assert!(refusal_of_weights(|weights| weights.insert("scaling_factor", tensor(&[3], &[1.0, 1.0, 2.0])))
        .contains("tensor scaling_factor is not all ones"));
    let wrong_dtype = refusal(|folder| {
        let path = folder.join("sae_weights.safetensors");
        let ids: Vec<(String, Tensor)> =
            [("W_dec", vec![4, 3]), ("W_enc", vec![3, 4]), ("b_dec", vec![3]), ("b_enc", vec![4])]
                .map(|(name, shape)| (name.into(), Tensor::i64(&shape, &vec![1; shape.iter().product()])))
                .to_vec();
        tensors::save(&path, ids).unwrap();
    });
    assert_eq!(wrong_dtype, "sae_weights.safetensors: tensor W_dec has dtype I64, expected F32, F16, BF16 or F64");
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let message = refusal_of_weights(|weights| weights.insert("b_enc", tensor(&[4], &[0.0, 0.0, value, 0.0])));
        assert!(
            message.starts_with(&format!("sae_weights.safetensors: tensor b_enc holds {shown} as its value number 2")),
            "{message}"
        );
    }
}
