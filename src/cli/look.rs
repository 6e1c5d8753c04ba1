//! What the commands that look inside have in common: an SAE, its model, and prompts as tokens.

use super::inputs::{open_sae, Notes};
use cusae::backend::Backend;
use cusae::data::{open_model, ModelAndTokenizer, Tokenizer};
use cusae::error::{Error, Result};
use cusae::eval::hooks_of;
use cusae::lm::{LanguageModel, Processing};
use cusae::sae::inference::Sae;
use serde::Serialize;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// The SAE and the model to look into.
#[derive(clap::Args)]
pub struct LookArgs {
    /// The SAE: a folder or file, RELEASE:ID, or REPOSITORY:PATH of the Hub.
    #[arg(long, value_name = "SAE")]
    sae: String,
    /// A GPT-2: a folder, a name on the Hub, or embedded [default: the SAE's model_name].
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Treatment of the model's weights: none or transformer-lens [default: the SAE's, or none].
    #[arg(long)]
    processing: Option<Processing>,
    /// Whether prompts begin with the model's beginning-of-sequence token [default: the SAE's, or true].
    #[arg(long, alias = "prepend_bos", value_name = "BOOL", action = clap::ArgAction::Set)]
    prepend_bos: Option<bool>,
}

/// A model and an SAE for it.
pub struct Look<B: Backend> {
    pub model: Arc<LanguageModel<B>>,
    pub tokenizer: Arc<Tokenizer>,
    pub sae: Sae<B>,
    pub prepend_bos: bool,
    pub is_embedded: bool,
}

/// A token of a prompt.
#[derive(Clone, Debug, Serialize)]
pub struct Token {
    pub position: usize,
    pub id: u32,
    pub token: String,
}

impl LookArgs {
    /// The SAE's name.
    pub fn sae(&self) -> &str {
        &self.sae
    }

    /// Opens both. Errors: no model is named; it has no tokenizer; what opening them refuses.
    pub fn open<B: Backend>(&self, backend: &B) -> Result<Look<B>> {
        let sae = open_sae(backend, &self.sae)?;
        let notes = Notes(&sae.config().metadata);
        let name = self.model.as_deref().or(notes.text("model_name")).ok_or_else(|| {
            Error::config("--model", "the SAE's cfg.json does not name one; give a folder, or embedded")
        })?;
        let processing = self.processing.unwrap_or(notes.processing());
        let prepend_bos = self.prepend_bos.unwrap_or(notes.prepend_bos());
        let ModelAndTokenizer { model, tokenizer } = open_model(backend, "--model", name, processing, false)?;
        let tokenizer = tokenizer.ok_or_else(|| {
            Error::config(
                "--model",
                format!("{name} has no tokenizer; prompts need tokenizer.json, or vocab.json and merges.txt"),
            )
        })?;
        tokenizer.check_model(model.config().d_vocab)?;
        hooks_of(&model, &sae)?;
        let is_embedded = name == "embedded";
        Ok(Look { model, tokenizer, sae, prepend_bos, is_embedded })
    }
}

/// A prompt, and where it is from, for what is said of it: `--prompt`, or `FILE, line 3`.
pub struct Prompt<'a> {
    pub text: Cow<'a, str>,
    pub from: String,
}

impl<'a> Prompt<'a> {
    /// What a flag gives.
    pub fn of_flag(flag: &str, text: &'a str) -> Self {
        Prompt { text: text.into(), from: flag.to_string() }
    }
}

/// What a flag gives, or each line of a file that is not empty. Errors: the file cannot be read, or holds none.
pub fn prompts<'a>(flag: &str, given: &'a [String], file: Option<&Path>) -> Result<Vec<Prompt<'a>>> {
    let Some(path) = file else {
        return Ok(given.iter().map(|text| Prompt::of_flag(flag, text)).collect());
    };
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let from = |number: usize| format!("{}, line {}", path.display(), number + 1);
    let prompts: Vec<Prompt> =
        lines.map(|(number, line)| Prompt { text: line.to_string().into(), from: from(number) }).collect();
    match prompts.is_empty() {
        true => Err(Error::format(path, "holds no text, expected a prompt on each line")),
        false => Ok(prompts),
    }
}

impl<B: Backend> Look<B> {
    /// The ids of a prompt. Errors: it is empty, or longer than the model's context.
    pub fn tokens(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        match prompt.text.is_empty() {
            true => Err(Error::config(&prompt.from, "it is empty")),
            false => self.tokens_to_continue(prompt),
        }
    }

    /// The same; an empty prompt is the beginning-of-sequence token alone, after which any text may come.
    pub fn tokens_to_continue(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let mut ids = self.tokenizer.encode(&prompt.text)?;
        if self.prepend_bos {
            let bos = self.tokenizer.bos_token_id().ok_or_else(|| {
                Error::config("--prepend-bos", "the tokenizer has no beginning-of-sequence token; use false")
            })?;
            ids.insert(0, bos);
        }
        let most = self.model.config().n_ctx;
        match ids.len() {
            0 => Err(Error::config(&prompt.from, "it is empty")),
            n if n > most => {
                Err(Error::config(&prompt.from, format!("it has {n} tokens, this model takes at most {most}")))
            }
            _ => Ok(ids),
        }
    }

    /// A prompt's tokens with their texts.
    pub fn named(&self, ids: &[u32]) -> Result<Vec<Token>> {
        let named = ids.iter().enumerate();
        named.map(|(position, &id)| Ok(Token { position, id, token: self.text(id)? })).collect()
    }

    /// A token's text. Parts of a character show as the replacement character.
    pub fn text(&self, id: u32) -> Result<String> {
        self.tokenizer.decode(&[id])
    }

    /// The one token that a flag names, by its text or as `#ID`. Errors: it is several tokens, none, or
    /// outside the vocabulary.
    pub fn token(&self, flag: &str, text: &str) -> Result<u32> {
        if let Some(id) = text.strip_prefix('#').and_then(|id| id.parse::<u32>().ok()) {
            let size = self.tokenizer.vocabulary_size();
            return match (id as usize) < size {
                true => Ok(id),
                false => Err(Error::config(flag, format!("token #{id}, the vocabulary has {size}"))),
            };
        }
        match self.tokenizer.encode(text)?[..] {
            [id] => Ok(id),
            [] => Err(Error::config(flag, "it is empty; give the text of a token, or #ID")),
            ref ids => {
                let parts: Vec<String> =
                    ids.iter().map(|&id| Ok(format!("{:?}", self.text(id)?))).collect::<Result<_>>()?;
                let what = format!(
                    "{text:?} is {} tokens, {}; expected one (most words begin with a space), or #ID",
                    ids.len(),
                    parts.join(" ")
                );
                Err(Error::config(flag, what))
            }
        }
    }

    /// A position: of a prompt of `n` tokens, counted from the end if negative. Error: it is not there.
    pub fn position(&self, at: i64, n: usize) -> Result<usize> {
        let position = if at < 0 { n as i64 + at } else { at };
        match usize::try_from(position).ok().filter(|&position| position < n) {
            Some(position) => Ok(position),
            None => Err(Error::config("--position", format!("{at}, the prompt has {n} tokens: 0 to {}", n - 1))),
        }
    }

    /// The token that the model gives the largest logit after `position`.
    pub fn prediction(&self, tokens: &[u32], position: usize) -> Result<u32> {
        let mut forward = self.model.forward(1, tokens.len())?;
        forward.run(&self.model, tokens, &mut (), None)?;
        let logits = forward.logits_of_rows(&self.model, &[position])?;
        let best = (0..logits.len()).reduce(|best, id| if logits[id] > logits[best] { id } else { best });
        Ok(best.unwrap_or(0) as u32)
    }
}

/// The text of tokens that come one after another; a character of several tokens comes with its last.
pub struct GrowingText<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    given: usize,
}

impl<'a> GrowingText<'a> {
    /// No tokens yet.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        GrowingText { tokenizer, tokens: Vec::new(), given: 0 }
    }

    /// What is new with this token.
    pub fn add(&mut self, token: u32) -> String {
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens).unwrap_or_default();
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        let new = text.get(self.given..whole).unwrap_or_default().to_string();
        self.given = self.given.max(whole);
        new
    }
}
