//! `update_firing` and `find_dead`: counts behind feature densities, and dead latents.

use super::*;
use rayon::prelude::*;

pub(super) fn run(op: UpdateFiring<'_, Cpu>) -> Result<()> {
    let UpdateFiring { features, rows, d_sae, fired_count, since_fired } = op;
    let mut update = |latent: usize, fired: u32| {
        fired_count[latent] += fired;
        since_fired[latent] = if fired > 0 { 0 } else { since_fired[latent] + 1 };
    };
    match features {
        Features::Lists(lists) => {
            for latent in 0..d_sae {
                update(latent, lists.offsets[latent + 1] - lists.offsets[latent]);
            }
        }
        Features::Values(by_latent, lists) => {
            for latent in 0..d_sae {
                let entries = by_latent.offsets[latent] as usize..by_latent.offsets[latent + 1] as usize;
                let fired = |&&entry: &&u32| lists.values[entry as usize] != 0.0;
                update(latent, by_latent.entries[entries].iter().filter(fired).count() as u32);
            }
        }
        Features::Dense(features) => {
            let fired: Vec<u32> = features[..rows * d_sae]
                .par_chunks(d_sae * 64)
                .fold(
                    || vec![0u32; d_sae],
                    |mut fired, block| {
                        for row in block.chunks_exact(d_sae) {
                            for (count, &feature) in fired.iter_mut().zip(row) {
                                *count += u32::from(feature != 0.0);
                            }
                        }
                        fired
                    },
                )
                .reduce(
                    || vec![0u32; d_sae],
                    |mut a, b| {
                        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                        a
                    },
                );
            for (latent, fired) in fired.into_iter().enumerate() {
                update(latent, fired);
            }
        }
    }
    Ok(())
}

pub(super) fn find_dead(op: FindDead<'_, Cpu>) -> Result<()> {
    let mut n_dead = 0;
    for (latent, &since) in op.latents.clone().zip(&op.since_fired[op.latents]) {
        if since > op.window {
            op.dead.latents[n_dead] = latent as u32;
            n_dead += 1;
        }
    }
    op.dead.count[0] = n_dead as u32;
    Ok(())
}
