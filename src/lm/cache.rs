//! Keys and values of the positions that a model has been through, so that the next tokens need not go
//! through it again with all that came before.

use super::model::LanguageModel;
use crate::backend::{AttentionDims, Backend};
use crate::error::{Error, Result};

/// Keys and values `[sequences, room, H * d_head]` of every layer; the first `past` positions hold some.
pub(super) struct Cache<B: Backend> {
    keys: Vec<B::Buffer<f32>>,
    values: Vec<B::Buffer<f32>>,
    pub room: usize,
    pub past: usize,
}

impl<B: Backend> Cache<B> {
    /// An empty cache for `room` positions of every sequence.
    pub fn new(model: &LanguageModel<B>, sequences: usize, room: usize) -> Result<Self> {
        let len = sequences * room * model.config.d_model;
        let layers = || (0..model.config.n_layers).map(|_| model.backend.zeros(len)).collect::<Result<Vec<_>>>();
        Ok(Cache { keys: layers()?, values: layers()?, room, past: 0 })
    }

    /// Positions before the next `new` ones. Error: there is no room for those.
    pub fn past_before(&self, new: usize) -> Result<usize> {
        if self.past + new <= self.room {
            return Ok(self.past);
        }
        let what =
            format!("{} positions and {new} new ones are more than the {} there is room for", self.past, self.room);
        Err(Error::Shape { operation: "generate", what })
    }

    /// Takes in the new positions' keys and values `[sequences, T, H * d_head]` of a layer, and returns
    /// all there are.
    pub fn append(
        &mut self,
        backend: &B,
        layer: usize,
        dims: AttentionDims,
        new: [&B::Buffer<f32>; 2],
    ) -> Result<[&B::Buffer<f32>; 2]> {
        let AttentionDims { rows, context, past, room, n_heads, d_head } = dims;
        let width = n_heads * d_head;
        for (new, cached) in new.into_iter().zip([&mut self.keys[layer], &mut self.values[layer]]) {
            for sequence in 0..rows / context {
                let (from, to) = (sequence * context * width, (sequence * room + past) * width);
                backend.copy(new, from, cached, to, context * width)?;
            }
        }
        Ok([&self.keys[layer], &self.values[layer]])
    }
}
