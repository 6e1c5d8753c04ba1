//! `cusae ablate`: what the model loses when features are set to zero.

use super::inputs::parse_setting;
use super::look::{LookArgs, Prompt, Token};
use super::number::number;
use super::Common;
use cusae::analysis::{ablate, AblationRequest, Outcome};
use cusae::backend::Backend;
use cusae::config::ExcludeSpecialTokens;
use cusae::data::tokenizer::excluded_ids;
use cusae::error::Error;
use serde::Serialize;
use std::fmt;

/// What to set to zero.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// A text.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Token whose logit and probability after the prompt are looked at: its text, or #ID [default: the
    /// model's prediction].
    #[arg(long, value_name = "TOKEN")]
    target: Option<String>,
    /// Features to set to zero [default: all that are active].
    #[arg(long, value_name = "N", num_args = 1.., value_parser = number::<u32>)]
    feature: Vec<u32>,
    /// Position where they are set to zero, from the end if negative, or all.
    #[arg(long, value_name = "N", default_value = "all", allow_hyphen_values = true)]
    position: String,
    /// Let the model go on with the SAE's reconstruction, without its error.
    #[arg(long)]
    no_error_term: bool,
    /// Tokens that pass the SAE by: true for the tokenizer's special ones, false, or [ID, …].
    #[arg(long, alias = "exclude_special_tokens", value_name = "WHICH", default_value = "false")]
    #[arg(value_parser = parse_setting::<ExcludeSpecialTokens>)]
    exclude_special_tokens: ExcludeSpecialTokens,
    /// Features shown.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number::<usize>)]
    top: usize,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    target: Token,
    /// The model itself; with the SAE; with all the features set to zero.
    model: Outcome,
    sae: Outcome,
    together: Outcome,
    features: Vec<Row>,
    /// Features set to zero.
    ablated: usize,
}

/// One feature, and how much the outcome changes from that with the SAE.
#[derive(Serialize)]
struct Row {
    feature: u32,
    activation: f32,
    logit: f64,
    probability: f64,
    loss: f64,
}

/// Runs the ablations and prints.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    let ids = look.tokens(&Prompt::of_flag("--prompt", &args.prompt))?;
    let position = match args.position.as_str() {
        "all" => None,
        text => {
            let wrong = || Error::config("--position", format!("{text:?}, expected a number or all"));
            Some(look.position(text.parse().map_err(|_| wrong())?, ids.len())?)
        }
    };
    let target = args.target.as_deref().map(|text| look.token("--target", text)).transpose()?;
    let exclude_tokens = excluded_ids(&args.exclude_special_tokens, Some(&look.tokenizer))?;
    common.say_device();
    let target = target.map_or_else(|| look.prediction(&ids, ids.len() - 1), Ok)?;
    let features = (!args.feature.is_empty()).then(|| args.feature.clone());
    let request = AblationRequest { features, position, target, use_error_term: !args.no_error_term, exclude_tokens };
    let effects = ablate(&look.model, &look.sae, &ids, &request)?;
    let row = |it: &cusae::analysis::Ablation| Row {
        feature: it.feature,
        activation: it.activation,
        logit: it.outcome.logit - effects.sae.logit,
        probability: it.outcome.probability - effects.sae.probability,
        loss: it.outcome.loss - effects.sae.loss,
    };
    common.print(&Report {
        target: Token { position: ids.len(), id: target, token: look.text(target)? },
        model: effects.model,
        sae: effects.sae,
        together: effects.together,
        features: effects.each.iter().take(args.top).map(row).collect(),
        ablated: effects.each.len(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:28} {:>10} {:>12} {:>10}",
            format!("{:?} after the prompt", self.target.token),
            "logit",
            "probability",
            "loss"
        )?;
        let together = format!("without {} features", self.ablated);
        for (name, it) in [("the model", self.model), ("with the SAE", self.sae), (&together, self.together)] {
            let loss = loss(it.loss, |x| format!("{x:.4}"));
            writeln!(f, "{name:28} {:>10.4} {:>12.6} {loss:>10}", it.logit, it.probability)?;
        }
        writeln!(
            f,
            "\n{:>8} {:>10} {:>10} {:>12} {:>10}  change without it alone",
            "feature", "activation", "logit", "probability", "loss"
        )?;
        for it in &self.features {
            let Row { feature, activation, logit, probability, .. } = it;
            let loss = loss(it.loss, |x| format!("{x:+.4}"));
            writeln!(f, "{feature:>8} {activation:>10.3} {logit:>+10.4} {probability:>+12.6} {loss:>10}")?;
        }
        Ok(())
    }
}

/// A prompt of one token has no loss.
fn loss(loss: f64, written: impl Fn(f64) -> String) -> String {
    if loss.is_nan() {
        "-".to_string()
    } else {
        written(loss)
    }
}
