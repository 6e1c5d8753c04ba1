//! Names on the Hub: `gpt2`, `org/name`, `org/name@revision`, `org/name:path/in/it`. What a name or a
//! listing says becomes part of paths here, so nothing that points elsewhere is let through.

#[cfg(feature = "hub")]
use crate::error::{Error, Result};
use std::fmt;
use std::path::Path;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model, or SAEs.
    Model,
    /// A data set.
    Dataset,
}

impl Kind {
    /// As addresses of the Hub's API have it.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// A repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// What it holds.
    pub kind: Kind,
    /// `name` or `org/name`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.kind == Kind::Dataset { "data set " } else { "" };
        match self.revision.as_str() {
            "main" => write!(f, "{of}{}", self.id),
            revision => write!(f, "{of}{}@{revision}", self.id),
        }
    }
}

/// A repository and, after a colon, a folder or file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The repository.
    pub repository: Repository,
    /// The path in it; empty for all of it.
    pub path: String,
}

impl Name {
    /// Reads a name. None: it cannot be one, as local paths mostly cannot.
    pub fn parse(kind: Kind, name: &str) -> Option<Name> {
        let (repository, path) = name.split_once(':').unwrap_or((name, ""));
        let (id, revision) = repository.split_once('@').unwrap_or((repository, "main"));
        let path = path.trim_end_matches('/');
        let fits = is_id(id) && is_revision(revision) && (path.is_empty() || is_inside(path));
        fits.then(|| Name {
            repository: Repository { kind, id: id.into(), revision: revision.into() },
            path: path.into(),
        })
    }
}

impl Repository {
    /// The repository at the commit that one of its files was found at.
    pub fn at(&self, commit: &str) -> Repository {
        Repository { revision: commit.into(), ..self.clone() }
    }
}

/// The Hub's rule: one or two parts of letters, digits, `.`, `_` and `-`.
fn is_id(id: &str) -> bool {
    let part = |part: &str| {
        let inner = part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
        let ends = part.starts_with(['.', '-']) || part.ends_with(['.', '-']);
        (1..=96).contains(&part.len()) && inner && !ends
    };
    let parts = id.split('/').count();
    parts <= 2 && id.split('/').all(part) && !id.contains("--") && !id.contains("..")
}

fn is_revision(revision: &str) -> bool {
    is_inside(revision) && revision.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-/".contains(&c))
}

/// Whether this is a full commit: what it names never changes.
#[cfg(feature = "hub")]
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|c| c.is_ascii_hexdigit())
}

/// Whether a path stays within the folder that it is put into, on every system.
pub fn is_inside(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    // A colon is a drive's behind one letter; behind more it is in names of published SAEs.
    let drive = path.as_bytes().get(1) == Some(&b':');
    let plain = !drive && !path.contains('\\') && !path.chars().any(char::is_control);
    plain && path.len() <= 1024 && path.split('/').all(part)
}

/// Error: a path of a repository's listing or weights' index points outside of it.
#[cfg(feature = "hub")]
pub fn check_inside(repository: &Repository, path: &str) -> Result<()> {
    match is_inside(path) {
        true => Ok(()),
        false => {
            let what = format!("it lists a file {path:?}, which points outside of the repository; nothing is fetched");
            Err(Error::hub(repository.to_string(), what))
        }
    }
}

/// Whether a name is meant for this machine: it exists, or is written as a path.
pub fn is_local(name: &str) -> bool {
    Path::new(name).exists() || name.starts_with(['.', '/', '~'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[test]
    fn names_of_repositories_are_told_from_paths() {
        let name = Name::parse(Kind::Model, "org/some-SAEs@v1.2:layers/8").unwrap();
        assert_eq!((name.repository.id.as_str(), name.repository.revision.as_str()), ("org/some-SAEs", "v1.2"));
        assert_eq!((name.path.as_str(), name.repository.to_string().as_str()), ("layers/8", "org/some-SAEs@v1.2"));
        assert_eq!(Name::parse(Kind::Model, "gpt2").unwrap().repository.revision, "main");
        for none in ["", "/models/gpt2", "./gpt2", "a/b/c", "a b", "a--b", "a..b/c", "-a", "a/", "a:../b", "a@"] {
            assert!(Name::parse(Kind::Model, none).is_none(), "{none}");
        }
    }

    #[test]
    fn paths_that_point_outside_are_found() {
        let registered = registry::releases().iter().flat_map(|release| &release.saes).map(|sae| sae.path);
        for inside in registered.chain(["a", "a/b.txt", "layer 8/ae.pt", "a/..b"]) {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in ["", "..", "../a", "a/../b", "/etc/passwd", "a//b", "a/.", "..\\a", "C:a", "a\0b", "a/"] {
            assert!(!is_inside(outside), "{outside:?}");
        }
    }
}
