//! The command line as a contract: what goes to stdout, what to stderr, exit codes, and the words of
//! refusals. Each test runs the program in a folder of its own.

use cusae::backend::Native;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::{tempdir, TempDir};

/// A run of a few seconds: ten steps, one small evaluation.
const SHORT: [&str; 12] = [
    "--training-tokens",
    "1280",
    "--train-batch-size-tokens",
    "128",
    "--buffer-tokens",
    "512",
    "--store-batch-size-prompts",
    "2",
    "--n-eval-batches",
    "1",
    "--d-sae",
    "64",
];

fn cusae(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cusae")).args(args).current_dir(folder).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one line that a refused command says; nothing is left behind.
fn refusal(args: &[&str], expected_code: i32) -> String {
    let folder = tempdir().unwrap();
    refusal_in(&folder, args, expected_code)
}

fn refusal_in(folder: &TempDir, args: &[&str], expected_code: i32) -> String {
    let before = std::fs::read_dir(folder.path()).unwrap().count();
    let output = cusae(folder.path(), args);
    let (text, code) = (stderr(&output), code(&output));
    assert_eq!(code, expected_code, "{args:?}: {text}");
    assert_eq!(stdout(&output), "", "{args:?}");
    assert!(text.starts_with("error: ") && text.trim_end().lines().count() == 1, "{args:?}: {text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before, "{args:?} left something behind");
    text.trim_end().trim_start_matches("error: ").to_owned()
}

#[test]
fn help_lists_commands_and_every_recipe_key_by_group() {
    let folder = tempdir().unwrap();
    let help = cusae(folder.path(), &["--help"]);
    assert_eq!(code(&help), 0);
    assert!(stdout(&help).contains("train") && stdout(&help).contains("info"));
    let help = stdout(&cusae(folder.path(), &["train", "--help"]));
    for key in cusae::config::Recipe::keys() {
        assert!(help.contains(&format!("--{} <", key.name.replace('_', "-"))), "{} is missing", key.name);
        assert!(help.contains(&format!("\n{}:\n", key.group)), "{} is missing", key.group);
    }
    assert!(!help.contains("wandb"));
}

#[test]
fn wrong_usage_has_exit_code_2() {
    let folder = tempdir().unwrap();
    for args in [&[][..], &["tain"], &["train", "--lrr", "1"], &["info", "--threads", "0"], &["info", "x"]] {
        let output = cusae(folder.path(), args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    let output = cusae(folder.path(), &["train", "--lr-warmup-steps", "5"]);
    assert!(stderr(&output).contains("'--lr-warm-up-steps'"), "{}", stderr(&output));
}

#[test]
fn info_says_what_there_is_and_why_there_is_no_cuda() {
    let folder = tempdir().unwrap();
    let output = cusae(folder.path(), &["info", "--threads", "3"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    assert!(stdout(&output).contains(concat!("cusae ", env!("CARGO_PKG_VERSION"))));
    assert!(stdout(&output).contains("no: this build has no CUDA"));

    let info: Value =
        serde_json::from_slice(&cusae(folder.path(), &["--json", "info", "--threads", "3"]).stdout).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["threads"], 3);
    assert_eq!(info["cuda"], false);
    assert!(info["memory"]["total"].as_u64() >= info["memory"]["available"].as_u64());
}

#[test]
fn devices_that_cannot_be_used_are_refused_with_the_reason() {
    let why = Native::cuda(9).err().unwrap();
    for command in ["info", "train", "eval", "activations", "encode", "decode"] {
        let needs = match command {
            "eval" => &["--sae=s"][..],
            "activations" => &["--hook=h", "--out=o"],
            "encode" => &["--sae=s", "--activations=a", "--out=o"],
            "decode" => &["--sae=s", "--features=f", "--out=o"],
            _ => &[],
        };
        let message = refusal(&[&[command, "--device=cuda:9"][..], needs].concat(), 1);
        assert_eq!(message, format!("device cuda:9: {why}; use cpu"), "{command}");
    }
    for name in ["tpu", "cuda:", "cuda:one", "cuda1", "CPU", ""] {
        let names = "auto, cpu, cuda, cuda:N or emulated";
        let expected = format!("device {name}: there is no such device; use {names}");
        assert_eq!(refusal(&["info", &format!("--device={name}")], 1), expected);
    }
}

#[test]
#[cfg(not(feature = "emulated"))]
fn without_its_feature_the_emulator_is_answered_by_how_to_build_it() {
    assert_eq!(
        refusal(&["train", "--device=emulated"], 1),
        "device emulated: the emulator of the CUDA kernels, a tool for tests, is not in this build; build with cargo \
         build --features emulated"
    );
}

#[test]
fn auto_says_what_it_has_chosen_and_why() {
    let folder = tempdir().unwrap();
    let train = ["train", "--plan"];
    let expected = match Native::cuda(0) {
        Ok(gpu) => format!("computing on {}\n", gpu.properties()),
        Err(why) => format!("computing on the CPU: {why}\n"),
    };
    assert_eq!(stderr(&cusae(folder.path(), &train)), expected);
    assert_eq!(stderr(&cusae(folder.path(), &[&train[..], &["--quiet"]].concat())), "");
    assert_eq!(stderr(&cusae(folder.path(), &[&train[..], &["--device=cpu"]].concat())), "");
}

#[test]
fn a_recipe_with_an_unknown_key_is_answered_with_the_closest_one() {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("my.toml"), "lr_warmup_steps = 5\n").unwrap();
    let message = refusal_in(&folder, &["train", "my.toml"], 2);
    assert_eq!(message, "my.toml, key lr_warmup_steps: there is no such key; did you mean lr_warm_up_steps?");
}

#[test]
fn flags_of_saelens_that_are_not_here_are_answered_by_name() {
    assert!(refusal(&["train", "--n_batches_in_buffer", "20"], 2).ends_with("use buffer_tokens"));
    assert!(refusal(&["train", "--log-to-wandb"], 2).contains("Weights & Biases is not used"));
}

#[test]
fn values_of_the_wrong_type_say_what_was_found_and_expected() {
    assert_eq!(refusal(&["train", "--k", "many"], 2), "k: found \"many\", expected a number");
    assert_eq!(refusal(&["train", "--prepend_bos", "1"], 2), "prepend_bos: found \"1\", expected true or false");
    assert_eq!(refusal(&["train", "--lr", "-1"], 2), "lr: found -1, expected more than 0");
}

#[test]
fn a_recipe_that_cannot_be_read_fails_with_exit_code_1() {
    assert!(refusal(&["train", "none.toml"], 1).starts_with("none.toml: cannot read: No such file"));
}

#[test]
fn impossible_settings_are_refused_with_the_arithmetic() {
    assert!(refusal(&["train", "--d-sae", "16"], 2).starts_with("k: found 32, expected at most d_sae = 16"));
    // Sixteen bytes for each parameter alone are 8 TiB.
    for args in [&["train", "--d-sae", "2000000000"][..], &["train", "--plan", "--d-sae", "2000000000"]] {
        let message = refusal(args, 2);
        assert!(message.starts_with("memory: the run needs "), "{message}");
        assert!(message.contains("16 bytes * 514000000128 parameters"), "{message}");
    }
}

#[test]
fn flags_come_after_the_recipe_and_the_recipe_after_the_defaults() {
    let folder = tempdir().unwrap();
    std::fs::write(folder.path().join("my.toml"), "d_sae = 512\nk = 8\ntraining_tokens = 40_960\n").unwrap();
    let args = ["train", "my.toml", "--d_sae", "1024", "--plan", "--json"];
    let plan: Value = serde_json::from_slice(&cusae(folder.path(), &args).stdout).unwrap();
    assert_eq!((&plan["saes"][0]["d_sae"], &plan["training_tokens"]), (&1024.into(), &40_960.into()));
    assert!(plan["memory"][1]["formula"].as_str().unwrap().contains("k 8"));
}

#[test]
fn a_plan_prints_sums_and_starts_nothing() {
    let folder = tempdir().unwrap();
    let output = cusae(folder.path(), &["train", "--plan", "--device=cpu"]);
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    for word in ["steps", "memory", "disk", "time", "16 bytes * 526464 parameters"] {
        assert!(stdout(&output).contains(word), "{word} is missing: {}", stdout(&output));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let plan: Value = serde_json::from_slice(&cusae(folder.path(), &["train", "--plan", "--json"]).stdout).unwrap();
    let memory = plan["memory"].as_array().unwrap();
    let sum: u64 = memory.iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(plan["memory_bytes"], sum);
    assert!(plan["time"]["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn with_json_and_quiet_a_run_prints_its_summary_and_nothing_else() {
    let folder = tempdir().unwrap();
    let output = cusae(folder.path(), &[&["train", "--json", "--quiet"][..], &SHORT].concat());
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["steps"], &summary["n_training_samples"]), (&10.into(), &1280.into()));
    assert_eq!(summary["out"], "runs/topk-1");
    assert!(summary["explained_variance"].is_f64() && summary["ce_loss_score"].is_f64());
}

#[test]
fn a_run_reports_on_stderr_and_prints_its_table_on_stdout() {
    let folder = tempdir().unwrap();
    let output = cusae(folder.path(), &[&["train", "--out", "mine", "--seed", "7"][..], &SHORT].concat());
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("1,280/1,280 tokens · "), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("trained             10 steps, 1,280 tokens\nL0 "), "{}", stdout(&output));
    let recipe = std::fs::read_to_string(folder.path().join("mine/recipe.toml")).unwrap();
    assert!(recipe.contains("\nseed = 7\n") && recipe.contains("\nd_sae = 64\n") && recipe.contains("\nd_in = 128\n"));
}

#[test]
fn a_run_is_never_overwritten() {
    let folder = tempdir().unwrap();
    let train = |more: &[&str]| cusae(folder.path(), &[&["train", "--quiet"][..], more, &SHORT].concat());
    assert_eq!(code(&train(&[])), 0);
    assert_eq!(code(&train(&[])), 0);
    assert!(folder.path().join("runs/topk-2/sae_weights.safetensors").exists());
    let output = train(&["--out", "runs/topk-1"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("runs/topk-1 holds a run already (recipe.toml)"), "{}", stderr(&output));
    // What a run saved repeats it.
    let again = cusae(folder.path(), &["train", "runs/topk-1/recipe.toml", "--quiet", "--out", "again"]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    let weights = |run: &str| std::fs::read(folder.path().join(run).join("sae_weights.safetensors")).unwrap();
    assert_eq!(weights("again"), weights("runs/topk-1"));
}

#[test]
fn what_cannot_be_resumed_is_refused() {
    let message = refusal(&["train", "--resume", "nowhere"], 2);
    assert_eq!(message, "--resume: nowhere holds no run to continue (there is no recipe.toml)");
    let message = refusal(&["train", "--resume", "nowhere", "--k", "5"], 2);
    assert!(message.starts_with("k: a run goes on with its own recipe"), "{message}");
    let message = refusal(&["train", "--resume", "nowhere", "--seed", "5"], 2);
    assert!(message.starts_with("seed: a run goes on with its own recipe"), "{message}");
}
