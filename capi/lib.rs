//! `libcusae.so` and `libcusae.a`: the C interface of `include/cusae.h`, which `cusae::capi` implements.
//!
//! A crate of its own, so that building and testing cusae does not link libraries that are not asked for, and
//! so that Cargo keeps the builds of cusae with different features apart, which it does not for libraries with
//! C's names.

pub use engine::capi::*;
