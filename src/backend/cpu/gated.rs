//! `gate` and `gate_gradient`.

use super::*;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 64;

/// `e^r` of a latent, rounded as torch's f32 exponential is to within a unit.
fn gain(r_mag: f32) -> f32 {
    f64::from(r_mag).exp() as f32
}

pub(super) fn run(op: Gate<'_, Cpu>) -> Result<()> {
    let Gate { gates, b_gate, b_mag, r_mag, rectifies, rows, features } = op;
    let (stride, least) = (gates.stride, if rectifies { 0.0 } else { f32::NEG_INFINITY });
    features.counts[..rows].copy_from_slice(&gates.counts[..rows]);
    (features.indices[..rows * stride].par_chunks_mut(stride), features.values[..rows * stride].par_chunks_mut(stride))
        .into_par_iter()
        .with_min_len(ROWS)
        .enumerate()
        .for_each(|(b, (indices, values))| {
            let entries = b * stride..b * stride + gates.counts[b] as usize;
            for (j, entry) in entries.enumerate() {
                let latent = gates.indices[entry] as usize;
                let u = gates.values[entry] - b_gate[latent];
                indices[j] = latent as u32;
                values[j] = (gain(r_mag[latent]) * u + b_mag[latent]).max(least);
            }
        });
    Ok(())
}

pub(super) fn gradient(op: GateGradient<'_, Cpu>) -> Result<()> {
    let GateGradient { gates, features, b_gate, r_mag, rows, value_gradient, b_mag_gradient, r_mag_gradient } = op;
    let stride = gates.stride;
    (
        value_gradient[..rows * stride].par_chunks_mut(stride),
        b_mag_gradient[..rows * stride].par_chunks_mut(stride),
        r_mag_gradient[..rows * stride].par_chunks_mut(stride),
    )
        .into_par_iter()
        .with_min_len(ROWS)
        .enumerate()
        .for_each(|(b, (value_gradient, b_mag_gradient, r_mag_gradient))| {
            let entries = b * stride..b * stride + gates.counts[b] as usize;
            for (j, entry) in entries.enumerate() {
                let latent = gates.indices[entry] as usize;
                let of_m = if features.values[entry] > 0.0 { value_gradient[j] } else { 0.0 };
                let gain = gain(r_mag[latent]);
                b_mag_gradient[j] = of_m;
                r_mag_gradient[j] = of_m * gain * (gates.values[entry] - b_gate[latent]);
                value_gradient[j] = of_m * gain;
            }
        });
    Ok(())
}
