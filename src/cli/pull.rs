//! `cusae pull`: a model, an SAE or a data set of the Hub, into the cache or a folder.

use super::Common;
use cusae::error::{Error, Result};
use cusae::hub::{self, Snapshot};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What to fetch, and where to.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// Copy the files into this folder, by their paths in the repository [default: they stay in the cache].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// A model: gpt2, org/name, org/name@REVISION, or TransformerLens' name of one.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// An SAE: RELEASE:ID of cusae list, REPOSITORY:PATH, or a repository with one SAE.
    #[arg(long, value_name = "SAE")]
    sae: Option<String>,
    /// A data set: org/name, or org/name:PATH for a part of it.
    #[arg(long, value_name = "DATASET")]
    dataset: Option<String>,
}

#[derive(Serialize)]
struct Report {
    /// What other commands take as a model, an SAE or a text.
    path: PathBuf,
    files: Vec<PathBuf>,
    bytes: u64,
}

/// Fetches, and says where it lies.
pub fn run(args: Args, common: &Common) -> anyhow::Result<()> {
    let (snapshot, opened) = match args.what {
        What { model: Some(name), .. } => {
            let snapshot = hub::fetch_model("--model", &name)?;
            let root = snapshot.root.clone();
            (snapshot, root)
        }
        What { sae: Some(name), .. } => {
            let named = hub::sae("--sae", &name)?;
            let snapshot = named.snapshot.ok_or_else(|| here_already("--sae", &name))?;
            (snapshot, named.path)
        }
        What { dataset, .. } => {
            let snapshot = fetch_dataset(&dataset.unwrap_or_default())?;
            let root = snapshot.root.clone();
            (snapshot, root)
        }
    };
    let root = match &args.out {
        Some(folder) => {
            snapshot.copy_to(folder)?;
            folder.clone()
        }
        None => snapshot.root.clone(),
    };
    let inside = opened.strip_prefix(&snapshot.root).unwrap_or(&opened);
    let files: Vec<PathBuf> = snapshot.files.iter().map(|file| root.join(file)).collect();
    let size = |file: &PathBuf| std::fs::metadata(file).map(|data| data.len()).map_err(Error::io(file, "read"));
    let bytes = files.iter().map(size).sum::<Result<u64>>()?;
    let path = if inside.as_os_str().is_empty() { root } else { root.join(inside) };
    common.print(&Report { path, files, bytes })
}

fn here_already(key: &str, name: &str) -> Error {
    Error::config(key, format!("{name} is on this machine already"))
}

/// All files of a data set: they are of one commit.
fn fetch_dataset(name: &str) -> Result<Snapshot> {
    let files = hub::dataset(name)?.ok_or_else(|| {
        Error::config("--dataset", format!("{name} is no name of a data set, such as org/name or org/name:PATH"))
    })?;
    let mut snapshot = Snapshot { root: PathBuf::new(), files: Vec::new() };
    for file in files {
        let path = file.fetch()?;
        let depth = file.path().split('/').count();
        snapshot.root = path.ancestors().nth(depth).map(Into::into).unwrap_or_default();
        snapshot.files.push(file.path().into());
    }
    Ok(snapshot)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.path.display())?;
        for file in &self.files {
            writeln!(f, "  {}", file.strip_prefix(&self.path).unwrap_or(file).display())?;
        }
        writeln!(f, "{} files, {} bytes", self.files.len(), self.bytes)
    }
}
