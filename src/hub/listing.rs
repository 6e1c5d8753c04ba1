//! The files of a repository.

use super::http::{absolute, escape, origin, Failure, Request};
use super::name::{check_inside, is_commit};
use super::{Hub, Listed, Repository};
use crate::error::{Error, Result};
use serde_json::Value;
use ureq::http::HeaderMap;

/// Pages of a listing that are read at most; the Hub gives a thousand files on each.
const MOST_PAGES: usize = 1000;

impl Hub {
    /// The commit that a repository's revision is at now; without a network, where it was last seen.
    /// Errors: no such repository or revision, no access, no network.
    pub fn commit(&self, repository: &Repository) -> Result<String> {
        let cached = self.cached_commit(repository);
        if is_commit(&repository.revision) || self.offline {
            return cached.ok_or_else(|| self.not_cached(repository));
        }
        let revision = repository.revision.replace('/', "%2F");
        let url = self.api(repository, &format!("revision/{revision}"));
        let answer = match (self.json(&Request::get(&url)), cached) {
            (Ok((_, answer)), _) => answer,
            (Err(Failure::Unreachable(_)), Some(commit)) => return Ok(commit),
            (Err(failure), _) => return Err(self.error(repository, failure)),
        };
        let commit = text(&answer, "sha");
        match is_commit(&commit) {
            true => {
                self.remember_commit(repository, &commit)?;
                Ok(commit)
            }
            false => Err(Error::hub(repository.to_string(), format!("{} names no commit of it", self.host()))),
        }
    }

    /// The files below a folder (empty: all) of a repository, by path; nothing where there is no such folder.
    /// Without a network those that the cache has. Errors: no such repository or revision, no access, no
    /// network; the listing names a file outside of the repository.
    pub fn list(&self, repository: &Repository, folder: &str) -> Result<Vec<Listed>> {
        if self.offline {
            return match self.has_snapshot(repository) {
                true => Ok(self.cached_files(repository, folder)),
                false => Err(self.not_cached(repository)),
            };
        }
        let revision = repository.revision.replace('/', "%2F");
        let below = if folder.is_empty() { String::new() } else { format!("/{}", escape(folder)) };
        let mut next = Some(self.api(repository, &format!("tree/{revision}{below}?recursive=true")));
        let mut files = Vec::new();
        for _ in 0..MOST_PAGES {
            let Some(url) = next else { break };
            let (headers, page) = match self.json(&Request::get(&url)) {
                Ok(answer) => answer,
                Err(Failure::Refused { status: 404, code, .. })
                    if code.is_none() || code.as_deref() == Some("EntryNotFound") =>
                {
                    return Ok(Vec::new())
                }
                Err(Failure::Unreachable(_)) if self.has_snapshot(repository) => {
                    return Ok(self.cached_files(repository, folder))
                }
                Err(failure) => return Err(self.error(repository, failure)),
            };
            let entries = page.as_array().ok_or_else(|| {
                Error::hub(repository.to_string(), format!("{} lists its files in an unknown form", self.host()))
            })?;
            for entry in entries.iter().filter(|entry| entry["type"] == "file") {
                let path = entry["path"].as_str().unwrap_or_default();
                check_inside(repository, path)?;
                files.push(Listed { path: path.into(), size: entry["size"].as_u64().unwrap_or(0) });
            }
            next = next_page(&url, &headers);
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

/// The address of the next page, as the header `Link` names it; only of the same server.
pub fn next_page(url: &str, headers: &HeaderMap) -> Option<String> {
    let links = headers.get("link")?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let to = absolute(url, next.split_once('<')?.1.split_once('>')?.0);
    (origin(&to) == origin(url)).then_some(to)
}

/// A text of a JSON object.
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_string()
}
