//! The operands of a row: random with a fixed seed, and spread as in a real run. Activations and
//! weights are normal; how often a latent is active is log-normal, so that lists by latent have very
//! different lengths; tokens follow Zipf's law.

use crate::backend::{bf16, AdamConstants, Backend, DeadLatents, Element, FeatureLists, Matrix, StepScalars};
use crate::error::Result;
use crate::random::{philox, Random, Stream};
use rayon::prelude::*;

const SEED: u64 = 20;
/// Adam's usual constants.
pub(super) const ADAM: AdamConstants = AdamConstants { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
/// Deviation of the logarithm of latents' frequencies: trained SAEs have 1 to 2.
const LOG_FREQUENCY_DEVIATION: f32 = 1.5;
/// Values that one parallel task makes.
const CHUNK: usize = 1 << 14;

/// A matrix that an operation takes in f32 or in bf16.
pub(super) enum Operand<B: Backend> {
    F32(B::Buffer<f32>),
    Bf16(B::Buffer<bf16>),
}

impl<B: Backend> Operand<B> {
    pub(super) fn matrix(&self) -> Matrix<'_, B> {
        match self {
            Operand::F32(buffer) => Matrix::F32(buffer),
            Operand::Bf16(buffer) => Matrix::Bf16(buffer),
        }
    }
}

/// Makes buffers on a device and counts their bytes; or only counts, and gives empty buffers; or makes
/// buffers of zeros, whatever they are for.
pub struct Data<'a, B: Backend> {
    backend: &'a B,
    counts_only: bool,
    zeros_only: bool,
    bytes: u64,
    made: u32,
}

impl<'a, B: Backend> Data<'a, B> {
    pub(super) fn new(backend: &'a B) -> Self {
        Data { backend, counts_only: false, zeros_only: false, bytes: 0, made: 0 }
    }

    pub(super) fn of_zeros(backend: &'a B) -> Self {
        Data { zeros_only: true, ..Data::new(backend) }
    }

    pub(super) fn counting(backend: &'a B) -> Self {
        Data { counts_only: true, ..Data::new(backend) }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts so many bytes, and makes what takes them unless it only counts.
    pub(super) fn made<T>(&mut self, bytes: usize, make: impl FnOnce(&B) -> Result<T>) -> Result<Option<T>> {
        self.bytes += bytes as u64;
        self.made += 1;
        if self.counts_only {
            return Ok(None);
        }
        make(self.backend).map(Some)
    }

    /// A buffer of values that come of a seed.
    fn buffer<T: Element>(&mut self, len: usize, values: impl FnOnce(u32) -> Vec<T>) -> Result<B::Buffer<T>> {
        if self.zeros_only {
            return self.zeros(len);
        }
        let seed = self.made;
        let made = self.made(len * size_of::<T>(), |backend| backend.upload(&values(seed)))?;
        made.map_or_else(|| self.backend.zeros(0), Ok)
    }

    /// Zeros.
    pub(super) fn zeros<T: Element>(&mut self, len: usize) -> Result<B::Buffer<T>> {
        let made = self.made(len * size_of::<T>(), |backend| backend.zeros(len))?;
        made.map_or_else(|| self.backend.zeros(0), Ok)
    }

    /// Normal numbers of mean 0 and deviation 1.
    pub(super) fn normal(&mut self, len: usize) -> Result<B::Buffer<f32>> {
        self.scaled(len, 0.0, 1.0)
    }

    /// Normal numbers.
    pub(super) fn scaled(&mut self, len: usize, mean: f32, deviation: f32) -> Result<B::Buffer<f32>> {
        self.buffer(len, |seed| normal(seed, len, mean, deviation))
    }

    /// Normal numbers in bf16.
    pub(super) fn scaled_bf16(&mut self, len: usize, mean: f32, deviation: f32) -> Result<B::Buffer<bf16>> {
        self.buffer(len, |seed| normal(seed, len, mean, deviation).into_iter().map(bf16::from_f32).collect())
    }

    /// The same of mean 0 and deviation 1, in bf16 or in f32.
    pub(super) fn operand(&mut self, len: usize, in_bf16: bool) -> Result<Operand<B>> {
        Ok(match in_bf16 {
            true => Operand::Bf16(self.scaled_bf16(len, 0.0, 1.0)?),
            false => Operand::F32(self.normal(len)?),
        })
    }

    /// Absolute values of normal numbers: norms, second moments.
    pub(super) fn positive(&mut self, len: usize) -> Result<B::Buffer<f32>> {
        self.buffer(len, |seed| normal(seed, len, 0.0, 1.0).into_iter().map(f32::abs).collect())
    }

    /// Normal numbers of which the negative ones are 0: dense features as training starts.
    pub(super) fn rectified(&mut self, len: usize) -> Result<B::Buffer<f32>> {
        self.buffer(len, |seed| normal(seed, len, 0.0, 1.0).into_iter().map(|x| x.max(0.0)).collect())
    }

    /// Whole numbers below `limit`.
    pub(super) fn below(&mut self, len: usize, limit: usize) -> Result<B::Buffer<u32>> {
        self.buffer(len, |seed| {
            let mut random = Random::new(SEED, Stream::Shuffle, seed);
            (0..len).map(|_| random.below(limit as u32)).collect()
        })
    }

    /// `len` different numbers below `limit`.
    pub(super) fn different(&mut self, len: usize, limit: usize) -> Result<B::Buffer<u32>> {
        self.buffer(len, |seed| {
            let mut order = Random::new(SEED, Stream::Shuffle, seed).permutation(limit);
            order.truncate(len);
            order
        })
    }

    /// Of `d_sae` latents every `step`-th is dead.
    pub(super) fn dead(&mut self, step: usize, d_sae: usize) -> Result<DeadLatents<B>> {
        let count = self.buffer(1, |_| vec![d_sae.div_ceil(step) as u32])?;
        let latents = self.buffer(d_sae, |_| {
            let mut latents: Vec<u32> = (0..d_sae as u32).step_by(step).collect();
            latents.resize(d_sae, 0);
            latents
        })?;
        Ok(DeadLatents { count, latents })
    }

    /// The numbers of the thousandth step, with a coefficient of 1.
    pub(super) fn scalars(&mut self) -> Result<B::Buffer<StepScalars>> {
        self.buffer(1, |_| vec![StepScalars::new(1000, 1e-4, [ADAM.beta1, ADAM.beta2], 1.0)])
    }

    /// Token ids: the n-th most frequent word is n times as rare as the first.
    pub(super) fn tokens(&mut self, len: usize, d_vocab: usize) -> Result<B::Buffer<u32>> {
        self.buffer(len, |seed| tokens(seed, len, d_vocab))
    }

    /// Lists with `k` different latents of `d_sae` in every row, ascending.
    pub(super) fn lists(&mut self, rows: usize, d_sae: usize, k: usize) -> Result<FeatureLists<B>> {
        let counts = self.buffer(rows, |_| vec![k as u32; rows])?;
        let indices = self.buffer(rows * k, |seed| latents(seed, rows, d_sae, k))?;
        Ok(FeatureLists { rows, stride: k, counts, indices, values: self.positive(rows * k)? })
    }

    /// Lists with room for `stride` entries in every row.
    pub(super) fn empty_lists(&mut self, rows: usize, stride: usize) -> Result<FeatureLists<B>> {
        let [indices, counts] = [rows * stride, rows].map(|len| self.zeros(len));
        Ok(FeatureLists { rows, stride, counts: counts?, indices: indices?, values: self.zeros(rows * stride)? })
    }
}

/// Sums of four random bytes, scaled: near enough to the normal distribution to time with.
pub(super) fn normal(seed: u32, len: usize, mean: f32, deviation: f32) -> Vec<f32> {
    // A byte has the mean 127.5 and the variance (256² - 1) / 12.
    let factor = deviation / (4.0f32 * (256.0 * 256.0 - 1.0) / 12.0).sqrt();
    let mut values = vec![0.0; len];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        for (block, four) in values.chunks_mut(4).enumerate() {
            let bits = philox([block as u32, chunk as u32, seed, 0], [SEED as u32, 0]);
            for (value, bits) in four.iter_mut().zip(bits) {
                let sum: u32 = bits.to_le_bytes().into_iter().map(u32::from).sum();
                *value = mean + factor * (sum as f32 - 510.0);
            }
        }
    });
    values
}

pub(super) fn tokens(seed: u32, len: usize, d_vocab: usize) -> Vec<u32> {
    let mut random = Random::new(SEED, Stream::Sampling, seed);
    (0..len).map(|_| ((d_vocab as f32).powf(random.uniform()) - 1.0) as u32).collect()
}

fn latents(seed: u32, rows: usize, d_sae: usize, k: usize) -> Vec<u32> {
    let frequencies = normal(seed, d_sae, 0.0, LOG_FREQUENCY_DEVIATION).into_iter().map(f32::exp);
    let mut total = 0.0f64;
    let sums: Vec<f64> = frequencies
        .map(|frequency| {
            total += f64::from(frequency);
            total
        })
        .collect();
    let mut indices = vec![0u32; rows * k];
    indices.par_chunks_exact_mut(k).enumerate().for_each(|(row, indices)| {
        let mut random = Random::new(SEED + u64::from(seed), Stream::Shuffle, row as u32);
        let mut chosen = std::collections::BTreeSet::new();
        while chosen.len() < k {
            let point = f64::from(random.uniform()) * total;
            chosen.insert(sums.partition_point(|&sum| sum <= point).min(d_sae - 1) as u32);
        }
        indices.iter_mut().zip(chosen).for_each(|(index, latent)| *index = latent);
    });
    indices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Buffer, Cpu};

    #[test]
    fn normal_numbers_have_the_mean_and_deviation_asked_for() {
        let values = normal(1, 100_000, 2.0, 3.0);
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 1e5;
        // Four and five deviations of the mean and of the variance of so many numbers.
        assert!((mean - 2.0).abs() < 0.04 && (variance - 9.0).abs() < 0.2, "{mean} {variance}");
    }

    #[test]
    fn rows_list_different_latents_ascending_and_some_latents_far_more_often_than_others() {
        let (rows, d_sae, k) = (500, 1000, 20);
        let indices = latents(3, rows, d_sae, k);
        assert!(indices.chunks_exact(k).all(|row| row.is_sorted_by(|a, b| a < b)));
        let mut counts = vec![0; d_sae];
        indices.iter().for_each(|&latent| counts[latent as usize] += 1);
        counts.sort_unstable();
        // Ten in the mean.
        assert!(counts[d_sae / 10] <= 2 && counts[d_sae - 1] >= 100, "{counts:?}");
    }

    #[test]
    fn small_token_ids_are_the_frequent_ones() {
        let tokens = tokens(3, 10_000, 50_257);
        let below = |limit| tokens.iter().filter(|&&token| token < limit).count();
        // P(token < n) = ln(n + 1) / ln(V).
        assert_eq!(below(50_257), 10_000);
        assert!((4700..5300).contains(&below(223)), "{}", below(223));
    }

    #[test]
    fn counting_makes_nothing_and_counts_the_same() {
        let count = |mut data: Data<'_, Cpu>| {
            let lists = data.lists(6, 50, 4).unwrap();
            let numbers = data.normal(10).unwrap();
            (data.bytes(), Buffer::len(&lists.indices) + Buffer::len(&numbers))
        };
        assert_eq!(count(Data::new(&Cpu)), (4 * (6 + 24 + 24 + 10), 34));
        assert_eq!(count(Data::counting(&Cpu)), (4 * (6 + 24 + 24 + 10), 0));
    }
}
