//! The SAE's parameters on a device: named buffers, and the way from and to SAELens' shapes.

use super::config::TensorShapes;
use super::weights::{transposed, HostTensor, Weights};
use crate::backend::{Backend, Buffer, WeightGradients};
use crate::error::Result;
use std::borrow::Cow;

/// One buffer per parameter, by SAELens' names. `W_enc` and `W_dec` are both `[d_sae, d_in]` here.
pub struct Named<B: Backend> {
    buffers: Vec<(String, B::Buffer<f32>)>,
}

impl<B: Backend> Named<B> {
    /// Gives the memory back.
    pub fn clear(&mut self) {
        self.buffers.clear();
    }

    /// Uploads host weights (in SAELens' shapes: `W_enc [d_in, d_sae]`).
    pub fn upload(backend: &B, weights: &Weights) -> Result<Self> {
        let mut buffers = Vec::new();
        // First what takes another copy on its way.
        let (turned, plain): (Vec<_>, Vec<_>) = weights.iter().partition(|(name, _)| *name == "W_enc");
        for (name, tensor) in turned {
            buffers.push((name.to_string(), backend.upload(&tensor.transposed().values)?));
        }
        for (name, tensor) in plain {
            buffers.push((name.to_string(), backend.upload(&tensor.values)?));
        }
        buffers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Named { buffers })
    }

    /// Zeros of the same names and sizes.
    pub fn zeros_like(backend: &B, other: &Self) -> Result<Self> {
        let buffers = other.buffers.iter().map(|(name, buffer)| Ok((name.clone(), backend.zeros(buffer.len())?)));
        Ok(Named { buffers: buffers.collect::<Result<_>>()? })
    }

    /// The same, written rather than promised: memory that a step changes anyway does not come page by page, with a
    /// wait of all threads for each.
    pub fn written_zeros_like(backend: &B, other: &Self) -> Result<Self> {
        let written = |len| backend.upload(&vec![0.0; len]);
        let buffers = other.buffers.iter().map(|(name, buffer)| Ok((name.clone(), written(buffer.len())?)));
        Ok(Named { buffers: buffers.collect::<Result<_>>()? })
    }

    /// The host weights, in SAELens' shapes.
    pub fn download(&self, backend: &B, d_in: usize) -> Result<Weights> {
        let mut weights = Weights::default();
        for (name, buffer) in &self.buffers {
            let shape = host_shape(name, buffer.len(), d_in);
            let values = host_values(backend, name, buffer, &shape)?.into_owned();
            weights.insert(name, HostTensor { shape, values });
        }
        Ok(weights)
    }

    /// Names, SAELens' shapes, and what gives the values, so that a file can be written one tensor after the other.
    pub fn by_tensor<'a>(
        &'a self,
        backend: &'a B,
        d_in: usize,
    ) -> impl Iterator<Item = (&'a str, Vec<usize>, impl Fn() -> Result<Cow<'a, [f32]>> + 'a)> {
        self.buffers.iter().map(move |(name, buffer)| {
            let shape = host_shape(name, buffer.len(), d_in);
            let of_shape = shape.clone();
            (name.as_str(), shape, move || host_values(backend, name, buffer, &of_shape))
        })
    }

    /// The host weights of these names and SAELens' shapes.
    pub fn download_as(&self, backend: &B, tensors: TensorShapes) -> Result<Weights> {
        let mut weights = Weights::default();
        for (name, shape) in tensors {
            let values = host_values(backend, &name, self.get(&name), &shape)?.into_owned();
            weights.insert(&name, HostTensor { shape, values });
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

/// SAELens' shape of a parameter of so many numbers.
fn host_shape(name: &str, len: usize, d_in: usize) -> Vec<usize> {
    match name {
        "W_enc" => vec![d_in, len / d_in],
        "W_dec" | "W_skip" => vec![len / d_in, d_in],
        _ => vec![len],
    }
}

/// The values of a parameter in SAELens' shape.
fn host_values<'a, B: Backend>(
    backend: &B,
    name: &str,
    buffer: &'a B::Buffer<f32>,
    shape: &[usize],
) -> Result<Cow<'a, [f32]>> {
    let values = backend.on_host(buffer)?;
    Ok(match (name, shape) {
        ("W_enc", &[d_in, d_sae]) => Cow::Owned(transposed(&values, [d_sae, d_in])),
        _ => values,
    })
}
