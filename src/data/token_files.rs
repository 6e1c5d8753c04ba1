//! Files of token ids: an integer tensor `[rows, T]` or `[n]` in safetensors or `.npy`, or bare
//! uint16 (`.bin`). A flat tensor is one endless row.

use super::documents::{choose_column, Content, Reader, Record};
use crate::error::{Error, Result};
use crate::formats::arrays;
use crate::formats::tensors::TensorFile;
use std::path::Path;

/// Tokens of a flat tensor that are given as one record.
const STREAM_PIECE: usize = 1 << 16;

/// Reads the tensor that was asked for, the only one, or the one named `tokens` or `input_ids`.
pub(super) struct TokenReader {
    file: TensorFile,
    tensor: String,
    total: usize,
    /// Tokens in one record.
    length: usize,
    is_stream: bool,
    record: u64,
}

impl TokenReader {
    pub(super) fn open(path: &Path, tensor: Option<&str>, record: u64) -> Result<Self> {
        let file = arrays::open(path)?;
        let names = file.names();
        let tensor = match (names.as_slice(), tensor) {
            ([only], None) => only.clone(),
            (_, asked) => choose_column(path, asked, &names.iter().map(String::as_str).collect::<Vec<_>>())?,
        };
        let (total, length, is_stream) = match *file.shape(&tensor)? {
            [n] => (n, STREAM_PIECE, true),
            [rows, context] => (rows * context, context, false),
            ref shape => {
                let what = format!("tensor {tensor} has shape {shape:?}, expected [rows, context] or [n]");
                return Err(Error::format(path, what));
            }
        };
        Ok(TokenReader { file, tensor, total, length, is_stream, record })
    }
}

impl Reader for TokenReader {
    fn next(&mut self) -> Result<Option<Record>> {
        let first = (self.record as usize).saturating_mul(self.length);
        if first >= self.total {
            return Ok(None);
        }
        let ids = self.file.u32_range(&self.tensor, first, self.length.min(self.total - first))?;
        let starts_document = !self.is_stream || self.record == 0;
        self.record += 1;
        let content = if self.is_stream { Content::Stream(ids) } else { Content::Row(ids) };
        Ok(Some(Record { content, starts_document }))
    }

    fn place(&self) -> (u64, u64) {
        (self.record, 0)
    }
}
