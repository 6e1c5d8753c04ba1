//! What a run leaves is a function of its recipe: not of the number of threads, and of the seed.

use std::path::Path;
use std::process::Command;

const FILES: [&str; 5] = [
    "sae_weights.safetensors",
    "sparsity.safetensors",
    "eval.json",
    "metrics.jsonl",
    "checkpoints/40/optimizer.safetensors",
];

/// The files of a small run; `flags` besides.
fn run(folder: &Path, out: &str, flags: &[&str]) -> Vec<Vec<u8>> {
    let small = [
        "--d-sae=512",
        "--k=8",
        "--train-batch-size-tokens=256",
        "--buffer-tokens=2048",
        "--context-size=32",
        "--store-batch-size-prompts=8",
        "--training-tokens=10240",
        "--n-eval-batches=1",
        "--dead-feature-window=5",
        "--feature-sampling-window=15",
        "--tensorboard=false",
        "--quiet",
    ];
    let mut cusae = Command::new(env!("CARGO_BIN_EXE_cusae"));
    let output = cusae.args(["train", "--out", out]).args(small).args(flags).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    FILES.map(|file| std::fs::read(folder.join(out).join(file)).unwrap()).to_vec()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for architecture in [&["--architecture=topk"][..], &["--architecture=standard", "--l1-coefficient=10"]] {
        let of = |threads: &str| {
            let out = format!("{}-{threads}", architecture[0].trim_start_matches("--"));
            run(folder.path(), &out, &[architecture, &["--threads", threads]].concat())
        };
        let one = of("1");
        for threads in ["2", "3"] {
            for (file, (found, expected)) in FILES.iter().zip(of(threads).iter().zip(&one)) {
                assert!(found == expected, "{file} differs with {threads} threads, {architecture:?}");
            }
        }
    }
}

#[test]
fn the_seed_decides_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let first = run(folder.path(), "first", &["--seed=1"]);
    assert!(run(folder.path(), "again", &["--seed=1"]) == first);
    assert!(run(folder.path(), "other", &["--seed=2"])[0] != first[0]);
}
