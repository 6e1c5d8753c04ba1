//! Runs a language model over rows of tokens and writes what is at some hooks to one file.

use super::rows::TokenRows;
use crate::backend::Backend;
use crate::error::Result;
use crate::formats::tensor_stream::TensorStream;
use crate::lm::{LanguageModel, Visitor};
use safetensors::Dtype;
use std::path::Path;

/// What is written, and how.
pub struct ActivationFile<'a> {
    /// Hooks, by TransformerLens' names; `logits` and `loss_per_token` too.
    pub hook_names: &'a [String],
    /// Rows to run, if the data has so many.
    pub rows: usize,
    /// Rows of tokens in one forward pass.
    pub prompts: usize,
    /// F32, F16, BF16 or F64.
    pub dtype: Dtype,
}

impl ActivationFile<'_> {
    /// Writes one tensor `[rows, T, …]` per hook to a safetensors file, in the order of the rows;
    /// `progress` is told after every forward pass how many rows are done, and of how many.
    /// Returns names and shapes. Errors: a hook does not exist, whatever reading and writing can
    /// bring; nothing is left of a file that was not finished.
    pub fn write<B: Backend>(
        &self,
        model: &LanguageModel<B>,
        tokens: &mut TokenRows,
        path: &Path,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<(String, Vec<usize>)>> {
        let context = tokens.context_size();
        let names: Vec<&str> = self.hook_names.iter().map(String::as_str).collect();
        let last = model.last_hook(&names)?;
        let mut forward = model.forward(self.prompts, context)?;
        // Shapes stand at the beginning of the file: the rows are counted before they are run.
        let rows = tokens.count(self.rows)?;
        let with_rows = |name: &String| {
            let shape = model.hook_shape(name, context)?;
            Ok((name.clone(), [vec![rows], shape].concat()))
        };
        let tensors: Vec<(String, Vec<usize>)> = self.hook_names.iter().map(with_rows).collect::<Result<_>>()?;
        let begun: Vec<_> = tensors.iter().map(|(name, shape)| (name.clone(), self.dtype, shape.clone())).collect();
        let mut to_file = ToFile { file: TensorStream::create(path, &begun)?, names, host: Vec::new() };
        let mut done = 0;
        while done < rows {
            let batch = tokens.take_rows(self.prompts.min(rows - done))?;
            forward.run(model, &batch.concat(), &mut to_file, Some(last))?;
            done += batch.len();
            progress(done, rows);
        }
        to_file.file.finish()?;
        Ok(tensors)
    }
}

/// Appends what is at the hooks to the file.
struct ToFile<'a> {
    names: Vec<&'a str>,
    file: TensorStream,
    host: Vec<f32>,
}

impl<B: Backend> Visitor<B> for ToFile<'_> {
    fn wants(&self, hook: &str) -> bool {
        self.names.contains(&hook)
    }

    fn visit(&mut self, backend: &B, hook: &str, value: &mut B::Buffer<f32>, shape: &[usize]) -> Result<()> {
        self.host.resize(shape.iter().product(), 0.0);
        backend.read(value, 0, &mut self.host)?;
        self.file.append(hook, &self.host)
    }
}
