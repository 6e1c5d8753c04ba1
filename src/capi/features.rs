//! Features of activations, and activations of features.

use super::numbers::{Input, Output};
use super::pointers::{hand_out, reference, slice, take_back};
use super::status::{answer, argument, Failure};
use super::SaeHandle;
use crate::sae::features::SparseFeatures;
use std::ffi::c_int;

/// `cusae_features`, to be read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FeaturesView {
    /// Rows.
    pub rows: usize,
    /// Active features of all rows.
    pub entries: usize,
    /// Where each row begins, and the end `[rows + 1]`.
    pub indptr: *const usize,
    /// Latents `[entries]`.
    pub indices: *const u32,
    /// Values `[entries]`.
    pub values: *const f32,
    /// Factor that brings a row to its own size `[rows]`, or null.
    pub row_scale: *const f32,
    /// What is added then `[rows]`, or null.
    pub row_shift: *const f32,
}

/// Features that belong to this library. C sees the view alone, which comes first.
#[repr(C)]
pub struct FeaturesHandle {
    view: FeaturesView,
    data: Encoded,
}

/// Features, and what gives decoded rows their size back where the SAE takes it.
#[derive(Default)]
pub(super) struct Encoded {
    pub features: SparseFeatures,
    pub normalization: Option<Normalization>,
}

/// What decoded rows are multiplied with, and what is added then `[rows]` each.
#[derive(Default)]
pub(super) struct Normalization {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl FeaturesView {
    /// Pointers into vectors, which do not move when their owner does.
    fn of(data: &Encoded) -> FeaturesView {
        let Encoded { features, normalization } = data;
        let [row_scale, row_shift] = match normalization {
            Some(Normalization { scale, shift }) => [scale.as_ptr(), shift.as_ptr()],
            None => [std::ptr::null(); 2],
        };
        FeaturesView {
            rows: features.rows(),
            entries: features.indices().len(),
            indptr: features.indptr().as_ptr(),
            indices: features.indices().as_ptr(),
            values: features.values().as_ptr(),
            row_scale,
            row_shift,
        }
    }

    /// What it shows, copied. Errors: an array is missing; they do not fit together.
    ///
    /// # Safety
    /// Its pointers are null or point to as many numbers as the header says.
    unsafe fn encoded(&self, normalizes: bool) -> Result<Encoded, Failure> {
        let &FeaturesView { rows, entries, .. } = self;
        // SAFETY: as the caller promises.
        let (indptr, indices, values) = unsafe {
            let starts = rows.checked_add(1).ok_or_else(|| argument("rows is too large"))?;
            (
                slice(self.indptr, starts, "indptr")?,
                slice(self.indices, entries, "indices")?,
                slice(self.values, entries, "values")?,
            )
        };
        let features = SparseFeatures::from_parts(indptr.to_vec(), indices.to_vec(), values.to_vec())
            .map_err(|error| argument(error.to_string()))?;
        let normalization = match normalizes {
            false => None,
            // SAFETY: as the caller promises.
            true => Some(unsafe {
                let scale = slice(self.row_scale, rows, "row_scale, which this SAE needs,")?;
                let shift = slice(self.row_shift, rows, "row_shift, which this SAE needs,")?;
                Normalization { scale: scale.to_vec(), shift: shift.to_vec() }
            }),
        };
        Ok(Encoded { features, normalization })
    }
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_encode(
    sae: *const SaeHandle,
    x: *const f32,
    rows: usize,
    memory: c_int,
    out: *mut *mut FeaturesHandle,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let sae = unsafe { reference(sae, "sae") }?;
        let x = Input::new(x, rows, memory)?;
        let encode = || {
            // SAFETY: as the caller promises.
            let data = unsafe { sae.lock()?.encode(x) }?;
            Ok(FeaturesHandle { view: FeaturesView::of(&data), data })
        };
        // SAFETY: as the caller promises.
        unsafe { hand_out(out, encode) }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// The features are null or such as [`cusae_encode`] made, and are not used any more.
#[no_mangle]
pub unsafe extern "C" fn cusae_features_destroy(features: *mut FeaturesHandle) {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { take_back(features) };
        Ok(())
    });
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_encode_dense(
    sae: *const SaeHandle,
    x: *const f32,
    rows: usize,
    memory: c_int,
    out: *mut f32,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let sae = unsafe { reference(sae, "sae") }?;
        let (x, out) = (Input::new(x, rows, memory)?, Output::new(out, rows, memory)?);
        // SAFETY: as the caller promises.
        Ok(unsafe { sae.lock()?.encode_dense(x, out) }?)
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_decode(
    sae: *const SaeHandle,
    features: *const FeaturesView,
    memory: c_int,
    out: *mut f32,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let (sae, view) = unsafe { (reference(sae, "sae")?, reference(features, "features")?) };
        let out = Output::new(out, view.rows, memory)?;
        let mut sae_on_device = sae.lock()?;
        // SAFETY: as the caller promises.
        unsafe {
            let encoded = view.encoded(sae_on_device.denormalizes())?;
            Ok(sae_on_device.decode(&encoded, out)?)
        }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_reconstruct(
    sae: *const SaeHandle,
    x: *const f32,
    rows: usize,
    memory: c_int,
    out: *mut f32,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let sae = unsafe { reference(sae, "sae") }?;
        let (x, out) = (Input::new(x, rows, memory)?, Output::new(out, rows, memory)?);
        // SAFETY: as the caller promises.
        Ok(unsafe { sae.lock()?.reconstruct(x, out) }?)
    })
}
