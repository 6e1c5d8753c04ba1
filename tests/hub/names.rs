//! Models and SAEs by their names on the Hub and in SAELens' registry, in every command.

use crate::client::{data, refused, repo_of, Client};
use cusae::formats::repository::files;
use cusae::formats::{self, saelens, SavedSae};
use cusae::registry;
use cusae::sae::config::{InferenceArchitecture, SaeConfig};
use cusae::sae::init::initial_weights;
use cusae_hub_server::{Repo, Server};
use serde_json::{json, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The small model of the program, as the Hub has a model.
fn tiny_gpt2() -> Repo {
    repo_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinygpt2"))
}

/// An SAE of the small model's hook, with the configuration of `gpt2-small-res-jb`.
fn res_jb(hook: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let config = SaeConfig::new(InferenceArchitecture::Standard, 128, 64);
    let weights = initial_weights([128, 64], &[("b_enc", 0.0)], Some(1.0), 7);
    let log_sparsity = vec![-1.5; 64];
    let notes = saelens::TrainingNotes { log_sparsity: Some(&log_sparsity), runner_cfg: None };
    saelens::save_inference(folder.path(), &config, &weights, notes).unwrap();
    let cfg =
        json!({"model_name": "gpt2-small", "hook_point": hook, "d_in": 128, "d_sae": 64, "dtype": "torch.float32"});
    fs::write(folder.path().join("cfg.json"), cfg.to_string()).unwrap();
    let mut files = repo_of(folder.path()).commits.into_values();
    files.next().unwrap()
}

fn repo_with(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Repo {
    let mut repo = Repo::default();
    repo.commit("main", files.into_iter().collect());
    repo
}

/// A release's SAE at the path that the registry names.
fn add_release(server: &Server, release: &str, sae_id: &str, of: BTreeMap<String, Vec<u8>>) {
    let release = registry::find(release).unwrap().release;
    let path = release.sae(sae_id).unwrap().path;
    let files = of.into_iter().map(|(name, bytes)| (format!("{path}/{name}"), bytes));
    server.add(&format!("models/{}", release.repo_id), repo_with(files));
}

#[test]
fn a_model_is_known_by_its_repository_and_by_transformerlens_names() {
    let client = Client::with("models/openai-community/gpt2", tiny_gpt2());
    client.server.add("models/gpt2", Repo { moved_to: Some("openai-community/gpt2".into()), ..Repo::default() });
    let folder = client.pull(&["--model", "gpt2-small"]);
    assert!(folder.starts_with(client.cache().join("models--gpt2/snapshots")), "{}", folder.display());
    assert_eq!(client.pull(&["--model", "gpt2"]), folder);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let expected = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tinygpt2").join(name)).unwrap();
        assert_eq!(fs::read(folder.join(name)).unwrap(), expected, "{name}");
    }
    // The second time one question: where the branch is now.
    let seen = client.server.seen();
    let last: Vec<&str> = seen.iter().rev().take(2).rev().map(|seen| seen.target.as_str()).collect();
    assert_eq!(last, ["/gpt2/resolve/main/config.json", "/openai-community/gpt2/resolve/main/config.json"]);
}

#[test]
fn weights_in_shards_and_an_older_tokenizer_are_fetched_and_others_are_not() {
    let index =
        json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}});
    let config = br#"{"model_type": "gpt2"}"#;
    let files = [
        ("config.json", &config[..]),
        ("model.safetensors.index.json", index.to_string().as_bytes()),
        ("model-1.safetensors", b"1"),
        ("model-2.safetensors", b"2"),
        ("vocab.json", b"{}"),
        ("merges.txt", b""),
        ("pytorch_model.bin", b"no"),
        ("README.md", b"no"),
    ]
    .map(|(name, bytes)| (name.to_string(), bytes.to_vec()));
    let client = Client::with("models/org/model", repo_with(files));
    let found = client.json(&["pull", "--model", "org/model"]);
    let name = |path: &Value| Path::new(path.as_str().unwrap()).file_name().unwrap().to_str().unwrap().to_string();
    let names: BTreeSet<String> = found["files"].as_array().unwrap().iter().map(name).collect();
    let expected = [
        "config.json",
        "merges.txt",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "vocab.json",
    ];
    assert_eq!(names, expected.map(String::from).into());

    let none = repo_with([("config.json".into(), config.to_vec()), ("pytorch_model.bin".into(), b"x".to_vec())]);
    client.server.add("models/org/bin", none);
    let message = client.refusal(&["pull", "--model", "org/bin"]);
    assert!(
        message.starts_with("org/bin: it has neither model.safetensors nor model.safetensors.index.json"),
        "{message}"
    );
    // What cannot be run is not fetched.
    let llama = [("config.json", &br#"{"model_type": "llama"}"#[..]), ("model.safetensors", b"x")];
    client.server.add("models/org/llama", Repo::of(llama));
    client.server.seen();
    let message = client.refusal(&["pull", "--model", "org/llama"]);
    assert!(message.contains("model_type is \"llama\", expected \"gpt2\""), "{message}");
    assert!(client.server.seen().iter().all(|seen| !seen.target.contains("model.safetensors")));
}

#[test]
fn gpt2_small_res_jb_gives_an_sae_and_its_model_as_they_belong_together() {
    let client = Client::with("models/gpt2", tiny_gpt2());
    let hook = "blocks.2.hook_resid_pre";
    add_release(&client.server, "gpt2-small-res-jb", hook, res_jb(hook));
    let prompt = ["--prompt", "The king and the queen", "--top", "5"];
    let by_name =
        client.json(&[&["features", "--sae", "gpt2-small-res-jb:blocks.2.hook_resid_pre"], &prompt[..]].concat());
    // The same by hand: the files, the model, and SAELens' `center_writing_weights`.
    let folder = client.pull(&["--sae", "gpt2-small-res-jb:blocks.2.hook_resid_pre"]);
    let by_hand = |processing: &str| {
        let sae = ["features", "--sae", folder.to_str().unwrap(), "--model", "embedded", "--processing", processing];
        client.json(&[&sae[..], &prompt[..]].concat())
    };
    assert_eq!(by_name, by_hand("transformer-lens"));
    assert_ne!(by_name, by_hand("none"));

    let verdict = client.json(&["verify", "--sae", "gpt2-small-res-jb:blocks.2.hook_resid_pre"]);
    assert_eq!((&verdict["format"], &verdict["d_sae"]), (&"sae_lens".into(), &64.into()));
}

#[test]
fn what_only_the_registry_knows_is_added_and_its_norm_factor_folded() {
    let client = Client::new();
    let path = "blocks.12.hook_resid_post";
    let mut files = res_jb(path);
    let cfg = json!({"model_name": "gemma-2b", "hook_point": path, "d_in": 128, "d_sae": 64, "dtype": "float32", "normalize_activations": "expected_average_only_in"});
    files.insert("cfg.json".into(), cfg.to_string().into_bytes());
    add_release(&client.server, "gemma-2b-res-jb", path, files);
    let (old, out) = (client.pull(&["--sae", &format!("gemma-2b-res-jb:{path}")]), client.home.path().join("out"));
    let output = client
        .command(&["convert", "--from", &format!("gemma-2b-res:{path}"), "--to", "saelens", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("gemma-2b-res is gemma-2b-res-jb in SAELens' registry; that is what is taken"), "{said}");
    let [before, after] = [old, out].map(|folder| formats::load(&folder, None).unwrap());
    let factor = 0.213_819_38;
    assert_eq!(after.config.normalize_activations.name(), "none");
    let scaled = |saved: &SavedSae, name: &str| saved.weights.get(name).values[5];
    assert_eq!(scaled(&after, "W_enc"), scaled(&before, "W_enc") * factor);
    assert_eq!(scaled(&after, "W_dec"), scaled(&before, "W_dec") / factor);
}

/// A folder or file of `tests/data/formats` as the files of the repository at another path.
fn moved(repo: &Repo, from: &formats::repository::Files, to: &formats::repository::Files) -> Vec<(String, Vec<u8>)> {
    let held = repo.commits.values().next().unwrap();
    let pairs = from.needed.iter().zip(&to.needed).chain(from.optional.iter().zip(&to.optional));
    pairs.filter_map(|(from, to)| Some((to.clone(), held.get(from)?.clone()))).collect()
}

#[test]
fn every_layout_is_read_from_the_repositories_that_have_it() {
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(data("formats/cases.json")).unwrap()).unwrap();
    let client = Client::new();
    let mut compared = BTreeSet::new();
    for case in &cases {
        let (path, layout) = (case["path"].as_str().unwrap(), case["format"].as_str().unwrap());
        let parts: Vec<&str> = path.splitn(3, '/').collect();
        let id = parts[..2].join("/");
        let repo = repo_of(&data("formats").join(&id));
        client.server.add(&format!("models/{id}"), repo.clone());
        let within = parts.get(2).copied().unwrap_or_default();
        let verdict = client.json(&["verify", "--sae", &format!("{id}:{within}")]);
        let local = client.json(&["verify", "--sae", data("formats").join(path).to_str().unwrap()]);
        assert_eq!(verdict["format"], layout, "{path}");
        // Of what the registry has by this path, it folds the norm factor in: other norms.
        assert_eq!(verdict["checks"][0], local["checks"][0], "{path}");
        for key in ["architecture", "d_in", "d_sae"] {
            assert_eq!(verdict[key], local[key], "{path} {key}");
        }

        // The first SAE of the registry with this loader, where it has one, with these files.
        let of_loader = |release: &&registry::Release| release.loader == layout;
        let Some(release) = registry::releases().iter().find(of_loader).filter(|_| compared.insert(layout)) else {
            continue;
        };
        // A layer's number is part of the names of mntss' tensors.
        let sae = release.saes.iter().find(|sae| sae.path == "3").unwrap_or(&release.saes[0]);
        // Qwen Scope's files do not say k: the repository's name does, and 50 is more than these have.
        if layout == "qwen_scope" {
            continue;
        }
        let files = moved(&repo, &files(layout, within), &files(layout, sae.path));
        client.server.add(&format!("models/{}", release.repo_id), repo_with(files));
        let verdict = client.json(&["verify", "--sae", &format!("{}:{}", release.release, sae.sae_id)]);
        assert_eq!((&verdict["format"], &verdict["d_sae"]), (&layout.into(), &local["d_sae"]), "{}", release.release);
    }
    assert!(compared.len() >= 10, "{compared:?}");
}

#[test]
fn a_name_that_is_not_quite_right_is_answered_by_the_nearest() {
    let client = Client::new();
    let eval = |name: &str| client.refusal(&["verify", "--sae", name]);
    assert_eq!(
        eval("gpt2-smal-res-jb:blocks.8.hook_resid_pre"),
        "--sae: there is no release gpt2-smal-res-jb; did you mean gpt2-small-res-jb?"
    );
    let message = eval("gpt2-small-res-jb:blocks.8.hook_resid_post");
    assert!(
        message.starts_with("--sae: release gpt2-small-res-jb has no SAE \"blocks.8.hook_resid_post\", but blocks."),
        "{message}"
    );
    assert!(eval("./nothing").starts_with("./nothing: cannot open: No such file"));
    assert!(eval("a b").contains("a b is neither a local folder nor a name on the Hub"));
    let message = eval("runs/topk-1");
    assert!(
        message.contains("or it is private") && message.ends_with("(there is no local folder runs/topk-1 either)"),
        "{message}"
    );
    let message = client.refusal(&["train", "--model-name", "models/none", "--plan"]);
    assert!(
        message.starts_with("models/none: ") && message.ends_with("(there is no local folder models/none either)"),
        "{message}"
    );
}

#[test]
fn a_repository_says_which_saes_it_has() {
    let client = Client::new();
    let of = |folder: &str| {
        res_jb("blocks.0.hook_resid_pre")
            .into_iter()
            .map(|(name, bytes)| (format!("{folder}{name}"), bytes))
            .collect::<Vec<_>>()
    };
    client.server.add("models/org/one", repo_with(of("some/where/")));
    client.server.add("models/org/root", repo_with(of("")));
    client.server.add("models/org/two", repo_with([of("layer_1/"), of("layer_2/")].concat()));
    client.server.add("models/org/none", Repo::of([("README.md", b"nothing")]));
    assert!(client.pull(&["--sae", "org/one"]).ends_with("some/where"));
    assert!(client.pull(&["--sae", "org/root"]).join("cfg.json").is_file());
    assert!(client.pull(&["--sae", "org/two:layer_2"]).ends_with("layer_2"));
    let refusal = |name: &str| client.refusal(&["pull", "--sae", name]);
    assert_eq!(refusal("org/two"), "org/two: it has several SAEs layer_1, layer_2; name one as org/two:PATH");
    assert_eq!(
        refusal("org/two:layer_3"),
        "org/two: it has no SAE at layer_3, but layer_1, layer_2; name one as org/two:PATH"
    );
    assert_eq!(refusal("org/none"), "org/none: it has no SAE of a known layout");
}

#[test]
fn pull_copies_into_a_folder_by_the_paths_of_the_repository() {
    let client = Client::with("models/gpt2", tiny_gpt2());
    let out = client.home.path().join("out");
    let found = client.json(&["pull", "--model", "gpt2", "--out", out.to_str().unwrap()]);
    assert_eq!(found["path"], out.to_str().unwrap());
    assert!(!fs::symlink_metadata(out.join("model.safetensors")).unwrap().is_symlink());
    assert_eq!(found["bytes"], 826 + 5_406_640 + 265_078);
    let hook = "blocks.2.hook_resid_pre";
    add_release(&client.server, "gpt2-small-res-jb", hook, res_jb(hook));
    let path = client.pull(&["--sae", &format!("gpt2-small-res-jb:{hook}"), "--out", out.to_str().unwrap()]);
    assert_eq!(path, out.join(hook));
    assert_eq!(formats::load(&path, None).unwrap().log_sparsity.unwrap(), vec![-1.5; 64]);
    let message = refused(client.command(&["pull", "--sae", out.to_str().unwrap()]).output().unwrap());
    assert!(message.ends_with("is on this machine already"), "{message}");
}

#[test]
fn list_hub_finds_repositories_that_are_tagged_saelens() {
    let client = Client::new();
    for (name, readme) in [
        ("models/org/tagged", "---\nlibrary_name: saelens\n---\n# SAEs"),
        ("models/org/too-tagged", "---\nlibrary_name: saelens\n---\n"),
        ("models/org/other", "---\nlibrary_name: transformers\n---\n"),
    ] {
        client.server.add(name, Repo::of([("README.md", readme.as_bytes())]));
    }
    let found = client.json(&["list", "--hub"]);
    let ids = |found: &Value| {
        found["repositories"].as_array().unwrap().iter().map(|r| r["repo_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&found), ["org/tagged", "org/too-tagged"]);
    assert_eq!(found["repositories"][0]["downloads"], 7);
    assert_eq!(ids(&client.json(&["list", "--hub", "too"])), ["org/too-tagged"]);
    let output = client.command(&["list", "--hub"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(refused(output).ends_with("HF_HUB_OFFLINE is set; unset it to search"));
}

#[test]
fn a_recipe_names_its_model_and_the_sae_that_it_starts_from_by_id() {
    let client = Client::with("models/gpt2", tiny_gpt2());
    let hook = "blocks.2.hook_resid_pre";
    add_release(&client.server, "gpt2-small-res-jb", hook, res_jb(hook));
    let out = client.home.path().join("run");
    let text = client.home.path().join("text.txt");
    fs::write(&text, "The king and the queen went to the castle. ".repeat(400)).unwrap();
    let run = [
        "train",
        "--model-name",
        "gpt2-small",
        "--hook-name",
        hook,
        "--dataset-path",
        text.to_str().unwrap(),
        "--from-pretrained-path",
        "gpt2-small-res-jb:blocks.2.hook_resid_pre",
        "--architecture",
        "standard",
        "--d-sae",
        "64",
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
        "--lr",
        "1e-9",
        "--out",
        out.to_str().unwrap(),
    ];
    client.json(&run);
    let trained = formats::load(&out, None).unwrap();
    assert_eq!(trained.config.metadata["model_name"], "gpt2-small");
    // With next to no learning rate it is the SAE that it began as.
    let weight = |saved: &SavedSae| saved.weights.get("W_dec").values[100];
    let first = formats::load(&client.pull(&["--sae", &format!("gpt2-small-res-jb:{hook}")]), None).unwrap();
    assert!((weight(&trained) - weight(&first)).abs() < 1e-6);
}
