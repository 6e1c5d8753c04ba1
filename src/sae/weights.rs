//! An SAE's weights on the host: tensors by SAELens' names and in SAELens' shapes.

use super::config::{InferenceArchitecture, SaeConfig};
use crate::config::NormalizeActivations;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// A matrix with rows and columns exchanged.
    pub fn transposed(&self) -> HostTensor {
        let [rows, columns] = self.shape[..] else { panic!("a matrix has two dimensions") };
        HostTensor { shape: vec![columns, rows], values: transposed(&self.values, [rows, columns]) }
    }
}

/// A matrix `[rows, columns]` with rows and columns exchanged.
pub(super) fn transposed(from: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    const TILE: usize = 32;
    let mut values = vec![0.0; from.len()];
    values.par_chunks_mut((TILE * rows).max(1)).enumerate().for_each(|(i, values)| {
        // Columns lie far apart, and of many sizes in the same few places of a cache: a tile is turned apart
        // from them.
        let mut tile = [[0.0; TILE]; TILE];
        let (column, width) = (i * TILE, values.len() / rows);
        for row in (0..rows).step_by(TILE) {
            let height = TILE.min(rows - row);
            for i in 0..height {
                let from = &from[(row + i) * columns + column..][..width];
                from.iter().zip(&mut tile).for_each(|(&value, to)| to[i] = value);
            }
            for (turned, from) in values.chunks_exact_mut(rows).zip(&tile) {
                turned[row..][..height].copy_from_slice(&from[..height]);
            }
        }
    });
    values
}

/// `W_enc [d_in, d_sae]`, `b_enc [d_sae]`, `W_dec [d_sae, d_in]`, `b_dec [d_in]` and whatever else
/// an architecture has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, HostTensor>,
}

impl Weights {
    /// All tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: &str, tensor: HostTensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// A tensor, if the architecture has it.
    pub fn find(&self, name: &str) -> Option<&HostTensor> {
        self.tensors.get(name)
    }

    /// Takes a tensor away.
    pub fn remove(&mut self, name: &str) -> Option<HostTensor> {
        self.tensors.remove(name)
    }

    /// A tensor that the architecture has.
    pub fn get(&self, name: &str) -> &HostTensor {
        &self.tensors[name]
    }

    /// The encoder `[d_in, d_sae]`: of an SAE that has none of its own the decoder, transposed.
    pub fn encoder(&self) -> Cow<'_, HostTensor> {
        self.find("W_enc").map_or_else(|| Cow::Owned(self.get("W_dec").transposed()), Cow::Borrowed)
    }

    /// Multiplies every value of a tensor that the architecture has.
    pub fn scale(&mut self, name: &str, factor: f32) {
        self.values_mut(name).iter_mut().for_each(|x| *x *= factor);
    }

    /// The first value that is not finite: the tensor's name and the position in it.
    pub fn find_non_finite(&self) -> Option<(&str, usize)> {
        self.iter().find_map(|(name, tensor)| Some((name, tensor.values.iter().position(|x| !x.is_finite())?)))
    }

    /// Norms of the decoder's rows `[d_sae]`, at least 1e-8, as SAELens' `get_W_dec_norm`.
    pub fn decoder_norms(&self) -> Vec<f32> {
        let w_dec = self.get("W_dec");
        let norm = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        w_dec.values.chunks_exact(w_dec.shape[1]).map(|row| norm(row).max(1e-8) as f32).collect()
    }

    /// Brings every decoder row to norm 1 and its latent's encoder to the scale that keeps the
    /// reconstruction: `W_dec /= n`, and times `n` the columns of `W_enc` and whatever is compared
    /// with or added to their product (SAELens' `fold_W_dec_norm`).
    pub fn fold_w_dec_norm(&mut self) {
        let norms = self.decoder_norms();
        let d_out = self.get("W_dec").shape[1];
        for (row, norm) in self.values_mut("W_dec").chunks_exact_mut(d_out).zip(&norms) {
            row.iter_mut().for_each(|x| *x /= norm);
        }
        for name in ["W_enc", "b_enc", "b_gate", "b_mag", "threshold"] {
            let Some(tensor) = self.tensors.get_mut(name) else { continue };
            for row in tensor.values.chunks_exact_mut(norms.len()) {
                row.iter_mut().zip(&norms).for_each(|(x, norm)| *x *= norm);
            }
        }
    }

    /// Makes an SAE that was trained on activations times `factor` one for the activations
    /// themselves: `W_enc *= factor`, `W_dec /= factor`, `b_dec /= factor`, and no normalisation in
    /// `config` any more (SAELens' `fold_activation_norm_scaling_factor`). Of matching pursuit the decoder
    /// stays as it is, being the encoder, too, and `residual_threshold /= factor`.
    pub fn fold_activation_norm_scaling_factor(&mut self, config: &mut SaeConfig, factor: f32) {
        self.fold_scales(config, [factor; 2]);
    }

    /// The same of a transcoder that was trained to give the `output` multiple of one hook from the `input`
    /// multiple of another: what encodes is multiplied by the first factor, what decodes divided by the second,
    /// and `W_skip` both.
    pub fn fold_scales(&mut self, config: &mut SaeConfig, [input, output]: [f32; 2]) {
        if self.find("W_skip").is_some() {
            self.scale("W_skip", input / output);
        }
        let divided: &[&str] = match &mut config.architecture {
            InferenceArchitecture::MatchingPursuit(pursuit) => {
                pursuit.residual_threshold /= f64::from(input);
                &["b_dec"]
            }
            _ => {
                self.scale("W_enc", input);
                &["W_dec", "b_dec"]
            }
        };
        for name in divided {
            self.values_mut(name).iter_mut().for_each(|x| *x /= output);
        }
        config.normalize_activations = NormalizeActivations::None;
    }

    /// The values of a tensor that the architecture has, to be changed.
    pub fn values_mut(&mut self, name: &str) -> &mut [f32] {
        &mut self.tensors.get_mut(name).unwrap_or_else(|| panic!("no tensor {name}")).values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_whatever_their_number() {
        for (rows, columns) in [(1, 1), (1, 40), (33, 70), (64, 32)] {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let turned = HostTensor { shape: vec![rows, columns], values: values.clone() }.transposed();
            assert_eq!(turned.shape, [columns, rows]);
            for (i, value) in values.iter().enumerate() {
                assert_eq!(turned.values[i % columns * rows + i / columns], *value, "{rows} x {columns}: {i}");
            }
        }
    }
}
