//! Where an SAE belongs in a model, by the names in its metadata, checked against the model.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::lm::LanguageModel;
use crate::sae::inference::Sae;
use serde_json::Value;

/// The hook that an SAE reads, and the one whose value it gives: the same but for a transcoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooks<'a> {
    /// `hook_name`.
    pub input: &'a str,
    /// A transcoder's `hook_name_out`.
    pub output: &'a str,
}

impl Hooks<'_> {
    /// The refusal of a transcoder whose output comes before what it reads.
    pub fn in_wrong_order(&self) -> Error {
        let Hooks { input, output } = self;
        Error::config("hook_name_out", format!("{output} comes before {input}, which is read"))
    }
}

/// The hooks that the metadata names. Errors: it names none, or one attention head's; the model has no such
/// hook, or one of another width.
pub fn hooks_of<'a, B: Backend>(model: &LanguageModel<B>, sae: &'a Sae<B>) -> Result<Hooks<'a>> {
    let config = sae.config();
    let what = "the SAE's cfg.json does not name one under metadata; add it, such as blocks.8.hook_resid_pre";
    let input = config.hook_name().ok_or_else(|| Error::config("hook_name", what))?;
    if !matches!(config.metadata.get("hook_head_index"), None | Some(Value::Null)) {
        return Err(Error::config("hook_head_index", "SAEs on one attention head are not supported"));
    }
    check_width(model, input, ("d_in", config.d_in), "takes")?;
    if config.transcoder.is_none() {
        return Ok(Hooks { input, output: input });
    }
    let what = "the transcoder's cfg.json does not name one under metadata; add it, such as blocks.8.hook_mlp_out";
    let named = config.metadata.get("hook_name_out").and_then(Value::as_str);
    let output = named.ok_or_else(|| Error::config("hook_name_out", what))?;
    check_width(model, output, ("d_out", config.d_out()), "gives")?;
    Ok(Hooks { input, output })
}

fn check_width<B: Backend>(
    model: &LanguageModel<B>,
    hook: &str,
    (key, expected): (&str, usize),
    does: &str,
) -> Result<()> {
    let width = model.hook_width(hook)?;
    if width != expected {
        let what = format!("the SAE {does} {expected} values, {hook} of this model has {width}; is it another model?");
        return Err(Error::config(key, what));
    }
    Ok(())
}
