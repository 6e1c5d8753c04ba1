//! `gradient_sparse`, `gradient_squares`, `gradient_dense`, `gradient_b_dec`: the weights' gradients, latent by
//! latent.

use super::gemm::{product, Operand};
use super::matrix::Numbers;
use super::simd::{add, add_rows, add_scaled, prefetch, sum_of_squares, vectorised, Widen};
use super::*;
use rayon::prelude::*;

/// Latents per task.
const LATENTS: usize = 32;
/// Entries, of this latent and the next, between that which is added and that whose weight is fetched.
const AHEAD: usize = 16;
/// Rows of a partial sum; fixed, so that the sum does not depend on the number of threads.
const ROWS: usize = 256;

/// What is added: rows with their weights.
#[derive(Clone, Copy)]
struct Entries<'a> {
    entries: &'a [u32],
    /// Those that come [`AHEAD`] later.
    ahead: &'a [u32],
    weights: &'a [f32],
    stride: usize,
}

impl Entries<'_> {
    /// `sum += Σ weight[entry] rows[entry / stride]`. Lists have wide rows, so that each weight lies on a page of its
    /// own: those of the entries ahead are had brought to the cache.
    #[inline(always)]
    fn add<const FUSED: bool, T: Widen>(self, rows: &[T], sum: &mut [f32]) {
        // Places in lists fit 32 bits, of which a division takes less time.
        let (d_in, stride) = (sum.len(), self.stride as u32);
        let row = |entry: u32| &rows[(entry / stride) as usize * d_in..][..d_in];
        let weighted = self.entries.iter().enumerate().map(|(i, &entry)| {
            // Behind the last entry there may be anything.
            if let Some(weight) = self.ahead.get(i).and_then(|&entry| self.weights.get(entry as usize)) {
                prefetch(std::slice::from_ref(weight));
            }
            (self.weights[entry as usize], row(entry))
        });
        add_rows::<FUSED, T>(weighted, sum);
    }
}

vectorised! {
    fn add_f32_rows(of: Entries<'_>, rows: &[f32], sum: &mut [f32]) {
        of.add::<FUSED, f32>(rows, sum);
    }

    fn add_bf16_rows(of: Entries<'_>, rows: &[bf16], sum: &mut [f32]) {
        of.add::<FUSED, bf16>(rows, sum);
    }
}

pub(super) fn sparse(op: GradientSparse<'_, Cpu>) -> Result<()> {
    let GradientSparse { lists, by_latent, pre_gradient, gradient, input, norm, rows, d_in, d_sae, out } = op;
    let WeightGradients { w_enc, b_enc, w_dec, accumulate, only_listed } = out;
    let norm_gradient = norm.as_ref().map(|norm| norm.norm_gradient);
    let of = ListedGradient {
        lists,
        by_latent,
        pre_gradient,
        gradient,
        input,
        norm_gradient,
        stored: None,
        rows,
        d_in,
        d_sae,
    };
    (
        w_enc[..d_sae * d_in].par_chunks_mut(d_in),
        b_enc[..d_sae].par_iter_mut(),
        w_dec[..d_sae * d_in].par_chunks_mut(d_in),
    )
        .into_par_iter()
        .with_min_len(LATENTS)
        .enumerate()
        .filter(|(latent, _)| !(accumulate || only_listed) || of.has_entries(*latent))
        .for_each_init(
            || LatentSums::new(d_in),
            |sums, (latent, (w_enc, b_enc, w_dec))| {
                sums.take(&of, latent);
                if accumulate {
                    add(w_enc, &sums.w_enc);
                    add(w_dec, &sums.w_dec);
                    *b_enc += sums.b_enc;
                } else {
                    w_enc.copy_from_slice(&sums.w_enc);
                    w_dec.copy_from_slice(&sums.w_dec);
                    *b_enc = sums.b_enc;
                }
                if let Some(norm) = &norm {
                    add_norm_term(norm, sums.norm, latent, w_dec);
                }
            },
        );
    Ok(())
}

/// The gradients of one latent.
pub(super) struct LatentSums {
    pub w_enc: Vec<f32>,
    pub w_dec: Vec<f32>,
    pub b_enc: f32,
    /// Of the norm of its decoder row.
    norm: f32,
}

impl LatentSums {
    pub fn new(d_in: usize) -> Self {
        LatentSums { w_enc: vec![0.0; d_in], w_dec: vec![0.0; d_in], b_enc: 0.0, norm: 0.0 }
    }

    /// Sums over the latent's entries, without what is stored and without the term of the norm.
    fn take(&mut self, of: &ListedGradient<'_, Cpu>, latent: usize) {
        self.w_enc.fill(0.0);
        self.w_dec.fill(0.0);
        (self.b_enc, self.norm) = (0.0, 0.0);
        let range = of.entries(latent);
        let ahead = &of.by_latent.entries[of.by_latent.entries.len().min(range.start + AHEAD)..];
        let entries = &of.by_latent.entries[range];
        let sums = [(&mut self.w_dec, &of.lists.values, of.gradient), (&mut self.w_enc, of.pre_gradient, of.input)];
        for (sum, weights, rows) in sums {
            // JumpReLU lists what is near its threshold, too: much of it has the factor 0 here.
            let of = Entries { entries, ahead, weights, stride: of.lists.stride };
            match rows {
                Matrix::F32(rows) => add_f32_rows(of, rows, sum),
                Matrix::Bf16(rows) => add_bf16_rows(of, rows, sum),
            }
        }
        for &entry in entries {
            self.b_enc += of.pre_gradient[entry as usize];
            self.norm += of.norm_gradient.map_or(0.0, |norm| norm[entry as usize]);
        }
    }

    /// All of the gradient, given the latent's decoder row and its norm. False where it is 0: nothing is written.
    pub fn take_all(&mut self, of: &ListedGradient<'_, Cpu>, latent: usize, w_dec: &[f32], norm: f32) -> bool {
        let stored = of.stored.as_ref().filter(|stored| has_entries(stored.by_latent, latent));
        if stored.is_none() && !of.has_entries(latent) {
            return false;
        }
        self.take(of, latent);
        if let Some(stored) = stored {
            add(&mut self.w_enc, &stored.w_enc[latent * of.d_in..][..of.d_in]);
            add(&mut self.w_dec, &stored.w_dec[latent * of.d_in..][..of.d_in]);
        }
        add_norm_gradient(self.norm, norm, w_dec, &mut self.w_dec);
        true
    }
}

impl ListedGradient<'_, Cpu> {
    fn entries(&self, latent: usize) -> std::ops::Range<usize> {
        self.by_latent.offsets[latent] as usize..self.by_latent.offsets[latent + 1] as usize
    }

    fn has_entries(&self, latent: usize) -> bool {
        has_entries(self.by_latent, latent)
    }
}

fn has_entries(by_latent: &LatentLists<Cpu>, latent: usize) -> bool {
    by_latent.offsets[latent] < by_latent.offsets[latent + 1]
}

pub(super) fn squares(op: GradientSquares<'_, Cpu>) -> Result<()> {
    let GradientSquares { of, w_dec, decoder_norm, b_enc, squares } = op;
    let d_in = of.d_in;
    (b_enc[..of.d_sae].par_iter_mut(), squares[..of.d_sae].par_iter_mut())
        .into_par_iter()
        .with_min_len(LATENTS)
        .enumerate()
        .for_each_init(
            || LatentSums::new(d_in),
            |sums, (latent, (b_enc, squares))| {
                let is_stored = of.stored.as_ref().is_some_and(|stored| has_entries(stored.by_latent, latent));
                let before = if is_stored { *b_enc } else { 0.0 };
                (*b_enc, *squares) = (before, 0.0);
                if sums.take_all(of, latent, &w_dec[latent * d_in..][..d_in], decoder_norm[latent]) {
                    *b_enc += sums.b_enc;
                    *squares = sum_of_squares(&sums.w_enc) + sum_of_squares(&sums.w_dec);
                }
            },
        );
    Ok(())
}

/// `d|w| / dw = w / |w|`.
pub(super) fn add_norm_term(norm: &NormGradient<Cpu>, gradient: f32, latent: usize, w_dec_gradient: &mut [f32]) {
    let d_in = w_dec_gradient.len();
    add_norm_gradient(gradient, norm.decoder_norm[latent], &norm.w_dec[latent * d_in..][..d_in], w_dec_gradient);
}

/// The same for a row.
fn add_norm_gradient(gradient: f32, norm: f32, w_dec: &[f32], w_dec_gradient: &mut [f32]) {
    if gradient != 0.0 && norm > 0.0 {
        add_scaled(gradient / norm, w_dec, w_dec_gradient);
    }
}

pub(super) fn dense(op: GradientDense<'_, Cpu>) -> Result<()> {
    let GradientDense { features, pre_gradient, gradient, input, norm, rows, d_in, d_sae, bf16, out } = op;
    let WeightGradients { w_enc, b_enc, w_dec, accumulate, .. } = out;
    let dims = [d_sae, d_in, rows];
    for (of_latents, of_rows, out) in [(features, gradient, &mut *w_dec), (pre_gradient, input, w_enc)] {
        let (of_latents, of_rows) = (Numbers::new(of_latents, bf16), Numbers::new(of_rows, bf16));
        product(dims, out, Operand::transposed(of_latents, d_sae), Operand::rows(of_rows, d_in), accumulate);
    }
    if !accumulate {
        b_enc[..d_sae].fill(0.0);
    }
    add_column_sums(&pre_gradient[..rows * d_sae], d_sae, b_enc);
    if let Some(norm) = &norm {
        let w_dec = w_dec[..d_sae * d_in].par_chunks_mut(d_in).with_min_len(LATENTS).enumerate();
        w_dec.for_each(|(latent, w_dec)| add_norm_term(norm, norm.norm_gradient[latent], latent, w_dec));
    }
    Ok(())
}

/// `to[j] += Σ_b matrix[b, j]`, in chunks of rows added in order.
fn add_column_sums(matrix: &[f32], columns: usize, to: &mut [f32]) {
    let of_chunk = |chunk: &[f32]| {
        let mut sums = vec![0.0f32; columns];
        chunk.chunks_exact(columns).for_each(|row| add_scaled(1.0, row, &mut sums));
        sums
    };
    for sums in matrix.par_chunks(ROWS * columns).map(of_chunk).collect::<Vec<_>>() {
        add_scaled(1.0, &sums, to);
    }
}

pub(super) fn b_dec(op: GradientBDec<'_, Cpu>) -> Result<()> {
    let GradientBDec { gradient, through_encoder, rows, d_in, d_sae, out } = op;
    out[..d_in].fill(0.0);
    add_column_sums(&gradient[..rows * d_in], d_in, out);
    if let Some(ThroughEncoder { w_enc, b_enc_gradient }) = through_encoder {
        let of_chunk = |(w_enc, g_b_enc): (&[f32], &[f32])| {
            let mut sums = vec![0.0f32; d_in];
            for (row, &g) in w_enc.chunks_exact(d_in).zip(g_b_enc).filter(|(_, &g)| g != 0.0) {
                add_scaled(g, row, &mut sums);
            }
            sums
        };
        let chunks = w_enc[..d_sae * d_in].par_chunks(ROWS * d_in).zip(b_enc_gradient[..d_sae].par_chunks(ROWS));
        for sums in chunks.map(of_chunk).collect::<Vec<_>>() {
            add_scaled(-1.0, &sums, out);
        }
    }
    Ok(())
}
