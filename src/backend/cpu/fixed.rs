//! Products of rows rounded to 16 bits, for machines that multiply such numbers faster than f32, and near enough to tell
//! which pre-activations can matter at all. Nothing that is computed here leaves the backend.
//!
//! Vector units multiply pairs of integers in one instruction (AVX512-VNNI, `vpdpwssd`: twice as fast as f32; AVX2,
//! `vpmaddwd` and an addition: 1.6 times). A row's unit is its norm by [`NORM`], so that no product of two rows leaves 32
//! bits, however long they are, and rounding loses the same of every row: about 0.3 `sqrt(D)` units, 2.4e-4 of its norm at
//! `D = 768`. bfloat16 loses five times that, which leaves a few more latents to be computed, but AMX multiplies tiles of
//! it four times as fast as f32 is multiplied (`vdpbf16ps`, of vectors, is slower than f32 on Intel's Emerald Rapids).

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::matrix::nearest;
use super::pages;
use super::simd::{multiply_add, sum_of_squares, vectorised, Widen};
use bytemuck::{Pod, Zeroable};
use half::bf16;
use std::sync::Mutex;

/// Rows of the left matrix in a product's block, at most.
pub(super) const ROWS: usize = 32;
/// Those of them whose sums there are vector registers for.
#[cfg(target_arch = "x86_64")]
const VECTOR_ROWS: usize = 6;
/// Rows of the right matrix in a product's block.
pub(super) const COLUMNS: usize = 64;
/// Those of them whose sums AVX2 has registers for.
const NARROW: usize = 16;
/// The norm of a rounded row, in its units.
pub(super) const NORM: f32 = 32767.0;
/// With wider rows, rounding up could leave 32 bits: `(NORM + sqrt(D) / 2)^2` must not.
const WIDEST: usize = 1 << 20;

/// A block of products.
pub(super) type Block = [[f32; COLUMNS]; ROWS];

/// The instructions that multiply.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Unit {
    Avx2,
    Avx512Vnni,
    Amx,
}

impl Unit {
    /// All of them.
    #[cfg(test)]
    pub const ALL: [Unit; 3] = [Unit::Avx2, Unit::Avx512Vnni, Unit::Amx];

    /// Rows of the left matrix in a block.
    #[cfg(target_arch = "x86_64")]
    pub fn rows(self) -> usize {
        match self {
            Unit::Avx2 | Unit::Avx512Vnni => VECTOR_ROWS,
            Unit::Amx => ROWS,
        }
    }

    /// How the left matrix' rows of a block are laid out: a vector's one pair of each after the other, a tile's one line.
    #[cfg(target_arch = "x86_64")]
    fn layout_of_rows(self) -> Layout {
        match self {
            Unit::Avx2 | Unit::Avx512Vnni => Layout { together: VECTOR_ROWS, run: 1 },
            Unit::Amx => Layout { together: NARROW, run: LINE },
        }
    }

    /// How rows of the right matrix are: as many side by side as there are registers for.
    fn layout_of_columns(self) -> Layout {
        match self {
            Unit::Avx2 | Unit::Amx => Layout { together: NARROW, run: 1 },
            Unit::Avx512Vnni => Layout { together: COLUMNS, run: 1 },
        }
    }

    /// Words of a row that is packed: pairs of numbers, to the end of a tile's row.
    pub fn words(self, d_in: usize) -> usize {
        match self {
            Unit::Avx2 | Unit::Avx512Vnni => d_in.div_ceil(2).max(1),
            Unit::Amx => d_in.div_ceil(2).max(1).next_multiple_of(LINE),
        }
    }

    /// What multiplies rows of this width faster than in f32; none where nothing does, or sums could leave 32 bits.
    pub fn fastest(d_in: usize) -> Option<Unit> {
        // Where AVX-512 has no such instruction, it is as fast in f32.
        let vectors = if has_avx512() { Unit::Avx512Vnni } else { Unit::Avx2 };
        let fastest = if Unit::Amx.is_available() { Unit::Amx } else { vectors };
        (fastest.is_available() && d_in <= WIDEST).then_some(fastest)
    }

    /// Whether this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        match self {
            Unit::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            Unit::Avx512Vnni => has_avx512() && std::arch::is_x86_feature_detected!("avx512vnni"),
            Unit::Amx => amx::is_available(),
        }
    }

    /// Whether this machine has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        false
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// 32-bit words of a cache line, and of a tile's row.
const LINE: usize = 16;

vectorised! {
    /// Rounds a row to bf16; returns the squared norm of what is lost. Numbers too small for the format's exponents are 0,
    /// which is how tiles take them.
    fn round_to_bf16(row: &[f32], to: &mut [i16]) -> f32 {
        const LANES: usize = 32;
        let mut lost = [0.0f32; LANES];
        for (row, to) in row.chunks(LANES).zip(to.chunks_mut(LANES)) {
            for ((&x, to), lost) in row.iter().zip(to).zip(&mut lost) {
                let rounded = if x.abs() < f32::MIN_POSITIVE { bf16::ZERO } else { nearest(x) };
                *to = rounded.to_bits() as i16;
                let difference = x - rounded.wide();
                *lost = multiply_add::<FUSED>(difference, difference, *lost);
            }
        }
        lost.iter().sum()
    }

    /// Rounds a row to units of `norm / NORM`; returns the squared norm of what is lost, in units.
    fn round_to_units(row: &[f32], norm: f32, to: &mut [i16]) -> f32 {
        const LANES: usize = 32;
        let per_unit = NORM / norm;
        let mut lost = [0.0f32; LANES];
        for (row, to) in row.chunks(LANES).zip(to.chunks_mut(LANES)) {
            for ((&x, to), lost) in row.iter().zip(to).zip(&mut lost) {
                // Within 16 bits, or not a number, which gives 0.
                let rounded = (x * per_unit).round_ties_even();
                *to = rounded as i16;
                let difference = multiply_add::<FUSED>(x, per_unit, -rounded);
                *lost = multiply_add::<FUSED>(difference, difference, *lost);
            }
        }
        lost.iter().sum()
    }

    /// Two numbers in each word, the first in its lower half.
    fn join_pairs(row: &[i16], to: &mut [u32]) {
        for (&[first, second], to) in row.as_chunks::<2>().0.iter().zip(to) {
            *to = u32::from(first as u16) | u32::from(second as u16) << 16;
        }
    }
}

/// How packed rows lie: the first words of each of those that lie together, the next words of each, and so on.
#[derive(Clone, Copy)]
struct Layout {
    together: usize,
    /// Words of one row that stay together: 1, or a [`LINE`].
    run: usize,
}

/// Rows that are rounded and laid out as a unit multiplies them, and the norms that their errors depend on.
pub(super) struct Packer {
    d_in: usize,
    unit: Unit,
    layout: Layout,
    /// A row, and zeros to the end of its last word.
    rounded: Vec<i16>,
    words: Vec<u32>,
}

impl Packer {
    /// For the left matrix' rows of a block.
    #[cfg(target_arch = "x86_64")]
    pub fn of_rows(d_in: usize, unit: Unit) -> Self {
        Self::new(d_in, unit, unit.rows(), unit.layout_of_rows())
    }

    /// For [`COLUMNS`] rows of the right matrix.
    pub fn of_columns(d_in: usize, unit: Unit) -> Self {
        Self::new(d_in, unit, COLUMNS, unit.layout_of_columns())
    }

    fn new(d_in: usize, unit: Unit, rows: usize, layout: Layout) -> Self {
        let words = unit.words(d_in);
        Packer { d_in, unit, layout, rounded: vec![0; 2 * words], words: vec![0; rows * words] }
    }

    /// Rounds rows of `d_in` numbers and lays them out. Rows that are not there, and numbers after a row's end, are 0.
    /// `to` takes [`Unit::words`] of every row that may be there. Calls `keep(row, |row|, |what rounding takes from
    /// it|)`.
    pub fn pack(&mut self, rows: &[f32], to: &mut [u32], mut keep: impl FnMut(usize, [f32; 2])) {
        let (d_in, width) = (self.d_in, self.unit.words(self.d_in));
        let n = rows.len() / d_in.max(1);
        for (i, (row, words)) in rows.chunks_exact(d_in.max(1)).zip(self.words.chunks_exact_mut(width)).enumerate() {
            let (norm, rounded) = (norm_of(row), &mut self.rounded[..d_in]);
            // The unit's own rounding is one of those of the sums.
            let lost = match self.unit {
                Unit::Avx2 | Unit::Avx512Vnni => round_to_units(row, norm, rounded).sqrt() * (norm / NORM),
                Unit::Amx => round_to_bf16(row, rounded).sqrt() + LOST_OF_TINY,
            };
            join_pairs(&self.rounded, words);
            keep(i, [norm, 1.001 * lost]);
        }
        self.words[n * width..].fill(0);
        let part = self.layout.together * width;
        for (words, to) in self.words.chunks_exact(part).zip(to.chunks_exact_mut(part)) {
            lay_out(words, self.layout, to);
        }
    }
}

/// The rows that lie together.
fn lay_out(words: &[u32], layout: Layout, to: &mut [u32]) {
    match layout.run {
        LINE => lay_out_runs::<LINE>(words, layout.together, to),
        _ => lay_out_runs::<1>(words, layout.together, to),
    }
}

fn lay_out_runs<const RUN: usize>(words: &[u32], together: usize, to: &mut [u32]) {
    let to = to.as_chunks_mut::<RUN>().0;
    // Lines at a time: what is written stays in the first-level cache.
    for (depth, to) in to.chunks_mut(LINE / RUN * together).enumerate() {
        for (i, row) in words.chunks_exact(words.len() / together).enumerate() {
            for (to, run) in to[i..].iter_mut().step_by(together).zip(row[LINE * depth..].as_chunks::<RUN>().0) {
                *to = *run;
            }
        }
    }
}

/// More than what rounding loses of numbers too small for their squares.
const NORM_OF_TINY: f32 = 1e-30;
/// More than what is lost of squares of what rounding to bf16 loses, where they are too small for a number.
const LOST_OF_TINY: f32 = 1e-18;

/// A row's norm, a little more than exact.
pub(super) fn norm_of(row: &[f32]) -> f32 {
    (sum_of_squares(row).sqrt() * 1.000_001) as f32 + NORM_OF_TINY
}

/// `block[i][j] = a_i · b_j` of packed rows, about; given the norms of both.
///
/// # Safety
/// The machine must have the instructions: [`Unit::is_available`].
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn products(
    unit: Unit,
    a: &[u32],
    b: &[u32],
    norms: (&[f32; ROWS], &[f32; COLUMNS]),
    block: &mut Block,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match unit {
            Unit::Avx2 => products_avx2(a, b, norms, block),
            Unit::Avx512Vnni => products_avx512(a, b, norms, block),
            Unit::Amx => products_amx(a, b, block),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn products_avx512(a: &[u32], b: &[u32], norms: (&[f32; ROWS], &[f32; COLUMNS]), block: &mut Block) {
    use std::arch::x86_64::*;
    /// Lanes of a register.
    const LANES: usize = 16;
    let mut sums = [[_mm512_setzero_si512(); COLUMNS / LANES]; VECTOR_ROWS];
    let (a, b) = (a.as_chunks::<VECTOR_ROWS>().0, b.as_chunks::<COLUMNS>().0);
    for (a, b) in a.iter().zip(b) {
        let mut of_b = [_mm512_setzero_si512(); COLUMNS / LANES];
        for (j, of_b) in of_b.iter_mut().enumerate() {
            // SAFETY: LANES of the COLUMNS pairs, from j * LANES on.
            *of_b = unsafe { _mm512_loadu_si512(b.as_ptr().add(j * LANES).cast()) };
        }
        for (sums, &a) in sums.iter_mut().zip(a) {
            let a = _mm512_set1_epi32(a as i32);
            for (sum, &b) in sums.iter_mut().zip(&of_b) {
                // Partial sums may wrap around: the whole one, which fits, is right again.
                *sum = _mm512_dpwssd_epi32(*sum, a, b);
            }
        }
    }
    for ((sums, block), of_a) in sums.iter().zip(block).zip(norms.0) {
        let of_a = _mm512_set1_ps(of_a / (NORM * NORM));
        let of_b = norms.1.as_chunks::<LANES>().0;
        for ((&sum, to), of_b) in sums.iter().zip(block.as_chunks_mut::<LANES>().0).zip(of_b) {
            // SAFETY: `of_b` and `to` have LANES numbers each.
            unsafe {
                let units = _mm512_mul_ps(of_a, _mm512_loadu_ps(of_b.as_ptr()));
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_mul_ps(_mm512_cvtepi32_ps(sum), units));
            }
        }
    }
}

/// The same of bf16 numbers, whose sums need no units.
#[cfg(target_arch = "x86_64")]
fn products_amx(a: &[u32], b: &[u32], block: &mut Block) {
    use amx::{load, multiply, store, zero, ROW_BYTES, TILE};
    let Some(_tiles) = amx::Tiles::new() else { unreachable!("the caller's promise") };
    let (words, of_tile) = (a.len() / ROWS, TILE * LINE);
    assert!(ROWS == 2 * TILE && NARROW == TILE && b.len() == COLUMNS * words, "packed otherwise");
    for (pair, b) in b.chunks_exact(2 * NARROW * words).enumerate() {
        let to = block.as_flattened_mut()[2 * NARROW * pair..].as_mut_ptr();
        // SAFETY: this thread has tiles. They are read from the 2 * TILE rows of `a` and the 2 * NARROW columns of
        // `b`, `words / LINE` for each 16, and written to all rows of the block, from the pair's column on.
        unsafe {
            zero!("tmm0", "tmm1", "tmm2", "tmm3");
            for step in 0..words / LINE {
                let (a, b) = (a.as_ptr().add(step * of_tile), b.as_ptr().add(step * of_tile));
                load!("tmm4", a, ROW_BYTES);
                load!("tmm6", b, ROW_BYTES);
                load!("tmm7", b.add(NARROW * words), ROW_BYTES);
                load!("tmm5", a.add(TILE * words), ROW_BYTES);
                multiply!("tdpbf16ps", "tmm0", "tmm4", "tmm6");
                multiply!("tdpbf16ps", "tmm1", "tmm4", "tmm7");
                multiply!("tdpbf16ps", "tmm2", "tmm5", "tmm6");
                multiply!("tdpbf16ps", "tmm3", "tmm5", "tmm7");
            }
            store!("tmm0", to, 4 * COLUMNS);
            store!("tmm1", to.add(NARROW), 4 * COLUMNS);
            store!("tmm2", to.add(TILE * COLUMNS), 4 * COLUMNS);
            store!("tmm3", to.add(TILE * COLUMNS + NARROW), 4 * COLUMNS);
        }
    }
}

/// The same in parts of [`NARROW`] columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(a: &[u32], b: &[u32], norms: (&[f32; ROWS], &[f32; COLUMNS]), block: &mut Block) {
    use std::arch::x86_64::*;
    /// Lanes of a register.
    const LANES: usize = 8;
    let a = a.as_chunks::<VECTOR_ROWS>().0;
    for (part, b) in b.chunks_exact((a.len() * NARROW).max(1)).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); NARROW / LANES]; VECTOR_ROWS];
        for (a, b) in a.iter().zip(b.as_chunks::<NARROW>().0) {
            let mut of_b = [_mm256_setzero_si256(); NARROW / LANES];
            for (j, of_b) in of_b.iter_mut().enumerate() {
                // SAFETY: LANES of the NARROW pairs, from j * LANES on.
                *of_b = unsafe { _mm256_loadu_si256(b.as_ptr().add(j * LANES).cast()) };
            }
            for (sums, &a) in sums.iter_mut().zip(a) {
                let a = _mm256_set1_epi32(a as i32);
                for (sum, &b) in sums.iter_mut().zip(&of_b) {
                    // No pair's sum leaves 32 bits; theirs may wrap around on the way.
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
                }
            }
        }
        let columns = part * NARROW..(part + 1) * NARROW;
        let of_b = norms.1[columns.clone()].as_chunks::<LANES>().0;
        for ((sums, block), of_a) in sums.iter().zip(block.iter_mut()).zip(norms.0) {
            let of_a = _mm256_set1_ps(of_a / (NORM * NORM));
            let to = block[columns.clone()].as_chunks_mut::<LANES>().0;
            for ((&sum, to), of_b) in sums.iter().zip(to).zip(of_b) {
                // SAFETY: `of_b` and `to` have LANES numbers each.
                unsafe {
                    let units = _mm256_mul_ps(of_a, _mm256_loadu_ps(of_b.as_ptr()));
                    _mm256_storeu_ps(to.as_mut_ptr(), _mm256_mul_ps(_mm256_cvtepi32_ps(sum), units));
                }
            }
        }
    }
}

/// A cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u32; LINE]);

/// Words of packed rows, at the beginning of a cache line.
pub(super) struct Lines {
    lines: Vec<Line>,
    /// Words.
    len: usize,
}

impl Lines {
    /// So many words, which are 0.
    #[cfg(target_arch = "x86_64")]
    pub fn new(len: usize) -> Self {
        Lines { lines: vec![Line::zeroed(); len.div_ceil(LINE)], len }
    }

    pub fn words(&self) -> &[u32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

/// Lines whose memory is kept for the next.
pub(super) struct Kept(pub Lines);

static KEPT: Mutex<Vec<Line>> = Mutex::new(Vec::new());

impl Kept {
    /// Room for so many words, whatever is in there.
    pub fn room(len: usize) -> Self {
        let lines = len.div_ceil(LINE);
        let mut kept = KEPT.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
        if kept.capacity() < lines {
            kept = pages::with_capacity(lines);
        }
        kept.resize(lines, Line::zeroed());
        Kept(Lines { lines: kept, len })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Ok(mut kept) = KEPT.lock() {
            *kept = std::mem::take(&mut self.0.lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_to_units_of_their_norm_and_laid_out_pair_by_pair() {
        let (mut packed, mut in_parts) = (vec![7; 3 * 2], vec![7; 4 * 2]);
        let mut norms = Vec::new();
        let rows = [1.0, 2.0, -2.0, 0.0, 0.0, -4.0];
        Packer::new(3, Unit::Avx2, 3, Layout { together: 3, run: 1 }).pack(&rows, &mut packed, |_, of| norms.push(of));
        let (unit, pair) = (NORM / 3.0, |a: f32, b: f32| u32::from(a as i16 as u16) | u32::from(b as i16 as u16) << 16);
        let [first, second] = [unit, 2.0 * unit].map(f32::round);
        assert_eq!(packed, [pair(first, second), 0, 0, pair(-second, 0.0), pair(-NORM, 0.0), 0]);
        Packer::new(3, Unit::Avx2, 4, Layout { together: 1, run: 1 }).pack(&rows, &mut in_parts, |_, _| ());
        assert_eq!(in_parts, [pair(first, second), pair(-second, 0.0), 0, pair(-NORM, 0.0), 0, 0, 0, 0]);
        assert!((norms[0][0] - 3.0).abs() < 1e-5 && (norms[1][0] - 4.0).abs() < 1e-5, "{norms:?}");
        // Each of the first row's numbers is less than half of a unit off.
        assert!(norms[0][1] > 0.0 && norms[0][1] < 3.0f32.sqrt() / 2.0 / unit, "{norms:?}");
    }

    #[test]
    fn what_rounding_loses_is_its_norm() {
        let row: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut packed = vec![0; Unit::Avx2.words(row.len())];
        let mut norms = [0.0; 2];
        Packer::new(row.len(), Unit::Avx2, 1, Layout { together: 1, run: 1 })
            .pack(&row, &mut packed, |_, of| norms = of);
        let rounded = packed.iter().flat_map(|pair| [*pair as i16, (*pair >> 16) as i16]);
        let unit = f64::from(norms[0] / NORM);
        let lost: f64 = row.iter().zip(rounded).map(|(&x, q)| (f64::from(x) - f64::from(q) * unit).powi(2)).sum();
        // A little more is said.
        assert!((f64::from(norms[1]) / lost.sqrt() - 1.0005).abs() < 1e-3, "{norms:?} {lost}");
    }
}
