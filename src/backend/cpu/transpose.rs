//! `transpose_lists`: lists by row into lists by latent, a counting sort.

use super::*;

pub(super) fn run(op: TransposeLists<'_, Cpu>) -> Result<()> {
    let TransposeLists { lists, rows, d_sae, by_latent } = op;
    let row_entries = |row: usize| row * lists.stride..row * lists.stride + lists.counts[row] as usize;
    let offsets = &mut by_latent.offsets[..d_sae + 1];
    offsets.fill(0);
    for row in 0..rows {
        for &latent in &lists.indices[row_entries(row)] {
            offsets[latent as usize + 1] += 1;
        }
    }
    for latent in 0..d_sae {
        offsets[latent + 1] += offsets[latent];
    }
    // While the entries are placed, offsets[i] is where latent i's next entry goes; afterwards it
    // is where latent i + 1 begins, so the borders move up by one place.
    for row in 0..rows {
        for entry in row_entries(row) {
            let place = &mut offsets[lists.indices[entry] as usize];
            by_latent.entries[*place as usize] = entry as u32;
            *place += 1;
        }
    }
    offsets.copy_within(0..d_sae, 1);
    offsets[0] = 0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_ordered_by_latent_then_row() {
        let lists = FeatureLists::<Cpu> {
            rows: 3,
            stride: 2,
            counts: vec![2, 0, 1],
            indices: vec![0, 3, 9, 9, 3, 9],
            values: vec![0.0; 6],
        };
        let mut by_latent = LatentLists { offsets: vec![7; 5], entries: vec![7; 6] };
        Cpu.transpose_lists(TransposeLists { lists: &lists, rows: 3, d_sae: 4, by_latent: &mut by_latent }).unwrap();
        assert_eq!(by_latent.offsets, [0, 1, 1, 1, 3]);
        assert_eq!(by_latent.entries[..3], [0, 1, 4]);
    }
}
