//! TransformerLens' weight processing (`HookedTransformer.from_pretrained`): the same logits up to a
//! constant per position, in a basis that is easier to interpret. In f64, rounded once.
//! Source: transformer_lens/weight_processing.py, version 3.9.

use super::weights::{Block, Ends, Map, Norm};
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What is done to the weights after loading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processing {
    /// Nothing: SAELens' default for new runs.
    #[default]
    None,
    /// TransformerLens' defaults: LayerNorms folded into the next weights (which are then centred),
    /// weights that write to the residual stream centred, unembedding centred over the vocabulary,
    /// value biases folded into the output bias. `gpt2-small-res-jb` was trained so.
    TransformerLens,
}

impl fmt::Display for Processing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Processing::None => "none",
            Processing::TransformerLens => "transformer-lens",
        })
    }
}

impl FromStr for Processing {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "none" => Ok(Processing::None),
            "transformer-lens" => Ok(Processing::TransformerLens),
            other => Err(Error::config("processing", format!("{other} is not one of none, transformer-lens"))),
        }
    }
}

/// A block of width `d_model`, processed.
pub(super) fn process_block(block: Block<Vec<f32>>, d_model: usize) -> Result<Block<Vec<f32>>> {
    let mut block = block.map(&mut widen)?;
    if let Some(norm) = block.ln1.take() {
        for map in [&mut block.q, &mut block.k, &mut block.v] {
            fold_norm(&norm, map);
        }
    }
    if let Some(norm) = block.ln2.take() {
        fold_norm(&norm, &mut block.mlp_in);
    }
    for map in [&mut block.o, &mut block.mlp_out] {
        center_rows(&mut map.w, d_model);
        center_rows(&mut map.b, d_model);
    }
    fold_value_bias(&mut block.v, &mut block.o);
    block.map(&mut round)
}

/// Embeddings, final LayerNorm and unembedding, processed; a tied unembedding becomes its own.
pub(super) fn process_ends(ends: Ends<Vec<f32>>, d_model: usize) -> Result<Ends<Vec<f32>>> {
    let mut ends = ends.map(&mut widen)?;
    let mut w_u = ends.w_u.take().unwrap_or_else(|| ends.w_e.clone());
    let mut b_u = vec![0.0; w_u.len() / d_model];
    if let Some(norm) = ends.ln_final.take() {
        for (row, b) in w_u.chunks_exact_mut(d_model).zip(&mut b_u) {
            for ((w, gain), bias) in row.iter_mut().zip(&norm.gain).zip(&norm.bias) {
                *b += *w * bias;
                *w *= gain;
            }
        }
        center_rows(&mut w_u, d_model);
    }
    center_columns(&mut w_u, d_model);
    center_columns(&mut b_u, 1);
    (ends.w_u, ends.b_u) = (Some(w_u), Some(b_u));
    center_rows(&mut ends.w_e, d_model);
    center_rows(&mut ends.w_pos, d_model);
    ends.map(&mut round)
}

fn widen(values: Vec<f32>) -> Result<Vec<f64>> {
    Ok(values.into_iter().map(f64::from).collect())
}

fn round(values: Vec<f64>) -> Result<Vec<f32>> {
    Ok(values.into_iter().map(|value| value as f32).collect())
}

/// `b += bias · w`, `w = diag(gain) · w`, then the mean over the input is taken off every column of
/// `w`: the normalised input has mean zero, so nothing that it meets changes.
fn fold_norm(norm: &Norm<Vec<f64>>, map: &mut Map<Vec<f64>>) {
    let outputs = map.b.len();
    add_product(&norm.bias, &map.w, &mut map.b);
    for (row, gain) in map.w.chunks_exact_mut(outputs).zip(&norm.gain) {
        for w in row {
            *w *= gain;
        }
    }
    center_columns(&mut map.w, outputs);
}

/// Every query's pattern sums to one, so the value bias reaches the output as `b_v · w_o`.
fn fold_value_bias(v: &mut Map<Vec<f64>>, o: &mut Map<Vec<f64>>) {
    add_product(&v.b, &o.w, &mut o.b);
    v.b.fill(0.0);
}

/// `to += x · w`, `w [x.len(), to.len()]`.
fn add_product(x: &[f64], w: &[f64], to: &mut [f64]) {
    for (row, x) in w.chunks_exact(to.len()).zip(x) {
        for (to, w) in to.iter_mut().zip(row) {
            *to += x * w;
        }
    }
}

/// Takes its mean off every row.
fn center_rows(matrix: &mut [f64], columns: usize) {
    for row in matrix.chunks_exact_mut(columns) {
        let mean = row.iter().sum::<f64>() / columns as f64;
        for x in row {
            *x -= mean;
        }
    }
}

/// Takes its mean off every column.
fn center_columns(matrix: &mut [f64], columns: usize) {
    let rows = (matrix.len() / columns) as f64;
    let mut means = vec![0.0f64; columns];
    for row in matrix.chunks_exact(columns) {
        for (mean, x) in means.iter_mut().zip(row) {
            *mean += x / rows;
        }
    }
    for row in matrix.chunks_exact_mut(columns) {
        for (x, mean) in row.iter_mut().zip(&means) {
            *x -= mean;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for processing in [Processing::None, Processing::TransformerLens] {
            assert_eq!(processing.to_string().parse::<Processing>().unwrap(), processing);
        }
        let message = "centred".parse::<Processing>().unwrap_err().to_string();
        assert_eq!(message, "processing: centred is not one of none, transformer-lens");
    }
}
