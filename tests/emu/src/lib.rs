//! The kernels of cuda/ on the CPU, for tests: see include/emu.h.

use std::ffi::c_void;

unsafe extern "C" {
    fn cusae_emu_table() -> *const c_void;
}

/// The emulator's `cusae_table` of cuda/api.h. Its devices are the same CPU with threads run in
/// another order: number 0 in order, the others shuffled.
pub fn table() -> *const c_void {
    // SAFETY: the function takes nothing and returns a constant.
    unsafe { cusae_emu_table() }
}
