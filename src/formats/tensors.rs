//! Named tensors in files, above all safetensors: read through a memory map (or from embedded bytes), checked
//! before anything is allocated, converted to f32 or u32; written whole or not at all.

use super::write;
use crate::error::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{SafeTensors, TensorInfo};
use safetensors::{Dtype, SafeTensorError, View};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// An open file of tensors.
pub struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    tensors: BTreeMap<String, Held>,
    text_metadata: Option<HashMap<String, String>>,
}

/// A tensor and where its elements are.
struct Held {
    info: TensorInfo,
    place: Place,
}

/// Where little-endian elements in row-major order are.
pub(super) enum Place {
    /// These bytes of the file.
    Within(Range<usize>),
    /// Made from the file: inflated, or brought in order.
    Apart(Vec<u8>),
}

enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl TensorFile {
    /// Maps a file. Errors: it cannot be opened, or its header does not describe it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_safetensors(path.to_path_buf(), Bytes::Mapped(map(path)?))
    }

    /// Maps a file that holds the little-endian elements of one tensor from byte `start` on.
    /// Error: the file's size is not exactly that of the tensor.
    pub(super) fn open_array(path: &Path, start: usize, name: &str, dtype: Dtype, shape: Vec<usize>) -> Result<Self> {
        let map = map(path)?;
        let held = map.len().saturating_sub(start);
        let elements = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        let expected = elements.and_then(|elements| elements.checked_mul(dtype.bitsize() / 8));
        if expected != Some(held) {
            let what =
                format!("holds {held} bytes, its shape {shape:?} of {dtype:?} takes another size; write it again");
            return Err(Error::format(path, what));
        }
        let tensors = vec![(name.to_string(), dtype, shape, Place::Within(start..map.len()))];
        Ok(Self::from_places(path, map, tensors))
    }

    /// Tensors found in a mapped file: name, dtype, shape, and where the elements are. Each place must
    /// have exactly the bytes of its shape.
    pub(super) fn from_places(path: &Path, map: Mmap, tensors: Vec<(String, Dtype, Vec<usize>, Place)>) -> Self {
        let held = |(name, dtype, shape, place): (String, Dtype, Vec<usize>, Place)| {
            let bytes = match &place {
                Place::Within(range) => range.len(),
                Place::Apart(bytes) => bytes.len(),
            };
            (name, Held { info: TensorInfo { dtype, shape, data_offsets: (0, bytes) }, place })
        };
        TensorFile {
            path: path.to_path_buf(),
            bytes: Bytes::Mapped(map),
            tensors: tensors.into_iter().map(held).collect(),
            text_metadata: None,
        }
    }

    /// Reads bytes that are part of the program; `name` stands for the path in messages.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::from_safetensors(PathBuf::from(name), Bytes::Static(bytes))
    }

    /// A file that is never written; `name` stands for the path in messages.
    pub fn from_tensors(name: &str, tensors: Vec<(String, Tensor<'_>)>) -> Result<Self> {
        let bytes = safetensors::serialize(tensors, None)
            .map_err(|e| Error::format(Path::new(name), format!("cannot be made as safetensors: {e}")))?;
        Self::from_safetensors(PathBuf::from(name), Bytes::Owned(bytes))
    }

    fn from_safetensors(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let describe = |e: SafeTensorError| {
            let size = bytes.len();
            Error::format(
                &path,
                format!("not a whole safetensors file ({e}; {size} bytes found); fetch or write it again"),
            )
        };
        // Deserialising checks that the header's offsets cover the file exactly.
        SafeTensors::deserialize(&bytes).map_err(describe)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(describe)?;
        let held = |(name, info): (String, &TensorInfo)| {
            let (from, to) = info.data_offsets;
            let place = Place::Within(header + 8 + from..header + 8 + to);
            (name, Held { info: info.clone(), place })
        };
        let tensors = metadata.tensors().into_iter().map(held).collect();
        Ok(TensorFile { path, bytes, tensors, text_metadata: metadata.metadata().clone() })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensor names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The `__metadata__` of a safetensors header.
    pub fn text_metadata(&self) -> Option<&HashMap<String, String>> {
        self.text_metadata.as_ref()
    }

    /// Dtype and shape of a tensor. Error: it is missing (the ones present are named).
    pub fn info(&self, name: &str) -> Result<&TensorInfo> {
        Ok(&self.held(name)?.info)
    }

    fn held(&self, name: &str) -> Result<&Held> {
        self.tensors.get(name).ok_or_else(|| {
            let names = self.names();
            let shown = names.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            let more = if names.len() > 12 { format!(", … ({} in all)", names.len()) } else { String::new() };
            Error::format(&self.path, format!("tensor {name} is missing; the file holds {shown}{more}"))
        })
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.info(name)?.shape)
    }

    /// Fails unless the tensor has exactly this shape.
    pub fn expect_shape(&self, name: &str, expected: &[usize]) -> Result<()> {
        let found = self.shape(name)?;
        if found != expected {
            return Err(Error::format(&self.path, format!("tensor {name} has shape {found:?}, expected {expected:?}")));
        }
        Ok(())
    }

    /// The raw little-endian bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(match &self.held(name)?.place {
            Place::Within(range) => &self.bytes[range.clone()],
            Place::Apart(bytes) => bytes,
        })
    }

    /// A floating-point tensor (F64, F32, F16, BF16) as f32.
    pub fn f32(&self, name: &str) -> Result<Vec<f32>> {
        let elements = self.info(name)?.shape.iter().product();
        self.f32_range(name, 0, elements)
    }

    /// Elements `first..first + count` of a floating-point tensor as f32.
    pub fn f32_range(&self, name: &str, first: usize, count: usize) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let bytes = self.bytes(name)?;
        let convert = |width: usize, one: fn(&[u8]) -> f32| -> Vec<f32> {
            bytes[first * width..(first + count) * width].chunks_exact(width).map(one).collect()
        };
        Ok(match info.dtype {
            Dtype::F32 => convert(4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Dtype::F16 => convert(2, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Dtype::BF16 => convert(2, |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Dtype::F64 => convert(8, |b| f64::from_le_bytes(b.try_into().expect("eight bytes")) as f32),
            other => {
                let what = format!("tensor {name} has dtype {other:?}, expected F32, F16, BF16 or F64");
                return Err(Error::format(&self.path, what));
            }
        })
    }

    /// A floating-point tensor of exactly this shape as f32.
    pub fn f32_shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.expect_shape(name, shape)?;
        self.f32(name)
    }

    /// Elements `first..first + count` of an integer tensor (I64, I32, U32, U16, U8, …) as u32.
    /// Error: a value is negative or too large.
    pub fn u32_range(&self, name: &str, first: usize, count: usize) -> Result<Vec<u32>> {
        let info = self.info(name)?;
        let (width, one): (usize, fn(&[u8]) -> i64) = match info.dtype {
            Dtype::I64 => (8, |b| i64::from_le_bytes(b.try_into().expect("eight bytes"))),
            Dtype::U64 => (8, |b| i64::try_from(u64::from_le_bytes(b.try_into().expect("eight bytes"))).unwrap_or(-1)),
            Dtype::I32 => (4, |b| i32::from_le_bytes(b.try_into().expect("four bytes")).into()),
            Dtype::U32 => (4, |b| u32::from_le_bytes(b.try_into().expect("four bytes")).into()),
            Dtype::I16 => (2, |b| i16::from_le_bytes([b[0], b[1]]).into()),
            Dtype::U16 => (2, |b| u16::from_le_bytes([b[0], b[1]]).into()),
            Dtype::U8 => (1, |b| b[0].into()),
            Dtype::I8 => (1, |b| i8::from_le_bytes([b[0]]).into()),
            other => {
                return Err(Error::format(&self.path, format!("tensor {name} has dtype {other:?}, expected integers")));
            }
        };
        let bytes = &self.bytes(name)?[first * width..(first + count) * width];
        let value = |b: &[u8]| {
            let value = one(b);
            u32::try_from(value).map_err(|_| {
                Error::format(&self.path, format!("tensor {name} holds {value}, expected values from 0 to 4294967295"))
            })
        };
        bytes.chunks_exact(width).map(value).collect()
    }

    /// An integer tensor as u32.
    pub fn u32(&self, name: &str) -> Result<Vec<u32>> {
        let elements = self.info(name)?.shape.iter().product();
        self.u32_range(name, 0, elements)
    }

    /// An F64 tensor as it is.
    pub fn f64(&self, name: &str) -> Result<Vec<f64>> {
        let dtype = self.info(name)?.dtype;
        if dtype != Dtype::F64 {
            return Err(Error::format(&self.path, format!("tensor {name} has dtype {dtype:?}, expected F64")));
        }
        let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Ok(self.bytes(name)?.chunks_exact(8).map(number).collect())
    }
}

/// A map of a whole file.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    if path.is_dir() {
        return Err(Error::format(path, "is a folder, expected a file of tensors; name one that is in it"));
    }
    // SAFETY: the map is read only; like every reader of mapped files we rely on nobody truncating
    // the file while it is open.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))
}

/// A tensor to be written.
#[derive(Clone)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Little-endian bytes.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Tensor<'a> {
    /// f32 values as they are.
    pub fn f32(shape: &[usize], values: &'a [f32]) -> Self {
        Tensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes: Cow::Borrowed(bytemuck::cast_slice(values)) }
    }

    /// f64 values as they are.
    pub fn f64(shape: &[usize], values: &'a [f64]) -> Self {
        Tensor { dtype: Dtype::F64, shape: shape.to_vec(), bytes: Cow::Borrowed(bytemuck::cast_slice(values)) }
    }

    /// u32 values as they are.
    pub fn u32(shape: &[usize], values: &'a [u32]) -> Self {
        Tensor { dtype: Dtype::U32, shape: shape.to_vec(), bytes: Cow::Borrowed(bytemuck::cast_slice(values)) }
    }

    /// u32 values as I64, the dtype that torch indexes with.
    pub fn i64(shape: &[usize], values: &[u32]) -> Tensor<'static> {
        let bytes = values.iter().flat_map(|&v| i64::from(v).to_le_bytes()).collect();
        Tensor { dtype: Dtype::I64, shape: shape.to_vec(), bytes: Cow::Owned(bytes) }
    }

    /// f32 values rounded to `dtype` (F32, F16, BF16, F64).
    pub fn rounded(dtype: Dtype, shape: &[usize], values: &'a [f32]) -> Self {
        let bytes = match dtype {
            Dtype::F16 => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            _ => return Tensor::f32(shape, values),
        };
        Tensor { dtype, shape: shape.to_vec(), bytes: Cow::Owned(bytes) }
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// An f32 tensor that is fetched when its turn has come to be written.
pub struct Fetched<'a> {
    /// Shape, row-major.
    pub shape: Vec<usize>,
    /// Gives the values, as many as the shape has.
    pub fetch: Box<dyn Fn() -> Result<Cow<'a, [f32]>> + 'a>,
}

/// A [`Fetched`], and where the first error goes: a [`View`] has no way to give one.
struct FetchedView<'a, 'e> {
    tensor: Fetched<'a>,
    error: &'e RefCell<Option<Error>>,
}

impl View for FetchedView<'_, '_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        match (self.tensor.fetch)() {
            Ok(Cow::Borrowed(values)) => Cow::Borrowed(bytemuck::cast_slice(values)),
            Ok(Cow::Owned(values)) => Cow::Owned(bytemuck::cast_slice(&values).to_vec()),
            Err(error) => {
                self.error.borrow_mut().get_or_insert(error);
                Cow::Borrowed(&[])
            }
        }
    }
    fn data_len(&self) -> usize {
        self.tensor.shape.iter().product::<usize>() * size_of::<f32>()
    }
}

/// Writes a safetensors file whole or not at all; its tensors are never in memory at once.
pub fn save_fetched(path: &Path, tensors: Vec<(String, Fetched<'_>)>) -> Result<()> {
    let error = RefCell::new(None);
    let views = tensors.into_iter().map(|(name, tensor)| (name, FetchedView { tensor, error: &error }));
    let views: Vec<_> = views.collect();
    write::by_name(path, |temporary| {
        write_views(path, views, None, temporary)?;
        error.take().map_or(Ok(()), Err)
    })
}

/// Writes a safetensors file whole or not at all.
pub fn save(path: &Path, tensors: Vec<(String, Tensor<'_>)>) -> Result<()> {
    save_with_metadata(path, tensors, None)
}

/// As [`save`], with texts in the header. What is borrowed from a memory map is never in memory at once.
pub fn save_with_metadata(
    path: &Path,
    tensors: Vec<(String, Tensor<'_>)>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    write::by_name(path, |temporary| write_views(path, tensors, metadata, temporary))
}

/// Writes to `temporary` what is to be `path`.
fn write_views(
    path: &Path,
    tensors: Vec<(String, impl View)>,
    metadata: Option<HashMap<String, String>>,
    temporary: &Path,
) -> Result<()> {
    safetensors::serialize_to_file(tensors, metadata, temporary).map_err(|error| match error {
        SafeTensorError::IoError(error) => Error::io(path, "write")(error),
        other => Error::format(path, format!("cannot be written as safetensors: {other}")),
    })
}

/// SAELens' and torch's name of a dtype ("float32", "bfloat16", …; a "torch." prefix is allowed).
pub fn parse_dtype(name: &str) -> Option<Dtype> {
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float64" => Some(Dtype::F64),
        "float32" => Some(Dtype::F32),
        "float16" => Some(Dtype::F16),
        "bfloat16" => Some(Dtype::BF16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_read_again_in_every_dtype() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let values = [1.0f32, -2.5, 0.15625];
        let tensors = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::F64]
            .map(|d| (format!("{d:?}"), Tensor::rounded(d, &[3, 1], &values)))
            .to_vec();
        save(&path, tensors).unwrap();
        let file = TensorFile::open(&path).unwrap();
        for name in file.names() {
            assert_eq!(file.f32_shaped(&name, &[3, 1]).unwrap(), values, "{name}");
        }
    }

    #[test]
    fn tensors_that_are_fetched_are_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let tensors = |second: fn() -> Result<Cow<'static, [f32]>>| {
            let first = Fetched { shape: vec![1, 2], fetch: Box::new(|| Ok(Cow::Borrowed(&[1.5, -2.0]))) };
            vec![("a".into(), first), ("b".into(), Fetched { shape: vec![1], fetch: Box::new(second) })]
        };
        save_fetched(&path, tensors(|| Ok(Cow::Owned(vec![4.0])))).unwrap();
        let message = save_fetched(&path, tensors(|| Err(Error::config("b", "is gone")))).unwrap_err().to_string();
        assert!(message.contains("is gone"), "{message}");
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.f32_shaped("a", &[1, 2]).unwrap(), [1.5, -2.0]);
        assert_eq!(file.f32_shaped("b", &[1]).unwrap(), [4.0]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_truncated_file_and_an_absurd_header_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        save(&path, vec![("a".into(), Tensor::f32(&[4], &[0.0; 4]))]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 4, 20, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let message = TensorFile::open(&path).err().unwrap().to_string();
            assert!(message.contains("t.safetensors"), "{message}");
        }
        std::fs::write(&path, [0xff; 64]).unwrap();
        let message = TensorFile::open(&path).err().unwrap().to_string();
        assert!(message.contains("not a whole safetensors file"), "{message}");
    }

    #[test]
    fn a_folder_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let message = TensorFile::open(folder.path()).err().unwrap().to_string();
        assert!(message.ends_with("is a folder, expected a file of tensors; name one that is in it"), "{message}");
    }

    #[test]
    fn a_missing_tensor_is_named_beside_the_ones_present() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        save(&path, vec![("W_dec".into(), Tensor::f32(&[1], &[0.0]))]).unwrap();
        let message = TensorFile::open(&path).unwrap().f32("W_enc").unwrap_err().to_string();
        assert!(message.ends_with("tensor W_enc is missing; the file holds W_dec"), "{message}");
    }
}
