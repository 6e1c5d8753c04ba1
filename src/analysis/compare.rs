//! Features that prompts share, and features that set two groups of prompts apart.

use crate::random::{Random, Stream};

/// Divisions of the prompts into two groups that are all tried; beyond, as many are drawn.
const DIVISIONS: usize = 10_000;

/// One feature in two groups of prompts, by its largest activation in each prompt.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct ComparedFeature {
    /// Which feature.
    pub feature: u32,
    /// Prompts of the first group on which it is active.
    pub count: usize,
    /// Prompts of the second group on which it is active.
    pub count_against: usize,
    /// Mean over the first group of the largest activation in a prompt, 0 where it is not active.
    pub mean: f64,
    /// The same over the second group.
    pub mean_against: f64,
    /// Share of the divisions of all prompts into groups of these sizes whose means differ at least as
    /// much (two-sided permutation test, of this feature alone); none without a second group.
    pub p_value: Option<f64>,
}

impl ComparedFeature {
    /// `mean - mean_against`.
    pub fn difference(&self) -> f64 {
        self.mean - self.mean_against
    }
}

/// The features of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// With a second group: the largest absolute difference first. Without: features of the most prompts
    /// first, then the largest mean.
    pub features: Vec<ComparedFeature>,
    /// Divisions that the test looked at: all there are, or as many as were drawn.
    pub divisions: usize,
}

/// Compares prompts by `(feature, largest activation)` of each, in any order. `seed` chooses the
/// divisions where there are too many to try them all.
pub fn compare(group: &[Vec<(u32, f32)>], against: &[Vec<(u32, f32)>], seed: u64) -> Comparison {
    let mut features: Vec<u32> = group.iter().chain(against).flatten().map(|&(feature, _)| feature).collect();
    features.sort_unstable();
    features.dedup();
    let prompts = group.len() + against.len();
    let mut activations = vec![0.0; features.len() * prompts];
    for (prompt, entries) in group.iter().chain(against).enumerate() {
        for &(feature, activation) in entries {
            let at = features.partition_point(|&other| other < feature);
            activations[at * prompts + prompt] = f64::from(activation);
        }
    }
    let divisions = match against.is_empty() || group.is_empty() {
        true => Vec::new(),
        false => divisions(prompts, group.len(), seed),
    };
    let compared = features.iter().zip(activations.chunks_exact(prompts.max(1)));
    let mut features: Vec<ComparedFeature> =
        compared.map(|(&feature, row)| compared_feature(feature, row, group.len(), &divisions)).collect();
    features.sort_by(|a, b| {
        let by_difference = b.difference().abs().total_cmp(&a.difference().abs());
        let by_count = b.count.cmp(&a.count).then(b.mean.total_cmp(&a.mean));
        let order = if against.is_empty() { by_count } else { by_difference };
        order.then(a.feature.cmp(&b.feature))
    });
    Comparison { features, divisions: divisions.len() }
}

fn compared_feature(feature: u32, row: &[f64], size: usize, divisions: &[Vec<usize>]) -> ComparedFeature {
    let (first, second) = row.split_at(size);
    let mean = |values: &[f64]| if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 };
    let count = |values: &[f64]| values.iter().filter(|&&x| x > 0.0).count();
    let found = (mean(first) - mean(second)).abs();
    let total: f64 = row.iter().sum();
    let difference = |members: &Vec<usize>| {
        let sum: f64 = members.iter().map(|&prompt| row[prompt]).sum();
        (sum / size as f64 - (total - sum) / second.len() as f64).abs()
    };
    // Sums of the same numbers in another order differ in their last bits: such a tie counts as one.
    let as_large = |members: &&Vec<usize>| difference(members) >= found * (1.0 - 1e-9);
    let share = divisions.iter().filter(as_large).count() as f64 / divisions.len().max(1) as f64;
    ComparedFeature {
        feature,
        count: count(first),
        count_against: count(second),
        mean: mean(first),
        mean_against: mean(second),
        p_value: (!divisions.is_empty()).then_some(share),
    }
}

/// The first groups of divisions of `prompts` into `size` and the rest: all, or [`DIVISIONS`] of which
/// the first is the true one and the others are drawn.
fn divisions(prompts: usize, size: usize, seed: u64) -> Vec<Vec<usize>> {
    let choices = (0..size).fold(1.0, |n, i| n * (prompts - i) as f64 / (i + 1) as f64);
    if choices <= DIVISIONS as f64 {
        return combinations(prompts, size);
    }
    let drawn = |number| {
        let order = Random::new(seed, Stream::Permutations, number).permutation(prompts);
        order[..size].iter().map(|&prompt| prompt as usize).collect()
    };
    std::iter::once((0..size).collect()).chain((1..DIVISIONS as u32).map(drawn)).collect()
}

/// Every choice of `size` of `0..n`, ascending.
fn combinations(n: usize, size: usize) -> Vec<Vec<usize>> {
    let mut found = Vec::new();
    let mut chosen: Vec<usize> = (0..size).collect();
    loop {
        found.push(chosen.clone());
        let Some(at) = (0..size).rev().find(|&at| chosen[at] < n - size + at) else { return found };
        chosen[at] += 1;
        for next in at + 1..size {
            chosen[next] = chosen[next - 1] + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_of_one_group_alone_is_as_sure_as_the_number_of_divisions_allows() {
        let with = |activation| vec![(7, activation), (9, 1.0)];
        let without = || vec![(9, 1.0)];
        let group = [with(2.0), with(3.0), with(4.0)];
        let against = [without(), without(), without()];
        let comparison = compare(&group, &against, 0);
        // 6 choose 3 divisions; the true one and its mirror image differ most.
        assert_eq!(comparison.divisions, 20);
        let expected = ComparedFeature {
            feature: 7,
            count: 3,
            count_against: 0,
            mean: 3.0,
            mean_against: 0.0,
            p_value: Some(0.1),
        };
        assert_eq!(comparison.features[0], expected);
        assert_eq!((comparison.features[1].feature, comparison.features[1].p_value), (9, Some(1.0)));
    }

    #[test]
    fn without_a_second_group_features_of_the_most_prompts_come_first() {
        let group = [vec![(1, 5.0), (2, 1.0)], vec![(2, 1.0), (3, 9.0)]];
        let comparison = compare(&group, &[], 0);
        let order: Vec<(u32, usize)> = comparison.features.iter().map(|it| (it.feature, it.count)).collect();
        assert_eq!(order, [(2, 2), (3, 1), (1, 1)]);
        assert!(comparison.features.iter().all(|it| it.p_value.is_none()));
    }

    #[test]
    fn drawn_divisions_are_the_same_for_a_seed_and_hold_the_true_one() {
        let group: Vec<_> = (0..12).map(|i| vec![(0, 10.0 + i as f32)]).collect();
        let against: Vec<_> = (0..12).map(|i| vec![(0, 1.0 + i as f32 / 10.0)]).collect();
        let first = compare(&group, &against, 3);
        assert_eq!(first.divisions, DIVISIONS);
        assert_eq!(first, compare(&group, &against, 3));
        // No other division of 24 choose 12 separates them so well; few of those drawn come near.
        let p = first.features[0].p_value.unwrap();
        assert!((1.0 / DIVISIONS as f64..3.0 / DIVISIONS as f64).contains(&p), "{p}");
    }
}
