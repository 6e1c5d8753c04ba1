//! `cusae dashboard`: one pass over a text, and one static page for all features of an SAE.

use super::inputs::Notes;
use super::look::{Look, LookArgs};
use super::number::{number, number_from_1};
use super::Common;
use cusae::analysis::{
    neuronpedia_layer, save, statistics, weight_statistics, Dashboard, FeatureReader, IndexWriter, NeuronSums,
    StatisticsSettings, TokenFeatures, TABLE_ROWS,
};
use cusae::backend::Backend;
use cusae::data::{Documents, Packing, TokenRows};
use cusae::error::{Error, Result};
use cusae::formats::{arrays, write};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What is beside the page: see [`cusae::analysis::save`].
pub const FEATURES_FILE: &str = "features.safetensors";

/// Tokens shown at each end of the logit lens, and features of each kind of neighbour.
const SHOWN: usize = 10;

/// Rows of the text that the page shows whole.
const ROWS_SHOWN: usize = 20;

/// Curves of a training run that the page shows, by the keys of `metrics.jsonl`.
const CURVES: [&str; 4] = ["metrics/l0", "metrics/explained_variance", "losses/mse_loss", "sparsity/dead_features"];

/// What to read, and where to write.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    read: ReadArgs,
    /// Folder for the page.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write the files that Neuronpedia takes, batch-0.json and so on, into this folder, too.
    #[arg(long, value_name = "DIR")]
    neuronpedia: Option<PathBuf>,
}

/// The text that is read for a page.
#[derive(clap::Args)]
pub struct ReadArgs {
    /// Text files, or a data set of the Hub [default for the embedded model: its held-out text].
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "tokens")]
    text: Vec<PathBuf>,
    /// Token file: FILE or FILE:TENSOR.
    #[arg(long, value_name = "FILE[:TENSOR]")]
    tokens: Option<String>,
    /// Read at most so many tokens.
    #[arg(long, alias = "max_tokens", value_name = "N", default_value_t = 1_000_000, value_parser = number_from_1)]
    max_tokens: usize,
    /// Tokens in a row [default: the SAE's, or 128].
    #[arg(long, alias = "context_size", value_name = "N", value_parser = number::<usize>)]
    context_size: Option<usize>,
    /// Rows that the model reads at once.
    #[arg(long, alias = "store_batch_size_prompts", value_name = "N", default_value_t = 16)]
    #[arg(value_parser = number_from_1)]
    store_batch_size_prompts: usize,
}

/// What is printed.
#[derive(Serialize)]
pub struct Summary {
    out: PathBuf,
    tokens: usize,
    features: usize,
    dead: usize,
}

/// Reads the text, writes the page and says what it holds.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    common.print(&draw(&look, args.look.sae(), &args.read, &args.out, args.neuronpedia.as_deref(), common)?)
}

/// Reads a text and writes the page of an SAE, with a file of all that is known of its features beside it.
pub fn draw<B: Backend>(
    look: &Look<B>,
    sae: &str,
    read: &ReadArgs,
    out: &Path,
    neuronpedia: Option<&Path>,
    common: &Common,
) -> anyhow::Result<Summary> {
    let mut rows = read.rows(look)?;
    if neuronpedia.is_some() {
        neuronpedia_layer(look.sae.config())?;
    }
    let wanted = rows.count(read.max_tokens / rows.context_size())?;
    write::folder(out)?;
    common.say_device();
    let mut neurons = neuronpedia.map(|_| NeuronSums::new(look.sae.config().d_in, look.sae.config().d_sae));
    let text = read.features(look, &mut rows, wanted, neurons.as_mut(), out, common)?;
    let statistics = statistics(&text, &StatisticsSettings { seed: common.seed()?, ..Default::default() });
    let weights = weight_statistics(&look.model, &look.sae, SHOWN, SHOWN)?;
    let vocabulary: Vec<String> =
        (0..look.model.config().d_vocab as u32).map(|id| look.text(id).unwrap_or_else(|_| format!("#{id}"))).collect();
    let notes = HashMap::from([("vocabulary".to_string(), serde_json::to_string(&vocabulary)?)]);
    save(&out.join(FEATURES_FILE), &text, &statistics, &weights, notes)?;
    let bar = common.bar(statistics.len());
    let dashboard = Dashboard {
        config: look.sae.config(),
        vocabulary: &vocabulary,
        text: &text,
        statistics: &statistics,
        weights: &weights,
        curves: curves(sae),
        rows: ROWS_SHOWN,
        text_name: &read.name(look.is_embedded),
    };
    dashboard.write(out, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if let Some((folder, neurons)) = neuronpedia.zip(neurons) {
        let name = Path::new(sae).file_name().unwrap_or_default().to_string_lossy();
        let sae_weights = look.sae.weights()?;
        let w_dec = &sae_weights.get("W_dec").values;
        dashboard.write_neuronpedia(folder, w_dec, &neurons.largest(TABLE_ROWS), &name)?;
    }
    let dead = statistics.iter().filter(|it| it.count == 0).count();
    Ok(Summary { out: out.to_path_buf(), tokens: text.tokens.len(), features: statistics.len(), dead })
}

impl ReadArgs {
    /// The names of the files.
    fn name(&self, is_embedded: bool) -> String {
        let files: Vec<String> = self.text.iter().map(|path| path.display().to_string()).collect();
        match &self.tokens {
            Some(tokens) => tokens.clone(),
            None if files.is_empty() && is_embedded => "the embedded held-out text".to_string(),
            None => files.join(", "),
        }
    }

    fn rows<B: Backend>(&self, look: &Look<B>) -> Result<TokenRows> {
        let documents = match &self.tokens {
            Some(tokens) => {
                let (path, tensor) = arrays::split_tensor_name(tokens);
                Documents::open(&[path], tensor)?
            }
            None if !self.text.is_empty() => Documents::open(&self.text, None)?,
            None if look.is_embedded => Documents::embedded_heldout()?,
            None => return Err(Error::config("--text", "nothing to read; give --text FILE or --tokens FILE")),
        };
        let notes = Notes(&look.sae.config().metadata);
        let context_size = self.context_size.or(notes.size("context_size")).unwrap_or(128);
        if self.max_tokens < context_size {
            let what =
                format!("{}, but a row has {context_size}; give more, or a smaller --context-size", self.max_tokens);
            return Err(Error::config("--max-tokens", what));
        }
        let packing = Packing {
            context_size,
            prepend_bos: look.prepend_bos,
            sequence_separator_token: notes.separator(),
            disable_concat_sequences: false,
        };
        TokenRows::new(documents, Some(look.tokenizer.clone()), &packing, look.model.config().d_vocab)
    }

    /// The features of `wanted` rows of the text; special tokens, on which SAEs are seldom trained, have none. What
    /// neurons do meanwhile is added up where that is asked for.
    fn features<B: Backend>(
        &self,
        look: &Look<B>,
        rows: &mut TokenRows,
        wanted: usize,
        mut neurons: Option<&mut NeuronSums>,
        folder: &Path,
        common: &Common,
    ) -> Result<TokenFeatures> {
        let (context, most) = (rows.context_size(), self.store_batch_size_prompts);
        let mut reader = FeatureReader::new(&look.model, &look.sae, most, context)?;
        let mut index = IndexWriter::new(folder, context, look.sae.config().d_sae)?;
        let special = look.tokenizer.special_ids();
        let bar = common.bar(wanted);
        let mut done = 0;
        while done < wanted {
            let batch = rows.take_rows(most.min(wanted - done))?;
            let tokens = batch.concat();
            let excluded: Vec<bool> = tokens.iter().map(|token| special.contains(token)).collect();
            let features = match &mut neurons {
                Some(neurons) => {
                    let (features, input) = reader.read_with_input(&tokens)?;
                    neurons.push(&features, &input, &excluded);
                    features
                }
                None => reader.read(&tokens)?,
            };
            index.push(&tokens, &features, &excluded)?;
            done += batch.len();
            bar.set_position(done as u64);
        }
        bar.finish_and_clear();
        index.finish(folder)
    }
}

/// How training went, if the SAE is in the folder of a run.
fn curves(sae: &str) -> Vec<(String, Vec<(f64, f64)>)> {
    let Ok(lines) = std::fs::read_to_string(Path::new(sae).join("metrics.jsonl")) else { return Vec::new() };
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let points = |key: &str| -> Vec<(f64, f64)> {
        lines.iter().filter_map(|line| Some((line["step"].as_f64()?, line[key].as_f64()?))).collect()
    };
    CURVES.map(|key| (key.to_string(), points(key))).into_iter().filter(|(_, points)| points.len() > 1).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { out, tokens, features, dead } = self;
        let page = out.join("index.html");
        write!(f, "{features} features ({dead} never active) over {tokens} tokens: open {}", page.display())
    }
}
