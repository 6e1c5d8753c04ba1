//! What can go wrong while a run writes or goes on: one clear sentence, the right exit code, and
//! nothing that was good before is lost.

#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Output};

const SMALL: &str = "--d-sae=256 --k=8 --train-batch-size-tokens=256 --buffer-tokens=1024 --context-size=32 \
                     --store-batch-size-prompts=8 --training-tokens=5120 --n-eval-batches=1 --n-checkpoints=1 \
                     --tensorboard=false";

/// Runs `cusae train` in a folder through the shell, `before` the command.
fn shell(before: &str, flags: &str, folder: &Path) -> Output {
    let script = format!("{before} exec '{}' train {flags}", env!("CARGO_BIN_EXE_cusae"));
    Command::new("sh").args(["-c", &script]).current_dir(folder).output().unwrap()
}

/// The one line `error: …`, after checking the exit code.
fn error(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    errors[0].to_string()
}

fn finished_run(folder: &Path) {
    let output = shell("", &format!("--out run {SMALL}"), folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Adds to what a file in the newest checkpoint holds, or cuts it.
fn change(folder: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = folder.join("run/checkpoints/20").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
}

/// A limit on the size of files stands in for a full disk: both make a write fail half-way.
#[test]
fn a_full_disk_is_a_sentence_and_the_checkpoint_before_stays() {
    let folder = tempfile::tempdir().unwrap();
    let blocks_of_512 = 8; // enough for the recipe, not for the weights
    let before = format!("trap '' XFSZ; ulimit -f {blocks_of_512};");
    let message = error(&shell(&before, &format!("--out run {SMALL}"), folder.path()), 1);
    assert!(message.contains("sae_weights.safetensors: cannot write"), "{message}");
    let left: Vec<_> = std::fs::read_dir(folder.path().join("run/checkpoints")).unwrap().collect();
    assert!(left.is_empty(), "half a checkpoint was left: {left:?}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let message = error(&shell("", &format!("--out file/run {SMALL}"), folder.path()), 1);
    assert!(message.contains("file/run") && message.contains("cannot create the folder"), "{message}");
}

#[test]
fn a_truncated_checkpoint_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    change(folder.path(), "optimizer.safetensors", |bytes| bytes.truncate(bytes.len() / 2));
    let message = error(&shell("", "--resume run", folder.path()), 1);
    assert!(message.contains("optimizer.safetensors: not a whole safetensors file"), "{message}");
    assert!(folder.path().join("run/checkpoints/10/trainer_state.json").exists());
}

#[test]
fn a_foreign_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    change(folder.path(), "trainer_state.json", |bytes| *bytes = b"{\"optimizer\": {}}".to_vec());
    let message = error(&shell("", "--resume run", folder.path()), 1);
    assert!(message.contains("trainer_state.json: not the state of a cusae run"), "{message}");
}

#[test]
fn a_checkpoint_of_another_size_is_refused_with_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    let recipe = folder.path().join("run/recipe.toml");
    let text = std::fs::read_to_string(&recipe).unwrap().replace("d_sae = 256", "d_sae = 128");
    std::fs::write(&recipe, text).unwrap();
    let message = error(&shell("", "--resume run", folder.path()), 1);
    assert!(message.contains("tensor W_dec has shape [256, 128], expected [128, 128]"), "{message}");
}

#[test]
fn a_run_without_checkpoints_cannot_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    finished_run(folder.path());
    std::fs::remove_dir_all(folder.path().join("run/checkpoints")).unwrap();
    let message = error(&shell("", "--resume run", folder.path()), 1);
    assert!(message.contains("holds no checkpoint to continue from"), "{message}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    // Adam moves every weight by about lr: after the warm-up the products overflow.
    let flags = format!("--out run {SMALL} --lr 1e15 --lr-warm-up-steps 0 --max-grad-norm none");
    let message = error(&shell("", &flags, folder.path()), 1);
    assert!(message.contains("the loss is not finite"), "{message}");
    assert!(message.contains("step "), "{message}");
    assert!(message.contains("there is no checkpoint yet") || message.contains("run/checkpoints/10"), "{message}");
}
