//! The command line: one file per command, flags that look alike, results on stdout and everything
//! else on stderr. Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted after saving.

mod ablate;
mod activations;
mod attribute;
mod bench;
mod compare;
mod convert;
mod dashboard;
mod decode;
mod encode;
mod eval;
mod features;
mod find;
mod flags;
mod info;
mod inputs;
mod list;
mod look;
mod number;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "hub")]
mod push;
mod serve;
mod steer;
mod train;
mod verify;

use anyhow::Context;
use clap::{Parser, Subcommand};
use cusae::backend::{Backend, Device};
use cusae::error::{Error, Result};
use cusae::hub;
use indicatif::{ProgressBar, ProgressStyle};
use number::number;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::cell::OnceCell;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// Trains, evaluates and reads sparse autoencoders on language-model activations.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Compute(Box<Compute>),
    /// Show what this build and this machine can do, and why not.
    Info(info::Args),
    /// Search the SAEs of SAELens' registry by model, hook, width, L0 or name.
    List(list::Args),
    /// Fetch a model, an SAE or a data set of the Hugging Face Hub.
    #[cfg(feature = "hub")]
    Pull(pull::Args),
    /// Upload an SAE to the Hugging Face Hub.
    #[cfg(feature = "hub")]
    Push(push::Args),
    /// Show where a feature fires above a value, from the file beside a dashboard.
    Find(find::Args),
}

/// The commands that need a device.
#[derive(Subcommand)]
enum Compute {
    /// Train a sparse autoencoder; without arguments, on the embedded model and text.
    Train(train::Args),
    /// Evaluate an SAE on a model and a text, by every metric of SAELens.
    Eval(eval::Args),
    /// Run a model over text and write what is at its hooks.
    Activations(activations::Args),
    /// Turn activations in a file into features.
    Encode(encode::Args),
    /// Turn features in a file back into activations.
    Decode(decode::Args),
    /// Show the top features of each token, or where one feature fires.
    Features(features::Args),
    /// Show how much each feature adds to the model's prediction.
    Attribute(attribute::Args),
    /// Show what the model loses when features are set to zero.
    Ablate(ablate::Args),
    /// Generate text with features changed, beside the text without.
    Steer(steer::Args),
    /// Show the features that prompts share, or that set two groups of prompts apart.
    Compare(compare::Args),
    /// Write an SAE in another layout, and compare what it computes before and after.
    Convert(convert::Args),
    /// Check an SAE's files, and with a model what they claim of it.
    Verify(verify::Args),
    /// Read a text and draw a static web page for all features of an SAE.
    Dashboard(dashboard::Args),
    /// Show the dashboard in a browser, with the features of what is typed, and steer.
    Serve(serve::Args),
    /// Time every operation and whole training steps on this machine.
    Bench(bench::Args),
}

fn run(command: Command, common: &Common) -> anyhow::Result<()> {
    match command {
        Command::Info(args) => info::run(args, common),
        Command::List(args) => list::run(args, common),
        #[cfg(feature = "hub")]
        Command::Pull(args) => pull::run(args, common),
        #[cfg(feature = "hub")]
        Command::Push(args) => push::run(args, common),
        Command::Find(args) => find::run(args, common),
        Command::Compute(command) => match common.open_device()? {
            Device::Cpu(cpu) => compute(*command, common, &cpu),
            Device::Native(native) => compute(*command, common, &native),
        },
    }
}

fn compute<B: Backend>(command: Compute, common: &Common, backend: &B) -> anyhow::Result<()> {
    match command {
        Compute::Train(args) => train::run(args, common, backend),
        Compute::Eval(args) => eval::run(args, common, backend),
        Compute::Activations(args) => activations::run(args, common, backend),
        Compute::Encode(args) => encode::run(args, common, backend),
        Compute::Decode(args) => decode::run(args, common, backend),
        Compute::Features(args) => features::run(args, common, backend),
        Compute::Attribute(args) => attribute::run(args, common, backend),
        Compute::Ablate(args) => ablate::run(args, common, backend),
        Compute::Steer(args) => steer::run(args, common, backend),
        Compute::Compare(args) => compare::run(args, common, backend),
        Compute::Convert(args) => convert::run(args, common, backend),
        Compute::Verify(args) => verify::run(args, common, backend),
        Compute::Dashboard(args) => dashboard::run(args, common, backend),
        Compute::Serve(args) => serve::run(args, common, backend),
        Compute::Bench(args) => bench::run(args, common, backend),
    }
}

/// Flags that every command has.
#[derive(clap::Args)]
#[command(next_help_heading = "Common to all commands")]
pub struct Common {
    /// What computes: auto (a GPU if one can be used, else the CPU), cpu, cuda, cuda:N, or, in builds for
    /// tests, emulated.
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Print the result as JSON on stdout, and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress and no messages; errors stay.
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Seed of every random choice [default: the recipe's, 42]; for train also a list, an SAE for each.
    #[arg(long = "seed", global = true, value_name = "N", value_delimiter = ',', value_parser = number::<u64>)]
    pub seeds: Vec<u64>,
    /// Threads to compute with; results do not depend on it [default: all].
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What `auto` has chosen, and why.
    #[arg(skip)]
    chosen: OnceCell<String>,
}

impl Common {
    /// The device that `--device` names. Error: it cannot be used, and why.
    fn open_device(&self) -> Result<Device> {
        if self.device != "auto" {
            return Device::open(&self.device);
        }
        let (device, why) = Device::automatic();
        self.chosen.get_or_init(|| why);
        Ok(device)
    }

    /// Says on stderr what `auto` has chosen, and why. Commands do so once their inputs cannot be refused
    /// any more: who gets an error has nothing of it.
    pub fn say_device(&self) {
        if let (Some(chosen), false) = (self.chosen.get(), self.quiet) {
            eprintln!("{chosen}");
        }
    }

    /// The seed, 42 unless one is given. Error: several are.
    pub fn seed(&self) -> Result<u64> {
        match self.seeds[..] {
            [] => Ok(42),
            [seed] => Ok(seed),
            _ => Err(Error::config("seed", format!("found {:?}, expected one; only train takes several", self.seeds))),
        }
    }

    /// A progress bar over rows; nothing with `--quiet`.
    pub fn bar(&self, rows: usize) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} rows · {eta} left");
        ProgressBar::new(rows as u64).with_style(style.expect("the template is valid"))
    }

    /// Prints a command's result on stdout: as JSON, or as people read it.
    pub fn print(&self, result: &(impl Serialize + Display)) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string_pretty(result)? } else { result.to_string() };
        match writeln!(std::io::stdout(), "{}", text.trim_end()) {
            // Whoever reads has seen enough (`cusae info | head -1`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written.map_err(Error::io("stdout", "write"))?),
        }
    }
}

/// Reads the command line, does what it says, and turns errors into one line and an exit code.
pub fn main() -> ExitCode {
    // Wrong usage ends here with exit code 2, --help and --version with 0.
    let cli = Cli::parse();
    hub::show_progress(!cli.common.quiet);
    let Err(error) = start_threads(&cli.common).and_then(|()| run(cli.command, &cli.common)) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {}", sentence(&error));
    ExitCode::from(error.downcast_ref::<Error>().map_or(1, Error::exit_code))
}

/// Rayon's threads, as many as `--threads` says. Error: the system does not give so many.
fn start_threads(common: &Common) -> anyhow::Result<()> {
    let Some(threads) = common.threads else { return Ok(()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
    pool.build_global().with_context(|| format!("--threads {threads}: cannot start them"))
}

/// Set by the first SIGINT or SIGTERM, which lets the command end as it should; the second one ends the
/// process.
pub fn stop_on_signals() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, stop.clone())?;
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// An error and its causes in one line; what one sentence has already said is not repeated.
fn sentence(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_all_commands_fit_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_that_says_nothing_twice() {
        let source = std::io::Error::other("disk is full");
        let error = anyhow::Error::new(Error::io("a.txt", "write")(source)).context("saving\nthe run");
        assert_eq!(sentence(&error), "saving the run: a.txt: cannot write: disk is full");
    }
}
