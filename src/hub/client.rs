//! [`Hub`]: where it is, who asks, what is cached where, by the environment variables of `huggingface_hub`;
//! and its refusals as sentences.

use super::http::{origin, Failure};
use super::{Kind, Repository};
use crate::error::{Error, Result};
use hf_hub::{Cache, Repo, RepoType};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::Agent;

/// A connection to the Hub and the folder that what it gives is kept in.
pub struct Hub {
    pub(super) endpoint: String,
    pub(super) cache: Cache,
    pub(super) token: Option<String>,
    pub(super) offline: bool,
    pub(super) agent: Agent,
}

impl Hub {
    /// By the environment: `HF_ENDPOINT`; `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME` or
    /// `XDG_CACHE_HOME`; `HF_TOKEN`, `HF_TOKEN_PATH` or the token that `hf auth login` saved;
    /// `HF_HUB_OFFLINE`. Error: none of them and no home names a folder for the cache.
    pub fn from_env() -> Result<Hub> {
        let home = variable("HF_HOME").map(PathBuf::from).or_else(default_home);
        let cache = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let cache = cache
            .or_else(|| Some(home.as_ref()?.join("hub")))
            .ok_or_else(|| Error::hub("Hub", "there is no home folder to keep a cache in; set HF_HOME"))?;
        let token_file = variable("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(home?.join("token")));
        let token = variable("HF_TOKEN").map(|token| token.trim().to_string()).or_else(|| {
            let text = std::fs::read_to_string(token_file?).ok()?;
            Some(text.trim().to_string()).filter(|token| !token.is_empty())
        });
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let is_on = |text: String| ["1", "on", "yes", "true"].contains(&text.to_lowercase().as_str());
        Ok(Hub {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache: Cache::new(cache),
            token,
            offline: variable("HF_HUB_OFFLINE").or_else(|| variable("TRANSFORMERS_OFFLINE")).is_some_and(is_on),
            agent: agent(),
        })
    }

    /// The address, for messages.
    pub(super) fn host(&self) -> &str {
        let origin = origin(&self.endpoint);
        origin.split_once("://").map_or(origin, |(_, host)| host)
    }

    /// The folder of the cache.
    pub(super) fn cache_folder(&self) -> &Path {
        self.cache.path()
    }

    /// The same repository as `hf-hub` knows it.
    pub(super) fn repo(repository: &Repository) -> Repo {
        let kind = match repository.kind {
            Kind::Model => RepoType::Model,
            Kind::Dataset => RepoType::Dataset,
        };
        Repo::with_revision(repository.id.clone(), kind, repository.revision.clone())
    }

    /// An address of the API that is about a repository.
    pub(super) fn api(&self, repository: &Repository, what: &str) -> String {
        format!("{}/api/{}/{}/{what}", self.endpoint, repository.kind.plural(), repository.id)
    }

    /// The same for what no cache can stand in for.
    pub(super) fn error_online(&self, repository: &Repository, failure: Failure) -> Error {
        match failure {
            Failure::Unreachable(why) => {
                Error::hub(repository.to_string(), format!("{} cannot be reached ({why})", self.host()))
            }
            failure => self.error(repository, failure),
        }
    }

    /// A failure that is about a repository, as a sentence.
    pub(super) fn error(&self, repository: &Repository, failure: Failure) -> Error {
        let (host, id) = (self.host(), &repository.id);
        let page = format!("{}/{}", self.endpoint, Self::repo(repository).url());
        let what = match failure {
            Failure::Unreachable(why) => format!("{host} cannot be reached ({why}), and the cache does not have it"),
            Failure::Broken(why) => format!("{host} does not answer as a Hub does: {why}"),
            Failure::Refused { code, message, .. } if code.as_deref() == Some("GatedRepo") => match &self.token {
                Some(_) => {
                    format!("it is gated, and who the token is of has no access; ask for it at {page}. {message}")
                }
                None => format!("it is gated; ask for access at {page}, then set HF_TOKEN"),
            },
            Failure::Refused { code, .. } if code.as_deref() == Some("RevisionNotFound") => {
                format!("it has no revision {:?}", repository.revision)
            }
            Failure::Refused { status: 401 | 404, code, .. } if code.as_deref() == Some("RepoNotFound") => {
                let token = if self.token.is_some() { "a token with access" } else { "HF_TOKEN" };
                format!("{host} has no {id:?}, or it is private; check the name, or set {token}")
            }
            Failure::Refused { status: 401, message, .. } => {
                format!("{host} does not accept the token ({message}); set HF_TOKEN to one from {host}/settings/tokens")
            }
            Failure::Refused { status: 403, message, .. } => {
                format!("{host} does not allow it ({message}); use a token with that permission")
            }
            Failure::Refused { status: 429, message, .. } => format!("{host} has been asked too often; {message}"),
            Failure::Refused { status, message, .. } => format!("{host} refuses with status {status} {message}"),
        };
        Error::hub(repository.to_string(), what.trim_end().trim_end_matches('.'))
    }
}

fn agent() -> Agent {
    Agent::config_builder()
        .user_agent(format!("cusae/{}; rust", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        // Redirects are followed by hand: see `http.rs`.
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Sizes are those of the files.
        .accept_encoding("identity")
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_per_read(Some(Duration::from_secs(120)))
        .build()
        .into()
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_home() -> Option<PathBuf> {
    let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
    cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).map(|cache| cache.join("huggingface"))
}
