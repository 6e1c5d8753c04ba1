//! Documents from files: text, JSON Lines and JSON (plain, gzip or zstd), parquet and token files, one or
//! many, streamed and restartable at any [`DocumentPosition`].

use super::parquet_file::ParquetReader;
use super::text_files::{JsonReader, Layout, TxtReader};
use super::token_files::TokenReader;
use crate::config::DatasetPath;
use crate::embedded;
use crate::error::{Error, Result};
use crate::hub;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Columns that hold documents, in the order in which SAELens looks for them.
pub(super) const COLUMNS: [&str; 4] = ["tokens", "input_ids", "text", "problem"];

/// The endings that [`Documents`] reads, for messages.
const ENDINGS: &str = ".txt, .jsonl, .json (all three also .gz or .zst), .parquet, .safetensors, .npy or .bin";

/// What one record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Text that is still to be tokenised.
    Text(String),
    /// One row of tokens, cut and begun by whoever made it.
    Row(Vec<u32>),
    /// The next tokens of one endless row, to be cut into rows as they stand.
    Stream(Vec<u32>),
}

/// A document, or a piece of a large one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Text or tokens.
    pub content: Content,
    /// False where this continues the document of the record before.
    pub starts_document: bool,
}

impl Record {
    pub(super) fn whole(content: Content) -> Self {
        Record { content, starts_document: true }
    }

    /// Bytes of its text or its tokens.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Text(text) => text.len(),
            Content::Row(tokens) | Content::Stream(tokens) => size_of_val(tokens.as_slice()),
        }
    }
}

/// Where a record begins: enough to continue there in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentPosition {
    /// Which of the files.
    pub file: usize,
    /// Records of this file before it.
    pub record: u64,
    /// Bytes of this file's (uncompressed) text before it; 0 in files that are read by record.
    pub byte: u64,
}

/// A file of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file; its ending says what it holds.
    File(PathBuf),
    /// A file of a data set on the Hub, fetched when its turn comes.
    Remote(hub::RemoteFile),
    /// Zstd-compressed JSON Lines that are part of the program.
    Embedded {
        /// Stands for the path in messages.
        name: &'static str,
        /// The compressed bytes.
        bytes: &'static [u8],
    },
}

impl Source {
    /// The path, or what stands for it in messages.
    pub fn path(&self) -> &Path {
        match self {
            Source::File(path) => path,
            Source::Remote(file) => file.name(),
            Source::Embedded { name, .. } => Path::new(name),
        }
    }
}

/// Reads the records of one file.
pub(super) trait Reader: Send {
    /// The next record; none at the end, as often as it is called there.
    fn next(&mut self) -> Result<Option<Record>>;
    /// Records given so far, and the byte at which the next one begins.
    fn place(&self) -> (u64, u64);
}

/// The records of all files, one after another.
pub struct Documents {
    sources: Vec<Source>,
    column: Option<String>,
    file: usize,
    reader: Option<Box<dyn Reader>>,
}

impl Documents {
    /// Documents of these files; of a folder, all its files that can be read, by name; of a data set on
    /// the Hub, `org/name` or `org/name:path`, those that [`hub::dataset`] finds. `column`
    /// names the column (JSON Lines, parquet) or the tensor (safetensors); otherwise it is found.
    /// Errors: nothing there, an unknown ending, or the first file cannot be read.
    pub fn open(paths: &[impl AsRef<Path>], column: Option<&str>) -> Result<Self> {
        let mut sources = Vec::new();
        for path in paths.iter().map(AsRef::as_ref) {
            if path.is_dir() {
                sources.extend(files_of(path)?.into_iter().map(Source::File));
            } else if let Some(files) = dataset(path)? {
                sources.extend(files.into_iter().map(Source::Remote));
            } else {
                std::fs::metadata(path).map_err(Error::io(path, "open"))?;
                sources.push(Source::File(path.to_path_buf()));
            }
        }
        if sources.is_empty() {
            return Err(Error::config("text", "no file was named; expected at least one"));
        }
        if let Some(unknown) = sources.iter().find(|s| kind(s.path()).is_none()) {
            let what = format!("its ending says nothing about what it holds; expected {ENDINGS}");
            return Err(Error::format(unknown.path(), what));
        }
        Self::new(sources, column)
    }

    /// What a recipe's `dataset_path` (or `eval_dataset_path`) and `dataset_column` name; `embedded`
    /// stands for the embedded training text.
    pub fn of(path: &DatasetPath, column: Option<&str>) -> Result<Self> {
        match path {
            DatasetPath::Embedded => Self::embedded_training(),
            DatasetPath::Paths(paths) => Self::open(paths, column),
        }
    }

    /// The embedded training text.
    pub fn embedded_training() -> Result<Self> {
        let source = Source::Embedded { name: "embedded training text", bytes: embedded::TRAINING_TEXT };
        Self::new(vec![source], None)
    }

    /// The embedded held-out text.
    pub fn embedded_heldout() -> Result<Self> {
        Self::new(vec![Source::Embedded { name: "embedded held-out text", bytes: embedded::HELDOUT_TEXT }], None)
    }

    fn new(sources: Vec<Source>, column: Option<&str>) -> Result<Self> {
        let mut documents = Documents { sources, column: column.map(str::to_string), file: 0, reader: None };
        documents.seek(&DocumentPosition::default())?;
        Ok(documents)
    }

    /// The files, in the order in which they are read.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The next record and where it begins; none at the end of the last file.
    pub fn next_record(&mut self) -> Result<Option<(DocumentPosition, Record)>> {
        while self.reader.is_some() {
            if let Some(found) = self.next_of_file()? {
                return Ok(Some(found));
            }
            self.file += 1;
            self.open_current(0, 0)?;
        }
        Ok(None)
    }

    /// The same, but none at the end of a file, as often as it is called there.
    pub(super) fn next_of_file(&mut self) -> Result<Option<(DocumentPosition, Record)>> {
        let begins = self.position();
        let Some(reader) = &mut self.reader else { return Ok(None) };
        Ok(reader.next()?.map(|found| (begins, found)))
    }

    /// Where the next record begins.
    pub fn position(&self) -> DocumentPosition {
        let (record, byte) = self.reader.as_ref().map_or((0, 0), |reader| reader.place());
        DocumentPosition { file: self.file, record, byte }
    }

    /// Continues at a position that was taken from documents of the same files.
    /// Error: there are fewer files, or a file is shorter, than there were.
    pub fn seek(&mut self, position: &DocumentPosition) -> Result<()> {
        if position.file > self.sources.len() {
            let what = format!("{} files are named where there had been more before", self.sources.len());
            return Err(Error::config("text", what));
        }
        self.file = position.file;
        self.open_current(position.record, position.byte)
    }

    fn open_current(&mut self, record: u64, byte: u64) -> Result<()> {
        self.reader = match self.sources.get(self.file) {
            None => None,
            Some(source) => Some(open(source, self.column.as_deref(), record, byte)?),
        };
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Txt,
    Jsonl,
    Json,
    Parquet,
    Tokens,
}

/// What a file holds, by its ending.
fn kind(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    let unpacked = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst"));
    Some(match unpacked.unwrap_or(name).rsplit_once('.')?.1 {
        "txt" => Kind::Txt,
        "jsonl" => Kind::Jsonl,
        "json" => Kind::Json,
        "parquet" if unpacked.is_none() => Kind::Parquet,
        "safetensors" | "npy" | "bin" if unpacked.is_none() => Kind::Tokens,
        _ => return None,
    })
}

fn open(source: &Source, column: Option<&str>, record: u64, byte: u64) -> Result<Box<dyn Reader>> {
    let path = match source {
        Source::File(path) => path,
        Source::Remote(file) => return open(&Source::File(file.fetch()?), column, record, byte),
        Source::Embedded { .. } => return lines(source, column, record, byte),
    };
    Ok(match kind(path).expect("endings were checked when the files were named") {
        Kind::Txt => Box::new(TxtReader::open(source, record, byte)?),
        Kind::Jsonl => return lines(source, column, record, byte),
        Kind::Json => Box::new(JsonReader::open(source, Layout::Objects, column, record, byte)?),
        Kind::Parquet => Box::new(ParquetReader::open(path, column, record)?),
        Kind::Tokens => Box::new(TokenReader::open(path, column, record)?),
    })
}

fn lines(source: &Source, column: Option<&str>, record: u64, byte: u64) -> Result<Box<dyn Reader>> {
    Ok(Box::new(JsonReader::open(source, Layout::Lines, column, record, byte)?))
}

/// The files of a data set on the Hub. None: the path is one of this machine, whether it is there or not.
fn dataset(path: &Path) -> Result<Option<Vec<hub::RemoteFile>>> {
    let is_file = kind(path).is_some() && !path.to_string_lossy().contains(':');
    match path.to_str() {
        Some(name) if !path.exists() && !is_file => hub::dataset(name),
        _ => Ok(None),
    }
}

/// The readable files of a folder, by name. A JSON file beside others says something about them.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "open"))? {
        let path = entry.map_err(Error::io(folder, "read"))?.path();
        if path.is_file() && kind(&path).is_some() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::format(folder, format!("the folder holds no file with the ending {ENDINGS}")));
    }
    if files.iter().any(|file| !is_json(file)) {
        files.retain(|file| !is_json(file));
    }
    files.sort();
    Ok(files)
}

fn is_json(path: &Path) -> bool {
    matches!(kind(path), Some(Kind::Json))
}

/// The column to read: the one asked for, or the first of SAELens' names that is there.
pub(super) fn choose_column(path: &Path, asked: Option<&str>, present: &[&str]) -> Result<String> {
    let there = |name: &str| present.contains(&name);
    let chosen = match asked {
        Some(name) => Some(name).filter(|name| there(name)),
        None => COLUMNS.into_iter().find(|name| there(name)),
    };
    chosen.map(str::to_string).ok_or_else(|| {
        let expected = asked.map_or_else(|| format!("one of {}", COLUMNS.join(", ")), |name| format!("{name:?}"));
        let what = format!("no column to read: expected {expected}, found {}", present.join(", "));
        Error::format(path, what)
    })
}
