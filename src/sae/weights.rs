//! An SAE's weights on the host: tensors by SAELens' names and in SAELens' shapes.

use std::collections::BTreeMap;

/// A tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
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

    /// A tensor that the architecture has.
    pub fn get(&self, name: &str) -> &HostTensor {
        &self.tensors[name]
    }
}
