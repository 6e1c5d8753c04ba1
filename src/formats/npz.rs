//! `.npz`: a zip archive of `.npy` files, as `numpy.savez` and `numpy.savez_compressed` write it.

use super::archive::{Archive, Entry};
use super::arrays::npy_layout;
use super::strided::Strided;
use super::tensors::{map, Place, TensorFile};
use crate::error::{Error, Result};
use std::path::Path;

/// Opens every array of the archive as a tensor of its name. Stored arrays in row-major order stay in
/// the map of the file. Errors: as [`Archive::read`]; an entry is no `.npy` file or not of the size
/// that its header claims.
pub fn open(path: &Path) -> Result<TensorFile> {
    let map = map(path)?;
    let archive = Archive::read(path, &map)?;
    let mut tensors = Vec::new();
    for entry in archive.entries() {
        let name = entry.name.strip_suffix(".npy").ok_or_else(|| {
            let what = format!("entry {:?} is no .npy file, expected what numpy.savez writes", entry.name);
            Error::format(path, what)
        })?;
        let (layout, place) = array(path, &map, entry)?;
        tensors.push((name.to_string(), layout.dtype, layout.shape, place));
    }
    Ok(TensorFile::from_places(path, map, tensors))
}

fn array(path: &Path, map: &[u8], entry: &Entry) -> Result<(Strided, Place)> {
    let content = entry.content(path, map)?;
    let named = |what: String| Error::format(path, format!("entry {:?} {what}", entry.name));
    let (start, layout) = npy_layout(&content).map_err(named)?;
    let elements = &content[start..];
    if layout.elements().and_then(|n| n.checked_mul(layout.width())) != Some(elements.len()) {
        let (held, shape, dtype) = (elements.len(), &layout.shape, layout.dtype);
        return Err(named(format!("holds {held} bytes, its shape {shape:?} of {dtype:?} takes another size")));
    }
    let place = match entry.stored() {
        Some(range) if layout.is_contiguous() => Place::Within(range.start + start..range.end),
        _ => Place::Apart(layout.gather(elements)),
    };
    Ok((layout, place))
}
