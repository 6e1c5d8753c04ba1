//! Checked ways from C's pointers to references.

use super::status::{argument, internal, Failure};
use std::ffi::{c_char, CStr, CString};
use std::sync::{Mutex, MutexGuard};

/// What a pointer points to.
///
/// # Safety
/// A pointer that is not null points to a `T` that nobody changes for `'a`.
pub(super) unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    check(pointer, name)?;
    // SAFETY: it is neither null nor misaligned, and the caller promises the rest.
    Ok(unsafe { &*pointer })
}

/// `len` numbers from a pointer on, which may be null if there are none.
///
/// # Safety
/// If there are some, a pointer that is not null points to so many, which nobody changes for `'a`.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    // SAFETY: it is neither null nor misaligned, and the caller promises the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// As [`slice`], to be written.
///
/// # Safety
/// As of [`slice`], and nobody else uses them.
pub(super) unsafe fn slice_mut<'a, T>(pointer: *mut T, len: usize, name: &str) -> Result<&'a mut [T], Failure> {
    if len == 0 {
        return Ok(&mut []);
    }
    check(pointer, name)?;
    // SAFETY: it is neither null nor misaligned, and the caller promises the rest.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

/// A text.
///
/// # Safety
/// A pointer that is not null points to text that ends with a 0 and that nobody changes for `'a`.
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str, Failure> {
    check(pointer, name)?;
    // SAFETY: it is not null, and the caller promises the rest.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|_| argument(format!("{name} is not UTF-8")))
}

/// Puts a value where a pointer points to.
///
/// # Safety
/// A pointer that is not null points to room for a `T`.
pub(super) unsafe fn put<T>(to: *mut T, value: T, name: &str) -> Result<(), Failure> {
    check(to, name)?;
    // SAFETY: it is neither null nor misaligned, and the caller promises the rest.
    unsafe { to.write(value) };
    Ok(())
}

/// Hands a handle out.
///
/// # Safety
/// As of [`put`].
pub(super) unsafe fn hand_out<T>(to: *mut *mut T, make: impl FnOnce() -> Result<T, Failure>) -> Result<(), Failure> {
    check(to, "out")?;
    let handle = Box::into_raw(Box::new(make()?));
    // SAFETY: as the caller promises.
    unsafe { put(to, handle, "out") }
}

/// Gives a handle back.
///
/// # Safety
/// A pointer that is not null was handed out by [`hand_out`], and is not used any more.
pub(super) unsafe fn take_back<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: it came from a box, and the caller promises the rest.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// The lock of a handle. Error: a call before panicked while it had it.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>, Failure> {
    mutex.lock().map_err(|_| internal("a call before ended by a defect of cusae; destroy this handle"))
}

/// A text to hand out.
pub(super) fn c_text(text: String) -> CString {
    CString::new(text.replace('\0', "\\0")).expect("it holds no 0")
}

/// Error: it is null or misaligned.
pub(super) fn check<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(argument(format!("{name} is a null pointer")));
    }
    if !pointer.is_aligned() {
        return Err(argument(format!("{name} is not aligned to {} bytes", align_of::<T>())));
    }
    Ok(())
}
