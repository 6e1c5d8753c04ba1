//! Text to token ids and back, with the tokenizers crate: a folder's `tokenizer.json`, or
//! `vocab.json` and `merges.txt` as GPT-2's byte-level BPE.

use crate::config::{ExcludeSpecialTokens, SpecialToken};
use crate::embedded;
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::AddedToken;

/// What GPT-2 begins and ends a document with; taken where no file names such a token.
const END_OF_TEXT: &str = "<|endoftext|>";

/// A vocabulary may be padded to a round number for speed; a model with more spare rows than this
/// belongs to another tokenizer. (The largest padding of a published model we know is 905.)
const LARGEST_PADDING: usize = 1024;

/// A model's tokenizer and its special tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    source: PathBuf,
    special: SpecialTokens,
}

/// The tokens that have a role, as `tokenizer_config.json` names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SpecialTokens {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    sep: Option<u32>,
}

impl Tokenizer {
    /// Reads a Hugging Face folder. The roles of special tokens come from `tokenizer_config.json`,
    /// `special_tokens_map.json` or the ids in `config.json`, in this order; an `eos` that none of
    /// them names is `<|endoftext|>`, a `bos` that none names is the `eos`, as in TransformerLens.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let json = folder.join("tokenizer.json");
        let named = NamedTokens::read(folder)?;
        let (inner, source) = if json.is_file() {
            (tokenizers::Tokenizer::from_file(&json), json)
        } else {
            let vocabulary = folder.join("vocab.json");
            let merges = folder.join("merges.txt");
            if !vocabulary.is_file() || !merges.is_file() {
                let what = "no tokenizer: expected tokenizer.json, or vocab.json and merges.txt, in this folder";
                return Err(Error::format(folder, what));
            }
            (byte_level_bpe(&vocabulary, &merges, &named), vocabulary)
        };
        Self::new(inner.map_err(|e| Error::format(&source, format!("not a tokenizer: {e}")))?, source, &named)
    }

    /// The tokenizer of the embedded model.
    pub fn embedded() -> Result<Self> {
        let source = PathBuf::from("embedded tokenizer.json");
        let inner = tokenizers::Tokenizer::from_bytes(embedded::TOKENIZER)
            .map_err(|e| Error::format(&source, format!("not a tokenizer: {e}")))?;
        Self::new(inner, source, &NamedTokens::default())
    }

    fn new(mut inner: tokenizers::Tokenizer, source: PathBuf, named: &NamedTokens) -> Result<Self> {
        // A tokenizer.json may have been saved with the settings of some training run.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::format(&source, e.to_string()))?;
        let eos = named.id("eos", &inner).or_else(|| inner.token_to_id(END_OF_TEXT));
        let special = SpecialTokens {
            bos: named.id("bos", &inner).or(eos),
            eos,
            pad: named.id("pad", &inner),
            sep: named.id("sep", &inner),
        };
        Ok(Tokenizer { inner, source, special })
    }

    /// The ids of a text. Nothing is added before or after it; special tokens that are spelled out
    /// in the text become one id each, as with Hugging Face.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(Error::format(&self.source, format!("cannot encode a text: {e}"))),
        }
    }

    /// The text of ids, special tokens included. Error: an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(Error::format(&self.source, format!("has no token {id}")));
        }
        self.inner.decode(ids, false).map_err(|e| Error::format(&self.source, format!("cannot decode ids: {e}")))
    }

    /// The file it was read from.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// One more than the largest id.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The id that a document or a row begins with.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.special.bos
    }

    /// The id that a document ends with.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special.eos
    }

    /// The id of a recipe's `sequence_separator_token`. Error: there is no token of that role.
    pub fn special_token(&self, token: SpecialToken) -> Result<u32> {
        let (role, id) = match token {
            SpecialToken::Bos => ("bos", self.special.bos),
            SpecialToken::Eos => ("eos", self.special.eos),
            SpecialToken::Sep => ("sep", self.special.sep),
            SpecialToken::Id(id) => ("", Some(id)),
        };
        id.ok_or_else(|| {
            let what = format!("the tokenizer has no {role} token; use a token id or none");
            Error::config("sequence_separator_token", what)
        })
    }

    /// What SAELens' `exclude_special_tokens = true` excludes: bos, eos, pad and sep, ascending;
    /// not the additional special tokens of chat templates.
    pub fn special_ids(&self) -> Vec<u32> {
        let SpecialTokens { bos, eos, pad, sep } = self.special;
        let mut ids: Vec<u32> = [bos, eos, pad, sep].into_iter().flatten().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Fails when this cannot be the tokenizer of a model with `d_vocab` tokens.
    pub fn check_model(&self, d_vocab: usize) -> Result<()> {
        let size = self.vocabulary_size();
        if size <= d_vocab && d_vocab - size <= LARGEST_PADDING {
            return Ok(());
        }
        let what = format!(
            "this is the tokenizer of another model: it has {size} tokens, the model has {d_vocab}; \
             use the tokenizer that came with the model"
        );
        Err(Error::format(&self.source, what))
    }
}

/// The ids of a recipe's `exclude_special_tokens`. Error: the special tokens of no tokenizer.
pub fn excluded_ids(excluded: &ExcludeSpecialTokens, tokenizer: Option<&Tokenizer>) -> Result<Vec<u32>> {
    match (excluded, tokenizer) {
        (ExcludeSpecialTokens::No, _) => Ok(Vec::new()),
        (ExcludeSpecialTokens::Ids(ids), _) => Ok(ids.clone()),
        (ExcludeSpecialTokens::Yes, Some(tokenizer)) => Ok(tokenizer.special_ids()),
        (ExcludeSpecialTokens::Yes, None) => {
            let what = "the model has no tokenizer to say which tokens are special; list their ids";
            Err(Error::config("exclude_special_tokens", what))
        }
    }
}

/// GPT-2's tokenizer from its own two files, put together as transformers does.
fn byte_level_bpe(vocabulary: &Path, merges: &Path, named: &NamedTokens) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = BPE::from_file(&vocabulary.to_string_lossy(), &merges.to_string_lossy()).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let prefix_space = named.settings.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(prefix_space)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let mut special: Vec<String> = ["bos", "eos", "unk", "pad", "sep"].iter().filter_map(|r| named.text(r)).collect();
    special.push(END_OF_TEXT.to_string());
    // Only what the vocabulary knows: adding more would make up ids the model does not have.
    special.retain(|token| tokenizer.token_to_id(token).is_some());
    tokenizer.add_special_tokens(&special.into_iter().map(|t| AddedToken::from(t, true)).collect::<Vec<_>>());
    Ok(tokenizer)
}

/// What the small files beside a tokenizer say about its special tokens.
#[derive(Default)]
struct NamedTokens {
    settings: Map<String, Value>,
    model: Map<String, Value>,
}

impl NamedTokens {
    fn read(folder: &Path) -> Result<Self> {
        let mut settings = read_object(&folder.join("special_tokens_map.json"))?;
        settings.extend(read_object(&folder.join("tokenizer_config.json"))?.into_iter().filter(|(_, v)| !v.is_null()));
        Ok(NamedTokens { settings, model: read_object(&folder.join("config.json"))? })
    }

    /// `bos_token` and its like: a string, or an object with `content`.
    fn text(&self, role: &str) -> Option<String> {
        let token = self.settings.get(&format!("{role}_token"))?;
        Some(token.as_str().or_else(|| token.get("content")?.as_str())?.to_string())
    }

    fn id(&self, role: &str, tokenizer: &tokenizers::Tokenizer) -> Option<u32> {
        if let Some(id) = self.text(role).and_then(|token| tokenizer.token_to_id(&token)) {
            return Some(id);
        }
        let id = self.model.get(&format!("{role}_token_id"))?;
        // Some models list several ends.
        let id = id.as_u64().or_else(|| id.get(0)?.as_u64())? as u32;
        tokenizer.id_to_token(id).map(|_| id)
    }
}

/// A JSON object from a file that need not be there.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    serde_json::from_str(&text).map_err(|e| Error::format(path, format!("not a JSON object: {e}")))
}
