//! Matrices in the caller's memory, on the host or on the device.

use super::pointers::check;
use super::status::{argument, Failure};
use crate::backend::Backend;
use crate::error::Result;
use std::ffi::c_int;

/// `enum cusae_memory`: where the caller's memory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Host,
    Device,
}

impl Memory {
    fn of(memory: c_int) -> Result<Memory, Failure> {
        match memory {
            0 => Ok(Memory::Host),
            1 => Ok(Memory::Device),
            _ => Err(argument(format!("memory is {memory}, expected CUSAE_HOST or CUSAE_DEVICE"))),
        }
    }
}

/// Rows to be read. Whoever makes one has the caller's word that as many rows lie there, of the width
/// that the operation wants.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub at: *const f32,
    pub rows: usize,
    pub memory: Memory,
}

impl Input {
    /// Checks what can be checked: a null pointer may stand for no rows.
    pub fn new(x: *const f32, rows: usize, memory: c_int) -> Result<Self, Failure> {
        if rows > 0 {
            check(x, "x")?;
        }
        Ok(Input { at: x, rows, memory: Memory::of(memory)? })
    }

    /// Rows that lie on the host.
    ///
    /// # Safety
    /// They do, and nobody writes them for `'a`.
    pub unsafe fn on_host<'a>(self, first: usize, rows: usize, width: usize) -> &'a [f32] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts(self.at.wrapping_add(first * width), rows * width) }
    }

    /// Copies rows into a buffer, from its start on.
    ///
    /// # Safety
    /// As of [`Backend::copy_from_address`].
    pub unsafe fn copy_to<B: Backend>(
        self,
        backend: &B,
        to: &mut B::Buffer<f32>,
        first: usize,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        match self.memory {
            // SAFETY: as the caller promises.
            Memory::Host => backend.write(to, 0, unsafe { self.on_host(first, rows, width) }),
            Memory::Device => {
                let from = self.at.wrapping_add(first * width);
                // SAFETY: as the caller promises.
                unsafe { backend.copy_from_address(from, to, rows * width) }
            }
        }
    }
}

/// Rows to be written, as [`Input`].
#[derive(Clone, Copy)]
pub(super) struct Output {
    at: *mut f32,
    memory: Memory,
}

impl Output {
    /// Checks what can be checked.
    pub fn new(out: *mut f32, rows: usize, memory: c_int) -> Result<Self, Failure> {
        if rows > 0 {
            check(out, "out")?;
        }
        Ok(Output { at: out, memory: Memory::of(memory)? })
    }

    /// Writes rows from the start of a buffer.
    ///
    /// # Safety
    /// As of [`Backend::copy_to_address`].
    pub unsafe fn fill<B: Backend>(
        self,
        backend: &B,
        from: &B::Buffer<f32>,
        first: usize,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        let to = self.at.wrapping_add(first * width);
        match self.memory {
            // SAFETY: as the caller promises.
            Memory::Host => backend.read(from, 0, unsafe { std::slice::from_raw_parts_mut(to, rows * width) }),
            // SAFETY: as the caller promises.
            Memory::Device => unsafe { backend.copy_to_address(from, to, rows * width) },
        }
    }
}
