//! Data sets of the Hub as text: which files are read, and each only when its turn comes.

use crate::client::{data, succeeded, Client};
use cusae::formats::tensors::TensorFile;
use cusae_hub_server::{Files, Repo};
use std::fs;
use std::path::Path;

fn jsonl(text: &str, lines: usize) -> Vec<u8> {
    format!("{}\n", serde_json::json!({ "text": text })).repeat(lines).into_bytes()
}

fn repo(files: impl IntoIterator<Item = (&'static str, Vec<u8>)>) -> Repo {
    let mut repo = Repo::default();
    repo.commit("main", files.into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect::<Files>());
    repo
}

/// The tokens' losses of a text: what tells one text from another.
fn losses(client: &Client, text: &str, rows: &str) -> Vec<f32> {
    let out = client.home.path().join("out.safetensors");
    let path = out.to_str().unwrap();
    let run = ["activations", "--text", text, "--hook", "loss_per_token", "--rows", rows, "--context-size", "16"];
    client.json(&[&run[..], &["--out", path]].concat());
    TensorFile::open(&out).unwrap().f32("loss_per_token").unwrap()
}

/// The same of a text on this machine.
fn local_losses(client: &Client, name: &str, bytes: &[u8], rows: &str) -> Vec<f32> {
    let path = client.home.path().join(name);
    fs::write(&path, bytes).unwrap();
    losses(client, path.to_str().unwrap(), rows)
}

#[test]
fn a_data_set_is_read_file_by_file() {
    let (first, second) = (jsonl("The king and the queen went out.", 40), jsonl("A ship came from the sea.", 40));
    let files = [
        ("data/train-0.jsonl", first.clone()),
        ("data/train-1.jsonl", second.clone()),
        ("data/test.jsonl", b"no".to_vec()),
    ];
    let client = Client::with("datasets/org/texts", repo(files));
    let found = losses(&client, "org/texts", "10");
    assert_eq!(found, local_losses(&client, "first.jsonl", &first, "10"));
    // Ten rows are in the first file: the second is not fetched.
    let fetched = |client: &Client, name: &str| {
        let seen = client.server.seen();
        seen.iter().filter(|seen| seen.method == "GET" && seen.target.contains(name)).count()
    };
    assert_eq!(fetched(&client, "train-1.jsonl"), 0);
    assert!(client.cache().join("datasets--org--texts/snapshots").is_dir());
    let found = losses(&client, "org/texts", "40");
    assert_eq!(found, local_losses(&client, "both.jsonl", &[first.clone(), second].concat(), "40"));
    assert_eq!(fetched(&client, "train-1.jsonl"), 1);
    // Again, and without a network.
    let offline = client.command(&[
        "activations",
        "--text",
        "org/texts:data/train-0.jsonl",
        "--hook",
        "loss_per_token",
        "--rows",
        "10",
    ]);
    let mut offline = offline;
    let out = client.home.path().join("offline.safetensors");
    offline.args(["--context-size", "16", "--json", "--out"]).arg(&out).env("HF_HUB_OFFLINE", "1");
    succeeded(offline.output().unwrap());
    assert_eq!(
        TensorFile::open(&out).unwrap().f32("loss_per_token").unwrap(),
        local_losses(&client, "a.jsonl", &first, "10")
    );
}

#[test]
fn parquet_and_compressed_lines_are_read_and_a_parquet_copy_stands_in() {
    let parquet = fs::read(data("documents/text.parquet")).unwrap();
    let expected = losses(&Client::new(), data("documents/text.parquet").to_str().unwrap(), "2");
    let client = Client::with("datasets/org/parquet", repo([("data/train-00000-of-00001.parquet", parquet.clone())]));
    assert_eq!(losses(&client, "org/parquet", "2"), expected);

    let mut script = repo([("load.py", b"print()".to_vec())]);
    script.commit("refs/convert/parquet", [("default/train/0000.parquet".to_string(), parquet)].into());
    client.server.add("datasets/org/script", script);
    assert_eq!(losses(&client, "org/script", "2"), expected);

    let lines = jsonl("The king and the queen went out.", 40);
    let packed = zstd::encode_all(&lines[..], 3).unwrap();
    client.server.add("datasets/org/zst", repo([("train/00.jsonl.zst", packed)]));
    assert_eq!(losses(&client, "org/zst:train", "10"), local_losses(&client, "plain.jsonl", &lines, "10"));
}

#[test]
fn what_is_no_data_set_is_said_in_one_sentence() {
    let client = Client::with("datasets/org/images", repo([("a.png", vec![1]), ("b.png", vec![2])]));
    let run = |text: &str| {
        client.refusal(&["activations", "--text", text, "--hook", "loss_per_token", "--out", "x.safetensors"])
    };
    assert_eq!(
        run("org/images"),
        "data set org/images: it has no .parquet, .jsonl, .txt or .json; it holds a.png, b.png"
    );
    let message = run("org/images:data/test");
    assert_eq!(message, "data set org/images: it has no .parquet, .jsonl, .txt or .json whose path begins with data/test; it holds a.png, b.png");
    let message = run("folder/none");
    assert!(
        message.starts_with("data set folder/none: ")
            && message.ends_with("(there is no local file folder/none either)"),
        "{message}"
    );
    assert!(run("none.txt").starts_with("none.txt: cannot open"));
    assert!(!Path::new("x.safetensors").exists());
}

#[test]
fn a_run_trains_on_a_data_set_and_pull_fetches_it_whole() {
    let lines = jsonl("The king and the queen went to the castle by the sea.", 300);
    let client =
        Client::with("datasets/org/texts", repo([("train.jsonl", lines.clone()), ("README.md", b"#".to_vec())]));
    let out = client.home.path().join("run");
    let run = [
        "train",
        "--dataset-path",
        "org/texts",
        "--d-sae",
        "64",
        "--k",
        "4",
        "--training-tokens",
        "2048",
        "--train-batch-size-tokens",
        "512",
        "--buffer-tokens",
        "2048",
        "--context-size",
        "32",
        "--store-batch-size-prompts",
        "4",
        "--n-eval-batches",
        "1",
        "--out",
        out.to_str().unwrap(),
    ];
    client.json(&run);
    let cfg: serde_json::Value = serde_json::from_slice(&fs::read(out.join("cfg.json")).unwrap()).unwrap();
    assert_eq!(cfg["metadata"]["dataset_path"], "org/texts");
    let path = client.pull(&["--dataset", "org/texts", "--out", client.home.path().join("texts").to_str().unwrap()]);
    assert_eq!(fs::read(path.join("train.jsonl")).unwrap(), lines);
    assert!(!path.join("README.md").exists());
}
