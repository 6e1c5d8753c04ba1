//! `clip_scale`: the global gradient norm and the factor that limits it.

use super::*;

pub(super) fn run(op: ClipScale<'_, Cpu>) -> Result<()> {
    let norm = op.gradients.iter().map(|g| reduce::sum_of_squares(g)).sum::<f64>().sqrt();
    op.out[0] = op.max_norm.map_or(1.0, |max| (f64::from(max) / (norm + 1e-6)).min(1.0) as f32);
    op.out[1] = norm as f32;
    Ok(())
}
