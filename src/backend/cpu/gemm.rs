//! Dense f32 matrix products through the kernels of the `gemm` crate, or tiles where a machine has them, cut into blocks
//! that do not depend on the number of threads: every output element is one block's, so its bits are too.

#[cfg(target_arch = "x86_64")]
use super::gemm_amx;
use rayon::prelude::*;

/// Rows of an output block. Large enough that packing a block of the right matrix is paid back.
const BLOCK_ROWS: usize = 1024;
/// Columns of an output block.
const BLOCK_COLUMNS: usize = 1024;

/// A matrix operand: element `(i, j)` is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Operand<'a> {
    /// `[rows, columns]`, row-major.
    pub fn rows(data: &'a [f32], columns: usize) -> Self {
        Operand { data, row_stride: columns, column_stride: 1 }
    }

    /// The transpose of a row-major matrix that has `columns` columns as it is stored.
    pub fn transposed(data: &'a [f32], columns: usize) -> Self {
        Operand { data, row_stride: 1, column_stride: columns }
    }

    /// The operand from element `(row, column)` on.
    pub(super) fn from(self, row: usize, column: usize) -> Self {
        Operand { data: &self.data[row * self.row_stride + column * self.column_stride..], ..self }
    }

    fn last(&self, rows: usize, columns: usize) -> usize {
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride
    }
}

#[derive(Clone, Copy)]
struct Output(*mut f32);
// SAFETY: each task writes its own block of the output; blocks do not overlap.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// The first element of a block.
    fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's offset lies inside the output.
        unsafe { self.0.add(offset) }
    }
}

/// A finished block of the output, handed to the epilogue while it is in the cache.
pub(crate) struct Block {
    /// First row.
    pub row: usize,
    /// First column.
    pub column: usize,
    rows: usize,
    columns: usize,
    first: *mut f32,
    stride: usize,
}

impl Block {
    /// Each row of the block: its number in the output and its elements, `column..` on.
    pub fn rows(&mut self) -> impl Iterator<Item = (usize, &mut [f32])> {
        let (row, columns, first, stride) = (self.row, self.columns, self.first, self.stride);
        (0..self.rows).map(move |i| {
            // SAFETY: row i of this task's block; rows do not overlap and the block is borrowed.
            (row + i, unsafe { std::slice::from_raw_parts_mut(first.add(i * stride), columns) })
        })
    }
}

/// `out = a · b` (or `out += a · b`), `out [m, n]` row-major, `a [m, k]`, `b [k, n]`. On all threads.
pub(crate) fn product(dims: [usize; 3], out: &mut [f32], a: Operand, b: Operand, accumulate: bool) {
    product_with(dims, out, a, b, accumulate, |_| ());
}

/// As [`product`]; `epilogue` sees every finished block once.
pub(crate) fn product_with(
    [m, n, k]: [usize; 3],
    out: &mut [f32],
    a: Operand,
    b: Operand,
    accumulate: bool,
    epilogue: impl Fn(Block) + Sync,
) {
    assert!(m * n <= out.len(), "the output is too small");
    let out = Output(out.as_mut_ptr());
    let (row_blocks, column_blocks) = (m.div_ceil(BLOCK_ROWS), n.div_ceil(BLOCK_COLUMNS));
    (0..row_blocks * column_blocks).into_par_iter().for_each(|block| {
        // Neighbouring tasks share the block of b, the larger operand, while it is in the cache.
        let (row, column) = ((block % row_blocks) * BLOCK_ROWS, (block / row_blocks) * BLOCK_COLUMNS);
        let (rows, columns) = (BLOCK_ROWS.min(m - row), BLOCK_COLUMNS.min(n - column));
        let first = out.at(row * n + column);
        // SAFETY: the block lies inside the output (asserted above) and is this task's alone.
        unsafe { block_product([rows, columns, k], first, n, a.from(row, 0), b.from(0, column), accumulate) };
        epilogue(Block { row, column, rows, columns, first, stride: n });
    });
}

/// The same on this thread alone.
pub(crate) fn product_here([m, n, k]: [usize; 3], out: &mut [f32], a: Operand, b: Operand, accumulate: bool) {
    assert!(m * n <= out.len(), "the output is too small");
    // SAFETY: the output holds m * n elements.
    unsafe { block_product([m, n, k], out.as_mut_ptr(), n, a, b, accumulate) };
}

/// As [`product_here`], in f32 alone: its rounding is that of sums of f32 at any magnitude.
pub(crate) fn product_in_f32([m, n, k]: [usize; 3], out: &mut [f32], a: Operand, b: Operand) {
    assert!(m * n <= out.len(), "the output is too small");
    // SAFETY: the output holds m * n elements.
    unsafe { block_product_in_f32([m, n, k], out.as_mut_ptr(), n, a, b, false) };
}

/// By whatever is faster on this machine.
///
/// SAFETY: `out` must point at `m` rows of `n` elements, `out_stride` apart, that nobody else uses.
unsafe fn block_product(dims: [usize; 3], out: *mut f32, out_stride: usize, a: Operand, b: Operand, accumulate: bool) {
    #[cfg(target_arch = "x86_64")]
    if gemm_amx::is_faster(dims) {
        // SAFETY: the machine has tiles, or they were not faster; the output is the caller's promise.
        return unsafe { gemm_amx::product(dims, out, out_stride, a, b, accumulate) };
    }
    // SAFETY: as above.
    unsafe { block_product_in_f32(dims, out, out_stride, a, b, accumulate) };
}

/// SAFETY: as [`block_product`].
unsafe fn block_product_in_f32(
    [m, n, k]: [usize; 3],
    out: *mut f32,
    out_stride: usize,
    a: Operand,
    b: Operand,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k > 0 {
        assert!(a.last(m, k) < a.data.len() && b.last(k, n) < b.data.len(), "an operand is too small");
    }
    let product = gemm_f32::gemm::f32::get_gemm_fn();
    // It wants contiguous columns, so it is given the transposed product, out^T = b^T a^T.
    // SAFETY: the operands were just checked against their slices, the output is the caller's promise.
    unsafe {
        product(
            n,
            m,
            k,
            out,
            out_stride as isize,
            1,
            accumulate,
            b.data.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            a.data.as_ptr(),
            a.row_stride as isize,
            a.column_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    #[test]
    fn products_over_block_borders_agree_with_plain_loops() {
        let mut random = Random::new(1, Stream::Weights, 0);
        let mut matrix = |n: usize| (0..n).map(|_| random.uniform() - 0.5).collect::<Vec<f32>>();
        for (m, n, k) in [(1, 1, 1), (257, 1030, 5), (3, 2, 300), (257, 1030, 260)] {
            let (a, b) = (matrix(m * k), matrix(n * k));
            let mut out = vec![1.0; m * n];
            product([m, n, k], &mut out, Operand::rows(&a, k), Operand::transposed(&b, k), true);
            for (i, j) in [(0, 0), (m - 1, n - 1), (m / 2, n / 2)] {
                let expected: f32 = 1.0 + (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum::<f32>();
                assert!((out[i * n + j] - expected).abs() < 1e-5, "{m} {n} {k} at {i} {j}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let mut random = Random::new(2, Stream::Weights, 0);
        let (m, n, k) = (600, 1500, 96);
        let a: Vec<f32> = (0..m * k).map(|_| random.uniform() - 0.5).collect();
        let b: Vec<f32> = (0..n * k).map(|_| random.uniform() - 0.5).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; m * n];
            pool.install(|| product([m, n, k], &mut out, Operand::rows(&a, k), Operand::transposed(&b, k), false));
            out
        };
        assert_eq!(run(1), run(5));
    }
}
