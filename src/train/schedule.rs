//! Learning-rate and coefficient schedules. Source: SAELens `training/optim.py`.

use crate::config::LrSchedulerName;
use std::f64::consts::PI;

/// The learning rate of every step: warm-up, main part, linear decay to 0.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningRate {
    /// The main part's form.
    pub scheduler: LrSchedulerName,
    /// The rate at the end of the warm-up.
    pub lr: f64,
    /// Where the cosines end, and where the decay starts from if there are cosines.
    pub lr_end: f64,
    /// Steps of warm-up.
    pub warm_up_steps: u64,
    /// Steps of decay at the end.
    pub decay_steps: u64,
    /// Half cosines of `cosineannealingwarmrestarts`.
    pub n_restart_cycles: u64,
    /// All steps.
    pub total_steps: u64,
}

impl LearningRate {
    /// The rate used in `step` (from 0): `lr (i+1)/W` in the warm-up, then the main part, then from
    /// its end linearly to what would be 0 one step after the last.
    pub fn at(&self, step: u64) -> f64 {
        let (lr, end) = (self.lr, self.lr_end);
        if step < self.warm_up_steps {
            return lr * (step + 1) as f64 / self.warm_up_steps as f64;
        }
        let decay_start = self.total_steps.saturating_sub(self.decay_steps);
        if step >= decay_start {
            let from = if self.scheduler == LrSchedulerName::Constant { lr } else { end };
            return from * (1.0 - (step - decay_start) as f64 / self.decay_steps as f64);
        }
        let (i, n) = ((step - self.warm_up_steps) as f64, (decay_start - self.warm_up_steps) as f64);
        let half_cosine = |part: f64| end + (lr - end) * (1.0 + (PI * part).cos()) / 2.0;
        match self.scheduler {
            LrSchedulerName::Constant => lr,
            LrSchedulerName::CosineAnnealing => half_cosine(i / n),
            LrSchedulerName::CosineAnnealingWarmRestarts => {
                let cycle = (n / self.n_restart_cycles as f64).floor();
                half_cosine((i % cycle) / cycle)
            }
        }
    }
}

/// A coefficient's value in `step` (from 0): linear from 0 over its warm-up.
pub fn coefficient(last: f64, warm_up_steps: u64, step: u64) -> f64 {
    if step >= warm_up_steps {
        return last;
    }
    last * step as f64 / warm_up_steps as f64
}
