//! `cusae convert`: an SAE from one layout to another, and how close what is written computes to what
//! was read.

use super::inputs::Rows;
use super::Common;
use cusae::backend::Backend;
use cusae::error::{Error, Result};
use cusae::formats::{self, SavedSae};
use cusae::hub;
use cusae::random::{Random, Stream};
use cusae::sae::config::InferenceArchitecture;
use cusae::sae::features::SparseFeatures;
use cusae::sae::forms;
use cusae::sae::inference::Sae;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Rows that parity is measured on.
const ROWS: usize = 1024;
/// How many of them are made up where none are given.
const MADE_UP: usize = 256;

/// What to convert, and to what.
#[derive(clap::Args)]
pub struct Args {
    /// The SAE: a folder or file, RELEASE:ID, or REPOSITORY:PATH of the Hub.
    #[arg(long, value_name = "SAE")]
    from: String,
    /// Its layout [default: what its files show].
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Layout to write; jumprelu is SAELens' layout, and the JumpReLU form of the SAE.
    #[arg(long, value_name = "FORMAT", value_parser = clap::builder::PossibleValuesParser::new(formats::WRITTEN))]
    to: String,
    /// Folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Activations [.., d_in] for the comparison, of which the first 1024 rows are taken: FILE or
    /// FILE:TENSOR [default: 256 random rows].
    #[arg(long, value_name = "FILE[:TENSOR]")]
    activations: Option<String>,
}

/// Before and after, on the same rows.
#[derive(Serialize)]
struct Report {
    out: PathBuf,
    from: &'static str,
    to: String,
    architecture_before: String,
    architecture_after: String,
    rows: usize,
    rows_are: &'static str,
    /// Active latents of a row.
    l0_before: f64,
    l0_after: f64,
    /// Entries that are active in one and not in the other.
    active_in_one_only: usize,
    /// Largest difference of a reconstructed value.
    largest_difference: f64,
    /// `|after - before| / |before|` over all rows.
    relative_difference: f64,
    /// Mean `|x - x_hat|²`, where the rows are activations and are reconstructed.
    mse_before: Option<f64>,
    mse_after: Option<f64>,
}

/// Converts, reads what was written, and compares.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let named = hub::sae("--from", &args.from)?;
    let from = named.layout(args.format.as_deref())?;
    let before = named.load_as(from)?;
    let d_in = before.config.d_in;
    let x = match &args.activations {
        Some(name) => {
            let rows = Rows::open(name, &Vec::from_iter(before.config.hook_name()), d_in)?;
            rows.read(0, ROWS.min(rows.count))?
        }
        None => random_rows(d_in, common.seed()?),
    };
    let mut converted = before.clone();
    if args.to == "jumprelu" {
        let threshold = args.activations.as_ref().and(topk_threshold(backend, &before, &x)?);
        forms::to_jumprelu(&mut converted.config, &mut converted.weights, threshold)?;
    }
    formats::save(&args.out, &converted, &args.to)?;
    let after = formats::load(&written(&args), None)?;
    common.say_device();
    let [a, b] = [compute(backend, &before, &x)?, compute(backend, &after, &x)?];
    let rows = x.len() / d_in;
    let compares = args.activations.is_some() && before.config.transcoder.is_none();
    let mse = |computed: &Computed| compares.then(|| squares(&computed.reconstruction, &x) / rows as f64);
    common.print(&Report {
        from,
        to: args.to.clone(),
        architecture_before: before.config.architecture_name(),
        architecture_after: after.config.architecture_name(),
        rows,
        rows_are: if args.activations.is_some() { "activations" } else { "random" },
        l0_before: a.features.indices().len() as f64 / rows as f64,
        l0_after: b.features.indices().len() as f64 / rows as f64,
        active_in_one_only: a.active_in_one_only(&b),
        largest_difference: largest_difference(&a.reconstruction, &b.reconstruction),
        relative_difference: relative_difference(&a.reconstruction, &b.reconstruction),
        mse_before: mse(&a),
        mse_after: mse(&b),
        out: args.out,
    })
}

/// OpenAI's layout is a file.
fn written(args: &Args) -> PathBuf {
    match args.to.as_str() {
        "openai" => args.out.join(formats::openai::FILE),
        _ => args.out.clone(),
    }
}

/// Rows of values uniform in ±sqrt(3), of variance 1.
fn random_rows(d_in: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed, Stream::Weights, 0);
    (0..MADE_UP * d_in).map(|_| (random.uniform() * 2.0 - 1.0) * 3f32.sqrt()).collect()
}

struct Computed {
    features: SparseFeatures,
    reconstruction: Vec<f32>,
}

impl Computed {
    fn active_in_one_only(&self, other: &Computed) -> usize {
        let only_in = |a: &[u32], b: &[u32]| a.iter().filter(|latent| !b.contains(latent)).count();
        let rows = (0..self.features.rows()).map(|row| (self.features.row(row).0, other.features.row(row).0));
        rows.map(|(a, b)| only_in(a, b) + only_in(b, a)).sum()
    }
}

fn compute<B: Backend>(backend: &B, saved: &SavedSae, x: &[f32]) -> Result<Computed> {
    let sae = Sae::new(backend, &saved.config, &saved.weights)?;
    let rows = x.len() / saved.config.d_in;
    let mut pass = sae.pass(rows)?;
    // Whether the rows are one text does not matter where two SAEs are compared on them.
    pass.set_context(rows);
    pass.forward(&sae, &backend.upload(x)?, rows)?;
    let mut reconstruction = vec![0.0; rows * saved.config.d_out()];
    backend.read(pass.reconstruction(), 0, &mut reconstruction)?;
    Ok(Computed { features: pass.features(&sae)?, reconstruction })
}

/// The threshold above which, on these rows, a TopK SAE has as many active latents as TopK selects;
/// none for other SAEs.
fn topk_threshold<B: Backend>(backend: &B, saved: &SavedSae, x: &[f32]) -> Result<Option<f32>> {
    let InferenceArchitecture::TopK { .. } = saved.config.architecture else { return Ok(None) };
    let selected = compute(backend, saved, x)?.features.indices().len();
    let mut all = saved.clone();
    forms::without_rescaling(&mut all.config, &mut all.weights);
    all.config.architecture = InferenceArchitecture::Standard;
    let mut values = compute(backend, &all, x)?.features.values().to_vec();
    values.sort_by(|a, b| b.total_cmp(a));
    let rest = values.get(selected).copied().unwrap_or(0.0);
    match values.get(selected.wrapping_sub(1)) {
        Some(&last) => Ok(Some((last + rest) / 2.0)),
        None => Err(Error::config("--activations", "no latent is active on these rows; give others")),
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

fn relative_difference(before: &[f32], after: &[f32]) -> f64 {
    let norm = before.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
    if norm == 0.0 {
        return squares(before, after).sqrt();
    }
    (squares(before, after) / norm).sqrt()
}

fn squares(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}) → {} ({}): {}",
            self.from,
            self.architecture_before,
            self.to,
            self.architecture_after,
            self.out.display()
        )?;
        writeln!(
            f,
            "on {} rows of {}:",
            self.rows,
            if self.rows_are == "random" { "random numbers" } else { "activations" }
        )?;
        writeln!(
            f,
            "  active latents of a row  {:.2} before, {:.2} after; {} in one only",
            self.l0_before, self.l0_after, self.active_in_one_only
        )?;
        writeln!(
            f,
            "  reconstructions          differ by at most {:.2e}, {:.2e} of their norm",
            self.largest_difference, self.relative_difference
        )?;
        if let (Some(before), Some(after)) = (self.mse_before, self.mse_after) {
            writeln!(f, "  squared error            {before:.6} before, {after:.6} after")?;
        }
        Ok(())
    }
}
