//! Dense f32 matrix products through the kernels of the `gemm` crate, or tiles where a machine has them, cut into blocks.
//! How an output is cut changes no element's sum: the same numbers are added in the same order.

#[cfg(target_arch = "x86_64")]
use super::gemm_amx;
use super::matrix::Numbers;
use rayon::prelude::*;
use std::cell::Cell;

/// Rows and columns of an output block: enough to pay for packing its operands, unless threads would be idle.
const BLOCK: usize = 1024;
/// The same at least. One that is narrower than 64 both ways, or has one row or column, would be summed otherwise.
const LEAST_BLOCK: usize = 256;
/// Columns of an output that pay for packing a left operand which lies along its columns.
const LEAST_WIDTH: usize = 512;
/// By how many rows of the output a sum must be longer, so that such packing costs more than transposing the output.
const LEAST_DEPTH: usize = 4;

/// A matrix operand: element `(i, j)` is number `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(super) numbers: Numbers<'a>,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Operand<'a> {
    /// `[rows, columns]`, row-major.
    pub fn rows(numbers: impl Into<Numbers<'a>>, columns: usize) -> Self {
        Operand { numbers: numbers.into(), row_stride: columns, column_stride: 1 }
    }

    /// The transpose of a row-major matrix that has `columns` columns as it is stored.
    pub fn transposed(numbers: impl Into<Numbers<'a>>, columns: usize) -> Self {
        Operand { numbers: numbers.into(), row_stride: 1, column_stride: columns }
    }

    /// The operand from element `(row, column)` on.
    pub(super) fn from(self, row: usize, column: usize) -> Self {
        Operand { numbers: self.numbers.skip(row * self.row_stride + column * self.column_stride), ..self }
    }

    /// Rows as columns.
    fn flipped(self) -> Self {
        Operand { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// How many numbers there are up to the last of `[rows, columns]`.
    fn len(&self, rows: usize, columns: usize) -> usize {
        match rows * columns {
            0 => 0,
            _ => (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1,
        }
    }
}

/// Where a product goes: rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub first: *mut f32,
    pub stride: usize,
}
// SAFETY: each task writes its own block of the output; blocks do not overlap.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// The output from an element inside it on.
    pub fn from(self, row: usize, column: usize) -> Self {
        Output { first: self.first.wrapping_add(row * self.stride + column), ..self }
    }
}

/// A finished block of the output, handed to the epilogue while it is in the cache.
pub(crate) struct Block {
    /// First row.
    pub row: usize,
    /// First column.
    pub column: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// From its first element on.
    pub(super) out: Output,
}

impl Block {
    /// Each row of the block: its number in the output and its elements, `column..` on.
    pub fn rows(&mut self) -> impl Iterator<Item = (usize, &mut [f32])> {
        let (row, columns, out) = (self.row, self.columns, self.out);
        (0..self.rows).map(move |i| {
            // SAFETY: row i of this task's block; rows do not overlap and the block is borrowed.
            (row + i, unsafe { std::slice::from_raw_parts_mut(out.from(i, 0).first, columns) })
        })
    }
}

/// `out = a · b` (or `out += a · b`), `out [m, n]` row-major, `a [m, k]`, `b [k, n]`. On all threads.
pub(crate) fn product(dims: [usize; 3], out: &mut [f32], a: Operand, b: Operand, accumulate: bool) {
    product_with(dims, out, a, b, accumulate, |_| ());
}

/// As [`product`]; `epilogue` sees every element once, in some finished block.
pub(crate) fn product_with(
    dims @ [m, n, k]: [usize; 3],
    out: &mut [f32],
    a: Operand,
    b: Operand,
    accumulate: bool,
    epilogue: impl Fn(Block) + Sync,
) {
    let out = output(dims, out);
    #[cfg(target_arch = "x86_64")]
    if gemm_amx::is_faster(dims) {
        // SAFETY: the machine has tiles, or they were not faster; the output was just checked.
        return unsafe { gemm_amx::product(dims, out, a, b, accumulate, tasks_wanted(), epilogue) };
    }
    let (a_wide, b_wide) = (a.numbers.in_f32(a.len(m, k)), b.numbers.in_f32(b.len(k, n)));
    let (a, b) = (Operand { numbers: (&*a_wide).into(), ..a }, Operand { numbers: (&*b_wide).into(), ..b });
    let transposed_first = transposed_comes_first([n, k], a);
    let [row_blocks, column_blocks] = blocks([m, n], tasks_wanted());
    (0..row_blocks * column_blocks).into_par_iter().for_each(|block| {
        // Neighbouring tasks share the block of b, the larger operand, while it is in the cache.
        let [row, end_row] = [0, 1].map(|i| (block % row_blocks + i) * m / row_blocks);
        let [column, end_column] = [0, 1].map(|i| (block / row_blocks + i) * n / column_blocks);
        let (rows, columns, out) = (end_row - row, end_column - column, out.from(row, column));
        let (dims, a, b) = ([rows, columns, k], a.from(row, 0), b.from(0, column));
        // SAFETY: the block lies inside the output and is this task's alone.
        unsafe { block_product_in_f32(dims, out, a, b, accumulate, transposed_first) };
        epilogue(Block { row, column, rows, columns, out });
    });
}

/// Tasks that keep all threads busy.
fn tasks_wanted() -> usize {
    match rayon::current_num_threads() {
        1 => 1,
        threads => 2 * threads,
    }
}

/// Into how many blocks the rows and columns of an output are cut: columns first, which is cheaper.
fn blocks([m, n]: [usize; 2], tasks: usize) -> [usize; 2] {
    let cut = |length: usize, others: usize| {
        let least = length.div_ceil(BLOCK);
        tasks.div_ceil(others.max(1)).min(length / LEAST_BLOCK).max(least)
    };
    let columns = cut(n, m.div_ceil(BLOCK));
    [cut(m, columns), columns]
}

/// `out = a · b` of numbers in f32, on this thread alone.
pub(crate) fn product_here(dims: [usize; 3], out: &mut [f32], a: Operand, b: Operand) {
    let out = output(dims, out);
    #[cfg(target_arch = "x86_64")]
    if gemm_amx::is_faster(dims) {
        // SAFETY: as in `product_with`.
        return unsafe { gemm_amx::product(dims, out, a, b, false, 1, |_| ()) };
    }
    // SAFETY: the output was just checked.
    unsafe { block_product_in_f32(dims, out, a, b, false, transposed_comes_first([dims[1], dims[2]], a)) };
}

/// As [`product_here`], in f32 alone: its rounding is that of sums of f32 at any magnitude.
pub(crate) fn product_in_f32(dims: [usize; 3], out: &mut [f32], a: Operand, b: Operand) {
    // SAFETY: the output is checked on the way.
    unsafe {
        block_product_in_f32(dims, output(dims, out), a, b, false, transposed_comes_first([dims[1], dims[2]], a))
    };
}

/// All of it; `[m, n]` must fit.
fn output([m, n, _]: [usize; 3], out: &mut [f32]) -> Output {
    assert!(m * n <= out.len(), "the output is too small");
    Output { first: out.as_mut_ptr(), stride: n }
}

/// Whether a product takes less time if `b^T a^T` is computed and transposed: the crate packs `a` number by number where it
/// lies along its columns, but by vectors in that order. Asked of the whole product, not of a block of it.
fn transposed_comes_first([n, k]: [usize; 2], a: Operand) -> bool {
    a.row_stride == 1 && a.column_stride > 1 && n < LEAST_WIDTH && k >= LEAST_DEPTH * n
}

/// SAFETY: the output has `m` rows of `n` elements that nobody else uses.
unsafe fn block_product_in_f32(
    dims @ [m, n, k]: [usize; 3],
    out: Output,
    a: Operand,
    b: Operand,
    accumulate: bool,
    transposed_first: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    if !transposed_first {
        // SAFETY: the caller's promise.
        return unsafe { kernels_product(dims, out, a, b, accumulate) };
    }
    thread_local!(static TRANSPOSED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) });
    let mut transposed = TRANSPOSED.take();
    transposed.resize(n * m, 0.0);
    let to = Output { first: transposed.as_mut_ptr(), stride: m };
    // SAFETY: there are n rows of m elements, and of the output the caller promises it.
    unsafe {
        kernels_product([n, m, k], to, b.flipped(), a.flipped(), false);
        put_transposed([m, n], &transposed, out, accumulate);
    }
    TRANSPOSED.set(transposed);
}

/// `out [m, n] = from^T`, or `out += from^T`; `from [n, m]`.
///
/// SAFETY: as of [`block_product_in_f32`].
unsafe fn put_transposed([m, n]: [usize; 2], from: &[f32], out: Output, accumulate: bool) {
    /// Rows and columns at a time, whose lines stay in the first-level cache.
    const SIDE: usize = 16;
    for (first_row, first_column) in (0..m).step_by(SIDE).flat_map(|i| (0..n).step_by(SIDE).map(move |j| (i, j))) {
        let columns = SIDE.min(n - first_column);
        for row in first_row..m.min(first_row + SIDE) {
            // SAFETY: the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(out.from(row, first_column).first, columns) };
            for (j, out) in out.iter_mut().enumerate() {
                let sum = from[(first_column + j) * m + row];
                *out = if accumulate { *out + sum } else { sum };
            }
        }
    }
}

/// As [`block_product_in_f32`], none of the dimensions of the output 0, by the kernels of the crate as they are.
///
/// SAFETY: as there.
unsafe fn kernels_product([m, n, k]: [usize; 3], out: Output, a: Operand, b: Operand, accumulate: bool) {
    let (Numbers::F32(left), Numbers::F32(right)) = (a.numbers, b.numbers) else { unreachable!("widened before") };
    assert!(a.len(m, k) <= left.len() && b.len(k, n) <= right.len(), "an operand is too small");
    let product = gemm_f32::gemm::f32::get_gemm_fn();
    // It wants contiguous columns, so it is given the transposed product, out^T = b^T a^T.
    // SAFETY: the operands were just checked against their slices, the output is the caller's promise.
    unsafe {
        product(
            n,
            m,
            k,
            out.first,
            out.stride as isize,
            1,
            accumulate,
            right.as_ptr(),
            b.row_stride as isize,
            b.column_stride as isize,
            left.as_ptr(),
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
    use super::super::matrix::nearest;
    use super::*;
    use crate::random::{Random, Stream};

    #[test]
    fn products_over_block_borders_agree_with_plain_loops() {
        let mut random = Random::new(1, Stream::Weights, 0);
        let mut matrix = |n: usize| (0..n).map(|_| random.uniform() - 0.5).collect::<Vec<f32>>();
        for (m, n, k) in [(1, 1, 1), (257, 1030, 5), (3, 2, 300), (257, 1030, 260), (530, 35, 150)] {
            let (a, b) = (matrix(m * k), matrix(n * k));
            let [a_bf16, b_bf16] = [&a, &b].map(|x| x.iter().map(|&x| nearest(x)).collect::<Vec<_>>());
            let kinds: [[Numbers; 2]; 3] = [
                [(&*a).into(), (&*b).into()],
                [Numbers::Bf16(&a_bf16), Numbers::Bf16(&b_bf16)],
                [Numbers::new(&a, true), Numbers::new(&b, true)],
            ];
            let ways = [(false, false), (false, true), (true, false), (true, true)];
            for ((kind, [of_a, of_b]), way) in
                kinds.into_iter().enumerate().flat_map(|kind| ways.map(|way| (kind, way)))
            {
                let (a_is_transposed, accumulate) = way;
                let mut out = vec![1.0; m * n];
                let left = if a_is_transposed { Operand::transposed(of_a, m) } else { Operand::rows(of_a, k) };
                product([m, n, k], &mut out, left, Operand::transposed(of_b, k), accumulate);
                let number = |x: f32| if kind == 0 { x } else { nearest(x).to_f32() };
                let a = |i: usize, l: usize| number(a[if a_is_transposed { l * m + i } else { i * k + l }]);
                for (i, j) in [(0, 0), (m - 1, n - 1), (m / 2, n / 2), (m - 1, 0), (0, n - 1)] {
                    let sum: f32 = (0..k).map(|l| a(i, l) * number(b[j * k + l])).sum();
                    let expected = if accumulate { 1.0 + sum } else { sum };
                    let found = out[i * n + j];
                    assert!((found - expected).abs() < 1e-5, "{m} {n} {k}, kind {kind}, {way:?}, at {i} {j}");
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let mut random = Random::new(2, Stream::Weights, 0);
        for (m, n, k) in [(600, 1500, 96), (1025, 257, 1030), (130, 2049, 700), (513, 70, 1500), (600, 511, 2100)] {
            let a: Vec<f32> = (0..m * k).map(|_| random.uniform() - 0.5).collect();
            let b: Vec<f32> = (0..n * k).map(|_| random.uniform() - 0.5).collect();
            for left in [Operand::rows(&*a, k), Operand::transposed(&*a, m)] {
                let run = |threads| {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let mut out = vec![0.0; m * n];
                    pool.install(|| product([m, n, k], &mut out, left, Operand::transposed(&*b, k), false));
                    out
                };
                let alone = run(1);
                for threads in [2, 5, 16] {
                    assert!(run(threads) == alone, "{m} x {n} x {k}, {threads} threads");
                }
            }
        }
    }

    #[test]
    fn outputs_are_cut_for_all_threads_but_not_into_slivers() {
        assert_eq!(blocks([4096, 768], 1), [4, 1]);
        assert_eq!(blocks([4096, 768], 4), [4, 1]);
        assert_eq!(blocks([4096, 768], 32), [11, 3]);
        assert_eq!(blocks([512, 3072], 4), [1, 4]);
        assert_eq!(blocks([128, 128], 32), [1, 1]);
        assert_eq!(blocks([100_000, 128], 4), [98, 1]);
        assert_eq!(blocks([0, 5], 4), [0, 1]);
    }
}
