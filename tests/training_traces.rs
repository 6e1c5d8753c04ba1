//! The training step reproduces SAELens' own trainer, step by step: 50 steps on fixed batches on the
//! CPU backend, the first five with the GPU's kernels, in the emulator and on a GPU where there is one.
//!
//! Tolerances: SAELens in float32 and in float64 differ by at most 4e-7 (relative) in every loss
//! term and 7e-7 in the final weights; a second float32 implementation gets ten times that.
//! Counts are equal, but that one of the 32,768 pre-activations of a ReLU step may lie on the
//! other side of zero, by less than a rounding.

mod devices;

use cusae::backend::{Backend, Cpu};
use cusae::config::{NormalizeActivations, Recipe};
use cusae::formats::tensors::TensorFile;
use cusae::sae::architecture::ArchitectureConfig;
use cusae::sae::config::InferenceArchitecture;
use cusae::sae::kind;
use cusae::sae::standard::StandardConfig;
use cusae::sae::step::{StepSettings, TrainingConfig, TrainingSae};
use cusae::sae::weights::{HostTensor, Weights};
use cusae::train::schedule::{coefficient, LearningRate};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from("tests/data/train").join(name)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The parameters of a run.
fn names(config: &Value) -> Vec<&str> {
    config["parameter_names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// One of SAELens' runs: its files, and our SAE standing where it started.
struct Run<B: Backend> {
    backend: B,
    name: &'static str,
    config: Value,
    batches: Vec<Vec<f32>>,
    sae: TrainingSae<B>,
    schedule: LearningRate,
}

fn weights(file: &TensorFile, prefix: &str, names: &[&str]) -> Weights {
    let mut weights = Weights::default();
    for name in names {
        let full = format!("{prefix}{name}");
        let shape = file.shape(&full).unwrap().to_vec();
        weights.insert(name, HostTensor { shape, values: file.f32(&full).unwrap() });
    }
    weights
}

/// The recipe with SAELens' settings of the run's architecture, by their names.
fn recipe(config: &Value) -> Recipe {
    let architecture = config["architecture"].as_str().unwrap().parse().unwrap();
    let mut recipe = Recipe { architecture, ..Recipe::default() };
    for (key, value) in config["sae"].as_object().unwrap() {
        let is_known = Recipe::keys().iter().any(|known| known.name == key);
        if is_known && !value.is_null() {
            recipe.set(key, &toml::Value::try_from(value).unwrap()).unwrap();
        }
    }
    recipe
}

/// What a checkpoint's `cfg.json` holds besides what every SAE has: SAELens' keys and values.
#[test]
fn training_settings_are_those_of_saelens() {
    for name in ["standard", "gated", "jumprelu-tanh", "topk-aux", "abstopk-aux", "batchtopk-aux", "matryoshka-aux"]
        .into_iter()
        .chain(["matching_pursuit"])
    {
        let config = json(data(name).join("config.json"));
        let (mut theirs, recipe) = (config["sae"].as_object().unwrap().clone(), recipe(&config));
        let mut ours = kind::of(&recipe).training_settings(&recipe).as_object().unwrap().clone();
        if let InferenceArchitecture::TopK { k, rescale_acts_by_decoder_norm }
        | InferenceArchitecture::AbsTopK { k, rescale_acts_by_decoder_norm } = kind::of(&recipe).inference(&recipe)
        {
            ours.insert("k".into(), k.into());
            ours.insert("rescale_acts_by_decoder_norm".into(), rescale_acts_by_decoder_norm.into());
        }
        if let InferenceArchitecture::MatchingPursuit(pursuit) = kind::of(&recipe).inference(&recipe) {
            ours.insert("residual_threshold".into(), pursuit.residual_threshold.into());
            ours.insert("max_iterations".into(), pursuit.max_iterations.into());
            ours.insert("stop_on_duplicate_support".into(), pursuit.stop_on_duplicate_support.into());
        }
        for of_all in "d_in d_sae dtype device apply_b_dec_to_input normalize_activations reshape_activations \
                       metadata architecture decoder_init_norm"
            .split_whitespace()
        {
            theirs.remove(of_all).unwrap();
        }
        // It says how SAELens multiplies, and changes no number.
        theirs.remove("use_sparse_activations");
        ours.remove("use_sparse_activations");
        let as_numbers = |settings: serde_json::Map<String, Value>| -> BTreeMap<String, Value> {
            let number = |value: Value| value.as_f64().map_or(value, Value::from);
            settings.into_iter().map(|(key, value)| (key, number(value))).collect()
        };
        assert_eq!(as_numbers(ours), as_numbers(theirs), "{name}");
    }
}

impl<B: Backend> Run<B> {
    fn new(backend: B, name: &'static str) -> Run<B> {
        let config = json(data(name).join("config.json"));
        let (sae, trainer) = (&config["sae"], &config["trainer"]);
        let number = |value: &Value| value.as_f64().unwrap();
        let training = TrainingConfig {
            architecture: kind::of(&recipe(&config)).config(&recipe(&config)),
            d_in: 64,
            d_sae: 256,
            train_batch_size_tokens: 128,
            apply_b_dec_to_input: sae["apply_b_dec_to_input"].as_bool().unwrap(),
            normalize_activations: sae["normalize_activations"]
                .as_str()
                .unwrap()
                .parse::<NormalizeActivations>()
                .unwrap(),
            adam_beta1: number(&trainer["adam_beta1"]),
            adam_beta2: number(&trainer["adam_beta2"]),
            adam_epsilon: number(&config["adam_eps"]),
            max_grad_norm: Some(number(&config["grad_clip_max_norm"]) as f32),
            autocast: false,
            dead_feature_window: number(&trainer["dead_feature_window"]) as u32,
        };
        let schedule = LearningRate {
            scheduler: trainer["lr_scheduler_name"].as_str().unwrap().parse().unwrap(),
            lr: number(&trainer["lr"]),
            lr_end: number(&trainer["lr_end"]),
            warm_up_steps: number(&trainer["lr_warm_up_steps"]) as u64,
            decay_steps: number(&trainer["lr_decay_steps"]) as u64,
            n_restart_cycles: number(&trainer["n_restart_cycles"]) as u64,
            total_steps: number(&config["total_training_steps"]) as u64,
        };
        let initial = TensorFile::open(data(name).join("initial.safetensors")).unwrap();
        let mut sae = TrainingSae::new(&backend, training, &weights(&initial, "", &names(&config))).unwrap();
        sae.input_scale = config["activation_scaler"]["scaling_factor"].as_f64().unwrap_or(1.0) as f32;
        let scale = number(&config["batch_scale"]) as f32;
        let all = TensorFile::open(data("data.safetensors")).unwrap().f32("batches").unwrap();
        let batches = all.chunks(128 * 64).map(|batch| batch.iter().map(|x| x * scale).collect()).collect();
        Run { backend, name, config, batches, sae, schedule }
    }

    fn settings(&self, step: u64) -> StepSettings {
        let coefficient = self.config["coefficients"].as_object().unwrap().values().next().map_or(0.0, |of| {
            coefficient(of["final_value"].as_f64().unwrap(), of["warm_up_steps"].as_u64().unwrap(), step)
        });
        StepSettings { lr: self.schedule.at(step), coefficient }
    }

    /// Final weights, moments and counts. The row of a latent that crossed zero is left out.
    fn compare_with_final(&self) {
        let last = self.open("final.safetensors");
        let theirs = last.f32("act_freq_scores").unwrap();
        let ours: Vec<f32> =
            self.backend.download(&self.sae.firing.fired_count).unwrap().iter().map(|&n| n as f32).collect();
        let crossed: Vec<usize> = (0..256).filter(|&latent| ours[latent] != theirs[latent]).collect();
        assert!(crossed.len() as f64 <= self.border_crossings(), "{}: latents {crossed:?} differ in count", self.name);
        self.assert_close("act_freq_scores", &ours, &theirs, crossed.len() as f32);
        let ours: Vec<f32> =
            self.backend.download(&self.sae.firing.since_fired).unwrap().iter().map(|&n| n as f32).collect();
        self.assert_close("since_fired", &ours, &last.f32("n_forward_passes_since_fired").unwrap(), 0.0);

        let sae = &self.sae;
        for (prefix, named) in [("", &sae.values), ("exp_avg.", &sae.exp_avg), ("exp_avg_sq.", &sae.exp_avg_sq)] {
            let ours = named.download(&self.backend, 64).unwrap();
            for (name, tensor) in ours.iter() {
                let expected = last.f32(&format!("{prefix}{name}")).unwrap();
                let tolerance = if prefix.is_empty() { 1e-5 } else { 1e-4 * largest(&expected) };
                let mut values = tensor.values.clone();
                for &latent in &crossed {
                    let of_latent: Vec<usize> = match name {
                        "W_enc" => (0..64).map(|d| d * 256 + latent).collect(),
                        "W_dec" => (latent * 64..(latent + 1) * 64).collect(),
                        "b_dec" => vec![],
                        _ => vec![latent],
                    };
                    of_latent.into_iter().for_each(|i| values[i] = expected[i]);
                }
                self.assert_close(&format!("final {prefix}{name}"), &values, &expected, tolerance);
            }
        }
    }

    /// How many activations of a step may round to the other side of zero.
    fn border_crossings(&self) -> f64 {
        f64::from(u8::from(self.name.starts_with("standard")))
    }

    fn open(&self, file: &str) -> TensorFile {
        TensorFile::open(data(self.name).join(file)).unwrap()
    }

    fn assert_close(&self, what: &str, ours: &[f32], expected: &[f32], tolerance: f32) {
        assert_close(self.name, what, ours, expected, tolerance);
    }
}

fn assert_close(name: &str, what: &str, ours: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), expected.len(), "{name} {what}");
    let worst = ours.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "{name} {what}: off by {worst:e}, allowed {tolerance:e}");
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

/// The first steps of SAELens' run.
fn reproduces_steps<B: Backend>(backend: B, name: &'static str, steps: usize, writes_gradients: bool) -> Run<B> {
    let mut run = Run::new(backend, name);
    run.sae.write_all_gradients(writes_gradients);
    let trace = json(data(name).join("trace.json"));
    for (step, expected) in trace.as_array().unwrap().iter().enumerate().take(steps) {
        let settings = run.settings(step as u64);
        let lr = expected["lr"].as_f64().unwrap();
        assert!((settings.lr - lr).abs() < 1e-12, "{name} step {step}: lr {} for {lr}", settings.lr);
        let batch = run.backend.upload(&run.batches[step]).unwrap();
        run.sae.step(&batch, &settings).unwrap();
        let report = run.sae.report(false).unwrap();
        let terms = expected["losses"].as_object().unwrap();
        assert_eq!(terms.len(), report.losses.len(), "{name}");
        for (term, ours) in &report.losses {
            let theirs = terms[&**term].as_f64().unwrap();
            let allowed = (theirs.abs() * 1e-5).max(1e-6);
            assert!((ours - theirs).abs() <= allowed, "{name} step {step} {term}: {ours} for {theirs}");
        }
        let (l0, border) = (expected["l0"].as_f64().unwrap(), run.border_crossings() / 128.0);
        assert!((report.l0 - l0).abs() <= border, "{name} step {step}: l0 {} for {l0}", report.l0);
        assert_eq!(report.n_dead as u64, expected["n_dead"].as_u64().unwrap(), "{name} step {step}: n_dead");
        let norm = expected["grad_norm"].as_f64().unwrap();
        // An activation that crosses zero switches its sparsity gradient, coefficient * |W_dec_i| / B.
        let allowed = if report.l0 == l0 { 1e-5 } else { 1e-4 };
        let ours = report.grad_norm;
        assert!((ours / norm - 1.0).abs() < allowed, "{name} step {step}: grad_norm {ours} for {norm}");
        if let Some(threshold) = expected["topk_threshold_after"].as_f64() {
            let ours = run.sae.architecture_state().unwrap()[0];
            assert!((ours / threshold - 1.0).abs() < 1e-5, "{name} step {step}: threshold {ours} for {threshold}");
        }
    }
    run
}

fn reproduces(name: &'static str) {
    for writes_gradients in [true, false] {
        reproduces_steps(Cpu, name, usize::MAX, writes_gradients).compare_with_final();
    }
}

/// The kernels: twice the same bits.
fn kernels_reproduce(name: &'static str, steps: usize) {
    devices::devices(&[1]).into_iter().for_each(|device| kernels_reproduce_on(device, name, steps));
}

fn kernels_reproduce_on<B: Backend>(device: B, name: &'static str, steps: usize) {
    let runs = [(); 2].map(|()| reproduces_steps(device.clone(), name, steps, false)).map(|run| {
        let bits = |weights: Weights| {
            let tensors = weights.iter().map(|(_, tensor)| tensor.values.iter().map(|x| x.to_bits()).collect());
            tensors.collect::<Vec<Vec<u32>>>()
        };
        [&run.sae.values, &run.sae.exp_avg, &run.sae.exp_avg_sq]
            .map(|named| bits(named.download(&run.backend, 64).unwrap()))
    });
    assert!(runs[0] == runs[1], "{name}: two runs differ");
}

/// From SAELens' state before step 25: the gradients and the weights after it.
fn one_step_on<B: Backend>(backend: B, name: &'static str) {
    let run = Run::new(backend.clone(), name);
    let names = names(&run.config);
    let step = run.open("step_25.safetensors");
    let config = run.sae.config().clone();
    let mut sae = TrainingSae::new(&backend, config, &weights(&step, "before.", &names)).unwrap();
    for (prefix, named) in [("before.exp_avg.", &mut sae.exp_avg), ("before.exp_avg_sq.", &mut sae.exp_avg_sq)] {
        *named = cusae::sae::parameters::Named::upload(&backend, &weights(&step, prefix, &names)).unwrap();
    }
    let since = step.f32("before.n_forward_passes_since_fired").unwrap();
    let since: Vec<u32> = since.iter().map(|&n| n as u32).collect();
    sae.firing.since_fired = backend.upload(&since).unwrap();
    sae.n_training_steps = 25;
    sae.write_all_gradients(true);
    let batch = backend.upload(&run.batches[25]).unwrap();
    sae.step(&batch, &run.settings(25)).unwrap();
    let (gradients, after) =
        (sae.gradients().download(&backend, 64).unwrap(), sae.values.download(&backend, 64).unwrap());
    for name in names {
        let expected = step.f32(&format!("grad.{name}")).unwrap();
        run.assert_close(
            &format!("gradient of {name}"),
            &gradients.get(name).values,
            &expected,
            1e-5 * largest(&expected),
        );
        let expected = step.f32(&format!("after.{name}")).unwrap();
        run.assert_close(&format!("{name} after step 25"), &after.get(name).values, &expected, 1e-6);
    }
}

/// Gradients that are written, and those that are summed where Adam uses them: only the squares of their norm are
/// added in another order, whose last bit a factor may keep.
fn same_with_gradients_kept_on<B: Backend>(backend: B, name: &'static str, steps: usize) {
    let [kept, summed] = [true, false].map(|writes| {
        let mut run = Run::new(backend.clone(), name);
        run.sae.write_all_gradients(writes);
        for step in 0..steps {
            let batch = run.backend.upload(&run.batches[step]).unwrap();
            run.sae.step(&batch, &run.settings(step as u64)).unwrap();
        }
        run
    });
    let weights = |sae: &TrainingSae<B>| {
        [&sae.values, &sae.exp_avg, &sae.exp_avg_sq].map(|named| named.download(&backend, 64).unwrap())
    };
    for (kept, summed) in weights(&kept.sae).iter().zip(weights(&summed.sae)) {
        for (tensor, expected) in kept.iter().zip(summed.iter()) {
            let tolerance = 1e-6 * largest(&expected.1.values);
            assert_close(name, tensor.0, &tensor.1.values, &expected.1.values, tolerance);
        }
    }
}

fn same_with_gradients_kept(name: &'static str) {
    same_with_gradients_kept_on(Cpu, name, 30);
}

fn same_with_gradients_kept_of_kernels(name: &'static str) {
    devices::devices(&[1]).into_iter().for_each(|device| same_with_gradients_kept_on(device, name, 4));
}

/// All latents are silent, so that every row is reconstructed as b_dec = [1, 0]. The rows' mean is
/// [2, 1]: squared distances from it are 5, 1 and 8, from b_dec 1, 1 and 18.
#[test]
fn explained_variance_is_that_of_saelens() {
    let mut weights = Weights::default();
    for (name, shape, values) in [
        ("W_enc", vec![2, 1], vec![0.0, 0.0]),
        ("b_enc", vec![1], vec![-1.0]),
        ("W_dec", vec![1, 2], vec![1.0, 0.0]),
        ("b_dec", vec![2], vec![1.0, 0.0]),
    ] {
        weights.insert(name, HostTensor { shape, values });
    }
    let config = TrainingConfig {
        architecture: ArchitectureConfig::Standard(StandardConfig { lp_norm: 1.0 }),
        d_in: 2,
        d_sae: 1,
        train_batch_size_tokens: 3,
        apply_b_dec_to_input: true,
        normalize_activations: NormalizeActivations::None,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: None,
        autocast: false,
        dead_feature_window: 10,
    };
    let mut sae = TrainingSae::new(&Cpu, config, &weights).unwrap();
    let settings = StepSettings { lr: 0.0, coefficient: 0.0 };
    sae.step(&vec![0.0, 0.0, 2.0, 0.0, 4.0, 3.0], &settings).unwrap();
    let report = sae.report(true).unwrap();
    assert_eq!(report.losses[0], ("mse_loss".into(), 20.0 / 3.0));
    let variance = report.explained_variance.unwrap();
    assert_eq!(variance.pooled, 1.0 - 20.0 / 14.0);
    // The rows' ratios are 0.8, 0 and -1.25: their mean, and their deviation with n - 1.
    assert!((variance.legacy_mean + 0.15).abs() < 1e-12, "{variance:?}");
    assert!((variance.legacy_std - 1.0675f64.sqrt()).abs() < 1e-12, "{variance:?}");
}

fn one_step(name: &'static str) {
    one_step_on(Cpu, name);
}

fn one_step_of_kernels(name: &'static str) {
    devices::devices(&[1]).into_iter().for_each(|device| one_step_on(device, name));
}

macro_rules! traces {
    ($($test:ident: $check:ident($($argument:literal),*);)*) => {
        $(#[test]
        fn $test() {
            $check($($argument),*);
        })*
    };
}

traces! {
    standard_with_l1_warm_up: reproduces("standard");
    standard_without_b_dec_on_the_input: reproduces("standard-plain");
    standard_with_l2_norm_and_cosine_schedule: reproduces("standard-lp2-cosine");
    standard_with_warm_restarts: reproduces("standard-warmrestarts");
    standard_when_the_clip_never_acts: reproduces("standard-noclip");
    standard_with_expected_average_only_in: reproduces("standard-eaoi");
    standard_with_layer_norm: reproduces("standard-layernorm");
    topk: reproduces("topk");
    topk_with_auxk: reproduces("topk-aux");
    topk_with_auxk_without_rescale: reproduces("topk-aux-norescale");
    abstopk_with_auxk: reproduces("abstopk-aux");
    batchtopk: reproduces("batchtopk");
    batchtopk_with_auxk: reproduces("batchtopk-aux");
    matryoshka: reproduces("matryoshka");
    matryoshka_with_auxk_for_every_level: reproduces("matryoshka-aux");
    gated: reproduces("gated");
    jumprelu: reproduces("jumprelu");
    jumprelu_with_tanh_and_pre_act_loss: reproduces("jumprelu-tanh");
    jumprelu_with_a_target: reproduces("jumprelu-quadratic");
    matching_pursuit: reproduces("matching_pursuit");
    gradients_of_a_batchtopk_step_with_auxk: one_step("batchtopk-aux");
    gradients_of_a_matryoshka_step_with_auxk_for_every_level: one_step("matryoshka-aux");
    gradients_of_a_gated_step: one_step("gated");
    gradients_of_a_jumprelu_step_with_tanh_and_pre_act_loss: one_step("jumprelu-tanh");
    gradients_of_a_matching_pursuit_step: one_step("matching_pursuit");
    gradients_of_a_standard_step: one_step("standard");
    gradients_of_a_topk_step_with_auxk: one_step("topk-aux");
    topk_with_gradients_kept: same_with_gradients_kept("topk-aux");
    batchtopk_with_gradients_kept: same_with_gradients_kept("batchtopk-aux");
    jumprelu_with_gradients_kept: same_with_gradients_kept("jumprelu");
    standard_with_gradients_kept: same_with_gradients_kept("standard");
    kernels_topk_with_gradients_kept: same_with_gradients_kept_of_kernels("topk-aux");
    kernels_standard: kernels_reproduce("standard", 5);
    kernels_topk_with_auxk: kernels_reproduce("topk-aux", 5);
    kernels_abstopk_with_auxk: kernels_reproduce("abstopk-aux", 5);
    kernels_batchtopk_with_auxk: kernels_reproduce("batchtopk-aux", 5);
    kernels_matryoshka_with_auxk_for_every_level: kernels_reproduce("matryoshka-aux", 5);
    kernels_gated: kernels_reproduce("gated", 5);
    kernels_jumprelu: kernels_reproduce("jumprelu", 5);
    kernels_jumprelu_with_tanh_and_pre_act_loss: kernels_reproduce("jumprelu-tanh", 5);
    kernels_matching_pursuit: kernels_reproduce("matching_pursuit", 2);
    kernels_gradients_of_a_matching_pursuit_step: one_step_of_kernels("matching_pursuit");
    kernels_gradients_of_a_standard_step: one_step_of_kernels("standard");
    kernels_gradients_of_a_topk_step_with_auxk: one_step_of_kernels("topk-aux");
}
