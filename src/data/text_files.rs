//! Text, JSON Lines and JSON, plain or compressed, read as streams.

use super::documents::{choose_column, Content, Reader, Record, Source};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Pieces of a text file that is larger than this are given one by one.
const PIECE: usize = 1 << 20;

/// The uncompressed bytes of a file, from `byte` on. Compressed files are unpacked up to there.
fn open_stream(source: &Source, byte: u64) -> Result<Box<dyn BufRead + Send>> {
    let path = source.path();
    let mut stream: Box<dyn BufRead + Send> = match source {
        Source::Embedded { bytes, .. } => unpack_zstd(path, *bytes)?,
        Source::File(_) | Source::Remote(_) => {
            let mut file = File::open(path).map_err(Error::io(path, "open"))?;
            match path.extension().and_then(|e| e.to_str()) {
                Some("zst") => unpack_zstd(path, file)?,
                Some("gz") => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
                _ => {
                    let held = file.metadata().map_err(Error::io(path, "read"))?.len();
                    if held < byte {
                        return Err(shrunk(path, held, byte));
                    }
                    file.seek(SeekFrom::Start(byte)).map_err(Error::io(path, "seek in"))?;
                    return Ok(Box::new(BufReader::with_capacity(1 << 16, file)));
                }
            }
        }
    };
    let skipped = io::copy(&mut stream.by_ref().take(byte), &mut io::sink()).map_err(damaged(path, 0))?;
    if skipped < byte {
        return Err(shrunk(path, skipped, byte));
    }
    Ok(stream)
}

/// A position lies behind the end of a file.
fn shrunk(path: &Path, held: u64, byte: u64) -> Error {
    let what = format!("holds {held} bytes of text where {byte} had been read before; the file has changed");
    Error::format(path, what)
}

fn unpack_zstd(path: &Path, packed: impl Read + Send + 'static) -> Result<Box<dyn BufRead + Send>> {
    Ok(Box::new(BufReader::new(zstd::Decoder::new(packed).map_err(damaged(path, 0))?)))
}

/// A read error of a stream: mostly a compressed file that was cut off.
fn damaged(path: &Path, byte: u64) -> impl FnOnce(io::Error) -> Error + '_ {
    move |e| Error::format(path, format!("cannot be read past byte {byte} of its text ({e}); fetch or write it again"))
}

/// A `.txt` file: one document, in pieces if it is large. Pieces end before a single space between
/// a non-space and a letter, where byte-level BPE (GPT-2's pattern) begins a new word anyway, so
/// the tokens are those of the whole text; only a text without such a place in a megabyte is cut
/// elsewhere.
pub(super) struct TxtReader {
    path: PathBuf,
    stream: Box<dyn BufRead + Send>,
    ahead: Vec<u8>,
    record: u64,
    byte: u64,
}

impl TxtReader {
    pub(super) fn open(source: &Source, record: u64, byte: u64) -> Result<Self> {
        let stream = open_stream(source, byte)?;
        Ok(TxtReader { path: source.path().to_path_buf(), stream, ahead: Vec::new(), record, byte })
    }
}

impl Reader for TxtReader {
    fn next(&mut self) -> Result<Option<Record>> {
        // One byte more than a piece tells whether the piece is the last.
        let missing = (PIECE + 1 - self.ahead.len()) as u64;
        let read = self.stream.by_ref().take(missing).read_to_end(&mut self.ahead);
        read.map_err(damaged(&self.path, self.byte))?;
        if self.ahead.is_empty() {
            return Ok(None);
        }
        let end = if self.ahead.len() <= PIECE { self.ahead.len() } else { end_of_piece(&self.ahead[..PIECE]) };
        let text = std::str::from_utf8(&self.ahead[..end]).map_err(|e| {
            let at = self.byte + e.valid_up_to() as u64;
            Error::format(&self.path, format!("byte {at} is not UTF-8; convert the text to UTF-8"))
        })?;
        let record = Record { content: Content::Text(text.to_string()), starts_document: self.byte == 0 };
        self.ahead.drain(..end);
        self.record += 1;
        self.byte += end as u64;
        Ok(Some(record))
    }

    fn place(&self) -> (u64, u64) {
        (self.record, self.byte)
    }
}

/// Where to end a piece of a longer text: see [`TxtReader`].
fn end_of_piece(bytes: &[u8]) -> usize {
    let word_starts =
        |&at: &usize| bytes[at] == b' ' && bytes[at + 1].is_ascii_alphabetic() && !bytes[at - 1].is_ascii_whitespace();
    let begins_character = |&at: &usize| bytes[at] & 0xC0 != 0x80;
    let backwards = || (1..bytes.len() - 1).rev();
    backwards().find(word_starts).or_else(|| backwards().find(begins_character)).unwrap_or(bytes.len())
}

/// Where a record of JSON ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// JSON Lines: one a line.
    Lines,
    /// One object after another, in an array or not.
    Objects,
}

/// JSON Lines, or JSON: one document a record, in the column that was asked for or found in the first record.
pub(super) struct JsonReader {
    path: PathBuf,
    stream: Box<dyn BufRead + Send>,
    layout: Layout,
    column: Option<String>,
    line: Vec<u8>,
    /// Whether an array has begun that has not ended.
    in_array: bool,
    record: u64,
    byte: u64,
}

impl JsonReader {
    pub(super) fn open(source: &Source, layout: Layout, column: Option<&str>, record: u64, byte: u64) -> Result<Self> {
        let mut reader = JsonReader {
            path: source.path().to_path_buf(),
            stream: open_stream(source, 0)?,
            layout,
            column: column.map(str::to_string),
            line: Vec::new(),
            in_array: false,
            record: 0,
            byte: 0,
        };
        reader.next()?;
        reader.in_array &= byte > 0;
        (reader.stream, reader.record, reader.byte) = (open_stream(source, byte)?, record, byte);
        Ok(reader)
    }

    fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::format(&self.path, format!("record {}: {what}", self.record + 1))
    }

    /// The next line's object.
    fn line(&mut self) -> Result<Option<Map<String, Value>>> {
        loop {
            self.line.clear();
            let read = self.stream.read_until(b'\n', &mut self.line).map_err(damaged(&self.path, self.byte))?;
            if read == 0 {
                return Ok(None);
            }
            self.byte += read as u64;
            if !self.line.trim_ascii().is_empty() {
                let object = serde_json::from_slice(&self.line);
                return object.map(Some).map_err(|e| self.error(format!("not a JSON object ({e})")));
            }
        }
    }

    /// The next object, wherever it ends.
    fn object(&mut self) -> Result<Option<Map<String, Value>>> {
        loop {
            let ahead = self.stream.fill_buf().map_err(damaged(&self.path, self.byte))?;
            match ahead.first() {
                None if self.in_array => return Err(self.error("the file ends before its array; write it again")),
                None => return Ok(None),
                Some(b'{') => break,
                Some(b'[') => self.in_array = true,
                Some(b']') => self.in_array = false,
                Some(byte) if *byte == b',' || byte.is_ascii_whitespace() => {}
                Some(_) => return Err(self.error("not a JSON object; expected { … }, or an array of them")),
            }
            self.stream.consume(1);
            self.byte += 1;
        }
        let mut counted = Counted { stream: &mut *self.stream, bytes: 0 };
        let object = Map::deserialize(&mut serde_json::Deserializer::from_reader(&mut counted));
        self.byte += counted.bytes;
        object.map(Some).map_err(|e| match e.is_io() {
            true => damaged(&self.path, self.byte)(e.into()),
            false => self.error(format!("not a JSON object ({e})")),
        })
    }

    fn content(&mut self, mut object: Map<String, Value>) -> Result<Content> {
        let column = match &self.column {
            Some(column) if object.contains_key(column) => column.clone(),
            asked => {
                let present: Vec<&str> = object.keys().map(String::as_str).collect();
                choose_column(&self.path, asked.as_deref(), &present).map_err(|e| match e {
                    Error::Format { what, .. } => self.error(what),
                    other => other,
                })?
            }
        };
        let value = object.remove(&column).expect("the column is there");
        self.column = Some(column);
        match value {
            Value::String(text) => Ok(Content::Text(text)),
            Value::Array(ids) => Ok(Content::Row(ids.iter().map(|id| self.token(id)).collect::<Result<_>>()?)),
            other => {
                let column = self.column.as_deref().unwrap_or_default();
                Err(self.error(format!("{column} is {other}, expected a text or a list of token ids")))
            }
        }
    }

    fn token(&self, id: &Value) -> Result<u32> {
        id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let column = self.column.as_deref().unwrap_or_default();
            self.error(format!("{column} holds {id}, expected token ids from 0 on"))
        })
    }
}

impl Reader for JsonReader {
    fn next(&mut self) -> Result<Option<Record>> {
        let object = match self.layout {
            Layout::Lines => self.line()?,
            Layout::Objects => self.object()?,
        };
        let Some(object) = object else { return Ok(None) };
        let content = self.content(object)?;
        self.record += 1;
        Ok(Some(Record::whole(content)))
    }

    fn place(&self) -> (u64, u64) {
        (self.record, self.byte)
    }
}

/// Counts what is read.
struct Counted<'a> {
    stream: &'a mut dyn BufRead,
    bytes: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
