//! `cusae push`: an SAE to the Hub, as SAELens uploads one.

use super::Common;
use cusae::error::{Error, Result};
use cusae::formats::{saelens, SavedSae};
use cusae::hub::{Contents, Hub, Kind, Name, Repository, Upload};
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// What SAELens uploads of an SAE's folder.
const FILES: [&str; 4] = ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json"];
const README: &str = "README.md";

/// What to upload, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// Folder of the SAE, in SAELens' layout.
    #[arg(long, value_name = "DIR")]
    sae: PathBuf,
    /// Repository, and the SAE's id (a path) in it: org/name, or org/name:ID [default: the SAE's hook].
    #[arg(long, value_name = "REPOSITORY[:ID]")]
    to: String,
    /// Branch; it is made if it is not there.
    #[arg(long, value_name = "BRANCH", default_value = "main")]
    revision: String,
    /// Make a repository that only you can see, if it is to be made.
    #[arg(long)]
    private: bool,
}

#[derive(Serialize)]
struct Report {
    repo_id: String,
    sae_id: String,
    commit: String,
    url: String,
    files: Vec<String>,
}

/// Checks, uploads, and says how the SAE is called now.
pub fn run(args: Args, common: &Common) -> anyhow::Result<()> {
    let saved = saelens::load_folder(&args.sae)?;
    let Name { repository, path } = destination(&args)?;
    let hook = saved.config.hook_name().map(str::to_string);
    let sae_id = Some(path).filter(|path| !path.is_empty()).or(hook).ok_or_else(|| {
        Error::config("--to", format!("the SAE names no hook; say what it is called, as {}:ID", args.to))
    })?;
    let hub = Hub::from_env()?;
    hub.create(&repository, args.private)?;
    let held = FILES.iter().filter(|name| args.sae.join(name).is_file());
    let upload =
        |name: &&str| Upload { path: format!("{sae_id}/{name}"), contents: Contents::File(args.sae.join(name)) };
    let mut uploads: Vec<Upload> = held.map(upload).collect();
    if hub.list(&repository, "")?.iter().all(|file| file.path != README) {
        let readme = readme(&repository, &sae_id, &saved);
        uploads.push(Upload { path: README.into(), contents: Contents::Text(readme) });
    }
    let commit = hub.upload(&repository, &uploads, &format!("Upload SAE {sae_id}"))?;
    let files = uploads.into_iter().map(|upload| upload.path).collect();
    common.print(&Report { repo_id: repository.id, sae_id, commit: commit.id, url: commit.url, files })
}

/// The repository and id that `--to` and `--revision` name.
fn destination(args: &Args) -> Result<Name> {
    let name = Name::parse(Kind::Model, &args.to).filter(|name| name.repository.id.contains('/'));
    let name = name.ok_or_else(|| {
        Error::config("--to", format!("{} is no name of a repository, such as org/name or org/name:ID", args.to))
    })?;
    if name.repository.revision != "main" && name.repository.revision != args.revision {
        return Err(Error::config("--to", "name the branch with --revision"));
    }
    Ok(Name { repository: Repository { revision: args.revision.clone(), ..name.repository }, ..name })
}

/// The README that SAELens writes, with what is known of the SAE. The Hub tags by `library_name`.
fn readme(repository: &Repository, sae_id: &str, saved: &SavedSae) -> String {
    let config = &saved.config;
    let note = |key: &str| config.metadata.get(key).and_then(|value| value.as_str()).unwrap_or("unknown");
    format!(
        "---\nlibrary_name: saelens\ntags:\n- saelens\n- sparse-autoencoder\n---\n\n\
         # SAEs for use with the SAELens library\n\n\
         This repository contains the following SAEs:\n\
         - {sae_id}: {}, {} x {}, for {} of {}\n\n\
         Load these SAEs using SAELens as below:\n\
         ```python\nfrom sae_lens import SAE\n\nsae = SAE.from_pretrained(\"{id}\", \"<sae_id>\")\n```\n\n\
         or with cusae:\n\
         ```\ncusae verify --sae {id}:{sae_id}\n```\n",
        config.architecture_name(),
        config.d_in,
        config.d_sae,
        note("hook_name"),
        note("model_name"),
        id = repository.id,
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}", self.repo_id, self.sae_id)?;
        self.files.iter().try_for_each(|file| writeln!(f, "  {file}"))?;
        writeln!(f, "{}", self.url)
    }
}
