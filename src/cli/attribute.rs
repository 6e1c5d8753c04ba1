//! `cusae attribute`: how much each feature adds to the logit of a token, or to the difference of two.

use super::inputs::parse_setting;
use super::look::{LookArgs, Prompt, Token};
use super::number::number;
use super::Common;
use cusae::analysis::{attribute, Attribution};
use cusae::backend::Backend;
use cusae::config::ExcludeSpecialTokens;
use cusae::data::tokenizer::excluded_ids;
use cusae::error::Result;
use cusae::lm::LogitSum;
use serde::Serialize;
use std::fmt;

/// Of what, and to what.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// A text.
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Token whose logit is attributed: its text, or #ID [default: the model's prediction].
    #[arg(long, value_name = "TOKEN")]
    target: Option<String>,
    /// Token whose logit is taken off.
    #[arg(long, value_name = "TOKEN")]
    versus: Option<String>,
    /// Position after which the target comes; from the end if negative.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true, value_parser = number::<i64>)]
    position: i64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    versus: Option<Token>,
    features: Vec<Row>,
    /// Active features, over all positions.
    active: usize,
}

#[derive(Serialize)]
struct Row {
    feature: u32,
    #[serde(flatten)]
    token: Token,
    activation: f32,
    /// By the residual stream alone; null where that does not reach.
    direct: Option<f32>,
    /// By the gradient, through all that comes after.
    gradient: f32,
}

/// Attributes and prints.
pub fn run<B: Backend>(args: Args, common: &Common, backend: &B) -> anyhow::Result<()> {
    let look = args.look.open(backend)?;
    let ids = look.tokens(&Prompt::of_flag("--prompt", &args.prompt))?;
    let position = look.position(args.position, ids.len())?;
    let versus = args.versus.as_deref().map(|text| look.token("--versus", text)).transpose()?;
    let target = args.target.as_deref().map(|text| look.token("--target", text)).transpose()?;
    let excluded = excluded_ids(&args.exclude_special_tokens, Some(&look.tokenizer))?;
    common.say_device();
    let target = target.map_or_else(|| look.prediction(&ids, position), Ok)?;
    let weights = std::iter::once((target, 1.0)).chain(versus.map(|token| (token, -1.0))).collect();
    let found = attribute(&look.model, &look.sae, &ids, &LogitSum { position, weights }, &excluded)?;
    let tokens = look.named(&ids)?;
    let token = |id| -> Result<Token> { Ok(Token { position: position + 1, id, token: look.text(id)? }) };
    let row = |it: &Attribution| Row {
        feature: it.feature,
        token: tokens[it.position].clone(),
        activation: it.activation,
        direct: it.direct,
        gradient: it.gradient,
    };
    let features = found.iter().take(args.top).map(row).collect();
    common.print(&Report {
        target: token(target)?,
        versus: versus.map(token).transpose()?,
        features,
        active: found.len(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to the logit of {:?}", self.target.token)?;
        if let Some(versus) = &self.versus {
            write!(f, " less that of {:?}", versus.token)?;
        }
        writeln!(f, " at position {}, of {} active features\n", self.target.position, self.active)?;
        writeln!(f, "{:>8} {:>10} {:>10} {:>10}  at token", "feature", "gradient", "direct", "activation")?;
        for Row { feature, token, activation, direct, gradient } in &self.features {
            let direct = direct.map_or("-".to_string(), |direct| format!("{direct:.4}"));
            let at = format!("{} {:?}", token.position, token.token);
            writeln!(f, "{feature:>8} {gradient:>10.4} {direct:>10} {activation:>10.3}  {at}")?;
        }
        Ok(())
    }
}
