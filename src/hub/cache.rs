//! The cache: `models--org--name/{blobs,refs,snapshots}`, as `huggingface_hub` keeps it. A blob's name is
//! its hash; a snapshot's files link to blobs; a ref says which commit a branch was last seen at.

use super::name::{is_commit, is_inside};
use super::{Cached, Hub, Listed, Repository};
use crate::error::{Error, Result};
use crate::formats::write;
use fs4::FileExt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

impl Hub {
    /// The commit of a revision, as far as the cache knows.
    pub(super) fn cached_commit(&self, repository: &Repository) -> Option<String> {
        if is_commit(&repository.revision) {
            return Some(repository.revision.clone());
        }
        let text = fs::read_to_string(self.folder(repository).join("refs").join(&repository.revision)).ok()?;
        Some(text.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// The file of a snapshot that the cache has.
    pub(super) fn cached(&self, repository: &Repository, path: &str) -> Option<Cached> {
        let commit = self.cached_commit(repository)?;
        let file = self.snapshot(repository, &commit).join(path);
        file.is_file().then_some(Cached { path: file, commit })
    }

    /// Whether the cache has anything of the repository at this revision.
    pub(super) fn has_snapshot(&self, repository: &Repository) -> bool {
        self.cached_commit(repository).is_some_and(|commit| self.snapshot(repository, &commit).is_dir())
    }

    /// The files of a snapshot that the cache has, below a folder.
    pub(super) fn cached_files(&self, repository: &Repository, folder: &str) -> Vec<Listed> {
        let Some(commit) = self.cached_commit(repository) else { return Vec::new() };
        let mut files = Vec::new();
        walk(&self.snapshot(repository, &commit), folder, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// Whether it is known that a commit has no such file.
    pub(super) fn is_absent(&self, repository: &Repository, path: &str) -> bool {
        is_commit(&repository.revision) && self.absence(repository, &repository.revision, path).is_file()
    }

    /// Remembers that a commit has no such file. It need not succeed.
    pub(super) fn remember_absence(&self, repository: &Repository, commit: &str, path: &str) {
        let marker = self.absence(repository, commit, path);
        let _saves_a_question =
            marker.parent().is_some_and(|folder| fs::create_dir_all(folder).is_ok()) && File::create(marker).is_ok();
    }

    /// Remembers which commit a branch is at.
    pub(super) fn remember_commit(&self, repository: &Repository, commit: &str) -> Result<()> {
        if is_commit(&repository.revision) || self.cached_commit(repository).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder(repository).join("refs").join(&repository.revision);
        write::folder(path.parent().unwrap_or(&path))?;
        write::text(&path, commit)
    }

    /// Where a blob lies, or will.
    pub(super) fn blob(&self, repository: &Repository, hash: &str) -> PathBuf {
        self.folder(repository).join("blobs").join(hash)
    }

    /// Makes a snapshot's file, a link to its blob.
    pub(super) fn link(&self, repository: &Repository, commit: &str, path: &str, blob: &Path) -> Result<PathBuf> {
        let file = self.snapshot(repository, commit).join(path);
        if file.is_file() {
            return Ok(file);
        }
        write::folder(file.parent().unwrap_or(&file))?;
        let up = "../".repeat(1 + path.split('/').count());
        let name = blob.file_name().unwrap_or_default();
        // Put in place at once: other processes see the file or nothing, and a link whose blob was deleted goes.
        let temporary = write::temporary_name(&file);
        let _of_a_program_that_was_stopped = fs::remove_file(&temporary);
        symlink(&Path::new(&up).join("blobs").join(name), blob, &temporary).map_err(Error::io(&file, "link"))?;
        fs::rename(&temporary, &file).map_err(Error::io(&file, "link"))?;
        Ok(file)
    }

    /// Waits until no other process fetches this blob, and keeps others waiting until it is dropped.
    pub(super) fn lock(&self, repository: &Repository, hash: &str) -> Result<File> {
        let folder = self.cache_folder().join(".locks").join(Self::repo(repository).folder_name());
        write::folder(&folder)?;
        let path = folder.join(format!("{hash}.lock"));
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::io(&path, "create"))?;
        FileExt::lock(&file).map_err(Error::io(&path, "lock"))?;
        Ok(file)
    }

    fn folder(&self, repository: &Repository) -> PathBuf {
        self.cache_folder().join(Self::repo(repository).folder_name())
    }

    fn snapshot(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.cache.repo(Self::repo(repository)).pointer_path(commit)
    }

    fn absence(&self, repository: &Repository, commit: &str, path: &str) -> PathBuf {
        self.folder(repository).join(".no_exist").join(commit).join(path)
    }
}

#[cfg(unix)]
fn symlink(relative: &Path, _blob: &Path, file: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, file)
}

/// Links need a privilege elsewhere; `huggingface_hub` copies there, too.
#[cfg(not(unix))]
fn symlink(_relative: &Path, blob: &Path, file: &Path) -> std::io::Result<()> {
    fs::copy(blob, file).map(drop)
}

fn walk(snapshot: &Path, folder: &str, files: &mut Vec<Listed>) {
    for entry in fs::read_dir(snapshot.join(folder)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        match fs::metadata(entry.path()) {
            Ok(data) if data.is_dir() => walk(snapshot, &path, files),
            Ok(data) if is_inside(&path) => files.push(Listed { path, size: data.len() }),
            _ => {}
        }
    }
}
