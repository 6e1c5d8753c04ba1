//! The table of results, for people and as JSON.

use super::measure::Times;
use super::{Ceilings, Row, Sizes};
use crate::backend::Backend;
use crate::date;
use crate::machine::Machine;
use indicatif::HumanCount;
use serde::Serialize;
use std::fmt;

/// How fast a row was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Median of the samples, in seconds.
    pub seconds: f64,
    /// The fastest sample.
    pub fastest: f64,
    /// The slowest sample.
    pub slowest: f64,
    /// Median of the CPU time that all threads took together, in seconds; on a GPU that of its host.
    pub cpu_seconds: f64,
    /// How many.
    pub samples: usize,
    /// Floating-point operations of products by the second, in units of 10⁹.
    pub gflop_per_second: f64,
    /// Bytes by the second, in units of 10⁹.
    pub gb_per_second: f64,
    /// Tokens by the second, of whole steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// The shortest possible time by the measured one.
    pub percent_of_ceiling: f64,
    /// Which ceiling makes most of the shortest possible time: `product` or `copy`.
    pub limit: &'static str,
}

impl Measured {
    pub(super) fn new<B: Backend>(row: &Row<B>, times: Times, ceilings: &Ceilings) -> Measured {
        let (work, seconds) = (row.work(), times.median);
        let shortest: f64 = row.parts.iter().map(|part| part.shortest(ceilings)).sum();
        let products: f64 = row.parts.iter().map(|part| part.product_seconds(ceilings)).sum();
        Measured {
            seconds,
            fastest: times.fastest,
            slowest: times.slowest,
            cpu_seconds: times.cpu,
            samples: times.samples,
            gflop_per_second: (work.flops + work.bf16_flops) as f64 / seconds / 1e9,
            gb_per_second: work.bytes as f64 / seconds / 1e9,
            tokens_per_second: row.tokens.map(|tokens| tokens as f64 / seconds),
            percent_of_ceiling: 100.0 * shortest / seconds,
            limit: if products > shortest / 2.0 { "product" } else { "copy" },
        }
    }
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The row's operation.
    pub operation: &'static str,
    /// Its dimensions.
    pub size: String,
    /// Its floating-point operations.
    pub flops: u64,
    /// Its bytes.
    pub bytes: u64,
    /// How fast it was.
    #[serde(flatten)]
    pub measured: Option<Measured>,
    /// Or why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

impl Outcome {
    fn new<B: Backend>(row: &Row<B>, measured: Option<Measured>, skipped: Option<String>) -> Outcome {
        let work = row.work();
        let (operation, size) = (row.operation, row.size.clone());
        Outcome { operation, size, flops: work.flops, bytes: work.bytes, measured, skipped }
    }

    pub(super) fn measured<B: Backend>(row: &Row<B>, measured: Measured) -> Outcome {
        Outcome::new(row, Some(measured), None)
    }

    /// A row that was not measured, and why.
    pub fn skipped<B: Backend>(row: &Row<B>, why: String) -> Outcome {
        Outcome::new(row, None, Some(why))
    }
}

/// The whole table. benches/results/README.md describes its JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The version of this program.
    pub version: &'static str,
    /// What it was compiled from, where CUSAE_COMMIT said so to the compiler.
    pub commit: Option<&'static str>,
    /// When the table was begun, in UTC.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Where it ran.
    pub machine: Machine,
    /// What computed.
    pub device: String,
    /// The name of the sizes.
    pub sizes: &'static str,
    /// What percentages refer to.
    pub ceilings: Ceilings,
    /// The rows, in the order of the trait.
    pub rows: Vec<Outcome>,
}

impl Report {
    /// A table without rows yet.
    pub fn new<B: Backend>(backend: &B, sizes: &Sizes, ceilings: Ceilings) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("CUSAE_COMMIT"),
            date: date::now(),
            command: command(std::env::args()),
            machine: Machine::here(),
            device: backend.describe(),
            sizes: sizes.name,
            ceilings,
            rows: Vec::new(),
        }
    }
}

/// A command line, the program without its folder.
fn command(mut words: impl Iterator<Item = String>) -> String {
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [copy, product, bf16] = self.ceilings.rates().map(|rate| rate / 1e9);
        writeln!(f, "device    {}", self.device)?;
        writeln!(f, "ceilings  copy {copy:.1} GB/s, product {product:.1} GFLOP/s, of bf16 {bf16:.1} GFLOP/s")?;
        writeln!(f, "sizes     {}\n", self.sizes)?;
        let width = self.rows.iter().map(|row| row.size.chars().count()).max().unwrap_or(0);
        writeln!(f, "{:<22} {:<width$} {:>10} {:>16} {:>6}", "operation", "size", "time", "rate", "%")?;
        for Outcome { operation, size, measured, skipped, .. } in &self.rows {
            write!(f, "{operation:<22} {size:<width$} ")?;
            match measured {
                Some(m) => writeln!(f, "{:>10} {:>16} {:>6.1}", time(m.seconds), m.rate(), m.percent_of_ceiling)?,
                None => writeln!(f, "{}", skipped.as_deref().unwrap_or_default())?,
            }
        }
        writeln!(f, "\n%: the shortest time that the ceilings allow, by the median measured with cold caches")
    }
}

impl Measured {
    /// Tokens where it is a whole step, else in the unit of what limits it.
    fn rate(&self) -> String {
        match (self.tokens_per_second, self.limit) {
            (Some(tokens), _) => format!("{} tokens/s", HumanCount(tokens as u64)),
            (None, "product") => format!("{:.1} GFLOP/s", self.gflop_per_second),
            (None, _) => format!("{:.1} GB/s", self.gb_per_second),
        }
    }
}

/// Seconds with three or four digits and a unit.
fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.3} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}
