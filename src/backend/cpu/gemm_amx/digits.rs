//! Tiles of digits: f32's products from those of 8-bit integers, whose sums are exact.
//!
//! The numbers of a line's chunk are made multiples of one power of two, `x = q 2ᵉ`, the largest `|q|` from about 2³⁰ on and
//! below 2³¹; and `q = d₀ 2²⁴ + d₁ 2¹⁶ + d₂ 2⁸ + d₃`, with digits from -128 to 127. Of the sixteen products of two such numbers'
//! digits ten are added, those of places from 2²⁴ on, all of one place in one sum of 32 bits; the others come to less than
//! 2⁻²⁸ of the product of the two largest numbers. Where no number of the right side's lines is [`EVEN`] times their mean,
//! its last digit is left out, too: that is 2⁻²³ of the line's largest number at most, and positive as often as negative.
//!
//! So errors are small beside the lengths of row and column, as those of sums in f32, and smaller than these as a rule. But
//! beside one product they are not where both its numbers are far smaller than the largest of their lines: of a number
//! below 2⁻⁷ of that last bits are lost, or below 1 / [`EVEN`] in columns that are even. A line with a number that is not
//! finite is not a number, as a whole; what is below 2⁻¹²⁶ is zero.
//!
//! (The scheme is that of Ootomo, Ozaki and Yokota, "DGEMM on integer matrix multiplication unit", 2024.)

use super::super::amx::{multiply, stream, zero, ROW_BYTES, TILE};
use super::super::matrix::Numbers;
use super::lines::{Lines, Load, Rounded};
use super::{Format, Scale, Side, Sums, Target, Tile};
use std::arch::x86_64::*;

/// Of a number.
const DIGITS: usize = 4;
/// With 128 added to all digits but the first, these are bytes.
const DIGITS_BIAS: i32 = 0x0080_8080;
/// Lines between that which is packed and that which is brought to the cache meanwhile.
const AHEAD: usize = 2;
/// Vectors of numbers that are measured at once.
const VECTORS: usize = 4;
/// A line's largest number beside the mean of them all, at most, if three digits are enough.
const EVEN: f32 = 6.0;

/// `[step][digit]`. Byte `j` of word `i` is a digit of number `16 j + i` of a line's step; of the left matrix a tile's row is
/// a line, of the right one it is word `i` of all lines.
pub(super) struct Digits;

impl Format for Digits {
    const SIDE: usize = TILE;
    const DEPTH: usize = ROW_BYTES;
    const TILES: usize = DIGITS;
    /// So that sums of the first digits' products, 127² each, are numbers of f32.
    const STEPS: usize = 12;
    const WAITING: usize = 1;

    unsafe fn pack(lines: &Lines, across: bool, tiles: &mut [Tile], scales: &mut [Scale]) {
        // SAFETY: the caller's promise.
        unsafe {
            match lines.numbers {
                Numbers::F32(numbers) => pack(numbers.as_ptr(), lines, across, tiles, scales),
                Numbers::Bf16(numbers) => pack(numbers.as_ptr(), lines, across, tiles, scales),
                Numbers::Rounded(numbers) => pack(numbers.as_ptr().cast::<Rounded>(), lines, across, tiles, scales),
            }
        }
    }

    unsafe fn sum(left: Side, right: Side, sums: &mut Sums) {
        // SAFETY: the caller's promise.
        unsafe {
            if right.scale.has_outliers {
                sum::<true>(left.tiles, right.tiles, sums);
            } else {
                sum::<false>(left.tiles, right.tiles, sums);
            }
        }
    }

    unsafe fn put(sums: &Sums, scales: [&Scale; 2], target: Target) {
        // SAFETY: the caller's promise.
        unsafe { put(sums, scales, target) };
    }
}

/// SAFETY: `first` is the first of the lines' numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack<T: Load>(first: *const T, lines: &Lines, across: bool, tiles: &mut [Tile], scales: &mut [Scale]) {
    scales.fill(Scale::default());
    // SAFETY: the caller's promise.
    unsafe {
        if lines.lie_along_k() && !across {
            pack_lines(first, lines, tiles, scales);
        } else {
            measure(first, lines, scales);
            pack_squares(first, lines, across, tiles, scales);
        }
    }
}

/// Packs lines of the left matrix that lie along k, each while it is in the first-level cache.
///
/// SAFETY: as of [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_lines<T: Load>(first: *const T, lines: &Lines, tiles: &mut [Tile], scales: &mut [Scale]) {
    let of_side = lines.depth.div_ceil(Digits::DEPTH) * DIGITS;
    for (tile, tiles) in tiles.chunks_exact_mut(of_side).enumerate() {
        for i in 0..TILE {
            let line = tile * TILE + i;
            if line < lines.lines {
                // SAFETY: the caller's promise.
                unsafe { measure_from(first, lines, line, scales) };
            }
            let factor = _mm512_set1_ps(scales[tile].factors[i]);
            for (step, tiles) in tiles.as_chunks_mut().0.iter_mut().enumerate() {
                let k = step * Digits::DEPTH;
                let mut numbers = [_mm512_setzero_ps(); 4];
                for (quarter, numbers) in numbers.iter_mut().enumerate() {
                    let k = k + quarter * TILE;
                    lines.prefetch(first, line + AHEAD, k);
                    // SAFETY: the caller's promise.
                    *numbers = unsafe { lines.vector(first, line, k) };
                }
                put_digits(numbers, factor, tiles, i);
            }
        }
    }
}

/// Packs lines in either order of memory, from squares of 16 by 16 numbers.
///
/// SAFETY: as of [`pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack_squares<T: Load>(first: *const T, lines: &Lines, across: bool, tiles: &mut [Tile], scales: &[Scale]) {
    let steps = lines.depth.div_ceil(Digits::DEPTH);
    let (tiles, _) = tiles.as_chunks_mut();
    let mut squares = [[_mm512_setzero_ps(); TILE]; 4];
    for (tile, step) in lines.tiles_and_steps(scales.len(), steps) {
        let (line, k) = (tile * TILE, step * Digits::DEPTH);
        for (quarter, square) in squares.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { lines.square(first, line, k + quarter * TILE, across, square) };
        }
        let factors = &scales[tile].factors;
        for i in 0..TILE {
            // SAFETY: 16 factors.
            let factor = if across { unsafe { _mm512_loadu_ps(factors.as_ptr()) } } else { _mm512_set1_ps(factors[i]) };
            let numbers = [squares[0][i], squares[1][i], squares[2][i], squares[3][i]];
            put_digits(numbers, factor, &mut tiles[tile * steps + step], i);
        }
    }
}

/// Puts the digits of 64 numbers into row `i` of a step's tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn put_digits(numbers: [__m512; 4], factor: __m512, tiles: &mut [Tile; DIGITS], i: usize) {
    for (words, Tile(rows)) in digits(numbers, factor).into_iter().zip(tiles) {
        // SAFETY: 16 words, aligned.
        unsafe { _mm512_store_si512(rows[i].as_mut_ptr().cast(), words) };
    }
}

/// Finds the scales of lines: their factors, exponents and outliers.
///
/// SAFETY: `first` is the first of the lines' numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn measure<T: Load>(first: *const T, lines: &Lines, scales: &mut [Scale]) {
    for line in (0..lines.lines).step_by(if lines.lie_along_k() { 1 } else { VECTORS * TILE }) {
        // SAFETY: the caller's promise.
        unsafe { measure_from(first, lines, line, scales) };
    }
}

/// Those of a line that lies along k, or else of 64 lines.
///
/// SAFETY: as of [`measure`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn measure_from<T: Load>(first: *const T, lines: &Lines, line: usize, scales: &mut [Scale]) {
    let mut set = |line: usize, most: u32, sum: f32| {
        scales[line / TILE].set(line % TILE, most, sum / lines.depth as f32);
    };
    let along_k = lines.lie_along_k();
    let (mut most, mut sum) = ([_mm512_setzero_si512(); VECTORS], [_mm512_setzero_ps(); VECTORS]);
    for k in (0..lines.depth).step_by(if along_k { VECTORS * TILE } else { 1 }) {
        for i in 0..VECTORS {
            let (line, k) = if along_k { (line, k + i * TILE) } else { (line + i * TILE, k) };
            // SAFETY: the caller's promise.
            let size = _mm512_abs_ps(unsafe { lines.vector(first, line, k) });
            most[i] = _mm512_max_epu32(most[i], _mm512_castps_si512(size));
            sum[i] = _mm512_add_ps(sum[i], size);
        }
    }
    if along_k {
        let most = _mm512_max_epu32(_mm512_max_epu32(most[0], most[1]), _mm512_max_epu32(most[2], most[3]));
        let sum = _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3]));
        set(line, _mm512_reduce_max_epu32(most), _mm512_reduce_add_ps(sum));
    } else {
        let (mut mosts, mut sums) = ([0u32; VECTORS * TILE], [0f32; VECTORS * TILE]);
        for i in 0..VECTORS {
            // SAFETY: 16 of each.
            unsafe {
                _mm512_storeu_si512(mosts[i * TILE..].as_mut_ptr().cast(), most[i]);
                _mm512_storeu_ps(sums[i * TILE..].as_mut_ptr(), sum[i]);
            }
        }
        for i in 0..mosts.len().min(lines.lines - line) {
            set(line + i, mosts[i], sums[i]);
        }
    }
}

impl Scale {
    /// Of a line, from the bits of its largest number and the mean of all, both without signs.
    fn set(&mut self, line: usize, most: u32, mean: f32) {
        const BIAS: i32 = 127;
        let is_finite = most < f32::INFINITY.to_bits();
        // It is below 2^exponent even with what `digits` adds to numbers below 2³¹, whose last bit is of place 2⁷.
        let exponent = (((most + ((DIGITS_BIAS as u32) >> 7)) >> 23) as i32 - BIAS + 1).max(-96);
        let factor = f32::from_bits(((31 - exponent + BIAS) as u32) << 23);
        self.factors[line] = if is_finite { factor } else { 0.0 };
        // A first digit is of place 2²⁴.
        self.exponents[line] = if is_finite { (exponent - 31 + 24) as f32 } else { f32::NAN };
        self.has_outliers |= f32::from_bits(most) > EVEN * mean;
    }
}

/// The digits of 64 numbers, the first ones first: byte `j` of a word belongs to number `j` of those at its place.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn digits(numbers: [__m512; 4], factor: __m512) -> [__m512i; DIGITS] {
    let bias = _mm512_set1_epi32(DIGITS_BIAS);
    let mut q = [bias; 4];
    for (q, numbers) in q.iter_mut().zip(numbers) {
        *q = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(numbers, factor)), bias);
    }
    // Bytes 0 and 1, or 2 and 3, of every other number.
    let lower = |a, b| _mm512_mask_mov_epi16(a, 0xaaaa_aaaa, _mm512_slli_epi32::<16>(b));
    let upper = |a, b| _mm512_mask_mov_epi16(b, 0x5555_5555, _mm512_srli_epi32::<16>(a));
    let [lower, upper] = [[lower(q[0], q[2]), lower(q[1], q[3])], [upper(q[0], q[2]), upper(q[1], q[3])]];
    let even = |[a, b]: [__m512i; 2]| _mm512_mask_mov_epi8(a, 0xaaaa_aaaa_aaaa_aaaa, _mm512_slli_epi32::<8>(b));
    let odd = |[a, b]: [__m512i; 2]| _mm512_mask_mov_epi8(b, 0x5555_5555_5555_5555, _mm512_srli_epi32::<8>(a));
    let signed = |bytes| _mm512_xor_si512(bytes, _mm512_set1_epi8(-128));
    [odd(upper), signed(even(upper)), signed(odd(lower)), signed(even(lower))]
}

/// Sums of digits' products, in integers: a sum for each place. With the last digits of the right tiles, or without.
///
/// SAFETY: the caller has tiles.
unsafe fn sum<const WITH_LAST: bool>(left: &[Tile], right: &[Tile], sums: &mut Sums) {
    // tmm0 to tmm3 are the sums, tmm4 to tmm6 digits of the right tile, tmm7 one of the left tile. Two sums by two, a place
    // after the other, would read each digit for each of its products, and wait for the second-level cache; here a sum's
    // next product waits for its last one, three times 52 cycles a step, which has nine of 16 each. A side is as large as
    // the first-level cache: a digit that is used again is no longer there.
    macro_rules! add {
        ($sum:tt, $right:tt) => {
            multiply!("tdpbssd", $sum, "tmm7", $right)
        };
    }
    // SAFETY: the caller's promise; each is a whole tile.
    unsafe {
        zero!("tmm0", "tmm1", "tmm2", "tmm3");
        for (left, right) in left.as_chunks::<DIGITS>().0.iter().zip(right.as_chunks::<DIGITS>().0) {
            stream!("tmm7", left[2].0.as_ptr(), ROW_BYTES);
            stream!("tmm4", right[0].0.as_ptr(), ROW_BYTES);
            stream!("tmm5", right[1].0.as_ptr(), ROW_BYTES);
            add!("tmm3", "tmm5"); // 2 1
            add!("tmm2", "tmm4"); // 2 0
            stream!("tmm7", left[1].0.as_ptr(), ROW_BYTES);
            stream!("tmm6", right[2].0.as_ptr(), ROW_BYTES);
            add!("tmm1", "tmm4"); // 1 0
            add!("tmm3", "tmm6"); // 1 2
            add!("tmm2", "tmm5"); // 1 1
            stream!("tmm7", left[3].0.as_ptr(), ROW_BYTES);
            add!("tmm3", "tmm4"); // 3 0
            stream!("tmm7", left[0].0.as_ptr(), ROW_BYTES);
            add!("tmm0", "tmm4"); // 0 0
            add!("tmm2", "tmm6"); // 0 2
            add!("tmm1", "tmm5"); // 0 1
            if WITH_LAST {
                stream!("tmm6", right[3].0.as_ptr(), ROW_BYTES);
                add!("tmm3", "tmm6"); // 0 3
            }
        }
        sums.store();
    }
}

/// Puts the sums of numbers, from those of their digits' products.
///
/// SAFETY: as of [`Format::put`].
#[target_feature(enable = "avx512f")]
unsafe fn put(Sums(places): &Sums, [left, right]: [&Scale; 2], target: Target) {
    let place = _mm512_set1_ps(1.0 / 256.0);
    // SAFETY: 16 numbers, of sums aligned; the caller's promise.
    unsafe {
        let of_columns = _mm512_loadu_ps(right.exponents.as_ptr());
        for row in 0..target.rows.min(TILE) {
            let sum_of = |digit: usize| _mm512_cvtepi32_ps(_mm512_load_si512(places[digit].0[row].as_ptr().cast()));
            let mut sum = sum_of(3);
            for digit in (0..3).rev() {
                sum = _mm512_fmadd_ps(sum, place, sum_of(digit));
            }
            let exponents = _mm512_add_ps(_mm512_set1_ps(left.exponents[row]), of_columns);
            target.put(row, 0, _mm512_scalef_ps(sum, exponents));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::gemm::Operand;
    use super::super::is_available;
    use super::*;
    use crate::random::{Random, Stream};

    /// Digits of 16 times four numbers, `[digit][i][j]`.
    fn digits_of(numbers: [[f32; TILE]; 4], factor: f32) -> [[[i8; 4]; TILE]; DIGITS] {
        // SAFETY: the callers' machine has the vectors; they are as large as the arrays.
        unsafe {
            let numbers = numbers.map(|numbers| _mm512_loadu_ps(numbers.as_ptr()));
            std::mem::transmute::<[__m512i; DIGITS], _>(digits(numbers, _mm512_set1_ps(factor)))
        }
    }

    #[test]
    fn a_number_is_the_sum_of_its_digits() {
        if !is_available() {
            return;
        }
        let mut random = Random::new(3, Stream::Weights, 0);
        let exponents = [-126, -97, -96, -40, 0, 1, 60, 127];
        // From 0x7e_feff on the first digit would be 128 if the largest number's factor were that of its binade.
        let mantissas = (0x7e_fe00..0x7f_0200).chain([0, 0x7f_ffff]);
        for (exponent, mantissa) in exponents.into_iter().flat_map(|e| mantissas.clone().map(move |m| (e, m))) {
            let mut scale = Scale::default();
            let largest = f32::from_bits((((exponent + 127) as u32) << 23) | mantissa);
            scale.set(5, largest.to_bits(), largest);
            let mut numbers = [(); 4].map(|()| [(); TILE].map(|()| (2.0 * random.uniform() - 1.0) * largest));
            (numbers[0][0], numbers[3][15]) = (largest, -largest);
            let digits = digits_of(numbers, scale.factors[5]);
            for (i, j) in (0..TILE).flat_map(|i| (0..4).map(move |j| (i, j))) {
                let q = (0..DIGITS).fold(0.0, |sum, digit| sum * 256.0 + f64::from(digits[digit][i][j]));
                let found = q * 2f64.powi(-24) * 2f64.powf(f64::from(scale.exponents[5]));
                let error = (found - f64::from(numbers[j][i])).abs();
                // A half of the last place.
                let most = f64::from(largest.max(2f32.powi(-96))) * 2f64.powi(-30);
                assert!(error <= most, "{found:e} of {:e}, the largest {largest:e}", numbers[j][i]);
            }
        }
    }

    #[test]
    fn lines_whose_largest_number_is_six_times_the_mean_have_outliers() {
        for (most, mean, expected) in [(5.9f32, 1.0, false), (6.1, 1.0, true), (0.0, 0.0, false)] {
            let mut scale = Scale::default();
            scale.set(0, 1f32.to_bits(), 1.0);
            scale.set(1, most.to_bits(), mean);
            scale.set(2, 1f32.to_bits(), 1.0);
            assert_eq!(scale.has_outliers, expected, "{most} of {mean}");
        }
    }

    /// In both orders of memory, over borders of vectors and of lines.
    #[test]
    fn lines_are_measured_as_they_are() {
        if !is_available() {
            return;
        }
        let (lines, depth) = (75, 83);
        // Those of the first two sides have outliers.
        let outlier = |line: usize, k: usize| if line == k && line < 2 * TILE { 900.0 } else { 0.0 };
        let number = |line: usize, k: usize| ((line * 31 + k * 17) % 101) as f32 - 50.0 - outlier(line, k);
        for (along_k, across) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut numbers = vec![0.0; lines * depth];
            for line in 0..lines {
                for k in 0..depth {
                    numbers[if along_k { line * depth + k } else { k * lines + line }] = number(line, k);
                }
            }
            let matrix = if along_k { Operand::rows(&*numbers, depth) } else { Operand::transposed(&*numbers, lines) };
            // What was packed before leaves no trace.
            let (mut tiles, mut scales) =
                ([Tile::default(); 40], [Scale { has_outliers: true, ..Scale::default() }; 5]);
            let lines_of = Lines::rows_of(matrix, lines, depth);
            // SAFETY: the machine has the vectors; the numbers are those of the lines.
            unsafe { pack(numbers.as_ptr(), &lines_of, across, &mut tiles, &mut scales) };
            let mut expected = [Scale::default(); 5];
            for line in 0..lines {
                let sizes = || (0..depth).map(|k| number(line, k).abs());
                let most = sizes().fold(0.0, f32::max);
                expected[line / TILE].set(line % TILE, most.to_bits(), sizes().sum::<f32>() / depth as f32);
            }
            for (found, expected) in scales.iter().zip(&expected) {
                assert_eq!(found.factors, expected.factors);
                assert_eq!(found.exponents, expected.exponents);
                assert_eq!(found.has_outliers, expected.has_outliers);
            }
        }
    }
}
