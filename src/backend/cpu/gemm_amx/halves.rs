//! Tiles of bf16: a product of two such numbers is exact in f32, and tiles add it in f32.

use super::super::amx::{load, multiply, zero, ROW_BYTES, TILE};
use super::super::matrix::Numbers;
use super::lines::{Lines, Load, Rounded};
use super::{Format, Scale, Side, Sums, Target, Tile};
use std::arch::x86_64::*;

/// A word holds numbers `i` and `i + 16` of a line's step. Of the left matrix a tile's row is a line; of the right one it is
/// word `i` of all lines.
pub(super) struct Halves;

impl Format for Halves {
    const SIDE: usize = 2 * TILE;
    const DEPTH: usize = ROW_BYTES / 2;
    const TILES: usize = 2;
    const STEPS: usize = 72;
    const WAITING: usize = 4;

    unsafe fn pack(lines: &Lines, across: bool, tiles: &mut [Tile], _scales: &mut [Scale]) {
        // SAFETY: the caller's promise.
        unsafe {
            match lines.numbers {
                Numbers::F32(numbers) | Numbers::Rounded(numbers) => {
                    pack(numbers.as_ptr().cast::<Rounded>(), lines, across, tiles);
                }
                Numbers::Bf16(numbers) => pack(numbers.as_ptr(), lines, across, tiles),
            }
        }
    }

    unsafe fn sum(left: Side, right: Side, sums: &mut Sums) {
        // SAFETY: the caller's promise; each is a whole tile.
        unsafe {
            zero!("tmm0", "tmm1", "tmm2", "tmm3");
            for (left, right) in left.tiles.as_chunks::<2>().0.iter().zip(right.tiles.as_chunks::<2>().0) {
                load!("tmm4", left[0].0.as_ptr(), ROW_BYTES);
                load!("tmm6", right[0].0.as_ptr(), ROW_BYTES);
                load!("tmm5", left[1].0.as_ptr(), ROW_BYTES);
                load!("tmm7", right[1].0.as_ptr(), ROW_BYTES);
                multiply!("tdpbf16ps", "tmm0", "tmm4", "tmm6");
                multiply!("tdpbf16ps", "tmm1", "tmm4", "tmm7");
                multiply!("tdpbf16ps", "tmm2", "tmm5", "tmm6");
                multiply!("tdpbf16ps", "tmm3", "tmm5", "tmm7");
            }
            sums.store();
        }
    }

    unsafe fn put(sums: &Sums, _scales: [&Scale; 2], target: Target) {
        // SAFETY: the caller's promise.
        unsafe { put(sums, target) };
    }
}

/// SAFETY: as of [`Format::put`].
#[target_feature(enable = "avx512f")]
unsafe fn put(sums: &Sums, target: Target) {
    for (quarter, Tile(rows)) in sums.0.iter().enumerate() {
        let [first_row, first_column] = [quarter / 2 * TILE, quarter % 2 * TILE];
        for (row, sums) in rows.iter().enumerate().take(target.rows.saturating_sub(first_row)) {
            // SAFETY: 16 words, aligned; the caller's promise.
            unsafe { target.put(first_row + row, first_column, _mm512_load_ps(sums.as_ptr().cast())) };
        }
    }
}

/// SAFETY: `first` is the first of the lines' numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn pack<T: Load>(first: *const T, lines: &Lines, across: bool, tiles: &mut [Tile]) {
    let steps = lines.depth.div_ceil(Halves::DEPTH);
    let upper = _mm512_set1_epi32(-1 << 16);
    let mut squares = [[_mm512_setzero_ps(); TILE]; 2];
    for (tile, step) in lines.tiles_and_steps(tiles.len() / steps, steps) {
        for (half, square) in squares.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { lines.square(first, tile * TILE, step * Halves::DEPTH + half * TILE, across, square) };
        }
        let Tile(rows) = &mut tiles[(tile / 2 * steps + step) * Halves::TILES + tile % 2];
        for i in 0..TILE {
            // A number of bf16 is the upper half of one of f32.
            let (first, second) = (_mm512_castps_si512(squares[0][i]), _mm512_castps_si512(squares[1][i]));
            let words = _mm512_or_si512(_mm512_srli_epi32::<16>(first), _mm512_and_si512(second, upper));
            // SAFETY: 16 words, aligned.
            unsafe { _mm512_store_si512(rows[i].as_mut_ptr().cast(), words) };
        }
    }
}
