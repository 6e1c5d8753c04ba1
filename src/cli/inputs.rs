//! What commands read: SAEs, rows of activations in files.

use cusae::backend::Backend;
use cusae::config::{Setting, SpecialToken};
use cusae::error::{Error, Result};
use cusae::formats::{arrays, tensors::TensorFile};
use cusae::hub;
use cusae::lm::Processing;
use cusae::sae::inference::Sae;
use cusae::train::checkpoint;
use serde_json::{Map, Value};

/// A flag's value that is written as in a recipe. Error: what is expected.
pub fn parse_setting<T: Setting>(text: &str) -> std::result::Result<T, String> {
    T::parse(text).ok_or_else(|| format!("expected {}", T::expected()))
}

/// An SAE by the name the user gave: see [`hub::sae`].
pub fn open_sae<B: Backend>(backend: &B, name: &str) -> Result<Sae<B>> {
    let named = hub::sae("--sae", name)?;
    let mut saved = named.load()?;
    checkpoint::fold_input_scale(&named.path, &mut saved)?;
    Sae::new(backend, &saved.config, &saved.weights)
}

/// What an SAE's metadata says about the rows that it was trained on.
pub struct Notes<'a>(pub &'a Map<String, Value>);

impl<'a> Notes<'a> {
    /// A string.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.0.get(key)?.as_str()
    }

    /// A number of things.
    pub fn size(&self, key: &str) -> Option<usize> {
        usize::try_from(self.0.get(key)?.as_u64()?).ok()
    }

    /// Treatment of the model's weights.
    pub fn processing(&self) -> Processing {
        let centred =
            self.0.get("model_from_pretrained_kwargs").and_then(|kwargs| kwargs.get("center_writing_weights"));
        match centred.and_then(Value::as_bool) {
            Some(true) => Processing::TransformerLens,
            _ => Processing::None,
        }
    }

    /// Whether rows begin with the model's beginning-of-sequence token.
    pub fn prepend_bos(&self) -> bool {
        self.0.get("prepend_bos").and_then(Value::as_bool).unwrap_or(true)
    }

    /// What is between two documents.
    pub fn separator(&self) -> Option<SpecialToken> {
        match self.0.get("sequence_separator_token") {
            None => Some(SpecialToken::Bos),
            Some(Value::Number(id)) => id.as_u64().and_then(|id| u32::try_from(id).ok()).map(SpecialToken::Id),
            Some(role) => role.as_str().and_then(SpecialToken::parse),
        }
    }
}

/// A tensor of a file, seen as rows of one width.
pub struct Rows {
    file: TensorFile,
    tensor: String,
    width: usize,
    /// Number of rows.
    pub count: usize,
}

impl Rows {
    /// Opens `FILE` or `FILE:TENSOR`; without a name, the only tensor or the first of `preferred`
    /// that is there. The last dimension is the width, or the last two together (heads).
    pub fn open(name: &str, preferred: &[&str], width: usize) -> Result<Self> {
        let (path, asked) = arrays::split_tensor_name(name);
        let file = arrays::open(&path)?;
        let names = file.names();
        let tensor = match (asked, names.as_slice()) {
            (Some(asked), _) => asked.to_string(),
            (None, [only]) => only.clone(),
            (None, _) => {
                preferred.iter().find(|name| file.contains(name)).map(|name| name.to_string()).ok_or_else(|| {
                    Error::format(&path, format!("holds {}; say which: {name}:TENSOR", names.join(", ")))
                })?
            }
        };
        let shape = file.shape(&tensor)?.to_vec();
        let count = match shape[..] {
            [ref rows @ .., last] if last == width => rows.iter().product(),
            [ref rows @ .., heads, d_head] if heads * d_head == width => rows.iter().product(),
            _ => {
                let what = format!("tensor {tensor} has shape {shape:?}, expected rows of {width}, the SAE's width");
                return Err(Error::format(&path, what));
            }
        };
        if count == 0 {
            return Err(Error::format(&path, format!("tensor {tensor} holds no rows")));
        }
        Ok(Rows { file, tensor, width, count })
    }

    /// Shape of the whole tensor.
    pub fn shape(&self) -> Result<&[usize]> {
        self.file.shape(&self.tensor)
    }

    /// Rows of a sequence, of a tensor `[.., T, d_in]` or `[.., T, heads, d_head]`. Error: it has no such
    /// dimension.
    pub fn context(&self) -> Result<usize> {
        let shape = self.shape()?;
        let of_row = if shape.last() == Some(&self.width) { 1 } else { 2 };
        match shape[..shape.len() - of_row] {
            [_, .., context] => Ok(context),
            _ => {
                let what = format!(
                    "tensor {} has shape {shape:?}, expected [sequences, T, {}]: a temporal SAE reads whole sequences",
                    self.tensor, self.width
                );
                Err(Error::format(self.file.path(), what))
            }
        }
    }

    /// Rows `first..first + rows`. Errors: the dtype is not a floating-point one; a value is not
    /// finite.
    pub fn read(&self, first: usize, rows: usize) -> Result<Vec<f32>> {
        let values = self.file.f32_range(&self.tensor, first * self.width, rows * self.width)?;
        if let Some(at) = values.iter().position(|x| !x.is_finite()) {
            let (row, value) = (first + at / self.width, values[at]);
            let what = format!("tensor {} holds {value} in row {row}, expected finite numbers", self.tensor);
            return Err(Error::format(self.file.path(), what));
        }
        Ok(values)
    }
}
