//! Where every feature fires in a text: one file that answers "where is feature f above a" without the
//! model. Memory is bounded: what grows with the text is on disk.

use crate::error::{Error, Result};
use crate::formats::spill::{Filled, Spill, Spilled};
use crate::formats::tensors::{Tensor, TensorFile};
use crate::sae::features::SparseFeatures;
use safetensors::Dtype;
use std::path::Path;

/// Takes in the features of rows of tokens, in order.
pub struct IndexWriter {
    context: usize,
    tokens: Spill<u32>,
    lengths: Spill<u32>,
    features: Spill<u32>,
    values: Spill<f32>,
    counts: Vec<u64>,
}

/// The features of a text by token and by feature.
pub struct TokenFeatures {
    /// Tokens in a row.
    pub context: usize,
    /// Ids `[rows * T]`.
    pub tokens: Spilled<u32>,
    /// Where each token's entries begin, and the end `[rows * T + 1]`.
    token_starts: Filled<u64>,
    features: Spilled<u32>,
    activations: Spilled<f32>,
    /// Where each feature's entries begin, and the end `[d_sae + 1]`.
    feature_starts: Vec<u64>,
    places: Filled<u32>,
    values: Filled<f32>,
}

impl IndexWriter {
    /// For rows of `context` tokens and `d_sae` features; what does not fit into memory is kept on the
    /// disk of `folder`.
    pub fn new(folder: &Path, context: usize, d_sae: usize) -> Result<Self> {
        Ok(IndexWriter {
            context,
            tokens: Spill::new(folder)?,
            lengths: Spill::new(folder)?,
            features: Spill::new(folder)?,
            values: Spill::new(folder)?,
            counts: vec![0; d_sae],
        })
    }

    /// Takes in `tokens [rows, T]` with their features. Where `excluded`, a token has none.
    pub fn push(&mut self, tokens: &[u32], features: &SparseFeatures, excluded: &[bool]) -> Result<()> {
        if self.tokens.len() + tokens.len() > u32::MAX as usize {
            return Err(Error::config("text", format!("more than {} tokens; take a part of it", u32::MAX)));
        }
        self.tokens.push(tokens)?;
        for (row, &excluded) in excluded.iter().enumerate() {
            let (indices, values) = if excluded { (&[][..], &[][..]) } else { features.row(row) };
            self.lengths.push(&[indices.len() as u32])?;
            self.features.push(indices)?;
            self.values.push(values)?;
            indices.iter().for_each(|&feature| self.counts[feature as usize] += 1);
        }
        Ok(())
    }

    /// Sorts all entries by feature.
    pub fn finish(self, folder: &Path) -> Result<TokenFeatures> {
        let IndexWriter { context, tokens, lengths, features, values, counts } = self;
        let (tokens, lengths, features) = (tokens.finish()?, lengths.finish()?, features.finish()?);
        let activations = values.finish()?;
        let mut feature_starts = vec![0; counts.len() + 1];
        for (feature, count) in counts.iter().enumerate() {
            feature_starts[feature + 1] = feature_starts[feature] + count;
        }
        let mut next = feature_starts.clone();
        let mut token_starts = Filled::<u64>::zeros(folder, lengths.len() + 1)?;
        let mut places = Filled::<u32>::zeros(folder, features.len())?;
        let mut values = Filled::<f32>::zeros(folder, features.len())?;
        let mut entry = 0;
        for (token, &length) in lengths.iter().enumerate() {
            for _ in 0..length {
                let slot = &mut next[features[entry] as usize];
                places[*slot as usize] = token as u32;
                values[*slot as usize] = activations[entry];
                *slot += 1;
                entry += 1;
            }
            token_starts[token + 1] = entry as u64;
        }
        Ok(TokenFeatures { context, tokens, token_starts, features, activations, feature_starts, places, values })
    }
}

impl TokenFeatures {
    /// Number of features.
    pub fn d_sae(&self) -> usize {
        self.feature_starts.len() - 1
    }

    /// Where a feature fires, in the order of the text, and how strongly.
    pub fn of_feature(&self, feature: usize) -> (&[u32], &[f32]) {
        let entries = self.feature_starts[feature] as usize..self.feature_starts[feature + 1] as usize;
        (&self.places[entries.clone()], &self.values[entries])
    }

    /// The features of token `row * T + position`, and how strongly each fires.
    pub fn of_token(&self, token: usize) -> (&[u32], &[f32]) {
        let entries = self.token_starts[token] as usize..self.token_starts[token + 1] as usize;
        (&self.features[entries.clone()], &self.activations[entries])
    }

    /// The part by feature: `tokens [rows, T]`, `feature_starts [d_sae + 1]`, and for every entry `places` (row
    /// times T plus position) and `values`.
    pub fn tensors(&self) -> Vec<(String, Tensor<'_>)> {
        let starts: Vec<u8> = self.feature_starts.iter().flat_map(|start| start.to_le_bytes()).collect();
        let (rows, entries) = (self.tokens.len() / self.context, self.values.len());
        let starts = Tensor { dtype: Dtype::U64, shape: vec![self.d_sae() + 1], bytes: starts.into() };
        let named = [
            ("tokens", Tensor::u32(&[rows, self.context], &self.tokens)),
            ("feature_starts", starts),
            ("places", Tensor::u32(&[entries], &self.places)),
            ("values", Tensor::f32(&[entries], &self.values)),
        ];
        named.into_iter().map(|(name, tensor)| (name.to_string(), tensor)).collect()
    }
}

/// An index file.
pub struct FeatureIndex {
    file: TensorFile,
    starts: Vec<u64>,
    context: usize,
}

/// A place where a feature fires.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Place {
    /// Row of the text.
    pub row: usize,
    /// Position in the row.
    pub position: usize,
    /// How strongly.
    pub activation: f32,
}

impl FeatureIndex {
    /// Opens a file with the tensors of [`TokenFeatures::tensors`]. Error: the file is damaged or another.
    pub fn open(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let bytes = file.bytes("feature_starts")?;
        let starts: Vec<u64> = bytes.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
        let (shape, entries) = (file.shape("tokens")?.to_vec(), file.shape("places")?.to_vec());
        file.expect_shape("values", &entries)?;
        let [_, context] = shape[..] else {
            return Err(Error::format(path, format!("tensor tokens has shape {shape:?}, expected [rows, T]")));
        };
        let sorted = starts.first() == Some(&0) && starts.is_sorted() && context > 0;
        if !sorted || starts.last().map(|&end| end as usize) != entries.first().copied() {
            let what = "feature_starts does not rise from 0 to the number of entries; write the index again";
            return Err(Error::format(path, what));
        }
        Ok(FeatureIndex { file, starts, context })
    }

    /// Every place where `feature` is above `activation`, in the order of the text. Error: there is no
    /// such feature.
    pub fn above(&self, feature: usize, activation: f32) -> Result<Vec<Place>> {
        let Some(&[start, end]) = self.starts.get(feature..feature + 2) else {
            let what = format!("{feature}, this index has features 0 to {}", self.starts.len().saturating_sub(2));
            return Err(Error::config("feature", what));
        };
        let (start, count) = (start as usize, (end - start) as usize);
        let (places, values) =
            (self.file.u32_range("places", start, count)?, self.file.f32_range("values", start, count)?);
        let place = |(place, activation): (u32, f32)| Place {
            row: place as usize / self.context,
            position: place as usize % self.context,
            activation,
        };
        Ok(places.into_iter().zip(values).filter(|&(_, value)| value > activation).map(place).collect())
    }

    /// What its writer says in the file's header: `vocabulary`, …
    pub fn note(&self, key: &str) -> Option<&str> {
        Some(self.file.text_metadata()?.get(key)?.as_str())
    }

    /// The ids of a row.
    pub fn row(&self, row: usize) -> Result<Vec<u32>> {
        self.file.u32_range("tokens", row * self.context, self.context)
    }
}
