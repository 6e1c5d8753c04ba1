//! What every reader of a foreign format works with: the files of one SAE, what their names say, and
//! the way from tensors of any name and orientation to an SAE that is checked.

use super::saelens::SavedSae;
use super::tensors::TensorFile;
use super::torch::{self, TorchFile};
use crate::error::{Error, Result};
use crate::sae::config::SaeConfig;
use crate::sae::weights::{HostTensor, Weights};
use serde_json::{Map, Value};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};

/// The folder or file that holds an SAE. Where it comes from is read from its path as well: the names
/// of a Hub repository (`models--org--name` in the Hub's cache) and of the folders in it say what many
/// formats do not write down.
pub struct Source {
    path: PathBuf,
    name: String,
    torch: OnceCell<Option<TorchFile>>,
}

impl Source {
    /// Errors: there is no such folder or file.
    pub fn new(path: &Path) -> Result<Source> {
        std::fs::metadata(path).map_err(Error::io(path, "open"))?;
        let whole = std::path::absolute(path).map_err(Error::io(path, "open"))?;
        let name = whole.to_string_lossy().replace("models--", "/").replace("--", "/");
        Ok(Source { path: path.to_path_buf(), name, torch: OnceCell::new() })
    }

    /// What the user named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the folder, or beside the file.
    pub fn file(&self, name: &str) -> PathBuf {
        if self.path.is_dir() {
            self.path.join(name)
        } else {
            self.path.with_file_name(name)
        }
    }

    /// Whether the folder has this file.
    pub fn has(&self, name: &str) -> bool {
        self.path.is_dir() && self.path.join(name).is_file()
    }

    /// Whether a file of this ending was named.
    pub fn is_file(&self, ending: &str) -> bool {
        self.path.is_file() && self.path.to_string_lossy().ends_with(ending)
    }

    /// Whether a file of torch was named that has all these tensors.
    pub fn is_torch_with(&self, names: &[&str]) -> bool {
        let of_torch = || self.is_file(".pt") || self.is_file(".pth");
        let file = self.torch.get_or_init(|| of_torch().then(|| torch::open(&self.path).ok()).flatten());
        file.as_ref().is_some_and(|file| names.iter().all(|name| file.tensors.contains(name)))
    }

    /// The path with its Hub repository as `org/name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folders and the file of the path, the innermost first.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.name.rsplit('/').filter(|part| !part.is_empty())
    }

    /// The number that follows `before` in the innermost part that has one, such as 12 after `layer_`.
    pub fn number_after(&self, before: &str) -> Option<usize> {
        self.parts().find_map(|part| number_after(part, before))
    }
}

/// The whole number right after the first `before` that one follows.
pub fn number_after(text: &str, before: &str) -> Option<usize> {
    let digits = |at: usize| {
        let rest = &text[at + before.len()..];
        &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())]
    };
    text.match_indices(before).find_map(|(at, _)| digits(at).parse().ok())
}

/// A tensor as it is.
pub fn tensor(file: &TensorFile, name: &str) -> Result<HostTensor> {
    Ok(HostTensor { shape: file.shape(name)?.to_vec(), values: file.f32(name)? })
}

/// A matrix as it is. Error: it is no matrix, or an empty one.
pub fn matrix(file: &TensorFile, name: &str) -> Result<HostTensor> {
    match *file.shape(name)? {
        [rows, columns] if rows > 0 && columns > 0 => tensor(file, name),
        ref shape => {
            Err(Error::format(file.path(), format!("tensor {name} has shape {shape:?}, expected a matrix with values")))
        }
    }
}

/// A matrix with rows and columns exchanged: what torch's `Linear` stores `[out, in]`.
pub fn transposed(file: &TensorFile, name: &str) -> Result<HostTensor> {
    Ok(matrix(file, name)?.transposed())
}

/// A tensor of one value, or of one value for each latent, as the latter.
pub fn per_latent(file: &TensorFile, name: &str, d_sae: usize) -> Result<HostTensor> {
    let tensor = tensor(file, name)?;
    Ok(match tensor.values[..] {
        [value] => full(d_sae, value),
        _ => tensor,
    })
}

/// The same value for each latent.
pub fn full(d_sae: usize, value: f32) -> HostTensor {
    HostTensor { shape: vec![d_sae], values: vec![value; d_sae] }
}

/// The first of these names that the file has. Error: none.
pub fn one_of<'a>(file: &TensorFile, names: &[&'a str]) -> Result<&'a str> {
    let first = names[0];
    names.iter().copied().find(|name| file.contains(name)).map_or_else(|| file.info(first).map(|_| first), Ok)
}

/// A cross-layer decoder `[d_sae, layers, d_out]` summed over its layers; others as they are.
pub fn sum_of_layers(tensor: HostTensor) -> HostTensor {
    let [rows, layers, width] = tensor.shape[..] else { return tensor };
    let mut values = vec![0.0; rows * width];
    for (out, row) in values.chunks_exact_mut(width).zip(tensor.values.chunks_exact(layers * width)) {
        for layer in row.chunks_exact(width) {
            out.iter_mut().zip(layer).for_each(|(out, x)| *out += x);
        }
    }
    HostTensor { shape: vec![rows, width], values }
}

/// Puts an SAE together from its tensors by SAELens' names. Errors: one is missing or of the wrong
/// shape; a value is not finite.
pub fn assemble<'a>(
    path: &Path,
    config: SaeConfig,
    tensors: impl IntoIterator<Item = (&'a str, HostTensor)>,
) -> Result<SavedSae> {
    let mut given = Weights::default();
    tensors.into_iter().for_each(|(name, tensor)| given.insert(name, tensor));
    let expected = config.tensors();
    for (name, tensor) in given.iter() {
        match expected.iter().find(|(known, _)| *known == name) {
            Some((_, shape)) if *shape != tensor.shape => {
                let what = format!("{name} has shape {:?}, expected {shape:?}; fetch or write it again", tensor.shape);
                return Err(Error::format(path, what));
            }
            Some(_) => {}
            None => {
                return Err(Error::format(path, format!("{name} does not belong to {}", config.architecture_name())))
            }
        }
    }
    if let Some((missing, _)) = expected.iter().find(|(known, _)| given.iter().all(|(name, _)| name != *known)) {
        return Err(Error::format(path, format!("{missing} is missing; fetch or write it again")));
    }
    check_finite(path, &given)?;
    Ok(SavedSae { config, weights: given, log_sparsity: None })
}

/// Refuses weights with a value that is not finite.
pub fn check_finite(path: &Path, weights: &Weights) -> Result<()> {
    let Some((name, at)) = weights.find_non_finite() else { return Ok(()) };
    let value = weights.get(name).values[at];
    let what = format!("tensor {name} holds {value} as its value number {at}; an SAE with it computes nothing else");
    Err(Error::format(path, what))
}

/// Notes on where an SAE belongs: those that are known.
pub fn metadata<const N: usize>(notes: [(&str, Option<Value>); N]) -> Map<String, Value> {
    notes.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect()
}
