//! `clip_scale`: the global gradient norm and the factor that limits it. `note_non_finite`: when it was
//! lost.

use super::*;

pub(super) fn run(op: ClipScale<'_, Cpu>) -> Result<()> {
    let elsewhere = op.squares.map_or(0.0, |squares| squares.iter().sum());
    let norm = (op.gradients.iter().map(|g| reduce::sum_of_squares(g)).sum::<f64>() + elsewhere).sqrt();
    op.out[0] = op.max_norm.map_or(1.0, |max| (f64::from(max) / (norm + 1e-6)).min(1.0) as f32);
    op.out[1] = norm as f32;
    Ok(())
}

pub(super) fn note_non_finite(op: NoteNonFinite<'_, Cpu>) -> Result<()> {
    let finite = op.clip[1].is_finite() && op.sums.iter().all(|sum| sum.is_finite());
    if !finite && op.first[0] == 0 {
        op.first[0] = op.scalars[0].step;
    }
    Ok(())
}
