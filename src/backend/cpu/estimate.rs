//! Where the encoder's pre-activations may be: `|h - about| <= margin`, from products that are cheaper
//! than f32 ones, or at least faster. Who wants some of them computes those with [`F32Encoder::pre_activation`],
//! the one definition of `h` on all machines: how it was estimated leaves no trace in any result.

use super::fixed::{self, norm_of, Kept, Packer, Unit};
use super::gemm::{product_in_f32, Operand};
use super::matrix::F32Encoder;
use super::simd::{dot, multiply_add, prefetch, vectorised};
use super::*;
#[cfg(target_arch = "x86_64")]
use super::{amx::Tiles, fixed::Lines};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;

/// Rows of a task: with a panel of latents they fill the second-level cache.
const CHUNK_ROWS: usize = 192;
/// The same where tiles multiply, so fast that they wait for the weights, which come to the cache once a task.
const TILED_ROWS: usize = 512;
/// Neighbouring latents whose estimates are handed out together, at most.
pub(super) const PANEL: usize = fixed::COLUMNS;
/// Latents of a product in f32, which is better with more of them.
const F32_LATENTS: usize = 8 * PANEL;

/// Where bits are set, ascending.
pub(super) fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let i = (bits != 0).then(|| bits.trailing_zeros() as usize);
        bits &= bits.wrapping_sub(1);
        i
    })
}

/// Estimates for one row and the latents of a panel, `first` and the next.
pub(super) struct Estimates<'a> {
    /// The first latent.
    pub first: usize,
    /// Latents that there are; the numbers of others mean nothing.
    latents: usize,
    /// `input · w_enc`, about.
    products: &'a [f32; PANEL],
    bias: &'a [f32; PANEL],
    of_latents: [&'a [f32; PANEL]; 2],
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
            for (upper, weight) in upper.iter_mut().zip(panel_of(weight)) {
                *upper *= weight;
            }
        }
        // The few roundings on the way here.
        let bound = bound - bound.abs() * SLACK;
        bits_above(&upper, &[bound; PANEL], estimates.latents)
    }

    /// The same of `h`, each latent with a bound of its own.
    pub(super) fn may_exceed_each(estimates: &Estimates<'_>, bounds: &[f32]) -> u64 {
        let upper = upper_bounds::<FUSED>(estimates, false);
        bits_above(&upper, &panel_of(bounds).map(|bound| bound - bound.abs() * SLACK), estimates.latents)
    }

    /// `h = x · w + b` of one latent.
    fn pre_activation(x: &[f32], w: &[f32], b: f32) -> f32 {
        dot::<FUSED>(x, w) + b
    }
}

/// A part of a number that is more than some roundings to f32 take from it.
pub(super) const SLACK: f32 = 1.0 / (1 << 20) as f32;
/// More than what is lost where products are too small for a number.
const TINY: f32 = 1e-33;

#[inline(always)]
fn upper_bounds<const FUSED: bool>(e: &Estimates<'_>, magnitude: bool) -> [f32; PANEL] {
    std::array::from_fn(|i| {
        let about = e.products[i] + e.bias[i];
        let about = if magnitude { about.abs() } else { about };
        let rounding = multiply_add::<FUSED>(e.of_row[1], e.of_latents[1][i], TINY);
        about + multiply_add::<FUSED>(e.of_row[0], e.of_latents[0][i], rounding)
    })
}

/// The first numbers, and zeros where there are fewer.
#[inline(always)]
fn panel_of(values: &[f32]) -> [f32; PANEL] {
    values.first_chunk().copied().unwrap_or_else(|| std::array::from_fn(|i| values.get(i).copied().unwrap_or(0.0)))
}

#[inline(always)]
fn bits_above(upper: &[f32; PANEL], bounds: &[f32; PANEL], latents: usize) -> u64 {
    #[allow(clippy::neg_cmp_op_on_partial_ord)] // not a number is not at most the bound
    let above = |i: usize| !(upper[i] <= bounds[i]);
    if !(0..PANEL).fold(false, |any, i| any | above(i)) {
        return 0;
    }
    let bits = (0..PANEL).fold(0, |bits, i| bits | u64::from(above(i)) << i);
    bits & (u64::MAX >> (PANEL - latents))
}

/// An encoder, and how far its estimates can be off.
///
/// With `x = x' + dx` and `w = w' + dw` rounded, `|x·w - x'·w'| <= |dx| |w| + |x'| |dw|` (Cauchy and Schwarz);
/// adding products rounds each sum once at most, by a part of `|x| |w|`. `h` is 64 sums of `D / 64` products at
/// the same time, which are then added; the estimate of f32 or bf16, `D` one after the other; integers are exact.
pub(super) struct Estimator<'a> {
    pub encoder: F32Encoder<'a>,
    /// w_enc rounded, panel by panel, and what multiplies it; none on a machine that is not faster with it.
    rounded: Option<(Unit, Kept)>,
    /// `|w|` and `|dw|` of every latent, and zeros to the end of the last panel.
    of_latents: [Vec<f32>; 2],
    /// `b_enc`, and zeros to the same end.
    bias: Vec<f32>,
}

impl F32Encoder<'_> {
    /// `h` of a row and a latent.
    pub fn pre_activation(&self, row: usize, latent: usize) -> f32 {
        pre_activation(self.inputs(row..row + 1), self.weights(latent), self.b_enc[latent])
    }

    fn inputs(&self, rows: Range<usize>) -> &[f32] {
        &self.input[rows.start * self.d_in..rows.end * self.d_in]
    }

    /// A latent's row of `W_enc`.
    pub fn weights(&self, latent: usize) -> &[f32] {
        &self.w_enc[latent * self.d_in..][..self.d_in]
    }
}

impl<'a> Estimator<'a> {
    /// With the products that this machine is fastest with.
    pub fn new(encoder: &Encoder<'a, Cpu>) -> Self {
        Self::with(encoder, Unit::fastest(encoder.d_in))
    }

    /// With products of every kind that this machine has.
    #[cfg(test)]
    pub fn of_every_kind(encoder: &Encoder<'a, Cpu>) -> Vec<Self> {
        let units = Unit::ALL.into_iter().filter(|unit| unit.is_available());
        units.map(Some).chain([None]).map(|unit| Self::with(encoder, unit)).collect()
    }

    fn with(encoder: &Encoder<'a, Cpu>, unit: Option<Unit>) -> Self {
        let encoder = F32Encoder::from(encoder);
        let n_panels = encoder.d_sae.div_ceil(PANEL);
        let mut of_latents = [vec![0.0; n_panels * PANEL], vec![0.0; n_panels * PANEL]];
        let [norms, roundings] = of_latents.each_mut().map(|of| of.par_chunks_mut(PANEL));
        let weights = encoder.w_enc[..encoder.d_sae * encoder.d_in].par_chunks((PANEL * encoder.d_in).max(1));
        let each = (weights, norms, roundings).into_par_iter();
        let rounded = if let Some(unit) = unit {
            let of_panel = PANEL * unit.words(encoder.d_in);
            let mut rounded = Kept::room(n_panels * of_panel);
            each.zip(rounded.0.words_mut().par_chunks_mut(of_panel)).for_each_init(
                || Packer::of_columns(encoder.d_in, unit),
                |packer, ((weights, norms, roundings), panel)| {
                    packer.pack(weights, panel, |i, of_latent| [norms[i], roundings[i]] = of_latent);
                },
            );
            Some((unit, rounded))
        } else {
            each.for_each(|(weights, norms, _)| {
                for (norm, row) in norms.iter_mut().zip(weights.chunks_exact(encoder.d_in.max(1))) {
                    *norm = norm_of(row);
                }
            });
            None
        };
        let mut bias = encoder.b_enc[..encoder.d_sae].to_vec();
        bias.resize(n_panels * PANEL, 0.0);
        Estimator { encoder, rounded, of_latents, bias }
    }

    /// Rows of a task: more than the least while every thread has some.
    pub fn chunk_rows(&self) -> usize {
        let most = if matches!(self.rounded, Some((Unit::Amx, _))) { TILED_ROWS } else { CHUNK_ROWS };
        let of_thread = self.encoder.rows.div_ceil(rayon::current_num_threads());
        of_thread.next_multiple_of(fixed::ROWS).clamp(CHUNK_ROWS, most)
    }

    /// Estimates for `rows`, a chunk at most, and all latents: calls `keep(row in the chunk, estimates)`,
    /// the latents of a row ascending.
    pub fn for_each(&self, rows: Range<usize>, mut keep: impl FnMut(usize, &Estimates<'_>)) {
        let (n, d_in, inputs) = (rows.len(), self.encoder.d_in, self.encoder.inputs(rows));
        match &self.rounded {
            #[cfg(target_arch = "x86_64")]
            Some((unit, rounded)) => self.rounded_products(*unit, rounded, n, inputs, keep),
            _ => {
                let of_rows: Vec<_> =
                    inputs.chunks_exact(d_in.max(1)).map(|row| [of_sums(2 * d_in, norm_of(row)), 0.0]).collect();
                self.f32_products(n, inputs, |row, first, products| {
                    keep(row, &self.estimates(of_rows[row], first, products));
                });
            }
        }
    }

    /// Calls `keep(row in the chunk, latent, h)` for the latents of which `may_matter(row in the chunk, estimates)`
    /// has bits, those of a row ascending.
    pub fn for_each_that_may_matter(
        &self,
        rows: Range<usize>,
        mut may_matter: impl FnMut(usize, &Estimates<'_>) -> u64,
        mut keep: impl FnMut(usize, usize, f32),
    ) {
        /// Latents whose weights are on their way to the cache.
        const AHEAD: usize = 4;
        let first_row = rows.start;
        let mut keep = |(row, latent): (usize, usize)| {
            keep(row, latent, self.encoder.pre_activation(first_row + row, latent));
        };
        let mut waiting = VecDeque::with_capacity(AHEAD + 1);
        self.for_each(rows, |row, estimates| {
            for latent in ones(may_matter(row, estimates)).map(|i| estimates.first + i) {
                prefetch(self.encoder.weights(latent));
                waiting.push_back((row, latent));
                if waiting.len() > AHEAD {
                    waiting.pop_front().into_iter().for_each(&mut keep);
                }
            }
        });
        waiting.into_iter().for_each(keep);
    }

    fn estimates<'e>(&'e self, of_row: [f32; 2], first: usize, products: &'e [f32; PANEL]) -> Estimates<'e> {
        let panel = first / PANEL;
        let of_latents = self.of_latents.each_ref().map(|of| &of.as_chunks().0[panel]);
        let (latents, bias) = (PANEL.min(self.encoder.d_sae - first), &self.bias.as_chunks().0[panel]);
        Estimates { first, latents, products, bias, of_latents, of_row }
    }

    /// Calls `keep(row in the chunk, first latent, products of a panel)`.
    fn f32_products(&self, n: usize, inputs: &[f32], mut keep: impl FnMut(usize, usize, &[f32; PANEL])) {
        let &F32Encoder { ref w_enc, d_in, d_sae, .. } = &self.encoder;
        let input = Operand::rows(inputs, d_in);
        let mut tile = vec![0.0; n * F32_LATENTS.min(d_sae)];
        for first in (0..d_sae).step_by(F32_LATENTS) {
            let latents = F32_LATENTS.min(d_sae - first);
            let weights = Operand::transposed(&w_enc[first * d_in..(first + latents) * d_in], d_in);
            product_in_f32([n, latents, d_in], &mut tile, input, weights);
            for (row, products) in tile.chunks_exact(latents).take(n).enumerate() {
                for (panel, products) in products.chunks(PANEL).enumerate() {
                    keep(row, first + panel * PANEL, &panel_of(products));
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn rounded_products(
        &self,
        unit: Unit,
        rounded: &Kept,
        n: usize,
        inputs: &[f32],
        mut keep: impl FnMut(usize, &Estimates<'_>),
    ) {
        let &F32Encoder { d_in, d_sae, .. } = &self.encoder;
        let groups = pack_groups(inputs, d_in, unit);
        // Kept from the first product to the last.
        let _tiles = (unit == Unit::Amx).then(Tiles::new);
        // A block is handed out after the next one's products, so that nobody waits for their ends.
        let mut blocks = [[[0.0; PANEL]; fixed::ROWS]; 2];
        let mut hand_out = |block: &fixed::Block, (first, i): (usize, usize)| {
            let first_row = i * unit.rows();
            for (row, (products, of_row)) in (first_row..n).zip(block.iter().zip(groups[i].margins)).take(unit.rows()) {
                keep(row, &self.estimates(of_row, first, products));
            }
        };
        let (mut now, mut waiting) = (0, None);
        let panels = rounded.0.words().chunks_exact(PANEL * unit.words(d_in)).zip(self.of_latents[0].as_chunks().0);
        for (first, (panel, norms)) in (0..d_sae).step_by(PANEL).zip(panels) {
            for (i, group) in groups.iter().enumerate() {
                // SAFETY: the machine has the instructions, or there were no rounded weights.
                unsafe { fixed::products(unit, group.packed.words(), panel, (&group.norms, norms), &mut blocks[now]) };
                now = 1 - now;
                if let Some(of_block) = waiting.replace((first, i)) {
                    hand_out(&blocks[now], of_block);
                }
            }
        }
        if let Some(of_block) = waiting {
            hand_out(&blocks[1 - now], of_block);
        }
    }
}

/// Rows of a product's block.
#[cfg(target_arch = "x86_64")]
struct Group {
    packed: Lines,
    norms: [f32; fixed::ROWS],
    /// Factors of each row's margins: on `|w|` and on `|dw|`.
    margins: [[f32; 2]; fixed::ROWS],
}

#[cfg(target_arch = "x86_64")]
fn pack_groups(inputs: &[f32], d_in: usize, unit: Unit) -> Vec<Group> {
    let mut packer = Packer::of_rows(d_in, unit);
    let additions = if unit == Unit::Amx { 2 * d_in } else { d_in / 64 };
    let pack = |rows: &[f32]| {
        let packed = Lines::new(unit.rows() * unit.words(d_in));
        let mut group = Group { packed, norms: [0.0; fixed::ROWS], margins: [[0.0; 2]; fixed::ROWS] };
        packer.pack(rows, group.packed.words_mut(), |i, [norm, rounding]| {
            group.norms[i] = norm;
            // |x'| <= |x| + |dx|.
            group.margins[i] = [rounding + of_sums(additions, norm), norm + rounding];
        });
        group
    };
    inputs.chunks((unit.rows() * d_in).max(1)).map(pack).collect()
}

/// What roundings of sums with so many additions one after the other may come to, as a factor of `|w|`.
fn of_sums(additions: usize, norm: f32) -> f32 {
    (1.05 * additions as f32 + 200.0) * (f32::EPSILON / 2.0) * norm
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
            for estimator in Estimator::of_every_kind(&encoder) {
                let mut seen = 0;
                let chunk = estimator.chunk_rows();
                for first in (0..rows).step_by(chunk) {
                    estimator.for_each(first..rows.min(first + chunk), |row, estimates| {
                        for i in 0..estimates.latents {
                            let latent = estimates.first + i;
                            let h = estimator.encoder.pre_activation(first + row, latent);
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
