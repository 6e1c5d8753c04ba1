//! Features on the host: the active latents of many rows.

use crate::backend::{Backend, FeatureLists};
use crate::error::{Error, Result};
use std::ops::Range;

/// Compressed sparse rows: row `b` has the entries `indptr[b]..indptr[b + 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseFeatures {
    indptr: Vec<usize>,
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl Default for SparseFeatures {
    fn default() -> Self {
        SparseFeatures { indptr: vec![0], indices: Vec::new(), values: Vec::new() }
    }
}

impl SparseFeatures {
    /// From the three parts, as files have them. Error: they do not fit together.
    pub fn from_parts(indptr: Vec<usize>, indices: Vec<u32>, values: Vec<f32>) -> Result<Self> {
        let wrong = |what: String| Err(Error::Shape { operation: "features", what });
        if indices.len() != values.len() {
            return wrong(format!("{} indices and {} values are not as many", indices.len(), values.len()));
        }
        if indptr.first() != Some(&0) || indptr.last() != Some(&indices.len()) || !indptr.is_sorted() {
            return wrong(format!("indptr does not rise from 0 to the number of indices, {}", indices.len()));
        }
        Ok(SparseFeatures { indptr, indices, values })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Where each row begins, and the end `[rows + 1]`.
    pub fn indptr(&self) -> &[usize] {
        &self.indptr
    }

    /// Latents of all rows.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Values of all rows.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Latents and values of one row.
    pub fn row(&self, row: usize) -> (&[u32], &[f32]) {
        let entries = self.indptr[row]..self.indptr[row + 1];
        (&self.indices[entries.clone()], &self.values[entries])
    }

    /// Adds a row.
    pub fn push_row(&mut self, indices: &[u32], values: &[f32]) {
        self.indices.extend_from_slice(indices);
        self.values.extend_from_slice(values);
        self.indptr.push(self.indices.len());
    }

    /// Adds the rows of `other`.
    pub fn append(&mut self, other: &SparseFeatures) {
        for row in 0..other.rows() {
            let (indices, values) = other.row(row);
            self.push_row(indices, values);
        }
    }

    /// Writes some rows into the first rows of lists with room for them.
    pub fn write<B: Backend>(&self, backend: &B, rows: Range<usize>, lists: &mut FeatureLists<B>) -> Result<()> {
        let (n, stride) = (rows.len(), lists.stride);
        let (mut counts, mut indices, mut values) = (vec![0; n], vec![0; n * stride], vec![0.0; n * stride]);
        for (row, count) in rows.zip(&mut counts).enumerate() {
            let ((from, count), first) = (count, row * stride);
            let (latents, of_row) = self.row(from);
            *count = latents.len() as u32;
            indices[first..][..latents.len()].copy_from_slice(latents);
            values[first..][..latents.len()].copy_from_slice(of_row);
        }
        backend.write(&mut lists.counts, 0, &counts)?;
        backend.write(&mut lists.indices, 0, &indices)?;
        backend.write(&mut lists.values, 0, &values)
    }

    /// Rows from a dense `[rows, d_sae]`: what is not 0.
    pub fn from_dense(dense: &[f32], d_sae: usize) -> Self {
        let mut features = SparseFeatures::default();
        for row in dense.chunks_exact(d_sae) {
            let (indices, values): (Vec<u32>, Vec<f32>) =
                row.iter().enumerate().filter(|(_, &x)| x != 0.0).map(|(latent, &x)| (latent as u32, x)).unzip();
            features.push_row(&indices, &values);
        }
        features
    }

    /// Dense `[rows, d_sae]`.
    pub fn to_dense(&self, d_sae: usize) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows() * d_sae];
        for (row, dense) in dense.chunks_exact_mut(d_sae).enumerate() {
            let (indices, values) = self.row(row);
            for (&latent, &value) in indices.iter().zip(values) {
                dense[latent as usize] = value;
            }
        }
        dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        let refusal = |indptr: &[usize], indices: &[u32], values: &[f32]| {
            let parts = (indptr.to_vec(), indices.to_vec(), values.to_vec());
            SparseFeatures::from_parts(parts.0, parts.1, parts.2).unwrap_err().to_string()
        };
        let not_rising = "features: indptr does not rise from 0 to the number of indices, 2";
        for indptr in [&[0, 3, 2][..], &[1, 2], &[0, 1], &[]] {
            assert_eq!(refusal(indptr, &[5, 6], &[1.0, 2.0]), not_rising);
        }
        assert_eq!(refusal(&[0, 2], &[5, 6], &[1.0]), "features: 2 indices and 1 values are not as many");
        let features = SparseFeatures::from_parts(vec![0, 0, 2], vec![5, 6], vec![1.0, 2.0]).unwrap();
        assert_eq!(features.row(1), (&[5, 6][..], &[1.0, 2.0][..]));
    }

    #[test]
    fn dense_and_sparse_hold_the_same() {
        let dense = [0.0, 2.0, -1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0];
        let features = SparseFeatures::from_dense(&dense, 3);
        assert_eq!(features.indptr(), [0, 2, 2, 3]);
        assert_eq!(features.row(0), (&[1, 2][..], &[2.0, -1.0][..]));
        assert_eq!(features.to_dense(3), dense);
        let mut twice = features.clone();
        twice.append(&features);
        assert_eq!(twice.to_dense(3), [dense, dense].concat());
    }
}
