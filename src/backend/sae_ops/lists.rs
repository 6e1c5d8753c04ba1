//! Features as lists: by row, by latent, and from one to the other.

use crate::backend::{need, require, Backend, Buffer};
use crate::error::Result;

/// The active latents of every row: row `b` holds `counts[b] <= stride` entries from
/// `b * stride` on, latents ascending. What lies behind the count is undefined.
pub struct FeatureLists<B: Backend> {
    /// Rows (`B`).
    pub rows: usize,
    /// Room for entries in each row.
    pub stride: usize,
    /// Entries used in each row `[B]`.
    pub counts: B::Buffer<u32>,
    /// Latents `[B, stride]`.
    pub indices: B::Buffer<u32>,
    /// Values `[B, stride]`: what multiplies the latent's row of W_dec.
    pub values: B::Buffer<f32>,
}

impl<B: Backend> FeatureLists<B> {
    /// Empty lists with room for `stride` entries in each of `rows` rows.
    pub fn new(backend: &B, rows: usize, stride: usize) -> Result<Self> {
        Ok(FeatureLists {
            rows,
            stride,
            counts: backend.zeros(rows)?,
            indices: backend.zeros(rows * stride)?,
            values: backend.zeros(rows * stride)?,
        })
    }

    /// Positions of entries are u32: there must not be more places than those count.
    pub(super) fn check_places(&self, op: &'static str, rows: usize) -> Result<()> {
        let fits = rows.checked_mul(self.stride).is_some_and(|places| u32::try_from(places).is_ok());
        require(op, fits, || "rows times stride does not fit 32 bits".into())
    }

    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        need(op, "counts", self.counts.len(), self.rows)?;
        need(op, "indices", self.indices.len(), self.rows * self.stride)?;
        need(op, "values", self.values.len(), self.rows * self.stride)
    }
}

/// The same entries ordered by latent: latent `i` owns `entries[offsets[i]..offsets[i + 1]]`, each
/// the position `b * stride + j` of an entry in the lists, rows ascending.
pub struct LatentLists<B: Backend> {
    /// `[F + 1]`.
    pub offsets: B::Buffer<u32>,
    /// `[B * stride]`.
    pub entries: B::Buffer<u32>,
}

impl<B: Backend> LatentLists<B> {
    /// Room for `entries` entries of `d_sae` latents.
    pub fn new(backend: &B, d_sae: usize, entries: usize) -> Result<Self> {
        Ok(LatentLists { offsets: backend.zeros(d_sae + 1)?, entries: backend.zeros(entries)? })
    }
}

/// Fills [`LatentLists`] from [`FeatureLists`]: a stable counting sort.
pub struct TransposeLists<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// Rows (`B`).
    pub rows: usize,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out: by latent.
    pub by_latent: &'a mut LatentLists<B>,
}

impl<B: Backend> TransposeLists<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "transpose_lists";
        self.lists.check_places(op, self.rows)?;
        self.lists.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "offsets", self.by_latent.offsets.len(), self.d_sae + 1)?;
        need(op, "entries", self.by_latent.entries.len(), self.rows * self.lists.stride)
    }
}

/// The entries whose latent lies in `latents`, as lists of their own.
pub struct SliceLists<'a, B: Backend> {
    /// The features by row.
    pub lists: &'a FeatureLists<B>,
    /// Which latents.
    pub latents: std::ops::Range<usize>,
    /// Rows (`B`).
    pub rows: usize,
    /// Out: of the same stride.
    pub out: &'a mut FeatureLists<B>,
}

impl<B: Backend> SliceLists<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "slice_lists";
        self.lists.check(op)?;
        self.out.check(op)?;
        need(op, "lists", self.lists.rows, self.rows)?;
        need(op, "out", self.out.rows, self.rows)?;
        require(op, self.out.stride == self.lists.stride, || {
            format!("the stride {} is not that of the slice, {}", self.lists.stride, self.out.stride)
        })
    }
}

/// `out[i] = Σ values[entry]` over the entries of latent `i`, rows ascending.
pub struct SumByLatent<'a, B: Backend> {
    /// One number for each entry `[B, stride]`.
    pub values: &'a B::Buffer<f32>,
    /// The entries by latent.
    pub by_latent: &'a LatentLists<B>,
    /// Latents (`F`).
    pub d_sae: usize,
    /// Out `[F]`.
    pub out: &'a mut B::Buffer<f32>,
}

impl<B: Backend> SumByLatent<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let op = "sum_by_latent";
        need(op, "offsets", self.by_latent.offsets.len(), self.d_sae + 1)?;
        need(op, "values", self.values.len(), self.by_latent.entries.len())?;
        need(op, "out", self.out.len(), self.d_sae)
    }
}

/// The features of a batch, in one of their forms.
pub enum Features<'a, B: Backend> {
    /// Lists by latent, every entry of which is active.
    Lists(&'a LatentLists<B>),
    /// Lists by latent, and by row: an entry is active where its value is not 0.
    Values(&'a LatentLists<B>, &'a FeatureLists<B>),
    /// Dense `[B, F]`.
    Dense(&'a B::Buffer<f32>),
}
