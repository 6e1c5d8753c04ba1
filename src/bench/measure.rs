//! Timing: samples of one call each, with cold caches, on the backend's own clock.

use super::{Ceilings, Measured, Outcome, Row};
use crate::backend::Backend;
use crate::error::Result;
use crate::machine::cpu_seconds;
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
    /// CPU time of all threads, the one in the middle.
    pub cpu: f64,
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
        Ok(self.sample_with_cpu(run)?.0)
    }

    /// The same, and the CPU time of all threads of this process meanwhile.
    fn sample_with_cpu(&mut self, run: &mut dyn FnMut(&B) -> Result<()>) -> Result<(f64, f64)> {
        self.backend.fill(&mut self.swept, 0.0)?;
        let (backend, before) = (&self.backend, cpu_seconds());
        let seconds = backend.seconds(&mut || run(backend))?;
        Ok((seconds, cpu_seconds() - before))
    }

    /// A call that is not timed, then samples.
    pub(super) fn time(&mut self, run: &mut dyn FnMut(&B) -> Result<()>) -> Result<Times> {
        let Sampling { budget, least, most, .. } = self.sampling;
        run(&self.backend)?;
        let (start, mut samples) = (Instant::now(), Vec::new());
        while samples.len() < least || (samples.len() < most && start.elapsed() < budget) {
            samples.push(self.sample_with_cpu(run)?);
        }
        let (mut seconds, mut cpu): (Vec<f64>, Vec<f64>) = samples.into_iter().unzip();
        seconds.sort_by(f64::total_cmp);
        cpu.sort_by(f64::total_cmp);
        let samples = seconds.len();
        let (median, fastest, slowest) = (seconds[samples / 2], seconds[0], seconds[samples - 1]);
        Ok(Times { median, fastest, slowest, cpu: cpu[samples / 2], samples })
    }
}
