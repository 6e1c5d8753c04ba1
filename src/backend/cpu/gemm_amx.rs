//! Dense matrix products on tiles of bf16 (AMX), of f32 and of bf16.
//!
//! A number of f32 is the sum of three of bf16, `x = x₁ + x₂ + x₃`, each the nearest to what the ones before leave; 8 bits
//! each are the 24 of f32. Of the nine products of two such sums six are added, in f32: all but `a₂b₃`, `a₃b₂` and
//! `a₃b₃`, which come to at most `2⁻²³ |a b|`, and to a tenth of that as a rule; to round a product to f32 takes up to
//! `2⁻²⁴ |a b|`. (Henry, Tang and Heinecke, "Leveraging the bfloat16 artificial intelligence datatype for
//! higher-precision computations", 2019; oneMKL's `FLOAT_TO_BF16X3`.) Of bf16, one product is all. Tiles take numbers
//! below `2⁻¹²⁶` for zero, so that what is below `2⁻¹¹⁰` loses its last bits; an infinite number times any is not a
//! number, and those of f32 above 3.39e38 are infinite.
//!
//! The right matrix is packed for all its columns, by all threads; then each thread packs rows of the left one and
//! multiplies them with all that. So the packing of a number is paid back by `m`, or by `n`, products.

use super::amx::{self, load, multiply, store, zero, Tiles, ROW_BYTES, TILE};
use super::gemm::{Block, Operand, Output};
use super::matrix::Numbers;
use super::pieces;
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

/// Rows and columns of the output that are summed at once: two tiles by two.
const SIDE: usize = 2 * TILE;
/// Numbers of a tile's row: a step.
const DEPTH: usize = ROW_BYTES / 2;
/// Numbers of bf16 whose sum is one of f32.
const PARTS: usize = 3;
/// Rows of the left matrix that are packed at a time, and pairs of tiles of [`SIDE`] of them: they stay in the
/// second-level cache.
const ROWS: usize = 256;
const PAIRS: usize = 24 * PARTS;
/// Columns of the right matrix that are packed at a time, and pairs of tiles of them all.
const COLUMNS: usize = 4096;
const RIGHT_PAIRS: usize = 12 << 10;
/// Columns that are packed by one task, and that are written at a time: much of a row of either matrix.
const PANEL: usize = 128;
/// Below this a dimension hardly pays for packing the other two (rows do with half, where those are large); and small
/// models, as the embedded one, give the same bits on CPUs with tiles and without.
const LEAST: usize = 256;

/// A part of [`DEPTH`] numbers of [`SIDE`] lines (rows of the left matrix, columns of the right one): `[half of the
/// lines]`. A word holds numbers `i` and `i + 16` of a line. Of the left matrix a tile's row is a line; of the right one it
/// is word `i` of all lines. Packed lines are `[side][step][part]`.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Pair([[[u32; TILE]; TILE]; 2]);

/// Sums of [`SIDE`] rows by as many columns: `[half of the rows * 2 + half of the columns][row]`.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Sums([[[f32; TILE]; TILE]; 4]);

// Packed matrices and sums are kept for the thread's next product.
thread_local! {
    static RIGHT: Cell<Vec<Pair>> = Cell::default();
    static LEFT: Cell<(Vec<Pair>, Vec<Sums>)> = Cell::default();
}

/// Whether this machine multiplies matrices of this size faster so.
pub(super) fn is_faster([m, n, k]: [usize; 3]) -> bool {
    let least_rows = if n.min(k) >= 2 * LEAST { LEAST / 2 } else { LEAST };
    m >= least_rows && n.min(k) >= LEAST && is_available()
}

/// Tiles, and vectors to pack them with.
fn is_available() -> bool {
    use std::arch::is_x86_feature_detected as detected;
    amx::is_available() && detected!("avx512f") && detected!("avx512bw") && detected!("avx512vl")
}

/// `out = a · b`, or `out += a · b`; `a [m, k]`, `b [k, n]`, none of them 0, in about so many tasks, on which bits do
/// not depend; `epilogue` sees every element once.
///
/// # Safety
/// The machine [`is_available`]; the output has `m` rows of `n` numbers that nobody else uses.
pub(super) unsafe fn product(
    dims: [usize; 3],
    out: Output,
    a: Operand,
    b: Operand,
    accumulate: bool,
    tasks: usize,
    epilogue: impl Fn(Block) + Sync,
) {
    let is_bf16 = a.numbers.are_bf16() && b.numbers.are_bf16();
    let product = Product { dims, out, a, b, accumulate, tasks, epilogue };
    // SAFETY: the caller's promise.
    unsafe {
        if is_bf16 {
            product.run::<1>();
        } else {
            product.run::<PARTS>();
        }
    }
}

struct Product<'a, E> {
    dims: [usize; 3],
    out: Output,
    a: Operand<'a>,
    b: Operand<'a>,
    accumulate: bool,
    /// Wanted to keep all threads busy; 1 is done on this one.
    tasks: usize,
    epilogue: E,
}

/// What of the right matrix is packed at a time.
struct Part {
    columns: Range<usize>,
    steps: Range<usize>,
}

impl<E: Fn(Block) + Sync> Product<'_, E> {
    /// With so many parts of a number.
    ///
    /// # Safety
    /// As of [`product`].
    unsafe fn run<const P: usize>(&self) {
        let [_, n, k] = self.dims;
        let most_steps = RIGHT_PAIRS / (n.min(COLUMNS).div_ceil(SIDE) * P);
        let most_steps = most_steps / (PAIRS / P) * (PAIRS / P);
        let mut room = RIGHT.take();
        for columns in pieces(0..n, COLUMNS) {
            for steps in pieces(0..k.div_ceil(DEPTH), most_steps) {
                let part = Part { columns: columns.clone(), steps };
                let right = grown(&mut room, columns.len().div_ceil(SIDE) * part.steps.len() * P);
                // SAFETY: the caller's promise.
                unsafe {
                    self.pack_right::<P>(&part, right);
                    self.multiply::<P>(&part, right);
                }
            }
        }
        RIGHT.set(room);
    }

    /// SAFETY: as of [`product`].
    unsafe fn pack_right<const P: usize>(&self, part: &Part, right: &mut [Pair]) {
        let numbers = self.numbers_of(&part.steps);
        let panel = |(panel, pairs): (usize, &mut [Pair])| {
            let first = panel * PANEL;
            let (columns, b) = (PANEL.min(part.columns.len() - first), self.b);
            let b = b.from(numbers.start, part.columns.start + first);
            // SAFETY: the caller's promise.
            unsafe { pack::<P>(&Lines::columns_of(b, columns, numbers.len()), true, pairs) };
        };
        let pairs = PANEL / SIDE * part.steps.len() * P;
        if self.tasks == 1 {
            right.chunks_mut(pairs).enumerate().for_each(panel);
        } else {
            right.par_chunks_mut(pairs).enumerate().for_each(panel);
        }
    }

    /// SAFETY: as of [`product`].
    unsafe fn multiply<const P: usize>(&self, part: &Part, right: &[Pair]) {
        let row_blocks: Vec<_> = pieces(0..self.dims[0], ROWS).collect();
        // Each block of columns packs all rows again.
        let panels = part.columns.len().div_ceil(PANEL);
        let panels = panels.div_ceil(self.tasks.div_ceil(row_blocks.len()).min(panels));
        let column_blocks: Vec<_> = pieces(part.columns.clone(), panels * PANEL).collect();
        let task = |task: usize| {
            let (rows, columns) = (&row_blocks[task % row_blocks.len()], &column_blocks[task / row_blocks.len()]);
            // SAFETY: the caller's promise; each task has an output of its own.
            unsafe { self.block::<P>(rows, columns, part, right) };
        };
        let tasks = 0..row_blocks.len() * column_blocks.len();
        if self.tasks == 1 {
            tasks.for_each(task);
        } else {
            tasks.into_par_iter().for_each(task);
        }
    }

    /// SAFETY: as of [`product`], for these rows and columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn block<const P: usize>(&self, rows: &Range<usize>, columns: &Range<usize>, part: &Part, right: &[Pair]) {
        let Some(_tiles) = Tiles::new() else { unreachable!("the caller's promise") };
        let (mut room, mut sums) = LEFT.take();
        let of_side = part.steps.len() * P;
        for steps in pieces(part.steps.clone(), PAIRS / P) {
            let numbers = self.numbers_of(&steps);
            let left = grown(&mut room, rows.len().div_ceil(SIDE) * steps.len() * P);
            pack::<P>(&Lines::rows_of(self.a.from(rows.start, numbers.start), rows.len(), numbers.len()), false, left);
            for panel in pieces(columns.clone(), PANEL) {
                let first_side = (panel.start - part.columns.start) / SIDE;
                let sums = grown(&mut sums, panel.len().div_ceil(SIDE) * rows.len().div_ceil(SIDE));
                for (side, sums) in sums.chunks_exact_mut(rows.len().div_ceil(SIDE)).enumerate() {
                    let right = &right[(first_side + side) * of_side + (steps.start - part.steps.start) * P..];
                    for (left, sums) in left.chunks_exact(steps.len() * P).zip(sums) {
                        sum_products::<P>(left, &right[..steps.len() * P], sums);
                    }
                }
                // SAFETY: the caller's promise.
                unsafe { self.write(rows, &panel, sums, &numbers) };
            }
        }
        LEFT.set((room, sums));
    }

    /// Puts or adds the sums over these numbers in their place; if they are the last, hands it on.
    ///
    /// SAFETY: as of [`product`], for these rows and columns.
    #[target_feature(enable = "avx512f")]
    unsafe fn write(&self, rows: &Range<usize>, columns: &Range<usize>, sums: &[Sums], numbers: &Range<usize>) {
        let sides = rows.len().div_ceil(SIDE);
        let (accumulate, is_last) = (self.accumulate || numbers.start > 0, numbers.end == self.dims[2]);
        for (tile, of_tile) in pieces(rows.clone(), TILE).enumerate() {
            let out = self.out.from(of_tile.start, columns.start);
            for row in 0..of_tile.len() {
                for column in (0..columns.len()).step_by(TILE) {
                    let Sums(tiles) = &sums[column / SIDE * sides + tile / 2];
                    let sums = &tiles[tile % 2 * 2 + column / TILE % 2][row];
                    let (mask, out) = (first_lanes(columns.len() - column), out.from(row, column).first);
                    // SAFETY: what is masked is neither read nor written; sums are aligned.
                    unsafe {
                        let before = _mm512_maskz_loadu_ps(if accumulate { mask } else { 0 }, out);
                        _mm512_mask_storeu_ps(out, mask, _mm512_add_ps(before, _mm512_load_ps(sums.as_ptr())));
                    }
                }
            }
            if is_last {
                let (row, column) = (of_tile.start, columns.start);
                (self.epilogue)(Block { row, column, rows: of_tile.len(), columns: columns.len(), out });
            }
        }
    }

    /// Those of steps.
    fn numbers_of(&self, steps: &Range<usize>) -> Range<usize> {
        steps.start * DEPTH..self.dims[2].min(steps.end * DEPTH)
    }
}

/// Room for so many, in memory that only grows.
fn grown<T: Default + Copy>(room: &mut Vec<T>, len: usize) -> &mut [T] {
    if room.len() < len {
        room.resize(len, T::default());
    }
    &mut room[..len]
}

/// Lines of a matrix: number `k` of line `i` is at `i * line_stride + k * k_stride`; one of the strides is 1.
struct Lines<'a> {
    numbers: Numbers<'a>,
    lines: usize,
    depth: usize,
    line_stride: usize,
    k_stride: usize,
}

impl<'a> Lines<'a> {
    fn rows_of(matrix: Operand<'a>, lines: usize, depth: usize) -> Self {
        Lines { numbers: matrix.numbers, lines, depth, line_stride: matrix.row_stride, k_stride: matrix.column_stride }
    }

    fn columns_of(matrix: Operand<'a>, lines: usize, depth: usize) -> Self {
        Lines { numbers: matrix.numbers, lines, depth, line_stride: matrix.column_stride, k_stride: matrix.row_stride }
    }

    /// 16 numbers from `k` on of 16 lines from `line` on, zeros where there are no more: of a line after the other, or
    /// (`across`) of a `k` after the other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn square<T: Widen>(&self, data: &[T], line: usize, k: usize, across: bool) -> [__m512; TILE] {
        let (lines, depth) = (self.lines.saturating_sub(line), self.depth.saturating_sub(k));
        let along_k = self.k_stride == 1;
        let (vectors, lanes, stride) =
            if along_k { (lines, depth, self.line_stride) } else { (depth, lines, self.k_stride) };
        let first = data.as_ptr().wrapping_add(line * self.line_stride + k * self.k_stride);
        let mut square = [_mm512_setzero_ps(); TILE];
        for (i, vector) in square.iter_mut().enumerate().take(vectors) {
            // SAFETY: `pack_from` has seen that all lines are there; what is masked is not read.
            *vector = unsafe { T::load(first_lanes(lanes), first.wrapping_add(i * stride)) };
        }
        if along_k == across {
            transpose(&mut square);
        }
        square
    }
}

/// What vectors of f32 are read from.
trait Widen {
    /// # Safety
    /// The machine has AVX-512 BW and VL; where the mask is set there are numbers.
    unsafe fn load(mask: __mmask16, from: *const Self) -> __m512;
}

impl Widen for f32 {
    #[inline(always)]
    unsafe fn load(mask: __mmask16, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Widen for bf16 {
    #[inline(always)]
    unsafe fn load(mask: __mmask16, from: *const bf16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
}

/// Packs lines.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn pack<const P: usize>(lines: &Lines, across: bool, packed: &mut [Pair]) {
    match lines.numbers {
        Numbers::F32(data) | Numbers::Rounded(data) => pack_from::<P, f32>(data, lines, across, packed),
        Numbers::Bf16(data) => pack_from::<P, bf16>(data, lines, across, packed),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn pack_from<const P: usize, T: Widen>(data: &[T], lines: &Lines, across: bool, packed: &mut [Pair]) {
    let last = (lines.lines - 1) * lines.line_stride + (lines.depth - 1) * lines.k_stride;
    assert!(last < data.len() && lines.line_stride.min(lines.k_stride) == 1, "the operand is too small");
    let (sides, steps) = (lines.lines.div_ceil(SIDE), lines.depth.div_ceil(DEPTH));
    assert_eq!(packed.len(), sides * steps * P);
    for n in 0..2 * sides * steps {
        // In the order of memory.
        let (tile, step) =
            if lines.k_stride == 1 { (n / steps, n % steps) } else { (n % (2 * sides), n / (2 * sides)) };
        let first = lines.square(data, tile * TILE, step * DEPTH, across);
        let second = lines.square(data, tile * TILE, step * DEPTH + TILE, across);
        let parts = &mut packed[(tile / 2 * steps + step) * P..][..P];
        for i in 0..TILE {
            for (Pair(part), words) in parts.iter_mut().zip(split::<P>(first[i], second[i])) {
                // SAFETY: 16 words, aligned.
                unsafe { _mm512_store_si512(part[tile % 2][i].as_mut_ptr().cast(), words) };
            }
        }
    }
}

/// A mask of the first lanes of 16.
fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(TILE)) - 1) as __mmask16
}

/// The parts of two vectors: of the first in the lower halves of words, of the second in the upper ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn split<const P: usize>(mut first: __m512, mut second: __m512) -> [__m512i; P] {
    // A number of bf16 is the upper half of one of f32. After two parts there is nothing in the lower half.
    let mut parts = [_mm512_setzero_si512(); P];
    for part in &mut parts {
        let (a, b) = (nearest::<P>(first), nearest::<P>(second));
        *part = _mm512_or_si512(_mm512_srli_epi32::<16>(a), b);
        first = _mm512_sub_ps(first, _mm512_castsi512_ps(a));
        second = _mm512_sub_ps(second, _mm512_castsi512_ps(b));
    }
    parts
}

/// The nearest numbers of bf16. What lies half way goes away from zero where other parts follow, else to the even one.
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest<const P: usize>(x: __m512) -> __m512i {
    let (bits, upper) = (_mm512_castps_si512(x), _mm512_set1_epi32(-1 << 16));
    let mut half = _mm512_set1_epi32(1 << 15);
    if P == 1 {
        let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), is_odd);
    }
    let rounded = _mm512_and_si512(_mm512_add_epi32(bits, half), upper);
    // Of one that is none, rounding could make another.
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_mask_mov_epi32(rounded, is_nan, upper)
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

/// `sums = left · right`, packed. The caller has [`Tiles`].
fn sum_products<const P: usize>(left: &[Pair], right: &[Pair], sums: &mut Sums) {
    // tmm0 to tmm3 are sums; tmm4 and tmm5 two tiles of the left matrix, tmm6 and tmm7 of the right one.
    macro_rules! load_tile {
        ($tile:tt, $step:ident, $part:expr, $half:literal) => {
            load!($tile, $step[$part].0[$half].as_ptr(), ROW_BYTES)
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
    // SAFETY: this thread has tiles; each half of a pair, and of the sums each quarter, is a whole one.
    unsafe {
        zero!("tmm0", "tmm1", "tmm2", "tmm3");
        for (left, right) in left.as_chunks::<P>().0.iter().zip(right.as_chunks::<P>().0) {
            // The products of what is there; a tile of another part is loaded as soon as its forerunner has been read.
            macro_rules! then_left {
                ($part:literal) => {
                    add!(0 0);
                    add!(0 1);
                    load_tile!("tmm4", left, $part % P, 0);
                    add!(1 0);
                    add!(1 1);
                    load_tile!("tmm5", left, $part % P, 1);
                };
            }
            macro_rules! then_right {
                ($part:literal) => {
                    add!(0 0);
                    add!(1 0);
                    load_tile!("tmm6", right, $part % P, 0);
                    add!(0 1);
                    add!(1 1);
                    load_tile!("tmm7", right, $part % P, 1);
                };
            }
            load_tile!("tmm4", left, 0, 0);
            load_tile!("tmm6", right, P - 1, 0);
            load_tile!("tmm5", left, 0, 1);
            load_tile!("tmm7", right, P - 1, 1);
            if P == PARTS {
                then_right!(1); // a₁b₃
                then_left!(1); // a₁b₂
                then_right!(0); // a₂b₂
                then_left!(0); // a₂b₁
                then_left!(2); // a₁b₁
            }
            add!(0 0); // a₃b₁, or all
            add!(0 1);
            add!(1 0);
            add!(1 1);
        }
        // Where they are wanted: to copy what a tile has just written is slow.
        store!("tmm0", sums.0[0].as_mut_ptr(), ROW_BYTES);
        store!("tmm1", sums.0[1].as_mut_ptr(), ROW_BYTES);
        store!("tmm2", sums.0[2].as_mut_ptr(), ROW_BYTES);
        store!("tmm3", sums.0[3].as_mut_ptr(), ROW_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::nearest as nearest_to;
    use super::*;
    use crate::random::{Random, Stream};
    use std::sync::Mutex;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        F32,
        Bf16,
        Rounded,
    }
    const KINDS: [Kind; 3] = [Kind::F32, Kind::Bf16, Kind::Rounded];

    /// `[rows, columns]`, as it is or transposed in memory.
    struct Matrix {
        data: Vec<f32>,
        rounded: Vec<bf16>,
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
            let rounded = data.iter().map(|&x| nearest_to(x)).collect();
            Matrix { data, rounded, columns: if transposed { rows } else { columns }, transposed }
        }

        fn operand(&self, kind: Kind) -> Operand<'_> {
            let numbers = match kind {
                Kind::F32 => Numbers::F32(&self.data),
                Kind::Bf16 => Numbers::Bf16(&self.rounded),
                Kind::Rounded => Numbers::Rounded(&self.data),
            };
            if self.transposed {
                Operand::transposed(numbers, self.columns)
            } else {
                Operand::rows(numbers, self.columns)
            }
        }
    }

    /// None on a machine without tiles.
    fn product_in(
        tasks: usize,
        [m, n, k]: [usize; 3],
        [a, b]: [Operand; 2],
        before: Option<f32>,
        epilogue: impl Fn(Block) + Sync,
    ) -> Option<Vec<f32>> {
        const BEYOND: f32 = 7.0;
        let mut out = vec![before.unwrap_or(f32::NAN); m * n];
        out.resize(m * n + SIDE, BEYOND);
        is_available().then(|| {
            let to = Output { first: out.as_mut_ptr(), stride: n };
            // SAFETY: the output has so many numbers, and more.
            unsafe { product([m, n, k], to, a, b, before.is_some(), tasks, epilogue) };
            assert!(out.drain(m * n..).all(|x| x == BEYOND), "{m} x {n} x {k}: written beyond the output");
            out
        })
    }

    fn product_of(dims: [usize; 3], a: &Matrix, b: &Matrix, kind: Kind, before: Option<f32>) -> Option<Vec<f32>> {
        product_in(1, dims, [a.operand(kind), b.operand(kind)], before, |_| ())
    }

    /// Each number has two parts, or is rounded to one; each sum is below 2²⁴.
    #[test]
    fn sums_of_integers_are_exact_over_all_borders_and_in_all_layouts() {
        let integer = |i: usize, j: usize| match (i * 7919 + j * 104_729) % 31 {
            n @ 0..6 => [257.0, -261.0, 299.0, 1.0, -2.0, -275.0][n],
            _ => 0.0,
        };
        for dims in [[1, 1, 1], [64, 64, 64], [300, 1100, 70], [65, 146, 801], [257, 79, 65]] {
            let [m, n, k] = dims;
            for kind in KINDS {
                let of = |i, j| {
                    f64::from(if kind == Kind::F32 { integer(i, j) } else { nearest_to(integer(i, j)).to_f32() })
                };
                let expected: Vec<f32> = (0..m * n)
                    .map(|at| (0..k).map(|l| of(at / n, l) * of(l + 5, at % n)).sum::<f64>() as f32)
                    .collect();
                for (of_a, of_b) in [(false, false), (false, true), (true, false), (true, true)] {
                    let a = Matrix::new(m, k, of_a, integer);
                    let b = Matrix::new(k, n, of_b, |i, j| integer(i + 5, j));
                    let Some(found) = product_of(dims, &a, &b, kind, None) else { return };
                    assert!(found == expected, "{dims:?}, {kind:?}, transposed {of_a} {of_b}");
                    let found = product_of(dims, &a, &b, kind, Some(3.0)).unwrap();
                    assert!(found.iter().zip(&expected).all(|(x, y)| *x == y + 3.0), "{dims:?}, {kind:?}, added");
                }
            }
        }
    }

    /// More columns, and more steps, than are packed at a time.
    #[test]
    fn large_right_matrices_are_taken_in_parts() {
        let one_or_two = |i: usize, j: usize| 1.0 + ((i * 31 + j * 17) % 2) as f32;
        for dims in [[33, COLUMNS + 33, 40], [3, 300, DEPTH * RIGHT_PAIRS / 30 + 1]] {
            let [m, n, k] = dims;
            let (a, b) = (Matrix::new(m, k, false, one_or_two), Matrix::new(k, n, true, |j, i| one_or_two(i + 1, j)));
            for kind in KINDS {
                let Some(found) = product_of(dims, &a, &b, kind, None) else { return };
                for at in [0, n - 1, (m - 1) * n, m * n - 1] {
                    let expected = (0..k).map(|l| one_or_two(at / n, l) * one_or_two(at % n + 1, l)).sum::<f32>();
                    assert_eq!(found[at], expected, "{dims:?}, {kind:?}, at {at}");
                }
            }
        }
    }

    #[test]
    fn the_epilogue_sees_every_sum_once_and_tasks_change_no_bit() {
        let dims @ [m, n, k] = [530, 700, 1600];
        let mut random = Random::new(4, Stream::Weights, 0);
        let numbers: Vec<f32> = (0..m.max(n) * k).map(|_| random.uniform() - 0.5).collect();
        let a = Matrix::new(m, k, false, |i, j| numbers[i * k + j]);
        let b = Matrix::new(k, n, true, |i, j| numbers[j * k + i]);
        for kind in KINDS {
            let Some(plain) = product_of(dims, &a, &b, kind, None) else { return };
            for tasks in [1, 2, 100] {
                let seen = Mutex::new(vec![0; m * n]);
                let triple = |mut block: Block| {
                    let column = block.column;
                    for (row, sums) in block.rows() {
                        let mut seen = seen.lock().unwrap();
                        for (j, sum) in sums.iter_mut().enumerate() {
                            seen[row * n + column + j] += 1;
                            *sum *= 3.0;
                        }
                    }
                };
                let tripled = product_in(tasks, dims, [a.operand(kind), b.operand(kind)], None, triple).unwrap();
                assert!(seen.into_inner().unwrap().iter().all(|&seen| seen == 1), "{kind:?}, {tasks} tasks");
                assert!(tripled.iter().zip(&plain).all(|(x, y)| *x == 3.0 * y), "{kind:?}, {tasks} tasks");
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
                let words = split::<PARTS>(_mm512_set1_ps(numbers[0]), _mm512_set1_ps(numbers[1]));
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
    fn numbers_times_one_are_themselves_in_all_their_bits_or_the_nearest_of_bf16() {
        let mut random = Random::new(1, Stream::Weights, 0);
        let mut numbers: Vec<f32> = (0..64 * 64).map(|i| (random.uniform() - 0.5) * 2f32.powi(i % 60 - 30)).collect();
        // Half way between two of bf16: to the even one, which is below or above.
        (numbers[0], numbers[1]) = (1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0);
        let numbers = Matrix::new(64, 64, false, |i, j| numbers[i * 64 + j]);
        let ones = Matrix::new(64, 64, false, |i, j| f32::from(u8::from(i == j)));
        for kind in KINDS {
            let nearest: Vec<f32> = numbers.rounded.iter().map(|x| x.to_f32()).collect();
            let expected = if kind == Kind::F32 { &numbers.data } else { &nearest };
            let Some(found) = product_of([64; 3], &numbers, &ones, kind, None) else { return };
            assert!(found == *expected, "{kind:?} on the left");
            let found = product_of([64; 3], &ones, &numbers, kind, None).unwrap();
            assert!(found == *expected, "{kind:?} on the right");
        }
    }

    #[test]
    fn sums_are_nearer_than_those_of_f32() {
        let dims @ [m, n, k] = [64, 64, 1000];
        let mut random = Random::new(2, Stream::Weights, 0);
        let mut numbers = |n: usize| (0..n).map(|_| random.uniform() - 0.5).collect::<Vec<_>>();
        let (of_a, of_b) = (numbers(m * k), numbers(n * k));
        let a = Matrix::new(m, k, false, |i, j| of_a[i * k + j]);
        let b = Matrix::new(k, n, true, |i, j| of_b[j * k + i]);
        let Some(found) = product_of(dims, &a, &b, Kind::F32, None) else { return };
        let mut in_f32 = vec![0.0; m * n];
        super::super::gemm::product_in_f32(dims, &mut in_f32, a.operand(Kind::F32), b.operand(Kind::F32));
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
        // The last is one that rounding would make a zero of.
        for bad in [f32::NAN, f32::INFINITY, -f32::MAX, f32::from_bits(0x7fff_ffff)] {
            let a = Matrix::new(64, 64, false, |i, j| if (i, j) == (5, 40) { bad } else { 1.0 });
            let b = Matrix::new(64, 64, false, |_, _| 1.5);
            for kind in KINDS {
                let Some(found) = product_of([64; 3], &a, &b, kind, None) else { return };
                for (i, row) in found.chunks_exact(64).enumerate() {
                    let is_right = |x: &f32| if i == 5 { !x.is_finite() } else { *x == 96.0 };
                    assert!(row.iter().all(is_right), "{kind:?} {bad} in row {i}");
                }
            }
        }
    }
}
