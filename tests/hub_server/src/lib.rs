//! A Hub on loopback: the parts of the Hub's API that reading and writing repositories takes, over HTTP/1.1,
//! with repositories in memory, a storage server on a port of its own (as the real one redirects to), and
//! faults on request. Source: the requests that `huggingface_hub` makes.

mod answers;
mod wire;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard};
use wire::{Answer, Asked};

/// The one token that has access.
pub const TOKEN: &str = "hf_of_the_tests";
/// Files on a page of a listing.
const PAGE: usize = 3;
/// Large files are uploaded in parts of this size.
pub const PART: usize = 100_000;

pub type Files = BTreeMap<String, Vec<u8>>;

/// What goes wrong for requests whose address holds `on`, `times` times.
#[derive(Clone)]
pub struct Fault {
    pub on: String,
    pub times: usize,
    pub what: Trouble,
}

#[derive(Clone)]
pub enum Trouble {
    /// This status, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// One bit of the body is another.
    Flip,
    /// The body is longer by a byte than the headers of `HEAD` say.
    TooLong,
    /// A range is not honoured.
    NoRange,
    /// The answer waits so many milliseconds.
    Slow(u64),
}

/// A repository.
#[derive(Clone, Default)]
pub struct Repo {
    pub branches: BTreeMap<String, String>,
    pub commits: HashMap<String, Files>,
    pub gated: bool,
    pub private: bool,
    /// Its name was changed to this.
    pub moved_to: Option<String>,
    /// Paths that its listing names besides its files.
    pub listed_too: Vec<String>,
}

impl Repo {
    /// Files of the branch `main`.
    pub fn of<const N: usize>(files: [(&str, &[u8]); N]) -> Repo {
        let files = files.map(|(path, bytes)| (path.to_string(), bytes.to_vec()));
        let mut repo = Repo::default();
        repo.commit("main", files.into_iter().collect());
        repo
    }

    /// Makes these the files of a branch.
    pub fn commit(&mut self, branch: &str, files: Files) -> String {
        let text = format!("{branch} {} {files:?}", self.commits.len());
        let commit = hex::<Sha1>(text.as_bytes());
        self.commits.insert(commit.clone(), files);
        self.branches.insert(branch.into(), commit.clone());
        commit
    }

    /// The commit and the files of a revision.
    fn at(&self, revision: &str) -> Option<(String, &Files)> {
        let commit = self.branches.get(revision).cloned().unwrap_or_else(|| revision.into());
        let files = self.commits.get(&commit)?;
        Some((commit, files))
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub has_token: bool,
    pub range: Option<String>,
    /// Whether it came to the storage server.
    pub at_storage: bool,
}

#[derive(Default)]
pub struct State {
    /// By `models/id` or `datasets/id`.
    pub repos: BTreeMap<String, Repo>,
    /// What is stored, by SHA-256.
    pub blobs: HashMap<String, Vec<u8>>,
    /// Parts of uploads that are not complete.
    pub parts: HashMap<String, BTreeMap<usize, Vec<u8>>>,
    pub faults: Vec<Fault>,
    pub seen: Vec<Seen>,
}

/// The running Hub. It ends with the process.
pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Starts one on two free ports.
    pub fn start() -> Server {
        let state: Arc<Mutex<State>> = Arc::default();
        let [hub, storage] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (endpoint, storage_at) = (address(&hub), address(&storage));
        for (listener, at_storage) in [(hub, false), (storage, true)] {
            let (state, endpoint, storage_at) = (state.clone(), endpoint.clone(), storage_at.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, endpoint, storage_at) = (state.clone(), endpoint.clone(), storage_at.clone());
                    std::thread::spawn(move || {
                        // Whoever asks may hang up at any time.
                        let _ended = wire::serve(&stream, |asked| {
                            answer(&mut state.lock().unwrap(), asked, at_storage, &endpoint, &storage_at)
                        });
                    });
                }
            });
        }
        Server { endpoint, state }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a repository: `models/org/name` or `datasets/org/name`.
    pub fn add(&self, name: &str, repo: Repo) {
        self.state().repos.insert(name.into(), repo);
    }

    /// Makes the next requests go wrong.
    pub fn fault(&self, on: &str, times: usize, what: Trouble) {
        self.state().faults.push(Fault { on: on.into(), times, what });
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }
}

fn answer(state: &mut State, asked: &Asked, at_storage: bool, endpoint: &str, storage_at: &str) -> Answer {
    state.seen.push(Seen {
        method: asked.method.clone(),
        target: asked.target.clone(),
        has_token: asked.header("authorization").is_some(),
        range: asked.header("range").map(str::to_string),
        at_storage,
    });
    let fault = state.faults.iter_mut().find(|fault| fault.times > 0 && asked.target.contains(&fault.on));
    let trouble = fault.map(|fault| {
        fault.times -= 1;
        fault.what.clone()
    });
    if let Some(Trouble::Status(status, headers)) = &trouble {
        let mut answer = Answer::new(*status, "a fault of the test");
        headers.iter().for_each(|(name, value)| answer.set(name, value));
        return answer;
    }
    let mut answer = match at_storage {
        true => answers::storage(state, asked),
        false => answers::hub(state, asked, endpoint, storage_at),
    };
    match trouble {
        Some(Trouble::Cut(at)) => answer.cut = Some(at),
        Some(Trouble::Flip) => answer.body.first_mut().into_iter().for_each(|byte| *byte ^= 1),
        Some(Trouble::TooLong) => answer.body.push(0),
        Some(Trouble::NoRange) => answer.whole = true,
        Some(Trouble::Slow(milliseconds)) => answer.wait = milliseconds,
        Some(Trouble::Status(..)) | None => {}
    }
    answer
}

/// The hash that names a blob, and whether it is a large file's: those lie on the storage server.
fn identity(path: &str, bytes: &[u8]) -> (String, bool) {
    let large = [".safetensors", ".parquet", ".pt", ".npz", ".bin", ".zst"].iter().any(|ending| path.ends_with(ending));
    match large {
        true => (hex::<Sha256>(bytes), true),
        false => (hex::<Sha1>(&[format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat()), false),
    }
}

pub fn hex<D: Digest>(bytes: &[u8]) -> String {
    D::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
