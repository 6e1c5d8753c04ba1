//! A safetensors file whose tensors arrive piece by piece: its shapes are known at the start, its
//! values need never be in memory at once.

use super::tensors::Tensor;
use super::write;
use crate::error::{Error, Result};
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::Dtype;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file being written; it gets its name when it is whole, and is gone if it is given up.
pub struct TensorStream {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    tensors: Vec<Growing>,
}

/// A tensor that is being filled from its start.
struct Growing {
    name: String,
    dtype: Dtype,
    /// Bytes of the file that are still to be written.
    rest: Range<u64>,
}

impl TensorStream {
    /// Begins a file of these tensors (name, dtype, shape). Error: the file cannot be made.
    pub fn create(path: &Path, tensors: &[(String, Dtype, Vec<usize>)]) -> Result<Self> {
        let mut infos = Vec::new();
        let mut end = 0;
        for (name, dtype, shape) in tensors {
            let begin = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            infos.push((name.clone(), TensorInfo { dtype: *dtype, shape: shape.clone(), data_offsets: (begin, end) }));
        }
        let header = header(path, infos.clone())?;
        let start = header.len() as u64;
        let temporary = write::temporary_name(path);
        let mut file = File::create(&temporary).map_err(Error::io(path, "create"))?;
        let growing = |(name, info): (String, TensorInfo)| {
            let ((begin, end), dtype) = (info.data_offsets, info.dtype);
            Growing { name, dtype, rest: start + begin as u64..start + end as u64 }
        };
        let tensors = infos.into_iter().map(growing).collect();
        let written = file.write_all(&header);
        let stream = TensorStream { path: path.to_path_buf(), temporary, file, tensors };
        written.map_err(Error::io(path, "write"))?;
        Ok(stream)
    }

    /// Writes the next values of a tensor of F32, F16, BF16 or F64. Error: there is no room for them, in
    /// the tensor or on disk.
    pub fn append(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.append_as(name, |dtype| Tensor::rounded(dtype, &[values.len()], values))
    }

    /// Writes the next values of a tensor of U32. Errors as for [`TensorStream::append`].
    pub fn append_u32(&mut self, name: &str, values: &[u32]) -> Result<()> {
        self.append_as(name, |_| Tensor::u32(&[values.len()], values))
    }

    fn append_as<'v>(&mut self, name: &str, values: impl FnOnce(Dtype) -> Tensor<'v>) -> Result<()> {
        let refuse = |what: &str| Err(Error::format(&self.path, format!("tensor {name} {what}")));
        let Some(tensor) = self.tensors.iter_mut().find(|tensor| tensor.name == name) else {
            return refuse("is not among those that the file was begun with");
        };
        let values = values(tensor.dtype);
        if values.dtype != tensor.dtype {
            return refuse("holds numbers of another kind");
        }
        let bytes = values.bytes;
        if tensor.rest.end - tensor.rest.start < bytes.len() as u64 {
            return refuse("is full");
        }
        let file = &mut self.file;
        let written = file.seek(SeekFrom::Start(tensor.rest.start)).and_then(|_| file.write_all(&bytes));
        written.map_err(Error::io(&self.path, "write"))?;
        tensor.rest.start += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name. Errors: a tensor is not full; the disk is.
    pub fn finish(self) -> Result<()> {
        if let Some(tensor) = self.tensors.iter().find(|tensor| !tensor.rest.is_empty()) {
            let what = format!("tensor {} lacks {} bytes", tensor.name, tensor.rest.end - tensor.rest.start);
            return Err(Error::format(&self.path, what));
        }
        self.file.sync_all().map_err(Error::io(&self.path, "sync"))?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path, "rename"))
    }
}

impl Drop for TensorStream {
    fn drop(&mut self) {
        // After finish() there is nothing to remove; before it, nobody would know what to do about
        // an error.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Length and JSON of the header, padded with spaces so that the values are aligned to 8 bytes.
fn header(path: &Path, infos: Vec<(String, TensorInfo)>) -> Result<Vec<u8>> {
    let refuse = |e: String| Error::format(path, format!("cannot be written as safetensors: {e}"));
    let metadata = Metadata::new(None, infos).map_err(|e| refuse(e.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| refuse(e.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::tensors::TensorFile;

    fn begin(folder: &Path, dtype: Dtype) -> TensorStream {
        let tensors = [("b".to_string(), dtype, vec![2, 2]), ("a".to_string(), dtype, vec![3])];
        TensorStream::create(&folder.join("t.safetensors"), &tensors).unwrap()
    }

    #[test]
    fn tensors_that_grow_side_by_side_are_read_again() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64] {
            let folder = tempfile::tempdir().unwrap();
            let mut stream = begin(folder.path(), dtype);
            stream.append("b", &[1.0, 2.0]).unwrap();
            stream.append("a", &[-1.0, -2.0, -3.0]).unwrap();
            stream.append("b", &[3.0, 4.0]).unwrap();
            stream.finish().unwrap();
            let file = TensorFile::open(folder.path().join("t.safetensors")).unwrap();
            assert_eq!(file.f32_shaped("b", &[2, 2]).unwrap(), [1.0, 2.0, 3.0, 4.0]);
            assert_eq!(file.f32_shaped("a", &[3]).unwrap(), [-1.0, -2.0, -3.0]);
            assert_eq!(file.info("a").unwrap().dtype, dtype);
        }
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut stream = begin(folder.path(), Dtype::F32);
        let message = stream.append("b", &[0.0; 5]).unwrap_err().to_string();
        assert!(message.ends_with("t.safetensors: tensor b is full"), "{message}");
        assert!(stream.append("c", &[0.0]).is_err());
        let message = stream.append_u32("a", &[0]).unwrap_err().to_string();
        assert!(message.ends_with("t.safetensors: tensor a holds numbers of another kind"), "{message}");
        stream.append("b", &[0.0; 3]).unwrap();
        let message = stream.finish().unwrap_err().to_string();
        assert!(message.ends_with("t.safetensors: tensor b lacks 4 bytes"), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
