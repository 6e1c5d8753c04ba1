//! Features as Neuronpedia takes them: the files `batch-N.json` that SAEDashboard writes for it, by its names
//! and definitions (its `NeuronpediaDashboardBatch`; values rounded to three decimals as there). Decoder rows have
//! norm 1 in them, as after SAELens' `fold_W_dec_norm`: activations are longer by a row's norm, logits shorter.

use super::dashboard::{Context, Dashboard, FEATURES_IN_A_FILE};
use super::statistics::Correlated;
use super::weights::largest;
use crate::error::{Error, Result};
use crate::formats::write;
use crate::sae::config::SaeConfig;
use serde::Serialize;
use std::path::Path;

/// Rows of SAEDashboard's tables of neurons and features.
pub const TABLE_ROWS: usize = 3;

/// A file.
#[derive(Serialize)]
struct Batch {
    model_id: String,
    layer: usize,
    sae_set: String,
    sae_id_suffix: Option<String>,
    features: Vec<Feature>,
}

#[derive(Serialize)]
struct Feature {
    feature_index: usize,
    neuron_alignment_indices: Vec<u32>,
    neuron_alignment_values: Vec<f64>,
    neuron_alignment_l1: Vec<f64>,
    correlated_neurons_indices: Vec<u32>,
    correlated_neurons_l1: Vec<f64>,
    correlated_neurons_pearson: Vec<f64>,
    correlated_features_indices: Vec<u32>,
    correlated_features_l1: Vec<f64>,
    correlated_features_pearson: Vec<f64>,
    neg_str: Vec<String>,
    neg_values: Vec<f64>,
    pos_str: Vec<String>,
    pos_values: Vec<f64>,
    frac_nonzero: f64,
    freq_hist_data_bar_values: Vec<f64>,
    freq_hist_data_bar_heights: Vec<u32>,
    logits_hist_data_bar_heights: Vec<u32>,
    logits_hist_data_bar_values: Vec<f64>,
    n_prompts_total: usize,
    n_tokens_in_prompt: usize,
    dataset: String,
    decoder_weights_dist: Vec<f64>,
    activations: Vec<Activation>,
    vector: Vec<f64>,
}

/// A context: of the largest activations `bin_min` and `bin_contains` are -1.
#[derive(Serialize)]
struct Activation {
    bin_min: f64,
    bin_max: f64,
    bin_contains: f64,
    tokens: Vec<String>,
    values: Vec<f64>,
    qualifying_token_index: usize,
}

impl Dashboard<'_> {
    /// Writes `batch-0.json`, … into a folder. `w_dec [d_sae, d_out]` is the decoder, `neurons` are those that
    /// correlate with each feature, `name` is the set's where the SAE has no neuronpedia_id. Error: the hook is
    /// not of a layer.
    pub fn write_neuronpedia(
        &self,
        folder: &Path,
        w_dec: &[f32],
        neurons: &[Vec<Correlated>],
        name: &str,
    ) -> Result<()> {
        write::folder(folder)?;
        let id = self.config.metadata.get("neuronpedia_id").and_then(|id| id.as_str());
        let [model_id, source] = id.and_then(|id| id.split_once('/')).map_or(["", ""], |(model, rest)| [model, rest]);
        let layer = neuronpedia_layer(self.config)?;
        let set = source.split_once('-').map_or(name, |(_, set)| set);
        let model = self.config.metadata.get("model_name").and_then(|it| it.as_str()).unwrap_or_default();
        let model_id = if model_id.is_empty() { model } else { model_id };
        let d_sae = self.statistics.len();
        for first in (0..d_sae).step_by(FEATURES_IN_A_FILE) {
            let last = (first + FEATURES_IN_A_FILE).min(d_sae);
            let batch = Batch {
                model_id: model_id.to_string(),
                layer,
                sae_set: set.to_string(),
                sae_id_suffix: None,
                features: (first..last).map(|it| self.neuronpedia_feature(it, w_dec, &neurons[it])).collect(),
            };
            let path = folder.join(format!("batch-{}.json", first / FEATURES_IN_A_FILE));
            write::atomically(&path, |out| Ok(serde_json::to_writer(out, &batch)?))?;
        }
        Ok(())
    }

    fn neuronpedia_feature(&self, feature: usize, w_dec: &[f32], neurons: &[Correlated]) -> Feature {
        let (it, weights, d_out) = (&self.statistics[feature], self.weights, self.config.d_out());
        let direction = &w_dec[feature * d_out..(feature + 1) * d_out];
        let norm = self.norm(feature);
        let l1: f32 = direction.iter().map(|x| x.abs()).sum();
        let aligned = largest(direction, TABLE_ROWS, 1.0);
        let correlated = &it.correlated[..it.correlated.len().min(TABLE_ROWS)];
        let empty = Vec::new();
        let tokens = |of: &Vec<(u32, f32)>| of.iter().map(|&(token, _)| self.word(token)).collect();
        let logits = |of: &Vec<(u32, f32)>| of.iter().map(|&(_, logit)| rounded(logit / norm)).collect();
        let top = weights.top_tokens.get(feature).unwrap_or(&empty);
        let bottom = weights.bottom_tokens.get(feature).unwrap_or(&empty);
        let lens = weights.logit_histogram.get(feature);
        let bins = if it.count == 0 { 0 } else { it.histogram.len() };
        Feature {
            feature_index: feature,
            neuron_alignment_indices: aligned.iter().map(|it| it.0).collect(),
            neuron_alignment_values: aligned.iter().map(|it| rounded(it.1 / norm)).collect(),
            neuron_alignment_l1: aligned.iter().map(|it| rounded(it.1.abs() / l1.max(f32::MIN_POSITIVE))).collect(),
            correlated_neurons_indices: neurons.iter().map(|it| it.index).collect(),
            correlated_neurons_l1: neurons.iter().map(|it| rounded(it.cosine)).collect(),
            correlated_neurons_pearson: neurons.iter().map(|it| rounded(it.pearson)).collect(),
            correlated_features_indices: correlated.iter().map(|it| it.index).collect(),
            correlated_features_l1: correlated.iter().map(|it| rounded(it.cosine)).collect(),
            correlated_features_pearson: correlated.iter().map(|it| rounded(it.pearson)).collect(),
            neg_str: tokens(bottom),
            neg_values: logits(bottom),
            pos_str: tokens(top),
            pos_values: logits(top),
            frac_nonzero: it.density,
            freq_hist_data_bar_values: middles(0.0, it.max * norm, bins),
            freq_hist_data_bar_heights: it.histogram[..bins].to_vec(),
            logits_hist_data_bar_heights: lens.map_or_else(Vec::new, |it| it.counts.clone()),
            logits_hist_data_bar_values: lens
                .map_or_else(Vec::new, |it| middles(it.from / norm, it.to / norm, it.counts.len())),
            n_prompts_total: self.text.tokens.len() / self.text.context,
            n_tokens_in_prompt: self.text.context,
            dataset: self.text_name.to_string(),
            decoder_weights_dist: Vec::new(),
            activations: self.neuronpedia_activations(feature),
            vector: Vec::new(),
        }
    }

    fn neuronpedia_activations(&self, feature: usize) -> Vec<Activation> {
        let (it, norm) = (&self.statistics[feature], self.norm(feature));
        let activation = |place, [bin_min, bin_max, bin_contains]: [f64; 3]| {
            let Context { tokens, activations, center, .. } = self.context(feature, place);
            Activation {
                bin_min,
                bin_max,
                bin_contains,
                tokens: tokens.into_iter().map(|token| self.word(token)).collect(),
                values: activations.into_iter().map(|x| rounded(x * norm)).collect(),
                qualifying_token_index: center,
            }
        };
        let top = it.top.iter().map(|place| activation(place, [-1.0, rounded(it.max * norm), -1.0]));
        let intervals = it.examples.len();
        let tokens = self.text.tokens.len().max(1) as f64;
        let examples = it.examples.iter().enumerate().flat_map(|(number, places)| {
            let edge = |i: usize| it.max * (intervals - number - 1 + i) as f32 / intervals as f32;
            let inside = |&&value: &&f32| value >= edge(0) && value <= edge(1);
            let share = self.text.of_feature(feature).1.iter().filter(inside).count() as f64 / tokens;
            let bin = [rounded(edge(0) * norm), rounded(edge(1) * norm), share];
            places.iter().map(move |place| activation(place, bin))
        });
        top.chain(examples).collect()
    }

    /// Of the decoder row, as SAELens' `get_W_dec_norm`.
    fn norm(&self, feature: usize) -> f32 {
        self.weights.decoder_norm[feature].max(1e-8)
    }

    fn word(&self, token: u32) -> String {
        self.vocabulary[token as usize].clone()
    }
}

/// The layer that Neuronpedia has an SAE under. Error: its hook is of none.
pub fn neuronpedia_layer(config: &SaeConfig) -> Result<usize> {
    let hook = config.hook_name().unwrap_or_default();
    let layer = hook.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let what = || format!("{hook:?} is of no layer, and Neuronpedia sorts SAEs by layer");
    layer.ok_or_else(|| Error::config("hook_name", what()))
}

/// To three decimals.
fn rounded(x: f32) -> f64 {
    (f64::from(x) * 1000.0).round() / 1000.0
}

/// Of `n` intervals of equal width.
fn middles(from: f32, to: f32, n: usize) -> Vec<f64> {
    let width = f64::from(to - from) / n as f64;
    (0..n).map(|i| ((f64::from(from) + width * (i as f64 + 0.5)) * 1000.0).round() / 1000.0).collect()
}
