//! Timing: samples of one call each, with cold caches, on the backend's own clock.

use super::{Ceilings, Measured, Outcome, Row};
use crate::backend::Backend;
use crate::error::Result;
use indicatif::BinaryBytes;
use std::time::{Duration, Instant};

/// How many samples are taken of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// No more are begun after so long.
    pub budget: Duration,
    /// But so many at least.
    pub least: usize,
    /// And so many at most.
    pub most: usize,
    /// Numbers in a buffer that no cache holds: what ceilings are measured with, and what is written
    /// between samples.
    pub large: usize,
}

impl Sampling {
    /// For figures that are kept.
    pub const THOROUGH: Sampling = Sampling { budget: Duration::from_secs(2), least: 5, most: 50, large: 1 << 27 };
    /// For a first look.
    pub const QUICK: Sampling = Sampling { budget: Duration::from_millis(200), least: 1, most: 10, large: 1 << 25 };
}

/// Seconds of a row's samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times {
    /// The one in the middle.
    pub median: f64,
    /// The shortest.
    pub fastest: f64,
    /// The longest.
    pub slowest: f64,
    /// How many.
    pub samples: usize,
}

/// Of the free memory, so much is left to what operations take for themselves: one part of this many.
const SCRATCH_PART: u64 = 8;

/// Times rows on one backend.
pub struct Bench<B: Backend> {
    backend: B,
    sampling: Sampling,
    /// Bytes that a row may take, where the system tells.
    available: Option<u64>,
    swept: B::Buffer<f32>,
}

impl<B: Backend> Bench<B> {
    /// Takes memory for a buffer that is written between samples. Error: there is not so much.
    pub fn new(backend: &B, sampling: Sampling) -> Result<Self> {
        // The ceilings take twice as much for a moment.
        let own = 12 * sampling.large as u64;
        let usable = |available: u64| (available - available / SCRATCH_PART).saturating_sub(own);
        let available = backend.memory().map(|memory| usable(memory.available));
        Ok(Bench { backend: backend.clone(), sampling, available, swept: backend.zeros(sampling.large)? })
    }

    /// The backend that is timed.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    pub(super) fn large(&self) -> usize {
        self.sampling.large
    }

    /// Why a row's data cannot be had, in a sentence.
    pub fn too_large(&self, row: &Row<B>) -> Result<Option<String>> {
        let (needed, available) = (row.memory(&self.backend)?, self.available.unwrap_or(u64::MAX));
        let sentence = || format!("needs {} of memory, {} are free", BinaryBytes(needed), BinaryBytes(available));
        Ok((needed > available).then(sentence))
    }

    /// Times a row, or says why not.
    pub fn measure(&mut self, row: &Row<B>, ceilings: &Ceilings) -> Result<Outcome> {
        if let Some(why) = self.too_large(row)? {
            return Ok(Outcome::skipped(row, why));
        }
        let mut run = row.prepare(&self.backend)?;
        Ok(Outcome::measured(row, Measured::new(row, self.time(&mut run)?, ceilings)))
    }

    /// One call, after another buffer has taken the caches. Error: the operation's.
    pub fn sample(&mut self, run: &mut dyn FnMut(&B) -> Result<()>) -> Result<f64> {
        self.backend.fill(&mut self.swept, 0.0)?;
        let backend = &self.backend;
        backend.seconds(&mut || run(backend))
    }

    /// A call that is not timed, then samples.
    pub(super) fn time(&mut self, run: &mut dyn FnMut(&B) -> Result<()>) -> Result<Times> {
        let Sampling { budget, least, most, .. } = self.sampling;
        run(&self.backend)?;
        let (start, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < least || (seconds.len() < most && start.elapsed() < budget) {
            seconds.push(self.sample(run)?);
        }
        seconds.sort_by(f64::total_cmp);
        let samples = seconds.len();
        Ok(Times { median: seconds[samples / 2], fastest: seconds[0], slowest: seconds[samples - 1], samples })
    }
}
