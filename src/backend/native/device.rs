//! Which devices there are, what they are, and why one cannot be used.

use super::*;
use std::fmt;

/// Compute capability that the kernels need at least, as 80 for 8.0.
const NEEDED_CAPABILITY: u32 = 80;

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The kernels are not in this binary.
    #[error("this build has no CUDA kernels: nvcc was not found, or the feature `cuda` was off, when it was compiled")]
    NotCompiled,
    /// CUDA error 35: no driver, or too old a one.
    #[error(
        "there is no NVIDIA driver, or one too old for CUDA 13, which needs version 580 or newer (CUDA error {0})"
    )]
    NoDriver(i32),
    /// The driver is there and finds nothing.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
    /// There are GPUs, but not so many.
    #[error("there is no GPU number {ordinal}; there are {count}, counted from 0")]
    NoSuchDevice {
        /// The one asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU is too old.
    #[error(
        "the GPU has compute capability {}.{}, the kernels need {}.{} or newer",
        have / 10, have % 10, need / 10, need % 10
    )]
    Unsupported {
        /// Its compute capability, 75 for 7.5.
        have: u32,
        /// The lowest that is supported.
        need: u32,
    },
    /// CUDA failed in another way.
    #[error("CUDA error {code}: {what}")]
    Failed {
        /// CUDA's number of the error.
        code: i32,
        /// CUDA's words.
        what: String,
    },
}

/// What a device is and has.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceProperties {
    /// Its number, from 0.
    pub ordinal: usize,
    /// As the driver calls it.
    pub name: String,
    /// Compute capability, 90 for 9.0.
    pub capability: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Memory in bytes.
    pub memory_total: u64,
    /// Of it free, when it was asked for.
    pub memory_free: u64,
    /// Newest CUDA that the driver knows, 13000 for 13.0.
    pub driver_version: u32,
    /// CUDA of the runtime in this binary, likewise.
    pub runtime_version: u32,
}

impl DeviceProperties {
    /// Which kernels multiply bf16 operands on it.
    pub fn path(&self) -> &'static str {
        // As gemm_sm90_takes in cuda/gemm_bf16.cuh.
        if self.capability == 90 {
            "Hopper's bf16 products (TMA, wgmma)"
        } else {
            "portable bf16 products (mma.sync, cp.async)"
        }
    }
}

impl fmt::Display for DeviceProperties {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let gib = self.memory_total as f64 / (1u64 << 30) as f64;
        let (major, minor) = (self.capability / 10, self.capability % 10);
        write!(f, "{} (compute capability {major}.{minor}, {gib:.0} GiB)", self.name)
    }
}

impl Native {
    /// The GPU with this number. Error: why it cannot be used.
    pub fn cuda(ordinal: usize) -> Result<Native, Unavailable> {
        Native::on(cuda_table()?, ordinal)
    }

    /// What the kernels in this binary were compiled for, as build.rs says it; nothing in a build without them.
    pub fn targets() -> &'static [&'static str] {
        if cfg!(has_cuda) {
            &["sm_80 and newer", "sm_90a", "PTX for later ones"]
        } else {
            &[]
        }
    }

    /// All GPUs, by number: what each is, or why it does not say so. Error: why there is none.
    pub fn cuda_devices() -> Result<Vec<Result<DeviceProperties, Unavailable>>, Unavailable> {
        devices(cuda_table()?)
    }

    /// The kernels on the CPU, with the threads of every block in order.
    #[cfg(feature = "emulated")]
    pub fn emulated() -> Result<Native, Unavailable> {
        // SAFETY: the emulator's table is complete and constant.
        unsafe { Native::from_table(cusae_emu::table(), 0) }
    }

    /// A device of another provider of the functions in `cuda/api.h`: in tests, the emulator, whose
    /// device `n` runs the threads in the order of seed `n`.
    ///
    /// # Safety
    /// `table` points to a `cusae_table` that is complete and stays where it is.
    pub unsafe fn from_table(table: *const c_void, ordinal: usize) -> Result<Native, Unavailable> {
        // SAFETY: as the caller promises.
        Native::on(unsafe { &*table.cast::<ffi::cusae_table>() }, ordinal)
    }

    fn on(table: &'static ffi::cusae_table, ordinal: usize) -> Result<Native, Unavailable> {
        assert_eq!(table.table_bytes as usize, size_of::<ffi::cusae_table>(), "kernels of another cuda/api.h");
        let count = count(table)?;
        if ordinal >= count {
            return Err(Unavailable::NoSuchDevice { ordinal, count });
        }
        let properties = properties(table, ordinal)?;
        if properties.capability < NEEDED_CAPABILITY {
            return Err(Unavailable::Unsupported { have: properties.capability, need: NEEDED_CAPABILITY });
        }
        let mut stream = Stream {
            table,
            handle: std::ptr::null_mut(),
            wait_for_each: std::env::var_os("CUSAE_SYNC").is_some_and(|value| value == "1"),
            n_freed: 0,
            recorder: None,
        };
        // SAFETY: the table is complete; what is written to belongs to `stream`.
        let status = unsafe { table.stream_create.expect(COMPLETE)(&mut stream.handle, ordinal as c_int) };
        if let Err(failed) = check(table, status) {
            // Nothing has been made that could be given back.
            std::mem::forget(stream);
            return Err(failed);
        }
        Ok(Native {
            engine: Arc::new(Engine { properties, stream: Mutex::new(stream), recording_ends: Condvar::new() }),
        })
    }
}

#[cfg(has_cuda)]
fn cuda_table() -> Result<&'static ffi::cusae_table, Unavailable> {
    unsafe extern "C" {
        fn cusae_cuda_table() -> *const ffi::cusae_table;
    }
    // SAFETY: the function returns a constant of cuda/runtime.cu.
    Ok(unsafe { &*cusae_cuda_table() })
}

#[cfg(not(has_cuda))]
fn cuda_table() -> Result<&'static ffi::cusae_table, Unavailable> {
    Err(Unavailable::NotCompiled)
}

fn check(table: &ffi::cusae_table, status: c_int) -> Result<(), Unavailable> {
    const NO_DRIVER: c_int = 35;
    const NO_DEVICE: c_int = 100;
    match status {
        0 => Ok(()),
        NO_DRIVER => Err(Unavailable::NoDriver(status)),
        NO_DEVICE => Err(Unavailable::NoDevice),
        code => {
            // SAFETY: the table is complete, and the text is valid until this thread's next call.
            let what = unsafe { CStr::from_ptr(table.error_text.expect(COMPLETE)(code)) };
            Err(Unavailable::Failed { code, what: what.to_string_lossy().into_owned() })
        }
    }
}

fn count(table: &ffi::cusae_table) -> Result<usize, Unavailable> {
    let mut count = 0;
    // SAFETY: the table is complete, and `count` can be written.
    check(table, unsafe { table.device_count.expect(COMPLETE)(&mut count) })?;
    if count == 0 {
        return Err(Unavailable::NoDevice);
    }
    Ok(count as usize)
}

fn devices(table: &ffi::cusae_table) -> Result<Vec<Result<DeviceProperties, Unavailable>>, Unavailable> {
    Ok((0..count(table)?).map(|ordinal| properties(table, ordinal)).collect())
}

fn properties(table: &ffi::cusae_table, ordinal: usize) -> Result<DeviceProperties, Unavailable> {
    // SAFETY: numbers and characters, for which zero is a value.
    let mut device: ffi::cusae_device = unsafe { std::mem::zeroed() };
    // SAFETY: the table is complete, and `device` can be written.
    check(table, unsafe { table.device_properties.expect(COMPLETE)(ordinal as c_int, &mut device) })?;
    // SAFETY: the name ends with a 0.
    let name = unsafe { CStr::from_ptr(device.name.as_ptr()) }.to_string_lossy().into_owned();
    Ok(DeviceProperties {
        ordinal,
        name,
        capability: (device.compute_major * 10 + device.compute_minor) as u32,
        multiprocessors: device.multiprocessors as u32,
        memory_total: device.memory_total_bytes,
        memory_free: device.memory_free_bytes,
        driver_version: device.driver_version as u32,
        runtime_version: device.runtime_version as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emulator() -> ffi::cusae_table {
        // SAFETY: the emulator's table is complete and constant.
        unsafe { *cusae_emu::table().cast() }
    }

    /// The emulator's devices, of which number 1 is another process's alone.
    unsafe extern "C" fn all_but_one(ordinal: c_int, out: *mut ffi::cusae_device) -> c_int {
        const DEVICES_UNAVAILABLE: c_int = 46;
        if ordinal == 1 {
            return DEVICES_UNAVAILABLE;
        }
        // SAFETY: as the caller promises.
        unsafe { emulator().device_properties.unwrap()(ordinal, out) }
    }

    #[test]
    fn a_device_that_does_not_answer_leaves_the_others() {
        let table = ffi::cusae_table { device_properties: Some(all_but_one), ..emulator() };
        let mut found = devices(&table).unwrap();
        assert!(matches!(found.remove(1), Err(Unavailable::Failed { code: 46, .. })));
        let ordinals: Vec<usize> = found.into_iter().map(|device| device.unwrap().ordinal).collect();
        assert_eq!(ordinals, [&[0][..], &(2..16).collect::<Vec<_>>()].concat());
    }
}
