//! Files into the cache: asked for by name, fetched once, in pieces where the connection breaks, and held
//! against the size and the hash that the Hub names before anyone sees them.

use super::http::{escape, Failure, Follow, Request, Response};
use super::name::{check_inside, is_commit};
use super::{shows_progress, Cached, Hub, Repository};
use crate::error::{Error, Result};
use crate::formats::write;
use indicatif::{ProgressBar, ProgressStyle};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

/// How often a download that does not get on is begun again.
const ATTEMPTS: u32 = 5;

/// Where a file is not.
enum Missing {
    FromRepository,
    /// And why the repository could not be asked.
    FromCache(String),
}

/// What the Hub says of a file.
struct Facts {
    commit: String,
    /// The blob's name: SHA-256 of a large file, git's SHA-1 of a small one.
    hash: String,
    size: Option<u64>,
}

impl Hub {
    /// A file of a repository, fetched if the cache does not have it; none if the repository does not have it.
    /// A commit's files that the cache has are taken without asking; so are a branch's with `HF_HUB_OFFLINE` and
    /// where there is no network. Errors: no such repository or revision, no access, no network; what
    /// comes is of another size or hash than the Hub says.
    pub fn find(&self, repository: &Repository, path: &str) -> Result<Option<Cached>> {
        Ok(self.look(repository, path)?.ok())
    }

    /// A file that a repository must have. Errors: as [`Hub::find`]; there is no such file.
    pub fn get(&self, repository: &Repository, path: &str) -> Result<Cached> {
        self.look(repository, path)?.map_err(|missing| {
            let what = match missing {
                Missing::FromRepository => format!("it has no file {path}"),
                Missing::FromCache(why) => format!("the cache does not have {path}, and {why}"),
            };
            Error::hub(repository.to_string(), what)
        })
    }

    /// A file, or where it is missing from.
    fn look(&self, repository: &Repository, path: &str) -> Result<Result<Cached, Missing>> {
        check_inside(repository, path)?;
        let cached = self.cached(repository, path);
        if self.offline || (is_commit(&repository.revision) && cached.is_some()) {
            return match cached {
                None if !self.has_snapshot(repository) => Err(self.not_cached(repository)),
                cached => {
                    Ok(cached.ok_or_else(|| Missing::FromCache("HF_HUB_OFFLINE is set; unset it to fetch it".into())))
                }
            };
        }
        if self.is_absent(repository, path) {
            return Ok(Err(Missing::FromRepository));
        }
        let facts = match self.facts(repository, path) {
            Ok(Some(facts)) => facts,
            Ok(None) => return Ok(Err(Missing::FromRepository)),
            // Without a network, what was fetched before must do.
            Err(Failure::Unreachable(why)) if self.has_snapshot(repository) => {
                let why = || Missing::FromCache(format!("{} cannot be reached ({why})", self.host()));
                return Ok(cached.ok_or_else(why));
            }
            Err(failure) => return Err(self.error(repository, failure)),
        };
        let blob = self.blob(repository, &facts.hash);
        if !blob.is_file() {
            let _lock = self.lock(repository, &facts.hash)?;
            if !blob.is_file() {
                self.download(repository, path, &facts, &blob)?;
            }
        }
        let file = self.link(repository, &facts.commit, path, &blob)?;
        self.remember_commit(repository, &facts.commit)?;
        Ok(Ok(Cached { path: file, commit: facts.commit }))
    }

    pub(super) fn not_cached(&self, repository: &Repository) -> Error {
        let cache = self.cache_folder().display();
        let what = format!("the cache in {cache} does not have it, and HF_HUB_OFFLINE is set; unset it to fetch it");
        Error::hub(repository.to_string(), what)
    }

    fn address(&self, repository: &Repository, revision: &str, path: &str) -> String {
        let folder = Self::repo(repository).url();
        format!("{}/{folder}/resolve/{}/{}", self.endpoint, revision.replace('/', "%2F"), escape(path))
    }

    /// What the Hub says of a file; none where it has none.
    fn facts(&self, repository: &Repository, path: &str) -> Result<Option<Facts>, Failure> {
        let url = self.address(repository, &repository.revision, path);
        let request = Request { method: "HEAD", follow: Follow::Within, ..Request::get(url) };
        let answer = match self.send(&request) {
            Ok(answer) => answer,
            Err(Failure::Refused { status: 404, code, .. })
                if code.is_none() || code.as_deref() == Some("EntryNotFound") =>
            {
                if is_commit(&repository.revision) {
                    self.remember_absence(repository, &repository.revision, path);
                }
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        };
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let wrong = |what: &str| Failure::Broken(format!("{path} comes {what}"));
        let commit =
            header("x-repo-commit").filter(|commit| is_commit(commit)).ok_or_else(|| wrong("without a commit"))?;
        let hash = header("x-linked-etag").or(header("etag")).unwrap_or_default();
        let hash = hash.trim_start_matches("W/").trim_matches('"');
        let is_name = !hash.is_empty() && hash.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        let hash = Some(hash).filter(|_| is_name).ok_or_else(|| wrong("without a hash"))?;
        let size = header("x-linked-size").or(header("content-length")).and_then(|size| size.parse().ok());
        Ok(Some(Facts { commit: commit.into(), hash: hash.into(), size }))
    }

    /// Fetches a blob. What an interrupted download has left is gone on with; if the whole is not what the Hub
    /// says, it is fetched once more from the beginning.
    fn download(&self, repository: &Repository, path: &str, facts: &Facts, blob: &Path) -> Result<()> {
        write::folder(blob.parent().unwrap_or(blob))?;
        let partial = blob.with_file_name(format!("{}.incomplete", facts.hash));
        self.check_space(repository, path, facts, &partial)?;
        let begun = fs::metadata(&partial).is_ok_and(|held| held.len() > 0);
        let mut found = self.fetch(repository, path, facts, &partial)?;
        if begun && found.is_some() {
            found = self.fetch(repository, path, facts, &partial)?;
        }
        match found {
            None => fs::rename(&partial, blob).map_err(Error::io(blob, "rename")),
            Some(what) => Err(Error::hub(repository.to_string(), format!("{path} {what}; it is not kept. Try again"))),
        }
    }

    /// One download: none if all is as the Hub says, else what is not; then nothing of it is left.
    fn fetch(&self, repository: &Repository, path: &str, facts: &Facts, partial: &Path) -> Result<Option<String>> {
        let io_error = || Error::io(partial, "write");
        let mut file = File::options().create(true).append(true).read(true).open(partial).map_err(io_error())?;
        let bar = bar(path, facts.size);
        let mut attempts = 0;
        loop {
            let held = file.metadata().map_err(io_error())?.len();
            bar.set_position(held);
            let (whole, why) = match facts.size {
                Some(size) if held == size => break,
                Some(size) if held > size => (true, String::new()),
                _ => match self.fetch_from(repository, path, facts, held, &mut file, &bar) {
                    Ok(()) if facts.size.is_none() => break,
                    Ok(()) => (false, "the connection was closed too early".into()),
                    Err(Trouble::Disk(error)) => return Err(io_error()(error)),
                    Err(Trouble::TooLong) => {
                        fs::remove_file(partial).map_err(Error::io(partial, "remove"))?;
                        return Ok(Some(format!(
                            "has more bytes than the {} that the Hub says",
                            facts.size.unwrap_or(0)
                        )));
                    }
                    Err(Trouble::Server(Failure::Refused { status: 416, .. })) => (true, "it has no such range".into()),
                    Err(Trouble::Server(Failure::Broken(why))) => (false, why),
                    Err(Trouble::Server(failure)) => return Err(self.error(repository, failure)),
                },
            };
            if whole {
                file.set_len(0).map_err(io_error())?;
            }
            let got_on = file.metadata().map_err(io_error())?.len() > held;
            attempts = if got_on { 0 } else { attempts + 1 };
            if attempts == ATTEMPTS {
                let failure = Failure::Broken(format!("{path} breaks off again and again ({why})"));
                return Err(self.error(repository, failure));
            }
        }
        bar.finish_and_clear();
        file.sync_all().map_err(io_error())?;
        let wrong = wrong_content(partial, facts).map_err(Error::io(partial, "read"))?;
        if wrong.is_some() {
            fs::remove_file(partial).map_err(Error::io(partial, "remove"))?;
        }
        Ok(wrong)
    }

    /// Appends what comes from byte `held` on. A server that begins anew is gone along with.
    fn fetch_from(
        &self,
        repository: &Repository,
        path: &str,
        facts: &Facts,
        held: u64,
        file: &mut File,
        bar: &ProgressBar,
    ) -> Result<(), Trouble> {
        let mut request = Request::get(self.address(repository, &facts.commit, path));
        if held > 0 {
            request = request.header("range", format!("bytes={held}-"));
        }
        let answer = self.send(&request).map_err(Trouble::Server)?;
        if held > 0 && first_byte(&answer) != Some(held) {
            file.set_len(0).map_err(Trouble::Disk)?;
            bar.set_position(0);
        }
        let mut body = answer.into_body().into_reader();
        // One byte more than expected is enough to see that it is too much.
        let mut left = facts.size.map_or(u64::MAX, |size| size - file.metadata().map_or(0, |data| data.len()) + 1);
        let mut piece = vec![0; 1 << 16];
        while left > 0 {
            let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = body.read(&mut piece[..most]).map_err(|e| Trouble::Server(Failure::Broken(e.to_string())))?;
            if read == 0 {
                return Ok(());
            }
            file.write_all(&piece[..read]).map_err(Trouble::Disk)?;
            bar.inc(read as u64);
            left -= read as u64;
        }
        Err(Trouble::TooLong)
    }

    /// Error: the disk has no room.
    fn check_space(&self, repository: &Repository, path: &str, facts: &Facts, partial: &Path) -> Result<()> {
        let held = fs::metadata(partial).map_or(0, |held| held.len());
        let needed = facts.size.unwrap_or(0).saturating_sub(held);
        let folder = partial.parent().unwrap_or(partial);
        match fs4::available_space(folder) {
            Ok(free) if free < needed => {
                let what = format!(
                    "{path} takes {needed} bytes more, and the disk of {} has {free} left; make room or set HF_HOME",
                    folder.display()
                );
                Err(Error::hub(repository.to_string(), what))
            }
            _ => Ok(()),
        }
    }
}

/// Why a download ended early.
enum Trouble {
    Server(Failure),
    Disk(io::Error),
    TooLong,
}

/// Where a partial answer begins.
fn first_byte(answer: &Response) -> Option<u64> {
    if answer.status().as_u16() != 206 {
        return None;
    }
    let range = answer.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// What of size or hash is not as the Hub says. Hashes of other lengths than these two are not known.
fn wrong_content(path: &Path, facts: &Facts) -> io::Result<Option<String>> {
    let held = fs::metadata(path)?.len();
    if let Some(size) = facts.size.filter(|&size| size != held) {
        return Ok(Some(format!("has {held} bytes where the Hub says {size}")));
    }
    let found = match facts.hash.len() {
        64 => hash::<Sha256>(path, b"")?,
        40 => hash::<Sha1>(path, format!("blob {held}\0").as_bytes())?,
        _ => return Ok(None),
    };
    let differs = !found.eq_ignore_ascii_case(&facts.hash);
    Ok(differs.then(|| format!("has the hash {found} where the Hub says {}", facts.hash)))
}

/// The hash of a prefix and a file, in hexadecimal.
pub fn hash<D: Digest>(path: &Path, prefix: &[u8]) -> io::Result<String> {
    let mut hasher = D::new();
    hasher.update(prefix);
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => hasher.update(&piece[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A progress bar over bytes on stderr, where they are shown.
pub fn bar(name: &str, size: Option<u64>) -> ProgressBar {
    if !shows_progress() {
        return ProgressBar::hidden();
    }
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(size.unwrap_or(0)).with_style(style).with_message(name.to_string())
}
