//! Arguments of the operations on rows of activations: gathering, normalising, norms.

use crate::backend::{bf16, need, require, Backend, Buffer};
use crate::error::Result;

/// `to[i, :] = from[rows[i], :]`.
pub struct GatherRows<'a, B: Backend> {
    /// Source `[.., columns]`.
    pub from: &'a B::Buffer<f32>,
    /// Which rows `[n]`, each inside `from`.
    pub rows: &'a B::Buffer<u32>,
    /// First of `rows` to use.
    pub first: usize,
    /// How many.
    pub n: usize,
    /// Width of a row.
    pub columns: usize,
    /// Out `[n, columns]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> GatherRows<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("gather_rows", "rows", self.rows.len(), self.first + self.n)?;
        need("gather_rows", "to", self.to.len(), self.n * self.columns)
    }
}

/// `to[to_rows[i], :] = from[from_rows[i], :]`; no two of `to_rows` are the same.
pub struct ScatterRows<'a, B: Backend> {
    /// Source `[.., columns]`.
    pub from: &'a B::Buffer<f32>,
    /// Which rows `[n]`, each inside `from`.
    pub from_rows: &'a B::Buffer<u32>,
    /// Where they go `[n]`, each inside `to`.
    pub to_rows: &'a B::Buffer<u32>,
    /// How many.
    pub n: usize,
    /// Width of a row.
    pub columns: usize,
    /// In and out `[.., columns]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> ScatterRows<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("scatter_rows", "from_rows", self.from_rows.len(), self.n)?;
        need("scatter_rows", "to_rows", self.to_rows.len(), self.n)
    }
}

/// Normalisation of a batch at run time (SAELens' `normalize_activations`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowNormalization {
    /// As it is.
    None,
    /// `(x - mean) / (std + 1e-5)`, std with D - 1; undone with `y * std + mean`.
    LayerNorm,
    /// `x * sqrt(D) / |x|`; undone by dividing.
    ConstantNorm,
}

/// `target = scale * x`; `input = normalise(target) - b_dec`; and what undoes the normalisation:
/// `x_hat = y * row_scale + row_shift`.
pub struct PrepareInput<'a, B: Backend> {
    /// Activations `[B, D]`.
    pub x: &'a B::Buffer<f32>,
    /// The factor of `expected_average_only_in`; 1 otherwise.
    pub scale: f32,
    /// Per-row normalisation.
    pub normalization: RowNormalization,
    /// Subtracted after normalising, where `apply_b_dec_to_input` `[D]`.
    pub b_dec: Option<&'a B::Buffer<f32>>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Out: what the reconstruction is compared with `[B, D]`.
    pub target: &'a mut B::Buffer<f32>,
    /// Out: the encoder's input `[B, D]`.
    pub input: &'a mut B::Buffer<f32>,
    /// Out `[B]`; written only when a normalisation is asked for.
    pub row_scale: &'a mut B::Buffer<f32>,
    /// Out `[B]`; likewise.
    pub row_shift: &'a mut B::Buffer<f32>,
}

impl<B: Backend> PrepareInput<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        let (op, n) = ("prepare_input", self.rows * self.d_in);
        require(op, self.d_in > 0, || "d_in is 0".into())?;
        need(op, "x", self.x.len(), n)?;
        need(op, "target", self.target.len(), n)?;
        need(op, "input", self.input.len(), n)?;
        need(op, "row_scale", self.row_scale.len(), self.rows)?;
        need(op, "row_shift", self.row_shift.len(), self.rows)?;
        self.b_dec.map_or(Ok(()), |b_dec| need(op, "b_dec", b_dec.len(), self.d_in))
    }
}

/// `norms[i] = |matrix[i]|`.
pub struct RowNorms<'a, B: Backend> {
    /// `[rows, columns]`.
    pub matrix: &'a B::Buffer<f32>,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Out `[rows]`.
    pub norms: &'a mut B::Buffer<f32>,
}

impl<B: Backend> RowNorms<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("row_norms", "matrix", self.matrix.len(), self.rows * self.columns)?;
        need("row_norms", "norms", self.norms.len(), self.rows)
    }
}

/// `to[i] = factor * from[i]`.
pub struct Scale<'a, B: Backend> {
    /// `[len]`.
    pub from: &'a B::Buffer<f32>,
    /// The factor.
    pub factor: f32,
    /// Elements.
    pub len: usize,
    /// Out `[len]`.
    pub to: &'a mut B::Buffer<f32>,
}

impl<B: Backend> Scale<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("scale", "from", self.from.len(), self.len)?;
        need("scale", "to", self.to.len(), self.len)
    }
}

/// `to[i] = from[i]` in bf16: to the nearest, ties to the even one; NaN becomes 0x7fff.
pub struct RoundBf16<'a, B: Backend> {
    /// `[len]`.
    pub from: &'a B::Buffer<f32>,
    /// Elements.
    pub len: usize,
    /// Out `[len]`.
    pub to: &'a mut B::Buffer<bf16>,
}

impl<B: Backend> RoundBf16<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("round_bf16", "from", self.from.len(), self.len)?;
        need("round_bf16", "to", self.to.len(), self.len)
    }
}

/// `variance[b] = |x[b] - mean row|²`: what the explained variance divides by.
pub struct RowVariance<'a, B: Backend> {
    /// `[B, D]`.
    pub x: &'a B::Buffer<f32>,
    /// Rows (`B`).
    pub rows: usize,
    /// Width (`D`).
    pub d_in: usize,
    /// Out `[B]`.
    pub variance: &'a mut B::Buffer<f32>,
}

impl<B: Backend> RowVariance<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("row_variance", "x", self.x.len(), self.rows * self.d_in)?;
        need("row_variance", "variance", self.variance.len(), self.rows)
    }
}

/// `out[slot] = Σ values` in f64.
pub struct Sum<'a, B: Backend> {
    /// `[len]`.
    pub values: &'a B::Buffer<f32>,
    /// Elements.
    pub len: usize,
    /// Out: one element is written.
    pub out: &'a mut B::Buffer<f64>,
    /// Which.
    pub slot: usize,
}

impl<B: Backend> Sum<'_, B> {
    /// Whether the buffers fit the dimensions.
    pub fn check(&self) -> Result<()> {
        need("sum", "values", self.values.len(), self.len)?;
        need("sum", "out", self.out.len(), self.slot + 1)
    }
}
