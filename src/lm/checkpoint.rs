//! The weight files of a Hugging Face folder: one `model.safetensors`, or several with an index.

use crate::error::{Error, Result};
use crate::formats::tensors::TensorFile;
use safetensors::Dtype;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Tensors by name, spread over one or more open files.
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<TensorFile>,
    file_of: HashMap<String, usize>,
    prefix: &'static str,
}

impl Checkpoint {
    /// Maps the weight files of a folder. Errors: there are none, or one is missing or damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if single.exists() {
            return Ok(Self::new(single.clone(), vec![TensorFile::open(&single)?]));
        }
        if !index.exists() {
            let what = "holds neither model.safetensors nor model.safetensors.index.json; \
                        write them with transformers' save_pretrained";
            return Err(Error::format(folder, what));
        }
        let files = shards(&index)?.iter().map(|name| TensorFile::open(folder.join(name))).collect::<Result<_>>()?;
        Ok(Self::new(index, files))
    }

    /// One file that is already open.
    pub fn from_file(file: TensorFile) -> Self {
        Self::new(file.path().to_path_buf(), vec![file])
    }

    fn new(path: PathBuf, files: Vec<TensorFile>) -> Self {
        let names = |(i, file): (usize, &TensorFile)| file.names().into_iter().map(move |name| (name, i));
        let file_of: HashMap<String, usize> = files.iter().enumerate().flat_map(names).collect();
        let with_prefix = file_of.keys().any(|name| name.starts_with("transformer."));
        Checkpoint { path, files, file_of, prefix: if with_prefix { "transformer." } else { "" } }
    }

    /// The name in the file of what `GPT2Model` calls `name`: `GPT2LMHeadModel` writes
    /// `transformer.h.0…`, the Hub's own `gpt2` has `h.0…`.
    pub fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.file_of.contains_key(name)
    }

    fn file(&self, name: &str) -> Result<&TensorFile> {
        let missing = || Error::format(&self.path, format!("tensor {name} is missing; config.json asks for it"));
        self.file_of.get(name).map(|&i| &self.files[i]).ok_or_else(missing)
    }

    /// Fails unless the tensor is there, of floating-point numbers and of this shape.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let file = self.file(name)?;
        let (found, dtype) = (file.shape(name)?, file.info(name)?.dtype);
        if found != shape {
            let what = format!("tensor {name} has shape {found:?}, config.json makes it {shape:?}");
            return Err(Error::format(file.path(), what));
        }
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64) {
            let what = format!("tensor {name} has dtype {dtype:?}, expected F32, F16 or BF16");
            return Err(Error::format(file.path(), what));
        }
        Ok(())
    }

    /// A tensor as f32. Errors: it is missing, or a value is not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let file = self.file(name)?;
        let values = file.f32(name)?;
        if let Some(i) = values.iter().position(|value| !value.is_finite()) {
            let what = format!("tensor {name} holds {} at element {i}, expected finite numbers", values[i]);
            return Err(Error::format(file.path(), what));
        }
        Ok(values)
    }

    /// Whether two tensors hold the same bytes.
    pub fn same(&self, a: &str, b: &str) -> Result<bool> {
        Ok(self.file(a)?.bytes(a)? == self.file(b)?.bytes(b)?)
    }
}

/// The file names in an index's `weight_map`.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(index).map_err(Error::io(index, "read"))?;
    let json: Value = serde_json::from_str(&text).map_err(|e| Error::format(index, format!("not JSON: {e}")))?;
    let wrong = || Error::format(index, "weight_map is missing or does not name files, expected {tensor: file, …}");
    let map = json.get("weight_map").and_then(Value::as_object).ok_or_else(wrong)?;
    map.values().map(|name| name.as_str().map(str::to_string).ok_or_else(wrong)).collect()
}
