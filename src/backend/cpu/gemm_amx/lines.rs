//! What is packed: rows of a left matrix or columns of a right one, read by vectors of 16 numbers and squares of 16 lines.

use super::super::gemm::Operand;
use super::super::matrix::Numbers;
use super::TILE;
use half::bf16;
use std::arch::x86_64::*;

/// Lines of a matrix: number `k` of line `i` is at `i * line_stride + k * k_stride`; one of the strides is 1.
pub(super) struct Lines<'a> {
    pub numbers: Numbers<'a>,
    pub lines: usize,
    /// Numbers of a line.
    pub depth: usize,
    line_stride: usize,
    k_stride: usize,
}

impl<'a> Lines<'a> {
    pub fn rows_of(matrix: Operand<'a>, lines: usize, depth: usize) -> Self {
        Lines { numbers: matrix.numbers, lines, depth, line_stride: matrix.row_stride, k_stride: matrix.column_stride }
            .checked()
    }

    pub fn columns_of(matrix: Operand<'a>, lines: usize, depth: usize) -> Self {
        Lines { numbers: matrix.numbers, lines, depth, line_stride: matrix.column_stride, k_stride: matrix.row_stride }
            .checked()
    }

    /// So that all numbers are there.
    fn checked(self) -> Self {
        let last = (self.lines - 1) * self.line_stride + (self.depth - 1) * self.k_stride;
        assert!(
            last < self.numbers.len() && self.line_stride.min(self.k_stride) == 1,
            "the operand is too small, or its numbers are apart both ways"
        );
        self
    }

    /// Whether the numbers of a line lie side by side, and not number `k` of all lines.
    pub fn lie_along_k(&self) -> bool {
        self.k_stride == 1
    }

    /// Tiles of 16 lines, each with its steps of a depth, in about the order of memory.
    pub fn tiles_and_steps(&self, tiles: usize, steps: usize) -> impl Iterator<Item = (usize, usize)> {
        let along_k = self.lie_along_k();
        (0..tiles * steps).map(move |n| if along_k { (n / steps, n % steps) } else { (n % tiles, n / tiles) })
    }

    /// Has the number brought to the cache with those around it, if there is one.
    #[inline(always)]
    pub fn prefetch<T: Load>(&self, first: *const T, line: usize, k: usize) {
        let number = first.wrapping_add(line * self.line_stride + k * self.k_stride);
        // SAFETY: a hint, which may point anywhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(number.cast()) };
    }

    /// 16 numbers side by side in memory from number `k` of line `line` on, zeros where there are no more.
    ///
    /// # Safety
    /// `first` is the first of the numbers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub unsafe fn vector<T: Load>(&self, first: *const T, line: usize, k: usize) -> __m512 {
        let (lines, depth) = (self.lines.saturating_sub(line), self.depth.saturating_sub(k));
        let (vectors, lanes) = if self.lie_along_k() { (lines, depth) } else { (depth, lines) };
        let mask = if vectors == 0 { 0 } else { first_lanes(lanes) };
        // SAFETY: `checked` has seen that all numbers are there; what is masked is not read.
        unsafe { T::load(mask, first.wrapping_add(line * self.line_stride + k * self.k_stride)) }
    }

    /// 16 numbers from `k` on of 16 lines from `line` on: of a line after the other, or (`across`) of a `k` after the
    /// other.
    ///
    /// # Safety
    /// As of [`Lines::vector`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub unsafe fn square<T: Load>(
        &self,
        first: *const T,
        line: usize,
        k: usize,
        across: bool,
        square: &mut [__m512; TILE],
    ) {
        let (lines, depth) = (self.lines.saturating_sub(line), self.depth.saturating_sub(k));
        let (vectors, lanes, stride) =
            if self.lie_along_k() { (lines, depth, self.line_stride) } else { (depth, lines, self.k_stride) };
        let first = first.wrapping_add(line * self.line_stride + k * self.k_stride);
        for (i, vector) in square.iter_mut().enumerate() {
            let mask = if i < vectors { first_lanes(lanes) } else { 0 };
            // SAFETY: `checked` has seen that all numbers are there; what is masked is not read.
            *vector = unsafe { T::load(mask, first.wrapping_add(i * stride)) };
        }
        if self.lie_along_k() == across {
            transpose(square);
        }
    }
}

/// Numbers that are read as f32.
pub(super) trait Load {
    /// # Safety
    /// The machine has AVX-512 BW and VL; where the mask is set there are numbers.
    unsafe fn load(mask: __mmask16, from: *const Self) -> __m512;
}

impl Load for f32 {
    #[inline(always)]
    unsafe fn load(mask: __mmask16, from: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Load for bf16 {
    #[inline(always)]
    unsafe fn load(mask: __mmask16, from: *const bf16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }
}

/// One of f32 that is rounded to bf16.
#[repr(transparent)]
pub(super) struct Rounded(f32);

impl Load for Rounded {
    #[inline(always)]
    unsafe fn load(mask: __mmask16, from: *const Rounded) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { nearest(_mm512_maskz_loadu_ps(mask, from.cast())) }
    }
}

/// The nearest numbers of bf16; what lies half way goes to the even one.
#[inline]
#[target_feature(enable = "avx512f")]
fn nearest(x: __m512) -> __m512 {
    let (bits, upper) = (_mm512_castps_si512(x), _mm512_set1_epi32(-1 << 16));
    let is_odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), is_odd);
    let rounded = _mm512_and_si512(_mm512_add_epi32(bits, half), upper);
    // Of one that is none, rounding could make another.
    let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
    _mm512_castsi512_ps(_mm512_mask_mov_epi32(rounded, is_nan, upper))
}

/// A mask of the first lanes of 16.
pub(super) fn first_lanes(n: usize) -> __mmask16 {
    ((1u32 << n.min(TILE)) - 1) as __mmask16
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
