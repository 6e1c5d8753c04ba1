//! Host weights (temporary).
#![allow(missing_docs)]
use std::collections::BTreeMap;
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, HostTensor>,
}
impl Weights {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.tensors.iter().map(|(n, t)| (n.as_str(), t))
    }
    pub fn insert(&mut self, name: &str, t: HostTensor) {
        self.tensors.insert(name.into(), t);
    }
    pub fn get(&self, name: &str) -> &HostTensor {
        &self.tensors[name]
    }
}
