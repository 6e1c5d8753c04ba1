//! Arguments of the firing statistics: what fired, and what is dead.

use super::*;
use crate::backend::{need, Backend, Buffer};
use crate::error::Result;

/// `fired_count[i] +=` rows in which latent `i` is active; `since_fired[i] = 0` if any, else `+ 1`.
pub struct UpdateFiring<'a, B: Backend> {
    /// The batch.
    pub features: Features<'a, B>,
    /// Rows (`B`).
    pub rows: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// In and out `[F]`: SAELens' `act_freq_scores`.
    pub fired_count: &'a mut B::Buffer<u32>,
    /// In and out `[F]`: SAELens' `n_forward_passes_since_fired`.
    pub since_fired: &'a mut B::Buffer<u32>,
}

impl<B: Backend> UpdateFiring<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "update_firing";
        match self.features {
            Features::Lists(lists) => need(op, "offsets", lists.offsets.len(), self.d_sae + 1)?,
            Features::Values(by_latent, lists) => {
                need(op, "offsets", by_latent.offsets.len(), self.d_sae + 1)?;
                need(op, "values", lists.values.len(), by_latent.entries.len())?;
            }
            Features::Dense(features) => need(op, "features", features.len(), self.rows * self.d_sae)?,
        }
        need(op, "fired_count", self.fired_count.len(), self.d_sae)?;
        need(op, "since_fired", self.since_fired.len(), self.d_sae)
    }
}

/// The dead latents, on the device: how many they are is not known to the host.
pub struct DeadLatents<B: Backend> {
    /// `[1]`: how many.
    pub count: B::Buffer<u32>,
    /// `[F]`: the first so many are theirs, ascending.
    pub latents: B::Buffer<u32>,
}

impl<B: Backend> DeadLatents<B> {
    /// None of `d_sae`.
    pub fn none(backend: &B, d_sae: usize) -> Result<Self> {
        Ok(DeadLatents { count: backend.zeros(1)?, latents: backend.zeros(d_sae)? })
    }

    pub(super) fn check(&self, op: &'static str, d_sae: usize) -> Result<()> {
        need(op, "count of dead latents", self.count.len(), 1)?;
        need(op, "dead latents", self.latents.len(), d_sae)
    }
}

/// The latents of a range with `since_fired > window` (SAELens' `dead_neurons`).
pub struct FindDead<'a, B: Backend> {
    /// Steps since each latent fired `[F]`.
    pub since_fired: &'a B::Buffer<u32>,
    /// SAELens' `dead_feature_window`, in steps.
    pub window: u32,
    /// Which latents are looked at.
    pub latents: std::ops::Range<usize>,
    /// Out.
    pub dead: &'a mut DeadLatents<B>,
}

impl<B: Backend> FindDead<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("find_dead", "since_fired", self.since_fired.len(), self.latents.end)?;
        self.dead.check("find_dead", self.latents.len())
    }
}
