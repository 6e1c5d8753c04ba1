//! `cusae train`: a recipe, changed by flags, to a trained SAE, or several, in a run folder.

use super::flags::RecipeFlags;
use super::{stop_on_signals, Common};
use cusae::backend::Backend;
use cusae::config::Sweep;
use cusae::error::{Error, Result};
use cusae::train::plan::{Plan, Rates};
use cusae::train::{self, progress, Options};
use std::path::{Path, PathBuf};

/// What to train on, what with, and where to.
#[derive(clap::Args)]
pub struct Args {
    /// Recipe; keys it does not mention keep their defaults, flags come after it. A list of values, as in
    /// --k 16,32,64, trains several SAEs in one pass over the data.
    #[arg(value_name = "RECIPE.toml")]
    recipe: Option<PathBuf>,
    /// Run folder [default: the first free runs/ARCHITECTURE-N, or runs/sweep-N of several SAEs].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in this folder, with its own recipe.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["recipe", "out", "init", "activations", "no_shuffle"])]
    resume: Option<PathBuf>,
    /// Print what the run will need (memory, disk, time) and do nothing.
    #[arg(long)]
    plan: bool,
    /// Train on stored activations, FILE or FILE:TENSOR or a folder (cached_activations_path).
    #[arg(long, value_name = "FILE_OR_DIR", conflicts_with = "cached_activations_path")]
    activations: Option<String>,
    /// Start from the weights of this SAE, a folder or a name (from_pretrained_path).
    #[arg(long, value_name = "DIR", conflicts_with = "from_pretrained_path")]
    init: Option<String>,
    /// Take stored activations in file order (shuffle = false).
    #[arg(long, conflicts_with = "shuffle")]
    no_shuffle: bool,
    #[command(flatten)]
    flags: RecipeFlags,
}

/// Trains and prints the final table.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let stop = stop_on_signals()?;
    let (sweep, options) = match &args.resume {
        Some(folder) => (sweep_of_run(folder, &args, common)?, Options { out: folder.clone(), resume: true, stop }),
        None => {
            let sweep = args.sweep(common)?;
            let out = run_folder(args.out.as_deref(), &sweep)?;
            (sweep, Options { out, resume: false, stop })
        }
    };
    let rates = if args.plan { Some(Rates::measure(backend)?) } else { None };
    let mut plan = Plan::new(&sweep, backend.memory(), rates)?;
    // What a run that goes on needs is there already, for the most part.
    if !options.resume {
        plan = plan.in_folder(&options.out);
    }
    plan.check()?;
    common.say_device();
    if args.plan {
        return common.print(&plan.measure(backend, &sweep)?);
    }
    let mut reporter = progress::reporter(common.quiet);
    if sweep.is_several() {
        return common.print(&train::run_sweep(backend, &sweep, &options, &mut *reporter)?);
    }
    common.print(&train::run(backend, &sweep.common, &options, &mut *reporter)?)
}

impl Args {
    /// The recipe: defaults, then the file, then flags.
    fn sweep(&self, common: &Common) -> Result<Sweep> {
        let mut sweep = self.recipe.as_deref().map_or_else(|| Ok(Sweep::default()), Sweep::load)?;
        self.flags.apply(&mut sweep)?;
        if let Some(path) = &self.activations {
            sweep.common.cached_activations_path = Some(path.clone());
        }
        if let Some(folder) = &self.init {
            sweep.set_text("from_pretrained_path", folder)?;
        }
        sweep.common.shuffle &= !self.no_shuffle;
        if !common.seeds.is_empty() {
            let seeds: Vec<String> = common.seeds.iter().map(u64::to_string).collect();
            sweep.set_text("seed", &seeds.join(","))?;
        }
        sweep.members()?;
        Ok(sweep)
    }
}

/// The recipe of the run to continue. Errors: there is no run; something would change its recipe.
fn sweep_of_run(folder: &Path, args: &Args, common: &Common) -> Result<Sweep> {
    if let Some(key) = args.flags.keys().next().or((!common.seeds.is_empty()).then_some("seed")) {
        let what = format!(
            "a run goes on with its own recipe; remove this flag or start anew without --resume {}",
            folder.display()
        );
        return Err(Error::config(key, what));
    }
    let path = folder.join("recipe.toml");
    if !path.is_file() {
        let what = format!("{} holds no run to continue (there is no recipe.toml)", folder.display());
        return Err(Error::config("--resume", what));
    }
    Sweep::load(&path)
}

/// The folder of a new run. Error: the one asked for holds a run already.
fn run_folder(asked: Option<&Path>, sweep: &Sweep) -> Result<PathBuf> {
    let Some(folder) = asked else {
        let kind = if sweep.is_several() { "sweep" } else { sweep.common.architecture.name() };
        let numbered = |number: usize| PathBuf::from(format!("runs/{kind}-{number}"));
        return Ok((1..).map(numbered).find(|folder| !folder.exists()).expect("numbers do not end"));
    };
    let holds = ["recipe.toml", "cfg.json"].into_iter().find(|file| folder.join(file).exists());
    match holds {
        Some(file) => {
            let what = format!(
                "{} holds a run already ({file}); name another folder, or continue it with --resume",
                folder.display()
            );
            Err(Error::config("--out", what))
        }
        None => Ok(folder.to_path_buf()),
    }
}
