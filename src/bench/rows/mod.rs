//! The rows of the table: what each operation is given, and what its work is.

mod activation;
mod attention;
mod decode;
mod encode;
mod ghost;
mod gradient;
mod listed;
mod lists;
mod lm;
mod matrix;
mod optimizer;
mod whole;

pub(super) use lm::{linear, linear_bf16};

use super::*;

/// Every operation of the backend in the order of the trait, then the whole steps.
pub fn table<B: Backend>(sizes: &Sizes) -> Vec<Row<B>> {
    let mut rows = Vec::new();
    if let Some(lm) = sizes.lm {
        rows.extend(lm::rows(lm));
    }
    rows.extend(matrix::rows(sizes.sae));
    rows.extend(encode::rows(sizes.sae));
    rows.extend(decode::rows(sizes.sae));
    rows.extend(activation::rows(sizes.sae));
    rows.extend(lists::rows(sizes.sae));
    rows.extend(gradient::rows(sizes.sae));
    rows.extend(optimizer::rows(sizes.sae));
    rows.extend(whole::steps(sizes.sae));
    if let Some(lm) = sizes.lm {
        rows.extend(lm.contexts.iter().map(|&context| whole::forward(lm, context)));
    }
    rows
}

impl SaeSizes {
    /// Numbers in a batch of activations.
    fn batch(&self) -> usize {
        self.rows * self.d_in
    }

    /// Numbers in one of the two weight matrices.
    fn weights(&self) -> usize {
        self.d_sae * self.d_in
    }

    /// Numbers in dense features.
    fn dense(&self) -> usize {
        self.rows * self.d_sae
    }

    /// Entries of lists with k in each row.
    fn entries(&self) -> usize {
        self.rows * self.k
    }

    /// Latents that a trained ReLU leaves active in a row: 60 of 24,576, as in `gpt2-small-res-jb`.
    fn active(&self) -> usize {
        (self.d_sae * 60 / 24_576).max(1)
    }

    /// Dead latents, where there are some: one of sixteen.
    fn dead(&self) -> usize {
        self.d_sae.div_ceil(DEAD_PART)
    }

    /// AuxK's k: half of d_in, as long as so many are dead.
    fn auxiliary_k(&self) -> usize {
        (self.d_in / 2).clamp(1, self.dead())
    }

    fn size(&self) -> String {
        let SaeSizes { rows, d_in, d_sae, .. } = self;
        format!("B {rows}, D {d_in}, F {d_sae}")
    }

    fn size_k(&self, k: usize) -> String {
        format!("{}, k {k}", self.size())
    }
}

/// Of so many latents one is dead.
const DEAD_PART: usize = 16;
