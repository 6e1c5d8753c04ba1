//! `cusae info`: what this build and this machine can do, and why not.

use super::Common;
use cusae::backend::native::{DeviceProperties, Unavailable};
use cusae::backend::{Backend, Device, Native};
use cusae::machine::Machine;
use indicatif::BinaryBytes;
use serde::Serialize;
use std::fmt;

/// There is nothing to choose.
#[derive(clap::Args)]
pub struct Args {}

#[derive(Serialize)]
struct Info {
    version: &'static str,
    target: String,
    devices: Vec<String>,
    device: String,
    #[serde(flatten)]
    machine: Machine,
    cuda: bool,
    gpus: Vec<String>,
    kernels: Vec<&'static str>,
    why_no_cuda: Option<String>,
}

/// Prints what there is.
pub fn run(_: Args, common: &Common) -> anyhow::Result<()> {
    let gpus = Native::cuda_devices();
    let why_no_cuda = Native::cuda(0).err().map(|why| why.to_string());
    let mut devices = vec!["cpu".into()];
    devices.extend(gpus.iter().flatten().flatten().map(|gpu| format!("cuda:{}", gpu.ordinal)));
    devices.extend(cfg!(feature = "emulated").then(|| "emulated".into()));
    common.print(&Info {
        version: env!("CARGO_PKG_VERSION"),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        devices,
        device: match Device::open(&common.device)? {
            Device::Cpu(cpu) => cpu.describe(),
            Device::Native(native) => native.describe(),
        },
        machine: Machine::here(),
        cuda: why_no_cuda.is_none(),
        gpus: gpus.iter().flatten().enumerate().map(described).collect(),
        kernels: Native::targets().to_vec(),
        why_no_cuda,
    })
}

fn described((ordinal, gpu): (usize, &Result<DeviceProperties, Unavailable>)) -> String {
    match gpu {
        Ok(gpu) => format!("{gpu}, {}", gpu.path()),
        Err(why) => format!("number {ordinal} does not answer: {why}"),
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.machine.memory.map_or("unknown".into(), |memory| {
            format!("{} of {} free", BinaryBytes(memory.available), BinaryBytes(memory.total))
        });
        writeln!(f, "cusae {} for {}", self.version, self.target)?;
        writeln!(f, "devices       {}", self.devices.join(", "))?;
        writeln!(f, "used          {}", self.device)?;
        writeln!(f, "CPU           {}", self.machine.cpu.as_deref().unwrap_or("unknown"))?;
        writeln!(f, "CPU features  {}", self.machine.cpu_features.join(", "))?;
        writeln!(f, "memory        {memory}")?;
        for gpu in &self.gpus {
            writeln!(f, "GPU           {gpu}")?;
        }
        if !self.kernels.is_empty() {
            writeln!(f, "kernels       {}", self.kernels.join(", "))?;
        }
        match &self.why_no_cuda {
            None => writeln!(f, "CUDA          yes"),
            Some(why) => writeln!(f, "CUDA          no: {why}"),
        }
    }
}
