//! Files are written to a temporary name beside the real one, synced, and renamed: whoever reads
//! sees the old file or the whole new one.

use crate::error::{Error, Result};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes `path` whole, or leaves what was there: `write` fills a temporary file first.
pub fn atomically(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    by_name(path, |temporary| {
        let file = File::create(temporary).map_err(Error::io(path, "create"))?;
        let mut writer = BufWriter::with_capacity(1 << 20, file);
        write(&mut writer).and_then(|()| writer.flush()).map_err(Error::io(path, "write"))
    })
}

/// As [`atomically`], for who makes the temporary file himself, by its name.
pub(crate) fn by_name(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = temporary_name(path);
    let result = write(&temporary).and_then(|()| {
        File::open(&temporary).and_then(|file| file.sync_all()).map_err(Error::io(path, "sync"))?;
        fs::rename(&temporary, path).map_err(Error::io(path, "rename"))
    });
    if result.is_err() {
        // The temporary file may not exist; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Writes a small text file whole.
pub fn text(path: &Path, text: &str) -> Result<()> {
    atomically(path, |out| out.write_all(text.as_bytes()))
}

/// Writes a value whole, as JSON that people can read.
pub fn json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::format(path, format!("cannot be written as JSON: {e}")))?;
    self::text(path, &(text + "\n"))
}

/// Makes a folder and its parents.
pub fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io(path, "create the folder"))
}

/// Syncs a folder, so that renames inside it survive a power cut.
pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path, "sync"))
}

pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}
