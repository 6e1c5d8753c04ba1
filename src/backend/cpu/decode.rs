//! `decode_sparse` and `decode_dense`: reconstruction, its error, and the features' gradients.

use super::gemm::{product, product_with, Operand};
use super::matrix::Numbers;
use super::simd::{add_rows, dot, prefetch, vectorised, Widen};
use super::*;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 16;

/// The decoder's outputs for one row, and what they are compared with.
struct Row<'a> {
    target: &'a [f32],
    /// Scale and shift that undo the normalisation.
    denormalize: Option<(f32, f32)>,
    gradient_scale: f32,
}

/// `y += Σ value w_dec[latent]`.
#[inline(always)]
fn add_features<const FUSED: bool, T: Widen>(indices: &[u32], values: &[f32], w_dec: &[T], y: &mut [f32]) {
    let d_in = y.len();
    let latents = indices.iter().map(|&latent| latent as usize);
    let rows = values.iter().copied().zip(latents.map(|latent| &w_dec[latent * d_in..][..d_in]));
    add_rows::<FUSED, T>(rows, y);
}

/// `out[j] = <gradient, w_dec[indices[j]]>`.
#[inline(always)]
fn dot_with_rows<const FUSED: bool, T: Widen>(indices: &[u32], gradient: &[f32], w_dec: &[T], out: &mut [f32]) {
    let d_in = gradient.len();
    let row = |i: usize| &w_dec[indices[i] as usize * d_in..][..d_in];
    for (i, out) in out.iter_mut().take(indices.len()).enumerate() {
        if i + 1 < indices.len() {
            prefetch(row(i + 1));
        }
        *out = dot::<FUSED>(gradient, row(i));
    }
}

vectorised! {
    /// From the decoder's output `y` (in `gradient`) to `x_hat`, its squared error and the gradient.
    fn finish_row(row: Row<'_>, gradient: &mut [f32], reconstruction: Option<&mut [f32]>) -> f32 {
        let (scale, shift) = row.denormalize.unwrap_or((1.0, 0.0));
        if let Some(out) = reconstruction {
            for (out, &y) in out.iter_mut().zip(gradient.iter()) {
                *out = y * scale + shift;
            }
        }
        let factor = row.gradient_scale * scale;
        let mut sums = [0.0f64; 8];
        for (y, x) in gradient.chunks_mut(8).zip(row.target.chunks(8)) {
            for ((y, &x), sum) in y.iter_mut().zip(x).zip(&mut sums) {
                let error = *y * scale + shift - x;
                *sum += f64::from(error) * f64::from(error);
                *y = factor * error;
            }
        }
        sums.iter().sum::<f64>() as f32
    }

    fn accumulate_f32(indices: &[u32], values: &[f32], w_dec: &[f32], y: &mut [f32]) {
        add_features::<FUSED, f32>(indices, values, w_dec, y);
    }

    fn accumulate_bf16(indices: &[u32], values: &[f32], w_dec: &[bf16], y: &mut [f32]) {
        add_features::<FUSED, bf16>(indices, values, w_dec, y);
    }

    fn value_gradients_f32(indices: &[u32], gradient: &[f32], w_dec: &[f32], out: &mut [f32]) {
        dot_with_rows::<FUSED, f32>(indices, gradient, w_dec, out);
    }

    fn value_gradients_bf16(indices: &[u32], gradient: &[f32], w_dec: &[bf16], out: &mut [f32]) {
        dot_with_rows::<FUSED, bf16>(indices, gradient, w_dec, out);
    }
}

fn accumulate(indices: &[u32], values: &[f32], w_dec: Matrix<'_, Cpu>, y: &mut [f32]) {
    match w_dec {
        Matrix::F32(w_dec) => accumulate_f32(indices, values, w_dec, y),
        Matrix::Bf16(w_dec) => accumulate_bf16(indices, values, w_dec, y),
    }
}

fn value_gradients(indices: &[u32], gradient: &[f32], w_dec: Matrix<'_, Cpu>, out: &mut [f32]) {
    match w_dec {
        Matrix::F32(w_dec) => value_gradients_f32(indices, gradient, w_dec, out),
        Matrix::Bf16(w_dec) => value_gradients_bf16(indices, gradient, w_dec, out),
    }
}

/// What one row's task writes.
struct RowOutput<'a> {
    gradient: &'a mut [f32],
    reconstruction: Option<&'a mut [f32]>,
    squared_error: &'a mut f32,
    value_gradient: &'a mut [f32],
}

/// Runs `row(number, about, output)` for every row; `stride` is the width of `value_gradient`.
fn for_each_row(
    decoder: &mut Decoder<'_, Cpu>,
    value_gradient: &mut [f32],
    stride: usize,
    row: impl Fn(usize, Row<'_>, RowOutput<'_>) + Sync + Send,
) {
    let (target, denormalize, gradient_scale) = (decoder.target, &decoder.denormalize, decoder.gradient_scale);
    let (rows, d_in) = (decoder.rows, decoder.d_in);
    let mut reconstructions = decoder.reconstruction.as_mut().map(|out| out.chunks_mut(d_in));
    let mut value_gradients = value_gradient.chunks_mut(stride.max(1));
    let outputs: Vec<RowOutput> = decoder.gradient[..rows * d_in]
        .chunks_mut(d_in)
        .zip(decoder.squared_error.iter_mut())
        .map(|(gradient, squared_error)| RowOutput {
            gradient,
            squared_error,
            reconstruction: reconstructions.as_mut().and_then(Iterator::next),
            value_gradient: value_gradients.next().unwrap_or_default(),
        })
        .collect();
    outputs.into_par_iter().with_min_len(ROWS).enumerate().for_each(|(b, output)| {
        let denormalize = denormalize.as_ref().map(|d| (d.row_scale[b], d.row_shift[b]));
        row(b, Row { target: &target[b * d_in..][..d_in], denormalize, gradient_scale }, output);
    });
}

fn start(b_dec: Option<&Vec<f32>>, y: &mut [f32]) {
    match b_dec {
        Some(b_dec) => y.copy_from_slice(&b_dec[..y.len()]),
        None => y.fill(0.0),
    }
}

pub(super) fn sparse(op: DecodeSparse<'_, Cpu>) -> Result<()> {
    let DecodeSparse { mut decoder, lists, dead_weight, value_gradient } = op;
    if let Some(DeadWeight { n_dead, full }) = dead_weight {
        if n_dead[0] == 0 {
            return Ok(());
        }
        decoder.gradient_scale *= (n_dead[0] as f32 / full as f32).min(1.0);
    }
    let (w_dec, b_dec) = (decoder.w_dec, decoder.b_dec);
    let value_gradient = value_gradient.map_or(&mut [][..], |out| &mut out[..]);
    for_each_row(&mut decoder, value_gradient, lists.stride, |b, about, out| {
        let entries = b * lists.stride..b * lists.stride + lists.counts[b] as usize;
        let (indices, values) = (&lists.indices[entries.clone()], &lists.values[entries]);
        start(b_dec, out.gradient);
        accumulate(indices, values, w_dec, out.gradient);
        *out.squared_error = finish_row(about, out.gradient, out.reconstruction);
        value_gradients(indices, out.gradient, w_dec, out.value_gradient);
    });
    Ok(())
}

pub(super) fn gradient_values(op: GradientValues<'_, Cpu>) -> Result<()> {
    let GradientValues { lists, w_dec, gradient, rows, d_in, value_gradient } = op;
    let stride = lists.stride;
    let each_row = value_gradient[..rows * stride].par_chunks_mut(stride.max(1)).with_min_len(ROWS).enumerate();
    each_row.for_each(|(b, out)| {
        let indices = &lists.indices[b * stride..b * stride + lists.counts[b] as usize];
        value_gradients(indices, &gradient[b * d_in..][..d_in], w_dec, out);
    });
    Ok(())
}

pub(super) fn dense(op: DecodeDense<'_, Cpu>) -> Result<()> {
    let DecodeDense { mut decoder, features, feature_gradient, bf16 } = op;
    let (rows, d_in, d_sae) = (decoder.rows, decoder.d_in, decoder.d_sae);
    let Matrix::F32(w_dec) = decoder.w_dec else { unreachable!("checked: w_dec is f32") };
    decoder.gradient[..rows * d_in].chunks_mut(d_in).for_each(|y| start(decoder.b_dec, y));
    let w_dec = Numbers::new(w_dec, bf16);
    let f = Operand::rows(Numbers::new(features, bf16), d_sae);
    product([rows, d_in, d_sae], decoder.gradient, f, Operand::rows(w_dec, d_in), true);
    for_each_row(&mut decoder, &mut [], 0, |_, about, out| {
        *out.squared_error = finish_row(about, out.gradient, out.reconstruction);
    });
    let gradient = Numbers::new(decoder.gradient, bf16);
    let (g, w) = (Operand::rows(gradient, d_in), Operand::transposed(w_dec, d_in));
    product_with([rows, d_sae, d_in], feature_gradient, g, w, false, |mut block| {
        let column = block.column;
        for (row, gradient) in block.rows() {
            let features = &features[row * d_sae + column..][..gradient.len()];
            for (gradient, &feature) in gradient.iter_mut().zip(features) {
                *gradient = if feature > 0.0 { *gradient } else { 0.0 };
            }
        }
    });
    Ok(())
}
