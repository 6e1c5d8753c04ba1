//! Engines: devices that compute.

use super::pointers::{c_text, hand_out, reference, take_back, text};
use super::status::answer;
use crate::backend::{Backend, Device};
use std::ffi::{c_char, c_int, CString};

/// `cusae_engine`.
pub struct Engine {
    pub(super) device: Device,
    description: CString,
}

/// See `include/cusae.h`.
///
/// # Safety
/// Pointers are null or as the header says.
#[no_mangle]
pub unsafe extern "C" fn cusae_engine_create(device: *const c_char, out: *mut *mut Engine) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let name = unsafe { text(device, "device") }?;
        let make = || {
            let device = Device::open(name)?;
            let description = match &device {
                Device::Cpu(cpu) => cpu.describe(),
                Device::Native(native) => native.describe(),
            };
            Ok(Engine { device, description: c_text(description) })
        };
        // SAFETY: as the caller promises.
        unsafe { hand_out(out, make) }
    })
}

/// See `include/cusae.h`.
///
/// # Safety
/// The engine is null or one that was handed out, and is not used any more.
#[no_mangle]
pub unsafe extern "C" fn cusae_engine_destroy(engine: *mut Engine) {
    answer(|| {
        // SAFETY: as the caller promises.
        unsafe { take_back(engine) };
        Ok(())
    });
}

/// See `include/cusae.h`.
///
/// # Safety
/// The engine is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_engine_describe(engine: *const Engine) -> *const c_char {
    // SAFETY: as the caller promises.
    unsafe { engine.as_ref() }.map_or(std::ptr::null(), |engine| engine.description.as_ptr())
}

/// See `include/cusae.h`.
///
/// # Safety
/// The engine is null or one that was handed out.
#[no_mangle]
pub unsafe extern "C" fn cusae_engine_synchronize(engine: *const Engine) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        match &unsafe { reference(engine, "engine") }?.device {
            Device::Cpu(cpu) => cpu.synchronize()?,
            Device::Native(native) => native.synchronize()?,
        }
        Ok(())
    })
}
