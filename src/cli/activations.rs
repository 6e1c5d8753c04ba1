//! `cusae activations`: runs a model over text and writes what is at its hooks, as one file with the
//! rows in order, or as a store to train from.

use super::inputs::parse_setting;
use super::number::{number, number_from_1};
use super::Common;
use cusae::backend::Backend;
use cusae::config::{ExcludeSpecialTokens, SeqposSlice, Setting, SpecialToken};
use cusae::data::documents::{Content, DocumentPosition};
use cusae::data::tokenizer::excluded_ids;
use cusae::data::{
    open_model, store_activations, ActivationFile, Documents, ModelAndTokenizer, Packing, Selection, StoreRequest,
    TokenRows,
};
use cusae::error::{Error, Result};
use cusae::formats::{arrays, tensors};
use cusae::lm::{LanguageModel, Processing};
use safetensors::Dtype;
use serde::Serialize;
use serde_json::{json, Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Context of text where none is asked for, as in a recipe.
const CONTEXT_SIZE: usize = 128;

/// What to run, what to look at, and where to write it.
#[derive(clap::Args)]
pub struct Args {
    /// A GPT-2: a folder, a name on the Hub, or embedded.
    #[arg(long, value_name = "MODEL", default_value = "embedded")]
    model: String,
    /// Text files, or a data set of the Hub [default for the embedded model: its training text].
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "tokens")]
    text: Vec<PathBuf>,
    /// Token file: FILE or FILE:TENSOR.
    #[arg(long, value_name = "FILE[:TENSOR]")]
    tokens: Option<String>,
    /// TransformerLens hooks; logits and loss_per_token are possible too.
    #[arg(long, value_name = "NAME", num_args = 1.., required = true)]
    hook: Vec<String>,
    /// NAME.safetensors: one tensor [rows, T, …] per hook. Any other name: a folder of shards
    /// [tokens, d_in] for `cusae train --activations`.
    #[arg(long, value_name = "FILE_OR_DIR")]
    out: PathBuf,
    /// Treatment of the model's weights: none or transformer-lens.
    #[arg(long, default_value_t)]
    processing: Processing,
    /// Tokens in a row [default: those of a token file's rows, else 128].
    #[arg(long, alias = "context_size", value_name = "N", value_parser = number::<usize>)]
    context_size: Option<usize>,
    /// Whether every row of text begins with the model's beginning-of-sequence token.
    #[arg(long, alias = "prepend_bos", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    prepend_bos: bool,
    /// Run at most so many rows.
    #[arg(long, value_name = "N", value_parser = number::<usize>)]
    rows: Option<usize>,
    /// Rows that the model reads at once.
    #[arg(long, alias = "store_batch_size_prompts", value_name = "N", default_value_t = 16)]
    #[arg(value_parser = number_from_1)]
    store_batch_size_prompts: usize,
    /// Number format: float32, float16 or bfloat16.
    #[arg(long, value_name = "DTYPE", default_value = "float32", value_parser = parse_dtype)]
    dtype: Dtype,
    #[command(flatten)]
    store: StoreArgs,
}

/// What only a store to train from has.
#[derive(clap::Args)]
#[command(next_help_heading = "For a folder of shards")]
struct StoreArgs {
    /// Keep the order of the text.
    #[arg(long)]
    no_shuffle: bool,
    /// Positions of a row that are stored, as a Python slice.
    #[arg(long, alias = "seqpos_slice", value_name = "SLICE", value_parser = parse_setting::<SeqposSlice>)]
    seqpos_slice: Option<SeqposSlice>,
    /// Tokens that are left out: true for the tokenizer's special ones, false, or [ID, …].
    #[arg(long, alias = "exclude_special_tokens", value_name = "WHICH")]
    #[arg(value_parser = parse_setting::<ExcludeSpecialTokens>)]
    exclude_special_tokens: Option<ExcludeSpecialTokens>,
}

fn parse_dtype(name: &str) -> std::result::Result<Dtype, String> {
    tensors::parse_dtype(name).ok_or_else(|| "expected float32, float16 or bfloat16".into())
}

/// What is printed.
#[derive(Serialize)]
struct Summary {
    out: PathBuf,
    /// Shape by hook name.
    tensors: BTreeMap<String, Vec<usize>>,
    /// Files of a store.
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<usize>,
}

/// Runs the model and says what was written.
pub fn run<B: Backend>(mut args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    args.hook.retain(|name| !seen.contains(name) && (seen.push(name.clone()), true).1);
    let in_one_file = args.out.extension().is_some_and(|ending| ending == "safetensors");
    args.refuse_store_flags(in_one_file)?;
    let ModelAndTokenizer { model, tokenizer } = open_model(backend, "--model", &args.model, args.processing, false)?;
    let mut documents = args.documents()?;
    let packing = Packing {
        context_size: args.context_size.map_or_else(|| context_of(&mut documents, &model), Ok)?,
        prepend_bos: args.prepend_bos,
        sequence_separator_token: Some(SpecialToken::Bos),
        disable_concat_sequences: false,
    };
    let excluded = args.store.exclude_special_tokens.clone().unwrap_or(ExcludeSpecialTokens::No);
    let slice = args.store.seqpos_slice.unwrap_or_default();
    let selection = Selection::new(slice, excluded_ids(&excluded, tokenizer.as_deref())?, packing.context_size)?;
    let mut rows = TokenRows::new(documents, tokenizer, &packing, model.config().d_vocab)?;
    common.say_device();
    let summary = match in_one_file {
        true => args.write_file(&model, &mut rows, common)?,
        false => args.write_store(&model, &mut rows, selection, common)?,
    };
    common.print(&summary)
}

/// The length of the first row, where rows are tokens already.
fn context_of<B: Backend>(documents: &mut Documents, model: &LanguageModel<B>) -> Result<usize> {
    let first = documents.next_record()?;
    documents.seek(&DocumentPosition::default())?;
    Ok(match first {
        Some((_, record)) => match record.content {
            Content::Row(tokens) => tokens.len(),
            _ => CONTEXT_SIZE.min(model.config().n_ctx),
        },
        None => CONTEXT_SIZE,
    })
}

impl Args {
    fn refuse_store_flags(&self, in_one_file: bool) -> Result<()> {
        let StoreArgs { no_shuffle, seqpos_slice, exclude_special_tokens } = &self.store;
        let given = [
            ("--no-shuffle", *no_shuffle),
            ("--seqpos-slice", seqpos_slice.is_some()),
            ("--exclude-special-tokens", exclude_special_tokens.is_some()),
        ];
        match given.iter().find(|(_, given)| *given && in_one_file) {
            Some((flag, _)) => Err(Error::config(*flag, "one file holds all rows in order; let --out name a folder")),
            None => Ok(()),
        }
    }

    fn documents(&self) -> Result<Documents> {
        match &self.tokens {
            Some(tokens) => {
                let (path, tensor) = arrays::split_tensor_name(tokens);
                Documents::open(&[path], tensor)
            }
            None if !self.text.is_empty() => Documents::open(&self.text, None),
            None if self.model == "embedded" => Documents::embedded_training(),
            None => Err(Error::config("--text", "nothing to run on; give --text FILE or --tokens FILE")),
        }
    }

    fn write_file<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        rows: &mut TokenRows,
        common: &Common,
    ) -> Result<Summary> {
        let file = ActivationFile {
            hook_names: &self.hook,
            rows: self.rows.unwrap_or(usize::MAX),
            prompts: self.store_batch_size_prompts,
            dtype: self.dtype,
        };
        let bar = common.bar(0);
        let tensors = file.write(model, rows, &self.out, &mut |done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        Ok(Summary { out: self.out.clone(), tensors: tensors.into_iter().collect(), shards: None })
    }

    fn write_store<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        rows: &mut TokenRows,
        selection: Selection,
        common: &Common,
    ) -> Result<Summary> {
        let positions = selection.positions().len();
        let count = rows.count(self.rows.unwrap_or(usize::MAX))?;
        let bar = common.bar(count);
        let request = StoreRequest {
            hook_names: &self.hook,
            selection,
            prompts: self.store_batch_size_prompts,
            tokens: count * positions,
            dtype: self.dtype,
            shuffle: (!self.store.no_shuffle).then_some(common.seed()?),
            metadata: self.metadata(rows.context_size())?,
        };
        let index = store_activations(model, rows, &self.out, request, &mut |tokens| {
            bar.set_position((tokens / positions) as u64);
        })?;
        bar.finish_and_clear();
        let shape = |hook: &cusae::data::store::StoredHook| (hook.hook_name.clone(), vec![index.rows, hook.d_in]);
        let tensors = index.hooks.iter().map(shape).collect();
        Ok(Summary { out: self.out.clone(), tensors, shards: Some(index.shards.len()) })
    }

    /// What a store says about where it comes from, by SAELens' names.
    fn metadata(&self, context_size: usize) -> Result<Map<String, Value>> {
        let text: Vec<String> = self.text.iter().map(|path| path.display().to_string()).collect();
        let text = if text.is_empty() { json!("embedded") } else { json!(text) };
        let StoreArgs { seqpos_slice, exclude_special_tokens, .. } = &self.store;
        let excluded = exclude_special_tokens.as_ref().unwrap_or(&ExcludeSpecialTokens::No).write();
        let excluded =
            serde_json::to_value(excluded).map_err(|e| Error::config("exclude_special_tokens", e.to_string()))?;
        let pairs = [
            ("model_name", json!(self.model)),
            ("processing", json!(self.processing.to_string())),
            ("dataset_path", self.tokens.as_ref().map_or(text, |tokens| json!(tokens))),
            ("context_size", json!(context_size)),
            ("prepend_bos", json!(self.prepend_bos)),
            ("seqpos_slice", json!(seqpos_slice.unwrap_or_default().arguments())),
            ("exclude_special_tokens", excluded),
        ];
        Ok(pairs.map(|(key, value)| (key.to_string(), value)).into_iter().collect())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.shards {
            Some(shards) => writeln!(f, "{}: {shards} shards", self.out.display())?,
            None => writeln!(f, "{}", self.out.display())?,
        }
        for (name, shape) in &self.tensors {
            writeln!(f, "  {name} {shape:?}")?;
        }
        Ok(())
    }
}
