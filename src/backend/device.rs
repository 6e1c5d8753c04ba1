//! Devices by the names that users give them: `auto`, `cpu`, `cuda`, `cuda:N`, `emulated`.

use super::{Cpu, Native};
use crate::error::{Error, Result};

/// What computes. Whoever has one matches once and is generic from there on.
pub enum Device {
    /// The CPU of this machine.
    Cpu(Cpu),
    /// The kernels of `cuda/`, on a GPU or in the emulator.
    Native(Native),
}

impl Device {
    /// Every name, for people.
    pub const NAMES: &str = "auto, cpu, cuda, cuda:N or emulated";

    /// The device of this name; `auto` is [`Device::automatic`]. Errors: there is no such name; the
    /// device cannot be used, and why.
    pub fn open(name: &str) -> Result<Device> {
        let refuse = |what: String| Error::Device { device: name.into(), what };
        let cuda = |ordinal| match Native::cuda(ordinal) {
            Ok(gpu) => Ok(Device::Native(gpu)),
            Err(why) => Err(refuse(format!("{why}; use cpu"))),
        };
        match (name, name.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Device::automatic().0),
            ("cpu", _) => Ok(Device::Cpu(Cpu)),
            ("cuda", _) => cuda(0),
            ("emulated", _) => emulated().map_err(refuse),
            (_, Some(Ok(ordinal))) => cuda(ordinal),
            _ => Err(refuse(format!("there is no such device; use {}", Device::NAMES))),
        }
    }

    /// The first GPU, which CUDA says is the fastest, if it can be used, or else the CPU; and which
    /// of the two, and why, in a sentence.
    pub fn automatic() -> (Device, String) {
        match Native::cuda(0) {
            Ok(gpu) => {
                let why = format!("computing on {}", gpu.properties());
                (Device::Native(gpu), why)
            }
            Err(why) => (Device::Cpu(Cpu), format!("computing on the CPU: {why}")),
        }
    }
}

#[cfg(feature = "emulated")]
fn emulated() -> std::result::Result<Device, String> {
    Native::emulated().map(Device::Native).map_err(|why| why.to_string())
}

#[cfg(not(feature = "emulated"))]
fn emulated() -> std::result::Result<Device, String> {
    Err("the emulator of the CUDA kernels, a tool for tests, is not in this build; \
         build with cargo build --features emulated"
        .into())
}
