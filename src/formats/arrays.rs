//! Arrays in files that are not safetensors, opened as if they were: `.npy` (one tensor, `array`)
//! and bare little-endian uint16 (`.bin`, as nanoGPT writes tokens; one tensor, `tokens`).

use super::tensors::TensorFile;
use crate::error::{Error, Result};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use safetensors::Dtype;
use std::path::{Path, PathBuf};

/// Splits `FILE:TENSOR`; a path that exists as it stands is not split.
pub fn split_tensor_name(file: &str) -> (PathBuf, Option<&str>) {
    match file.rsplit_once(':') {
        Some((path, tensor)) if !Path::new(file).exists() && !tensor.contains('/') => (path.into(), Some(tensor)),
        _ => (file.into(), None),
    }
}

/// Maps a file of tensors; its ending says what it is, safetensors unless `.npy` or `.bin`.
/// Errors: it cannot be opened, is not whole, or its elements are of no type that can be read.
pub fn open(path: &Path) -> Result<TensorFile> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => open_npy(path),
        Some("bin") => {
            let bytes = std::fs::metadata(path).map_err(Error::io(path, "open"))?.len() as usize;
            if !bytes.is_multiple_of(2) {
                let what = format!("holds {bytes} bytes, which are not whole uint16 numbers; fetch or write it again");
                return Err(Error::format(path, what));
            }
            TensorFile::open_array(path, 0, "tokens", Dtype::U16, vec![bytes / 2])
        }
        _ => TensorFile::open(path),
    }
}

fn open_npy(path: &Path) -> Result<TensorFile> {
    let mut file = std::fs::File::open(path).map_err(Error::io(path, "open"))?;
    let header = NpyHeader::from_reader(&mut file)
        .map_err(|e| Error::format(path, format!("not a whole .npy file ({e}); fetch or write it again")))?;
    let start = std::io::Seek::stream_position(&mut file).map_err(Error::io(path, "read"))?;
    let dtype = npy_dtype(&header.dtype()).ok_or_else(|| {
        let found = header.dtype().descr();
        Error::format(path, format!("holds elements of type {found}, expected little-endian integers or floats"))
    })?;
    if header.order() == Order::Fortran && header.shape().len() > 1 {
        return Err(Error::format(path, "is in column-major (Fortran) order; save it with numpy.ascontiguousarray"));
    }
    let shape = header.shape().iter().map(|&n| n as usize).collect();
    TensorFile::open_array(path, start as usize, "array", dtype, shape)
}

fn npy_dtype(dtype: &DType) -> Option<Dtype> {
    let DType::Plain(element) = dtype else { return None };
    if element.endianness() == Endianness::Big {
        return None;
    }
    Some(match (element.type_char(), element.size_field()) {
        (TypeChar::Float, 2) => Dtype::F16,
        (TypeChar::Float, 4) => Dtype::F32,
        (TypeChar::Float, 8) => Dtype::F64,
        (TypeChar::Int, 1) => Dtype::I8,
        (TypeChar::Int, 2) => Dtype::I16,
        (TypeChar::Int, 4) => Dtype::I32,
        (TypeChar::Int, 8) => Dtype::I64,
        (TypeChar::Uint, 1) => Dtype::U8,
        (TypeChar::Uint, 2) => Dtype::U16,
        (TypeChar::Uint, 4) => Dtype::U32,
        (TypeChar::Uint, 8) => Dtype::U64,
        _ => return None,
    })
}
