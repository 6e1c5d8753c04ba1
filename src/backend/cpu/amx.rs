//! Intel's matrix unit (AMX: Sapphire Rapids and newer): eight tile registers of 16 rows of 64 bytes, and instructions that
//! add a product of two of them to a third. Rust has no stable intrinsics for them, so this file has the assembly.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows of a tile; also its 32-bit words in a row.
pub(super) const TILE: usize = 16;
/// Bytes of a tile's row.
pub(super) const ROW_BYTES: usize = 64;

/// Whether this machine multiplies tiles, and the operating system lets this process do it.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| machine_has_tiles() && is_permitted())
}

/// Tiles, and products of bf16 and of 8-bit integers.
fn machine_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    const ALL: u32 = AMX_BF16 | AMX_TILE | AMX_INT8;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL
}

/// Linux keeps the tiles' state only of processes that ask for it (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes nothing but this process's permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

thread_local! {
    /// How many [`Tiles`] this thread has.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// This thread's tile registers, each of the full size; their contents are whoever's computes last.
pub(super) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// None on a machine without.
    pub fn new() -> Option<Tiles> {
        is_available().then(|| {
            if HELD.replace(HELD.get() + 1) == 0 {
                configure();
            }
            Tiles(PhantomData)
        })
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            // SAFETY: the machine has tiles, or there were no `Tiles`; nobody else uses this thread's.
            unsafe { asm!("tilerelease", options(nostack)) };
        }
    }
}

fn configure() {
    #[repr(align(64))]
    struct Palette([u8; 64]);
    let mut palette = Palette([0; 64]);
    palette.0[0] = 1;
    for tile in 0..8 {
        palette.0[16 + 2 * tile] = ROW_BYTES as u8;
        palette.0[48 + tile] = TILE as u8;
    }
    // SAFETY: called where the machine has tiles; the palette is the one that Intel's manual describes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) palette.0.as_ptr(), options(nostack, readonly)) };
}

/// Tiles to or from memory, and products: `load!(tile, pointer, bytes from row to row)`, `stream!` (the same, of what the
/// first-level cache need not keep), `store!`, `zero!(tile)`, `multiply!(instruction, sum, a, b)`. All are unsafe: a thread
/// that computes with tiles has [`Tiles`], and a pointer has 16 rows of 64 bytes.
macro_rules! load {
    ($tile:tt, $from:expr, $stride:expr) => {
        load!("tileloadd", $tile, $from, $stride)
    };
    ($instruction:tt, $tile:tt, $from:expr, $stride:expr) => {
        std::arch::asm!(
            concat!($instruction, " ", $tile, ", [{from} + {stride}]"),
            from = in(reg) $from, stride = in(reg) $stride, out($tile) _, options(nostack, readonly, preserves_flags)
        )
    };
}
macro_rules! stream {
    ($tile:tt, $from:expr, $stride:expr) => {
        $crate::backend::cpu::amx::load!("tileloaddt1", $tile, $from, $stride)
    };
}
macro_rules! store {
    ($tile:tt, $to:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tilestored [{to} + {stride}], ", $tile),
            to = in(reg) $to, stride = in(reg) $stride, options(nostack, preserves_flags)
        )
    };
}
macro_rules! zero {
    ($($tile:tt),*) => {
        $(std::arch::asm!(concat!("tilezero ", $tile), out($tile) _, options(nostack, nomem, preserves_flags));)*
    };
}
macro_rules! multiply {
    ($instruction:tt, $sum:tt, $a:tt, $b:tt) => {
        std::arch::asm!(
            concat!($instruction, " ", $sum, ", ", $a, ", ", $b),
            out($sum) _, options(nostack, nomem, preserves_flags)
        )
    };
}
pub(super) use {load, multiply, store, stream, zero};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_there_until_the_last_of_a_thread_is_given_back() {
        let Some(outer) = Tiles::new() else { return };
        drop(Tiles::new());
        let (from, mut to) = ([1u8; 1024], [0u8; 1024]);
        // SAFETY: this thread has tiles; both are one.
        unsafe {
            load!("tmm0", from.as_ptr(), ROW_BYTES);
            store!("tmm0", to.as_mut_ptr(), ROW_BYTES);
        }
        drop(outer);
        assert_eq!(from, to);
        assert_eq!(HELD.get(), 0);
    }
}
