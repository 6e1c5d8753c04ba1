//! `cusae info`: what this build and this machine can do, and why not.

use super::Common;
use cusae::backend::Backend;
use cusae::machine;
use indicatif::BinaryBytes;
use serde::Serialize;
use std::fmt;

/// Why `--device cuda` is refused.
pub const WHY_NO_CUDA: &str = "this build has no CUDA: its kernels are not part of this version yet";

/// There is nothing to choose.
#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    target: String,
    devices: Vec<&'static str>,
    device: String,
    cpu_features: Vec<&'static str>,
    threads: usize,
    memory: Option<machine::Memory>,
    cuda: bool,
    why_no_cuda: &'static str,
}

/// Prints what there is.
pub fn run(_: Args, common: &Common) -> anyhow::Result<()> {
    common.print(&Info {
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        devices: vec!["cpu"],
        device: common.backend()?.describe(),
        cpu_features: machine::cpu_features(),
        threads: machine::threads(),
        memory: machine::memory(),
        cuda: false,
        why_no_cuda: WHY_NO_CUDA,
    })
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory.map_or("unknown".into(), |memory| {
            format!("{} of {} free", BinaryBytes(memory.available), BinaryBytes(memory.total))
        });
        writeln!(f, "cusae {} for {}", self.version, self.target)?;
        writeln!(f, "devices       {}", self.devices.join(", "))?;
        writeln!(f, "used          {}", self.device)?;
        writeln!(f, "CPU features  {}", self.cpu_features.join(", "))?;
        writeln!(f, "memory        {memory}")?;
        writeln!(f, "CUDA          no: {}", self.why_no_cuda)
    }
}
