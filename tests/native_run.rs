//! A whole run on the native backend, its kernels in the emulator: the CPU backend's run within
//! rounding, and itself bit for bit, with threads in another order and after an interruption.

use cusae::backend::{Backend, Cpu, Native};
use cusae::config::{Recipe, Sweep};
use cusae::error::Error;
use cusae::formats::tensors::{self, Tensor, TensorFile};
use cusae::random::{Random, Stream};
use cusae::train::progress::{Reporter, Silent, StepMetrics};
use cusae::train::{self, Options};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use tempfile::TempDir;

fn emulator(order: usize) -> Native {
    // SAFETY: the emulator's table is complete and constant.
    unsafe { Native::from_table(cusae_emu::table(), order) }.unwrap()
}

/// Stops the run after so many tokens.
struct Stopper {
    stop: Arc<AtomicBool>,
    after: u64,
}

impl Reporter for Stopper {
    fn step(&mut self, n_training_samples: u64) {
        self.stop.fetch_or(n_training_samples == self.after, Ordering::Relaxed);
    }
    fn message(&mut self, _: &str) {}
    fn start(&mut self, _: u64, _: u64) {}
    fn metrics(&mut self, _: &[StepMetrics]) {}
    fn finish(&mut self) {}
}

/// Trains into `out`, stopped after `after` tokens if that is ever reached.
fn train<B: Backend>(backend: &B, recipe: &Recipe, out: &Path, resume: bool, after: u64) -> Result<(), Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let options = Options { out: out.to_path_buf(), resume, stop: stop.clone() };
    train::run(backend, recipe, &options, &mut Stopper { stop, after }).map(|_| ())
}

/// Every file under a folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

fn assert_same_files(expected: &Path, found: &Path) {
    let (expected, found) = (files(expected), files(found));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(bytes == &found[name], "{} differs", name.display());
    }
}

/// All numbers of every line, by key.
fn lines(run: &Path) -> Vec<BTreeMap<String, f64>> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The devices add in other orders, so that every number is that of another float32 implementation:
/// `training_traces.rs` allows those 4e-6, ten times what float32 differs from float64 in SAELens.
/// Differences of nearly equal losses (`…_score`) lose some digits more.
fn assert_close_runs(cpu: &Path, native: &Path, lr: f64) {
    let (expected, found) = (lines(cpu), lines(native));
    assert_eq!(expected.len(), found.len());
    for (expected, found) in expected.iter().zip(&found) {
        assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        for (key, &wanted) in expected {
            let tolerance = if key.ends_with("_score") { 1e-4 } else { 4e-6 };
            let error = (found[key] - wanted).abs();
            assert!(error <= tolerance * wanted.abs(), "{key} of step {}: {} {wanted}", expected["step"], found[key]);
        }
    }
    // Adam divides a gradient by its size: where that is hardly more than rounding, so is the quotient, and
    // a weight moves by up to the rate the other way. The weights of few such steps differ by a small part of it.
    let [cpu, native] = [cpu, native].map(|run| TensorFile::open(run.join("sae_weights.safetensors")).unwrap());
    for name in cpu.names() {
        let [expected, found] = [&cpu, &native].map(|file| file.f32(&name).unwrap());
        let away = expected.iter().zip(&found).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        assert!(away < lr / 100.0, "{name} differs by {away:e}");
    }
}

/// A folder with what recipes name: a model of one block, tokens for it, and stored activations.
fn inputs() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config =
        r#"{"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 8}"#;
    fs::write(folder.path().join("config.json"), config).unwrap();
    let shapes: [(&str, &[usize]); 16] = [
        ("wte.weight", &[40, 16]),
        ("wpe.weight", &[8, 16]),
        ("h.0.ln_1.weight", &[16]),
        ("h.0.ln_1.bias", &[16]),
        ("h.0.attn.c_attn.weight", &[16, 48]),
        ("h.0.attn.c_attn.bias", &[48]),
        ("h.0.attn.c_proj.weight", &[16, 16]),
        ("h.0.attn.c_proj.bias", &[16]),
        ("h.0.ln_2.weight", &[16]),
        ("h.0.ln_2.bias", &[16]),
        ("h.0.mlp.c_fc.weight", &[16, 64]),
        ("h.0.mlp.c_fc.bias", &[64]),
        ("h.0.mlp.c_proj.weight", &[64, 16]),
        ("h.0.mlp.c_proj.bias", &[16]),
        ("ln_f.weight", &[16]),
        ("ln_f.bias", &[16]),
    ];
    let mut random = Random::new(1, Stream::Weights, 0);
    let mut values = |n: usize| -> Vec<f32> { (0..n).map(|_| 2.0 * random.uniform() - 1.0).collect() };
    let tensors: Vec<_> = shapes.map(|(name, shape)| (name, shape, values(shape.iter().product()))).into();
    let mut rows = values(400 * 16);
    // One of the dimensions stands out in each row, so that few latents can explain it.
    (0..400).for_each(|row| rows[row * 16 + row * 7 % 16] = 8.0);
    let named = tensors.iter().map(|(name, shape, values)| (name.to_string(), Tensor::f32(shape, values)));
    tensors::save(&folder.path().join("model.safetensors"), named.collect()).unwrap();
    let rows = vec![("rows".into(), Tensor::f32(&[400, 16], &rows))];
    tensors::save(&folder.path().join("rows.safetensors"), rows).unwrap();
    let tokens: Vec<u32> = (0..200 * 8).map(|_| random.below(40)).collect();
    let tokens = vec![("tokens".into(), Tensor::u32(&[200, 8], &tokens))];
    tensors::save(&folder.path().join("tokens.safetensors"), tokens).unwrap();
    folder
}

/// Runs a recipe, in which FOLDER stands for that of [`inputs`], in every way; gives the CPU's log.
fn whole_run(toml: &str) -> Vec<BTreeMap<String, f64>> {
    let folder = inputs();
    let at = |name: &str| folder.path().join(name);
    let toml = toml.replace("FOLDER", folder.path().to_str().unwrap());
    let recipe = Recipe::from_toml(Path::new("recipe.toml"), &toml).unwrap();
    train(&Cpu, &recipe, &at("cpu"), false, u64::MAX).unwrap();
    train(&emulator(0), &recipe, &at("native"), false, u64::MAX).unwrap();
    assert_close_runs(&at("cpu"), &at("native"), recipe.lr);

    train(&emulator(1), &recipe, &at("again"), false, u64::MAX).unwrap();
    assert_same_files(&at("native"), &at("again"));

    let half = (recipe.total_training_steps() / 2 * recipe.train_batch_size_tokens) as u64;
    let interrupted = train(&emulator(0), &recipe, &at("stopped"), false, half);
    assert!(matches!(interrupted, Err(Error::Interrupted(_))));
    train(&emulator(0), &recipe, &at("stopped"), true, u64::MAX).unwrap();
    assert_same_files(&at("native"), &at("stopped"));
    lines(&at("cpu"))
}

const ON_A_MODEL: &str = r#"
    model_name = "FOLDER"
    hook_name = "blocks.0.hook_resid_post"
    dataset_path = "FOLDER/tokens.safetensors"
    context_size = 8
    d_sae = 96
    k = 4
    feature_sampling_window = 9
    train_batch_size_tokens = 40
    training_tokens = 1000
    buffer_tokens = 120
    store_batch_size_prompts = 15
    n_eval_batches = 1
    eval_batch_size_prompts = 2
    eval_every_n_steps = 15
    log_every = 1
    tensorboard = false
"#;

/// The same of a transcoder of the model's MLP.
fn on_the_mlp() -> String {
    let hooks = "hook_name = \"blocks.0.ln2.hook_normalized\"\nhook_name_out = \"blocks.0.hook_mlp_out\"\n";
    ON_A_MODEL.replace("hook_name = \"blocks.0.hook_resid_post\"\n", hooks)
}

#[test]
fn topk_with_auxk_on_a_model() {
    let log = whole_run(&format!("{ON_A_MODEL}dead_feature_window = 3"));
    assert!(log.iter().any(|line| line["losses/auxiliary_reconstruction_loss"] > 0.0), "AuxK was at work");
    assert!(log.iter().any(|line| line.contains_key("model_performance_preservation/ce_loss_score")));
}

#[test]
fn every_sae_of_a_sweep_is_bit_for_bit_that_of_its_own_run() {
    let folder = inputs();
    let at = |name: &str| folder.path().join(name);
    let toml = r#"
        model_name = "FOLDER"
        hook_name = ["blocks.0.hook_attn_out", "blocks.0.hook_resid_post"]
        k = [2, 4]
        sweep = "zip"
        dataset_path = "FOLDER/tokens.safetensors"
        context_size = 8
        d_sae = 96
        dead_feature_window = 3
        train_batch_size_tokens = 40
        training_tokens = 600
        buffer_tokens = 120
        store_batch_size_prompts = 15
        n_eval_batches = 1
        eval_batch_size_prompts = 2
        log_every = 1
        tensorboard = false
        "#;
    let toml = toml.replace("FOLDER", folder.path().to_str().unwrap());
    let sweep = Sweep::from_toml(Path::new("recipe.toml"), &toml).unwrap();
    let options = Options { out: at("all"), ..Options::default() };
    train::run_sweep(&emulator(0), &sweep, &options, &mut Silent).unwrap();
    for member in sweep.members().unwrap() {
        train(&emulator(0), &member.recipe, &at("own").join(&member.name), false, u64::MAX).unwrap();
        fs::remove_dir_all(at("own").join(&member.name).join("checkpoints")).unwrap();
        assert_same_files(&at("own").join(&member.name), &at("all").join(&member.name));
    }
}

#[test]
fn standard_on_stored_activations() {
    let log = whole_run(
        r#"
        architecture = "standard"
        cached_activations_path = "FOLDER/rows.safetensors"
        normalize_activations = "expected_average_only_in"
        n_batches_for_norm_estimate = 2
        l1_coefficient = 5
        lr = 0.01
        d_sae = 64
        train_batch_size_tokens = 40
        training_tokens = 2400
        log_every = 1
        tensorboard = false
        "#,
    );
    let lists = |line: &BTreeMap<String, f64>| line["metrics/l0"] <= 64.0 / 16.0;
    assert!(!lists(&log[0]) && lists(&log[29]), "dense at first, lists when the run is interrupted");
}

const ON_STORED_ACTIVATIONS: &str = r#"
    cached_activations_path = "FOLDER/rows.safetensors"
    d_sae = 64
    train_batch_size_tokens = 40
    training_tokens = 1600
    dead_feature_window = 3
    log_every = 1
    tensorboard = false
"#;

/// A run on stored activations, in every way.
fn on_stored_activations(settings: &str) -> Vec<BTreeMap<String, f64>> {
    whole_run(&format!("{ON_STORED_ACTIVATIONS}\n{settings}"))
}

#[test]
fn gated() {
    let log = on_stored_activations("architecture = \"gated\"\nlr = 0.01");
    assert!(log.iter().all(|line| line["losses/auxiliary_reconstruction_loss"] > 0.0));
    assert_eq!(log[39]["details/l1_coefficient"], 1.0);
}

#[test]
fn jumprelu_with_all_of_its_losses() {
    let log = on_stored_activations(
        "architecture = \"jumprelu\"\nlr = 0.02\njumprelu_sparsity_loss_mode = \"tanh\"\nl0_coefficient = 5\n\
         jumprelu_ste_to_input = true\npre_act_loss_coefficient = 0.1",
    );
    assert_eq!(log[39]["details/l0_coefficient"], 5.0);
    assert!(log.iter().any(|line| line["losses/pre_act_loss"] > 0.0), "some latents are dead");
}

#[test]
fn jumprelu_with_a_target() {
    on_stored_activations(
        "architecture = \"jumprelu\"\njumprelu_sparsity_loss_mode = \"quadratic\"\ntarget_l0 = 5\n\
         normalize_activations = \"layer_norm\"",
    );
}

#[test]
fn abstopk_with_an_average_of_its_weights() {
    let log = on_stored_activations("architecture = \"abstopk\"\nk = 4\nema_decay = 0.9");
    assert_eq!(log[39]["metrics/l0"], 4.0);
}

#[test]
fn topk_with_a_decoder_of_norm_one_a_k_that_moves_and_resampling() {
    let log = on_stored_activations(
        "k = 4\nk_start = 8\nk_anneal_steps = 20\nnormalize_sae_decoder = true\nresample_every = 7\n\
         aux_loss_coefficient = 0\nema_decay = 0.9",
    );
    assert_eq!([0, 10, 39].map(|line| log[line]["metrics/l0"]), [8.0, 6.0, 4.0]);
    let dead = |line: &BTreeMap<String, f64>| line["sparsity/dead_features"];
    assert!(log.windows(2).any(|lines| dead(&lines[0]) > 0.0 && dead(&lines[1]) == 0.0), "some were resampled");
}

/// Dead latents start again every seven steps, from inputs of the three batches before.
#[test]
fn a_transcoder_with_resampling() {
    let log = whole_run(&format!(
        "{}dead_feature_window = 2\narchitecture = \"transcoder\"\nl1_coefficient = 5\nlr = 0.01\nresample_every = 7\n\
         resample_batches = 3",
        on_the_mlp()
    ));
    let dead = |line: &BTreeMap<String, f64>| line["sparsity/dead_features"];
    assert!(log.windows(2).any(|lines| dead(&lines[0]) > 0.0 && dead(&lines[1]) == 0.0), "some were resampled");
}

#[test]
fn gated_with_a_target() {
    let log = on_stored_activations("architecture = \"gated\"\nlr = 0.01\ntarget_l0 = 4\nl1_coefficient = 0.5");
    assert!(log[39]["details/l1_coefficient"] > 0.5);
}

#[test]
fn batchtopk_with_a_part_of_a_latent() {
    let log = on_stored_activations(
        "architecture = \"batchtopk\"\nk = 2.5\nnormalize_activations = \"expected_average_only_in\"\n\
         n_batches_for_norm_estimate = 2",
    );
    assert_eq!(log[39]["metrics/l0"], 2.5);
    assert!(log[39]["metrics/topk_threshold"] > log[0]["metrics/topk_threshold"]);
}

#[test]
fn matryoshka_with_an_auxk_for_every_width() {
    let log = on_stored_activations(
        "architecture = \"matryoshka_batchtopk\"\nk = 4\nmatryoshka_widths = [8, 24]\nuse_matryoshka_aux_loss = true",
    );
    assert!(log[39]["losses/inner_mse_loss_8"] > log[39]["losses/inner_mse_loss_24"]);
    assert!(log.iter().any(|line| line["losses/auxiliary_reconstruction_loss"] > 0.0), "AuxK was at work");
}

/// The largest part by which `mse_loss` of some step of two runs differs.
fn loss_difference(a: &Path, b: &Path) -> f64 {
    let losses = |run| lines(run).into_iter().map(|line| line["losses/mse_loss"]).collect::<Vec<_>>();
    let (a, b) = (losses(a), losses(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max)
}

/// One device's rounding to f32 can let an operand's rounding to bf16 go the other way, by up to 2^-8 of it:
/// so far may losses be apart. From the run in f32 all operands are off by up to 2^-9, of the model and the
/// encoder, and a choice among near values may fall otherwise: a few percent.
/// Lists and AuxK, gradients that are written, gates, dense features; in 15 steps, as far apart as below.
#[test]
fn autocast_of_gradients() {
    let settings = [
        "architecture = \"topk\"\nk = 4",
        "architecture = \"topk\"\nk = 4\nnormalize_sae_decoder = true",
        "architecture = \"gated\"",
        "architecture = \"standard\"\nl1_coefficient = 2",
    ];
    for settings in settings {
        let folder = inputs();
        let at = |name: &str| folder.path().join(name);
        let toml = format!("{ON_STORED_ACTIVATIONS}\n{settings}\nlr = 0.001\n");
        let toml = toml.replace("FOLDER", folder.path().to_str().unwrap()).replace("= 1600", "= 600");
        let recipe = |more: &str| Recipe::from_toml(Path::new("recipe.toml"), &(toml.clone() + more)).unwrap();
        train(&Cpu, &recipe(""), &at("f32"), false, u64::MAX).unwrap();
        let in_bf16 = recipe("autocast = true");
        train(&Cpu, &in_bf16, &at("cpu"), false, u64::MAX).unwrap();
        let from_f32 = loss_difference(&at("f32"), &at("cpu"));
        assert!(0.0 < from_f32 && from_f32 < 0.05, "{settings}: bf16 differs from f32 by {from_f32}");
        for (device, name) in [(0, "hopper"), (8, "portable")] {
            train(&emulator(device), &in_bf16, &at(name), false, u64::MAX).unwrap();
            let from_cpu = loss_difference(&at("cpu"), &at(name));
            assert!(from_cpu < 1.0 / 256.0, "{settings}: {name} differs from the CPU by {from_cpu}");
        }
    }
}

#[test]
fn autocast_of_the_encoder_and_of_the_model() {
    let folder = inputs();
    let at = |name: &str| folder.path().join(name);
    let toml = format!("{ON_A_MODEL}dead_feature_window = 30\n").replace("FOLDER", folder.path().to_str().unwrap());
    let recipe = |more: &str| Recipe::from_toml(Path::new("recipe.toml"), &(toml.clone() + more)).unwrap();
    let (in_f32, in_bf16) = (recipe(""), recipe("autocast = true\nautocast_lm = true"));
    train(&Cpu, &in_f32, &at("f32"), false, u64::MAX).unwrap();
    train(&Cpu, &in_bf16, &at("cpu"), false, u64::MAX).unwrap();
    let from_f32 = loss_difference(&at("f32"), &at("cpu"));
    assert!(0.0 < from_f32 && from_f32 < 0.05, "bf16 differs from f32 by {from_f32}");

    // The paths of a Hopper GPU and of an older one.
    for (device, name) in [(0, "hopper"), (8, "portable")] {
        train(&emulator(device), &in_bf16, &at(name), false, u64::MAX).unwrap();
        let from_cpu = loss_difference(&at("cpu"), &at(name));
        assert!(from_cpu < 1.0 / 256.0, "{name} differs from the CPU by {from_cpu}");
    }

    for (name, device) in [("stopped cpu", None), ("stopped hopper", Some(0))] {
        let half = (recipe("").total_training_steps() / 2 * 40) as u64;
        for (resume, after) in [(false, half), (true, u64::MAX)] {
            let done = match device {
                None => train(&Cpu, &in_bf16, &at(name), resume, after),
                Some(device) => train(&emulator(device), &in_bf16, &at(name), resume, after),
            };
            assert_eq!(done.is_ok(), resume);
        }
        assert_same_files(&at(name.strip_prefix("stopped ").unwrap()), &at(name));
    }
}
