//! Every command that computes, with `--device emulated` and with `--device cpu`: the same results
//! within rounding. Needs a build with the feature `emulated`.

use cusae::formats::tensors::TensorFile;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const DEVICES: [&str; 2] = ["cpu", "emulated"];

/// Runs a command on both devices, DEVICE in its arguments being the device's name; gives what it
/// printed as JSON.
fn run(folder: &Path, arguments: &[&str]) -> [Value; 2] {
    DEVICES.map(|device| {
        let arguments = arguments.iter().map(|argument| argument.replace("DEVICE", device));
        let mut cusae = Command::new(env!("CARGO_BIN_EXE_cusae"));
        cusae.args(arguments).args(["--device", device, "--json", "--quiet"]).current_dir(folder);
        let output = cusae.output().unwrap();
        assert!(output.status.success(), "{device}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    })
}

/// Compares a tensor of the files that both devices wrote, relative to its largest value: 4e-6 is
/// what `training_traces.rs` allows float32 on another device.
fn assert_close(folder: &Path, file: &str, tensor: &str) {
    let [expected, found] = DEVICES.map(|device| {
        let file = TensorFile::open(folder.join(file.replace("DEVICE", device))).unwrap();
        (file.shape(tensor).unwrap().to_vec(), file.f32(tensor).unwrap())
    });
    assert_eq!(expected.0, found.0, "{file} {tensor}");
    let largest = expected.1.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (i, (expected, found)) in expected.1.iter().zip(&found.1).enumerate() {
        assert!((expected - found).abs() <= 4e-6 * largest, "{file} {tensor}[{i}]: {found}, the CPU has {expected}");
    }
}

#[test]
fn every_command_computes_what_it_does_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    const HOOK: &str = "blocks.2.hook_resid_pre";
    run(folder, &["activations", "--hook", HOOK, "--rows=8", "--context-size=8", "--out=x-DEVICE.safetensors"]);
    assert_close(folder, "x-DEVICE.safetensors", HOOK);

    let sae = ["--d-sae=128", "--k=4", "--train-batch-size-tokens=32", "--training-tokens=320"];
    let files = ["--activations=x-cpu.safetensors", "--log-every=1", "--out=sae-DEVICE"];
    let [expected, found] = run(folder, &[&["train"], &sae[..], &files].concat());
    assert_eq!((&expected["steps"], &expected["l0"]), (&found["steps"], &found["l0"]));
    for tensor in ["W_enc", "b_enc", "W_dec", "b_dec"] {
        assert_close(folder, "sae-DEVICE/sae_weights.safetensors", tensor);
    }

    let encode = ["encode", "--sae=sae-cpu", "--activations=x-cpu.safetensors"];
    run(folder, &[&encode[..], &["--reconstruct", "--out=lists-DEVICE"]].concat());
    run(folder, &[&encode[..], &["--dense", "--out=dense-DEVICE"]].concat());
    for tensor in ["indptr", "indices"] {
        let [expected, found] = DEVICES
            .map(|device| TensorFile::open(folder.join(format!("lists-{device}"))).unwrap().u32(tensor).unwrap());
        assert_eq!(expected, found, "{tensor}");
    }
    assert_close(folder, "lists-DEVICE", "values");
    assert_close(folder, "lists-DEVICE", "reconstruction");
    assert_close(folder, "dense-DEVICE", "feature_acts");
    run(folder, &["decode", "--sae=sae-cpu", "--features=lists-cpu", "--out=decoded-DEVICE"]);
    assert_close(folder, "decoded-DEVICE", "reconstruction");

    let size = ["--model=embedded", "--context-size=8", "--batch-size-prompts=2", "--n-eval-reconstruction-batches=1"];
    let [expected, found] = run(folder, &[&["eval", "--sae=sae-cpu"], &size[..]].concat());
    for (group, values) in expected.as_object().unwrap() {
        for (key, value) in values.as_object().unwrap().iter().filter(|(_, value)| value.is_number()) {
            let (expected, found) = (value.as_f64().unwrap(), found[group][key].as_f64().unwrap());
            // Scores are differences of nearly equal losses.
            let tolerance = if key.ends_with("_score") { 1e-4 } else { 4e-6 };
            let error = (found - expected).abs();
            assert!(error <= tolerance * expected.abs(), "{group}/{key}: {found}, the CPU has {expected}");
        }
    }
}

#[test]
fn a_plan_and_info_are_about_the_device() {
    let folder = tempfile::tempdir().unwrap();
    let [_, plan] = run(folder.path(), &["train", "--plan"]);
    assert_eq!(plan["machine_memory"]["total"], 1u64 << 30, "the emulator's memory");
    let [cpu, emulated] = run(folder.path(), &["info"]);
    assert!(cpu["devices"].as_array().unwrap().contains(&"emulated".into()));
    assert!(cpu["device"].as_str().unwrap().starts_with("CPU"));
    assert!(emulated["device"].as_str().unwrap().starts_with("emulator"));
}
