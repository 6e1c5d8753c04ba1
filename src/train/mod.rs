//! Training: schedules, the loop, checkpoints and logs.

pub mod schedule;
