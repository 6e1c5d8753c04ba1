//! Products of numbers rounded to bfloat16, for machines that multiply pairs of them in one
//! instruction (AVX512-BF16, `vdpbf16ps`): twice as fast as f32, and near enough to tell which
//! pre-activations can matter at all. Nothing that is computed here leaves the backend.

/// Rows of the left matrix in a product's block.
pub(super) const ROWS: usize = 6;
/// Rows of the right matrix in a product's block.
pub(super) const COLUMNS: usize = 64;

/// A block of products.
pub(super) type Block = [[f32; COLUMNS]; ROWS];

/// Whether this machine has the instruction.
pub(super) fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Rounded to the nearest bfloat16, ties to even: its 16 bits. Not a number stays not a number.
#[inline(always)]
pub(super) fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16
}

/// The number that the bits stand for.
#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Numbers that a row takes when it is packed: pairs of them.
pub(super) fn pairs(d_in: usize) -> usize {
    d_in.div_ceil(2).max(1)
}

/// Rounds up to `WIDTH` rows of `d_in` numbers and lays them out pair by pair: the first pair of every
/// row, the second pair of every row, and so on. Rows that are not there, and the number after an odd
/// end, are 0. `to` takes `WIDTH * pairs(d_in)`.
pub(super) fn pack<const WIDTH: usize>(rows: &[f32], d_in: usize, to: &mut [u32]) {
    /// Pairs at a time: what is written stays in the first-level cache.
    const DEPTH: usize = 16;
    if rows.len() < WIDTH * d_in {
        to.fill(0);
    }
    for (depth, to) in to.chunks_mut(DEPTH * WIDTH).enumerate() {
        for (i, row) in rows.chunks_exact(d_in.max(1)).enumerate() {
            let row = &row[2 * DEPTH * depth..];
            pack_row::<WIDTH>(&row[..row.len().min(2 * DEPTH)], &mut to[i..]);
        }
    }
}

#[inline(always)]
fn pack_row<const WIDTH: usize>(row: &[f32], to: &mut [u32]) {
    let (whole, rest) = row.as_chunks::<2>();
    for (&[first, second], to) in whole.iter().zip(to.iter_mut().step_by(WIDTH)) {
        *to = u32::from(round(first)) | u32::from(round(second)) << 16;
    }
    if let &[last] = rest {
        to[whole.len() * WIDTH] = round(last).into();
    }
}

/// `block[i][j] = Σ a_i b_j` over packed rows.
///
/// # Safety
/// The machine must have the instruction: [`is_available`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) fn products(a: &[u32], b: &[u32], block: &mut Block) {
    use std::arch::x86_64::*;
    /// Lanes of a register.
    const LANES: usize = 16;
    let mut sums = [[_mm512_setzero_ps(); COLUMNS / LANES]; ROWS];
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
                // SAFETY: both are 512 bits, for which every pattern is valid.
                let (a, b) = unsafe {
                    (std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
                };
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
    }
    for (sums, block) in sums.iter().zip(block) {
        for (sum, to) in sums.iter().zip(block.as_chunks_mut::<LANES>().0) {
            // SAFETY: `to` has LANES numbers.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), *sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        let rounded = |bits: u32| round(f32::from_bits(bits));
        assert_eq!([0x3f80_0000, 0x3f80_8000, 0x3f81_8000, 0x3f80_8001].map(rounded), [0x3f80, 0x3f80, 0x3f82, 0x3f81]);
        assert_eq!(widen(round(-0.0)).to_bits(), (-0.0f32).to_bits());
        assert_eq!(widen(round(f32::MAX)), f32::INFINITY);
        assert!(widen(round(f32::NAN)).is_nan() && widen(rounded(0x7f80_0001)).is_nan());
    }

    #[test]
    fn rows_are_packed_pair_by_pair() {
        let mut packed = vec![7; 3 * pairs(3)];
        pack::<3>(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, &mut packed);
        let pair = |a: f32, b: f32| u32::from(round(a)) | u32::from(round(b)) << 16;
        assert_eq!(packed, [pair(1.0, 2.0), pair(4.0, 5.0), 0, pair(3.0, 0.0), pair(6.0, 0.0), 0]);
    }
}
