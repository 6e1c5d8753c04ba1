//! The program, talking to the Hub of the tests with a cache of its own.

use cusae_hub_server::{Files, Repo, Server, TOKEN};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A Hub, and the home of who uses it.
pub struct Client {
    pub server: Server,
    pub home: TempDir,
}

/// Variables that say where a Hub is, or how to get there.
const VARIABLES: &[&str] = &[
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "XDG_CACHE_HOME",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
];

impl Client {
    pub fn new() -> Client {
        Client { server: Server::start(), home: tempfile::tempdir().unwrap() }
    }

    /// With one repository.
    pub fn with(name: &str, repo: Repo) -> Client {
        let client = Client::new();
        client.server.add(name, repo);
        client
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cusae"));
        for name in VARIABLES {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.server.endpoint).env("HF_HOME", self.home.path()).args(arguments);
        command
    }

    /// The result of a command that succeeds.
    pub fn json(&self, arguments: &[&str]) -> Value {
        succeeded(self.command(arguments).arg("--json").output().unwrap())
    }

    /// The same with the token.
    pub fn json_with_token(&self, arguments: &[&str]) -> Value {
        succeeded(self.command(arguments).arg("--json").env("HF_TOKEN", TOKEN).output().unwrap())
    }

    /// The sentence of a command that fails.
    pub fn refusal(&self, arguments: &[&str]) -> String {
        refused(self.command(arguments).output().unwrap())
    }

    /// The path of what `pull` fetched.
    pub fn pull(&self, arguments: &[&str]) -> PathBuf {
        self.json(&[&["pull"], arguments].concat())["path"].as_str().unwrap().into()
    }

    /// The folder of the cache.
    pub fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }
}

pub fn succeeded(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn refused(output: Output) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && message.starts_with("error: "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message["error: ".len()..].trim_end().to_string()
}

/// A file or folder of `tests/data`, or of the package with `../../`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The files of a folder as a repository.
pub fn repo_of(folder: &Path) -> Repo {
    let mut files = Default::default();
    collect(folder, folder, &mut files);
    let mut repo = Repo::default();
    repo.commit("main", files);
    repo
}

fn collect(root: &Path, folder: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
}
