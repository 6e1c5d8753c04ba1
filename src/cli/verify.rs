//! `cusae verify`: whether an SAE's files fit together, and whether it does what they claim.

use super::eval;
use super::Common;
use cusae::backend::Backend;
use cusae::error::Error;
use cusae::formats::{saelens, SavedSae};
use cusae::hub::{self, NamedSae};
use cusae::registry::RegisteredSae;
use cusae::sae::inference::Sae;
use cusae::sae::inspect::{inspect, Check};
use safetensors::Dtype;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// Relative difference of a claim from what is measured that is put down to other text.
const TOLERANCE: f64 = 0.1;
/// Scores, 1 at best, are compared as if they were no less than this: a weak SAE's differ more from text to text.
const LEAST_SCORE: f64 = 0.5;

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
    /// What SAELens' registry says; on which text is not known, so nothing has to agree with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<f64>,
}

/// Checks, measures where a model is named, prints. Error: a check failed or a claim does not hold.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let named = hub::sae("--sae", args.eval.sae())?;
    let format = named.layout(args.format.as_deref())?;
    let saved = named.load_as(format)?;
    let mut checks = inspect(&saved.config, &saved.weights, saved.log_sparsity.as_deref());
    if format == "sae_lens" {
        checks.push(dtypes(&saelens::stored_dtypes(&named.path)?, &saved));
    }
    let measured = match args.eval.names_model() {
        true => measure(&args, common, backend, &named, &saved)?,
        false => Vec::new(),
    };
    let failed = checks.iter().filter(|check| !check.passed).count();
    let untrue = measured.iter().filter(|measured| measured.agrees == Some(false)).count();
    common.print(&Verdict {
        sae: named.path.clone(),
        format,
        architecture: saved.config.architecture_name(),
        d_in: saved.config.d_in,
        d_sae: saved.config.d_sae,
        checks,
        measured,
    })?;
    match failed + untrue {
        0 => Ok(()),
        _ => {
            Err(Error::format(named.path, format!("{failed} checks failed, {untrue} claims do not hold; see above"))
                .into())
        }
    }
}

fn measure<B: Backend>(
    args: &Args,
    common: &Common,
    backend: &B,
    named: &NamedSae,
    saved: &SavedSae,
) -> anyhow::Result<Vec<Measured>> {
    let sae = Sae::new(backend, &saved.config, &saved.weights)?;
    let scalars = eval::report(&args.eval, common, backend, &sae)?.scalars();
    let claims = Claims::of(named, saved);
    let compare = |metric: &'static str| {
        let (group, _, measured) = scalars.iter().find(|(_, key, _)| key == metric)?;
        // How many latents seem dead depends on how much is read.
        let claimed = claims.get(group, metric).filter(|_| metric != "dead_features");
        let agrees = claimed.map(|claimed| agrees(metric, *measured, claimed));
        Some(Measured { metric, measured: *measured, claimed, agrees, published: claims.published(metric) })
    };
    let metrics = ["l0", "explained_variance", "mse", "ce_loss_score", "kl_div_score", "dead_features"];
    Ok(metrics.into_iter().filter_map(compare).collect())
}

/// Whether other text may explain how far a claim is from what is measured.
fn agrees(metric: &str, measured: f64, claimed: f64) -> bool {
    let is_score = metric.ends_with("_score") || metric == "explained_variance";
    let least = if is_score { LEAST_SCORE } else { 1e-6 };
    (measured - claimed).abs() <= TOLERANCE * claimed.abs().max(least)
}

/// Whether the weights are stored as precisely as the configuration says. Thresholds are float32 in SAEs of
/// any dtype, as SAELens trains them.
fn dtypes(stored: &[(String, Dtype)], saved: &SavedSae) -> Check {
    let said = saved.config.dtype;
    let other = |(name, dtype): &&(String, Dtype)| *dtype != said && !name.contains("threshold");
    let (passed, found) = match stored.iter().find(other) {
        None => (true, format!("{said:?}")),
        Some((name, dtype)) => (false, format!("{name} is stored as {dtype:?}, cfg.json says {said:?}")),
    };
    Check { name: "dtypes", passed, found }
}

/// What a folder says of its SAE: the metadata of `cfg.json`, and `eval.json` of a run; and what the registry
/// says.
struct Claims {
    metadata: Value,
    eval: Option<Value>,
    registered: Option<&'static RegisteredSae>,
}

impl Claims {
    fn of(named: &NamedSae, saved: &SavedSae) -> Claims {
        // A folder without an eval.json, or with another program's, claims nothing there.
        let text = std::fs::read_to_string(named.path.join("eval.json")).ok();
        Claims {
            metadata: Value::Object(saved.config.metadata.clone()),
            eval: text.and_then(|text| serde_json::from_str(&text).ok()),
            registered: named.registered.map(|(_, sae)| sae),
        }
    }

    fn published(&self, metric: &str) -> Option<f64> {
        match metric {
            "l0" => self.registered?.l0,
            "explained_variance" => self.registered?.variance_explained,
            _ => None,
        }
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
        for Measured { metric, measured, claimed, agrees, published } in measured {
            let mark = if *agrees == Some(false) { "FAILED" } else { "ok    " };
            let claimed = claimed.map_or_else(|| "not claimed".into(), |claimed| format!("claimed {claimed:.4}"));
            let published = published.map_or(String::new(), |published| format!(", published as {published}"));
            writeln!(f, "  {mark} {metric:24}{measured:.4}, {claimed}{published}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::agrees;

    #[test]
    fn a_claim_may_be_a_tenth_off_and_a_weak_score_a_tenth_of_a_half() {
        assert!(agrees("l0", 21.9, 20.0) && !agrees("l0", 22.1, 20.0));
        assert!(agrees("ce_loss_score", 0.82, 0.9) && !agrees("ce_loss_score", 0.8, 0.9));
        assert!(agrees("explained_variance", 0.145, 0.19) && !agrees("explained_variance", 0.13, 0.19));
    }
}
