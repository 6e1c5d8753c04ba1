//! The buffer that mixes activations of many documents into batches, with SAELens' semantics
//! (`training/mixing_buffer.py`): rows come in until there are `buffer_tokens`; all are shuffled; a
//! part of `mix_fraction` stays, the rest is served as full batches; then rows come in again.
//!
//! Rows never move: shuffling permutes their indices, a batch gathers its rows, and new rows go
//! where served ones were. The n-th shuffle is a pure function of the seed and n. Rows may come in as soon as
//! served ones make room: they wait until all batches are served, and are then mixed as if they came then.

use crate::backend::{Backend, GatherRows, ScatterRows};
use crate::error::{Error, Result};
use crate::formats::tensor_stream::TensorStream;
use crate::formats::tensors::TensorFile;
use crate::random::{Random, Stream};
use safetensors::Dtype;
use std::path::Path;

/// The tensors of a saved buffer: its rows in their order, then those that wait; shuffles, batches to serve,
/// whether it is finished, rows that wait.
const ROWS: &str = "rows";
const COUNTERS: &str = "shuffles_batches_finished_ahead";

/// How a buffer mixes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixingSettings {
    /// Rows (tokens) that must be there before batches are served.
    pub buffer_tokens: usize,
    /// Rows in a batch.
    pub batch_size: usize,
    /// Share of `buffer_tokens` that stays for the next time, 0 to 1; with 0 nothing is shuffled.
    pub mix_fraction: f64,
    /// Of the run.
    pub seed: u64,
}

impl MixingSettings {
    fn check(&self) -> Result<()> {
        let MixingSettings { buffer_tokens, batch_size, mix_fraction, .. } = *self;
        if batch_size == 0 || buffer_tokens < batch_size {
            let what = format!("{buffer_tokens} is less than a batch, train_batch_size_tokens = {batch_size}");
            return Err(Error::config("buffer_tokens", what));
        }
        if !(0.0..=1.0).contains(&mix_fraction) {
            let what = format!("{mix_fraction} is not between 0 and 1");
            return Err(Error::config("activations_mixing_fraction", what));
        }
        Ok(())
    }

    /// Rows that stay when batches are served.
    fn kept(&self) -> usize {
        (self.buffer_tokens as f64 * self.mix_fraction) as usize
    }
}

/// Rows of activations on their way from the model to the trainer.
pub struct MixingBuffer<B: Backend> {
    backend: B,
    settings: MixingSettings,
    width: usize,
    capacity: usize,
    /// All rows `[capacity, width]`, in no order.
    rows: B::Buffer<f32>,
    /// The rows of the buffer in their order, as indices into `rows`.
    order: Vec<u32>,
    /// Those of rows that came in before they were wanted, in their order.
    ahead: Vec<u32>,
    /// Indices into `rows` that hold nothing.
    free: Vec<u32>,
    /// Batches at the start of `order` that are served before rows come in again.
    to_serve: usize,
    /// Batches of these that were served; their rows are free.
    served: usize,
    shuffles: u32,
    finished: bool,
    /// On the device: the start of `order` while it is served, and the two sides of an append.
    serving: B::Buffer<u32>,
    from_rows: B::Buffer<u32>,
    to_rows: B::Buffer<u32>,
}

impl<B: Backend> MixingBuffer<B> {
    /// An empty buffer of rows of this width, to which at most `largest_append` rows will be added
    /// at once. Errors: settings that cannot be used; no memory.
    pub fn new(backend: &B, settings: MixingSettings, width: usize, largest_append: usize) -> Result<Self> {
        settings.check()?;
        // What can be left when all batches were served.
        let left = (settings.buffer_tokens - 1).max(settings.kept() + settings.batch_size - 1);
        let capacity = left + largest_append;
        if u32::try_from(capacity).is_err() {
            return Err(Error::config("buffer_tokens", format!("{capacity} rows are more than {}", u32::MAX)));
        }
        Ok(MixingBuffer {
            backend: backend.clone(),
            settings,
            width,
            capacity,
            rows: backend.zeros(capacity * width)?,
            order: Vec::with_capacity(capacity),
            ahead: Vec::new(),
            free: (0..capacity as u32).rev().collect(),
            to_serve: 0,
            served: 0,
            shuffles: 0,
            finished: false,
            serving: backend.zeros(capacity)?,
            from_rows: backend.zeros(largest_append)?,
            to_rows: backend.zeros(largest_append)?,
        })
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether rows must come in (or [`finish`](Self::finish) be called) before the next batch.
    pub fn wants_rows(&self) -> bool {
        self.served == self.to_serve && !self.finished
    }

    /// Batches that are served before rows are wanted.
    pub fn left(&self) -> usize {
        self.to_serve - self.served
    }

    /// Whether so many rows are wanted, or will be once all batches are served, and may come in now.
    pub fn has_room(&self, rows: usize) -> bool {
        let stay = self.order.len() - self.to_serve * self.settings.batch_size;
        // However many stay, some must come.
        let wanted = self.ahead.is_empty() || stay + self.ahead.len() < self.settings.buffer_tokens;
        wanted && !self.finished && rows <= self.free.len()
    }

    /// Adds the chosen rows of `from` `[.., width]`. Error: there is no [room](Self::has_room) for them, or
    /// there are more than `largest_append`.
    pub fn append(&mut self, from: &B::Buffer<f32>, chosen: &[u32]) -> Result<()> {
        if !self.has_room(chosen.len()) {
            let what = format!("{} rows come in when they are not wanted", chosen.len());
            return Err(Error::Shape { operation: "mixing_buffer", what });
        }
        if chosen.is_empty() {
            // A pass of which every token was excluded is like none.
            return Ok(());
        }
        let places = self.free.split_off(self.free.len() - chosen.len());
        self.backend.write(&mut self.from_rows, 0, chosen)?;
        self.backend.write(&mut self.to_rows, 0, &places)?;
        self.backend.scatter_rows(ScatterRows {
            from,
            from_rows: &self.from_rows,
            to_rows: &self.to_rows,
            n: chosen.len(),
            columns: self.width,
            to: &mut self.rows,
        })?;
        if self.wants_rows() {
            self.order.extend(places);
            return self.serve_if_full();
        }
        self.ahead.extend(places);
        Ok(())
    }

    fn serve_if_full(&mut self) -> Result<()> {
        if self.order.len() >= self.settings.buffer_tokens {
            if self.settings.mix_fraction > 0.0 {
                self.shuffle();
            }
            let batches = (self.order.len() - self.settings.kept()) / self.settings.batch_size;
            self.serve(batches.max(1))?;
        }
        Ok(())
    }

    /// No more rows will come: what is there is served as full batches, in its order.
    pub fn finish(&mut self) -> Result<()> {
        if self.wants_rows() {
            self.finished = true;
            self.serve(self.order.len() / self.settings.batch_size)?;
        }
        Ok(())
    }

    /// The next batch `[batch_size, width]`; false when rows are wanted, or after the last batch.
    pub fn next_batch(&mut self, batch: &mut B::Buffer<f32>) -> Result<bool> {
        if self.served == self.to_serve {
            return Ok(false);
        }
        let first = self.served * self.settings.batch_size;
        self.gather(first, self.settings.batch_size, batch)?;
        self.free.extend(&self.order[first..first + self.settings.batch_size]);
        self.served += 1;
        if self.served == self.to_serve {
            self.order.drain(..self.served * self.settings.batch_size);
            (self.served, self.to_serve) = (0, 0);
            if !self.ahead.is_empty() {
                self.order.append(&mut self.ahead);
                self.serve_if_full()?;
            }
        }
        Ok(true)
    }

    /// Writes everything that the batches to come depend on to a safetensors file, a batch of rows at a
    /// time: a buffer may be as large as half of the memory.
    pub fn save(&self, path: &Path) -> Result<()> {
        let (batch_size, width) = (self.settings.batch_size, self.width);
        let order = [&self.order[self.served * batch_size..], &self.ahead].concat();
        let (rows, counters) = (ROWS.to_string(), COUNTERS.to_string());
        let tensors = [(rows, Dtype::F32, vec![order.len(), width]), (counters, Dtype::U32, vec![4])];
        let mut file = TensorStream::create(path, &tensors)?;
        let (mut part, mut indices) = (self.backend.zeros(batch_size * width)?, self.backend.zeros(batch_size)?);
        let mut values = vec![0f32; batch_size * width];
        for order in order.chunks(batch_size) {
            self.backend.write(&mut indices, 0, order)?;
            let (from, rows, n, columns) = (&self.rows, &indices, order.len(), width);
            self.backend.gather_rows(GatherRows { from, rows, first: 0, n, columns, to: &mut part })?;
            let values = &mut values[..n * width];
            self.backend.read(&part, 0, values)?;
            file.append(ROWS, values)?;
        }
        let (left, ahead) = (self.left() as u32, self.ahead.len() as u32);
        file.append_u32(COUNTERS, &[self.shuffles, left, self.finished.into(), ahead])?;
        file.finish()
    }

    /// Continues from what [`save`](Self::save) wrote, in a buffer of the same settings.
    /// Error: the file is damaged or of other settings.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let file = TensorFile::open(path)?;
        let (rows, width) = match *file.shape(ROWS)? {
            [rows, width] => (rows, width),
            ref shape => return Err(Error::format(path, format!("tensor {ROWS} has shape {shape:?}, expected two"))),
        };
        let counters = file.u32(COUNTERS)?;
        let fits = width == self.width && rows <= self.capacity && counters.len() == 4;
        if !fits || counters[1] as usize * self.settings.batch_size + counters[3] as usize > rows {
            let what = format!(
                "holds a buffer of {rows} rows of {width}, which does not fit this run's \
                 ({} rows of {} in batches of {}); resume with the recipe of the run",
                self.capacity, self.width, self.settings.batch_size
            );
            return Err(Error::format(path, what));
        }
        let part = self.settings.batch_size * width;
        for first in (0..rows * width).step_by(part) {
            let values = file.f32_range(ROWS, first, part.min(rows * width - first))?;
            self.backend.write(&mut self.rows, first, &values)?;
        }
        self.order = (0..rows as u32).collect();
        self.ahead = self.order.split_off(rows - counters[3] as usize);
        self.free = (rows as u32..self.capacity as u32).rev().collect();
        (self.shuffles, self.finished) = (counters[0], counters[2] != 0);
        self.serve(counters[1] as usize)
    }

    fn shuffle(&mut self) {
        let permutation = Random::new(self.settings.seed, Stream::Buffer, self.shuffles).permutation(self.order.len());
        self.order = permutation.into_iter().map(|from| self.order[from as usize]).collect();
        self.shuffles += 1;
    }

    fn serve(&mut self, batches: usize) -> Result<()> {
        (self.served, self.to_serve) = (0, batches);
        self.backend.write(&mut self.serving, 0, &self.order[..batches * self.settings.batch_size])
    }

    fn gather(&mut self, first: usize, n: usize, to: &mut B::Buffer<f32>) -> Result<()> {
        let (from, rows, columns) = (&self.rows, &self.serving, self.width);
        self.backend.gather_rows(GatherRows { from, rows, first, n, columns, to })
    }
}
