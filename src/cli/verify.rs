//! `cusae verify`: whether an SAE's files fit together, and whether it does what they claim.

use super::eval;
use super::Common;
use cusae::backend::Backend;
use cusae::error::Error;
use cusae::formats::SavedSae;
use cusae::hub;
use cusae::sae::inference::Sae;
use cusae::sae::inspect::{inspect, Check};
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// Relative difference of a claim from what is measured that is put down to other text.
const TOLERANCE: f64 = 0.1;

/// What to verify; with a model, also what to measure it on.
#[derive(clap::Args)]
#[group(id = "verify")]
pub struct Args {
    #[command(flatten)]
    eval: eval::Args,
    /// Layout of the SAE [default: what its files show].
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

#[derive(Serialize)]
struct Verdict {
    sae: PathBuf,
    format: &'static str,
    architecture: String,
    d_in: usize,
    d_sae: usize,
    checks: Vec<Check>,
    /// What was measured, and claims of the same.
    measured: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    metric: &'static str,
    measured: f64,
    claimed: Option<f64>,
    agrees: Option<bool>,
}

/// Checks, measures where a model is named, prints. Error: a check failed or a claim does not hold.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let named = hub::sae("--sae", args.eval.sae())?;
    let format = named.layout(args.format.as_deref())?;
    let saved = named.load_as(format)?;
    let path = named.path;
    let checks = inspect(&saved.config, &saved.weights, saved.log_sparsity.as_deref());
    let measured = match args.eval.names_model() {
        true => measure(&args, common, backend, &path, &saved)?,
        false => Vec::new(),
    };
    let failed = checks.iter().filter(|check| !check.passed).count();
    let untrue = measured.iter().filter(|measured| measured.agrees == Some(false)).count();
    common.print(&Verdict {
        sae: path.clone(),
        format,
        architecture: saved.config.architecture_name(),
        d_in: saved.config.d_in,
        d_sae: saved.config.d_sae,
        checks,
        measured,
    })?;
    match failed + untrue {
        0 => Ok(()),
        _ => Err(Error::format(path, format!("{failed} checks failed, {untrue} claims do not hold; see above")).into()),
    }
}

fn measure<B: Backend>(
    args: &Args,
    common: &Common,
    backend: &B,
    path: &Path,
    saved: &SavedSae,
) -> anyhow::Result<Vec<Measured>> {
    let sae = Sae::new(backend, &saved.config, &saved.weights)?;
    let scalars = eval::report(&args.eval, common, backend, &sae)?.scalars();
    let claims = Claims::of(path, saved);
    let compare = |metric: &'static str| {
        let (group, _, measured) = scalars.iter().find(|(_, key, _)| key == metric)?;
        let claimed = claims.get(group, metric);
        let agrees = claimed.map(|claimed| (measured - claimed).abs() <= TOLERANCE * claimed.abs().max(1e-6));
        Some(Measured { metric, measured: *measured, claimed, agrees })
    };
    Ok(["l0", "explained_variance", "mse", "ce_loss_score", "kl_div_score"].into_iter().filter_map(compare).collect())
}

/// What a folder says of its SAE: the metadata of `cfg.json`, and `eval.json` of a run.
struct Claims {
    metadata: Value,
    eval: Option<Value>,
}

impl Claims {
    fn of(path: &Path, saved: &SavedSae) -> Claims {
        // A folder without an eval.json, or with another program's, claims nothing there.
        let eval =
            std::fs::read_to_string(path.join("eval.json")).ok().and_then(|text| serde_json::from_str(&text).ok());
        Claims { metadata: Value::Object(saved.config.metadata.clone()), eval }
    }

    fn get(&self, group: &str, metric: &str) -> Option<f64> {
        let of_eval = self.eval.as_ref().and_then(|eval| eval.get(group)?.get(metric));
        of_eval.or_else(|| self.metadata.get(metric))?.as_f64()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { sae, format, architecture, d_in, d_sae, checks, measured } = self;
        writeln!(f, "{}: {architecture}, {d_in} x {d_sae}, in the layout of {format}", sae.display())?;
        for Check { name, passed, found } in checks {
            writeln!(f, "  {} {name:24}{found}", if *passed { "ok    " } else { "FAILED" })?;
        }
        for Measured { metric, measured, claimed, agrees } in measured {
            let mark = if *agrees == Some(false) { "FAILED" } else { "ok    " };
            let claimed = claimed.map_or_else(|| "not claimed".into(), |claimed| format!("claimed {claimed:.4}"));
            writeln!(f, "  {mark} {metric:24}{measured:.4}, {claimed}")?;
        }
        Ok(())
    }
}
