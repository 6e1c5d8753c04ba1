//! Where the encoder's pre-activations may be: `|h - about| <= margin`, from products that are cheaper
//! than f32 ones, or at least faster. Who wants some of them computes those with [`pre_activations`],
//! the one definition of `h` on all machines: how it was estimated leaves no trace in any result.

use super::bf16;
use super::gemm::{product_here, Operand};
use super::matrix::F32Encoder;
use super::simd::{dot, multiply_add, vectorised};
use super::*;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a task: with a panel of latents they fill the second-level cache.
pub(super) const CHUNK_ROWS: usize = 192;
/// Neighbouring latents whose estimates are handed out together, at most.
pub(super) const PANEL: usize = bf16::COLUMNS;
/// Latents of a product in f32, which is better with more of them.
const F32_LATENTS: usize = 8 * PANEL;

/// Estimates for one row and the latents of a panel, `first` and the next.
pub(super) struct Estimates<'a> {
    /// The first latent.
    pub first: usize,
    /// The row's activations.
    pub input: &'a [f32],
    /// `input · w_enc`, about.
    products: &'a [f32],
    bias: &'a [f32],
    of_latents: [&'a [f32]; 2],
    of_row: [f32; 2],
}

impl Estimates<'_> {
    /// The least and the greatest that `h weight`, or `|h| weight`, may be, but for [`SLACK`]; for latent `first + i`.
    pub fn bounds(&self, i: usize, weight: f32, magnitude: bool) -> [f32; 2] {
        let about = self.products[i] + self.bias[i];
        let about = if magnitude { about.abs() } else { about };
        let margin = self.of_row[0] * self.of_latents[0][i] + self.of_row[1] * self.of_latents[1][i] + TINY;
        let [least, most] = [(about - margin) * weight, (about + margin) * weight];
        [if least.is_nan() { f32::NEG_INFINITY } else { least }, if most.is_nan() { f32::INFINITY } else { most }]
    }
}

vectorised! {
    /// The latents of which `|h| weight` or, where not `magnitude`, `h weight` may exceed the bound: a bit for
    /// each. Not a number may be anything.
    pub(super) fn may_exceed(estimates: &Estimates<'_>, weight: Option<&[f32]>, magnitude: bool, bound: f32) -> u64 {
        let mut upper = upper_bounds::<FUSED>(estimates, magnitude);
        if let Some(weight) = weight {
            for (upper, &weight) in upper.iter_mut().zip(weight) {
                *upper *= weight;
            }
        }
        // The few roundings on the way here.
        let bound = bound - bound.abs() * SLACK;
        bits_above(&upper[..estimates.products.len()], |_| bound)
    }

    /// The same of `h`, each latent with a bound of its own.
    pub(super) fn may_exceed_each(estimates: &Estimates<'_>, bounds: &[f32]) -> u64 {
        let upper = upper_bounds::<FUSED>(estimates, false);
        bits_above(&upper[..estimates.products.len()], |i| bounds[i] - bounds[i].abs() * SLACK)
    }

    /// `h = x · w + b` of one latent.
    pub(super) fn pre_activation(x: &[f32], w: &[f32], b: f32) -> f32 {
        dot::<FUSED>(x, w) + b
    }

    /// Squared norms of a row and of what rounding to bfloat16 takes from it.
    fn squared_norms(row: &[f32]) -> [f64; 2] {
        const LANES: usize = 32;
        let mut sums = [[0.0f64; LANES]; 2];
        for block in row.chunks(LANES) {
            for (lane, &x) in block.iter().enumerate() {
                let lost = f64::from(x - bf16::widen(bf16::round(x)));
                sums[0][lane] += f64::from(x) * f64::from(x);
                sums[1][lane] += lost * lost;
            }
        }
        sums.map(|lanes| lanes.iter().sum())
    }
}

/// A part of a number that is more than some roundings to f32 take from it.
pub(super) const SLACK: f32 = 1.0 / (1 << 20) as f32;
/// More than what is lost where products are too small for a number.
const TINY: f32 = 1e-33;
/// More than what rounding loses of numbers so small that the instruction takes them for 0.
const NORM_OF_TINY: f32 = 1e-30;

#[inline(always)]
fn upper_bounds<const FUSED: bool>(e: &Estimates<'_>, magnitude: bool) -> [f32; PANEL] {
    let mut upper = [0.0; PANEL];
    let latents = e.products.iter().zip(e.bias).zip(e.of_latents[0].iter().zip(e.of_latents[1]));
    for (upper, ((&product, &bias), (&norm, &rounding))) in upper.iter_mut().zip(latents) {
        let about = product + bias;
        let about = if magnitude { about.abs() } else { about };
        let margin = multiply_add::<FUSED>(e.of_row[0], norm, multiply_add::<FUSED>(e.of_row[1], rounding, TINY));
        *upper = about + margin;
    }
    upper
}

#[inline(always)]
fn bits_above(upper: &[f32], bound: impl Fn(usize) -> f32) -> u64 {
    #[allow(clippy::neg_cmp_op_on_partial_ord)] // not a number is not at most the bound
    let above = |i: usize, upper: f32| !(upper <= bound(i));
    if !upper.iter().enumerate().fold(false, |any, (i, &upper)| any | above(i, upper)) {
        return 0;
    }
    upper.iter().enumerate().fold(0, |bits, (i, &upper)| bits | u64::from(above(i, upper)) << i)
}

/// An encoder, and how far its estimates can be off.
///
/// With `x = x' + dx` and `w = w' + dw` rounded, `|x·w - x'·w'| <= |dx| |w| + |x'| |dw|` (Cauchy and Schwarz);
/// adding `D` products rounds each sum once at most, which `2 D + 64` roundings of `|x| |w|` cover for the
/// estimate and `h` together.
pub(super) struct Estimator<'a> {
    pub encoder: F32Encoder<'a>,
    /// w_enc rounded, panel by panel; none on a machine that is not faster with it.
    rounded: Option<Vec<u32>>,
    /// `|w|` and `|dw|` of every latent.
    of_latents: [Vec<f32>; 2],
}

impl<'a> Estimator<'a> {
    /// With the products that this machine is fastest with.
    pub fn new(encoder: &Encoder<'a, Cpu>) -> Self {
        Self::with(encoder, bf16::is_available())
    }

    /// With products in f32.
    #[cfg(test)]
    pub fn in_f32(encoder: &Encoder<'a, Cpu>) -> Self {
        Self::with(encoder, false)
    }

    fn with(encoder: &Encoder<'a, Cpu>, rounds: bool) -> Self {
        let encoder = F32Encoder::from(encoder);
        let (d_in, d_sae) = (encoder.d_in, encoder.d_sae);
        let of_panel = PANEL * bf16::pairs(d_in);
        let mut rounded = rounds.then(|| vec![0; d_sae.div_ceil(PANEL) * of_panel]);
        let mut of_latents = [vec![0.0; d_sae], vec![0.0; d_sae]];
        let mut panels = rounded.as_mut().map(|rounded| rounded.chunks_mut(of_panel.max(1)));
        let [norms, roundings] = of_latents.each_mut().map(|of| of.chunks_mut(PANEL));
        let panels: Vec<_> = norms.zip(roundings).map(|of| (of, panels.as_mut().and_then(Iterator::next))).collect();
        panels.into_par_iter().enumerate().for_each(|(i, ((norms, roundings), panel))| {
            let weights = &encoder.w_enc[i * PANEL * d_in..][..norms.len() * d_in];
            for (latent, (norm, rounding)) in norms.iter_mut().zip(roundings).enumerate() {
                [*norm, *rounding] = norms_of(&weights[latent * d_in..][..d_in]);
            }
            if let Some(panel) = panel {
                bf16::pack::<PANEL>(weights, d_in, panel);
            }
        });
        Estimator { encoder, rounded, of_latents }
    }

    /// Factors of a row's margins: on `|w|` and on `|dw|`.
    fn of_row(&self, row: &[f32]) -> [f32; 2] {
        let [norm, rounding] = norms_of(row);
        let of_sums = (2.1 * row.len() as f32 + 64.0) * (f32::EPSILON / 2.0) * norm;
        // |x'| <= |x| + |dx|, and |w'| <= 1.01 |w|.
        match self.rounded {
            Some(_) => [rounding + 1.02 * of_sums, norm + rounding],
            None => [of_sums, 0.0],
        }
    }

    /// Estimates for `rows`, [`CHUNK_ROWS`] at most, and all latents: calls `keep(row in the chunk, estimates)`,
    /// the latents of a row ascending.
    pub fn for_each(&self, rows: Range<usize>, mut keep: impl FnMut(usize, &Estimates<'_>)) {
        let (d_in, b_enc) = (self.encoder.d_in, self.encoder.b_enc);
        let inputs: Vec<&[f32]> = rows.clone().map(|row| &self.encoder.input[row * d_in..][..d_in]).collect();
        let of_rows: Vec<[f32; 2]> = inputs.iter().map(|row| self.of_row(row)).collect();
        self.products(rows, |row, first, products| {
            let latents = first..first + products.len();
            let of_latents = self.of_latents.each_ref().map(|of| &of[latents.clone()]);
            let (input, bias, of_row) = (inputs[row], &b_enc[latents], of_rows[row]);
            keep(row, &Estimates { first, input, products, bias, of_latents, of_row });
        });
    }

    /// Calls `keep(row in the chunk, first latent, products of a panel)`.
    fn products(&self, rows: Range<usize>, keep: impl FnMut(usize, usize, &[f32])) {
        match &self.rounded {
            #[cfg(target_arch = "x86_64")]
            Some(rounded) => self.rounded_products(rounded, rows, keep),
            _ => self.f32_products(rows, keep),
        }
    }

    fn f32_products(&self, rows: Range<usize>, mut keep: impl FnMut(usize, usize, &[f32])) {
        let &F32Encoder { ref input, ref w_enc, d_in, d_sae, .. } = &self.encoder;
        let n = rows.len();
        let input = Operand::rows(&input[rows.start * d_in..rows.end * d_in], d_in);
        let mut tile = vec![0.0; n * F32_LATENTS.min(d_sae)];
        for first in (0..d_sae).step_by(F32_LATENTS) {
            let latents = F32_LATENTS.min(d_sae - first);
            let weights = Operand::transposed(&w_enc[first * d_in..(first + latents) * d_in], d_in);
            product_here([n, latents, d_in], &mut tile, input, weights, false);
            for (row, products) in tile.chunks_exact(latents).take(n).enumerate() {
                for (panel, products) in products.chunks(PANEL).enumerate() {
                    keep(row, first + panel * PANEL, products);
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn rounded_products(&self, rounded: &[u32], rows: Range<usize>, mut keep: impl FnMut(usize, usize, &[f32])) {
        let &F32Encoder { ref input, d_in, d_sae, .. } = &self.encoder;
        let pairs = bf16::pairs(d_in);
        let groups: Vec<Range<usize>> =
            rows.clone().step_by(bf16::ROWS).map(|first| first..rows.end.min(first + bf16::ROWS)).collect();
        let mut packed_input = vec![0; groups.len() * bf16::ROWS * pairs];
        for (group, packed) in groups.iter().zip(packed_input.chunks_exact_mut((bf16::ROWS * pairs).max(1))) {
            bf16::pack::<{ bf16::ROWS }>(&input[group.start * d_in..group.end * d_in], d_in, packed);
        }
        let mut block = [[0.0; PANEL]; bf16::ROWS];
        for (first, panel) in (0..d_sae).step_by(PANEL).zip(rounded.chunks(PANEL * pairs)) {
            let latents = PANEL.min(d_sae - first);
            for (i, group) in groups.iter().enumerate() {
                let packed = &packed_input[i * bf16::ROWS * pairs..][..bf16::ROWS * pairs];
                // SAFETY: where there are rounded weights, the machine has the instruction.
                unsafe { bf16::products(packed, panel, &mut block) };
                for (row, products) in group.clone().zip(&block) {
                    keep(row - rows.start, first, &products[..latents]);
                }
            }
        }
    }
}

/// `|row|` and the norm of what rounding takes from it, a little more than exact.
fn norms_of(row: &[f32]) -> [f32; 2] {
    squared_norms(row).map(|squared| (squared.sqrt() * 1.000_001) as f32 + NORM_OF_TINY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Random, Stream};

    /// Numbers of all sizes, and rows that nearly cancel.
    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, Stream::Weights, 0);
        let mut number = |_| match (random.below(20), 2.0 * random.uniform() - 1.0) {
            (0, x) => x * 1e-30,
            (1, x) => x * 1e-39,
            (2, x) => x * 1e4,
            (3, _) => 0.0,
            (_, x) => x,
        };
        (0..n).map(&mut number).collect()
    }

    #[test]
    fn every_pre_activation_lies_within_its_bounds() {
        for (rows, d_in, d_sae) in [(1, 1, 1), (5, 7, 65), (13, 130, 200), (193, 33, 64)] {
            let (input, mut w_enc) = (numbers(rows * d_in, 1), numbers(d_sae * d_in, 2));
            w_enc[..d_in].fill(0.0);
            let b_enc = numbers(d_sae, 3);
            let encoder =
                Encoder { input: Matrix::F32(&input), w_enc: Matrix::F32(&w_enc), b_enc: &b_enc, rows, d_in, d_sae };
            for estimator in [Estimator::new(&encoder), Estimator::in_f32(&encoder)] {
                let mut seen = 0;
                for first in (0..rows).step_by(CHUNK_ROWS) {
                    estimator.for_each(first..rows.min(first + CHUNK_ROWS), |row, estimates| {
                        assert_eq!(estimates.input, &input[(first + row) * d_in..][..d_in]);
                        for i in 0..estimates.products.len() {
                            let latent = estimates.first + i;
                            let h = pre_activation(estimates.input, &w_enc[latent * d_in..][..d_in], b_enc[latent]);
                            let [least, most] = estimates.bounds(i, 1.0, false);
                            let slack = SLACK * h.abs();
                            assert!(least - slack <= h && h <= most + slack, "{least} <= {h} <= {most}");
                            seen += 1;
                        }
                    });
                }
                assert_eq!(seen, rows * d_sae);
            }
        }
    }

    #[test]
    fn what_may_exceed_a_bound_is_found() {
        let (input, w_enc) = (vec![1.0, 0.5], vec![1.0, 0.0, 0.0, 1.0, -1.0, 0.0, f32::NAN, 0.0]);
        let b_enc = vec![0.0; 4];
        let encoder = Encoder {
            input: Matrix::F32(&input),
            w_enc: Matrix::F32(&w_enc),
            b_enc: &b_enc,
            rows: 1,
            d_in: 2,
            d_sae: 4,
        };
        let found = |weight: Option<&[f32]>, magnitude: bool, bound: f32| {
            let mut found = 0;
            Estimator::new(&encoder).for_each(0..1, |_, e| found = may_exceed(e, weight, magnitude, bound));
            found
        };
        assert_eq!(found(None, false, 0.0), 0b1011);
        assert_eq!(found(None, false, 0.9), 0b1001);
        assert_eq!(found(None, true, 0.9), 0b1101);
        assert_eq!(found(Some(&[0.5, 2.0, 1.0, 0.0]), false, 0.9), 0b1010);
        let mut each = 0;
        Estimator::new(&encoder).for_each(0..1, |_, e| each = may_exceed_each(e, &[2.0, 0.4, -1.5, 0.0]));
        assert_eq!(each, 0b1110);
    }
}
