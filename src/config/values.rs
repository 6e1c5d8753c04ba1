//! The types of recipe values that are more than a number, a text or a switch.

use super::setting::{choice, Setting};
use crate::lm::Processing;
use toml::Value;

choice! {
    /// The kind of sparse autoencoder.
    Architecture {
        /// ReLU with a decoder-norm-weighted Lp penalty.
        Standard = "standard",
        /// ReLU behind a gate that is learned by a reconstruction of its own.
        Gated = "gated",
        /// The identity above a threshold of each latent's own, with a penalty on active latents.
        JumpRelu = "jumprelu",
        /// The k largest pre-activations, with AuxK for dead latents.
        TopK = "topk",
        /// The k pre-activations of the largest magnitude, with their signs, with AuxK.
        AbsTopK = "abstopk",
        /// The k largest pre-activations of a row on average over the batch; saved as JumpReLU.
        BatchTopK = "batchtopk",
        /// The same, whose first latents must reconstruct on their own, too; saved as JumpReLU.
        Matryoshka = "matryoshka_batchtopk",
        /// One latent after another takes its part of what is left; the decoder is the encoder, too.
        MatchingPursuit = "matching_pursuit",
        /// standard from one hook to another.
        Transcoder = "transcoder",
        /// The same with a linear connection beside it.
        SkipTranscoder = "skip_transcoder",
        /// jumprelu from one hook to another.
        JumpReluTranscoder = "jumprelu_transcoder",
        /// The same with a linear connection beside it.
        JumpReluSkipTranscoder = "jumprelu_skip_transcoder",
    }
}

impl Architecture {
    /// Whether it has a loss for dead latents (AuxK).
    pub fn has_auxk(self) -> bool {
        use Architecture::*;
        matches!(self, TopK | AbsTopK | BatchTopK | Matryoshka)
    }

    /// Whether it predicts the activations of another hook than it reads.
    pub fn transcodes(self) -> bool {
        use Architecture::*;
        matches!(self, Transcoder | SkipTranscoder | JumpReluTranscoder | JumpReluSkipTranscoder)
    }

    /// Whether it encodes with thresholds.
    pub fn has_thresholds(self) -> bool {
        use Architecture::*;
        matches!(self, JumpRelu | JumpReluTranscoder | JumpReluSkipTranscoder)
    }

    /// Whether k counts active latents of a batch, so that it need not be whole.
    pub fn selects_by_batch(self) -> bool {
        matches!(self, Architecture::BatchTopK | Architecture::Matryoshka)
    }
}

choice! {
    /// JumpReLU's sparsity term (SAELens' `jumprelu_sparsity_loss_mode`), c times the mean over the batch.
    JumpReluSparsityLossMode {
        /// The number of active latents.
        Step = "step",
        /// `Σ tanh(scale f |W_dec|)`.
        Tanh = "tanh",
        /// `2 (L0 - target)² / target` of every row.
        Quadratic = "quadratic",
    }
}

choice! {
    /// Where b_dec starts (`b_dec_init_method` of SAELens before version 6).
    BDecInitMethod {
        /// At 0.
        Zeros = "zeros",
        /// At the mean of the first activations.
        Mean = "mean",
        /// At the point with the smallest sum of distances to them.
        GeometricMedian = "geometric_median",
    }
}

choice! {
    /// What of the SAE the run folder holds at the end.
    Format {
        /// Weights for inference, as SAELens' `SAE.load_from_disk` reads them.
        SaeLens = "saelens",
        /// Weights as they were trained with all settings, as SAELens' `TrainingSAE.load_from_disk` reads them.
        SaeLensCheckpoint = "saelens-checkpoint",
    }
}

choice! {
    /// How activations are scaled before the SAE sees them (SAELens' `normalize_activations`).
    NormalizeActivations {
        /// As they are.
        None = "none",
        /// By one factor that makes their mean norm sqrt(d_in); folded into the weights at the end.
        ExpectedAverageOnlyIn = "expected_average_only_in",
        /// Each to norm sqrt(d_in), undone on the way out.
        ConstantNormRescale = "constant_norm_rescale",
        /// Each to mean 0 and standard deviation 1, undone on the way out.
        LayerNorm = "layer_norm",
    }
}

choice! {
    /// The learning rate between warm-up and decay.
    LrSchedulerName {
        /// `lr`.
        Constant = "constant",
        /// Half a cosine from `lr` to `lr_end`.
        CosineAnnealing = "cosineannealing",
        /// `n_restart_cycles` half cosines, each from `lr` to `lr_end`.
        CosineAnnealingWarmRestarts = "cosineannealingwarmrestarts",
    }
}

choice! {
    /// The number format of weights and activations.
    Dtype {
        /// 32-bit.
        Float32 = "float32",
    }
}

choice! {
    /// How lists of values make several SAEs.
    SweepOrder {
        /// Every combination.
        Product = "product",
        /// The n-th of every list together.
        Zip = "zip",
    }
}

impl Setting for Processing {
    fn expected() -> String {
        format!("{} | {}", Processing::None, Processing::TransformerLens)
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
    fn write(&self) -> Value {
        Value::String(self.to_string())
    }
}

/// A token that is inserted: by role or by id (SAELens' `sequence_separator_token`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialToken {
    /// The tokenizer's beginning-of-sequence token.
    Bos,
    /// The tokenizer's end-of-sequence token.
    Eos,
    /// The tokenizer's separator token.
    Sep,
    /// This id.
    Id(u32),
}

impl Setting for SpecialToken {
    fn expected() -> String {
        "bos | eos | sep | a token id".into()
    }
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(id) => u32::try_from(*id).ok().map(SpecialToken::Id),
            Value::String(role) => match role.as_str() {
                "bos" => Some(SpecialToken::Bos),
                "eos" => Some(SpecialToken::Eos),
                "sep" => Some(SpecialToken::Sep),
                _ => None,
            },
            _ => None,
        }
    }
    fn write(&self) -> Value {
        match self {
            SpecialToken::Bos => Value::String("bos".into()),
            SpecialToken::Eos => Value::String("eos".into()),
            SpecialToken::Sep => Value::String("sep".into()),
            SpecialToken::Id(id) => Value::Integer((*id).into()),
        }
    }
}

/// Which tokens' activations are left out (SAELens' `exclude_special_tokens`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExcludeSpecialTokens {
    /// None.
    No,
    /// Those the tokenizer calls special.
    Yes,
    /// These ids.
    Ids(Vec<u32>),
}

impl Setting for ExcludeSpecialTokens {
    fn expected() -> String {
        "true, false or a list of token ids such as [0, 50256]".into()
    }
    fn read(value: &Value) -> Option<Self> {
        let id = |value: &Value| value.as_integer().and_then(|id| u32::try_from(id).ok());
        match value {
            Value::Boolean(false) => Some(ExcludeSpecialTokens::No),
            Value::Boolean(true) => Some(ExcludeSpecialTokens::Yes),
            Value::Array(ids) => ids.iter().map(id).collect::<Option<_>>().map(ExcludeSpecialTokens::Ids),
            _ => None,
        }
    }
    fn write(&self) -> Value {
        match self {
            ExcludeSpecialTokens::No => Value::Boolean(false),
            ExcludeSpecialTokens::Yes => Value::Boolean(true),
            ExcludeSpecialTokens::Ids(ids) => ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>().into(),
        }
    }
}

/// Positions of a row that are used, as a Python slice (SAELens' `seqpos_slice`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqposSlice {
    /// First position; negative counts from the end.
    pub start: Option<i64>,
    /// One past the last; negative counts from the end.
    pub stop: Option<i64>,
    /// Distance between positions, at least 1.
    pub step: Option<i64>,
}

impl SeqposSlice {
    /// The positions of a row of `length`, ascending: Python's `range(length)[start:stop:step]`.
    pub fn positions(&self, length: usize) -> Vec<usize> {
        let length = length as i64;
        let clamp = |position: i64| if position < 0 { (position + length).max(0) } else { position.min(length) };
        let (start, stop) = (clamp(self.start.unwrap_or(0)), clamp(self.stop.unwrap_or(length)));
        (start..stop).step_by(self.step.unwrap_or(1) as usize).map(|position| position as usize).collect()
    }

    /// The arguments of Python's `slice`, as SAELens keeps them: one none for all positions.
    pub fn arguments(&self) -> Vec<Option<i64>> {
        let SeqposSlice { start, stop, step } = *self;
        match (start, step) {
            (None, None) => vec![stop],
            (_, None) => vec![start, stop],
            _ => vec![start, stop, step],
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        let number = |part: &str| match part.trim() {
            "" => Some(None),
            part => part.parse::<i64>().ok().map(Some),
        };
        let parts = text.split(':').map(number).collect::<Option<Vec<_>>>()?;
        let (start, stop, step) = match parts[..] {
            [start, stop] => (start, stop, None),
            [start, stop, step] => (start, stop, step),
            _ => return None,
        };
        step.is_none_or(|step| step > 0).then_some(SeqposSlice { start, stop, step })
    }
}

impl Setting for SeqposSlice {
    fn expected() -> String {
        "start:stop or start:stop:step as in Python, such as \"5:-5\", step at least 1".into()
    }
    fn read(value: &Value) -> Option<Self> {
        Self::from_text(value.as_str()?)
    }
    fn write(&self) -> Value {
        let text = |part: Option<i64>| part.map(|number| number.to_string()).unwrap_or_default();
        let step = self.step.map(|step| format!(":{step}")).unwrap_or_default();
        Value::String(format!("{}:{}{step}", text(self.start), text(self.stop)))
    }
    fn parse(text: &str) -> Option<Self> {
        Self::from_text(text)
    }
}

/// Text to read: the embedded sample, or files and folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatasetPath {
    /// What is compiled into the program.
    Embedded,
    /// Files and folders, in order.
    Paths(Vec<String>),
}

impl Setting for DatasetPath {
    fn expected() -> String {
        "embedded, a file, a folder, or a list of them".into()
    }
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text == "embedded" => Some(DatasetPath::Embedded),
            Value::String(path) => String::parse(path).map(|path| DatasetPath::Paths(vec![path])),
            Value::Array(paths) if !paths.is_empty() => {
                paths.iter().map(String::read).collect::<Option<_>>().map(DatasetPath::Paths)
            }
            _ => None,
        }
    }
    fn write(&self) -> Value {
        match self {
            DatasetPath::Embedded => Value::String("embedded".into()),
            DatasetPath::Paths(paths) => match &paths[..] {
                // A single path may be a text; "embedded" as a file name stays a list.
                [path] if path != "embedded" => Value::String(path.clone()),
                _ => Value::from(paths.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_those_of_pythons_slices() {
        let positions = |text: &str| SeqposSlice::parse(text).unwrap().positions(8);
        assert_eq!(positions(":"), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(positions("5:-1"), [5, 6]);
        assert_eq!(positions("-3:"), [5, 6, 7]);
        assert_eq!(positions("1::3"), [1, 4, 7]);
        assert_eq!(positions("-20:3"), [0, 1, 2]);
        assert_eq!(positions("6:20"), [6, 7]);
        assert!(positions("6:2").is_empty());
        for wrong in ["5", "1:2:0", "1:2:-1", "a:b", "1:2:3:4"] {
            assert_eq!(SeqposSlice::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_called_embedded_is_told_apart_from_the_embedded_text() {
        let file = DatasetPath::Paths(vec!["embedded".into()]);
        assert_eq!(DatasetPath::read(&file.write()), Some(file));
        assert_eq!(DatasetPath::parse("embedded"), Some(DatasetPath::Embedded));
    }
}
