//! What each feature does over a text: how often and how strongly it fires, where most, and with which
//! others. Exact: computed from the index of all places.

use super::index::{Place, TokenFeatures};
use crate::random::{Random, Stream};
use rayon::prelude::*;
use serde::Serialize;

/// Shares of a feature's activations that [`FeatureStatistics::quantiles`] stands for.
pub const QUANTILES: [f64; 5] = [0.25, 0.5, 0.75, 0.9, 0.99];

/// How much is kept of each feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatisticsSettings {
    /// Contexts with the largest activations, at most one from a row.
    pub top_contexts: usize,
    /// Intervals of equal width between 0 and the maximum that examples are drawn from.
    pub intervals: usize,
    /// Examples from each.
    pub examples: usize,
    /// Bins of the histogram, of equal width between 0 and the maximum.
    pub bins: usize,
    /// Features that fire together most.
    pub neighbours: usize,
    /// Of the examples.
    pub seed: u64,
}

impl Default for StatisticsSettings {
    fn default() -> Self {
        StatisticsSettings { top_contexts: 20, intervals: 5, examples: 5, bins: 50, neighbours: 10, seed: 42 }
    }
}

/// One feature over a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureStatistics {
    /// Tokens on which it is active.
    pub count: usize,
    /// Their share of all tokens.
    pub density: f64,
    /// Mean of its activations where it is active.
    pub mean: f64,
    /// The largest.
    pub max: f32,
    /// The activations below which the shares [`QUANTILES`] of its activations are (of `n` sorted ones that
    /// at `ceil(share n)`).
    pub quantiles: [f32; 5],
    /// Its activations in bins of equal width from 0 to `max`.
    pub histogram: Vec<u32>,
    /// Where it is largest, at most one place in a row, the largest first, of equal ones the earlier.
    pub top: Vec<Place>,
    /// Places drawn from intervals of activation of equal width, the highest interval first.
    pub examples: Vec<Vec<Place>>,
    /// Features that fire on the same tokens: which, and the share of the tokens where either fires on
    /// which both do (Jaccard).
    pub together: Vec<(u32, f32)>,
    /// Features whose activations correlate most with its own, over all tokens.
    pub correlated: Vec<Correlated>,
}

/// How the activations of another feature, or of a neuron, go along, over all tokens, those where it is 0 too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Correlated {
    /// Which feature or neuron.
    pub index: u32,
    /// Pearson's correlation.
    pub pearson: f32,
    /// The cosine of the two.
    pub cosine: f32,
}

/// Statistics of every feature.
pub fn statistics(text: &TokenFeatures, settings: &StatisticsSettings) -> Vec<FeatureStatistics> {
    let sums: Vec<Sums> =
        (0..text.d_sae()).into_par_iter().map(|feature| Sums::of(text.of_feature(feature).1)).collect();
    let of_feature = |both: &mut Both, feature| of_feature(text, feature, &sums, both, settings);
    (0..text.d_sae()).into_par_iter().map_init(|| Both::new(text.d_sae()), of_feature).collect()
}

/// Of the activations of one feature or neuron.
#[derive(Clone, Copy, Default)]
pub(super) struct Sums {
    sum: f64,
    squares: f64,
}

impl Sums {
    fn of(values: &[f32]) -> Self {
        let mut sums = Sums::default();
        values.iter().for_each(|&x| sums.add(x));
        sums
    }

    pub(super) fn add(&mut self, x: f32) {
        let x = f64::from(x);
        self.sum += x;
        self.squares += x * x;
    }

    pub(super) fn is_zero(self) -> bool {
        self.squares == 0.0
    }

    /// Correlation with `other`, which is `index`, over `tokens` tokens; `product` is the sum of the products of
    /// the two. 0 where one of them never changes.
    pub(super) fn correlated(self, index: u32, other: Sums, product: f64, tokens: usize) -> Correlated {
        let tokens = tokens as f64;
        let spread = |it: Sums| (tokens * it.squares - it.sum * it.sum).max(0.0);
        let ratio = |a: f64, b: f64| if b > 0.0 { (a / b.sqrt()) as f32 } else { 0.0 };
        Correlated {
            index,
            pearson: ratio(tokens * product - self.sum * other.sum, spread(self) * spread(other)),
            cosine: ratio(product, self.squares * other.squares),
        }
    }
}

fn of_feature(
    text: &TokenFeatures,
    feature: usize,
    sums: &[Sums],
    both: &mut Both,
    settings: &StatisticsSettings,
) -> FeatureStatistics {
    let (places, values) = text.of_feature(feature);
    let (count, tokens) = (values.len(), text.tokens.len());
    let max = values.iter().copied().fold(0.0, f32::max);
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let quantile = |share: f64| match count {
        0 => 0.0,
        _ => sorted[((share * count as f64).ceil() as usize).clamp(1, count) - 1],
    };
    let place = |entry: usize| Place {
        row: places[entry] as usize / text.context,
        position: places[entry] as usize % text.context,
        activation: values[entry],
    };
    both.count(text, feature);
    FeatureStatistics {
        count,
        density: count as f64 / tokens.max(1) as f64,
        mean: if count == 0 { 0.0 } else { sums[feature].sum / count as f64 },
        max,
        quantiles: QUANTILES.map(quantile),
        histogram: histogram(values, max, settings.bins),
        top: top(&(0..count).map(place).collect::<Vec<_>>(), settings.top_contexts),
        examples: examples(feature, values, max, settings)
            .into_iter()
            .map(|it| it.into_iter().map(place).collect())
            .collect(),
        together: both.together(text, feature, settings.neighbours),
        correlated: both.correlated(tokens, sums, feature, settings.neighbours),
    }
}

/// Which of `n` intervals of equal width from 0 to `max` a value is in.
fn interval(value: f32, max: f32, n: usize) -> usize {
    ((f64::from(value) / f64::from(max) * n as f64) as usize).min(n - 1)
}

fn histogram(values: &[f32], max: f32, bins: usize) -> Vec<u32> {
    let mut histogram = vec![0; bins];
    values.iter().for_each(|&value| histogram[interval(value, max, bins)] += 1);
    histogram
}

fn top(places: &[Place], n: usize) -> Vec<Place> {
    let mut best: Vec<Place> = Vec::new();
    for of_row in places.chunk_by(|a, b| a.row == b.row) {
        let largest = of_row.iter().reduce(|best, it| if it.activation > best.activation { it } else { best });
        best.extend(largest);
    }
    // Stable: of equal ones the earlier stays first.
    best.sort_by(|a, b| b.activation.total_cmp(&a.activation));
    best.truncate(n);
    best
}

/// Entries drawn from each interval, the highest interval first; in the order of the text.
fn examples(feature: usize, values: &[f32], max: f32, settings: &StatisticsSettings) -> Vec<Vec<usize>> {
    let mut of_interval: Vec<Vec<usize>> = vec![Vec::new(); settings.intervals];
    for (entry, &value) in values.iter().enumerate() {
        of_interval[settings.intervals - 1 - interval(value, max, settings.intervals)].push(entry);
    }
    let mut random = Random::new(settings.seed, Stream::Examples, feature as u32);
    for entries in &mut of_interval {
        for drawn in 0..settings.examples.min(entries.len()) {
            let other = drawn + random.below((entries.len() - drawn) as u32) as usize;
            entries.swap(drawn, other);
        }
        entries.truncate(settings.examples);
        entries.sort_unstable();
    }
    of_interval
}

/// What the tokens of one feature say of the others: on how many each fires too, and the sum of the
/// products of the two activations.
struct Both {
    counts: Vec<u32>,
    products: Vec<f64>,
    seen: Vec<u32>,
}

impl Both {
    fn new(d_sae: usize) -> Self {
        Both { counts: vec![0; d_sae], products: vec![0.0; d_sae], seen: Vec::new() }
    }

    /// Forgets the feature before and goes through the tokens of this one.
    fn count(&mut self, text: &TokenFeatures, feature: usize) {
        for other in self.seen.drain(..) {
            self.counts[other as usize] = 0;
            self.products[other as usize] = 0.0;
        }
        let (places, values) = text.of_feature(feature);
        for (&token, &value) in places.iter().zip(values) {
            let (others, activations) = text.of_token(token as usize);
            for (&other, &activation) in others.iter().zip(activations) {
                let at = other as usize;
                if self.counts[at] == 0 {
                    self.seen.push(other);
                }
                self.counts[at] += 1;
                self.products[at] += f64::from(value) * f64::from(activation);
            }
        }
    }

    fn others(&self, feature: usize) -> impl Iterator<Item = u32> + '_ {
        self.seen.iter().copied().filter(move |&other| other as usize != feature)
    }

    fn together(&self, text: &TokenFeatures, feature: usize, n: usize) -> Vec<(u32, f32)> {
        let count = |feature: usize| text.of_feature(feature).0.len();
        let share = |other: u32| {
            let both = self.counts[other as usize] as usize;
            (other, both as f32 / (count(feature) + count(other as usize) - both) as f32)
        };
        first_n(self.others(feature).map(share).collect(), n, |it| (it.1, it.0))
    }

    fn correlated(&self, tokens: usize, sums: &[Sums], feature: usize, n: usize) -> Vec<Correlated> {
        let correlated = |other: u32| {
            let (its, product) = (sums[other as usize], self.products[other as usize]);
            sums[feature].correlated(other, its, product, tokens)
        };
        first_n(self.others(feature).map(correlated).collect(), n, |it| (it.pearson, it.index))
    }
}

/// The `n` largest by a value, ties to the smaller index.
pub(super) fn first_n<T>(mut all: Vec<T>, n: usize, key: impl Fn(&T) -> (f32, u32)) -> Vec<T> {
    let order = |a: &T, b: &T| {
        let ((x, a), (y, b)) = (key(a), key(b));
        y.total_cmp(&x).then(a.cmp(&b))
    };
    if n < all.len() {
        all.select_nth_unstable_by(n, order);
        all.truncate(n);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::super::index::{FeatureIndex, IndexWriter};
    use super::*;
    use crate::formats::tensors;
    use crate::sae::features::SparseFeatures;

    /// Two rows of three tokens, four features; feature 3 is dead, the first token is excluded.
    fn text(folder: &std::path::Path) -> TokenFeatures {
        let dense = [
            [9.0, 9.0, 9.0, 9.0],
            [1.0, 0.0, 2.0, 0.0],
            [4.0, 0.5, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [4.0, 0.0, 3.0, 0.0],
            [0.0, 0.0, 0.0, 0.0],
        ];
        let features = SparseFeatures::from_dense(&dense.concat(), 4);
        let mut writer = IndexWriter::new(folder, 3, 4).unwrap();
        writer.push(&[10, 11, 12, 13, 14, 15], &features, &[true, false, false, false, false, false]).unwrap();
        writer.finish(folder).unwrap()
    }

    fn place(row: usize, position: usize, activation: f32) -> Place {
        Place { row, position, activation }
    }

    #[test]
    fn counts_quantiles_histograms_and_contexts_are_those_of_the_definition() {
        let folder = tempfile::tempdir().unwrap();
        let settings = StatisticsSettings { bins: 4, intervals: 2, ..StatisticsSettings::default() };
        let found = statistics(&text(folder.path()), &settings);
        let first = &found[0];
        assert_eq!((first.count, first.density, first.mean, first.max), (3, 0.5, 3.0, 4.0));
        assert_eq!(first.quantiles, [1.0, 4.0, 4.0, 4.0, 4.0]);
        assert_eq!(first.histogram, [0, 1, 0, 2]);
        assert_eq!(first.top, [place(0, 2, 4.0), place(1, 1, 4.0)]);
        assert_eq!(first.examples, [vec![place(0, 2, 4.0), place(1, 1, 4.0)], vec![place(0, 1, 1.0)]]);
        // Feature 2 shares two of the four tokens where either fires, feature 1 one of three.
        assert_eq!(first.together, [(2, 0.5), (1, 1.0 / 3.0)]);
        // By hand: over six tokens, feature 0 is 0 1 4 0 4 0, feature 1 is 0 0 0.5 0 0 0 and feature 2 is 0 2 0 1 3 0.
        let [Correlated { index: 1, pearson: nearest, .. }, Correlated { index: 2, pearson, cosine }] =
            first.correlated[..]
        else {
            panic!("{:?}", first.correlated)
        };
        let close = |a: f32, b: f64| assert!((f64::from(a) - b).abs() < 1e-6, "{a} {b}");
        close(nearest, (6.0 * 2.0 - 9.0 * 0.5) / ((6.0f64 * 33.0 - 81.0) * (6.0 * 0.25 - 0.25)).sqrt());
        close(pearson, (6.0 * 14.0 - 9.0 * 6.0) / ((6.0f64 * 33.0 - 81.0) * (6.0 * 14.0 - 36.0)).sqrt());
        close(cosine, 14.0 / (33.0f64 * 14.0).sqrt());
        let dead = &found[3];
        assert_eq!((dead.count, dead.max, &dead.top[..], dead.histogram.iter().sum::<u32>()), (0, 0.0, &[][..], 0));
    }

    #[test]
    fn an_index_file_answers_where_a_feature_is_above_a_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.safetensors");
        tensors::save(&path, text(folder.path()).tensors()).unwrap();
        let index = FeatureIndex::open(&path).unwrap();
        assert_eq!(index.above(2, 1.0).unwrap(), [place(0, 1, 2.0), place(1, 1, 3.0)]);
        assert_eq!(index.above(3, 0.0).unwrap(), []);
        assert_eq!(index.row(1).unwrap(), [13, 14, 15]);
        let refusal = index.above(4, 0.0).unwrap_err().to_string();
        assert_eq!(refusal, "feature: 4, this index has features 0 to 3");
    }

    #[test]
    fn examples_are_drawn_without_repetition_and_the_same_for_a_seed() {
        let values: Vec<f32> = (1..=100).map(|i| i as f32).collect();
        let settings = StatisticsSettings::default();
        let found = examples(7, &values, 100.0, &settings);
        assert_eq!(found, examples(7, &values, 100.0, &settings));
        assert_ne!(found, examples(8, &values, 100.0, &settings));
        for (number, entries) in found.iter().enumerate() {
            let from = 20.0 * (4 - number) as f32;
            assert!(entries.len() == 5 && entries.is_sorted_by(|a, b| a < b));
            assert!(entries.iter().all(|&entry| (from..=from + 20.0).contains(&values[entry])));
        }
    }
}
