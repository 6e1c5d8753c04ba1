//! Searching the Hub for SAEs: repositories that carry the tag `saelens`.

use super::http::{escape, Request};
use super::listing::{next_page, text};
use super::{Hub, Kind, Repository};
use crate::error::{Error, Result};
use serde::Serialize;

/// A repository that a search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundRepository {
    /// `org/name`.
    pub repo_id: String,
    /// Downloads of the last month.
    pub downloads: u64,
    /// Likes.
    pub likes: u64,
    /// When it was last changed.
    pub last_modified: String,
}

impl Hub {
    /// Repositories tagged `saelens` whose names hold `words`, those that are downloaded most first.
    /// Errors: no network, or `HF_HUB_OFFLINE` is set.
    pub fn search_saes(&self, words: &[String], limit: usize) -> Result<Vec<FoundRepository>> {
        if self.offline {
            return Err(Error::hub(self.host(), "HF_HUB_OFFLINE is set; unset it to search"));
        }
        let page = limit.min(100);
        let search = if words.is_empty() { String::new() } else { format!("&search={}", escape(&words.join(" "))) };
        let query = format!("filter=saelens{search}&sort=downloads&direction=-1&limit={page}&full=true");
        let mut next = Some(format!("{}/api/models?{query}", self.endpoint));
        let asked = Repository { kind: Kind::Model, id: self.host().into(), revision: "main".into() };
        let mut found = Vec::new();
        while let (Some(url), true) = (next, found.len() < limit) {
            let (headers, value) =
                self.json(&Request::get(&url)).map_err(|failure| self.error_online(&asked, failure))?;
            let models = value.as_array().cloned().unwrap_or_default();
            found.extend(models.iter().map(|model| FoundRepository {
                repo_id: text(model, "id"),
                downloads: model["downloads"].as_u64().unwrap_or(0),
                likes: model["likes"].as_u64().unwrap_or(0),
                last_modified: text(model, "lastModified"),
            }));
            next = next_page(&url, &headers).filter(|_| !models.is_empty());
        }
        found.truncate(limit);
        Ok(found)
    }
}
