//! Buffers in a device's memory, and the copies in, out and between them.

use super::*;
use std::marker::PhantomData;

/// Typed memory of a device; given back when it is dropped.
pub struct NativeBuffer<T> {
    start: *mut c_void,
    len: usize,
    engine: Arc<Engine>,
    element: PhantomData<T>,
}

// SAFETY: the pointer is an address for the C functions, which may be called from any thread; the
// engine's mutex sees to it that not two call at once.
unsafe impl<T: Send> Send for NativeBuffer<T> {}
// SAFETY: as above; a shared buffer is only read.
unsafe impl<T: Sync> Sync for NativeBuffer<T> {}

impl<T: Send + Sync> Buffer for NativeBuffer<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T> NativeBuffer<T> {
    /// Its address on the device; null when it is empty. Who writes through it has it mutably.
    pub(super) fn at(&self) -> *mut T {
        self.start.cast()
    }
}

impl<T> Drop for NativeBuffer<T> {
    fn drop(&mut self) {
        if self.start.is_null() {
            return;
        }
        // An error here is one of the work before, which the next read reports.
        let mut stream = self.engine.stream();
        stream.n_freed += 1;
        let _ = runtime!(stream, "free", memory_free(self.start));
    }
}

/// The address of a buffer, null for none.
pub(super) fn or_null<T>(buffer: Option<&NativeBuffer<T>>) -> *mut T {
    buffer.map_or(std::ptr::null_mut(), NativeBuffer::at)
}

/// The address of a product's operand.
pub(super) fn operand(matrix: Matrix<'_, Native>) -> *const c_void {
    match matrix {
        Matrix::F32(buffer) => buffer.start,
        Matrix::Bf16(buffer) => buffer.start,
    }
}

/// The type of a product's operand as `enum cusae_type`.
pub(super) fn element_type(matrix: Matrix<'_, Native>) -> u32 {
    type_of(matrix.is_bf16())
}

/// The type as `enum cusae_type`.
pub(super) fn type_of(bf16: bool) -> u32 {
    if bf16 {
        ffi::CUSAE_BF16
    } else {
        ffi::CUSAE_F32
    }
}

/// Memory that nobody has written yet.
fn uninitialised<T: Element>(native: &Native, len: usize) -> Result<NativeBuffer<T>> {
    let mut start = std::ptr::null_mut();
    if len > 0 {
        let bytes = (len * size_of::<T>()) as u64;
        let allocated = runtime!(native.engine.stream(), "allocate", memory_allocate(&mut start, bytes));
        allocated.map_err(|error| match error {
            Error::Kernel { operation, what } => {
                Error::Kernel { operation, what: format!("{bytes} bytes: {what}; a smaller batch needs less memory") }
            }
            other => other,
        })?;
    }
    Ok(NativeBuffer { start, len, engine: native.engine.clone(), element: PhantomData })
}

pub(super) fn zeros<T: Element>(native: &Native, len: usize) -> Result<NativeBuffer<T>> {
    let buffer = uninitialised(native, len)?;
    if len > 0 {
        let bytes = (len * size_of::<T>()) as u64;
        runtime!(native.engine.stream(), "zeros", memory_set(buffer.start, 0, bytes))?;
    }
    Ok(buffer)
}

pub(super) fn upload<T: Element>(native: &Native, data: &[T]) -> Result<NativeBuffer<T>> {
    let mut buffer = uninitialised(native, data.len())?;
    write(native, &mut buffer, 0, data)?;
    Ok(buffer)
}

pub(super) fn write<T: Element>(native: &Native, to: &mut NativeBuffer<T>, offset: usize, data: &[T]) -> Result<()> {
    need("write", "buffer", to.len, offset + data.len())?;
    let start = to.at().wrapping_add(offset).cast();
    let bytes = size_of_val(data) as u64;
    runtime!(native.engine.stream(), "write", copy_to_device(start, data.as_ptr().cast(), bytes))
}

pub(super) fn read<T: Element>(native: &Native, from: &NativeBuffer<T>, offset: usize, data: &mut [T]) -> Result<()> {
    need("read", "buffer", from.len, offset + data.len())?;
    native.engine.stream().read("read", from.at().wrapping_add(offset), data)
}

pub(super) fn copy<T: Element>(
    native: &Native,
    from: &NativeBuffer<T>,
    from_offset: usize,
    to: &mut NativeBuffer<T>,
    to_offset: usize,
    len: usize,
) -> Result<()> {
    need("copy", "source", from.len, from_offset + len)?;
    need("copy", "destination", to.len, to_offset + len)?;
    let (from, to) = (from.at().wrapping_add(from_offset), to.at().wrapping_add(to_offset));
    let bytes = (len * size_of::<T>()) as u64;
    runtime!(native.engine.stream(), "copy", copy_on_device(to.cast(), from.cast(), bytes))
}

/// # Safety
/// As of [`Backend::copy_from_address`].
pub(super) unsafe fn copy_from_address<T: Element>(
    native: &Native,
    from: *const T,
    to: &mut NativeBuffer<T>,
    len: usize,
) -> Result<()> {
    need("copy", "destination", to.len, len)?;
    let bytes = (len * size_of::<T>()) as u64;
    runtime!(native.engine.stream(), "copy", copy_on_device(to.start, from.cast(), bytes))
}

/// # Safety
/// As of [`Backend::copy_to_address`].
pub(super) unsafe fn copy_to_address<T: Element>(
    native: &Native,
    from: &NativeBuffer<T>,
    to: *mut T,
    len: usize,
) -> Result<()> {
    need("copy", "source", from.len, len)?;
    let bytes = (len * size_of::<T>()) as u64;
    runtime!(native.engine.stream(), "copy", copy_on_device(to.cast(), from.start, bytes))
}

pub(super) fn fill<T: Element>(native: &Native, buffer: &mut NativeBuffer<T>, value: T) -> Result<()> {
    let mut pattern = [0u64; 2];
    bytemuck::bytes_of_mut(&mut pattern)[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
    let arguments = ffi::cusae_fill {
        to: buffer.start,
        len: buffer.len as u64,
        pattern,
        element_bytes: size_of::<T>() as u32,
        unused: 0,
    };
    native.call("fill", |table| table.fill, &arguments)
}
