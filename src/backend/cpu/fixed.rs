//! Products of rows rounded to 16-bit integers, for machines that multiply pairs of them in one instruction
//! (AVX512-VNNI, `vpdpwssd`: twice as fast as f32; AVX2, `vpmaddwd` and an addition: 1.6 times), and near enough to
//! tell which pre-activations can matter at all. Nothing that is computed here leaves the backend.
//!
//! A row's unit is its norm by [`NORM`], so that no product of two rows leaves 32 bits, however long they are,
//! and rounding loses the same of every row: about 0.3 `sqrt(D)` units, 2.4e-4 of its norm at `D = 768`. bfloat16
//! would lose five times that, and its `vdpbf16ps` is slower than f32 on Intel's Emerald Rapids.

use super::pages;
use super::simd::{multiply_add, sum_of_squares, vectorised};
use bytemuck::{Pod, Zeroable};
use std::sync::Mutex;

/// Rows of the left matrix in a product's block.
pub(super) const ROWS: usize = 6;
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
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Avx2,
    Avx512Vnni,
}

impl Unit {
    /// Rows of the right matrix whose pairs lie side by side: what there are registers for.
    fn columns(self) -> usize {
        match self {
            Unit::Avx2 => NARROW,
            Unit::Avx512Vnni => COLUMNS,
        }
    }

    /// What multiplies rows of this width faster than in f32; none where nothing does, or sums could leave 32 bits.
    pub fn fastest(d_in: usize) -> Option<Unit> {
        // Where AVX-512 has no such instruction, it is as fast in f32.
        let fastest = if has_avx512() { Unit::Avx512Vnni } else { Unit::Avx2 };
        (fastest.is_available() && d_in <= WIDEST).then_some(fastest)
    }

    /// Whether this machine has it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        match self {
            Unit::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            Unit::Avx512Vnni => has_avx512() && std::arch::is_x86_feature_detected!("avx512vnni"),
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

/// Numbers that a row takes when it is packed: pairs of them.
pub(super) fn pairs(d_in: usize) -> usize {
    d_in.div_ceil(2).max(1)
}

vectorised! {
    /// Rounds a row to units of `norm / NORM`; returns the squared norm of what is lost, in units.
    fn round(row: &[f32], norm: f32, to: &mut [i16]) -> f32 {
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
}

/// Rows that are rounded and laid out pair by pair, and the norms that their errors depend on.
pub(super) struct Packer {
    d_in: usize,
    /// Rows whose pairs lie side by side.
    together: usize,
    rounded: Vec<i16>,
}

impl Packer {
    /// For [`ROWS`] rows of the left matrix.
    #[cfg(target_arch = "x86_64")]
    pub fn of_rows(d_in: usize) -> Self {
        Self::new(d_in, ROWS, ROWS)
    }

    /// For [`COLUMNS`] rows of the right matrix, as `unit` multiplies them.
    pub fn of_columns(d_in: usize, unit: Unit) -> Self {
        Self::new(d_in, COLUMNS, unit.columns())
    }

    fn new(d_in: usize, rows: usize, together: usize) -> Self {
        Packer { d_in, together, rounded: vec![0; rows * 2 * pairs(d_in)] }
    }

    /// Rounds rows of `d_in` numbers and lays them out: the first pair of each of those that lie together, the second
    /// pair of each, and so on, then the next rows. Rows that are not there, and the number after an odd end, are 0.
    /// `to` takes [`pairs`] of every row that may be there. Calls `keep(row, |row|, |what rounding takes from it|)`.
    pub fn pack(&mut self, rows: &[f32], to: &mut [u32], mut keep: impl FnMut(usize, [f32; 2])) {
        let (d_in, width) = (self.d_in, 2 * pairs(self.d_in));
        let n = rows.len() / d_in.max(1);
        for (i, (row, to)) in rows.chunks_exact(d_in.max(1)).zip(self.rounded.chunks_exact_mut(width)).enumerate() {
            let norm = norm_of(row);
            // The unit's own rounding is one of those of the sums.
            let lost = 1.001 * round(row, norm, &mut to[..d_in]).sqrt();
            keep(i, [norm, lost * (norm / NORM)]);
        }
        self.rounded[n * width..].fill(0);
        let parts = to.chunks_exact_mut(self.together * pairs(d_in));
        for (rounded, to) in self.rounded.chunks_exact(self.together * width).zip(parts) {
            lay_out(rounded, self.together, to);
        }
    }
}

/// Pairs of so many rows, side by side.
fn lay_out(rounded: &[i16], rows: usize, to: &mut [u32]) {
    /// Pairs at a time: what is written stays in the first-level cache.
    const DEPTH: usize = 16;
    for (depth, to) in to.chunks_mut(DEPTH * rows).enumerate() {
        for (i, row) in rounded.chunks_exact(rounded.len() / rows).enumerate() {
            let pairs = row[2 * DEPTH * depth..].as_chunks::<2>().0;
            for (to, &[first, second]) in to[i..].iter_mut().step_by(rows).zip(pairs) {
                *to = u32::from(first as u16) | u32::from(second as u16) << 16;
            }
        }
    }
}

/// More than what rounding loses of numbers too small for their squares.
const NORM_OF_TINY: f32 = 1e-30;

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
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn products_avx512(a: &[u32], b: &[u32], norms: (&[f32; ROWS], &[f32; COLUMNS]), block: &mut Block) {
    use std::arch::x86_64::*;
    /// Lanes of a register.
    const LANES: usize = 16;
    let mut sums = [[_mm512_setzero_si512(); COLUMNS / LANES]; ROWS];
    let (a, b) = (a.as_chunks::<ROWS>().0, b.as_chunks::<COLUMNS>().0);
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

/// The same in parts of [`NARROW`] columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(a: &[u32], b: &[u32], norms: (&[f32; ROWS], &[f32; COLUMNS]), block: &mut Block) {
    use std::arch::x86_64::*;
    /// Lanes of a register.
    const LANES: usize = 8;
    let a = a.as_chunks::<ROWS>().0;
    for (part, b) in b.chunks_exact((a.len() * NARROW).max(1)).enumerate() {
        let mut sums = [[_mm256_setzero_si256(); NARROW / LANES]; ROWS];
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
struct Line([u32; 16]);

/// Packed rows, at the beginning of a cache line; the memory is kept for the next.
pub(super) struct Packed(Vec<Line>);

static KEPT: Mutex<Vec<Line>> = Mutex::new(Vec::new());

impl Packed {
    /// Room for so many pairs, whatever is in there.
    pub fn room(len: usize) -> Self {
        let lines = len.div_ceil(16);
        let mut kept = KEPT.lock().map(|mut kept| std::mem::take(&mut *kept)).unwrap_or_default();
        if kept.capacity() < lines {
            kept = pages::with_capacity(lines);
        }
        kept.resize(lines, Line::zeroed());
        Packed(kept)
    }

    pub fn pairs(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }

    pub fn pairs_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        if let Ok(mut kept) = KEPT.lock() {
            *kept = std::mem::take(&mut self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_rounded_to_units_of_their_norm_and_laid_out_pair_by_pair() {
        let (mut packed, mut in_parts) = (vec![7; 3 * pairs(3)], vec![7; 4 * pairs(3)]);
        let mut norms = Vec::new();
        let rows = [1.0, 2.0, -2.0, 0.0, 0.0, -4.0];
        Packer::new(3, 3, 3).pack(&rows, &mut packed, |_, of| norms.push(of));
        let (unit, pair) = (NORM / 3.0, |a: f32, b: f32| u32::from(a as i16 as u16) | u32::from(b as i16 as u16) << 16);
        let [first, second] = [unit, 2.0 * unit].map(f32::round);
        assert_eq!(packed, [pair(first, second), 0, 0, pair(-second, 0.0), pair(-NORM, 0.0), 0]);
        Packer::new(3, 4, 1).pack(&rows, &mut in_parts, |_, _| ());
        assert_eq!(in_parts, [pair(first, second), pair(-second, 0.0), 0, pair(-NORM, 0.0), 0, 0, 0, 0]);
        assert!((norms[0][0] - 3.0).abs() < 1e-5 && (norms[1][0] - 4.0).abs() < 1e-5, "{norms:?}");
        // Each of the first row's numbers is less than half of a unit off.
        assert!(norms[0][1] > 0.0 && norms[0][1] < 3.0f32.sqrt() / 2.0 / unit, "{norms:?}");
    }

    #[test]
    fn what_rounding_loses_is_its_norm() {
        let row: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut packed = vec![0; pairs(row.len())];
        let mut norms = [0.0; 2];
        Packer::new(row.len(), 1, 1).pack(&row, &mut packed, |_, of| norms = of);
        let rounded = packed.iter().flat_map(|pair| [*pair as i16, (*pair >> 16) as i16]);
        let unit = f64::from(norms[0] / NORM);
        let lost: f64 = row.iter().zip(rounded).map(|(&x, q)| (f64::from(x) - f64::from(q) * unit).powi(2)).sum();
        // A little more is said.
        assert!((f64::from(norms[1]) / lost.sqrt() - 1.0005).abs() < 1e-3, "{norms:?} {lost}");
    }
}
