//! `cusae compare`: the features that prompts share, or that set two groups of prompts apart.

use super::look::{prompts, Look, LookArgs, Prompt};
use super::number::number;
use super::Common;
use cusae::analysis::{compare, ComparedFeature, FeatureReader};
use cusae::backend::Backend;
use cusae::error::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The prompts.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// A text of the first group; may be given several times.
    #[arg(long, value_name = "TEXT", required_unless_present = "text")]
    prompt: Vec<String>,
    /// A file with a text of the first group on each line.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    text: Option<PathBuf>,
    /// A text of the second group; may be given several times.
    #[arg(long, value_name = "TEXT")]
    against: Vec<String>,
    /// A file with a text of the second group on each line.
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    against_text: Option<PathBuf>,
    /// Features shown.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number::<usize>)]
    top: usize,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    prompts: usize,
    prompts_against: usize,
    /// Divisions into groups that the permutation test looked at.
    divisions: usize,
    features: Vec<ComparedFeature>,
}

/// Compares and prints. Special tokens, on which SAEs are seldom trained, do not count.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    let tokens = |flag, given, file| -> Result<Vec<Vec<u32>>> {
        prompts(flag, given, file)?.iter().map(|prompt| compared_tokens(&look, prompt)).collect()
    };
    let prompts = tokens("--prompt", &args.prompt, args.text.as_deref())?;
    let against = tokens("--against", &args.against, args.against_text.as_deref())?;
    common.say_device();
    let largest = |prompts: &[Vec<u32>]| prompts.iter().map(|ids| largest(&look, ids)).collect::<Result<Vec<_>>>();
    let comparison = compare(&largest(&prompts)?, &largest(&against)?, common.seed()?);
    let features = comparison.features.into_iter().take(args.top).collect();
    let (prompts, prompts_against) = (prompts.len(), against.len());
    common.print(&Report { prompts, prompts_against, divisions: comparison.divisions, features })
}

/// The ids of a prompt. Errors: as of [`Look::tokens`]; none of its tokens counts.
fn compared_tokens<B: Backend>(look: &Look<B>, prompt: &Prompt) -> Result<Vec<u32>> {
    let ids = look.tokens(prompt)?;
    let special = look.tokenizer.special_ids();
    match ids.iter().all(|id| special.contains(id)) {
        true => Err(Error::config(&prompt.from, "it holds special tokens alone, which do not count here")),
        false => Ok(ids),
    }
}

/// The largest activation of every feature that is active on a prompt.
fn largest<B: Backend>(look: &Look<B>, ids: &[u32]) -> Result<Vec<(u32, f32)>> {
    let special = look.tokenizer.special_ids();
    let features = FeatureReader::new(&look.model, &look.sae, 1, ids.len())?.read(ids)?;
    let mut largest = BTreeMap::new();
    for row in (0..ids.len()).filter(|&row| !special.contains(&ids[row])) {
        let (indices, values) = features.row(row);
        for (&feature, &value) in indices.iter().zip(values) {
            let most: &mut f32 = largest.entry(feature).or_insert(0.0);
            *most = most.max(value);
        }
    }
    Ok(largest.into_iter().collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prompts_against == 0 {
            writeln!(f, "{:>8} {:>12} {:>10}", "feature", "active on", "mean max")?;
            for it in &self.features {
                writeln!(f, "{:>8} {:>12} {:>10.3}", it.feature, format!("{} of {}", it.count, self.prompts), it.mean)?;
            }
            return Ok(());
        }
        let heads = ["feature", "active on", "against", "mean max", "against", "difference", "p"];
        let [feature, on, on_against, mean, mean_against, difference, p] = heads;
        writeln!(f, "{feature:>8} {on:>12} {on_against:>12} {mean:>10} {mean_against:>10} {difference:>10} {p:>8}")?;
        for it in &self.features {
            let on = format!("{} of {}", it.count, self.prompts);
            let on_against = format!("{} of {}", it.count_against, self.prompts_against);
            let (mean, mean_against, difference, p) =
                (it.mean, it.mean_against, it.difference(), it.p_value.unwrap_or(1.0));
            write!(f, "{:>8} {on:>12} {on_against:>12} {mean:>10.3} ", it.feature)?;
            writeln!(f, "{mean_against:>10.3} {difference:>+10.3} {p:>8.4}")?;
        }
        writeln!(f, "\np: permutation test of each feature alone over {} divisions", self.divisions)
    }
}
