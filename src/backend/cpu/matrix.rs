//! Operands of products: where nothing multiplies bf16 it is widened to f32, so that the f32 product of two such
//! operands is the one that the contract asks for.

use super::simd::{vectorised, Widen};
use super::*;
use half::bf16;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Elements per task of a rounding.
const ELEMENTS: usize = 1 << 16;

impl<'a> Matrix<'a, Cpu> {
    /// Some elements as f32; `space` holds them where they are not stored so.
    pub(super) fn widened<'s>(self, elements: Range<usize>, space: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Matrix::F32(values) => &values[elements],
            Matrix::Bf16(values) => {
                space.resize(elements.len(), 0.0);
                widen(&values[elements], space);
                space
            }
        }
    }

    /// The first `len` elements as f32.
    pub(super) fn all(self, len: usize) -> Cow<'a, [f32]> {
        Numbers::from(self).in_f32(len)
    }
}

/// Numbers as a product takes them.
#[derive(Clone, Copy)]
pub(crate) enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    /// To bf16.
    Rounded(&'a [f32]),
}

impl<'a> Numbers<'a> {
    /// Of a product that takes bf16, or f32: rounded, or as they are.
    pub fn new(values: &'a [f32], bf16: bool) -> Self {
        if bf16 {
            Numbers::Rounded(values)
        } else {
            Numbers::F32(values)
        }
    }

    /// Whether they are those of bf16.
    pub fn are_bf16(self) -> bool {
        !matches!(self, Numbers::F32(_))
    }

    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Numbers::F32(values) | Numbers::Rounded(values) => values.len(),
            Numbers::Bf16(values) => values.len(),
        }
    }

    /// Without the first ones.
    pub fn skip(self, first: usize) -> Self {
        match self {
            Numbers::F32(values) => Numbers::F32(&values[first..]),
            Numbers::Bf16(values) => Numbers::Bf16(&values[first..]),
            Numbers::Rounded(values) => Numbers::Rounded(&values[first..]),
        }
    }

    /// The first `len` as f32.
    pub fn in_f32(self, len: usize) -> Cow<'a, [f32]> {
        match self {
            Numbers::F32(values) => Cow::Borrowed(&values[..len]),
            Numbers::Bf16(values) => made(&values[..len], widen),
            Numbers::Rounded(values) => made(&values[..len], round_and_widen),
        }
    }
}

/// On all threads.
fn made<'a, T: Sync>(values: &[T], make: impl Fn(&[T], &mut [f32]) + Sync) -> Cow<'a, [f32]> {
    let mut wide = vec![0.0; values.len()];
    let parts = wide.par_chunks_mut(ELEMENTS).zip(values.par_chunks(ELEMENTS));
    parts.for_each(|(to, from)| make(from, to));
    Cow::Owned(wide)
}

impl<'a> From<&'a [f32]> for Numbers<'a> {
    fn from(values: &'a [f32]) -> Self {
        Numbers::F32(values)
    }
}

impl<'a> From<Matrix<'a, Cpu>> for Numbers<'a> {
    fn from(matrix: Matrix<'a, Cpu>) -> Self {
        match matrix {
            Matrix::F32(values) => Numbers::F32(values),
            Matrix::Bf16(values) => Numbers::Bf16(values),
        }
    }
}

/// Rounded to bf16.
#[inline(always)]
pub(super) fn nearest(x: f32) -> bf16 {
    let bits = x.to_bits();
    // Half of the last place that stays, less one where that place is even: ties go to the even one.
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    bf16::from_bits(if x.is_nan() { 0x7fff } else { rounded })
}

/// An encoder whose operands are f32, or were made so.
pub(super) struct F32Encoder<'a> {
    pub input: Cow<'a, [f32]>,
    pub w_enc: Cow<'a, [f32]>,
    pub b_enc: &'a [f32],
    pub rows: usize,
    pub d_in: usize,
    pub d_sae: usize,
}

impl<'a> From<&Encoder<'a, Cpu>> for F32Encoder<'a> {
    fn from(encoder: &Encoder<'a, Cpu>) -> Self {
        let &Encoder { input, w_enc, b_enc, rows, d_in, d_sae } = encoder;
        F32Encoder { input: input.all(rows * d_in), w_enc: w_enc.all(d_sae * d_in), b_enc, rows, d_in, d_sae }
    }
}

vectorised! {
    fn widen(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.wide();
        }
    }

    fn round_all(from: &[f32], to: &mut [bf16]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = nearest(from);
        }
    }

    fn round_and_widen(from: &[f32], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = nearest(from).wide();
        }
    }
}

pub(super) fn round(op: RoundBf16<'_, Cpu>) -> Result<()> {
    let RoundBf16 { from, len, to } = op;
    let parts = to[..len].par_chunks_mut(ELEMENTS).zip(from[..len].par_chunks(ELEMENTS));
    parts.for_each(|(to, from)| round_all(from, to));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_ties_go_to_the_even_one() {
        // One place of bf16 at 1 is 2^-7.
        let place = 1.0 / 128.0;
        let from =
            vec![1.0 + place * 0.5, 1.0 + place * 0.51, 1.0 + place * 1.5, -1.0 - place * 0.49, 3.4e38, f32::NAN];
        let mut to = vec![bf16::ZERO; 6];
        Cpu.round_bf16(RoundBf16 { from: &from, len: 6, to: &mut to }).unwrap();
        let expected = [1.0, 1.0 + place, 1.0 + 2.0 * place, -1.0, f32::INFINITY];
        assert_eq!(to[..5].iter().map(|x| x.to_f32()).collect::<Vec<_>>(), expected);
        assert_eq!(to[5].to_bits(), 0x7fff);
    }

    #[test]
    fn every_upper_half_stays_as_it_is_and_others_are_rounded_as_the_half_crate_does() {
        let from: Vec<f32> = (0..1u32 << 20).map(|i| f32::from_bits(i << 12 | 0x801)).collect();
        let mut to = vec![bf16::ZERO; from.len()];
        Cpu.round_bf16(RoundBf16 { from: &from, len: from.len(), to: &mut to }).unwrap();
        for (from, to) in from.iter().zip(to).filter(|(from, _)| !from.is_nan()) {
            assert_eq!(to.to_bits(), bf16::from_f32(*from).to_bits(), "{from:e}");
        }
        let exact: Vec<bf16> = (0..0x7f80).map(bf16::from_bits).collect();
        let wide = Matrix::<Cpu>::Bf16(&exact).all(exact.len()).into_owned();
        let mut back = vec![bf16::ZERO; exact.len()];
        Cpu.round_bf16(RoundBf16 { from: &wide, len: exact.len(), to: &mut back }).unwrap();
        assert_eq!(back, exact);
    }
}
