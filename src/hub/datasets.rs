//! Data sets by name: which files of a repository are the text, and each of them when it is read.
//!
//! `org/name` is the split `train`; `org/name:path` is a file, a folder, or all files whose paths begin so,
//! such as `data/validation`. Where a repository keeps other things than files of text, its parquet copy is
//! taken, which the Hub makes of most data sets.

use super::{Hub, Kind, Listed, Name, Repository};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where the Hub keeps the parquet copy.
const PARQUET_COPY: &str = "refs/convert/parquet";
/// JSON about a data set, or left by a program that stored one.
const NO_TEXT: &[&str] = &["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "config.json", "state.json"];
const OTHER_SPLITS: &[&str] = &["test", "testing", "eval", "evaluation", "val", "valid", "validation", "dev"];

/// A file of a data set, which is fetched when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    repository: Repository,
    path: String,
    shown: PathBuf,
}

impl RemoteFile {
    /// `org/name:path`, for messages; its ending says what the file holds.
    pub fn name(&self) -> &Path {
        &self.shown
    }

    /// Its path in the repository.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The file in the cache, fetched if it is not there. Errors: as [`Hub::get`].
    pub fn fetch(&self) -> Result<PathBuf> {
        Ok(Hub::from_env()?.get(&self.repository, &self.path)?.path)
    }
}

/// The files of a data set by its name, in the order of their paths, at the commit that it is at now.
/// None: this is no name on the Hub. Errors: there is no such data set, or no text in it.
pub fn dataset(name: &str) -> Result<Option<Vec<RemoteFile>>> {
    let Some(Name { repository, path }) = Name::parse(Kind::Dataset, name) else { return Ok(None) };
    let hub = Hub::from_env().map_err(|error| no_file(name, error))?;
    let at = repository.at(&hub.commit(&repository).map_err(|error| no_file(name, error))?);
    let listed = hub.list(&at, "")?;
    if let Some(files) = choose(&repository, &listed, &path)? {
        return Ok(Some(remote(&repository, &at, files)));
    }
    // Not every data set has this copy; what the repository holds is what there is to tell then.
    let copy = Repository { revision: PARQUET_COPY.into(), ..repository.clone() };
    if let Ok(commit) = hub.commit(&copy) {
        let at = copy.at(&commit);
        if let Some(files) = choose(&repository, &hub.list(&at, "")?, &path)? {
            return Ok(Some(remote(&repository, &at, files)));
        }
    }
    let shown: Vec<&str> = listed.iter().map(|file| file.path.as_str()).take(5).collect();
    let beginning = if path.is_empty() { String::new() } else { format!(" whose path begins with {path}") };
    let more = if listed.len() > shown.len() { ", …" } else { "" };
    let what = format!("it has no .parquet, .jsonl, .txt or .json{beginning}; it holds {}{more}", shown.join(", "));
    Err(Error::hub(repository.to_string(), what))
}

fn remote(repository: &Repository, at: &Repository, files: Vec<String>) -> Vec<RemoteFile> {
    let file =
        |path: String| RemoteFile { repository: at.clone(), shown: format!("{}:{path}", repository.id).into(), path };
    files.into_iter().map(file).collect()
}

fn no_file(name: &str, error: Error) -> Error {
    match error {
        Error::Hub { name: of, what } => Error::hub(of, format!("{what} (there is no local file {name} either)")),
        error => error,
    }
}

/// The files of text at a path. None: there are none. Error: they are of several subsets.
fn choose(repository: &Repository, listed: &[Listed], path: &str) -> Result<Option<Vec<String>>> {
    let all: Vec<&str> = listed.iter().map(|file| file.path.as_str()).collect();
    if all.contains(&path) {
        return Ok(Some(vec![path.into()]));
    }
    let folder = all.iter().any(|file| file.starts_with(&format!("{path}/")));
    let within = if folder { format!("{path}/") } else { path.to_string() };
    let is_text = |file: &str| !NO_TEXT.contains(&file.rsplit('/').next().unwrap_or(file));
    let files: Vec<&str> = all.into_iter().filter(|file| file.starts_with(&within) && is_text(file)).collect();
    let of_kind = |ending: &str| -> Vec<&str> {
        let unpacked = |file: &str| file.trim_end_matches(".gz").trim_end_matches(".zst").ends_with(ending);
        files.iter().copied().filter(|file| unpacked(file)).collect()
    };
    let Some(files) = [".parquet", ".jsonl", ".txt", ".json"].map(of_kind).into_iter().find(|files| !files.is_empty())
    else {
        return Ok(None);
    };
    let files = training_split(files);
    let mut subsets: Vec<&str> =
        files.iter().filter_map(|file| file[within.len()..].split_once('/')).map(|at| at.0).collect();
    subsets.dedup();
    if within.is_empty() && subsets.len() > 1 {
        let (id, first) = (&repository.id, subsets[0]);
        let what = format!("it has several subsets: {}; name one, such as {id}:{first}", subsets.join(", "));
        return Err(Error::hub(repository.to_string(), what));
    }
    Ok(Some(files.into_iter().map(str::to_string).collect()))
}

/// The files whose names say that they are for training; if none does, those that are not for another use;
/// else all.
fn training_split(files: Vec<&str>) -> Vec<&str> {
    let has = |file: &str, words: &[&str]| file.split(|c: char| !c.is_ascii_alphabetic()).any(|w| words.contains(&w));
    let keep = |keep: &dyn Fn(&str) -> bool| -> Vec<&str> { files.iter().copied().filter(|file| keep(file)).collect() };
    let training = keep(&|file| has(file, &["train", "training"]));
    let others = keep(&|file| !has(file, OTHER_SPLITS));
    [training, others].into_iter().find(|files| !files.is_empty()).unwrap_or(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(paths: &[&str], path: &str) -> Result<Option<Vec<String>>> {
        let repository = Name::parse(Kind::Dataset, "org/name").unwrap().repository;
        let listed: Vec<Listed> = paths.iter().map(|path| Listed { path: path.to_string(), size: 1 }).collect();
        choose(&repository, &listed, path)
    }

    fn files(paths: &[&str], path: &str) -> Vec<String> {
        chosen(paths, path).unwrap().unwrap()
    }

    #[test]
    fn the_training_split_is_taken_unless_another_is_named() {
        let all = ["README.md", "data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"];
        assert_eq!(files(&all, ""), ["data/train-0.parquet", "data/train-1.parquet"]);
        assert_eq!(files(&all, "data/test"), ["data/test-0.parquet"]);
        assert_eq!(files(&all, "data/train-1.parquet"), ["data/train-1.parquet"]);
        assert_eq!(files(&["00.jsonl.zst", "01.jsonl.zst", "val.jsonl.zst"], ""), ["00.jsonl.zst", "01.jsonl.zst"]);
        assert_eq!(files(&["validation.txt"], ""), ["validation.txt"]);
        // A word in a word is none.
        assert_eq!(files(&["contest.txt", "latest.txt"], ""), ["contest.txt", "latest.txt"]);
    }

    #[test]
    fn one_kind_of_file_is_read() {
        assert_eq!(files(&["a.parquet", "a.jsonl", "LICENSE.txt"], ""), ["a.parquet"]);
        assert_eq!(files(&["a.txt", "dataset_infos.json"], ""), ["a.txt"]);
        assert_eq!(files(&["train.json", "test.json", "data/state.json"], ""), ["train.json"]);
        assert_eq!(chosen(&["dataset_infos.json", "load.py"], "").unwrap(), None);
        assert_eq!(chosen(&["README.md", "script.py"], "").unwrap(), None);
        assert_eq!(chosen(&["a.parquet"], "b").unwrap(), None);
    }

    #[test]
    fn several_subsets_are_asked_about() {
        let all = ["en/train.jsonl.gz", "de/train.jsonl.gz"];
        let message = chosen(&all, "").unwrap_err().to_string();
        assert_eq!(message, "data set org/name: it has several subsets: en, de; name one, such as org/name:en");
        assert_eq!(files(&all, "de"), ["de/train.jsonl.gz"]);
    }
}
