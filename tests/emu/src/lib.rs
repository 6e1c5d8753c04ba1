//! The kernels of cuda/ on the CPU, for tests: see include/emu.h.

use std::ffi::{c_char, c_int, c_void, CString};
use std::sync::OnceLock;

type Table = unsafe extern "C" fn() -> *const c_void;

unsafe extern "C" {
    fn cusae_emu_table() -> *const c_void;
    fn cusae_emu_calls() -> Calls;
    fn cusae_emu_count_only(counting: bool);
    fn cusae_emu_launched(out: *mut Launched) -> usize;
    fn cusae_emu_lock_pages(at: *const c_void, bytes: usize);
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;

/// The emulator's `cusae_table` of cuda/api.h. Its devices are the same CPU with threads run in
/// another order: number 0 in order, the others shuffled.
///
/// The environment variable `CUSAE_EMU_LIBRARY` names a library whose table it is instead:
/// scripts/mutations.py compiles one with faults planted.
pub fn table() -> *const c_void {
    static TABLE: OnceLock<Table> = OnceLock::new();
    let table = TABLE.get_or_init(|| match std::env::var("CUSAE_EMU_LIBRARY") {
        Ok(path) => table_of_library(&path),
        Err(_) => cusae_emu_table,
    });
    // SAFETY: the function takes nothing and returns a constant.
    unsafe { table() }
}

fn table_of_library(path: &str) -> Table {
    let file = CString::new(path).unwrap();
    // SAFETY: both strings end in 0, and the library is one of the emulator.
    let function = unsafe { dlsym(dlopen(file.as_ptr(), RTLD_NOW), c"cusae_emu_table".as_ptr()) };
    assert!(!function.is_null(), "{path} has no cusae_emu_table");
    // SAFETY: that is the type of the function with this name.
    unsafe { std::mem::transmute::<*mut c_void, Table>(function) }
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

/// A kernel's launch, as it was asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Launched {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of a block in bytes.
    pub shared_bytes: u64,
}

/// As long as it lives, this thread's launches are only noted, and its memory is no memory.
pub struct CountOnly(());

impl CountOnly {
    /// Starts.
    #[allow(clippy::new_without_default)]
    pub fn new() -> CountOnly {
        // SAFETY: the function sets a flag of this thread's.
        unsafe { cusae_emu_count_only(true) };
        CountOnly(())
    }

    /// The launches since the last call.
    pub fn take(&self) -> Vec<Launched> {
        // SAFETY: without a place to write, the function only counts.
        let n = unsafe { cusae_emu_launched(std::ptr::null_mut()) };
        let mut launched = vec![Launched::default(); n];
        // SAFETY: there is room for all; the struct is that of include/cuda_runtime.h.
        unsafe {
            cusae_emu_launched(launched.as_mut_ptr());
            cusae_emu_count_only(true);
        }
        launched
    }
}

impl Drop for CountOnly {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { cusae_emu_count_only(false) };
    }
}

/// Numbers in memory that is page-locked, as by cudaHostAlloc: devices read it by themselves, when they come to it.
pub struct PageLocked<T>(Box<[T]>);

impl<T> PageLocked<T> {
    /// Locks what lies there.
    pub fn new(numbers: Box<[T]>) -> PageLocked<T> {
        // SAFETY: the memory stays where it is until it is unlocked.
        unsafe { cusae_emu_lock_pages(numbers.as_ptr().cast(), size_of_val(&*numbers)) };
        PageLocked(numbers)
    }
}

impl<T> std::ops::Deref for PageLocked<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> std::ops::DerefMut for PageLocked<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> Drop for PageLocked<T> {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { cusae_emu_lock_pages(self.0.as_ptr().cast(), 0) };
    }
}
