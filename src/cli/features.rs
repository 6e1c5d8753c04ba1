//! `cusae features`: the top features of each token of a prompt or a text, or where one feature fires.

use super::look::{prompts, Look, LookArgs, Token};
use super::number::number;
use super::Common;
use cusae::analysis::{top_of_row, FeatureReader};
use cusae::backend::Backend;
use cusae::error::{Error, Result};
use cusae::sae::features::SparseFeatures;
use serde::Serialize;
use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;

/// What to look at.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// A text; may be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "text", conflicts_with = "text")]
    prompt: Vec<String>,
    /// A file of text, a prompt on each line that is not empty.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Features shown for each token.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number::<usize>)]
    top: usize,
    /// Show where this feature fires instead.
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    feature: Option<u32>,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    prompts: Vec<PromptFeatures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    feature: Option<u32>,
    /// Whether activations are shown as colours.
    #[serde(skip)]
    colours: bool,
}

#[derive(Serialize)]
struct PromptFeatures {
    tokens: Vec<TokenFeatures>,
}

#[derive(Serialize)]
struct TokenFeatures {
    #[serde(flatten)]
    token: Token,
    /// The largest activations, or that of the feature asked for if it is active.
    features: Vec<FeatureActivation>,
}

#[derive(Serialize)]
struct FeatureActivation {
    feature: u32,
    activation: f32,
}

/// Encodes the prompts and prints their features.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    let d_sae = look.sae.config().d_sae;
    if let Some(feature) = args.feature.filter(|&feature| feature as usize >= d_sae) {
        let what = format!("{feature}, this SAE has features 0 to {}", d_sae - 1);
        return Err(Error::config("--feature", what).into());
    }
    let prompts = prompts("--prompt", &args.prompt, args.text.as_deref())?;
    let tokens = prompts.iter().map(|prompt| look.tokens(prompt)).collect::<Result<Vec<_>>>()?;
    common.say_device();
    let prompts = tokens.iter().map(|ids| of_prompt(&look, ids, &args)).collect::<Result<Vec<_>>>()?;
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    common.print(&Report { prompts, feature: args.feature, colours })
}

fn of_prompt<B: Backend>(look: &Look<B>, ids: &[u32], args: &Args) -> Result<PromptFeatures> {
    let features = FeatureReader::new(&look.model, &look.sae, 1, ids.len())?.read(ids)?;
    let wanted = |row: usize| match args.feature {
        Some(feature) => of_feature(&features, row, feature),
        None => top_of_row(&features, row, args.top),
    };
    let of_token = |token: Token| {
        let found = wanted(token.position).into_iter();
        let features = found.map(|(feature, activation)| FeatureActivation { feature, activation }).collect();
        TokenFeatures { token, features }
    };
    Ok(PromptFeatures { tokens: look.named(ids)?.into_iter().map(of_token).collect() })
}

fn of_feature(features: &SparseFeatures, row: usize, feature: u32) -> Vec<(u32, f32)> {
    top_of_row(features, row, usize::MAX).into_iter().filter(|&(found, _)| found == feature).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for prompt in &self.prompts {
            match self.feature {
                Some(_) => self.highlighted(prompt, f)?,
                None => prompt.table(f)?,
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl PromptFeatures {
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted: Vec<String> = self.tokens.iter().map(|it| format!("{:?}", it.token.token)).collect();
        let width = quoted.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        for (it, quoted) in self.tokens.iter().zip(quoted) {
            write!(f, "{:>4}  {quoted:width$} ", it.token.position)?;
            for FeatureActivation { feature, activation } in &it.features {
                write!(f, " {:>14}", format!("{feature}:{activation:.2}"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Report {
    /// The text, tokens where the feature is active on a background the stronger the higher it is; without
    /// colours, `[token 1.23]`.
    fn highlighted(&self, prompt: &PromptFeatures, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activation = |it: &TokenFeatures| it.features.first().map_or(0.0, |found| found.activation);
        let largest = self.prompts.iter().flat_map(|prompt| &prompt.tokens).map(activation).fold(0.0, f32::max);
        for it in &prompt.tokens {
            let (text, activation) = (&it.token.token, activation(it));
            match (activation > 0.0, self.colours) {
                (false, _) => write!(f, "{text}")?,
                (true, false) => write!(f, "[{text} {activation:.2}]")?,
                (true, true) => {
                    let fade = (200.0 * (1.0 - activation / largest)) as u8;
                    write!(f, "\x1b[30;48;2;255;{};{fade}m{text}\x1b[0m", 140 + fade / 2)?;
                }
            }
        }
        Ok(())
    }
}
