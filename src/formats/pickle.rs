//! A pickle read without running anything: a stack machine that knows tensors, their storages, plain
//! containers, numbers and text, and refuses everything else by its name. Source of the opcodes:
//! CPython's `Lib/pickletools.py`; of the calls: torch's `_utils.py` and `serialization.py`.

use super::strided::Strided;
use safetensors::Dtype;

/// What a pickle holds: objects that name one another by number, so that one that is used twice, or
/// that contains itself, is no trouble.
#[derive(Debug)]
pub struct Pickle {
    objects: Vec<Object>,
    root: Id,
    length: usize,
}

/// The number of an object.
pub type Id = usize;

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of at most eight bytes.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes, or a whole number of more than eight bytes; never of use here.
    Opaque,
    /// A list, tuple or set.
    Sequence(Vec<Id>),
    /// A dict or OrderedDict, in order.
    Dict(Vec<(Id, Id)>),
    /// A class or function of [`ALLOWED`], or a dtype.
    Name(&'static str),
    /// Elements that are kept outside of the pickle.
    Storage(Storage),
    /// A view of a storage.
    Tensor(Id, Strided),
}

/// Elements that are kept outside of the pickle.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Element type.
    pub dtype: Dtype,
    /// Its name outside.
    pub key: String,
    /// How many elements it is said to have.
    pub elements: usize,
}

const ORDERED_DICT: &str = "collections.OrderedDict";
const SIZE: &str = "torch.Size";
const TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const PARAMETER: &str = "torch._utils._rebuild_parameter";

/// The element types of torch's storages.
const STORAGES: &[(&str, Dtype)] = &[
    ("torch.FloatStorage", Dtype::F32),
    ("torch.DoubleStorage", Dtype::F64),
    ("torch.HalfStorage", Dtype::F16),
    ("torch.BFloat16Storage", Dtype::BF16),
    ("torch.LongStorage", Dtype::I64),
    ("torch.IntStorage", Dtype::I32),
    ("torch.ShortStorage", Dtype::I16),
    ("torch.CharStorage", Dtype::I8),
    ("torch.ByteStorage", Dtype::U8),
    ("torch.BoolStorage", Dtype::BOOL),
];

/// Names that may stand in a pickle besides the storages: what makes tensors and plain containers,
/// and dtypes, which are only looked at.
const ALLOWED: &[&str] = &[
    ORDERED_DICT,
    SIZE,
    TENSOR,
    PARAMETER,
    "torch.float32",
    "torch.float64",
    "torch.float16",
    "torch.bfloat16",
    "torch.int64",
    "torch.int32",
    "torch.bool",
];

/// Limits far above any state dict's: containers in containers that are flattened, and entries.
const DEPTH: usize = 8;
const ENTRIES: usize = 100_000;

impl Pickle {
    /// Reads a pickle from the start of `bytes`; more may follow. Error: what is wrong with it, or
    /// what it asks for that is refused.
    pub fn read(bytes: &[u8]) -> Result<Pickle, String> {
        let mut machine =
            Machine { bytes, at: 0, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
        let root = machine.run()?;
        Ok(Pickle { objects: machine.objects, root, length: machine.at })
    }

    /// Bytes that the pickle took.
    pub fn length(&self) -> usize {
        self.length
    }

    /// An object by its number.
    pub fn object(&self, id: Id) -> &Object {
        &self.objects[id]
    }

    /// The object that was pickled.
    pub fn root(&self) -> &Object {
        &self.objects[self.root]
    }

    /// The storage of a key.
    pub fn storage(&self, key: &str) -> Option<&Storage> {
        self.objects.iter().find_map(|object| match object {
            Object::Storage(storage) if storage.key == key => Some(storage),
            _ => None,
        })
    }

    /// The entries of the pickled dict, those of dicts within it by names joined with dots. Error:
    /// it is no dict, or a bottomless one.
    pub fn entries(&self) -> Result<Vec<(String, Id)>, String> {
        let mut entries = Vec::new();
        match self.root() {
            Object::Dict(_) => self.flatten("", self.root, DEPTH, &mut entries).map(|()| entries),
            _ => Err("holds no dict of tensors, expected a state_dict".into()),
        }
    }

    fn flatten(&self, prefix: &str, dict: Id, depth: usize, entries: &mut Vec<(String, Id)>) -> Result<(), String> {
        let Object::Dict(pairs) = &self.objects[dict] else { return Ok(()) };
        for &(key, value) in pairs {
            let name = match &self.objects[key] {
                Object::Text(key) => format!("{prefix}{key}"),
                Object::Int(key) => format!("{prefix}{key}"),
                _ => continue,
            };
            if entries.len() >= ENTRIES || depth == 0 {
                return Err(format!("holds more than {ENTRIES} entries or dicts {DEPTH} deep; no state_dict does"));
            }
            match &self.objects[value] {
                Object::Dict(_) => self.flatten(&format!("{name}."), value, depth - 1, entries)?,
                _ => entries.push((name, value)),
            }
        }
        Ok(())
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            // Protocol and frames say nothing that matters here.
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.since_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Object::None),
            0x88 | 0x89 => self.push(Object::Bool(opcode == 0x88)),
            b'J' | b'K' | b'M' | 0x8a | b'G' => self.number(opcode),
            b'X' | b'T' | 0x8c | b'U' | 0x8d | b'B' | b'C' | 0x8e => self.text(opcode),
            b']' | b')' | 0x8f => self.push(Object::Sequence(Vec::new())),
            b'l' | b't' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Object::Sequence(items))
            }
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Object::Sequence(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend(items)
            }
            b'}' => self.push(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.since_mark()?;
                self.push(Object::Dict(Vec::new()))?;
                self.set_items(&items)
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.set_items(&items)
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set_items(&items)
            }
            b'h' | b'j' | b'q' | b'r' | 0x94 => self.remember(opcode),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.name(module, name)
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let [Object::Text(module), Object::Text(name)] = [0, 1].map(|i| self.objects[names[i]].clone()) else {
                    return Err(broken("a name that is no text"));
                };
                self.name(&module, &name)
            }
            b'Q' => self.storage(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'i' | b'o' | 0x81 | 0x92 => Err(refused("would make an object of a class")),
            _ => Err(broken(&format!("opcode {opcode:#04x}"))),
        }
    }

    fn number(&mut self, opcode: u8) -> Result<(), String> {
        let object = match opcode {
            b'J' => Object::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Object::Int(self.byte()?.into()),
            b'M' => Object::Int(u16::from_le_bytes(self.array()?).into()),
            b'G' => Object::Float(f64::from_be_bytes(self.array()?)),
            _ => {
                let length = self.byte()?;
                let bytes = self.take(length.into())?;
                match bytes.len() {
                    0 => Object::Int(0),
                    1..=8 => {
                        // Two's complement of any length: the sign is in the last byte.
                        let mut whole = if bytes[bytes.len() - 1] >= 0x80 { [0xff; 8] } else { [0; 8] };
                        whole[..bytes.len()].copy_from_slice(bytes);
                        Object::Int(i64::from_le_bytes(whole))
                    }
                    _ => Object::Opaque,
                }
            }
        };
        self.push(object)
    }

    fn text(&mut self, opcode: u8) -> Result<(), String> {
        let length = match opcode {
            0x8c | b'U' | b'C' => self.byte()?.into(),
            0x8d | 0x8e => u64::from_le_bytes(self.array()?),
            _ => u32::from_le_bytes(self.array()?).into(),
        };
        let bytes = self.take(usize::try_from(length).map_err(|_| cut_off())?)?;
        let object = match opcode {
            b'B' | b'C' | 0x8e => Object::Opaque,
            _ => Object::Text(String::from_utf8(bytes.to_vec()).map_err(|_| broken("text that is not UTF-8"))?),
        };
        self.push(object)
    }

    fn remember(&mut self, opcode: u8) -> Result<(), String> {
        let slot = match opcode {
            b'h' | b'q' => self.byte()?.into(),
            b'j' | b'r' => u32::from_le_bytes(self.array()?) as usize,
            _ => self.memo.len(),
        };
        if matches!(opcode, b'h' | b'j') {
            let id = self.memo.get(slot).copied().flatten().ok_or_else(|| broken("a memory that is empty"))?;
            self.stack.push(id);
            return Ok(());
        }
        // Picklers number what they remember one after another.
        if slot > self.objects.len() {
            return Err(broken("a memory out of order"));
        }
        let top = self.top()?;
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        self.memo[slot] = Some(top);
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), String> {
        let full = format!("{module}.{name}");
        let storages = STORAGES.iter().map(|(name, _)| *name);
        match ALLOWED.iter().copied().chain(storages).find(|allowed| *allowed == full) {
            Some(allowed) => self.push(Object::Name(allowed)),
            None => Err(refused(&format!("asks for {full}"))),
        }
    }

    /// A persistent id: `('storage', type, key, device, elements)`, in old files with a view after it.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Object::Sequence(parts) = &self.objects[id] else { return Err(broken("a storage that is no tuple")) };
        let parts: Vec<&Object> = parts.iter().map(|&part| &self.objects[part]).collect();
        let [Object::Text(kind), Object::Name(class), Object::Text(key), _, Object::Int(elements), rest @ ..] =
            &parts[..]
        else {
            return Err(broken("a storage that is not described as torch does"));
        };
        let dtype = STORAGES.iter().find(|(name, _)| name == class).map(|&(_, dtype)| dtype);
        let (Some(dtype), "storage", Ok(elements)) = (dtype, kind.as_str(), usize::try_from(*elements)) else {
            return Err(broken("a storage that is not described as torch does"));
        };
        if !matches!(rest, [] | [Object::None]) {
            return Err(broken(
                "a view of a storage, as torch wrote them before 0.4; save it again with a newer torch",
            ));
        }
        let storage = Storage { dtype, key: key.clone(), elements };
        self.push(Object::Storage(storage))
    }

    /// A call: only what makes a tensor or an empty container is made, by ourselves.
    fn reduce(&mut self) -> Result<(), String> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let arguments = self.short_sequence(arguments)?;
        let Object::Name(function) = self.objects[function] else { return Err(refused("calls what is no name")) };
        let made = match (function, &arguments[..]) {
            (TENSOR, [storage, offset, shape, strides, ..]) => self.tensor(*storage, *offset, *shape, *strides)?,
            (PARAMETER, [tensor, ..]) if matches!(self.objects[*tensor], Object::Tensor(..)) => {
                self.objects[*tensor].clone()
            }
            (ORDERED_DICT, []) => Object::Dict(Vec::new()),
            (SIZE, [sizes]) => Object::Sequence(self.short_sequence(*sizes)?),
            _ => return Err(refused(&format!("calls {function} with {} arguments", arguments.len()))),
        };
        self.push(made)
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Object, String> {
        let size = |id: Id| match self.objects[id] {
            Object::Int(n) => usize::try_from(n).map_err(|_| broken(&format!("a tensor with a size or stride of {n}"))),
            _ => Err(broken("a tensor with a size that is no whole number")),
        };
        let sizes = |id: Id| self.short_sequence(id)?.into_iter().map(size).collect::<Result<Vec<_>, _>>();
        let Object::Storage(Storage { dtype, .. }) = self.objects[storage] else {
            return Err(broken("a tensor without a storage"));
        };
        let view = Strided { dtype, shape: sizes(shape)?, offset: size(offset)?, strides: sizes(strides)? };
        if view.shape.len() != view.strides.len() {
            return Err(broken("a tensor with more sizes than strides"));
        }
        Ok(Object::Tensor(storage, view))
    }

    /// Arguments, or a tensor's sizes. Long ones are refused: named again and again, they would fill
    /// the memory.
    fn short_sequence(&self, id: Id) -> Result<Vec<Id>, String> {
        match &self.objects[id] {
            Object::Sequence(ids) if ids.len() <= 64 => Ok(ids.clone()),
            _ => Err(broken("arguments or sizes that are no short tuple")),
        }
    }

    /// State for an object: torch leaves notes on a state_dict that way, which nobody needs.
    fn build(&mut self) -> Result<(), String> {
        self.pop()?;
        let top = self.top()?;
        match self.objects[top] {
            Object::Dict(_) => Ok(()),
            _ => Err(refused("sets the state of an object")),
        }
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.objects[top] {
            Object::Sequence(sequence) => sequence.extend(items),
            _ => return Err(broken("items for what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.objects[top] {
            Object::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(broken("items for what is no dict")),
        }
        Ok(())
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().ok_or_else(|| broken("an empty stack"))
    }

    fn pop(&mut self) -> Result<Id, String> {
        let id = self.top()?;
        if self.marks.last() == Some(&self.stack.len()) {
            return Err(broken("an item from before a mark"));
        }
        self.stack.pop();
        Ok(id)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or_else(|| broken("no mark"))?;
        Ok(self.stack.split_off(mark))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| cut_off())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count).ok_or_else(cut_off)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(cut_off)?;
        self.at = end;
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or_else(cut_off)?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| broken("a name that is not UTF-8"))
    }
}

fn cut_off() -> String {
    "its pickle is cut off; fetch or write it again".into()
}

fn broken(found: &str) -> String {
    format!("its pickle is not one of torch's (found {found}); fetch or write it again")
}

fn refused(what: &str) -> String {
    format!(
        "its pickle {what}, and nothing is run from a file: only tensors and plain containers are read; save a \
         state_dict() or safetensors"
    )
}
