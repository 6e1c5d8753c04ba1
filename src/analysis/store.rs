//! All that is known of an SAE's features, as one safetensors file that others can read: statistics, weights
//! and the index of where each feature fires.

use super::index::{Place, TokenFeatures};
use super::statistics::{Correlated, FeatureStatistics};
use super::weights::WeightStatistics;
use crate::error::Result;
use crate::formats::tensors::{self, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// What fills a row of indices that is not full.
const NONE: u32 = u32::MAX;

/// Writes the tensors of [`TokenFeatures::tensors`] and, with a row for each feature:
///
/// | tensors | |
/// |---|---|
/// | `count`, `density`, `mean`, `max` | `[d_sae]` |
/// | `quantiles`, `histogram` | `[d_sae, n]` |
/// | `top_places`, `top_values` | `[d_sae, n]`, the largest first |
/// | `example_places`, `example_values` | `[d_sae, intervals, n]`, the highest interval first |
/// | `together`, `together_share`; `correlated`, `correlated_pearson`, `correlated_cosine` | other features `[d_sae, n]` |
/// | `decoder_neighbours`, `decoder_neighbour_cosine` | other features `[d_sae, n]` |
/// | `top_tokens`, `top_token_logits`, `bottom_tokens`, `bottom_token_logits` | the logit lens `[d_sae, n]` |
/// | `logit_histogram`, `logit_range` | logits of the whole vocabulary `[d_sae, n]`, `[d_sae, 2]` |
/// | `decoder_norm`, `encoder_decoder_cosine` | `[d_sae]` |
///
/// Where there are fewer than `n`, indices are 4294967295 and values 0. `notes` go into the header.
pub fn save(
    path: &Path,
    text: &TokenFeatures,
    statistics: &[FeatureStatistics],
    weights: &WeightStatistics,
    notes: HashMap<String, String>,
) -> Result<()> {
    let mut columns = Columns { rows: statistics.len(), tensors: text.tensors() };
    columns.u32("count", 0, statistics.iter().map(|it| vec![it.count as u32]));
    columns.f32("density", 0, statistics.iter().map(|it| vec![it.density as f32]));
    columns.f32("mean", 0, statistics.iter().map(|it| vec![it.mean as f32]));
    columns.f32("max", 0, statistics.iter().map(|it| vec![it.max]));
    columns.f32("quantiles", 1, statistics.iter().map(|it| it.quantiles.to_vec()));
    columns.u32("histogram", 1, statistics.iter().map(|it| it.histogram.clone()));

    let place = |it: &Place| (it.row * text.context + it.position) as u32;
    columns.u32("top_places", 1, statistics.iter().map(|it| it.top.iter().map(place).collect()));
    columns.f32("top_values", 1, statistics.iter().map(|it| it.top.iter().map(|it| it.activation).collect()));
    columns.examples(statistics, place);

    columns.pairs("together", "together_share", statistics.iter().map(|it| it.together.as_slice()));
    columns.u32("correlated", 1, statistics.iter().map(|it| it.correlated.iter().map(|it| it.index).collect()));
    let values =
        |of: fn(&Correlated) -> f32| statistics.iter().map(move |it| it.correlated.iter().map(of).collect::<Vec<_>>());
    columns.f32("correlated_pearson", 1, values(|it| it.pearson));
    columns.f32("correlated_cosine", 1, values(|it| it.cosine));

    for (indices, values, rows) in [
        ("decoder_neighbours", "decoder_neighbour_cosine", &weights.decoder_neighbours),
        ("top_tokens", "top_token_logits", &weights.top_tokens),
        ("bottom_tokens", "bottom_token_logits", &weights.bottom_tokens),
    ] {
        columns.pairs(indices, values, rows.iter().map(Vec::as_slice));
    }
    columns.u32("logit_histogram", 1, weights.logit_histogram.iter().map(|it| it.counts.clone()));
    columns.f32("logit_range", 1, weights.logit_histogram.iter().map(|it| vec![it.from, it.to]));
    columns.f32("decoder_norm", 0, weights.decoder_norm.iter().map(|&x| vec![x]));
    columns.f32("encoder_decoder_cosine", 0, weights.encoder_decoder_cosine.iter().map(|&x| vec![x]));
    tensors::save_with_metadata(path, columns.tensors, Some(notes))
}

/// Tensors of a row for each feature, rows made equally long.
struct Columns<'a> {
    rows: usize,
    tensors: Vec<(String, Tensor<'a>)>,
}

impl Columns<'_> {
    /// Adds one, if there is a row for each feature; `dims` is 0 for a single number.
    fn u32(&mut self, name: &str, dims: usize, rows: impl Iterator<Item = Vec<u32>>) {
        let (values, width) = padded(rows.collect(), NONE);
        self.push(name, dims, width, values.len(), |shape| Tensor {
            bytes: bytes(&values),
            ..Tensor::u32(&shape, &[])
        });
    }

    fn f32(&mut self, name: &str, dims: usize, rows: impl Iterator<Item = Vec<f32>>) {
        let (values, width) = padded(rows.collect(), 0.0);
        self.push(name, dims, width, values.len(), |shape| Tensor {
            bytes: bytes(&values),
            ..Tensor::f32(&shape, &[])
        });
    }

    fn push(
        &mut self,
        name: &str,
        dims: usize,
        width: usize,
        len: usize,
        tensor: impl FnOnce(Vec<usize>) -> Tensor<'static>,
    ) {
        if len == self.rows * width && width > 0 {
            let shape = if dims == 0 { vec![self.rows] } else { vec![self.rows, width] };
            self.tensors.push((name.to_string(), tensor(shape)));
        }
    }

    fn pairs<'p>(&mut self, indices: &str, values: &str, rows: impl Iterator<Item = &'p [(u32, f32)]> + Clone) {
        self.u32(indices, 1, rows.clone().map(|row| row.iter().map(|it| it.0).collect()));
        self.f32(values, 1, rows.map(|row| row.iter().map(|it| it.1).collect()));
    }

    /// `[d_sae, intervals, n]`.
    fn examples(&mut self, statistics: &[FeatureStatistics], place: impl Fn(&Place) -> u32 + Copy) {
        let intervals = statistics.iter().map(|it| it.examples.len()).max().unwrap_or(0);
        let of_intervals = statistics.iter().flat_map(|it| &it.examples);
        let (places, width) = padded(of_intervals.clone().map(|it| it.iter().map(place).collect()).collect(), NONE);
        let (values, _) =
            padded(of_intervals.map(|it| it.iter().map(|place| place.activation).collect()).collect(), 0.0);
        if width > 0 {
            let shape = [self.rows, intervals, width];
            let places = Tensor { bytes: bytes(&places), ..Tensor::u32(&shape, &[]) };
            let values = Tensor { bytes: bytes(&values), ..Tensor::f32(&shape, &[]) };
            self.tensors.extend([("example_places".to_string(), places), ("example_values".to_string(), values)]);
        }
    }
}

fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> std::borrow::Cow<'static, [u8]> {
    bytemuck::cast_slice(values).to_vec().into()
}

/// Rows of the longest one's length, one after another, and that length.
fn padded<T: Copy>(rows: Vec<Vec<T>>, with: T) -> (Vec<T>, usize) {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut all = Vec::with_capacity(rows.len() * width);
    for row in &rows {
        all.extend_from_slice(row);
        all.extend(std::iter::repeat_n(with, width - row.len()));
    }
    (all, width)
}
