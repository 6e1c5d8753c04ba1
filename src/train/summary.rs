//! What a finished run tells: how good the SAE is, how fast it was trained, where the files are.

use indicatif::HumanCount;
use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// The end of a run. As text it is the table that `cusae train` prints.
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

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dead_percent = 100.0 * self.dead_features as f64 / self.d_sae as f64;
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "not measured".into());
        let with_digits = |value: Option<f64>, digits| or_none(value.map(|value| format!("{value:.digits$}")));
        let speed = self.tokens_per_second.map(|speed| HumanCount(speed as u64).to_string());
        let tokens = HumanCount(self.n_training_samples);
        let rows = [
            ("trained", format!("{} steps, {tokens} tokens", HumanCount(self.steps))),
            ("L0", with_digits(self.l0, 2)),
            ("explained variance", with_digits(self.explained_variance, 4)),
            ("CE-loss score", with_digits(self.ce_loss_score, 4)),
            ("dead features", format!("{} of {} ({dead_percent:.1} %)", self.dead_features, self.d_sae)),
            ("tokens/s", or_none(speed)),
            ("files in", self.out.display().to_string()),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<20}{value}")?;
        }
        self.files.iter().try_for_each(|file| writeln!(f, "{:<20}  {file}", ""))
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
}
