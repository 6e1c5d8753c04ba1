//! What this machine has: its CPU, threads, memory and disk.

use std::fs;
use std::path::Path;

/// What figures measured on this machine depend on.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Machine {
    /// The CPU's name, where the system tells.
    pub cpu: Option<String>,
    /// Those of its vector instructions that matter here.
    pub cpu_features: Vec<&'static str>,
    /// Threads that rayon computes with.
    pub threads: usize,
    /// Its memory.
    pub memory: Option<Memory>,
}

impl Machine {
    /// This one.
    pub fn here() -> Machine {
        Machine { cpu: cpu_name(), cpu_features: cpu_features(), threads: threads(), memory: memory() }
    }
}

/// As Linux' /proc has it.
fn cpu_name() -> Option<String> {
    parse_cpuinfo(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn parse_cpuinfo(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Threads that rayon computes with.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// CPU time that all threads of this process have taken so far, in seconds.
pub fn cpu_seconds() -> f64 {
    // SAFETY: numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` can be written; asked for the process itself, the call cannot fail.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// What a process may use at most: the machine's memory, or its control group's limit.
    pub total: u64,
    /// What of that is free now.
    pub available: u64,
}

/// The machine's memory, where the system tells (Linux' /proc and control groups).
pub fn memory() -> Option<Memory> {
    let machine = parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let (Some(limit), Some(used)) = (group("memory.max"), group("memory.current")) else {
        return Some(machine);
    };
    Some(Memory { total: machine.total.min(limit), available: machine.available.min(limit.saturating_sub(used)) })
}

fn parse_meminfo(text: &str) -> Option<Memory> {
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(Memory { total: 1024 * kibibytes("MemTotal")?, available: 1024 * kibibytes("MemAvailable")? })
}

/// Bytes that can still be written into a folder, or, while it is not there, into the one that it would
/// be made in; where the system tells.
pub fn free_disk(folder: &Path) -> Option<u64> {
    let folder = std::path::absolute(folder).ok()?;
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// The vector instructions of this CPU that matter here.
pub fn cpu_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),+) => {
                $(if std::arch::is_x86_feature_detected!($name) {
                    features.push($name);
                })+
            };
        }
        detect!("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni");
        if crate::backend::cpu::amx::is_available() {
            features.push("amx");
        }
    }
    #[cfg(target_arch = "aarch64")]
    features.push("neon");
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named_as_the_system_does() {
        let text = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nstepping\t: 8\nmodel name\t: B\n";
        assert_eq!(parse_cpuinfo(text).as_deref(), Some("Intel(R) Xeon(R) Processor"));
        assert_eq!(parse_cpuinfo("processor\t: 0\n"), None);
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = cpu_seconds();
        let sum = (0..30_000_000u64).fold(0u64, |sum, n| std::hint::black_box(sum ^ n.wrapping_mul(sum | 1)));
        let taken = cpu_seconds() - before;
        assert!(taken > 1e-3 && taken < 60.0, "{taken} {sum}");
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24576000 kB\nMemFree:          100 kB\nMemAvailable:   12288000 kB\n";
        assert_eq!(parse_meminfo(text), Some(Memory { total: 24_576_000 * 1024, available: 12_288_000 * 1024 }));
        assert_eq!(parse_meminfo("MemTotal: 5 kB\n"), None);
        assert_eq!(parse_meminfo(""), None);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_of_the_one_around_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_disk(&folder.path().join("a/b")).unwrap() > 0);
    }
}
