//! `slice_lists` and `sum_by_latent`.

use super::*;
use rayon::prelude::*;

/// Latents per task.
const LATENTS: usize = 256;

pub(super) fn slice(op: SliceLists<'_, Cpu>) -> Result<()> {
    let SliceLists { lists, latents, rows, out } = op;
    for row in 0..rows {
        let first = row * lists.stride;
        let of_row = &lists.indices[first..first + lists.counts[row] as usize];
        // Latents ascend, so that a range of them is a range of entries.
        let from = of_row.partition_point(|&latent| (latent as usize) < latents.start);
        let to = of_row.partition_point(|&latent| (latent as usize) < latents.end);
        out.counts[row] = (to - from) as u32;
        out.indices[first..first + to - from].copy_from_slice(&of_row[from..to]);
        out.values[first..first + to - from].copy_from_slice(&lists.values[first + from..first + to]);
    }
    Ok(())
}

pub(super) fn sum_by_latent(op: SumByLatent<'_, Cpu>) -> Result<()> {
    let SumByLatent { values, by_latent, d_sae, out } = op;
    out[..d_sae].par_iter_mut().with_min_len(LATENTS).enumerate().for_each(|(latent, out)| {
        let entries = by_latent.offsets[latent] as usize..by_latent.offsets[latent + 1] as usize;
        *out = by_latent.entries[entries].iter().map(|&entry| values[entry as usize]).sum();
    });
    Ok(())
}
