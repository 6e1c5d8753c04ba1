//! `cusae bench`: the speed of every operation and of whole steps on this machine.

use super::number::number;
use super::Common;
use cusae::backend::Backend;
use cusae::bench::{table, Bench, Ceilings, Outcome, Report, Row, Sampling, Sizes};
use cusae::error::{Error, Result};
use std::time::{Duration, Instant};

/// What to time.
#[derive(clap::Args)]
pub struct Args {
    /// The model and SAE that sizes are taken from: small (embedded), gpt2 or gemma; contexts is GPT-2 at many.
    #[arg(long, value_name = "NAME", default_value = "gpt2", value_parser = Sizes::ALL.map(|sizes| sizes.name))]
    sizes: String,
    /// Only operations whose name contains this, such as encode or step.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Few samples, for a first look.
    #[arg(long)]
    quick: bool,
    /// Begin no more rows after so long; they are listed as not measured.
    #[arg(long, value_name = "N", value_parser = number::<u64>)]
    seconds: Option<u64>,
}

/// Times and prints the table.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let begun = Instant::now();
    let sizes = Sizes::named(&args.sizes).expect("clap allows no other");
    let rows = args.rows::<B>(&sizes)?;
    common.say_device();
    let bar = common.bar(rows.len());
    let mut bench = Bench::new(backend, if args.quick { Sampling::QUICK } else { Sampling::THOROUGH })?;
    let ceilings = Ceilings::measure(&mut bench, &sizes)?;
    let mut report = Report::new(backend, &sizes, ceilings);
    for row in &rows {
        let late = args.seconds.is_some_and(|seconds| begun.elapsed() >= Duration::from_secs(seconds));
        report.rows.push(match late {
            true => Outcome::skipped(row, "no time was left".into()),
            false => bench.measure(row, &ceilings)?,
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    common.print(&report)
}

impl Args {
    /// The rows asked for. Error: no name contains the filter's.
    fn rows<B: Backend>(&self, sizes: &Sizes) -> Result<Vec<Row<B>>> {
        let mut rows = table::<B>(sizes);
        let mut names: Vec<_> = rows.iter().map(|row| row.operation).collect();
        names.dedup();
        if let Some(filter) = &self.filter {
            rows.retain(|row| row.operation.contains(filter));
            if rows.is_empty() {
                let what = format!("no operation's name contains {filter}; there are {}", names.join(", "));
                return Err(Error::config("--filter", what));
            }
        }
        Ok(rows)
    }
}
