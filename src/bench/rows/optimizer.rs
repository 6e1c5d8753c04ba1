//! Rows of the optimizer and of what follows it in a step.

use super::*;
use crate::backend::*;
use crate::bench::data::ADAM;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![
        clip_scale(s),
        adam(s),
        listed::adam_sparse(s, s.k, false),
        listed::adam_sparse(s, s.k, true),
        matrix::row_norms(s),
        matrix::scale(s),
        matrix::round_bf16(s),
        lists::find_dead(s),
        lists::update_firing(s),
        lists::update_firing_dense(s),
        note_non_finite(),
        matrix::sum(s),
        matrix::row_variance(s),
        ghost::exponential(s),
        ghost::ghost_error(s),
        matrix::fill(s),
    ]
}

/// Of all four parameters.
pub(super) fn clip_scale<B: Backend>(s: SaeSizes) -> Row<B> {
    let lens = [s.weights(), s.d_sae, s.weights(), s.d_in];
    let total: usize = lens.iter().sum();
    Row::new("clip_scale", format!("{total} numbers in 4"), Work::bytes(4 * total), move |data| {
        let gradients = lens.iter().map(|&len| data.normal(len)).collect::<Result<Vec<_>>>()?;
        let mut out = data.zeros(2)?;
        Ok(Box::new(move |backend: &B| {
            let gradients: Vec<_> = gradients.iter().collect();
            backend.clip_scale(ClipScale { gradients: &gradients, squares: None, max_norm: Some(1.0), out: &mut out })
        }))
    })
}

/// Of the squared error and three terms.
fn note_non_finite<B: Backend>() -> Row<B> {
    Row::new("note_non_finite", "4 sums".into(), Work::bytes(4 * 8 + 4 + 4 + 4), |data| {
        let (sums, clip, scalars, mut first) = (data.zeros(4)?, data.zeros(2)?, data.scalars()?, data.zeros(1)?);
        Ok(Box::new(move |backend: &B| {
            backend.note_non_finite(NoteNonFinite { sums: &sums, clip: &clip, scalars: &scalars, first: &mut first })
        }))
    })
}

/// Of one weight matrix.
pub(super) fn adam<B: Backend>(s: SaeSizes) -> Row<B> {
    let len = s.weights();
    Row::new("adam", format!("{len} numbers"), Work::bytes(28 * len), move |data| {
        let (mut parameter, gradient) = (data.normal(len)?, data.normal(len)?);
        let (mut exp_avg, mut exp_avg_sq) = (data.normal(len)?, data.positive(len)?);
        let (clip, scalars) = (data.positive(1)?, data.scalars()?);
        Ok(Box::new(move |backend: &B| {
            backend.adam(Adam {
                parameter: &mut parameter,
                gradient: &gradient,
                exp_avg: &mut exp_avg,
                exp_avg_sq: &mut exp_avg_sq,
                clip: &clip,
                scalars: &scalars,
                constants: ADAM,
            })
        }))
    })
}
