//! `cusae steer`: text generated with features changed, beside the text without.

use super::inputs::parse_setting;
use super::look::{prompts, GrowingText, Look, LookArgs, Prompt};
use super::number::number;
use super::Common;
use cusae::analysis::{steer, Change, FeatureReader, Positions, Steering};
use cusae::backend::{Backend, Sampling};
use cusae::config::ExcludeSpecialTokens;
use cusae::data::tokenizer::excluded_ids;
use cusae::data::Documents;
use cusae::error::{Error, Result};
use cusae::lm::Limits;
use serde::Serialize;
use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Tokens of a text in which a feature's maximum is looked for, where `--times-max` is not told.
const ROWS_FOR_MAX: usize = 64;

/// What to generate, and what to change.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// The text to go on with.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// FEATURE=+8 or FEATURE=-8 adds to its activation, FEATURE=8 sets it; may be given several times.
    #[arg(long, value_name = "CHANGE", required = true, value_parser = parse_change)]
    feature: Vec<(u32, Change)>,
    /// Where: all, generated, or positions of the text such as 3,4,5.
    #[arg(long, value_name = "WHERE", default_value = "all", value_parser = parse_positions)]
    positions: Positions,
    /// Multiply the changes by the feature's largest activation in a text [default text: --max-text, or for
    /// the embedded model its held-out text].
    #[arg(long)]
    times_max: bool,
    /// A file with a text on each line, for --times-max.
    #[arg(long, value_name = "FILE", requires = "times_max")]
    max_text: Option<PathBuf>,
    /// Tokens that pass the SAE by: true for the tokenizer's special ones, false, or [ID, …].
    #[arg(long, alias = "exclude_special_tokens", value_name = "WHICH", default_value = "true")]
    #[arg(value_parser = parse_setting::<ExcludeSpecialTokens>)]
    exclude_special_tokens: ExcludeSpecialTokens,
    /// Tokens to generate.
    #[arg(long, alias = "max_new_tokens", value_name = "N", default_value_t = 40, value_parser = number::<usize>)]
    max_new_tokens: usize,
    /// Logits are divided by it; 0 always takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    #[arg(value_parser = number::<f32>)]
    temperature: f32,
    /// Draw from so many of the most likely tokens; 0: from all.
    #[arg(long, alias = "top_k", value_name = "N", default_value_t = 0, value_parser = number::<usize>)]
    top_k: usize,
    /// Draw from the most likely tokens that have this probability together; 1: from all.
    #[arg(long, alias = "top_p", value_name = "P", default_value_t = 1.0, value_parser = number::<f32>)]
    top_p: f32,
}

/// `FEATURE=+8`, `FEATURE=-8` or `FEATURE=8`.
pub fn parse_change(text: &str) -> std::result::Result<(u32, Change), String> {
    let wrong = || "expected FEATURE=+8, FEATURE=-8 or FEATURE=8".to_string();
    let (feature, change) = text.split_once('=').ok_or_else(wrong)?;
    let value: f32 = change.parse().map_err(|_| wrong())?;
    let change = if change.starts_with(['+', '-']) { Change::Add(value) } else { Change::Set(value) };
    match value.is_finite() {
        true => Ok((feature.parse().map_err(|_| wrong())?, change)),
        false => Err(wrong()),
    }
}

/// `all`, `generated`, or positions such as `3,4,5`.
pub fn parse_positions(text: &str) -> std::result::Result<Positions, String> {
    match text {
        "all" => Ok(Positions::All),
        "generated" => Ok(Positions::Generated),
        these => {
            let these = these.split(',').map(|position| position.trim().parse());
            let these = these.collect::<std::result::Result<_, _>>();
            these.map(Positions::These).map_err(|_| "expected all, generated, or positions such as 3,4,5".to_string())
        }
    }
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Report {
    prompt: String,
    without: Continuation,
    steered: Continuation,
}

#[derive(Serialize)]
struct Continuation {
    tokens: Vec<u32>,
    text: String,
}

/// Generates both, shown as the tokens come.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    let prompt = look.tokens_to_continue(&Prompt::of_flag("--prompt", &args.prompt))?;
    let exclude_tokens = excluded_ids(&args.exclude_special_tokens, Some(&look.tokenizer))?;
    let mut changes = args.feature.clone();
    common.say_device();
    if args.times_max {
        args.scale_by_max(&look, &mut changes)?;
    }
    let steered = Steering { changes, positions: args.positions.clone(), exclude_tokens };
    let without = Steering { changes: Vec::new(), ..steered.clone() };
    // What is wrong is refused before anything is shown.
    args.sampling(common)?;
    args.positions.check(prompt.len(), args.max_new_tokens)?;
    for (feature, _) in &steered.changes {
        look.sae.decoder_direction(*feature)?;
    }
    let without = args.generate(&look, &prompt, &without, "without", common)?;
    let steered = args.generate(&look, &prompt, &steered, "steered", common)?;
    match common.json {
        true => common.print(&Report { prompt: args.prompt, without, steered }),
        false => Ok(()),
    }
}

impl Args {
    /// How tokens are drawn. Error: the settings make no sense.
    fn sampling(&self, common: &Common) -> Result<Sampling> {
        let Args { temperature, top_k, top_p, .. } = *self;
        let sampling = Sampling { temperature, top_k, top_p, seed: common.seed()? };
        sampling.check()?;
        Ok(sampling)
    }

    fn generate<B: Backend>(
        &self,
        look: &Look<B>,
        prompt: &[u32],
        steering: &Steering,
        title: &str,
        common: &Common,
    ) -> anyhow::Result<Continuation> {
        let sampling = self.sampling(common)?;
        let limits = Limits {
            max_new_tokens: self.max_new_tokens,
            stop_tokens: look.tokenizer.eos_token_id().into_iter().collect(),
        };
        let mut text = GrowingText::new(&look.tokenizer);
        let show = |text: &str| {
            if !common.json {
                print_now(text)
            }
        };
        show(&format!("{title}: {}", self.prompt));
        let mut on_token = |token| {
            show(&text.add(token));
            ControlFlow::Continue(())
        };
        let generated = steer(&look.model, &look.sae, prompt, steering, sampling, &limits, &mut on_token)?;
        show("\n");
        Ok(Continuation { text: look.tokenizer.decode(&generated.tokens)?, tokens: generated.tokens })
    }

    fn scale_by_max<B: Backend>(&self, look: &Look<B>, changes: &mut [(u32, Change)]) -> anyhow::Result<()> {
        let texts = match &self.max_text {
            Some(path) => prompts("", &[], Some(path))?.into_iter().map(|it| it.text.into_owned()).collect(),
            None => embedded_texts()?,
        };
        let mut largest = vec![0.0f32; changes.len()];
        for text in texts.iter().take(ROWS_FOR_MAX) {
            let mut ids = look.tokenizer.encode(text)?;
            ids.truncate(look.model.config().n_ctx.min(128));
            if ids.is_empty() {
                continue;
            }
            let features = FeatureReader::new(&look.model, &look.sae, 1, ids.len())?.read(&ids)?;
            for (&feature, &value) in features.indices().iter().zip(features.values()) {
                for (largest, _) in largest.iter_mut().zip(changes.iter()).filter(|(_, (wanted, _))| *wanted == feature)
                {
                    *largest = largest.max(value);
                }
            }
        }
        for ((feature, change), largest) in changes.iter_mut().zip(largest) {
            if largest == 0.0 {
                let what = format!("feature {feature} is never active in this text; give another with --max-text");
                return Err(Error::config("--times-max", what).into());
            }
            *change = match *change {
                Change::Add(times) => Change::Add(times * largest),
                Change::Set(times) => Change::Set(times * largest),
            };
        }
        Ok(())
    }
}

fn embedded_texts() -> Result<Vec<String>> {
    let mut documents = Documents::embedded_heldout()?;
    let mut texts = Vec::new();
    while let Some((_, record)) = documents.next_record()? {
        if let cusae::data::documents::Content::Text(text) = record.content {
            texts.push(text);
        }
        if texts.len() == ROWS_FOR_MAX {
            break;
        }
    }
    Ok(texts)
}

/// Shows text at once. Whoever reads may have seen enough: that is no reason to fail.
fn print_now(text: &str) {
    let mut out = std::io::stdout();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "without: {}{}", self.prompt, self.without.text)?;
        write!(f, "steered: {}{}", self.prompt, self.steered.text)
    }
}
