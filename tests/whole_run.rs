//! A run does what its recipe says: its schedules, its normalisation, its first weights, and an
//! evaluation that anybody can repeat.

use cusae::config::NormalizeActivations;
use cusae::formats::saelens;
use cusae::formats::tensors::{self, Tensor, TensorFile};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn cusae(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut cusae = Command::new(env!("CARGO_BIN_EXE_cusae"));
    let output = cusae.args(arguments).arg("--quiet").current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Sixteen rows of width 4, each of norm 10, in `x.safetensors`, and 20 steps of 8 rows on them.
fn train_on_rows(folder: &Path, out: &str, flags: &[&str]) {
    let rows: Vec<f32> =
        (0..16).flat_map(|n| if n % 3 == 0 { [10.0, 0.0, 0.0, 0.0] } else { [0.0, 6.0, 0.0, -8.0] }).collect();
    let tensor = ("x".to_string(), Tensor::f32(&[16, 4], &rows));
    tensors::save(&folder.join("x.safetensors"), vec![tensor]).unwrap();
    let small =
        ["--activations=x.safetensors", "--train-batch-size-tokens=8", "--training-tokens=160", "--log-every=1"];
    cusae(folder, &[&["train", "--out", out, "--d-sae=16", "--k=2"], &small[..], flags].concat());
}

fn metrics(run: &Path, key: &str) -> Vec<f64> {
    let lines = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[key].as_f64().unwrap()).collect()
}

fn assert_close(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{what}: found {found}, expected {expected}");
}

/// The SAE is written with its scale folded in, rounded once more: hence a tolerance of 1e-6.
#[test]
fn the_evaluation_at_the_end_is_that_of_the_command_eval() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let sae = ["train", "--out=run", "--d-sae=256", "--k=8", "--normalize-activations=expected_average_only_in"];
    let text = ["--context-size=32", "--processing=transformer-lens", "--exclude-special-tokens=true"];
    let size = ["--train-batch-size-tokens=256", "--buffer-tokens=1024", "--training-tokens=5120"];
    let evaluation = ["--n-eval-batches=3", "--eval-batch-size-prompts=4", "--eval-every-n-steps=10"];
    cusae(folder.path(), &[&sae[..], &text, &size, &evaluation, &["--n-batches-for-norm-estimate=3"]].concat());
    let batches = ["--n-eval-reconstruction-batches=3", "--n-eval-sparsity-variance-batches=3"];
    let arguments = [&["eval", "--sae=run", "--json", "--batch-size-prompts=4"][..], &batches].concat();
    let again: Value = serde_json::from_slice(&cusae(folder.path(), &arguments)).unwrap();
    let at_the_end: Value = serde_json::from_slice(&std::fs::read(run.join("eval.json")).unwrap()).unwrap();
    let logged = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let logged: Value = serde_json::from_str(logged.lines().last().unwrap()).unwrap();
    for (group, values) in at_the_end.as_object().unwrap() {
        for (key, value) in values.as_object().unwrap() {
            let name = format!("{group}/{key}");
            let value = value.as_f64().unwrap();
            // The log has the step's dead latents by this name, none after twenty steps.
            let expected = if name == "sparsity/dead_features" { 0.0 } else { value };
            assert_eq!(logged[&name].as_f64().unwrap(), expected, "{name}");
            assert_close(again[group][key].as_f64().unwrap(), value, &name);
        }
    }
    // The last checkpoint is the same SAE, its scale not folded in.
    let checkpoint = [&["eval", "--sae=run/checkpoints/20", "--json", "--batch-size-prompts=4"][..], &batches].concat();
    let of_checkpoint: Value = serde_json::from_slice(&cusae(folder.path(), &checkpoint)).unwrap();
    let score = |report: &Value| report["model_performance_preservation"]["ce_loss_score"].as_f64().unwrap();
    assert_close(score(&of_checkpoint), score(&again), "CE-loss score of the checkpoint");
    assert_eq!(at_the_end["token_stats"]["total_tokens_eval_sparsity_variance"].as_f64(), Some(3.0 * 4.0 * 32.0));
}

#[test]
fn rates_and_coefficients_of_every_step_follow_their_schedules() {
    let folder = tempfile::tempdir().unwrap();
    let cosine = ["--lr=0.01", "--lr-scheduler-name=cosineannealing", "--lr-end=0.004", "--lr-warm-up-steps=4"];
    let l1 = ["--architecture=standard", "--lr-decay-steps=8", "--l1-coefficient=2", "--l1-warm-up-steps=10"];
    train_on_rows(folder.path(), "run", &[&cosine[..], &l1].concat());
    let run = folder.path().join("run");
    let rates = metrics(&run, "details/current_learning_rate");
    // Up to 0.01 in 4 steps, half a cosine over 8 to 0.004, and in 8 steps to 0.
    let expected = [(0, 0.0025), (3, 0.01), (4, 0.01), (8, 0.007), (12, 0.004), (16, 0.002), (19, 0.0005)];
    for (step, rate) in expected {
        assert_close(rates[step], rate, &format!("rate of step {step}"));
    }
    let coefficients = metrics(&run, "details/l1_coefficient");
    assert_eq!((coefficients[0], coefficients[5], coefficients[10], coefficients[19]), (0.0, 1.0, 2.0, 2.0));
}

#[test]
fn the_norm_of_activations_is_brought_to_the_root_of_their_width() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--normalize-activations=expected_average_only_in", "--apply-b-dec-to-input=false"];
    train_on_rows(folder.path(), "run", &flags);
    let statistics = TensorFile::open(folder.path().join("run/checkpoints/20/statistics.safetensors")).unwrap();
    // sqrt(4) / 10.
    assert_eq!(statistics.f32("input_scale").unwrap(), [0.2]);
    let saved = saelens::load_folder(&folder.path().join("run")).unwrap();
    assert!(!saved.config.apply_b_dec_to_input);
    // The scale is in the weights that others load, and no longer in their settings.
    assert_eq!(saved.config.normalize_activations, NormalizeActivations::None);
    let trained = TensorFile::open(folder.path().join("run/checkpoints/20/sae_weights.safetensors")).unwrap();
    for (found, trained) in saved.weights.get("b_dec").values.iter().zip(trained.f32("b_dec").unwrap()) {
        assert!((found * 0.2 - trained).abs() < 1e-6, "{found} {trained}");
    }
}

#[test]
fn a_checkpoint_of_scaled_activations_has_the_features_of_the_sae_at_the_end() {
    for architecture in ["topk", "gated", "batchtopk"] {
        let folder = tempfile::tempdir().unwrap();
        let kind = format!("--architecture={architecture}");
        train_on_rows(folder.path(), "run", &[&kind, "--normalize-activations=expected_average_only_in"]);
        let [last, at_the_end] = ["run/checkpoints/20", "run"].map(|sae| {
            cusae(
                folder.path(),
                &[
                    "encode",
                    "--sae",
                    sae,
                    "--activations=x.safetensors",
                    "--dense",
                    "--reconstruct",
                    "--out=f.safetensors",
                ],
            );
            let file = TensorFile::open(folder.path().join("f.safetensors")).unwrap();
            ["feature_acts", "reconstruction"].map(|name| file.f32(name).unwrap())
        });
        for (found, expected) in last.iter().flatten().zip(at_the_end.iter().flatten()) {
            assert!((found - expected).abs() <= 1e-5 * (1.0 + expected.abs()), "{architecture}: {found} {expected}");
        }
        assert!(at_the_end[0].iter().any(|&x| x > 0.0), "{architecture}: nothing fires");
    }
}

#[test]
fn a_run_begins_with_the_weights_that_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    train_on_rows(folder.path(), "first", &["--rescale-acts-by-decoder-norm=false"]);
    // Adam moves a weight by about the rate: 20 steps leave the weights where they are.
    let flags = ["--rescale-acts-by-decoder-norm=false", "--init=first", "--lr=1e-9", "--seed=7"];
    train_on_rows(folder.path(), "second", &flags);
    let [first, second] =
        ["first", "second"].map(|run| saelens::load_folder(&folder.path().join(run)).unwrap().weights);
    for (name, tensor) in first.iter() {
        let moved = tensor.values.iter().zip(&second.get(name).values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(moved < 1e-6, "{name} moved by {moved}");
    }
}

#[test]
fn firing_is_counted_anew_in_every_window() {
    let folder = tempfile::tempdir().unwrap();
    train_on_rows(folder.path(), "run", &["--feature-sampling-window=8"]);
    let checkpoint = folder.path().join("run/checkpoints/20");
    let state: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("trainer_state.json")).unwrap()).unwrap();
    // Windows ended after steps 8 and 16; four steps of eight rows, each with two latents, came after.
    assert_eq!(state["n_frac_active_samples"], 32);
    let statistics = TensorFile::open(checkpoint.join("statistics.safetensors")).unwrap();
    assert!(statistics.u32("act_freq_scores").unwrap().iter().sum::<u32>() <= 64);
    let log = saelens::load_folder(&folder.path().join("run")).unwrap().log_sparsity.unwrap();
    assert!(log.iter().all(|&x| x <= 0.0), "no latent fires for more than every row: {log:?}");
}

/// With a rate that moves nothing, a BatchTopK that starts from another's folder ends as it was.
#[test]
fn a_batchtopk_goes_on_from_what_was_saved_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let kind = ["--architecture=batchtopk", "--topk-threshold-lr=0.1"];
    train_on_rows(folder.path(), "first", &[&kind[..], &["--lr=0.01"]].concat());
    let still = ["--init=first", "--lr=1e-30", "--topk-threshold-lr=0"];
    train_on_rows(folder.path(), "second", &[&kind[..1], &still].concat());
    let [first, second] = ["first", "second"].map(|run| saelens::load_folder(&folder.path().join(run)).unwrap());
    assert!(first.weights.get("threshold").values[0] > 0.0);
    for ((name, expected), (_, found)) in first.weights.iter().zip(second.weights.iter()) {
        for (&a, &b) in expected.values.iter().zip(&found.values) {
            assert_close(b.into(), a.into(), name);
        }
    }
}

/// The flavour of a checkpoint at the end: unfolded weights and SAELens' training keys.
#[test]
fn a_run_can_leave_the_sae_that_saelens_trains_on() {
    let folder = tempfile::tempdir().unwrap();
    train_on_rows(
        folder.path(),
        "run",
        &["--architecture=matryoshka_batchtopk", "--matryoshka-widths=[4]", "--format=saelens-checkpoint"],
    );
    let run = folder.path().join("run");
    let cfg: Value = serde_json::from_slice(&std::fs::read(run.join("cfg.json")).unwrap()).unwrap();
    assert_eq!(
        (&cfg["architecture"], &cfg["matryoshka_widths"]),
        (&"matryoshka_batchtopk".into(), &vec![4, 16].into())
    );
    let file = TensorFile::open(run.join("sae_weights.safetensors")).unwrap();
    assert_eq!(file.names().len(), 5);
    let checkpoint = TensorFile::open(run.join("checkpoints/20/sae_weights.safetensors")).unwrap();
    assert_eq!(file.f32("W_dec").unwrap(), checkpoint.f32("W_dec").unwrap());
    assert_eq!(file.f64("topk_threshold").unwrap(), checkpoint.f64("topk_threshold").unwrap());
}

/// Six of the sixteen rows are [10, 0, 0, 0], the others [0, 6, 0, -8]: most of the points are their
/// median. With `expected_average_only_in`, b_dec is folded back with the rest.
#[test]
fn b_dec_starts_where_the_recipe_says() {
    let folder = tempfile::tempdir().unwrap();
    for (method, expected) in [("mean", [3.75, 3.75, 0.0, -5.0]), ("geometric_median", [0.0, 6.0, 0.0, -8.0])] {
        for normalization in ["none", "expected_average_only_in"] {
            let out = format!("{method}-{normalization}");
            let flags = [
                format!("--b-dec-init-method={method}"),
                format!("--normalize-activations={normalization}"),
                "--n-batches-for-norm-estimate=2".into(),
                "--buffer-tokens=16".into(),
                "--lr=1e-30".into(),
            ];
            train_on_rows(folder.path(), &out, &flags.each_ref().map(String::as_str));
            let sae = saelens::load_folder(&folder.path().join(&out)).unwrap();
            for (&found, expected) in sae.weights.get("b_dec").values.iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() < 1e-4, "{out}: {found}, expected {expected}");
            }
        }
    }
}

/// What is saved is the average, worked out again in f64 from the weights of every step's checkpoint; the
/// step's own sums are in f32.
#[test]
fn the_average_of_the_weights_is_that_of_the_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    train_on_rows(
        folder.path(),
        "run",
        &["--rescale-acts-by-decoder-norm=false", "--ema-decay=0.75", "--n-checkpoints=19", "--lr=0.05"],
    );
    let of_step = |step: u64, file: &str, name: &str| {
        let path = folder.path().join(format!("run/checkpoints/{step}/{file}.safetensors"));
        TensorFile::open(path).unwrap().f32(name).unwrap()
    };
    let saved = saelens::load_folder(&folder.path().join("run")).unwrap();
    for name in ["W_dec", "b_enc", "b_dec"] {
        let mut average: Vec<f64> =
            of_step(1, "optimizer", &format!("average.{name}")).into_iter().map(f64::from).collect();
        for step in 2..=20 {
            let weights = of_step(step, "sae_weights", name);
            average.iter_mut().zip(&weights).for_each(|(mean, &x)| *mean = 0.75 * *mean + 0.25 * f64::from(x));
        }
        let (found, last) = (&saved.weights.get(name).values, of_step(20, "sae_weights", name));
        for (&found, &expected) in found.iter().zip(&average) {
            assert!((f64::from(found) - expected).abs() < 1e-6, "{name}: {found}, expected {expected}");
        }
        assert_ne!(found, &last, "{name} has moved");
    }
}

/// On the CPU, whose cores do both: while an SAE is trained on one batch, rows come in for a later one.
#[test]
fn the_language_model_is_ahead_of_the_sae() {
    let folder = tempfile::tempdir().unwrap();
    let sae = ["train", "--out=run", "--device=cpu", "--d-sae=64", "--k=4", "--context-size=32"];
    let size = ["--train-batch-size-tokens=256", "--buffer-tokens=1024", "--training-tokens=1024"];
    let kept = ["--store-batch-size-prompts=8", "--n-checkpoints=3", "--n-eval-batches=1"];
    cusae(folder.path(), &[&sae[..], &size, &kept].concat());
    // The buffer serves two batches at a time. Room for 256 rows is there when the first is served; once the second is,
    // as many more fill the buffer; and for the last step nothing more has to come.
    let counters = [1, 2, 3].map(|step| {
        let file = format!("run/checkpoints/{step}/activations/blocks.2.hook_resid_pre.safetensors");
        TensorFile::open(folder.path().join(file)).unwrap().u32("shuffles_batches_finished_ahead").unwrap()
    });
    assert_eq!(counters, [[1, 1, 0, 256], [2, 2, 0, 0], [2, 1, 0, 0]]);
}
