//! Training: the run with its SAEs, its schedules, checkpoints and logs, its progress and its plan; and
//! steps on batches that a program brings itself.

mod b_dec;
pub mod checkpoint;
mod control;
mod course;
mod export;
pub mod log;
pub mod metrics;
pub mod plan;
pub mod progress;
mod run;
pub mod schedule;
mod setup;
mod summary;
pub mod tensorboard;
mod trainee;
mod trainer;

pub use run::{run, run_sweep};
pub use summary::{SaeSummary, Summary, SweepSummary};
pub use trainer::Trainer;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// What a run needs besides its recipe.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The run folder, made by the run; when resuming, the one to continue in.
    pub out: PathBuf,
    /// Whether to continue the run in `out` from its last checkpoint.
    pub resume: bool,
    /// Set from outside (by a signal) to make the run save and stop.
    pub stop: Arc<AtomicBool>,
}
