//! The neurons that go along with each feature: dimensions of the activations that an SAE encodes, by Pearson's
//! correlation over a text. SAEDashboard's `RollingCorrCoef` of features and neurons; here what special
//! tokens have is 0 on both sides, as there for tokens that are left out.

use super::statistics::{first_n, Correlated, Sums};
use crate::sae::features::SparseFeatures;
use rayon::prelude::*;

/// Sums over the tokens of a text. Memory: `d_sae * d_in` numbers, whatever the text's length.
pub struct NeuronSums {
    d_in: usize,
    tokens: usize,
    features: Vec<Sums>,
    neurons: Vec<Sums>,
    /// Σ over tokens of feature · neuron `[d_sae, d_in]`.
    products: Vec<f64>,
}

impl NeuronSums {
    /// Nothing yet.
    pub fn new(d_in: usize, d_sae: usize) -> Self {
        let [features, neurons] = [d_sae, d_in].map(|n| vec![Sums::default(); n]);
        NeuronSums { d_in, tokens: 0, features, neurons, products: vec![0.0; d_sae * d_in] }
    }

    /// Takes in tokens: their features, and the activations that were encoded `[rows, d_in]`. Where `excluded`,
    /// a token's are all 0.
    pub fn push(&mut self, features: &SparseFeatures, input: &[f32], excluded: &[bool]) {
        let d_in = self.d_in;
        self.tokens += excluded.len();
        let mut entries = Vec::with_capacity(features.values().len());
        for row in (0..excluded.len()).filter(|&row| !excluded[row]) {
            let (indices, values) = features.row(row);
            entries.extend(indices.iter().zip(values).map(|(&feature, &value)| (feature, row, value)));
            self.neurons.iter_mut().zip(&input[row * d_in..(row + 1) * d_in]).for_each(|(sums, &x)| sums.add(x));
        }
        // By feature, then in the order of the text: sums do not depend on the number of threads.
        entries.sort_unstable_by_key(|&(feature, row, _)| (feature, row));
        entries.iter().for_each(|&(feature, _, value)| self.features[feature as usize].add(value));
        self.products.par_chunks_exact_mut(d_in).enumerate().for_each(|(feature, products)| {
            let first = entries.partition_point(|&(other, ..)| (other as usize) < feature);
            let of_feature = entries[first..].iter().take_while(|&&(other, ..)| other as usize == feature);
            for &(_, row, value) in of_feature {
                let input = &input[row * d_in..(row + 1) * d_in];
                products.iter_mut().zip(input).for_each(|(sum, &x)| *sum += f64::from(value) * f64::from(x));
            }
        });
    }

    /// The `n` neurons that correlate most with each feature, the largest first, ties to the earlier; none for
    /// a feature that was never active.
    pub fn largest(&self, n: usize) -> Vec<Vec<Correlated>> {
        let of_feature = |(own, products): (&Sums, &[f64])| {
            let neurons = self.neurons.iter().zip(products).enumerate();
            let all = neurons.map(|(at, (&neuron, &product))| own.correlated(at as u32, neuron, product, self.tokens));
            first_n(all.collect(), if own.is_zero() { 0 } else { n }, |it| (it.pearson, it.index))
        };
        self.features.par_iter().zip(self.products.par_chunks_exact(self.d_in)).map(of_feature).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: feature 0 is 2 0 1, feature 1 is never active; neuron 0 is 4 0 2, neuron 1 is 1 1 1, neuron 2 is
    /// 0 3 0; what the excluded token has does not matter, but it counts.
    #[test]
    fn correlations_are_those_of_the_definition_whatever_the_batches() {
        let features = SparseFeatures::from_dense(&[2.0, 0.0, 9.0, 9.0, 0.0, 0.0, 1.0, 0.0], 2);
        let input = [4.0, 1.0, 0.0, 8.0, 8.0, 8.0, 0.0, 1.0, 3.0, 2.0, 1.0, 0.0];
        let mut whole = NeuronSums::new(3, 2);
        whole.push(&features, &input, &[false, true, false, false]);
        let found = whole.largest(2);
        let [Correlated { index: 0, pearson, cosine }, Correlated { index: 1, pearson: second, .. }] = found[0][..]
        else {
            panic!("{found:?}")
        };
        let close = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-6, "{a} {b}");
        close(pearson, 1.0);
        close(cosine, 1.0);
        // Over 4 tokens: 4 · 3 - 3 · 3 by the root of (4 · 5 - 9) (4 · 3 - 9).
        close(second, 3.0 / 33.0f64.sqrt());
        assert!(found[1].is_empty());

        let mut parts = NeuronSums::new(3, 2);
        parts.push(&SparseFeatures::from_dense(&[2.0, 0.0, 9.0, 9.0], 2), &input[..6], &[false, true]);
        parts.push(&SparseFeatures::from_dense(&[0.0, 0.0, 1.0, 0.0], 2), &input[6..], &[false, false]);
        assert_eq!(parts.largest(2), found);
    }
}
