//! `gradient_sparse`, `gradient_dense`, `gradient_b_dec`: the weights' gradients, latent by latent.

use super::gemm::{product, Operand};
use super::simd::{axpy, vectorised};
use super::*;
use rayon::prelude::*;

/// Latents per task.
const LATENTS: usize = 32;
/// Rows of a partial sum; fixed, so that the sum does not depend on the number of threads.
const ROWS: usize = 256;

vectorised! {
    fn add_scaled(a: f32, x: &[f32], y: &mut [f32]) {
        axpy::<FUSED>(a, x, y);
    }
}

pub(super) fn sparse(op: GradientSparse<'_, Cpu>) -> Result<()> {
    let GradientSparse { lists, by_latent, pre_gradient, gradient, input, norm, d_in, d_sae, out, .. } = op;
    let WeightGradients { w_enc, b_enc, w_dec, accumulate } = out;
    (
        w_enc[..d_sae * d_in].par_chunks_mut(d_in),
        b_enc[..d_sae].par_iter_mut(),
        w_dec[..d_sae * d_in].par_chunks_mut(d_in),
    )
        .into_par_iter()
        .with_min_len(LATENTS)
        .enumerate()
        .for_each(|(latent, (w_enc, b_enc, w_dec))| {
            if !accumulate {
                w_enc.fill(0.0);
                w_dec.fill(0.0);
                *b_enc = 0.0;
            }
            let entries = by_latent.offsets[latent] as usize..by_latent.offsets[latent + 1] as usize;
            let mut of_norm = 0.0;
            for &entry in &by_latent.entries[entries] {
                let entry = entry as usize;
                let row = entry / lists.stride * d_in;
                add_scaled(lists.values[entry], &gradient[row..row + d_in], w_dec);
                add_scaled(pre_gradient[entry], &input[row..row + d_in], w_enc);
                *b_enc += pre_gradient[entry];
                of_norm += norm.as_ref().map_or(0.0, |norm| norm.norm_gradient[entry]);
            }
            if let Some(norm) = &norm {
                add_norm_term(norm, of_norm, latent, w_dec);
            }
        });
    Ok(())
}

/// `d|w| / dw = w / |w|`.
pub(super) fn add_norm_term(norm: &NormGradient<Cpu>, gradient: f32, latent: usize, w_dec_gradient: &mut [f32]) {
    if gradient != 0.0 && norm.decoder_norm[latent] > 0.0 {
        let d_in = w_dec_gradient.len();
        add_scaled(gradient / norm.decoder_norm[latent], &norm.w_dec[latent * d_in..][..d_in], w_dec_gradient);
    }
}

pub(super) fn dense(op: GradientDense<'_, Cpu>) -> Result<()> {
    let GradientDense { features, pre_gradient, gradient, input, norm, rows, d_in, d_sae, out } = op;
    let WeightGradients { w_enc, b_enc, w_dec, accumulate } = out;
    let dims = [d_sae, d_in, rows];
    product(dims, w_dec, Operand::transposed(features, d_sae), Operand::rows(gradient, d_in), accumulate);
    product(dims, w_enc, Operand::transposed(pre_gradient, d_sae), Operand::rows(input, d_in), accumulate);
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
