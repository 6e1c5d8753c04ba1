//! SAEs that encode and decode.

use super::features::Encoded;
use super::numbers::{Input, Output};
use super::pointers::{c_text, hand_out, lock, put, reference, slice_mut, take_back, text};
use super::status::{answer, argument, Failure};
use super::{Engine, Sizes};
use crate::backend::{Backend, Device};
use crate::error::Result;
use crate::formats::{self, saelens::cfg_json, SavedSae};
use crate::hub;
use crate::sae::config::SaeConfig;
use crate::sae::inference::{Pass, Sae};
use crate::sae::weights::HostTensor;
use std::ffi::{c_char, c_int, CString};
use std::path::Path;
use std::sync::Mutex;

/// `cusae_sae`.
pub struct SaeHandle {
    config: SaeConfig,
    /// Its `cfg.json`.
    json: CString,
    weights: Vec<(CString, [usize; 2])>,
    sae: Mutex<Box<dyn AnySae>>,
}

impl SaeHandle {
    /// A handle of an SAE on any device.
    pub(super) fn new<B: Backend>(sae: Sae<B>) -> SaeHandle {
        let config = sae.config().clone();
        let of_two = |shape: &[usize]| [shape[0], shape.get(1).copied().unwrap_or(1)];
        SaeHandle {
            json: c_text(format!("{:#}", cfg_json(&config, false))),
            weights: config.tensors().iter().map(|(name, shape)| (c_text(name.to_string()), of_two(shape))).collect(),
            config,
            sae: Mutex::new(Box::new(Loaded { sae, work: None })),
        }
    }

    /// The shape of a weight. Error: it has no such.
    fn shape(&self, name: &str) -> Result<[usize; 2], Failure> {
        let found = self.weights.iter().find(|(known, _)| known.to_bytes() == name.as_bytes());
        found.map(|(_, shape)| *shape).ok_or_else(|| {
            let known: Vec<_> = self.config.tensors().into_iter().map(|(name, _)| name).collect();
            argument(format!("there is no weight {name:?}; there are {}", known.join(", ")))
        })
    }

    pub(super) fn lock(&self) -> Result<impl std::ops::DerefMut<Target = Box<dyn AnySae>> + '_, Failure> {
        lock(&self.sae)
    }
}

/// An SAE on a device of any kind.
pub(super) trait AnySae: Send {
    fn denormalizes(&self) -> bool;
    fn weight(&self, name: &str) -> Result<Option<HostTensor>>;
    fn saved(&self) -> Result<SavedSae>;
    /// # Safety
    /// The input is as it says.
    unsafe fn encode(&mut self, x: Input) -> Result<Encoded>;
    /// # Safety
    /// The input and the output are as they say.
    unsafe fn encode_dense(&mut self, x: Input, out: Output) -> Result<()>;
    /// # Safety
    /// The output is as it says.
    unsafe fn decode(&mut self, encoded: &Encoded, out: Output) -> Result<()>;
    /// # Safety
    /// The input and the output are as they say.
    unsafe fn reconstruct(&mut self, x: Input, out: Output) -> Result<()>;
}

struct Loaded<B: Backend> {
    sae: Sae<B>,
    /// Made when it is first needed.
    work: Option<Work<B>>,
}

struct Work<B: Backend> {
    pass: Pass<B>,
    x: B::Buffer<f32>,
}

impl<B: Backend> Loaded<B> {
    fn parts(&mut self) -> Result<(&Sae<B>, &mut Work<B>)> {
        let Loaded { sae, work } = self;
        let work = match work {
            Some(work) => work,
            None => {
                let rows = sae.rows_at_once();
                work.insert(Work { pass: sae.pass(rows)?, x: sae.backend().zeros(rows * sae.config().d_in)? })
            }
        };
        Ok((sae, work))
    }

    /// Brings every chunk of rows to the device, and gives it to `each` with its first row.
    ///
    /// # Safety
    /// The input is as it says.
    unsafe fn chunks(
        &mut self,
        x: Input,
        mut each: impl FnMut(&Sae<B>, &mut Work<B>, usize, usize) -> Result<()>,
    ) -> Result<()> {
        let (sae, work) = self.parts()?;
        let (d_in, at_once) = (sae.config().d_in, sae.rows_at_once());
        for first in (0..x.rows).step_by(at_once) {
            let rows = at_once.min(x.rows - first);
            // SAFETY: as the caller promises; what follows waits for the copy.
            unsafe { x.copy_to(sae.backend(), &mut work.x, first, rows, d_in) }?;
            each(sae, work, first, rows)?;
        }
        sae.backend().synchronize()
    }
}

impl<B: Backend> AnySae for Loaded<B> {
    fn denormalizes(&self) -> bool {
        self.sae.denormalizes()
    }

    fn weight(&self, name: &str) -> Result<Option<HostTensor>> {
        self.sae.weight(name)
    }

    fn saved(&self) -> Result<SavedSae> {
        Ok(SavedSae { config: self.sae.config().clone(), weights: self.sae.weights()?, log_sparsity: None })
    }

    unsafe fn encode(&mut self, x: Input) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        if self.sae.denormalizes() {
            encoded.normalization = Some(Default::default());
        }
        // SAFETY: as the caller promises.
        unsafe {
            self.chunks(x, |sae, Work { pass, x }, _, rows| {
                pass.encode(sae, x, rows)?;
                encoded.features.append(&pass.features(sae)?);
                let of_rows = pass.row_normalization(sae)?;
                if let (Some((scale, shift)), Some(all)) = (of_rows, &mut encoded.normalization) {
                    all.scale.extend(scale);
                    all.shift.extend(shift);
                }
                Ok(())
            })
        }?;
        Ok(encoded)
    }

    unsafe fn encode_dense(&mut self, x: Input, out: Output) -> Result<()> {
        let d_sae = self.sae.config().d_sae;
        // SAFETY: as the caller promises.
        unsafe {
            self.chunks(x, |sae, Work { pass, x }, first, rows| {
                pass.encode(sae, x, rows)?;
                let dense = sae.backend().upload(&pass.features(sae)?.to_dense(d_sae))?;
                out.fill(sae.backend(), &dense, first, rows, d_sae)
            })
        }
    }

    unsafe fn decode(&mut self, encoded: &Encoded, out: Output) -> Result<()> {
        let (sae, Work { pass, .. }) = self.parts()?;
        let (total, d_out, at_once) = (encoded.features.rows(), sae.config().d_out(), sae.rows_at_once());
        for first in (0..total).step_by(at_once) {
            let rows = at_once.min(total - first);
            let of_chunk = encoded.normalization.as_ref();
            let of_chunk = of_chunk.map(|of| (&of.scale[first..first + rows], &of.shift[first..first + rows]));
            pass.set_features(sae, &encoded.features, first, rows, of_chunk)?;
            pass.decode(sae)?;
            // SAFETY: as the caller promises.
            unsafe { out.fill(sae.backend(), pass.reconstruction(), first, rows, d_out) }?;
        }
        sae.backend().synchronize()
    }

    unsafe fn reconstruct(&mut self, x: Input, out: Output) -> Result<()> {
        let d_out = self.sae.config().d_out();
        // SAFETY: as the caller promises.
        unsafe {
            self.chunks(x, |sae, Work { pass, x }, first, rows| {
                pass.forward(sae, x, rows)?;
                out.fill(sae.backend(), pass.reconstruction(), first, rows, d_out)
            })
        }
    }
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_load(engine: *const Engine, name: *const c_char, out: *mut *mut SaeHandle) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let (engine, name) = unsafe { (reference(engine, "engine")?, text(name, "name")?) };
        let load = || {
            let saved = hub::sae("name", name)?.load()?;
            Ok(match &engine.device {
                Device::Cpu(cpu) => SaeHandle::new(Sae::new(cpu, &saved.config, &saved.weights)?),
                Device::Native(native) => SaeHandle::new(Sae::new(native, &saved.config, &saved.weights)?),
            })
        };
        // SAFETY: as the caller promises.
        unsafe { hand_out(out, load) }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// The SAE is null or one that was handed out, and is not used any more.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_destroy(sae: *mut SaeHandle) {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { take_back(sae) };
        Ok(())
    });
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_sizes(sae: *const SaeHandle, out: *mut Sizes) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { put(out, Sizes::from(&reference(sae, "sae")?.config), "out") }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// The SAE is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_config(sae: *const SaeHandle) -> *const c_char {
    // SAFETY: as the caller promises.
    unsafe { sae.as_ref() }.map_or(std::ptr::null(), |sae| sae.json.as_ptr())
}

/// See `include/cusae.h`.
///
/// # Safety
/// The SAE is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_weight_name(sae: *const SaeHandle, index: usize) -> *const c_char {
    // SAFETY: as the caller promises.
    let name = unsafe { sae.as_ref() }.and_then(|sae| sae.weights.get(index));
    name.map_or(std::ptr::null(), |(name, _)| name.as_ptr())
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_weight_shape(
    sae: *const SaeHandle,
    name: *const c_char,
    shape: *mut [usize; 2],
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { put(shape, reference(sae, "sae")?.shape(text(name, "name")?)?, "shape") }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_weight(
    sae: *const SaeHandle,
    name: *const c_char,
    out: *mut f32,
    capacity: usize,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let (sae, name) = unsafe { (reference(sae, "sae")?, text(name, "name")?) };
        let [rows, columns] = sae.shape(name)?;
        let len = rows * columns;
        if capacity < len {
            let what = format!("{name} is {rows} x {columns} = {len} numbers, there is room for {capacity}");
            return Err(argument(what));
        }
        // SAFETY: as the caller promises.
        let out = unsafe { slice_mut(out, len, "out") }?;
        let weight = sae.lock()?.weight(name)?.expect("its shape is known");
        out.copy_from_slice(&weight.values);
        Ok(())
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_sae_save(sae: *const SaeHandle, folder: *const c_char) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let (sae, folder) = unsafe { (reference(sae, "sae")?, text(folder, "folder")?) };
        let saved = sae.lock()?.saved()?;
        Ok(formats::save(Path::new(folder), &saved, "saelens")?)
    })
}
