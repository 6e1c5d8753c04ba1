//! `cusae eval`: how good an SAE is on a model and a text, by every metric of SAELens.

use super::inputs::{open_sae, parse_setting, Notes};
use super::number::number;
use super::Common;
use cusae::backend::Backend;
use cusae::config::ExcludeSpecialTokens;
use cusae::data::tokenizer::excluded_ids;
use cusae::data::{open_model, Documents, ModelAndTokenizer, Packing, TokenRows, Tokenizer};
use cusae::error::{Error, Result};
use cusae::eval::{evaluate, sae_bench, EvalConfig, Report};
use cusae::formats::{arrays, write};
use cusae::lm::{LanguageModel, Processing};
use cusae::sae::inference::Sae;
use indicatif::ProgressBar;
use serde_json::Value;
use std::path::PathBuf;

/// What to evaluate, and on what.
#[derive(clap::Args)]
pub struct Args {
    /// The SAE: a folder or file, RELEASE:ID, or REPOSITORY:PATH of the Hub.
    #[arg(long, value_name = "SAE")]
    sae: String,
    /// A GPT-2: a folder, a name on the Hub, or embedded [default: the SAE's model_name].
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Text files, or a data set of the Hub [default for the embedded model: its held-out text].
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "tokens")]
    text: Vec<PathBuf>,
    /// Token file: FILE or FILE:TENSOR.
    #[arg(long, value_name = "FILE[:TENSOR]")]
    tokens: Option<String>,
    /// Tokens in a row [default: the SAE's, or 128].
    #[arg(long, alias = "context_size", value_name = "N", value_parser = number::<usize>)]
    context_size: Option<usize>,
    /// Rows in a batch.
    #[arg(long, alias = "batch_size_prompts", value_name = "N", default_value_t = 16, value_parser = number::<usize>)]
    batch_size_prompts: usize,
    /// Batches for cross-entropy and KL divergence.
    #[arg(long, alias = "n_eval_reconstruction_batches", value_name = "N", default_value_t = 10)]
    #[arg(value_parser = number::<usize>)]
    n_eval_reconstruction_batches: usize,
    /// Batches after those, for everything else.
    #[arg(long, alias = "n_eval_sparsity_variance_batches", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = number::<usize>)]
    n_eval_sparsity_variance_batches: usize,
    /// Tokens that are left out: true for the tokenizer's special ones, false, or [ID, …].
    #[arg(long, alias = "exclude_special_tokens", value_name = "WHICH", default_value = "true")]
    #[arg(value_parser = parse_setting::<ExcludeSpecialTokens>)]
    exclude_special_tokens: ExcludeSpecialTokens,
    /// Treatment of the model's weights: none or transformer-lens [default: the SAE's, or none].
    #[arg(long)]
    processing: Option<Processing>,
    /// Write the report, as JSON, to this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the metrics to this file in SAEBench's layout, too.
    #[arg(long, alias = "sae_bench", value_name = "FILE")]
    sae_bench: Option<PathBuf>,
}

/// Evaluates and prints the report.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let sae = open_sae(backend, &args.sae)?;
    let report = report(&args, common, backend, &sae)?;
    if let Some(path) = &args.out {
        write::text(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    common.print(&report)
}

/// Evaluates an SAE as the flags say.
pub fn report<B: Backend>(args: &Args, common: &Common, backend: &B, sae: &Sae<B>) -> anyhow::Result<Report> {
    let notes = Notes(&sae.config().metadata);
    let name =
        args.model.as_deref().or(notes.text("model_name")).ok_or_else(|| {
            Error::config("--model", "the SAE's cfg.json does not name one; give a folder, or embedded")
        })?;
    let processing = args.processing.unwrap_or(notes.processing());
    let ModelAndTokenizer { model, tokenizer } = open_model(backend, "--model", name, processing, false)?;
    let config = EvalConfig {
        batch_size_prompts: args.batch_size_prompts,
        n_eval_reconstruction_batches: args.n_eval_reconstruction_batches,
        n_eval_sparsity_variance_batches: args.n_eval_sparsity_variance_batches,
        exclude_tokens: exclude_tokens(&args.exclude_special_tokens, tokenizer.as_deref(), &model)?,
        featurewise: true,
    };
    let packing = Packing {
        context_size: args.context_size.or(notes.size("context_size")).unwrap_or(128),
        prepend_bos: notes.prepend_bos(),
        sequence_separator_token: notes.separator(),
        disable_concat_sequences: notes.0.get("disable_concat_sequences").and_then(Value::as_bool).unwrap_or(false),
    };
    let documents = args.documents(name)?;
    let rows = TokenRows::new(documents, tokenizer, &packing, model.config().d_vocab)?;
    common.say_device();
    let batches = config.n_eval_reconstruction_batches.saturating_add(config.n_eval_sparsity_variance_batches);
    let mut rows =
        Repeating { rows, bar: common.bar(batches.saturating_mul(config.batch_size_prompts)), silent: common.quiet };
    let report = evaluate(&model, sae, &mut rows, &config)?;
    rows.bar.finish_and_clear();
    if let Some(path) = &args.sae_bench {
        let (model, dataset, context_size) = (name, &args.dataset(), packing.context_size);
        let subject = sae_bench::Subject { name: &args.sae, model, dataset, context_size };
        let core = sae_bench::core(&report, sae, &config, &subject)?;
        write::text(path, &(serde_json::to_string_pretty(&core)? + "\n"))?;
    }
    Ok(report)
}

impl Args {
    /// The SAE as it was named.
    pub fn sae(&self) -> &str {
        &self.sae
    }

    /// Whether a model was named.
    pub fn names_model(&self) -> bool {
        self.model.is_some()
    }

    /// The names of the texts.
    fn dataset(&self) -> String {
        let texts: Vec<String> = self.text.iter().map(|path| path.display().to_string()).collect();
        self.tokens.clone().unwrap_or_else(|| if texts.is_empty() { "embedded".into() } else { texts.join(", ") })
    }

    fn documents(&self, model: &str) -> Result<Documents> {
        match &self.tokens {
            Some(tokens) => {
                let (path, tensor) = arrays::split_tensor_name(tokens);
                Documents::open(&[path], tensor)
            }
            None if !self.text.is_empty() => Documents::open(&self.text, None),
            None if model == "embedded" => Documents::embedded_heldout(),
            None => Err(Error::config("--text", "nothing to evaluate on; give --text FILE or --tokens FILE")),
        }
    }
}

/// The ids that count in no mean. A model without a tokenizer still knows bos and eos.
fn exclude_tokens<B: Backend>(
    which: &ExcludeSpecialTokens,
    tokenizer: Option<&Tokenizer>,
    model: &LanguageModel<B>,
) -> Result<Vec<u32>> {
    if (which, tokenizer.is_none()) == (&ExcludeSpecialTokens::Yes, true) {
        let config = model.config();
        return Ok([config.bos_token_id, config.eos_token_id].into_iter().flatten().collect());
    }
    excluded_ids(which, tokenizer)
}

/// Rows without end: a text that is too short is begun again, as SAELens does.
struct Repeating {
    rows: TokenRows,
    bar: ProgressBar,
    /// Whether that has been said, or is not to be said.
    silent: bool,
}

impl Iterator for Repeating {
    type Item = Result<Vec<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.bar.inc(1);
        match self.rows.next_row() {
            Ok(None) => {
                if !std::mem::replace(&mut self.silent, true) {
                    self.bar.suspend(|| eprintln!("the text ended before the last batch: it is begun again"));
                }
                self.rows.rewind().and_then(|()| self.rows.next_row()).transpose()
            }
            row => row.transpose(),
        }
    }
}
