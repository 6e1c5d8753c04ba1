//! Fixed rows of tokens from documents, packed exactly as SAELens does
//! (`tokenization_and_batching.py`, `training/activations_store.py`).
//!
//! A row begins with bos (`prepend_bos`), documents follow one another with a separator between
//! them, and a document that does not fit goes on in the next row, behind that row's bos. A bos or
//! separator is not doubled where the text itself has it. What is left at the end of the data is
//! less than a row and is dropped. Rows that are tokens already are only cut to the context.
//!
//! Records are read ahead, and tokenised by all threads: one alone makes half a million tokens a second, which a
//! GPU would wait for.

use super::documents::{Content, DocumentPosition, Documents, Record, Source};
use super::Tokenizer;
use crate::config::{Recipe, SpecialToken};
use crate::error::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of text that are read ahead for each thread, at least and at most: a quarter of what was read so far, so that who
/// wants a few rows waits for few more, and the longest of many documents keeps no thread waiting.
const READ_AHEAD: [usize; 2] = [64 << 10, 512 << 10];

/// How documents become rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Tokens in a row.
    pub context_size: usize,
    /// Whether every row begins with bos.
    pub prepend_bos: bool,
    /// What stands between two documents.
    pub sequence_separator_token: Option<SpecialToken>,
    /// Whether a row holds one document only: its beginning; shorter documents are dropped.
    pub disable_concat_sequences: bool,
}

impl Packing {
    /// What a recipe asks for.
    pub fn of(recipe: &Recipe) -> Self {
        Packing {
            context_size: recipe.context_size,
            prepend_bos: recipe.prepend_bos,
            sequence_separator_token: recipe.sequence_separator_token,
            disable_concat_sequences: recipe.disable_concat_sequences,
        }
    }
}

/// Where the next row begins: enough to continue there in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The record that the next row begins in.
    pub document: DocumentPosition,
    /// Tokens of that record that are in earlier rows.
    pub token: usize,
    /// Rows given in this pass over the data.
    pub rows: u64,
}

/// Rows of tokens, one after another.
pub struct TokenRows {
    documents: Documents,
    tokenizer: Option<Arc<Tokenizer>>,
    d_vocab: usize,
    packer: Packer,
    /// Records that were read, and where the reader was before: what is wrong with one is told when its turn comes.
    ahead: VecDeque<(DocumentPosition, Result<Current>)>,
    /// Bytes that were read.
    bytes_read: usize,
    /// The record that is being cut into rows.
    current: Option<Current>,
    rows: u64,
    /// Where a pass over the data begins.
    start: Position,
}

struct Current {
    begins: DocumentPosition,
    tokens: Vec<u32>,
    used: usize,
    starts_document: bool,
    kind: Kind,
}

/// Of [`Content`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Row,
    Stream,
}

impl TokenRows {
    /// Rows of these documents for a model with `d_vocab` tokens. Text needs the tokenizer, token
    /// files do not. Errors: a setting that cannot be used, a tokenizer of another model.
    pub fn new(
        documents: Documents,
        tokenizer: Option<Arc<Tokenizer>>,
        packing: &Packing,
        d_vocab: usize,
    ) -> Result<Self> {
        let packer = Packer::new(packing, tokenizer.as_deref())?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_model(d_vocab)?;
        }
        let (ahead, start) = (VecDeque::new(), Position::default());
        Ok(TokenRows { documents, tokenizer, d_vocab, packer, ahead, bytes_read: 0, current: None, rows: 0, start })
    }

    /// Tokens in a row.
    pub fn context_size(&self) -> usize {
        self.packer.context
    }

    /// The next row; none at the end of the data. Errors: a file is damaged, a token is outside the
    /// vocabulary, a row of tokens is shorter than the context, or all the data gave not one row.
    pub fn next_row(&mut self) -> Result<Option<Vec<u32>>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(row) = self.packer.take(current) {
                    self.rows += 1;
                    return Ok(Some(row));
                }
                self.current = None;
            }
            let Some(next) = self.next_tokenised()? else { return self.end() };
            if next.kind == Kind::Row {
                self.rows += 1;
                return Ok(Some(self.cut(&next.begins, next.tokens)?));
            }
            self.current = Some(next);
        }
    }

    fn next_tokenised(&mut self) -> Result<Option<Current>> {
        if self.ahead.is_empty() {
            let [least, most] = READ_AHEAD.map(|bytes| bytes * rayon::current_num_threads());
            self.read_ahead((self.bytes_read / 4).clamp(least, most));
        }
        self.ahead.pop_front().map(|(_, next)| next).transpose()
    }

    /// Reads and tokenises records of one file until they are so many bytes: the next file may still have to be
    /// fetched.
    fn read_ahead(&mut self, bytes: usize) {
        let (mut records, mut read) = (Vec::new(), 0);
        while read < bytes {
            let before = self.documents.position();
            let next = if records.is_empty() { self.documents.next_record() } else { self.documents.next_of_file() };
            match next.transpose() {
                None => break,
                Some(Ok((begins, record))) => {
                    read += record.size();
                    records.push((before, Ok((begins, record))));
                }
                Some(Err(error)) => {
                    records.push((before, Err(error)));
                    break;
                }
            }
        }
        self.bytes_read += read;
        let reading =
            Reading { sources: self.documents.sources(), tokenizer: self.tokenizer.as_deref(), d_vocab: self.d_vocab };
        let tokenise = |(before, record): (_, Result<_>)| (before, record.and_then(|record| reading.tokenise(record)));
        self.ahead = records.into_par_iter().with_max_len(1).map(tokenise).collect::<Vec<_>>().into();
    }

    /// How many rows there are, or `limit` if there are more; starts again at the beginning.
    pub fn count(&mut self, limit: usize) -> Result<usize> {
        self.rewind()?;
        let mut rows = 0;
        while rows < limit && self.next_row()?.is_some() {
            rows += 1;
        }
        self.rewind()?;
        Ok(rows)
    }

    /// Up to `n` rows.
    pub fn take_rows(&mut self, n: usize) -> Result<Vec<Vec<u32>>> {
        let mut rows = Vec::new();
        while rows.len() < n {
            match self.next_row()? {
                Some(row) => rows.push(row),
                None => break,
            }
        }
        Ok(rows)
    }

    /// The next `n` rows, for another use: [`rewind`](Self::rewind) goes back only to behind them.
    /// Error: nothing is left after them.
    pub fn set_aside(&mut self, n: usize) -> Result<Vec<Vec<u32>>> {
        let rows = self.take_rows(n)?;
        self.start = self.position();
        if self.next_row()?.is_none() {
            let what = format!(
                "the {} rows of the data would all be set aside for evaluation; name other text here, or lower \
                 n_eval_batches",
                rows.len()
            );
            return Err(Error::config("eval_dataset_path", what));
        }
        self.rewind()?;
        Ok(rows)
    }

    /// Starts again at the beginning of the data.
    pub fn rewind(&mut self) -> Result<()> {
        self.seek(&self.start.clone())
    }

    /// Where the next row begins. Right after [`next_row`](Self::next_row) gave a row nothing is
    /// held back, so this is all there is to save.
    pub fn position(&self) -> Position {
        let (document, token) = match (&self.current, self.ahead.front()) {
            (Some(current), _) => (current.begins.clone(), current.used),
            (None, Some((before, _))) => (before.clone(), 0),
            (None, None) => (self.documents.position(), 0),
        };
        Position { document, token, rows: self.rows }
    }

    /// Continues at a position taken from rows of the same data, packed in the same way.
    pub fn seek(&mut self, position: &Position) -> Result<()> {
        self.documents.seek(&position.document)?;
        self.packer.row.clear();
        self.ahead.clear();
        self.bytes_read = 0;
        self.current = None;
        self.rows = position.rows;
        if position.token > 0 {
            self.current = self.next_tokenised()?;
            if let Some(current) = &mut self.current {
                current.used = position.token.min(current.tokens.len());
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Vec<u32>>> {
        let held = std::mem::take(&mut self.packer.row).len();
        if self.rows == 0 {
            let path = self.documents.sources().first().map(|s| s.path().to_path_buf()).unwrap_or_default();
            let what = match self.packer.one_document_a_row {
                true => format!("no document fills a row of context_size {}", self.packer.context),
                false => {
                    format!("all the text is {held} tokens, less than one row of context_size {}", self.packer.context)
                }
            };
            return Err(Error::format(path, format!("{what}; use more text or a smaller context_size")));
        }
        Ok(None)
    }

    fn cut(&self, at: &DocumentPosition, mut tokens: Vec<u32>) -> Result<Vec<u32>> {
        if tokens.len() < self.packer.context {
            let what = format!(
                "record {} has {} tokens, expected at least context_size {}",
                at.record + 1,
                tokens.len(),
                self.packer.context
            );
            return Err(Error::format(path(self.documents.sources(), at), what));
        }
        tokens.truncate(self.packer.context);
        Ok(tokens)
    }
}

fn path(sources: &[Source], at: &DocumentPosition) -> PathBuf {
    sources[at.file].path().to_path_buf()
}

/// What any thread needs to tokenise a record.
struct Reading<'a> {
    sources: &'a [Source],
    tokenizer: Option<&'a Tokenizer>,
    d_vocab: usize,
}

impl Reading<'_> {
    fn tokenise(&self, (begins, record): (DocumentPosition, Record)) -> Result<Current> {
        let (tokens, kind) = match record.content {
            Content::Text(text) => match self.tokenizer {
                Some(tokenizer) => (tokenizer.encode(&text)?, Kind::Text),
                None => {
                    let what = "holds text, and the model has no tokenizer; put its tokenizer.json beside the model";
                    return Err(Error::format(path(self.sources, &begins), what));
                }
            },
            Content::Row(tokens) => (tokens, Kind::Row),
            Content::Stream(tokens) => (tokens, Kind::Stream),
        };
        self.check_tokens(&begins, &tokens)?;
        Ok(Current { begins, tokens, used: 0, starts_document: record.starts_document, kind })
    }

    fn check_tokens(&self, at: &DocumentPosition, tokens: &[u32]) -> Result<()> {
        match tokens.iter().find(|&&token| token as usize >= self.d_vocab) {
            None => Ok(()),
            Some(token) => {
                let what = format!(
                    "record {} holds token {token}, outside the model's vocabulary of {}; \
                     the tokens are of another tokenizer",
                    at.record + 1,
                    self.d_vocab
                );
                Err(Error::format(path(self.sources, at), what))
            }
        }
    }
}

/// Fills rows with the tokens of documents.
struct Packer {
    context: usize,
    begin: Option<u32>,
    separator: Option<u32>,
    one_document_a_row: bool,
    row: Vec<u32>,
}

impl Packer {
    fn new(packing: &Packing, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let begin = match tokenizer {
            Some(tokenizer) if packing.prepend_bos => Some(tokenizer.bos_token_id().ok_or_else(|| {
                Error::config("prepend_bos", "the tokenizer has no bos token; set prepend_bos to false")
            })?),
            _ => None,
        };
        let smallest = if begin.is_some() { 2 } else { 1 };
        if packing.context_size < smallest {
            let what = format!("{} is too small, expected at least {smallest}", packing.context_size);
            return Err(Error::config("context_size", what));
        }
        let separator = match (tokenizer, packing.sequence_separator_token) {
            (Some(tokenizer), Some(token)) if !packing.disable_concat_sequences => {
                Some(tokenizer.special_token(token)?)
            }
            _ => None,
        };
        let (context, one_document_a_row) = (packing.context_size, packing.disable_concat_sequences);
        Ok(Packer { context, begin, separator, one_document_a_row, row: Vec::with_capacity(context) })
    }

    /// Uses up tokens until a row is full; none when they are all used.
    fn take(&mut self, current: &mut Current) -> Option<Vec<u32>> {
        match current.kind {
            Kind::Stream => self.fill(current),
            _ if self.one_document_a_row => return self.beginning(current),
            _ => self.concatenate(current),
        }
        (self.row.len() == self.context).then(|| std::mem::replace(&mut self.row, Vec::with_capacity(self.context)))
    }

    /// `_add_tokens_to_batch`.
    fn concatenate(&mut self, current: &mut Current) {
        let Some(&next) = current.tokens.get(current.used) else { return };
        let is_start = current.starts_document && current.used == 0;
        let before = if self.row.is_empty() { self.begin } else { self.separator.filter(|_| is_start) };
        self.row.extend(before.filter(|&token| token != next));
        self.fill(current);
    }

    /// The branch `disable_concat_sequences` of `concat_and_batch_sequences`: the document's
    /// beginning, behind bos, if it fills a row.
    fn beginning(&mut self, current: &mut Current) -> Option<Vec<u32>> {
        if current.starts_document && current.used == 0 {
            self.row.clear();
        } else if self.row.is_empty() {
            // The row of this document was given with an earlier piece.
            return None;
        }
        if self.row.is_empty() {
            let first = current.tokens.first()?;
            self.row.extend(self.begin.filter(|token| token != first));
        }
        self.fill(current);
        current.used = current.tokens.len();
        (self.row.len() == self.context).then(|| std::mem::replace(&mut self.row, Vec::with_capacity(self.context)))
    }

    fn fill(&mut self, current: &mut Current) {
        let rest = &current.tokens[current.used..];
        let taken = rest.len().min(self.context - self.row.len());
        self.row.extend_from_slice(&rest[..taken]);
        current.used += taken;
    }
}
