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
    /// Active latents per token, on the evaluation's text.
    pub l0: f64,
    /// Part of the activations' variance that is reconstructed, likewise.
    pub explained_variance: f64,
    /// Part of the cross-entropy lost by ablating the hook that the SAE keeps, likewise; none where
    /// no language model was run.
    pub ce_loss_score: Option<f64>,
    /// Latents that have not fired for `dead_feature_window` steps.
    pub dead_features: u64,
    /// Number of latents.
    pub d_sae: usize,
    /// Tokens trained on since this start, by the second, all work included.
    pub tokens_per_second: f64,
    /// The run folder.
    pub out: PathBuf,
    /// The files written there, relative to it.
    pub files: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dead_percent = 100.0 * self.dead_features as f64 / self.d_sae as f64;
        let ce_loss_score = self.ce_loss_score.map_or("not measured".into(), |score| format!("{score:.4}"));
        let tokens = HumanCount(self.n_training_samples);
        let rows = [
            ("trained", format!("{} steps, {tokens} tokens", HumanCount(self.steps))),
            ("L0", format!("{:.2}", self.l0)),
            ("explained variance", format!("{:.4}", self.explained_variance)),
            ("CE-loss score", ce_loss_score),
            ("dead features", format!("{} of {} ({dead_percent:.1} %)", self.dead_features, self.d_sae)),
            ("tokens/s", HumanCount(self.tokens_per_second as u64).to_string()),
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
            l0: 31.987,
            explained_variance: 0.91234,
            ce_loss_score: None,
            dead_features: 3,
            d_sae: 2048,
            tokens_per_second: 54_321.9,
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
