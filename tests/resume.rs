//! A run is never lost: stopped by a signal or killed outright, it goes on from its last checkpoint
//! and leaves the same files, byte for byte, as a run that nobody stopped.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn cusae(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cusae"));
    command.args(arguments).current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn train(flags: &[&str], out: &str, folder: &Path) -> Command {
    let mut arguments = vec!["train", "--out", out];
    let small = [
        "--d-sae=512",
        "--train-batch-size-tokens=256",
        "--buffer-tokens=2048",
        "--context-size=32",
        "--store-batch-size-prompts=8",
        "--training-tokens=76800",
        "--n-eval-batches=1",
        "--feature-sampling-window=70",
        "--dead-feature-window=20",
        "--log-every=7",
        "--n-checkpoints=2",
        "--checkpoint-every-seconds=0.05",
        "--tensorboard=false",
    ];
    arguments.extend(small);
    arguments.extend(flags);
    cusae(&arguments, folder)
}

fn checkpoints(run: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(run.join("checkpoints")).into_iter().flatten().flatten();
    let mut steps: Vec<u64> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// Waits until the run has saved a checkpoint later than `step`.
fn wait_for_checkpoint(child: &mut Child, run: &Path, step: u64) {
    let start = Instant::now();
    while checkpoints(run).last().is_none_or(|&last| last <= step) {
        assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint after step {step}");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before a checkpoint after step {step}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal by number: 9 kills, 15 asks to stop.
fn signal(child: &Child, number: u32) {
    let status = Command::new("kill").arg(format!("-{number}")).arg(child.id().to_string()).status().unwrap();
    assert!(status.success());
}

fn succeed(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Every file under a folder, by its path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_path_buf();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// The folder holds both runs, `whole` and `stopped`; the second stop comes after step `late`.
fn resumes_bit_for_bit(flags: &[&str], late: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    succeed(train(flags, "whole", folder.path()).output().unwrap());

    let mut child = train(flags, "stopped", folder.path()).spawn().unwrap();
    wait_for_checkpoint(&mut child, &stopped, 0);
    signal(&child, 9);
    child.wait().unwrap();
    let step = *checkpoints(&stopped).last().unwrap();

    let mut child = cusae(&["train", "--resume", "stopped"], folder.path()).spawn().unwrap();
    wait_for_checkpoint(&mut child, &stopped, step.max(late));
    signal(&child, 15);
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("interrupted; saved in"), "{message}");
    let step = *checkpoints(&stopped).last().unwrap();
    assert!(step < 300, "the run was stopped too late to show anything");

    succeed(cusae(&["train", "--resume", "stopped"], folder.path()).output().unwrap());
    let (whole, stopped) = (files(&whole), files(&stopped));
    assert_eq!(whole.keys().collect::<Vec<_>>(), stopped.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(bytes == &stopped[name], "{} differs", name.display());
    }
    assert!(whole.contains_key(Path::new("checkpoints/300/activations/blocks.2.hook_resid_pre.safetensors")));
    assert!(whole.contains_key(Path::new("checkpoints/100/trainer_state.json")), "a scheduled checkpoint stays");
    folder
}

#[test]
fn a_topk_run_resumes_bit_for_bit_with_dead_latents_and_an_average_of_its_weights() {
    resumes_bit_for_bit(&["--k=8", "--ema-decay=0.99", "--b-dec-init-method=mean"], 0);
}

#[test]
fn so_does_a_gated_run_with_ghost_gradients() {
    let flags = ["--architecture=gated", "--l1-coefficient=30", "--lr=3e-3", "--use-ghost-grads=true"];
    let whole = resumes_bit_for_bit(&flags, 0);
    let log = std::fs::read_to_string(whole.path().join("whole/metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["losses/ghost_grad_loss"].as_f64();
    assert!(log.lines().any(|line| loss(line) > Some(0.0)), "some latents were dead");
}

#[test]
fn so_does_a_sweep_over_settings_and_hooks() {
    let options = ["--k-start=20", "--k-anneal-steps=200", "--normalize-sae-decoder=true"];
    // Inputs to resample from are gathered in every step.
    let resampling = ["--resample-every=90", "--resample-batches=90"];
    let flags = ["--k=4,8", "--hook-name=blocks.1.hook_resid_pre,blocks.2.hook_resid_pre"];
    resumes_bit_for_bit(&[&flags[..], &options, &resampling].concat(), 0);
}

/// The coefficient is high enough for the run to go over from dense products to lists, which
/// round differently: the checkpoint must say which of the two a run is at.
#[test]
fn a_standard_run_resumes_bit_for_bit_before_and_after_it_goes_over_to_lists() {
    let flags = [
        "--architecture=standard",
        "--l1-coefficient=10",
        "--target-l0=20",
        "--normalize-activations=expected_average_only_in",
    ];
    let whole = resumes_bit_for_bit(&[&flags[..], &["--n-batches-for-norm-estimate=5"]].concat(), 200);
    let statistics =
        cusae::formats::tensors::TensorFile::open(whole.path().join("whole/checkpoints/200/statistics.safetensors"));
    assert_eq!(statistics.unwrap().f32("architecture_state").unwrap(), [1.0], "lists were in use");
}

/// Fewer rows than the run takes, the first of which are set aside for its evaluations.
#[test]
fn a_run_on_own_text_that_begins_again_resumes_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    std::fs::copy(readme, folder.path().join("text.txt")).unwrap();
    let text = format!("--dataset-path={}", folder.path().join("text.txt").display());
    resumes_bit_for_bit(&[&text, "--k=8", "--eval-every-n-steps=100"], 0);
}
