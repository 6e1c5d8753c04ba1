//! Every layout's files, spoilt in every way that files get spoilt: cut off, grown, swapped for something else,
//! renamed, filled with NaN. Each is answered with one sentence that names the file, or, where nothing that
//! counts was spoilt, by the same SAE; nothing panics, and no other SAE comes out.

use cusae::formats::{self, SavedSae};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/formats")
}

/// An SAE of each layout, by the path below [`data`] that names it, and one of SAELens.
fn cases() -> Vec<(String, String)> {
    let text = std::fs::read(data().join("cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_string();
    let mut cases: Vec<_> = cases.iter().map(|case| (text(case, "path"), text(case, "format"))).collect();
    cases.push(("../saes/jumprelu-none-bdec".into(), "sae_lens".into()));
    cases.push(("../saes/legacy-res-jb".into(), "sae_lens".into()));
    cases
}

/// A copy of an SAE's files, in folders of the same names.
struct Copy {
    folder: TempDir,
    path: PathBuf,
}

impl Copy {
    fn of(path: &str) -> Copy {
        let folder = tempfile::tempdir().unwrap();
        let from = data().join(path);
        let copied = folder.path().join(path.trim_start_matches("../"));
        // A file's companions lie beside it.
        let (from, to) = match from.is_dir() {
            true => (from, copied.clone()),
            false => (from.parent().unwrap().into(), copied.parent().unwrap().into()),
        };
        copy(&from, &to);
        Copy { folder, path: copied }
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let within = if self.path.is_dir() { &self.path } else { self.path.parent().unwrap() };
        walk(within, &mut files);
        files
    }

    /// What loading gives, with the layout named and without.
    fn load(&self, layout: &str) -> [Result<SavedSae, String>; 2] {
        [Some(layout), None].map(|layout| formats::load(&self.path, layout).map_err(|error| error.to_string()))
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if !path.to_string_lossy().ends_with("io.safetensors") {
            std::fs::copy(&path, &to).unwrap();
        }
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, files),
            false => files.push(path),
        }
    }
}

/// Spoils one file after another of every layout and looks at what comes of it.
fn spoil(what: &str, change: impl Fn(&Path, &[u8]) -> Option<Vec<u8>>, may_be_unharmed: bool) {
    for (path, layout) in cases() {
        let whole = Copy::of(&path);
        let expected = whole.load(&layout)[0].clone().unwrap();
        let mut refused = 0;
        for file in whole.files() {
            let bytes = std::fs::read(&file).unwrap();
            let Some(spoilt) = change(&file, &bytes) else { continue };
            std::fs::write(&file, spoilt).unwrap();
            for loaded in whole.load(&layout) {
                match loaded {
                    Ok(found) => assert!(may_be_unharmed || !is_weights(&file) || found == expected, "{what}: {path}"),
                    Err(message) => {
                        assert!(!message.contains('\n') && message.contains(": "), "{what}: {path}: {message}");
                        let root = whole.folder.path().to_str().unwrap();
                        assert!(message.contains(root), "{what}: {path}: {message}");
                        refused += 1;
                    }
                }
            }
            std::fs::write(&file, bytes).unwrap();
        }
        assert!(refused > 0, "{what}: {path} was not refused");
    }
}

fn is_weights(file: &Path) -> bool {
    [".safetensors", ".pt", ".pth", ".npz"].iter().any(|ending| file.to_string_lossy().ends_with(ending))
}

#[test]
fn files_that_are_cut_off() {
    for part in [0, 1, 2, 3] {
        spoil("cut off", |file, bytes| is_weights(file).then(|| bytes[..bytes.len() * part / 4].to_vec()), false);
    }
    spoil("without its last byte", |file, bytes| is_weights(file).then(|| bytes[..bytes.len() - 1].to_vec()), false);
    let empty = |file: &Path, _: &[u8]| (!is_weights(file)).then(Vec::new);
    for (path, layout) in cases() {
        let copy = Copy::of(&path);
        for file in copy.files() {
            if let Some(nothing) = empty(&file, &[]) {
                let bytes = std::fs::read(&file).unwrap();
                std::fs::write(&file, nothing).unwrap();
                let _a_refusal_or_defaults = copy.load(&layout);
                std::fs::write(&file, bytes).unwrap();
            }
        }
    }
}

#[test]
fn files_that_have_grown() {
    let grown = |file: &Path, bytes: &[u8]| is_weights(file).then(|| [bytes, &[0; 4096]].concat());
    for (path, layout) in cases() {
        let copy = Copy::of(&path);
        let expected = copy.load(&layout)[0].clone().unwrap();
        for file in copy.files() {
            let Some(bytes) = grown(&file, &std::fs::read(&file).unwrap()) else { continue };
            let before = std::fs::read(&file).unwrap();
            std::fs::write(&file, bytes).unwrap();
            for loaded in copy.load(&layout) {
                assert!(loaded.is_err() || loaded.as_ref() == Ok(&expected), "{path}");
            }
            std::fs::write(&file, before).unwrap();
        }
    }
}

#[test]
fn files_of_another_kind() {
    let others: [&[u8]; 5] =
        [b"\x89PNG\r\n\x1a\n and so on", b"<!DOCTYPE html><html>404</html>", b"{}", b"\x80\x02}q\x00.", &[0xff; 4096]];
    for other in others {
        spoil("another kind", |file, _| is_weights(file).then(|| other.to_vec()), false);
    }
    // A pointer that git left where Git LFS was not installed.
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n";
    spoil("a pointer", |file, _| is_weights(file).then(|| pointer.to_vec()), false);
}

#[test]
fn weights_that_are_not_numbers() {
    // All ones is NaN in every floating-point format; of an archive the tail is its directory.
    let spoilt = |file: &Path, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        // More than the padding before a tensor.
        let end = bytes.len().min(middle + 256);
        bytes[middle..end].fill(0xff);
        is_weights(file).then_some(bytes)
    };
    spoil("NaN", spoilt, false);
}

#[test]
fn files_that_were_renamed() {
    for (path, layout) in cases() {
        let copy = Copy::of(&path);
        let files = copy.files();
        for file in &files {
            let elsewhere = file.with_file_name("renamed");
            std::fs::rename(file, &elsewhere).unwrap();
            for loaded in copy.load(&layout) {
                if let Err(message) = loaded {
                    assert!(!message.contains('\n'), "{path}: {message}");
                }
            }
            std::fs::rename(&elsewhere, file).unwrap();
        }
        // As another layout's: a refusal, or the same files read by another's rules, but no panic.
        for format in formats::FORMATS {
            let _either = formats::load(&copy.path, Some(format.name));
        }
    }
}
