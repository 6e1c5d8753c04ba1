//! Arrays in files that are not safetensors, opened as if they were: `.npy` (one tensor, `array`),
//! `.npz`, torch's `.pt` and `.pth`, and bare little-endian uint16 (`.bin`, as nanoGPT writes tokens;
//! one tensor, `tokens`).

use super::strided::Strided;
use super::tensors::TensorFile;
use super::{npz, torch};
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

/// Maps a file of tensors; its ending says what it is, safetensors unless it is one of the others.
/// Errors: it cannot be opened, is not whole, or its elements are of no type that can be read.
pub fn open(path: &Path) -> Result<TensorFile> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("npy") => open_npy(path),
        Some("npz") => npz::open(path),
        Some("pt" | "pth") => Ok(torch::open(path)?.tensors),
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
    let map = super::tensors::map(path)?;
    let (start, layout) = npy_layout(&map).map_err(|what| Error::format(path, what))?;
    if !layout.is_contiguous() {
        return Err(Error::format(path, "is in column-major (Fortran) order; save it with numpy.ascontiguousarray"));
    }
    TensorFile::open_array(path, start, "array", layout.dtype, layout.shape)
}

/// Where the elements begin in the bytes of an `.npy` file, and how they lie from there. Error: what
/// is wrong with the header.
pub(super) fn npy_layout(bytes: &[u8]) -> Result<(usize, Strided), String> {
    let broken = |e: &dyn std::fmt::Display| format!("not a whole .npy file ({e}); fetch or write it again");
    // Magic and version, then the length of the header in two bytes or (from version 2 on) four.
    let length = match bytes.get(6..12) {
        Some(&[1, _, low, high, ..]) => usize::from(u16::from_le_bytes([low, high])),
        Some(&[_, _, a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => return Err(broken(&"its header is cut off")),
    };
    if length > bytes.len() {
        return Err(broken(&format!("its header claims {length} bytes")));
    }
    if !is_countable(&bytes[..length.saturating_add(12).min(bytes.len())]) {
        return Err(broken(&"its shape has more elements than can be counted"));
    }
    let mut rest = bytes;
    let header = NpyHeader::from_reader(&mut rest).map_err(|e| broken(&e))?;
    let dtype = npy_dtype(&header.dtype()).ok_or_else(|| {
        let found = header.dtype().descr();
        format!("holds elements of type {found}, expected little-endian integers or floats")
    })?;
    let shape: Vec<usize> = header.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
    let layout = match header.order() {
        Order::C => Strided::row_major(dtype, shape),
        Order::Fortran => Strided::column_major(dtype, shape),
    };
    Ok((bytes.len() - rest.len(), layout))
}

/// Whether the number of elements of a header's shape fits a machine word: npyz multiplies without a
/// look.
fn is_countable(header: &[u8]) -> bool {
    let text = String::from_utf8_lossy(header);
    let shape = text.split("shape").nth(1).and_then(|rest| rest.split('(').nth(1)?.split(')').next());
    let mut sizes = shape.into_iter().flat_map(|shape| shape.split(',')).map(str::trim).filter(|size| !size.is_empty());
    sizes.try_fold(1u64, |product, size| product.checked_mul(size.trim_end_matches('L').parse().ok()?)).is_some()
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
