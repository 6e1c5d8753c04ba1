//! Dense f32 matrix products on tiles of bf16 (AMX), about 1.4 times as fast as f32's own instructions.
//!
//! A number is the sum of three of bf16, `x = x₁ + x₂ + x₃`, each the nearest to what the ones before leave; 8 bits each are
//! the 24 of f32. Of the nine products of two such sums six are added, in f32: all but `a₂b₃`, `a₃b₂` and `a₃b₃`, which
//! come to at most `2⁻²³ |a b|`, and to a tenth of that as a rule; to round a product to f32 takes up to `2⁻²⁴ |a b|`.
//! (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision
//! computations", 2019; oneMKL's `FLOAT_TO_BF16X3`.) Tiles take numbers below `2⁻¹²⁶` for zero, so that what is below
//! `2⁻¹¹⁰` loses its last bits; an infinite number times any is not a number, and those above 3.39e38 are infinite.

use super::amx::{self, load, multiply, store, zero, Tiles, ROW_BYTES, TILE};
use super::gemm::Operand;
use std::arch::x86_64::*;
use std::cell::Cell;

/// Rows and columns of the output that are summed at once: two tiles by two.
const SIDE: usize = 2 * TILE;
/// Numbers of a tile's row.
const DEPTH: usize = ROW_BYTES / 2;
/// Numbers of bf16 whose sum is one of f32.
const PARTS: usize = 3;
/// Rows of the left matrix, and steps of each, that are packed at a time: they stay in the second-level cache.
const ROWS: usize = 256;
const STEPS: usize = 24;
/// Columns of the right matrix that are packed at a time, for all rows.
const COLUMNS: usize = 1024;
/// Columns of the output that are written at a time, so that it is much of a row.
const PANEL: usize = 128;
/// Below this a dimension hardly pays for packing the other two; and small models, as the embedded one, give the same bits
/// on CPUs with tiles and without.
const LEAST: usize = 256;

/// [`DEPTH`] numbers of [`SIDE`] lines (rows of the left matrix, columns of the right one): tiles `[part][half of the
/// lines]`. A word holds numbers `i` and `i + 16` of a line. Of the left matrix a tile's row is a line; of the right one it
/// is word `i` of all lines.
#[derive(Clone, Copy)]
struct Step([[[__m512i; TILE]; 2]; PARTS]);

/// Sums of [`SIDE`] rows by as many columns: `[half of the rows * 2 + half of the columns][row]`.
#[derive(Clone, Copy)]
struct Block([[__m512; TILE]; 4]);

/// A thread's packed matrices and sums, kept for its next product.
#[derive(Default)]
struct Buffers {
    left: Vec<Step>,
    right: Vec<Step>,
    sums: Vec<Block>,
}

thread_local! {
    static KEPT: Cell<Buffers> = Cell::default();
}

/// Whether this machine multiplies matrices of this size faster so.
pub(super) fn is_faster([m, n, k]: [usize; 3]) -> bool {
    m.min(n).min(k) >= LEAST && is_available()
}

/// Tiles, and vectors to pack them with.
fn is_available() -> bool {
    amx::is_available() && std::arch::is_x86_feature_detected!("avx512f")
}

/// `out = a · b`, or `out += a · b`; `a [m, k]`, `b [k, n]`.
///
/// # Safety
/// The machine [`is_available`]; `out` points at `m` rows of `n` numbers, `stride` apart, that nobody else uses.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(
    [m, n, k]: [usize; 3],
    out: *mut f32,
    stride: usize,
    a: Operand,
    b: Operand,
    accumulate: bool,
) {
    let Some(_tiles) = Tiles::new() else { unreachable!("the caller's promise") };
    let mut buffers = KEPT.take();
    let Buffers { left, right, sums } = &mut buffers;
    for column in (0..n).step_by(COLUMNS) {
        let columns = COLUMNS.min(n - column);
        for first in (0..k).step_by(STEPS * DEPTH) {
            let depth = (STEPS * DEPTH).min(k - first);
            let steps = depth.div_ceil(DEPTH);
            let right = pack(&Lines::columns_of(b.from(first, column), columns, depth), true, right);
            for row in (0..m).step_by(ROWS) {
                let rows = ROWS.min(m - row);
                let left = pack(&Lines::rows_of(a.from(row, first), rows, depth), false, left);
                for panel in (0..columns).step_by(PANEL) {
                    let columns = PANEL.min(columns - panel);
                    sums.clear();
                    for right in right[panel / SIDE * steps..].chunks_exact(steps).take(columns.div_ceil(SIDE)) {
                        for left in left.chunks_exact(steps) {
                            sums.push(block_of(left, right));
                        }
                    }
                    // SAFETY: these rows and columns of the caller's output.
                    unsafe {
                        let out = out.add(row * stride + column + panel);
                        write(sums, [rows, columns], out, stride, accumulate || first > 0);
                    }
                }
            }
        }
    }
    KEPT.set(buffers);
}

/// Lines of a matrix: number `k` of line `i` is at `i * line_stride + k * k_stride`; one of the strides is 1.
struct Lines<'a> {
    data: &'a [f32],
    lines: usize,
    depth: usize,
    line_stride: usize,
    k_stride: usize,
}

impl<'a> Lines<'a> {
    fn rows_of(matrix: Operand<'a>, lines: usize, depth: usize) -> Self {
        Lines { data: matrix.data, lines, depth, line_stride: matrix.row_stride, k_stride: matrix.column_stride }
    }

    fn columns_of(matrix: Operand<'a>, lines: usize, depth: usize) -> Self {
        Lines { data: matrix.data, lines, depth, line_stride: matrix.column_stride, k_stride: matrix.row_stride }
    }

    /// 16 numbers from `k` on of 16 lines from `line` on, zeros where there are no more: of a line after the other, or
    /// (`across`) of a `k` after the other.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn square(&self, line: usize, k: usize, across: bool) -> [__m512; TILE] {
        let (lines, depth) = (self.lines.saturating_sub(line), self.depth.saturating_sub(k));
        let along_k = self.k_stride == 1;
        let (vectors, lanes, stride) =
            if along_k { (lines, depth, self.line_stride) } else { (depth, lines, self.k_stride) };
        let first = self.data.as_ptr().wrapping_add(line * self.line_stride + k * self.k_stride);
        let mut square = [_mm512_setzero_ps(); TILE];
        for (i, vector) in square.iter_mut().enumerate().take(vectors) {
            // SAFETY: `pack` has seen that all lines are there; what is masked is not read.
            *vector = unsafe { _mm512_maskz_loadu_ps(first_lanes(lanes), first.wrapping_add(i * stride)) };
        }
        if along_k == across {
            transpose(&mut square);
        }
        square
    }
}

/// Packs lines: `[side][step]`, in memory that only grows.
#[target_feature(enable = "avx512f")]
fn pack<'a>(lines: &Lines, across: bool, room: &'a mut Vec<Step>) -> &'a [Step] {
    let last = (lines.lines - 1) * lines.line_stride + (lines.depth - 1) * lines.k_stride;
    assert!(last < lines.data.len() && lines.line_stride.min(lines.k_stride) == 1, "the operand is too small");
    let (sides, steps) = (lines.lines.div_ceil(SIDE), lines.depth.div_ceil(DEPTH));
    if room.len() < sides * steps {
        room.resize(sides * steps, Step([[[_mm512_setzero_si512(); TILE]; 2]; PARTS]));
    }
    let packed = &mut room[..sides * steps];
    for n in 0..2 * sides * steps {
        // In the order of memory.
        let (tile, step) =
            if lines.k_stride == 1 { (n / steps, n % steps) } else { (n % (2 * sides), n / (2 * sides)) };
        let first = lines.square(tile * TILE, step * DEPTH, across);
        let second = lines.square(tile * TILE, step * DEPTH + TILE, across);
        let Step(parts) = &mut packed[tile / 2 * steps + step];
        for i in 0..TILE {
            for (part, words) in parts.iter_mut().zip(split(first[i], second[i])) {
                part[tile % 2][i] = words;
            }
        }
    }
    packed
}

/// A mask of the first lanes of 16.
fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(TILE)) - 1) as __mmask16
}

/// The three parts of two vectors: of the first in the lower halves of words, of the second in the upper ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn split(mut first: __m512, mut second: __m512) -> [__m512i; PARTS] {
    // A number of bf16 is the upper half of one of f32; what lies half way goes away from zero. After two parts there is
    // nothing in the lower half.
    let (half, upper) = (_mm512_set1_epi32(1 << 15), _mm512_set1_epi32(-1 << 16));
    let mut parts = [_mm512_setzero_si512(); PARTS];
    for part in &mut parts {
        let a = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(first), half), upper);
        let b = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(second), half), upper);
        *part = _mm512_or_si512(_mm512_srli_epi32::<16>(a), b);
        first = _mm512_sub_ps(first, _mm512_castsi512_ps(a));
        second = _mm512_sub_ps(second, _mm512_castsi512_ps(b));
    }
    parts
}

/// Transposes 16 x 16 numbers: squares of 2 x 2, of 4 x 4, then the quarters of registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512; TILE]) {
    // Without loops, whose arrays the compiler would keep in memory.
    macro_rules! each {
        ($($i:literal)*, $step:ident) => { $($step!($i);)* };
    }
    let mut a = [_mm512_setzero_pd(); TILE];
    let mut b = a;
    macro_rules! two {
        ($i:literal) => {
            a[2 * $i] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2 * $i], rows[2 * $i + 1]));
            a[2 * $i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2 * $i], rows[2 * $i + 1]));
        };
    }
    each!(0 1 2 3 4 5 6 7, two);
    macro_rules! four {
        ($i:literal) => {
            b[4 * $i] = _mm512_unpacklo_pd(a[4 * $i], a[4 * $i + 2]);
            b[4 * $i + 1] = _mm512_unpackhi_pd(a[4 * $i], a[4 * $i + 2]);
            b[4 * $i + 2] = _mm512_unpacklo_pd(a[4 * $i + 1], a[4 * $i + 3]);
            b[4 * $i + 3] = _mm512_unpackhi_pd(a[4 * $i + 1], a[4 * $i + 3]);
        };
    }
    each!(0 1 2 3, four);
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    macro_rules! eight {
        ($i:literal) => {
            a[$i] = _mm512_shuffle_f64x2::<EVEN>(b[$i], b[4 + $i]);
            a[4 + $i] = _mm512_shuffle_f64x2::<ODD>(b[$i], b[4 + $i]);
            a[8 + $i] = _mm512_shuffle_f64x2::<EVEN>(b[8 + $i], b[12 + $i]);
            a[12 + $i] = _mm512_shuffle_f64x2::<ODD>(b[8 + $i], b[12 + $i]);
        };
    }
    each!(0 1 2 3, eight);
    macro_rules! sixteen {
        ($i:literal) => {
            rows[$i] = _mm512_castpd_ps(_mm512_shuffle_f64x2::<EVEN>(a[$i], a[8 + $i]));
            rows[8 + $i] = _mm512_castpd_ps(_mm512_shuffle_f64x2::<ODD>(a[$i], a[8 + $i]));
        };
    }
    each!(0 1 2 3 4 5 6 7, sixteen);
}

/// The product of packed lines. The caller has [`Tiles`].
#[target_feature(enable = "avx512f")]
fn block_of(left: &[Step], right: &[Step]) -> Block {
    // tmm0 to tmm3 are sums; tmm4 and tmm5 two tiles of the left matrix, tmm6 and tmm7 of the right one.
    macro_rules! load_tile {
        ($tile:tt, $step:ident, $part:literal, $half:literal) => {
            load!($tile, $step.0[$part][$half].as_ptr(), ROW_BYTES)
        };
    }
    macro_rules! add {
        (0 0) => {
            multiply!("tdpbf16ps", "tmm0", "tmm4", "tmm6")
        };
        (0 1) => {
            multiply!("tdpbf16ps", "tmm1", "tmm4", "tmm7")
        };
        (1 0) => {
            multiply!("tdpbf16ps", "tmm2", "tmm5", "tmm6")
        };
        (1 1) => {
            multiply!("tdpbf16ps", "tmm3", "tmm5", "tmm7")
        };
    }
    let mut block = Block([[_mm512_setzero_ps(); TILE]; 4]);
    // SAFETY: this thread has tiles; each step, and the block, are whole tiles.
    unsafe {
        zero!("tmm0", "tmm1", "tmm2", "tmm3");
        for (left, right) in left.iter().zip(right) {
            // The products of what is there; a tile of another part is loaded as soon as its forerunner has been read.
            macro_rules! then_left {
                ($part:literal) => {
                    add!(0 0);
                    add!(0 1);
                    load_tile!("tmm4", left, $part, 0);
                    add!(1 0);
                    add!(1 1);
                    load_tile!("tmm5", left, $part, 1);
                };
            }
            macro_rules! then_right {
                ($part:literal) => {
                    add!(0 0);
                    add!(1 0);
                    load_tile!("tmm6", right, $part, 0);
                    add!(0 1);
                    add!(1 1);
                    load_tile!("tmm7", right, $part, 1);
                };
            }
            load_tile!("tmm4", left, 0, 0);
            load_tile!("tmm6", right, 2, 0);
            load_tile!("tmm5", left, 0, 1);
            load_tile!("tmm7", right, 2, 1);
            then_right!(1); // a₁b₃
            then_left!(1); // a₁b₂
            then_right!(0); // a₂b₂
            then_left!(0); // a₂b₁
            then_left!(2); // a₁b₁
            add!(0 0); // a₃b₁
            add!(0 1);
            add!(1 0);
            add!(1 1);
        }
        let [tile0, tile1, tile2, tile3] = &mut block.0;
        store!("tmm0", tile0.as_mut_ptr(), ROW_BYTES);
        store!("tmm1", tile1.as_mut_ptr(), ROW_BYTES);
        store!("tmm2", tile2.as_mut_ptr(), ROW_BYTES);
        store!("tmm3", tile3.as_mut_ptr(), ROW_BYTES);
    }
    block
}

/// Puts or (`accumulate`) adds sums in their place, or those that have one.
///
/// # Safety
/// `out` points at `rows` rows of `columns` numbers, `stride` apart, that nobody else uses.
#[target_feature(enable = "avx512f")]
unsafe fn write(sums: &[Block], [rows, columns]: [usize; 2], out: *mut f32, stride: usize, accumulate: bool) {
    let sides = rows.div_ceil(SIDE);
    for row in 0..rows {
        for column in (0..columns).step_by(TILE) {
            let Block(tiles) = &sums[column / SIDE * sides + row / SIDE];
            let sums = tiles[row / TILE % 2 * 2 + column / TILE % 2][row % TILE];
            let (mask, out) = (first_lanes(columns - column), out.wrapping_add(row * stride + column));
            // SAFETY: what is masked is neither read nor written.
            unsafe {
                let before = _mm512_maskz_loadu_ps(if accumulate { mask } else { 0 }, out);
                _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(before, sums));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    /// `[rows, columns]`, as it is or transposed in memory.
    struct Matrix {
        data: Vec<f32>,
        columns: usize,
        transposed: bool,
    }

    impl Matrix {
        fn new(rows: usize, columns: usize, transposed: bool, of: impl Fn(usize, usize) -> f32) -> Self {
            let mut data = vec![0.0; rows * columns];
            for i in 0..rows {
                for j in 0..columns {
                    data[if transposed { j * rows + i } else { i * columns + j }] = of(i, j);
                }
            }
            Matrix { data, columns: if transposed { rows } else { columns }, transposed }
        }

        fn operand(&self) -> Operand<'_> {
            if self.transposed {
                Operand::transposed(&self.data, self.columns)
            } else {
                Operand::rows(&self.data, self.columns)
            }
        }
    }

    /// None on a machine without tiles.
    fn product_of([m, n, k]: [usize; 3], a: &Matrix, b: &Matrix, before: Option<f32>) -> Option<Vec<f32>> {
        const BEYOND: f32 = 7.0;
        let mut out = vec![before.unwrap_or(f32::NAN); m * n];
        out.resize(m * n + SIDE, BEYOND);
        is_available().then(|| {
            // SAFETY: the output has so many numbers, and more.
            unsafe { product([m, n, k], out.as_mut_ptr(), n, a.operand(), b.operand(), before.is_some()) };
            assert!(out.drain(m * n..).all(|x| x == BEYOND), "{m} x {n} x {k}: written beyond the output");
            out
        })
    }

    /// Each number has two parts, and each sum is below 2²⁴.
    #[test]
    fn sums_of_integers_are_exact_over_all_borders_and_in_all_layouts() {
        let integer = |i: usize, j: usize| match (i * 7919 + j * 104_729) % 31 {
            n @ 0..6 => [257.0, -261.0, 299.0, 1.0, -2.0, -275.0][n],
            _ => 0.0,
        };
        for dims in [[1, 1, 1], [64, 64, 64], [300, 1100, 70], [65, 146, 801], [257, 79, 65]] {
            let [m, n, k] = dims;
            let expected: Vec<f32> = (0..m * n)
                .map(|at| {
                    (0..k).map(|l| f64::from(integer(at / n, l)) * f64::from(integer(l + 5, at % n))).sum::<f64>()
                })
                .map(|sum| sum as f32)
                .collect();
            for (of_a, of_b) in [(false, false), (false, true), (true, false), (true, true)] {
                let a = Matrix::new(m, k, of_a, integer);
                let b = Matrix::new(k, n, of_b, |i, j| integer(i + 5, j));
                let Some(found) = product_of(dims, &a, &b, None) else { return };
                assert!(found == expected, "{dims:?}, transposed {of_a} {of_b}");
                let found = product_of(dims, &a, &b, Some(3.0)).unwrap();
                assert!(found.iter().zip(&expected).all(|(x, y)| *x == y + 3.0), "{dims:?}, added");
            }
        }
    }

    #[test]
    fn a_number_is_the_sum_of_parts_each_the_nearest_to_what_is_left() {
        if !is_available() {
            return;
        }
        let mut random = Random::new(3, Stream::Weights, 0);
        for _ in 0..1000 {
            let numbers = [(); 2].map(|()| random.uniform() - 0.5);
            // SAFETY: the machine has the vectors; they are as large as the arrays.
            let parts: [[u32; TILE]; PARTS] = unsafe {
                let words = split(_mm512_set1_ps(numbers[0]), _mm512_set1_ps(numbers[1]));
                std::mem::transmute::<[__m512i; PARTS], [[u32; TILE]; PARTS]>(words)
            };
            for (x, shift) in numbers.into_iter().zip([16, 0]) {
                let mut left = x;
                for part in parts {
                    let part = f32::from_bits(part[9] << shift & 0xffff_0000);
                    assert!((left - part).abs() <= left.abs() / 256.0, "{part} of {left} of {x}");
                    left -= part;
                }
                assert_eq!(left, 0.0, "of {x}");
            }
        }
    }

    #[test]
    fn numbers_times_one_are_themselves_in_all_their_bits() {
        let mut random = Random::new(1, Stream::Weights, 0);
        let numbers: Vec<f32> = (0..64 * 64).map(|i| (random.uniform() - 0.5) * 2f32.powi(i % 60 - 30)).collect();
        let numbers = Matrix { data: numbers, columns: 64, transposed: false };
        let ones = Matrix::new(64, 64, false, |i, j| f32::from(u8::from(i == j)));
        let Some(found) = product_of([64; 3], &numbers, &ones, None) else { return };
        assert!(found == numbers.data, "on the left");
        assert!(product_of([64; 3], &ones, &numbers, None).unwrap() == numbers.data, "on the right");
    }

    #[test]
    fn sums_are_nearer_than_those_of_f32() {
        let dims @ [m, n, k] = [64, 64, 1000];
        let mut random = Random::new(2, Stream::Weights, 0);
        let mut numbers = |n: usize| (0..n).map(|_| random.uniform() - 0.5).collect::<Vec<_>>();
        let a = Matrix { data: numbers(m * k), columns: k, transposed: false };
        let b = Matrix { data: numbers(n * k), columns: k, transposed: true };
        let Some(found) = product_of(dims, &a, &b, None) else { return };
        let mut in_f32 = vec![0.0; m * n];
        super::super::gemm::product_in_f32(dims, &mut in_f32, a.operand(), b.operand());
        let exact = |at: usize| -> f64 {
            let (a, b) = (&a.data[at / n * k..][..k], &b.data[at % n * k..][..k]);
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let error = |found: &[f32]| {
            found.iter().enumerate().map(|(at, &x)| (f64::from(x) - exact(at)).powi(2)).sum::<f64>().sqrt()
        };
        let (found, in_f32) = (error(&found), error(&in_f32));
        assert!(found < 0.75 * in_f32, "{found:e}, in f32 {in_f32:e}");
    }

    #[test]
    fn what_is_not_finite_stays_so_and_among_its_own() {
        for bad in [f32::NAN, f32::INFINITY, -f32::MAX] {
            let a = Matrix::new(64, 64, false, |i, j| if (i, j) == (5, 40) { bad } else { 1.0 });
            let b = Matrix::new(64, 64, false, |_, _| 1.5);
            let Some(found) = product_of([64; 3], &a, &b, None) else { return };
            for (i, row) in found.chunks_exact(64).enumerate() {
                assert!(row.iter().all(|x| if i == 5 { !x.is_finite() } else { *x == 96.0 }), "{bad} in row {i}");
            }
        }
    }
}
