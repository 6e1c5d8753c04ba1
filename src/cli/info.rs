//! `cusae info`: what this build and this machine can do, and why not.

use super::Common;
use cusae::backend::{Backend, Native};
use cusae::machine;
use indicatif::BinaryBytes;
use serde::Serialize;
use std::fmt;

/// Why `--device cuda` is refused.
pub fn why_no_cuda() -> String {
    match Native::cuda_devices() {
        Ok(_) => "the kernels of this version do not cover a whole run yet".into(),
        Err(why) => why.to_string(),
    }
}

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
    gpus: Vec<String>,
    why_no_cuda: String,
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
        gpus: Native::cuda_devices().unwrap_or_default().iter().map(ToString::to_string).collect(),
        why_no_cuda: why_no_cuda(),
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
        for gpu in &self.gpus {
            writeln!(f, "GPU           {gpu}")?;
        }
        writeln!(f, "CUDA          no: {}", self.why_no_cuda)
    }
}
