//! `cusae push`: what arrives at the Hub is, byte for byte, what lay here.

use crate::client::{refused, Client};
use cusae::formats::{self, saelens};
use cusae::sae::config::{InferenceArchitecture, SaeConfig};
use cusae::sae::init::initial_weights;
use cusae_hub_server::{Files, Repo, Trouble, PART, TOKEN};
use serde_json::{json, Value};
use std::fs;
use std::path::PathBuf;

/// An SAE whose weights are uploaded in five parts, as a run leaves it.
fn folder(client: &Client) -> PathBuf {
    let folder = client.home.path().join("sae");
    let mut config = SaeConfig::new(InferenceArchitecture::Standard, 128, 400);
    config.set_hook("blocks.2.hook_resid_pre");
    let weights = initial_weights([128, 400], &[("b_enc", 0.0)], Some(1.0), 7);
    let notes = saelens::TrainingNotes { log_sparsity: Some(&[-2.0; 400]), runner_cfg: Some(&json!({"lr": 1})) };
    saelens::save_inference(&folder, &config, &weights, notes).unwrap();
    fs::write(folder.join("metrics.jsonl"), "not for the Hub").unwrap();
    assert!(fs::metadata(folder.join("sae_weights.safetensors")).unwrap().len() > 4 * PART as u64);
    folder
}

fn push(client: &Client, more: &[&str]) -> Value {
    let folder = folder(client);
    client.json_with_token(&[&["push", "--sae", folder.to_str().unwrap(), "--to"], more].concat())
}

fn files(client: &Client, branch: &str) -> Files {
    let state = client.server.state();
    let repo = &state.repos["models/me/saes"];
    repo.commits[&repo.branches[branch]].clone()
}

const ID: &str = "blocks.2.hook_resid_pre";

#[test]
fn an_sae_arrives_byte_for_byte_with_a_readme_that_is_tagged_saelens() {
    let client = Client::new();
    let report = push(&client, &["me/saes"]);
    assert_eq!((&report["sae_id"], &report["repo_id"]), (&ID.into(), &"me/saes".into()));
    let arrived = files(&client, "main");
    let expected = ["cfg.json", "runner_cfg.json", "sae_weights.safetensors", "sparsity.safetensors"];
    for name in expected {
        let here = fs::read(client.home.path().join("sae").join(name)).unwrap();
        assert!(arrived[&format!("{ID}/{name}")] == here, "{name}");
    }
    assert_eq!(arrived.len(), expected.len() + 2, "{:?}", arrived.keys());
    let readme = std::str::from_utf8(&arrived["README.md"]).unwrap();
    assert!(readme.starts_with("---\nlibrary_name: saelens\ntags:\n- saelens\n"), "{readme}");
    assert!(
        readme.contains("- blocks.2.hook_resid_pre: standard, 128 x 400, for blocks.2.hook_resid_pre of "),
        "{readme}"
    );
    // It is found, and comes back as it was.
    assert_eq!(client.json(&["list", "--hub"])["repositories"][0]["repo_id"], "me/saes");
    let [here, there] = [client.home.path().join("sae"), client.pull(&["--sae", "me/saes"])];
    assert_eq!(formats::load(&here, None).unwrap(), formats::load(&there, None).unwrap());
}

#[test]
fn a_second_sae_is_added_and_what_is_there_is_not_sent_again() {
    let client = Client::new();
    push(&client, &["me/saes:first"]);
    client.server.seen();
    push(&client, &["me/saes:second"]);
    let seen = client.server.seen();
    assert!(seen.iter().all(|seen| seen.method != "PUT"), "{seen:?}");
    let arrived = files(&client, "main");
    assert!(arrived["first/sae_weights.safetensors"] == arrived["second/sae_weights.safetensors"]);
    assert!(std::str::from_utf8(&arrived["README.md"]).unwrap().contains("- first: "));
}

#[test]
fn a_branch_and_a_private_repository_are_made_when_they_are_asked_for() {
    let client = Client::new();
    push(&client, &["me/saes", "--revision", "try/one", "--private"]);
    assert!(client.server.state().repos["models/me/saes"].private);
    assert!(files(&client, "try/one").contains_key("blocks.2.hook_resid_pre/cfg.json"));
    assert!(!files(&client, "main").contains_key("README.md"));
    client.json_with_token(&["pull", "--sae", "me/saes@try/one"]);
}

#[test]
fn the_token_does_not_go_to_the_storage_and_a_broken_upload_is_tried_again() {
    let client = Client::new();
    client.server.fault("/upload/", 1, Trouble::Status(503, vec![("Retry-After", "0".into())]));
    client.server.fault("part=3", 1, Trouble::Cut(0));
    push(&client, &["me/saes"]);
    let seen = client.server.seen();
    assert!(seen.iter().any(|seen| seen.at_storage) && seen.iter().all(|seen| seen.has_token != seen.at_storage));
    assert!(files(&client, "main").contains_key("blocks.2.hook_resid_pre/sae_weights.safetensors"));
}

#[test]
fn what_cannot_be_pushed_is_refused_before_anything_is_made() {
    let client = Client::new();
    let folder = folder(&client);
    let sae = folder.to_str().unwrap();
    let message = client.refusal(&["push", "--sae", sae, "--to", "me/saes"]);
    assert_eq!(message, "me/saes: pushing needs a token with write access; set HF_TOKEN, or log in with hf auth login");
    let refusal = |arguments: &[&str]| refused(client.command(arguments).env("HF_TOKEN", TOKEN).output().unwrap());
    let message = refusal(&["push", "--sae", sae, "--to", "saes"]);
    assert_eq!(message, "--to: saes is no name of a repository, such as org/name or org/name:ID");
    fs::write(folder.join("sae_weights.safetensors"), "cut off").unwrap();
    let message = refusal(&["push", "--sae", sae, "--to", "me/saes"]);
    assert!(message.contains("sae_weights.safetensors: not a whole safetensors file"), "{message}");
    assert!(client.server.state().repos.is_empty());
    assert!(client.server.seen().is_empty());
    self::folder(&client);
    let mut wrong = client.command(&["push", "--sae", sae, "--to", "me/saes"]);
    let message = refused(wrong.env("HF_TOKEN", "hf_wrong").output().unwrap());
    assert!(message.contains("does not accept the token (Invalid username or password.)"), "{message}");
    client.server.add("models/me/saes", Repo::of([(".gitattributes", b"")]));
    client.server.fault("/commit/", 1, Trouble::Status(403, vec![("X-Error-Message", "read-only".into())]));
    let message = refusal(&["push", "--sae", sae, "--to", "me/saes"]);
    assert!(message.contains("does not allow it (read-only); use a token with that permission"), "{message}");
}
