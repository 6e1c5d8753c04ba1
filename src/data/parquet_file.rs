//! One column of a parquet file: texts, or lists of token ids. Only that column is read, record by
//! record, through the parquet crate's column readers.

use super::documents::{choose_column, Content, Reader, Record};
use crate::error::{Error, Result};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Reads one column.
pub(super) struct ParquetReader {
    path: PathBuf,
    file: SerializedFileReader<File>,
    column: String,
    /// The column's number among the file's leaves.
    leaf: usize,
    /// Whether a record holds a list of values.
    is_list: bool,
    next_group: usize,
    values: Option<ColumnReader>,
    record: u64,
}

impl ParquetReader {
    pub(super) fn open(path: &Path, column: Option<&str>, record: u64) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let file = SerializedFileReader::new(file).map_err(|e| damaged(path, e))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let roots: Vec<&str> = schema.columns().iter().map(|c| c.path().parts()[0].as_str()).collect();
        let column = choose_column(path, column, &roots)?;
        let leaf = roots.iter().position(|root| *root == column).expect("the column is there");
        let depth = schema.column(leaf).max_rep_level();
        if depth > 1 || roots.iter().filter(|root| **root == column).count() > 1 {
            let what = format!("column {column} is nested, expected texts or lists of token ids");
            return Err(Error::format(path, what));
        }
        let path = path.to_path_buf();
        let mut reader =
            ParquetReader { path, file, column, leaf, is_list: depth == 1, next_group: 0, values: None, record };
        reader.skip_to(record)?;
        Ok(reader)
    }

    /// Opens the row group that holds the record and skips to it.
    fn skip_to(&mut self, record: u64) -> Result<()> {
        let mut before = record;
        while self.next_group < self.file.num_row_groups() {
            let rows = self.file.metadata().row_group(self.next_group).num_rows() as u64;
            self.next_group += 1;
            if before < rows {
                self.open_group(self.next_group - 1)?;
                let skipped = match &mut self.values {
                    Some(ColumnReader::ByteArrayColumnReader(values)) => values.skip_records(before as usize),
                    Some(ColumnReader::Int32ColumnReader(values)) => values.skip_records(before as usize),
                    Some(ColumnReader::Int64ColumnReader(values)) => values.skip_records(before as usize),
                    _ => Ok(0),
                };
                return skipped.map(|_| ()).map_err(|e| damaged(&self.path, e));
            }
            before -= rows;
        }
        Ok(())
    }

    fn open_group(&mut self, group: usize) -> Result<()> {
        let values = self.file.get_row_group(group).and_then(|group| group.get_column_reader(self.leaf));
        self.values = Some(values.map_err(|e| damaged(&self.path, e))?);
        Ok(())
    }

    /// The next record of the open row group; none at its end.
    fn content(&mut self) -> Result<Option<Content>> {
        let Some(values) = &mut self.values else { return Ok(None) };
        let content = match values {
            ColumnReader::ByteArrayColumnReader(values) if !self.is_list => {
                read_record(values, false).map(|r| r.map(text))
            }
            ColumnReader::Int32ColumnReader(values) if self.is_list => read_record(values, true).map(|r| r.map(tokens)),
            ColumnReader::Int64ColumnReader(values) if self.is_list => read_record(values, true).map(|r| r.map(tokens)),
            _ => {
                let what = format!("column {} holds neither texts nor lists of token ids", self.column);
                return Err(Error::format(&self.path, what));
            }
        };
        match content.map_err(|e| damaged(&self.path, e))? {
            None => Ok(None),
            Some(Ok(content)) => Ok(Some(content)),
            Some(Err(what)) => {
                let what = format!("record {}: column {} {what}", self.record + 1, self.column);
                Err(Error::format(&self.path, what))
            }
        }
    }
}

impl Reader for ParquetReader {
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(content) = self.content()? {
                self.record += 1;
                return Ok(Some(Record::whole(content)));
            }
            if self.next_group == self.file.num_row_groups() {
                return Ok(None);
            }
            self.open_group(self.next_group)?;
            self.next_group += 1;
        }
    }

    fn place(&self) -> (u64, u64) {
        (self.record, 0)
    }
}

/// The values of one record; `None` among them where a value is null.
struct Values<T> {
    values: Vec<T>,
    has_null: bool,
}

fn read_record<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    is_list: bool,
) -> Result<Option<Values<T::T>>, ParquetError> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    let (records, found, levels) = reader.read_records(1, Some(&mut definition), Some(&mut repetition), &mut values)?;
    // An empty list is one level without a value.
    let is_empty_list = is_list && levels == 1 && found == 0;
    Ok((records > 0).then_some(Values { values, has_null: found < levels && !is_empty_list }))
}

fn text(record: Values<ByteArray>) -> Result<Content, String> {
    match record.values.first() {
        Some(bytes) => match bytes.as_utf8() {
            Ok(text) => Ok(Content::Text(text.to_string())),
            Err(_) => Err("is not UTF-8".into()),
        },
        None => Err("is null, expected a text".into()),
    }
}

fn tokens<T: Into<i64> + Copy>(record: Values<T>) -> Result<Content, String> {
    if record.has_null {
        return Err("holds null, expected token ids".into());
    }
    let token = |&value: &T| {
        let value: i64 = value.into();
        u32::try_from(value).map_err(|_| format!("holds {value}, expected token ids from 0 on"))
    };
    record.values.iter().map(token).collect::<Result<_, _>>().map(Content::Row)
}

fn damaged(path: &Path, e: ParquetError) -> Error {
    Error::format(path, format!("not a whole parquet file ({e}); fetch or write it again"))
}
