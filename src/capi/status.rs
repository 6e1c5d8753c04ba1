//! From Rust's errors and panics to C's numbers and text.

use crate::error::Error;
use std::cell::RefCell;
use std::ffi::{c_char, c_int, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// `enum cusae_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A null pointer, a number that does not fit, text that is not UTF-8.
    Argument = 1,
    /// A setting that cannot be used.
    Config = 2,
    /// A file or folder could not be opened, read, written, or fetched.
    Io = 3,
    /// A file holds something else than it should.
    Format = 4,
    /// Sizes that do not fit together.
    Shape = 5,
    /// A device cannot be used.
    Device = 6,
    /// A device failed.
    Kernel = 7,
    /// Training met a number that is infinite or none.
    NonFinite = 8,
    /// A defect of this library.
    Internal = 9,
}

/// Why a call did not do what it should.
pub(super) struct Failure {
    status: Status,
    text: String,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } | Error::Hub { .. } => Status::Io,
            Error::Format { .. } => Status::Format,
            Error::Config { .. } => Status::Config,
            Error::Shape { .. } => Status::Shape,
            Error::Kernel { .. } => Status::Kernel,
            Error::Device { .. } => Status::Device,
            Error::NonFinite(_) => Status::NonFinite,
            // Only whole runs are interrupted, and there are none here.
            Error::Interrupted(_) => Status::Internal,
        };
        Failure { status, text: error.to_string() }
    }
}

/// A failure that is the caller's.
pub(super) fn argument(text: impl Into<String>) -> Failure {
    Failure { status: Status::Argument, text: text.into() }
}

/// A failure that is this library's.
pub(super) fn internal(text: impl Into<String>) -> Failure {
    Failure { status: Status::Internal, text: text.into() }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// See `include/cusae.h`.
#[no_mangle]
pub extern "C" fn cusae_error_text() -> *const c_char {
    LAST.with_borrow(|text| text.as_ptr())
}

/// Does the work of a function and answers as C wants it.
pub(super) fn answer(work: impl FnOnce() -> Result<(), Failure>) -> c_int {
    let done = catch_unwind(AssertUnwindSafe(work));
    let Failure { status, text } = match done {
        Ok(Ok(())) => return Status::Ok as c_int,
        Ok(Err(failure)) => failure,
        Err(_) => internal("a defect of cusae ended this call; please report what led to it"),
    };
    // A text that C could not see the end of: names may hold anything.
    let text = CString::new(text.replace('\0', "\\0")).expect("it holds no 0");
    LAST.set(text);
    status as c_int
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn text() -> String {
        // SAFETY: the text ends with a 0 and belongs to this thread.
        unsafe { CStr::from_ptr(cusae_error_text()) }.to_str().unwrap().to_string()
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        assert_eq!(text(), "");
        assert_eq!(answer(|| panic!("on purpose: the test of panics")), Status::Internal as c_int);
        assert_eq!(text(), "a defect of cusae ended this call; please report what led to it");
    }

    #[test]
    fn the_text_is_of_the_last_failure_of_this_thread() {
        let fail = |what: &str| answer(|| Err(Error::config("k", what).into()));
        assert_eq!(fail("first"), Status::Config as c_int);
        std::thread::scope(|scope| scope.spawn(|| assert_eq!(text(), "")).join().unwrap());
        fail("se\0cond");
        assert_eq!(answer(|| Ok(())), 0);
        assert_eq!(text(), "k: se\\0cond");
    }
}
