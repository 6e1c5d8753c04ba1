//! Lists of features and firing statistics: Rust's arguments as C's.

use super::super::*;
use std::ptr::null;

pub(super) fn lists(lists: &FeatureLists<Native>) -> ffi::cusae_lists {
    ffi::cusae_lists {
        counts: lists.counts.at(),
        indices: lists.indices.at(),
        values: lists.values.at(),
        stride: lists.stride as u64,
    }
}

pub(super) fn latent_lists(lists: &LatentLists<Native>) -> ffi::cusae_latent_lists {
    ffi::cusae_latent_lists { offsets: lists.offsets.at(), entries: lists.entries.at() }
}

pub(in super::super) fn transpose_lists(native: &Native, op: TransposeLists<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_transpose_lists {
        lists: lists(op.lists),
        by_latent: latent_lists(op.by_latent),
        rows: op.rows as u64,
        d_sae: op.d_sae as u64,
    };
    native.call("transpose_lists", |table| table.transpose_lists, &arguments)
}

pub(in super::super) fn slice_lists(native: &Native, op: SliceLists<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_slice_lists {
        lists: lists(op.lists),
        out: lists(op.out),
        rows: op.rows as u64,
        first: op.latents.start as u64,
        last: op.latents.end as u64,
    };
    native.call("slice_lists", |table| table.slice_lists, &arguments)
}

pub(in super::super) fn sum_by_latent(native: &Native, op: SumByLatent<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_sum_by_latent {
        values: op.values.at(),
        by_latent: latent_lists(op.by_latent),
        out: op.out.at(),
        d_sae: op.d_sae as u64,
    };
    native.call("sum_by_latent", |table| table.sum_by_latent, &arguments)
}

pub(in super::super) fn find_dead(native: &Native, op: FindDead<'_, Native>) -> Result<()> {
    let arguments = ffi::cusae_find_dead {
        since_fired: op.since_fired.at(),
        dead: op.dead.latents.at(),
        n_dead: op.dead.count.at(),
        first: op.latents.start as u64,
        last: op.latents.end as u64,
        window: op.window,
        unused: 0,
    };
    native.call("find_dead", |table| table.find_dead, &arguments)
}

pub(in super::super) fn update_firing(native: &Native, op: UpdateFiring<'_, Native>) -> Result<()> {
    let (mut offsets, mut entries, mut values, mut features) = (null(), null(), null(), null());
    match op.features {
        Features::Lists(by_latent) => offsets = by_latent.offsets.at().cast_const(),
        Features::Values(by_latent, lists) => {
            offsets = by_latent.offsets.at();
            entries = by_latent.entries.at();
            values = lists.values.at();
        }
        Features::Dense(dense) => features = dense.at().cast_const(),
    }
    let arguments = ffi::cusae_update_firing {
        offsets,
        entries,
        values,
        features,
        fired_count: op.fired_count.at(),
        since_fired: op.since_fired.at(),
        rows: op.rows as u64,
        d_sae: op.d_sae as u64,
    };
    native.call("update_firing", |table| table.update_firing, &arguments)
}
