//! Writing what `torch.load(path, weights_only=True)` reads: a zip archive of stored entries with a
//! pickle of protocol 2. Source: torch's `serialization.py`; APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16.

use super::tensors::Tensor;
use super::write;
use crate::error::{Error, Result};
use flate2::Crc;
use safetensors::Dtype;
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// The folder inside the archive; torch takes any.
const ROOT: &str = "archive";
/// torch aligns the storages so that they can be mapped.
const ALIGNMENT: usize = 64;

/// Writes a dict of tensors, and of values (numbers, texts and dicts of them), whole or not at all.
/// Errors: it takes 4 GiB or more; a dtype that torch's pickles do not name.
pub fn save(path: &Path, tensors: &[(String, Tensor<'_>)], values: &[(&str, Value)]) -> Result<()> {
    let mut pickle = Pickler::default();
    pickle.open_dict();
    for (key, (name, tensor)) in tensors.iter().enumerate() {
        pickle.text(name);
        pickle.tensor(key, tensor).map_err(|what| Error::format(path, what))?;
    }
    for (name, value) in values {
        pickle.text(name);
        pickle.value(value);
    }
    pickle.close_dict();
    let pickle = pickle.finish();
    let storage = |(key, (_, tensor)): (usize, &(String, Tensor<'_>))| (format!("data/{key}"), tensor.bytes.to_vec());
    let mut entries = vec![("data.pkl".to_string(), pickle), ("byteorder".to_string(), b"little".to_vec())];
    entries.extend(tensors.iter().enumerate().map(storage));
    entries.push(("version".to_string(), b"3\n".to_vec()));
    let bytes = entries.iter().map(|(_, bytes)| bytes.len() as u64 + 1024).sum::<u64>();
    if bytes > u64::from(u32::MAX) {
        let what = format!("takes {bytes} bytes, more than a plain zip archive holds; use safetensors (--to saelens)");
        return Err(Error::format(path, what));
    }
    write::atomically(path, |out| zip(out, &entries))
}

/// Writes an archive of stored entries.
fn zip(out: &mut dyn Write, entries: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    let mut at = 0;
    let mut directory = Vec::new();
    for (name, bytes) in entries {
        let name = format!("{ROOT}/{name}");
        let mut crc = Crc::new();
        crc.update(bytes);
        // Version 1.0, no flags, stored, no time; checksum, both sizes, length of the name.
        let mut common = [10u16, 0, 0, 0, 0].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        common.extend([crc.sum(), bytes.len() as u32, bytes.len() as u32].iter().flat_map(|x| x.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        // An extra field of torch's kind (FB) pads to the alignment.
        let start = at + 30 + name.len() + 4;
        let padding = start.next_multiple_of(ALIGNMENT) - start;
        directory.extend([b"PK\x01\x02\x0a\x00".as_slice(), &common].concat());
        directory.extend([0u8; 12]);
        directory.extend((at as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        let extra = (4 + padding as u16).to_le_bytes();
        let header = [b"PK\x03\x04".as_slice(), &common, &extra, name.as_bytes(), b"FB"].concat();
        out.write_all(&header)?;
        out.write_all(&(padding as u16).to_le_bytes())?;
        out.write_all(&vec![b'Z'; padding])?;
        out.write_all(bytes)?;
        at = start + padding + bytes.len();
    }
    let count = (entries.len() as u16).to_le_bytes();
    out.write_all(&directory)?;
    out.write_all(&[b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count].concat())?;
    out.write_all(&(directory.len() as u32).to_le_bytes())?;
    out.write_all(&(at as u32).to_le_bytes())?;
    out.write_all(&[0, 0])
}

/// Opcodes of protocol 2, one call each; see `pickle.rs` for their reading.
struct Pickler(Vec<u8>);

impl Default for Pickler {
    fn default() -> Self {
        Pickler(vec![0x80, 2])
    }
}

impl Pickler {
    fn open_dict(&mut self) {
        self.0.extend(b"}(");
    }

    fn close_dict(&mut self) {
        self.0.push(b'u');
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(b'.');
        self.0
    }

    fn text(&mut self, text: &str) {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn int(&mut self, value: i64) {
        self.0.extend([0x8a, 8]);
        self.0.extend(value.to_le_bytes());
    }

    fn name(&mut self, module: &str, name: &str) {
        self.0.extend(format!("c{module}\n{name}\n").as_bytes());
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Bool(value) => self.0.push(if *value { 0x88 } else { 0x89 }),
            Value::Number(number) => match number.as_i64() {
                Some(number) => self.int(number),
                None => {
                    self.0.push(b'G');
                    self.0.extend(number.as_f64().unwrap_or_default().to_be_bytes());
                }
            },
            Value::Object(map) => {
                self.open_dict();
                for (key, value) in map {
                    self.text(key);
                    self.value(value);
                }
                self.close_dict();
            }
            _ => self.0.push(b'N'),
        }
    }

    /// `_rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`.
    fn tensor(&mut self, key: usize, tensor: &Tensor<'_>) -> Result<(), String> {
        let class = match tensor.dtype {
            Dtype::F32 => "FloatStorage",
            Dtype::F64 => "DoubleStorage",
            Dtype::F16 => "HalfStorage",
            Dtype::BF16 => "BFloat16Storage",
            Dtype::I64 => "LongStorage",
            other => return Err(format!("a tensor of {other:?} cannot be written for torch")),
        };
        let elements: usize = tensor.shape.iter().product();
        self.name("torch._utils", "_rebuild_tensor_v2");
        self.0.extend(b"((");
        self.text("storage");
        self.name("torch", class);
        self.text(&key.to_string());
        self.text("cpu");
        self.int(elements as i64);
        self.0.extend(b"tQ");
        self.int(0);
        let strides = super::strided::Strided::row_major(tensor.dtype, tensor.shape.clone()).strides;
        for sizes in [&tensor.shape, &strides] {
            self.0.push(b'(');
            sizes.iter().for_each(|&size| self.int(size as i64));
            self.0.push(b't');
        }
        self.0.push(0x89);
        self.name("collections", "OrderedDict");
        self.0.extend(b")RtR");
        Ok(())
    }
}
