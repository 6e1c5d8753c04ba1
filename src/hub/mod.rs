//! The Hugging Face Hub: models, SAEs and data sets by their names, from the cache that all of Hugging Face's
//! programs share or from the network into it, and SAEs of one's own to it.
//!
//! [`Hub`] moves files; the cache's layout, folders and links are those of the `hf-hub` crate and of Python's
//! `huggingface_hub`, the transfers are ours (`hf-hub` 0.5 checks no hash, does not wait when it is asked to, and
//! gives up when another process fetches the same file). What a name means is in `models.rs`, `saes.rs` and `datasets.rs`: those work with a
//! build without the feature `hub`, too, which then knows local folders only.

mod datasets;
mod models;
mod name;
mod saes;

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod listing;
#[cfg(feature = "hub")]
mod search;
#[cfg(feature = "hub")]
mod upload;

#[cfg(not(feature = "hub"))]
mod absent;

#[cfg(not(feature = "hub"))]
pub use absent::Hub;
#[cfg(feature = "hub")]
pub use client::Hub;
#[cfg(feature = "hub")]
pub use search::FoundRepository;
#[cfg(feature = "hub")]
pub use upload::{Commit, Contents, Upload};

pub use datasets::{dataset, RemoteFile};
pub use models::{fetch_model, model, model_config};
pub use name::{Kind, Name, Repository};
pub use saes::{from_pretrained, sae, NamedSae};

use crate::error::{Error, Result};
use crate::formats::write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file of a repository that lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Where.
    pub path: PathBuf,
    /// The commit that it is of.
    pub commit: String,
}

/// A file that a repository lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path in the repository.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Files of one commit of a repository, in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder that stands for the repository.
    pub root: PathBuf,
    /// Paths in it.
    pub files: Vec<String>,
}

impl Snapshot {
    /// Copies the files into a folder, by their paths in the repository, as `hf download --local-dir` does.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        for file in &self.files {
            let (from, to) = (self.root.join(file), folder.join(file));
            write::folder(to.parent().unwrap_or(folder))?;
            let mut from = std::fs::File::open(&from).map_err(Error::io(&from, "open"))?;
            write::atomically(&to, |out| std::io::copy(&mut from, out).map(drop))?;
        }
        Ok(())
    }
}

static SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether downloads show progress bars, and what goes on is said, on stderr. A library is silent; the
/// program is not, without `--quiet`.
pub fn show_progress(show: bool) {
    SHOWN.store(show, Ordering::Relaxed);
}

#[cfg_attr(not(feature = "hub"), allow(dead_code))]
fn shows_progress() -> bool {
    SHOWN.load(Ordering::Relaxed)
}

/// Says what the user may not expect.
fn say(message: &str) {
    if SHOWN.load(Ordering::Relaxed) {
        eprintln!("{message}");
    }
}
