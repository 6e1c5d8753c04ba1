//! Training: schedules, the run, its logs, its progress and its plan.

pub mod log;
pub mod progress;
mod run;
pub mod schedule;
mod summary;
pub mod tensorboard;

pub use run::run;
pub use summary::Summary;

use std::path::PathBuf;

/// What a run needs besides its recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The run folder, made by the run; when resuming, the one to continue in.
    pub out: PathBuf,
    /// Whether to continue the run in `out` from its last checkpoint.
    pub resume: bool,
}
