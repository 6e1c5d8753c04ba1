//! Files of `torch.save` (`.pt`, `.pth`, `.bin`): a zip archive with a pickle and one entry for every
//! storage, or, before torch 1.6, pickles and storages one after another. Nothing in them is run: see
//! [`super::pickle`]. Source: torch's `serialization.py`.

use super::archive::{is_zip, Archive};
use super::pickle::{Object, Pickle, Storage};
use super::strided::Strided;
use super::tensors::{map, Place, Tensor, TensorFile};
use crate::error::{Error, Result};
use crate::sae::weights::HostTensor;
use safetensors::Dtype;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

pub use super::torch_writer::save;

/// What a file holds.
pub struct TorchFile {
    /// Every tensor, by its key; keys of dicts within the dict are joined with dots.
    pub tensors: TensorFile,
    /// Every number, switch and text, by its key.
    pub values: Map<String, Value>,
}

/// A pickle of torch's number 0x1950a86a20f9469cfc6c, with which old files begin.
const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// Opens a file that holds a dict, as `torch.save(sae.state_dict(), path)` writes it. Contiguous
/// tensors stay in the map of the file. Errors: it is not whole; it asks for anything but tensors and
/// plain containers; a tensor reaches beyond its storage.
pub fn open(path: &Path) -> Result<TorchFile> {
    let map = map(path)?;
    let (pickle, storages) = if is_zip(&map) {
        from_zip(path, &map)?
    } else if map.starts_with(MAGIC) {
        from_legacy(path, &map)?
    } else {
        return Err(Error::format(path, "is not a file of torch.save (neither a zip archive nor its older form)"));
    };
    let mut tensors = Vec::new();
    let mut values = Map::new();
    for (name, id) in pickle.entries().map_err(|what| Error::format(path, what))? {
        match pickle.object(id) {
            Object::Tensor(storage, view) => {
                let Object::Storage(storage) = pickle.object(*storage) else { continue };
                let place = place(path, &map, &storages, &name, storage, view)?;
                tensors.push((name, view.dtype, view.shape.clone(), place));
            }
            Object::Bool(value) => drop(values.insert(name, (*value).into())),
            Object::Int(value) => drop(values.insert(name, (*value).into())),
            Object::Float(value) => drop(values.insert(name, (*value).into())),
            Object::Text(value) => drop(values.insert(name, value.as_str().into())),
            _ => {}
        }
    }
    Ok(TorchFile { tensors: TensorFile::from_places(path, map, tensors), values })
}

/// The bytes of every storage, by its key: in the file, or inflated.
type Storages<'a> = HashMap<String, Cells<'a>>;

enum Cells<'a> {
    Within(Range<usize>),
    Inflated(Cow<'a, [u8]>),
}

fn from_zip<'a>(path: &Path, map: &'a [u8]) -> Result<(Pickle, Storages<'a>)> {
    let archive = Archive::read(path, map)?;
    let suffix = "/data.pkl";
    let Some(entry) = archive.entries().iter().find(|entry| entry.name.ends_with(suffix)) else {
        return Err(Error::format(path, "is a zip archive without a data.pkl, expected a file of torch.save"));
    };
    let root = &entry.name[..entry.name.len() - suffix.len()];
    if archive.entry(&format!("{root}/constants.pkl")).is_some() {
        return Err(Error::format(path, "is a TorchScript program; save a state_dict() or safetensors instead"));
    }
    if let Some(order) = archive.entry(&format!("{root}/byteorder")) {
        if *order.content(path, map)? != *b"little" {
            return Err(Error::format(path, "was written on a big-endian machine; write it on a little-endian one"));
        }
    }
    let pickle = Pickle::read(&entry.content(path, map)?).map_err(|what| Error::format(path, what))?;
    let mut storages = HashMap::new();
    for entry in archive.entries() {
        if let Some(key) = entry.name.strip_prefix(&format!("{root}/data/")) {
            let content = entry.content(path, map)?;
            let cells = entry.stored().map_or(Cells::Inflated(content), Cells::Within);
            storages.insert(key.to_string(), cells);
        }
    }
    Ok((pickle, storages))
}

/// Magic number, protocol, machine, object, keys of the storages: five pickles; then each storage as
/// its number of elements in eight bytes and the elements.
fn from_legacy<'a>(path: &Path, map: &[u8]) -> Result<(Pickle, Storages<'a>)> {
    let mut at = MAGIC.len();
    let mut next = || {
        let pickle = Pickle::read(&map[at..]).map_err(|what| Error::format(path, what))?;
        at += pickle.length();
        Ok(pickle)
    };
    let (protocol, _machine, pickle, keys) = (next()?, next()?, next()?, next()?);
    let refuse = |what: &str| Error::format(path, format!("{what}; fetch or write it again"));
    if protocol.root() != &Object::Int(1001) {
        return Err(refuse("is not of the protocol 1001 that torch wrote before 1.6"));
    }
    let Object::Sequence(ids) = keys.root() else { return Err(refuse("does not list its storages")) };
    let mut storages = HashMap::new();
    for &id in ids {
        let Object::Text(key) = keys.object(id) else { return Err(refuse("lists a storage without a name")) };
        let storage = pickle.storage(key).ok_or_else(|| refuse("lists a storage that no tensor has"))?;
        let bytes = storage.elements.checked_mul(storage.dtype.bitsize() / 8);
        let start = at + 8;
        let range =
            bytes.and_then(|bytes| Some(start..start.checked_add(bytes)?)).filter(|range| range.end <= map.len());
        let Some(range) = range else { return Err(refuse(&format!("is cut off in storage {key}"))) };
        if map[at..start] != (storage.elements as u64).to_le_bytes() {
            return Err(refuse(&format!("storage {key} is not as long as its tensors say")));
        }
        at = range.end;
        storages.insert(key.clone(), Cells::Within(range));
    }
    Ok((pickle, storages))
}

fn place(path: &Path, map: &[u8], storages: &Storages, name: &str, storage: &Storage, view: &Strided) -> Result<Place> {
    let refuse = |what: String| Error::format(path, format!("tensor {name} {what}; fetch or write it again"));
    let cells = storages.get(&storage.key).ok_or_else(|| refuse("has no data in the file".into()))?;
    let bytes = match cells {
        Cells::Within(range) => &map[range.clone()],
        Cells::Inflated(bytes) => bytes,
    };
    if !view.fits(bytes.len()) {
        let (shape, held) = (&view.shape, bytes.len() / view.width());
        return Err(refuse(format!("of shape {shape:?} reaches beyond its storage of {held} elements")));
    }
    Ok(match cells {
        Cells::Within(range) if view.is_contiguous() => {
            let start = range.start + view.offset * view.width();
            Place::Within(start..start + view.elements().unwrap_or(0) * view.width())
        }
        _ => Place::Apart(view.gather(bytes)),
    })
}

/// A tensor to be written in f32.
pub fn f32_tensor(tensor: &HostTensor) -> Tensor<'static> {
    let bytes: Vec<u8> = bytemuck::cast_slice(&tensor.values).to_vec();
    Tensor { dtype: Dtype::F32, shape: tensor.shape.clone(), bytes: bytes.into() }
}
