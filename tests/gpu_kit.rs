//! The tests that the GPU kit takes along, in one program, so that it holds the library once.

// Each of the files is a program of its own, too, and says itself what it needs.
#![allow(clippy::duplicate_mod)]

#[path = "gpt2_native.rs"]
mod gpt2_native;
#[path = "kernels.rs"]
mod kernels;
#[path = "refusals.rs"]
mod refusals;
#[path = "training_traces.rs"]
mod training_traces;
