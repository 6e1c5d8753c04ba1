//! What a finished run tells: how good its SAEs are, how fast they were trained, where the files are.

use crate::error::{Error, Result};
use indicatif::HumanCount;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::{fmt, fs};
use toml::Table;

/// The end of a run of one SAE. As text it is the table that `cusae train` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens of the whole run.
    pub n_training_samples: u64,
    /// Active latents per token, on the evaluation's text; without one, in the last step.
    pub l0: Option<f64>,
    /// Part of the activations' variance that is reconstructed, likewise.
    pub explained_variance: Option<f64>,
    /// Part of the cross-entropy lost by ablating the hook that the SAE keeps, likewise; none where
    /// no language model was run.
    pub ce_loss_score: Option<f64>,
    /// Latents that have not fired for `dead_feature_window` steps.
    pub dead_features: u64,
    /// Number of latents.
    pub d_sae: usize,
    /// Tokens trained on since this start, by the second, all work included; none where no step
    /// was left to do.
    pub tokens_per_second: Option<f64>,
    /// The run folder.
    pub out: PathBuf,
    /// The files written there, relative to it.
    pub files: Vec<String>,
}

/// One of several SAEs at the end of their run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SaeSummary {
    /// Its settings where they differ from others', and its folder in the run's; empty where there is
    /// only one.
    pub name: String,
    /// The same as keys and values.
    pub settings: Table,
    /// Why it was not trained to the end, and is not in its folder, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// As in [`Summary`].
    pub l0: Option<f64>,
    /// As in [`Summary`].
    pub explained_variance: Option<f64>,
    /// As in [`Summary`].
    pub ce_loss_score: Option<f64>,
    /// As in [`Summary`].
    pub dead_features: u64,
    /// Number of latents.
    pub d_sae: usize,
}

/// The end of a run of several SAEs. As text it is the table that `cusae train` prints; `saes` is what
/// `summary.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepSummary {
    /// Steps of the whole run.
    pub steps: u64,
    /// Tokens of the whole run, which every SAE was trained on.
    pub n_training_samples: u64,
    /// As in [`Summary`]: tokens of the stream, each counted once.
    pub tokens_per_second: Option<f64>,
    /// The run folder.
    pub out: PathBuf,
    /// The SAEs, in the order of the recipe.
    pub saes: Vec<SaeSummary>,
}

impl SweepSummary {
    /// Of a run of one SAE. Error: its folder cannot be read.
    pub(super) fn of_one(self) -> Result<Summary> {
        let SweepSummary { steps, n_training_samples, tokens_per_second, out, saes } = self;
        let Some(sae) = saes.into_iter().next() else { unreachable!("a run has at least one SAE") };
        let SaeSummary { l0, explained_variance, ce_loss_score, dead_features, d_sae, .. } = sae;
        Ok(Summary {
            steps,
            n_training_samples,
            l0,
            explained_variance,
            ce_loss_score,
            dead_features,
            d_sae,
            tokens_per_second,
            files: files_of_run(&out)?,
            out,
        })
    }
}

/// What a run of one SAE writes, besides TensorBoard's files.
const FILES: [&str; 8] = [
    "cfg.json",
    "checkpoints",
    "eval.json",
    "metrics.jsonl",
    "recipe.toml",
    "runner_cfg.json",
    "sae_weights.safetensors",
    "sparsity.safetensors",
];

/// Those of a run's files that are there, sorted; a folder may hold others'.
fn files_of_run(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder, "read"))?;
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| FILES.contains(&name.as_str()) || name.starts_with("events.out.tfevents."));
    names.sort();
    Ok(names)
}

fn or_none(value: Option<String>) -> String {
    value.unwrap_or_else(|| "not measured".into())
}

fn with_digits(value: Option<f64>, digits: usize) -> String {
    or_none(value.map(|value| format!("{value:.digits$}")))
}

fn trained(steps: u64, tokens: u64) -> String {
    format!("{} steps, {} tokens", HumanCount(steps), HumanCount(tokens))
}

fn speed(tokens_per_second: Option<f64>) -> String {
    or_none(tokens_per_second.map(|speed| HumanCount(speed as u64).to_string()))
}

fn dead(dead_features: u64, d_sae: usize) -> String {
    format!("{dead_features} of {d_sae} ({:.1} %)", 100.0 * dead_features as f64 / d_sae as f64)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("trained", trained(self.steps, self.n_training_samples)),
            ("L0", with_digits(self.l0, 2)),
            ("explained variance", with_digits(self.explained_variance, 4)),
            ("CE-loss score", with_digits(self.ce_loss_score, 4)),
            ("dead features", dead(self.dead_features, self.d_sae)),
            ("tokens/s", speed(self.tokens_per_second)),
            ("files in", self.out.display().to_string()),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<20}{value}")?;
        }
        self.files.iter().try_for_each(|file| writeln!(f, "{:<20}  {file}", ""))
    }
}

impl fmt::Display for SweepSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trained = trained(self.steps, self.n_training_samples);
        writeln!(f, "{:<20}{trained}, {} SAEs at once", "trained", self.saes.len())?;
        writeln!(f, "{:<20}{}", "tokens/s", speed(self.tokens_per_second))?;
        writeln!(f, "{:<20}{}\n", "files in", self.out.display())?;
        let width = self.saes.iter().map(|sae| sae.name.chars().count()).max().unwrap_or(0);
        let columns = ["L0", "explained variance", "CE-loss score", "dead features"];
        let row = |f: &mut fmt::Formatter<'_>, name: &str, [l0, variance, score, dead]: [&str; 4]| {
            writeln!(f, "{name:<width$}  {l0:>12}  {variance:>18}  {score:>13}  {dead}")
        };
        row(f, "", columns)?;
        for sae in &self.saes {
            if let Some(why) = &sae.stopped {
                writeln!(f, "{:<width$}  stopped: {why}", sae.name)?;
                continue;
            }
            let [l0, variance] = [with_digits(sae.l0, 2), with_digits(sae.explained_variance, 4)];
            let [score, dead] = [with_digits(sae.ce_loss_score, 4), dead(sae.dead_features, sae.d_sae)];
            row(f, &sae.name, [&l0, &variance, &score, &dead])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_what_was_measured() {
        let summary = Summary {
            steps: 1234,
            n_training_samples: 2_527_232,
            l0: Some(31.987),
            explained_variance: Some(0.91234),
            ce_loss_score: None,
            dead_features: 3,
            d_sae: 2048,
            tokens_per_second: Some(54_321.9),
            out: "runs/topk-1".into(),
            files: vec!["cfg.json".into()],
        };
        let table = "trained             1,234 steps, 2,527,232 tokens\n\
                     L0                  31.99\n\
                     explained variance  0.9123\n\
                     CE-loss score       not measured\n\
                     dead features       3 of 2048 (0.1 %)\n\
                     tokens/s            54,321\n\
                     files in            runs/topk-1\n";
        assert_eq!(summary.to_string(), format!("{table}{:22}cfg.json\n", ""));
    }

    #[test]
    fn several_saes_are_rows_of_one_table() {
        let sae = |name: &str, l0| SaeSummary {
            name: name.into(),
            settings: Table::new(),
            stopped: None,
            l0: Some(l0),
            explained_variance: Some(0.91234),
            ce_loss_score: None,
            dead_features: 3,
            d_sae: 2048,
        };
        let summary = SweepSummary {
            steps: 1234,
            n_training_samples: 2_527_232,
            tokens_per_second: None,
            out: "runs/sweep-1".into(),
            saes: vec![
                sae("k=8", 8.0),
                sae("k=16", 15.987),
                SaeSummary { stopped: Some("step 7: the loss is not finite".into()), ..sae("k=32", 0.0) },
            ],
        };
        let table = "trained             1,234 steps, 2,527,232 tokens, 3 SAEs at once\n\
                     tokens/s            not measured\n\
                     files in            runs/sweep-1\n\n\
                     \x20               L0  explained variance  CE-loss score  dead features\n\
                     k=8           8.00              0.9123   not measured  3 of 2048 (0.1 %)\n\
                     k=16         15.99              0.9123   not measured  3 of 2048 (0.1 %)\n\
                     k=32  stopped: step 7: the loss is not finite\n";
        assert_eq!(summary.to_string(), table);
    }
}
