//! Rows of the operations on lists and on firing statistics.

use super::*;
use crate::backend::*;

pub(super) fn rows<B: Backend>(s: SaeSizes) -> Vec<Row<B>> {
    vec![slice_lists(s), transpose_lists(s, s.k), sum_by_latent(s)]
}

/// Lists with k entries in every row, and room for the same by latent.
pub(super) fn both<B: Backend>(
    data: &mut Data<'_, B>,
    s: SaeSizes,
    k: usize,
) -> Result<(FeatureLists<B>, LatentLists<B>)> {
    let by_latent = LatentLists { offsets: data.zeros(s.d_sae + 1)?, entries: data.zeros(s.rows * k)? };
    Ok((data.lists(s.rows, s.d_sae, k)?, by_latent))
}

pub(super) fn transpose_lists<B: Backend>(s: SaeSizes, k: usize) -> Row<B> {
    let SaeSizes { rows, d_sae, .. } = s;
    let work = Work::bytes(20 * rows * k + 16 * d_sae);
    Row::new("transpose_lists", format!("B {rows}, F {d_sae}, k {k}"), work, move |data| {
        let (lists, mut by_latent) = both(data, s, k)?;
        Ok(Box::new(move |backend: &B| {
            backend.transpose_lists(TransposeLists { lists: &lists, rows, d_sae, by_latent: &mut by_latent })
        }))
    })
}

/// Of the first half of the latents.
fn slice_lists<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_sae, k, .. } = s;
    let work = Work::bytes(16 * s.entries() + 8 * rows);
    Row::new("slice_lists", format!("B {rows}, F {d_sae}, k {k}"), work, move |data| {
        let (lists, mut out) = (data.lists(rows, d_sae, k)?, data.empty_lists(rows, k)?);
        Ok(Box::new(move |backend: &B| {
            backend.slice_lists(SliceLists { lists: &lists, latents: 0..d_sae / 2, rows, out: &mut out })
        }))
    })
}

fn sum_by_latent<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_sae, k, .. } = s;
    let work = Work::bytes(8 * s.entries() + 8 * d_sae);
    Row::new("sum_by_latent", format!("B {rows}, F {d_sae}, k {k}"), work, move |data| {
        let (lists, mut by_latent) = both(data, s, k)?;
        let (values, mut out) = (data.normal(s.entries())?, data.zeros(d_sae)?);
        data.made(0, |backend: &B| {
            backend.transpose_lists(TransposeLists { lists: &lists, rows, d_sae, by_latent: &mut by_latent })
        })?;
        Ok(Box::new(move |backend: &B| {
            let (values, by_latent) = (&values, &by_latent);
            backend.sum_by_latent(SumByLatent { values, by_latent, d_sae, out: &mut out })
        }))
    })
}

pub(super) fn find_dead<B: Backend>(s: SaeSizes) -> Row<B> {
    let d_sae = s.d_sae;
    let work = Work::bytes(4 * d_sae + 4 * s.dead());
    Row::new("find_dead", format!("F {d_sae}, {} dead", s.dead()), work, move |data| {
        // One of sixteen numbers below 16 is above 14.
        let since_fired = data.below(d_sae, DEAD_PART)?;
        let mut dead = DeadLatents { count: data.zeros(1)?, latents: data.zeros(d_sae)? };
        Ok(Box::new(move |backend: &B| {
            let window = DEAD_PART as u32 - 2;
            backend.find_dead(FindDead { since_fired: &since_fired, window, latents: 0..d_sae, dead: &mut dead })
        }))
    })
}

/// Of lists by latent. All are empty: that costs the same.
pub(super) fn update_firing<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_sae, .. } = s;
    Row::new("update_firing", format!("F {d_sae}, lists"), Work::bytes(20 * d_sae), move |data| {
        let by_latent = LatentLists { offsets: data.zeros(d_sae + 1)?, entries: data.zeros(0)? };
        let (mut fired_count, mut since_fired) = (data.zeros(d_sae)?, data.zeros(d_sae)?);
        Ok(Box::new(move |backend: &B| {
            let features = Features::Lists(&by_latent);
            let (fired_count, since_fired) = (&mut fired_count, &mut since_fired);
            backend.update_firing(UpdateFiring { features, rows, d_sae, fired_count, since_fired })
        }))
    })
}

pub(super) fn update_firing_dense<B: Backend>(s: SaeSizes) -> Row<B> {
    let SaeSizes { rows, d_sae, .. } = s;
    let work = Work::bytes(4 * s.dense() + 16 * d_sae);
    Row::new("update_firing", format!("B {rows}, F {d_sae}, dense"), work, move |data| {
        let features = data.rectified(s.dense())?;
        let (mut fired_count, mut since_fired) = (data.zeros(d_sae)?, data.zeros(d_sae)?);
        Ok(Box::new(move |backend: &B| {
            let features = Features::Dense(&features);
            let (fired_count, since_fired) = (&mut fired_count, &mut since_fired);
            backend.update_firing(UpdateFiring { features, rows, d_sae, fired_count, since_fired })
        }))
    })
}
