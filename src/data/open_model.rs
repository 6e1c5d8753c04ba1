//! A language model with its tokenizer, by the name that a recipe or a flag gives.

use super::Tokenizer;
use crate::backend::Backend;
use crate::error::Result;
use crate::hub;
use crate::lm::{LanguageModel, Processing};
use std::sync::Arc;

/// A model and, if it has one, its tokenizer: token files do not need it.
pub struct ModelAndTokenizer<B: Backend> {
    /// The model.
    pub model: Arc<LanguageModel<B>>,
    /// Its tokenizer.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

/// Opens `embedded`, a Hugging Face folder, or a model of the Hub; `key` is the recipe key or flag that named it.
/// With `autocast` its products take bf16 operands: [`LanguageModel::autocast`].
pub fn open_model<B: Backend>(
    backend: &B,
    key: &str,
    name: &str,
    processing: Processing,
    autocast: bool,
) -> Result<ModelAndTokenizer<B>> {
    let shared = |model: LanguageModel<B>| Ok(Arc::new(if autocast { model.autocast()? } else { model }));
    if name == "embedded" {
        let model = shared(LanguageModel::embedded(backend, processing)?)?;
        return Ok(ModelAndTokenizer { model, tokenizer: Some(Arc::new(Tokenizer::embedded()?)) });
    }
    let folder = hub::model(key, name)?;
    let model = shared(LanguageModel::load(backend, &folder, processing)?)?;
    let has_tokenizer = ["tokenizer.json", "vocab.json"].iter().any(|file| folder.join(file).exists());
    let tokenizer = has_tokenizer.then(|| Tokenizer::from_folder(&folder)).transpose()?;
    Ok(ModelAndTokenizer { model, tokenizer: tokenizer.map(Arc::new) })
}
