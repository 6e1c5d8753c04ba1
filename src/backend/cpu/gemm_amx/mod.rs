//! Dense matrix products on tiles (AMX), of f32 and of bf16.
//!
//! The right matrix is packed for all its columns, by all threads; then each thread packs rows of the left one and
//! multiplies them with all that. So the packing of a number is paid back by `m`, or by `n`, products. How numbers are put
//! into tiles is a [`Format`]: [`digits`] of f32, [`halves`] where both operands are bf16.

mod digits;
mod halves;
mod lines;

use super::amx::{self, store, Tiles, ROW_BYTES, TILE};
use super::gemm::{Block, Operand, Output};
use super::pieces;
use digits::Digits;
use halves::Halves;
use lines::{first_lanes, Lines};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::ops::Range;

/// Rows of the left matrix that are packed at a time: a chunk of them stays in the second-level cache.
const ROWS: usize = 256;
/// Columns of the right matrix that are packed at a time, and tiles of them all.
const COLUMNS: usize = 4096;
const RIGHT_TILES: usize = 24 << 10;
/// Columns that are packed by one task, and that are written at a time: much of a row of either matrix.
const PANEL: usize = 128;
/// Below this a dimension hardly pays for packing the other two (rows do with half, where those are large); and small
/// models, as the embedded one, give the same bits on CPUs with tiles and without.
const LEAST: usize = 256;

/// How numbers of lines (rows of the left matrix, columns of the right one) are put into tiles.
trait Format {
    /// Lines that are multiplied with as many others at once: a side.
    const SIDE: usize;
    /// Numbers of a line in a tile: a step.
    const DEPTH: usize;
    /// Tiles of a step of a side.
    const TILES: usize;
    /// Steps of a chunk: what is summed in tiles alone.
    const STEPS: usize;
    /// How many sums wait until they are put where they are wanted: what tiles have just written is slow to read.
    const WAITING: usize;

    /// Packs a chunk of lines, of the right matrix if `across`: `tiles [side][step]`, `scales [side]`.
    ///
    /// # Safety
    /// The machine has what [`is_available`] looks for.
    unsafe fn pack(lines: &Lines, across: bool, tiles: &mut [Tile], scales: &mut [Scale]);

    /// Sums `left · right`, as far as tiles do it.
    ///
    /// # Safety
    /// This thread has [`Tiles`].
    unsafe fn sum(left: Side, right: Side, sums: &mut Sums);

    /// Puts these sums where they are wanted.
    ///
    /// # Safety
    /// The machine has what [`is_available`] looks for; the target is nobody else's.
    unsafe fn put(sums: &Sums, scales: [&Scale; 2], target: Target);
}

/// Words.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Tile([[u32; TILE]; TILE]);

/// What the numbers of up to 16 lines of a chunk were multiplied with.
#[derive(Clone, Copy, Default)]
struct Scale {
    factors: [f32; TILE],
    /// Of the power of two by which a sum of first digits is multiplied; not a number where a line has one that is not finite.
    exponents: [f32; TILE],
    /// Whether some line has numbers that are far larger than most of its others.
    has_outliers: bool,
}

/// Packed lines.
#[derive(Default)]
struct Packed {
    tiles: Vec<Tile>,
    scales: Vec<Scale>,
}

/// Packed chunks of sides.
#[derive(Clone, Copy)]
struct Sides<'a> {
    tiles: &'a [Tile],
    scales: &'a [Scale],
}

/// One of them: `tiles [step]`.
struct Side<'a> {
    tiles: &'a [Tile],
    scale: &'a Scale,
}

impl<'a> Sides<'a> {
    fn get(self, side: usize) -> Side<'a> {
        let of_side = self.tiles.len() / self.scales.len();
        Side { tiles: &self.tiles[side * of_side..][..of_side], scale: &self.scales[side] }
    }
}

/// What four tiles hold: words.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Sums([Tile; 4]);

impl Sums {
    /// What is in the first four tiles.
    ///
    /// # Safety
    /// This thread has [`Tiles`].
    #[inline(always)]
    unsafe fn store(&mut self) {
        // SAFETY: the caller's promise; each quarter is a whole tile.
        unsafe {
            store!("tmm0", self.0[0].0.as_mut_ptr(), ROW_BYTES);
            store!("tmm1", self.0[1].0.as_mut_ptr(), ROW_BYTES);
            store!("tmm2", self.0[2].0.as_mut_ptr(), ROW_BYTES);
            store!("tmm3", self.0[3].0.as_mut_ptr(), ROW_BYTES);
        }
    }
}

/// Where sums go, as far as there are rows and columns.
#[derive(Clone, Copy)]
struct Target {
    out: Output,
    rows: usize,
    columns: usize,
    accumulate: bool,
}

impl Target {
    /// From a row and a column inside it on.
    fn from(self, row: usize, column: usize) -> Self {
        let (rows, columns) = (self.rows - row, self.columns - column);
        Target { out: self.out.from(row, column), rows, columns, ..self }
    }

    /// Puts 16 sums of a row there, or adds them.
    ///
    /// # Safety
    /// The machine has AVX-512; the row is there, and nobody else's.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn put(self, row: usize, column: usize, sums: __m512) {
        let (mask, out) = (first_lanes(self.columns.saturating_sub(column)), self.out.from(row, column).first);
        // SAFETY: the caller's promise; what is masked is neither read nor written.
        unsafe {
            // Not read if it is not needed, not even masked: that would wait for it.
            let sums = match self.accumulate {
                true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), sums),
                false => sums,
            };
            _mm512_mask_storeu_ps(out, mask, sums);
        }
    }
}

// Packed matrices and sums are kept for the thread's next product.
thread_local! {
    static RIGHT: Cell<Packed> = Cell::default();
    static LEFT: Cell<(Packed, Vec<Sums>)> = Cell::default();
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
            product.run::<Halves>();
        } else {
            product.run::<Digits>();
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

/// What of the right matrix is packed at a time: `[panel][chunk][side]`.
struct Part {
    columns: Range<usize>,
    steps: Range<usize>,
}

impl Part {
    /// Chunks of steps, the first of which is number 0.
    fn chunks<F: Format>(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        pieces(self.steps.clone(), F::STEPS).enumerate()
    }

    /// How many tiles and scales so many columns take.
    fn size_of<F: Format>(&self, columns: usize) -> [usize; 2] {
        let sides = columns.div_ceil(F::SIDE);
        [sides * self.steps.len() * F::TILES, sides * self.steps.len().div_ceil(F::STEPS)]
    }

    /// A chunk of a panel.
    fn sides<'a, F: Format>(&self, right: &'a Packed, panel: Range<usize>, chunk: usize) -> Sides<'a> {
        let sides = panel.len().div_ceil(F::SIDE);
        let [first_tile, first_scale] = self.size_of::<F>(panel.start - self.columns.start);
        let of_chunk = (self.steps.len() - chunk * F::STEPS).min(F::STEPS) * F::TILES;
        Sides {
            tiles: &right.tiles[first_tile + chunk * sides * F::STEPS * F::TILES..][..sides * of_chunk],
            scales: &right.scales[first_scale + chunk * sides..][..sides],
        }
    }
}

impl<E: Fn(Block) + Sync> Product<'_, E> {
    /// SAFETY: as of [`product`].
    unsafe fn run<F: Format>(&self) {
        let [_, n, k] = self.dims;
        let most_steps = RIGHT_TILES / (n.min(COLUMNS).div_ceil(F::SIDE) * F::TILES);
        let most_steps = most_steps / F::STEPS * F::STEPS;
        let mut room = RIGHT.take();
        for columns in pieces(0..n, COLUMNS) {
            for steps in pieces(0..k.div_ceil(F::DEPTH), most_steps) {
                let part = Part { columns: columns.clone(), steps };
                // SAFETY: the caller's promise.
                unsafe {
                    self.pack_right::<F>(&part, &mut room);
                    self.multiply::<F>(&part, &room);
                }
            }
        }
        RIGHT.set(room);
    }

    /// SAFETY: as of [`product`].
    unsafe fn pack_right<F: Format>(&self, part: &Part, right: &mut Packed) {
        let [tiles, scales] = part.size_of::<F>(part.columns.len());
        let (tiles, scales) = (grown(&mut right.tiles, tiles), grown(&mut right.scales, scales));
        let panel = |(panel, (tiles, scales)): (usize, (&mut [Tile], &mut [Scale]))| {
            let first = panel * PANEL;
            let columns = PANEL.min(part.columns.len() - first);
            let sides = columns.div_ceil(F::SIDE);
            let chunks = tiles.chunks_mut(sides * F::STEPS * F::TILES).zip(scales.chunks_mut(sides));
            for ((_, steps), (tiles, scales)) in part.chunks::<F>().zip(chunks) {
                let numbers = self.numbers_of::<F>(&steps);
                let b = self.b.from(numbers.start, part.columns.start + first);
                // SAFETY: the caller's promise.
                unsafe { F::pack(&Lines::columns_of(b, columns, numbers.len()), true, tiles, scales) };
            }
        };
        let [of_tiles, of_scales] = part.size_of::<F>(PANEL);
        if self.tasks == 1 {
            tiles.chunks_mut(of_tiles).zip(scales.chunks_mut(of_scales)).enumerate().for_each(panel);
        } else {
            tiles.par_chunks_mut(of_tiles).zip(scales.par_chunks_mut(of_scales)).enumerate().for_each(panel);
        }
    }

    /// SAFETY: as of [`product`].
    unsafe fn multiply<F: Format>(&self, part: &Part, right: &Packed) {
        let row_blocks: Vec<_> = pieces(0..self.dims[0], ROWS).collect();
        // Each block of columns packs all rows again.
        let panels = part.columns.len().div_ceil(PANEL);
        let panels = panels.div_ceil(self.tasks.div_ceil(row_blocks.len()).min(panels));
        let column_blocks: Vec<_> = pieces(part.columns.clone(), panels * PANEL).collect();
        let task = |task: usize| {
            let (rows, columns) = (&row_blocks[task % row_blocks.len()], &column_blocks[task / row_blocks.len()]);
            // SAFETY: the caller's promise; each task has an output of its own.
            unsafe { self.block::<F>(rows, columns, part, right) };
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
    unsafe fn block<F: Format>(&self, rows: &Range<usize>, columns: &Range<usize>, part: &Part, right: &Packed) {
        let Some(_tiles) = Tiles::new() else { unreachable!("the caller's promise") };
        let (mut room, mut sums) = LEFT.take();
        let sides = rows.len().div_ceil(F::SIDE);
        for (chunk, steps) in part.chunks::<F>() {
            let numbers = self.numbers_of::<F>(&steps);
            let tiles = grown(&mut room.tiles, sides * steps.len() * F::TILES);
            let scales = grown(&mut room.scales, sides);
            let lines = Lines::rows_of(self.a.from(rows.start, numbers.start), rows.len(), numbers.len());
            // SAFETY: the caller's promise.
            unsafe { F::pack(&lines, false, tiles, scales) };
            let left = Sides { tiles, scales };
            for panel in pieces(columns.clone(), PANEL) {
                let (row, column, out) = (rows.start, panel.start, self.out.from(rows.start, panel.start));
                let accumulate = self.accumulate || numbers.start > 0;
                let target = Target { out, rows: rows.len(), columns: panel.len(), accumulate };
                let right = part.sides::<F>(right, panel, chunk);
                // SAFETY: this thread has tiles, and the rest is the caller's promise.
                unsafe { multiply_sides::<F>(left, right, target, &mut sums) };
                if numbers.end == self.dims[2] {
                    (self.epilogue)(Block { row, column, rows: target.rows, columns: target.columns, out });
                }
            }
        }
        LEFT.set((room, sums));
    }

    /// Those of steps.
    fn numbers_of<F: Format>(&self, steps: &Range<usize>) -> Range<usize> {
        steps.start * F::DEPTH..self.dims[2].min(steps.end * F::DEPTH)
    }
}

/// Multiplies each left side with each right one.
///
/// SAFETY: this thread has tiles, and the machine what [`is_available`] looks for; the target is nobody else's.
unsafe fn multiply_sides<F: Format>(left: Sides, right: Sides, target: Target, sums: &mut Vec<Sums>) {
    let (columns, sums) = (right.scales.len(), grown(sums, F::WAITING + 1));
    let all = left.scales.len() * columns;
    for n in 0..all + F::WAITING {
        // SAFETY: the caller's promise.
        unsafe {
            if n < all {
                F::sum(left.get(n / columns), right.get(n % columns), &mut sums[n % (F::WAITING + 1)]);
            }
            if let Some(n) = n.checked_sub(F::WAITING) {
                let (row, column) = (n / columns, n % columns);
                let target = target.from(row * F::SIDE, column * F::SIDE);
                F::put(&sums[n % (F::WAITING + 1)], [&left.scales[row], &right.scales[column]], target);
            }
        }
    }
}

/// Room for so many, in memory that only grows.
fn grown<T: Default + Copy>(room: &mut Vec<T>, len: usize) -> &mut [T] {
    if room.len() < len {
        room.resize(len, T::default());
    }
    &mut room[..len]
}

#[cfg(test)]
mod tests {
    use super::super::matrix::{nearest, Numbers};
    use super::*;
    use crate::random::{Random, Stream};
    use half::bf16;
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
            let rounded = data.iter().map(|&x| nearest(x)).collect();
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
        out.resize(m * n + 2 * TILE, BEYOND);
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

    /// Each number has two digits, or is rounded; each sum is below 2²⁴.
    #[test]
    fn sums_of_integers_are_exact_over_all_borders_and_in_all_layouts() {
        let integer = |i: usize, j: usize| match (i * 7919 + j * 104_729) % 31 {
            n @ 0..6 => [257.0, -261.0, 299.0, 1.0, -2.0, -275.0][n],
            _ => 0.0,
        };
        for dims in [[1, 1, 1], [64, 64, 64], [300, 1100, 70], [65, 146, 801], [257, 79, 65]] {
            let [m, n, k] = dims;
            for kind in KINDS {
                let of =
                    |i, j| f64::from(if kind == Kind::F32 { integer(i, j) } else { nearest(integer(i, j)).to_f32() });
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
        for dims in [[33, COLUMNS + 33, 40], [3, 300, Halves::DEPTH * RIGHT_TILES / 20 + 1]] {
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
    fn numbers_times_one_are_themselves_in_all_their_bits_or_the_nearest_of_bf16() {
        let mut random = Random::new(1, Stream::Weights, 0);
        // Columns have an outlier, and no number below 2⁻⁷ of that; rows or columns are of any size.
        let mut numbers: Vec<f32> =
            (0..64 * 64).map(|i| if i < 63 * 64 { 0.5 + random.uniform() } else { 60.0 }).collect();
        // Half way between two of bf16: to the even one, which is below or above.
        (numbers[0], numbers[1]) = (1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0);
        for (of_row, of_column) in [(0, 0), (1, 0), (0, 1)] {
            let size = |i: usize, j: usize| 2f32.powi((of_row * i + of_column * j) as i32 - 40);
            let numbers = Matrix::new(64, 64, false, |i, j| numbers[i * 64 + j] * size(i, j));
            let ones = Matrix::new(64, 64, false, |i, j| f32::from(u8::from(i == j)));
            for kind in KINDS {
                let nearest: Vec<f32> = numbers.rounded.iter().map(|x| x.to_f32()).collect();
                let expected = if kind == Kind::F32 { &numbers.data } else { &nearest };
                if of_column == 0 || kind != Kind::F32 {
                    let Some(found) = product_of([64; 3], &numbers, &ones, kind, None) else { return };
                    assert!(found == *expected, "{kind:?} on the left, size of row {of_row}, of column {of_column}");
                }
                if of_row == 0 || kind != Kind::F32 {
                    let Some(found) = product_of([64; 3], &ones, &numbers, kind, None) else { return };
                    assert!(found == *expected, "{kind:?} on the right, size of row {of_row}, of column {of_column}");
                }
            }
        }
    }

    /// Measured: 0.1 to 0.55 of their errors. With numbers that are not larger than their lines' mean by much, and with some
    /// that are; less than a chunk, and more.
    #[test]
    fn sums_are_nearer_than_those_of_f32() {
        let [m, n] = [64, 64];
        let mut random = Random::new(2, Stream::Weights, 0);
        for k in [256, 1000] {
            let mut numbers = |outlier: f32| -> Vec<f32> {
                let mut number = || (0..3).map(|_| random.uniform() - 0.5).sum::<f32>();
                (0..64 * k).map(|i: usize| number() * if i.is_multiple_of(97) { outlier } else { 1.0 }).collect()
            };
            for outliers in [[1.0, 1.0], [5.0, 5.0], [100.0, 1.0], [1.0, 100.0], [100.0, 100.0], [1e4, 1e4]] {
                let [of_a, of_b] = outliers.map(&mut numbers);
                let a = Matrix::new(m, k, false, |i, j| of_a[i * k + j]);
                let b = Matrix::new(k, n, true, |i, j| of_b[j * k + i]);
                let dims = [m, n, k];
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
                assert!(found < 0.75 * in_f32, "{found:e}, in f32 {in_f32:e}, {k} numbers, outliers {outliers:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_and_among_its_own() {
        // The last is one that rounding would make a zero of.
        for bad in [f32::NAN, f32::INFINITY, -f32::MAX, f32::from_bits(0x7fff_ffff)] {
            let with_bad = Matrix::new(64, 64, false, |i, j| if (i, j) == (5, 40) { bad } else { 1.0 });
            let without = Matrix::new(64, 64, false, |_, _| 1.5);
            for kind in KINDS {
                for bad_is_left in [true, false] {
                    let [a, b] = if bad_is_left { [&with_bad, &without] } else { [&without, &with_bad] };
                    let Some(found) = product_of([64; 3], a, b, kind, None) else { return };
                    for (at, &x) in found.iter().enumerate() {
                        let is_bad = if bad_is_left { at / 64 == 5 } else { at % 64 == 40 };
                        let is_right = if is_bad { !x.is_finite() } else { x == 96.0 };
                        assert!(is_right, "{kind:?} {bad}, left {bad_is_left}: {x} at {at}");
                    }
                }
            }
        }
    }
}
