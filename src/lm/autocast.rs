//! `autocast_lm`: the products of the blocks' linear maps take bf16 operands. LayerNorm, attention, the
//! residual stream and the unembedding stay f32.

use super::model::LanguageModel;
use super::weights::{Block, Map};
use crate::backend::*;
use crate::error::Result;
use rayon::prelude::*;

/// A linear map of a block.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Q,
    K,
    V,
    O,
    MlpIn,
    MlpOut,
}

const PARTS: [Part; 6] = [Part::Q, Part::K, Part::V, Part::O, Part::MlpIn, Part::MlpOut];

impl Part {
    fn of<V>(self, block: &Block<V>) -> &Map<V> {
        match self {
            Part::Q => &block.q,
            Part::K => &block.k,
            Part::V => &block.v,
            Part::O => &block.o,
            Part::MlpIn => &block.mlp_in,
            Part::MlpOut => &block.mlp_out,
        }
    }
}

/// Weights and bias as a product takes them: bf16 weights are `[out, in]`.
pub(super) struct Weights<'a, B: Backend> {
    pub w: Matrix<'a, B>,
    pub b: &'a B::Buffer<f32>,
}

impl<B: Backend> LanguageModel<B> {
    /// The model with bf16 operands in the products of its blocks' linear maps. The f32 weights stay:
    /// gradients need them. Error: not enough memory.
    pub fn autocast(mut self) -> Result<Self> {
        let of_block = |block: &Block<B::Buffer<f32>>| {
            PARTS.iter().map(|part| rounded(&self.backend, part.of(block))).collect::<Result<Vec<_>>>()
        };
        self.rounded = Some(self.blocks.iter().map(of_block).collect::<Result<_>>()?);
        Ok(self)
    }

    /// One map of a block.
    pub(super) fn weights(&self, layer: usize, part: Part) -> Weights<'_, B> {
        let map = part.of(&self.blocks[layer]);
        let w = match &self.rounded {
            Some(rounded) => Matrix::Bf16(&rounded[layer][part as usize]),
            None => Matrix::F32(&map.w),
        };
        Weights { w, b: &map.b }
    }

    /// The first `len` numbers of `x` as a map's product takes them; `space` holds them in bf16.
    pub(super) fn operand<'a>(
        &self,
        x: &'a B::Buffer<f32>,
        len: usize,
        space: &'a mut Option<B::Buffer<bf16>>,
    ) -> Result<Matrix<'a, B>> {
        let Some(to) = space else { return Ok(Matrix::F32(x)) };
        self.backend.round_bf16(RoundBf16 { from: x, len, to: &mut *to })?;
        Ok(Matrix::Bf16(to))
    }
}

/// Outputs that a task rounds, from neighbours in memory.
const OUTPUTS: usize = 32;

/// Weights `[in, out]` as bf16 `[out, in]`.
fn rounded<B: Backend>(backend: &B, map: &Map<B::Buffer<f32>>) -> Result<B::Buffer<bf16>> {
    let (w, d_output) = (backend.on_host(&map.w)?, map.b.len());
    let d_input = w.len() / d_output;
    let mut rounded = vec![bf16::ZERO; w.len()];
    rounded.par_chunks_mut(OUTPUTS * d_input).enumerate().for_each(|(task, rounded)| {
        for (input, row) in w.chunks_exact(d_output).enumerate() {
            for (rounded, &x) in rounded.iter_mut().skip(input).step_by(d_input).zip(&row[task * OUTPUTS..]) {
                *rounded = bf16::from_f32(x);
            }
        }
    });
    backend.upload(&rounded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn weights_are_turned_and_rounded_over_the_borders_of_tasks() {
        for (d_input, d_output) in [(3, 2 * OUTPUTS + 5), (40, 7)] {
            let w: Vec<f32> = (0..d_input * d_output).map(|i| 1.0 + i as f32 / 1000.0).collect();
            let turned = rounded(&Cpu, &Map { w: w.clone(), b: vec![0.0; d_output] }).unwrap();
            for (i, x) in w.into_iter().enumerate() {
                assert_eq!(turned[i % d_output * d_input + i / d_output], bf16::from_f32(x), "{d_output}, number {i}");
            }
        }
    }
}
