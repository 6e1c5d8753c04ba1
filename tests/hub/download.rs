//! What comes from the Hub: every file once, whole, and as the Hub says it is; refusals as one sentence.

use crate::client::{refused, succeeded, Client};
use cusae_hub_server::{hex, Repo, Trouble, TOKEN};
use sha2::Sha256;
use std::fs;
use std::time::{Duration, Instant};

/// A file that lies on the storage server, and one that does not.
const WEIGHTS: &str = "ae.pt";

/// Bytes that no part of repeats.
fn large() -> Vec<u8> {
    (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn repo() -> Repo {
    Repo::of([(WEIGHTS, &large()), ("config.json", b"{}")])
}

fn client() -> Client {
    Client::with("models/org/saes", repo())
}

/// Pulling one file by its path fetches it and what some layouts have beside it.
const PULL: [&str; 3] = ["pull", "--sae", "org/saes:ae.pt"];

#[test]
fn a_file_is_fetched_once_into_the_cache_that_pythons_hub_has() {
    let client = client();
    let path = client.pull(&PULL[1..]);
    let commit = client.server.state().repos["models/org/saes"].branches["main"].clone();
    let folder = client.cache().join("models--org--saes");
    assert_eq!(path, folder.join("snapshots").join(&commit).join(WEIGHTS));
    let blob = format!("../../blobs/{}", hex::<Sha256>(&large()));
    assert_eq!(fs::read_link(&path).unwrap().to_str().unwrap(), blob);
    assert_eq!(fs::read(&path).unwrap(), large());
    assert_eq!(fs::read_to_string(folder.join("refs/main")).unwrap(), commit);

    client.server.seen();
    client.pull(&PULL[1..]);
    let seen = client.server.seen();
    assert!(seen.iter().all(|seen| !seen.at_storage), "{seen:?}");
    // The listing, and where the branch is now; the other file is of that commit.
    assert_eq!(seen.len(), 2, "{seen:?}");
}

#[test]
fn a_changed_branch_is_fetched_anew_and_a_commit_is_never_asked_for_again() {
    let client = client();
    client.pull(&PULL[1..]);
    let (first, second) = {
        let mut state = client.server.state();
        let repo = state.repos.get_mut("models/org/saes").unwrap();
        let first = repo.branches["main"].clone();
        let files = [(WEIGHTS.to_string(), b"others".to_vec())].into();
        (first, repo.commit("main", files))
    };
    let path = client.pull(&PULL[1..]);
    assert!(path.to_str().unwrap().contains(&second));
    assert_eq!(fs::read(path).unwrap(), b"others");
    let path = client.pull(&["--sae", &format!("org/saes@{first}:ae.pt")]);
    assert_eq!(fs::read(path).unwrap(), large());
    let message = client.refusal(&["pull", "--sae", "org/saes@v2:ae.pt"]);
    assert!(message.starts_with("org/saes@v2: it has no revision \"v2\""), "{message}");
}

#[test]
fn a_connection_that_breaks_is_gone_on_with_where_it_broke() {
    let client = client();
    client.server.fault("/blob/", 1, Trouble::Cut(100_000));
    client.server.fault("/blob/", 1, Trouble::Cut(50_000));
    assert_eq!(fs::read(client.pull(&PULL[1..])).unwrap(), large());
    let ranges: Vec<_> = client.server.seen().into_iter().filter(|s| s.at_storage).map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=150000-".into())]);
}

#[test]
fn what_an_interrupted_program_left_is_gone_on_with() {
    let client = client();
    let blobs = client.cache().join("models--org--saes/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", hex::<Sha256>(&large())));
    fs::write(&partial, &large()[..200_000]).unwrap();
    assert_eq!(fs::read(client.pull(&PULL[1..])).unwrap(), large());
    let range = client.server.seen().into_iter().find(|seen| seen.at_storage).unwrap().range;
    assert_eq!(range.unwrap(), "bytes=200000-");
    assert!(!partial.exists());

    // If it was of something else, the whole is fetched; if the server begins anew, so do we.
    for left in [vec![7; 200_000], vec![7; 400_000]] {
        let client = self::client();
        let blobs = client.cache().join("models--org--saes/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(partial.file_name().unwrap()), left).unwrap();
        assert_eq!(fs::read(client.pull(&PULL[1..])).unwrap(), large());
    }
    let client = self::client();
    client.server.fault("/blob/", 1, Trouble::Cut(1000));
    client.server.fault("/blob/", 1, Trouble::NoRange);
    assert_eq!(fs::read(client.pull(&PULL[1..])).unwrap(), large());
}

#[test]
fn a_file_of_another_hash_or_size_is_not_kept() {
    for (trouble, what) in [
        (Trouble::Flip, "ae.pt has the hash "),
        (Trouble::TooLong, "ae.pt has more bytes than the 300000 that the Hub says"),
        (Trouble::Cut(0), "ae.pt breaks off again and again"),
    ] {
        let client = client();
        client.server.fault("/blob/", 10, trouble);
        let message = client.refusal(&PULL);
        assert!(message.starts_with("org/saes: ") && message.contains(what), "{message}");
        let blobs = client.cache().join("models--org--saes/blobs").join(hex::<Sha256>(&large()));
        assert!(!blobs.exists());
        client.server.state().faults.clear();
        assert_eq!(fs::read(client.pull(&PULL[1..])).unwrap(), large());
    }
    // Small files, which git names, too.
    let client = client();
    client.server.fault("/config.json", 10, Trouble::Flip);
    let message = client.refusal(&PULL);
    assert!(message.contains("config.json has the hash ") && message.contains(" where the Hub says "), "{message}");
}

#[test]
fn a_server_that_asks_to_wait_is_waited_for() {
    let client = client();
    client.server.fault("/resolve/", 1, Trouble::Status(429, vec![("Retry-After", "2".into())]));
    client.server.fault("/blob/", 1, Trouble::Status(503, vec![]));
    let begun = Instant::now();
    let output = client.command(&PULL).output().unwrap();
    assert!(output.status.success());
    assert!(begun.elapsed() >= Duration::from_millis(2500));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("waiting 2 s for {}", client.server.endpoint)), "{said}");

    // Not for an hour, and not for ever.
    let client = self::client();
    client.server.fault("/resolve/", 1, Trouble::Status(429, vec![("Retry-After", "3600".into())]));
    let message = client.refusal(&PULL);
    assert!(message.ends_with("has been asked too often; it asks to come back in 3600 s; do so"), "{message}");
    client.server.fault("/resolve/", 10, Trouble::Status(500, vec![("Retry-After", "0".into())]));
    let message = client.refusal(&PULL);
    assert!(message.contains("refuses with status 500"), "{message}");
}

#[test]
fn the_token_is_for_the_hub_and_for_nobody_that_it_sends_to() {
    let client = client();
    client.json_with_token(&PULL);
    let seen = client.server.seen();
    assert!(seen.iter().any(|seen| seen.at_storage) && seen.iter().any(|seen| !seen.at_storage));
    assert!(seen.iter().all(|seen| seen.has_token != seen.at_storage), "{seen:?}");
    // The one that `hf auth login` saves.
    let client = self::client();
    fs::write(client.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    client.pull(&PULL[1..]);
    assert!(client.server.seen()[0].has_token);
}

#[test]
fn a_repository_that_is_not_for_everyone_says_what_to_do() {
    let client = client();
    client.server.add("models/org/private", Repo { private: true, ..repo() });
    client.server.add("models/org/gated", Repo { gated: true, ..repo() });
    let host = client.server.endpoint.replace("http://", "");
    let private = ["pull", "--sae", "org/private:ae.pt"];
    let expected = format!(
        "org/private: {host} has no \"org/private\", or it is private; check the name, or set HF_TOKEN (there is no \
         local folder org/private:ae.pt either)"
    );
    assert_eq!(client.refusal(&private), expected);
    assert_eq!(client.refusal(&["pull", "--model", "org/private"]), expected.replace(":ae.pt either", " either"));
    client.json_with_token(&private);
    let message = client.refusal(&["pull", "--sae", "org/gated:ae.pt"]);
    let page = format!("{}/org/gated", client.server.endpoint);
    assert_eq!(message, format!("org/gated: it is gated; ask for access at {page}, then set HF_TOKEN"));
    let mut denied = client.command(&["pull", "--sae", "org/gated:ae.pt"]);
    client.server.fault("/resolve/", 1, Trouble::Status(403, vec![("X-Error-Code", "GatedRepo".into())]));
    let message = refused(denied.env("HF_TOKEN", TOKEN).output().unwrap());
    assert!(message.contains("it is gated, and who the token is of has no access; ask for it at "), "{message}");
    client.server.fault("/resolve/", 1, Trouble::Status(401, vec![("X-Error-Message", "Invalid token".into())]));
    let message = client.refusal(&PULL);
    assert!(message.contains(" does not accept the token (Invalid token); set HF_TOKEN to one from "), "{message}");
}

#[test]
fn without_a_network_the_cache_is_enough_or_says_that_it_is_not() {
    let client = client();
    let path = client.pull(&PULL[1..]);
    let mut offline = client.command(&PULL);
    assert!(offline.env("HF_HUB_OFFLINE", "1").output().unwrap().status.success());
    // A port that nobody listens to.
    let nobody = "http://127.0.0.1:9";
    let output = client.command(&PULL).env("HF_ENDPOINT", nobody).arg("--json").output().unwrap();
    assert_eq!(succeeded(output)["path"], path.to_str().unwrap());

    // The repository is known, this file of it is not.
    let mut model = client.command(&["pull", "--model", "org/saes"]);
    fs::remove_file(path.with_file_name("config.json")).unwrap();
    let message = refused(model.env("HF_ENDPOINT", nobody).output().unwrap());
    assert!(
        message.starts_with("org/saes: the cache does not have config.json, and 127.0.0.1:9 cannot be"),
        "{message}"
    );
    let message = refused(model.env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert!(message.contains("the cache does not have config.json, and HF_HUB_OFFLINE is set"), "{message}");

    let mut other = client.command(&["pull", "--sae", "org/others:ae.pt"]);
    let message = refused(other.env("HF_HUB_OFFLINE", "1").output().unwrap());
    let expected =
        format!("org/others: the cache in {} does not have it, and HF_HUB_OFFLINE is set", client.cache().display());
    assert!(message.starts_with(&expected), "{message}");
    let message = refused(other.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", nobody).output().unwrap());
    assert!(
        message.starts_with("org/others: 127.0.0.1:9 cannot be reached (")
            && message.contains("and the cache does not have it"),
        "{message}"
    );
}

#[test]
fn a_listing_or_an_index_that_points_outside_is_refused() {
    for hostile in ["../../outside.pt", "/etc/outside.pt", "a/../../b.pt", "..\\outside.pt"] {
        let client = Client::with("models/org/saes", Repo { listed_too: vec![hostile.into()], ..repo() });
        let message = client.refusal(&PULL);
        let expected = format!(
            "org/saes: it lists a file {hostile:?}, which points outside of the repository; nothing is fetched"
        );
        assert!(message.starts_with(&expected), "{message}");
        assert!(!client.cache().exists());
    }
    let config = br#"{"model_type": "gpt2"}"#;
    let index = br#"{"weight_map": {"wte.weight": "../../../../outside.safetensors"}}"#;
    let model = Repo::of([("config.json", config), ("model.safetensors.index.json", index)]);
    let client = Client::with("models/org/model", model);
    let message = client.refusal(&["pull", "--model", "org/model"]);
    assert!(message.contains("it lists a file \"../../../../outside.safetensors\", which points outside"), "{message}");
}

#[test]
fn a_hub_that_names_paths_as_hashes_or_commits_is_not_believed() {
    for header in ["X-Linked-ETag", "X-Repo-Commit"] {
        let client = client();
        let mut headers = vec![
            ("X-Linked-ETag", "\"abc\"".to_string()),
            ("X-Repo-Commit", "0".repeat(40)),
            ("Content-Type", "text/plain".into()),
        ];
        headers
            .iter_mut()
            .filter(|(name, _)| *name == header)
            .for_each(|(_, value)| *value = "../../../outside".into());
        client.server.fault("/resolve/", 1, Trouble::Status(200, headers));
        let message = client.refusal(&PULL);
        assert!(message.contains("does not answer as a Hub does: ae.pt comes without a "), "{message}");
    }
}

#[test]
fn a_file_that_the_disk_has_no_room_for_is_not_begun() {
    let client = client();
    let headers = vec![
        ("X-Linked-ETag", format!("\"{}\"", "a".repeat(64))),
        ("X-Repo-Commit", "0".repeat(40)),
        ("X-Linked-Size", (1u64 << 60).to_string()),
    ];
    client.server.fault("/resolve/", 1, Trouble::Status(200, headers));
    let message = client.refusal(&PULL);
    assert!(message.contains("ae.pt takes 1152921504606846976 bytes more, and the disk of "), "{message}");
}

#[test]
fn two_programs_fetch_a_file_once() {
    let client = client();
    client.server.fault("/blob/", 1, Trouble::Slow(1500));
    let children: Vec<_> =
        (0..2).map(|_| client.command(&PULL).stdout(std::process::Stdio::null()).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(client.server.seen().iter().filter(|seen| seen.at_storage).count(), 1);
    assert_eq!(fs::read(client.pull(&PULL[1..])).unwrap(), large());
}

#[test]
fn the_cache_lies_where_huggingfaces_variables_say() {
    let client = client();
    for (variable, below) in
        [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("XDG_CACHE_HOME", "huggingface/hub")]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut command = client.command(&PULL);
        if variable == "XDG_CACHE_HOME" {
            command.env_remove("HF_HOME");
        }
        assert!(command.env(variable, folder.path()).output().unwrap().status.success());
        assert!(folder.path().join(below).join("models--org--saes/snapshots").is_dir(), "{variable}");
    }
    assert!(!client.cache().exists());
}
