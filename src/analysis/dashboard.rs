//! One static page for all features of an SAE: a folder that opens from disk and from any web server. The
//! page is `assets/dashboard`, the data scripts that call `cusae.receive(name, value)`, because a page
//! opened from disk may load scripts but not files.

use super::index::{Place, TokenFeatures};
use super::statistics::{FeatureStatistics, QUANTILES};
use super::weights::{LogitHistogram, WeightStatistics};
use crate::error::Result;
use crate::formats::write;
use crate::sae::config::SaeConfig;
use serde::Serialize;
use serde_json::{json, Value};
use std::path::Path;

const PAGE: [(&str, &str); 3] = [
    ("index.html", include_str!("../../assets/dashboard/index.html")),
    ("style.css", include_str!("../../assets/dashboard/style.css")),
    ("page.js", include_str!("../../assets/dashboard/page.js")),
];

/// Features whose details are in one file: some 100 kB, so that a page is there at once.
pub(super) const FEATURES_IN_A_FILE: usize = 64;

/// Tokens of a context before and after the one that it is shown for.
const BEFORE: usize = 16;
const AFTER: usize = 8;

/// Bins of the overview's histograms.
const BINS: usize = 40;

/// All that the page shows.
pub struct Dashboard<'a> {
    /// The SAE.
    pub config: &'a SaeConfig,
    /// Text of every token of the vocabulary.
    pub vocabulary: &'a [String],
    /// The text with its features.
    pub text: &'a TokenFeatures,
    /// By the text.
    pub statistics: &'a [FeatureStatistics],
    /// By the weights.
    pub weights: &'a WeightStatistics,
    /// `[(name, [(step, value)])]`: how training went, where that is known.
    pub curves: Vec<(String, Vec<(f64, f64)>)>,
    /// Rows of the text that are shown whole.
    pub rows: usize,
    /// What the text is called.
    pub text_name: &'a str,
}

impl Dashboard<'_> {
    /// Writes the folder. `progress` gets the number of features written.
    pub fn write(&self, folder: &Path, progress: &mut dyn FnMut(usize)) -> Result<()> {
        let features = folder.join("data/features");
        write::folder(&features)?;
        for (name, text) in PAGE {
            write::text(&folder.join(name), text)?;
        }
        receive(folder, "overview", &self.overview())?;
        receive(folder, "list", &self.list())?;
        receive(folder, "vocabulary", &self.vocabulary)?;
        receive(folder, "text", &self.rows())?;
        // A server that can do more than show files answers otherwise.
        receive(folder, "live", &false)?;
        let d_sae = self.statistics.len();
        for first in (0..d_sae).step_by(FEATURES_IN_A_FILE) {
            let last = (first + FEATURES_IN_A_FILE).min(d_sae);
            let part: Vec<FeaturePage> = (first..last).map(|feature| self.feature(feature)).collect();
            receive(folder, &format!("features/{}", first / FEATURES_IN_A_FILE), &part)?;
            progress(last);
        }
        Ok(())
    }

    fn overview(&self) -> Value {
        let note = |key: &str| self.config.metadata.get(key).and_then(Value::as_str);
        let hook = match (self.config.hook_name().unwrap_or("?"), note("hook_name_out")) {
            (input, Some(output)) if self.config.transcoder.is_some() => format!("{input} → {output}"),
            (hook, _) => hook.to_string(),
        };
        let model = note("model_name").unwrap_or("?");
        let densities: Vec<f64> = self.statistics.iter().map(|it| it.density).collect();
        let alive: Vec<f64> =
            densities.iter().filter(|&&density| density > 0.0).map(|density| density.log10()).collect();
        let of_weights = |values: &[f32]| histogram(&values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        json!({
            "title": format!("{model} · {hook}"),
            "architecture": self.config.architecture.name(),
            "model": model,
            "hook": hook,
            "d_in": self.config.d_in,
            "d_sae": self.statistics.len(),
            "tokens": self.text.tokens.len(),
            "text": self.text_name,
            "l0": densities.iter().sum::<f64>(),
            "dead": self.statistics.iter().filter(|it| it.count == 0).count(),
            "density": histogram(&alive),
            "decoder_norm": of_weights(&self.weights.decoder_norm),
            "encoder_decoder_cosine": of_weights(&self.weights.encoder_decoder_cosine),
            "curves": self.curves.iter().map(|(name, points)| json!({"name": name, "points": points})).collect::<Vec<_>>(),
            "quantiles": QUANTILES,
            "features_in_a_file": FEATURES_IN_A_FILE,
            "neuronpedia_id": note("neuronpedia_id"),
        })
    }

    /// What the list of all features is searched and sorted by; `tokens` are the likeliest by the
    /// weights, or where those do not say the tokens on which it fires most.
    fn list(&self) -> Value {
        let short = |x: f64| format!("{x:.4e}").parse::<f64>().unwrap_or(0.0);
        let column = |value: &dyn Fn(&FeatureStatistics) -> f64| -> Vec<f64> {
            self.statistics.iter().map(|it| short(value(it))).collect()
        };
        let tokens = |(feature, it): (usize, &FeatureStatistics)| -> Vec<u32> {
            match self.weights.top_tokens.get(feature) {
                Some(top) => top.iter().take(5).map(|&(token, _)| token).collect(),
                None => it.top.iter().take(5).map(|place| self.token(place)).collect(),
            }
        };
        json!({
            "density": column(&|it| it.density),
            "mean": column(&|it| it.mean),
            "max": column(&|it| f64::from(it.max)),
            "norm": self.weights.decoder_norm.iter().map(|&x| short(f64::from(x))).collect::<Vec<_>>(),
            "cosine": self.weights.encoder_decoder_cosine.iter().map(|&x| short(f64::from(x))).collect::<Vec<_>>(),
            "tokens": self.statistics.iter().enumerate().map(tokens).collect::<Vec<_>>(),
        })
    }

    fn feature(&self, feature: usize) -> FeaturePage<'_> {
        let (it, weights) = (&self.statistics[feature], self.weights);
        let contexts = |places: &Vec<Place>| places.iter().map(|place| self.context(feature, place)).collect();
        FeaturePage {
            count: it.count,
            density: it.density,
            mean: it.mean as f32,
            max: it.max,
            quantiles: it.quantiles,
            histogram: &it.histogram,
            top: contexts(&it.top),
            examples: it.examples.iter().map(contexts).collect(),
            together: &it.together,
            correlated: it.correlated.iter().map(|it| (it.index, it.pearson)).collect(),
            top_tokens: weights.top_tokens.get(feature).map_or(&[], Vec::as_slice),
            bottom_tokens: weights.bottom_tokens.get(feature).map_or(&[], Vec::as_slice),
            logits: weights.logit_histogram.get(feature),
            decoder_neighbours: &weights.decoder_neighbours[feature],
            decoder_norm: weights.decoder_norm[feature],
            encoder_decoder_cosine: weights.encoder_decoder_cosine.get(feature).copied(),
        }
    }

    fn token(&self, place: &Place) -> u32 {
        self.text.tokens[place.row * self.text.context + place.position]
    }

    /// The tokens around a place, and how strongly the feature fires on each.
    pub(super) fn context(&self, feature: usize, place: &Place) -> Context {
        let context = self.text.context;
        let start = place.row * context + place.position.saturating_sub(BEFORE);
        let end = place.row * context + (place.position + AFTER + 1).min(context);
        let (places, values) = self.text.of_feature(feature);
        let activation = |token: usize| places.binary_search(&(token as u32)).map_or(0.0, |entry| values[entry]);
        Context {
            row: place.row,
            position: place.position,
            activation: place.activation,
            tokens: self.text.tokens[start..end].to_vec(),
            activations: (start..end).map(activation).collect(),
            center: place.row * context + place.position - start,
        }
    }

    /// The first rows, each token with its strongest features.
    fn rows(&self) -> Vec<RowPage<'_>> {
        let context = self.text.context;
        let rows = (self.text.tokens.len() / context).min(self.rows);
        let strongest = |token: usize| {
            let (features, activations) = self.text.of_token(token);
            let mut features: Vec<(u32, f32)> = features.iter().copied().zip(activations.iter().copied()).collect();
            features.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            features.truncate(10);
            features
        };
        let row = |row: usize| {
            let tokens = row * context..(row + 1) * context;
            RowPage { tokens: &self.text.tokens[tokens.clone()], features: tokens.map(strongest).collect() }
        };
        (0..rows).map(row).collect()
    }
}

/// What the page of one feature shows.
#[derive(Serialize)]
struct FeaturePage<'a> {
    count: usize,
    density: f64,
    mean: f32,
    max: f32,
    quantiles: [f32; 5],
    histogram: &'a [u32],
    top: Vec<Context>,
    examples: Vec<Vec<Context>>,
    together: &'a [(u32, f32)],
    correlated: Vec<(u32, f32)>,
    top_tokens: &'a [(u32, f32)],
    bottom_tokens: &'a [(u32, f32)],
    logits: Option<&'a LogitHistogram>,
    decoder_neighbours: &'a [(u32, f32)],
    decoder_norm: f32,
    encoder_decoder_cosine: Option<f32>,
}

/// A row of the text.
#[derive(Serialize)]
struct RowPage<'a> {
    tokens: &'a [u32],
    features: Vec<Vec<(u32, f32)>>,
}

/// A place with the tokens around it.
#[derive(Serialize)]
pub(super) struct Context {
    row: usize,
    position: usize,
    activation: f32,
    pub(super) tokens: Vec<u32>,
    pub(super) activations: Vec<f32>,
    pub(super) center: usize,
}

/// `data/NAME.js`.
fn receive(folder: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = folder.join("data").join(format!("{name}.js"));
    write::atomically(&path, |out| {
        write!(out, "cusae.receive({}, ", json!(name))?;
        serde_json::to_writer(&mut *out, value)?;
        writeln!(out, ");")
    })
}

/// Bins of equal width between the smallest and the largest value; where all are the same but for rounding,
/// one bin.
fn histogram(values: &[f64]) -> Value {
    let (from, to) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), &x| (from.min(x), to.max(x)));
    if values.is_empty() {
        return json!({"counts": [0], "from": 0.0, "to": 0.0});
    }
    if to - from <= 1e-4 * to.abs() {
        return json!({"counts": [values.len()], "from": from, "to": to});
    }
    let mut counts = vec![0; BINS];
    for &x in values {
        counts[((x - from) / (to - from) * BINS as f64).min(BINS as f64 - 1.0) as usize] += 1;
    }
    json!({"counts": counts, "from": from, "to": to})
}
