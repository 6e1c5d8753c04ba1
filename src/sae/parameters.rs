//! The SAE's parameters on a device: named buffers, and the way from and to SAELens' shapes.

use super::config::TensorShapes;
use super::weights::{HostTensor, Weights};
use crate::backend::{Backend, Buffer, WeightGradients};
use crate::error::Result;

/// One buffer per parameter, by SAELens' names. `W_enc` and `W_dec` are both `[d_sae, d_in]` here.
pub struct Named<B: Backend> {
    buffers: Vec<(String, B::Buffer<f32>)>,
}

impl<B: Backend> Named<B> {
    /// Uploads host weights (in SAELens' shapes: `W_enc [d_in, d_sae]`).
    pub fn upload(backend: &B, weights: &Weights) -> Result<Self> {
        let mut buffers = Vec::new();
        for (name, tensor) in weights.iter() {
            let values = if name == "W_enc" {
                backend.upload(&tensor.transposed().values)?
            } else {
                backend.upload(&tensor.values)?
            };
            buffers.push((name.to_string(), values));
        }
        Ok(Named { buffers })
    }

    /// Zeros of the same names and sizes.
    pub fn zeros_like(backend: &B, other: &Self) -> Result<Self> {
        let buffers = other.buffers.iter().map(|(name, buffer)| Ok((name.clone(), backend.zeros(buffer.len())?)));
        Ok(Named { buffers: buffers.collect::<Result<_>>()? })
    }

    /// The host weights, in SAELens' shapes.
    pub fn download(&self, backend: &B, d_in: usize) -> Result<Weights> {
        let mut weights = Weights::default();
        for (name, buffer) in &self.buffers {
            let values = backend.download(buffer)?;
            let tensor = match name.as_str() {
                "W_enc" => {
                    let d_sae = values.len() / d_in;
                    HostTensor { shape: vec![d_sae, d_in], values }.transposed()
                }
                "W_dec" | "W_skip" => HostTensor { shape: vec![values.len() / d_in, d_in], values },
                _ => HostTensor { shape: vec![values.len()], values },
            };
            weights.insert(name, tensor);
        }
        Ok(weights)
    }

    /// The host weights of these names and SAELens' shapes.
    pub fn download_as(&self, backend: &B, tensors: TensorShapes) -> Result<Weights> {
        let mut weights = Weights::default();
        for (name, shape) in tensors {
            let values = backend.download(self.get(&name))?;
            let tensor = match (name.as_ref(), &shape[..]) {
                ("W_enc", &[d_in, d_sae]) => HostTensor { shape: vec![d_sae, d_in], values }.transposed(),
                _ => HostTensor { shape, values },
            };
            weights.insert(&name, tensor);
        }
        Ok(weights)
    }

    /// All names and buffers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &B::Buffer<f32>)> {
        self.buffers.iter().map(|(name, buffer)| (name.as_str(), buffer))
    }

    /// All names and buffers, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut B::Buffer<f32>)> {
        self.buffers.iter_mut().map(|(name, buffer)| (name.as_str(), buffer))
    }

    /// Whether there is a parameter of a name.
    pub fn contains(&self, name: &str) -> bool {
        self.buffers.iter().any(|(known, _)| known == name)
    }

    /// The buffer of a name that the architecture has.
    pub fn get(&self, name: &str) -> &B::Buffer<f32> {
        &self.buffers[self.position(name)].1
    }

    /// The buffer of a name that the architecture has, to be changed.
    pub fn get_mut(&mut self, name: &str) -> &mut B::Buffer<f32> {
        let position = self.position(name);
        &mut self.buffers[position].1
    }

    /// The buffers of two names, the second to be changed.
    pub fn get_beside(&mut self, read: &str, write: &str) -> (&B::Buffer<f32>, &mut B::Buffer<f32>) {
        let positions = [read, write].map(|name| self.position(name));
        let [read, write] = self.buffers.get_disjoint_mut(positions).expect("two different names");
        (&read.1, &mut write.1)
    }

    /// Where the gradients of the encoder's and decoder's weights go.
    pub fn weight_gradients(&mut self, accumulate: bool) -> WeightGradients<'_, B> {
        let [w_enc, b_enc, w_dec] = self.get_many_mut(["W_enc", "b_enc", "W_dec"]);
        WeightGradients { w_enc, b_enc, w_dec, accumulate, only_listed: false }
    }

    /// The same for rows of the latents that lists name, the others left as they are.
    pub fn listed_weight_gradients(&mut self) -> WeightGradients<'_, B> {
        WeightGradients { only_listed: true, ..self.weight_gradients(false) }
    }

    /// The buffers of different names that the architecture has, to be changed.
    pub fn get_many_mut<const N: usize>(&mut self, names: [&str; N]) -> [&mut B::Buffer<f32>; N] {
        let positions = names.map(|name| self.position(name));
        self.buffers.get_disjoint_mut(positions).expect("different names").map(|(_, buffer)| buffer)
    }

    fn position(&self, name: &str) -> usize {
        self.buffers.iter().position(|(n, _)| n == name).unwrap_or_else(|| panic!("no parameter {name}"))
    }
}
