//! The SAE's operations: Rust's arguments as C's. What they mean is said in `backend/sae_ops` and in
//! `cuda/api.h`, whose names they share.

mod activation;
mod decode;
mod encode;
mod gradient;
mod lists;
mod rows;

pub(super) use activation::*;
pub(super) use decode::*;
pub(super) use encode::*;
pub(super) use gradient::*;
pub(super) use lists::*;
pub(super) use rows::*;
