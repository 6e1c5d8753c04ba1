//! The kernels of cuda/ on the CPU, for tests: see include/emu.h.

use std::ffi::c_void;

unsafe extern "C" {
    fn cusae_emu_table() -> *const c_void;
    fn cusae_emu_calls() -> Calls;
}

/// The emulator's `cusae_table` of cuda/api.h. Its devices are the same CPU with threads run in
/// another order: number 0 in order, the others shuffled.
pub fn table() -> *const c_void {
    // SAFETY: the function takes nothing and returns a constant.
    unsafe { cusae_emu_table() }
}

/// How often this thread has called the emulator's runtime.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Kernels queued or recorded.
    pub launches: u64,
    /// Graphs queued.
    pub graph_launches: u64,
    /// Waits for the device's work.
    pub waits: u64,
    /// Copies from the host's memory.
    pub copies_from_host: u64,
    /// Copies to the host's memory.
    pub copies_to_host: u64,
    /// Pieces of memory taken.
    pub allocations: u64,
    /// Pieces of memory given back.
    pub frees: u64,
}

/// The calls of this thread so far.
pub fn calls() -> Calls {
    // SAFETY: the function takes nothing; the struct is that of include/cuda_runtime.h.
    unsafe { cusae_emu_calls() }
}
