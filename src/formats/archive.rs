//! Zip archives as torch and numpy write them, read from a map of the file: stored entries stay where
//! they are, deflated ones are inflated after a look at what they claim. Nothing is ever unpacked to
//! disk. Source: PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.

use crate::error::{Error, Result};
use flate2::read::DeflateDecoder;
use flate2::Crc;
use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const END_LENGTH: usize = 22;
const LOCATOR_64_LENGTH: usize = 20;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// Weights are noise and hardly shrink; whoever claims more than this, and more than [`FREE`], is a
/// zip bomb.
const LARGEST_RATIO: usize = 100;
const FREE: usize = 16 << 20;

/// The entries of an archive.
#[derive(Debug)]
pub struct Archive {
    entries: Vec<Entry>,
}

/// One file in the archive.
#[derive(Debug)]
pub struct Entry {
    /// Its name, with `/` between folders.
    pub name: String,
    method: u16,
    /// Where its bytes lie in the archive.
    place: Range<usize>,
    /// Bytes when inflated.
    size: usize,
    crc: u32,
}

/// Whether bytes begin as a zip archive does.
pub fn is_zip(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL)
}

impl Archive {
    /// Reads the directory of an archive whose whole content is `bytes`; `path` is for messages.
    /// Errors: it is not whole; names point outside of it or come twice; entries lie in one another,
    /// are encrypted, or claim more than their bytes can hold.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Archive> {
        let entries = directory(bytes).ok_or_else(|| {
            let what = format!("not a whole zip archive ({} bytes found); fetch or write it again", bytes.len());
            Error::format(path, what)
        })?;
        let mut names = std::collections::HashSet::new();
        for entry in &entries {
            if let Some(what) = entry.objection() {
                return Err(Error::format(path, format!("entry {:?} {what}", entry.name)));
            }
            if !names.insert(entry.name.as_str()) {
                return Err(Error::format(path, format!("entry {:?} comes twice; write it again", entry.name)));
            }
        }
        let held = entries.iter().try_fold(0usize, |sum, entry| sum.checked_add(entry.place.len()));
        if held.is_none_or(|held| held > bytes.len()) {
            return Err(Error::format(
                path,
                "its entries lie in one another, which is how zip bombs are made; refused",
            ));
        }
        let deflated = entries.iter().filter(|entry| entry.method == DEFLATED);
        let grown = deflated.fold(0usize, |sum, entry| sum.saturating_add(entry.size));
        if grown > FREE && grown / LARGEST_RATIO > bytes.len() {
            let what =
                format!("its entries claim to grow to {grown} bytes together, as zip bombs do; save it uncompressed");
            return Err(Error::format(path, what));
        }
        Ok(Archive { entries })
    }

    /// All entries, in the order of the directory.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of a name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Entry {
    /// Where a stored entry lies in the archive; none if it is deflated.
    pub fn stored(&self) -> Option<Range<usize>> {
        (self.method == STORED).then(|| self.place.clone())
    }

    /// The entry's bytes, checked against their sum. `archive` is what the directory was read from.
    pub fn content<'a>(&self, path: &Path, archive: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        let bytes = &archive[self.place.clone()];
        let content = if self.method == STORED { Cow::Borrowed(bytes) } else { Cow::Owned(self.inflate(path, bytes)?) };
        let mut crc = Crc::new();
        crc.update(&content);
        if crc.sum() != self.crc {
            let what = format!("entry {:?} is damaged (its checksum differs); fetch or write it again", self.name);
            return Err(Error::format(path, what));
        }
        Ok(content)
    }

    fn inflate(&self, path: &Path, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut content = Vec::with_capacity(self.size);
        // One byte more than claimed, to see that there is no more.
        let inflated = DeflateDecoder::new(bytes).take(self.size as u64 + 1).read_to_end(&mut content);
        match inflated {
            Ok(found) if found == self.size => Ok(content),
            _ => {
                let what = format!("entry {:?} does not inflate to the {} bytes it claims", self.name, self.size);
                Err(Error::format(path, what + "; fetch or write it again"))
            }
        }
    }

    fn objection(&self) -> Option<String> {
        let outside = |part: &str| part == ".." || part.contains('\\') || part.contains(':');
        if self.name.starts_with('/') || self.name.split('/').any(outside) {
            return Some("points outside of the archive; neither torch nor numpy write such names".into());
        }
        match self.method {
            STORED if self.size == self.place.len() => None,
            DEFLATED if self.size <= FREE || self.size / LARGEST_RATIO <= self.place.len() => None,
            DEFLATED => {
                let (packed, size) = (self.place.len(), self.size);
                Some(format!("claims to grow from {packed} to {size} bytes, as zip bombs do; save it uncompressed"))
            }
            STORED => Some(format!("claims {} bytes and holds {}", self.size, self.place.len())),
            ENCRYPTED => Some("is encrypted; save it without".into()),
            other => Some(format!("is packed by method {other}, expected stored or deflated (0 or 8)")),
        }
    }
}

/// Stands for any method, where the entry is encrypted (99 is what AES encryption writes itself).
const ENCRYPTED: u16 = 99;

/// All entries of the central directory; none if a part of it is missing.
fn directory(bytes: &[u8]) -> Option<Vec<Entry>> {
    let End { count, start } = end(bytes)?;
    let mut at = start;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (entry, length) = central_entry(bytes, at)?;
        entries.push(entry);
        at = at.checked_add(length)?;
    }
    Some(entries)
}

/// Number of entries, and where the directory begins.
struct End {
    count: u64,
    start: usize,
}

fn end(bytes: &[u8]) -> Option<End> {
    let latest = bytes.len().checked_sub(END_LENGTH)?;
    // A comment of at most 65535 bytes may follow.
    let at = (latest.saturating_sub(0xffff)..=latest).rev().find(|&at| bytes[at..].starts_with(END))?;
    let locator = at.checked_sub(LOCATOR_64_LENGTH).filter(|&at| bytes[at..].starts_with(LOCATOR_64));
    let Some(locator) = locator else {
        return Some(End { count: u16_at(bytes, at + 10)?.into(), start: u32_at(bytes, at + 16)? as usize });
    };
    let at = usize::try_from(u64_at(bytes, locator + 8)?).ok()?;
    let end = bytes.get(at..)?.starts_with(END_64).then_some(at)?;
    Some(End { count: u64_at(bytes, end + 32)?, start: usize::try_from(u64_at(bytes, end + 48)?).ok()? })
}

/// One entry of the directory and its length there.
fn central_entry(bytes: &[u8], at: usize) -> Option<(Entry, usize)> {
    if !bytes.get(at..)?.starts_with(CENTRAL) {
        return None;
    }
    let [name, extra, comment] = [28, 30, 32].map(|field| u16_at(bytes, at + field).map(usize::from));
    let (name, extra, comment) = (name?, extra?, comment?);
    let fields = [u32_at(bytes, at + 24)?, u32_at(bytes, at + 20)?, u32_at(bytes, at + 42)?];
    let name_at = at + 46;
    let [size, packed, local] = zip64(bytes.get(name_at + name..name_at + name + extra)?, fields)?;
    let data = local.checked_add(30)?;
    bytes.get(local..)?.starts_with(LOCAL).then_some(())?;
    let data = data + usize::from(u16_at(bytes, local + 26)?) + usize::from(u16_at(bytes, local + 28)?);
    let place = data..data.checked_add(packed)?;
    bytes.get(place.clone())?;
    let encrypted = u16_at(bytes, at + 8)? & 1 == 1;
    let entry = Entry {
        name: String::from_utf8(bytes.get(name_at..name_at + name)?.to_vec()).ok()?,
        method: if encrypted { ENCRYPTED } else { u16_at(bytes, at + 10)? },
        place,
        size,
        crc: u32_at(bytes, at + 16)?,
    };
    Some((entry, 46 + name + extra + comment))
}

/// Size, packed size and position: each from the entry itself, or where that is full from the extra
/// field of zip64, which lists the full ones in this order.
fn zip64(mut extra: &[u8], fields: [u32; 3]) -> Option<[usize; 3]> {
    let mut wide: &[u8] = &[];
    while extra.len() >= 4 {
        let (id, length) = (u16_at(extra, 0)?, usize::from(u16_at(extra, 2)?));
        let field = extra.get(4..4 + length)?;
        if id == 1 {
            wide = field;
        }
        extra = &extra[4 + length..];
    }
    let mut values = [0; 3];
    for (value, field) in values.iter_mut().zip(fields) {
        *value = if field == u32::MAX {
            let whole = usize::try_from(u64_at(wide, 0)?).ok()?;
            wide = &wide[8..];
            whole
        } else {
            field as usize
        };
    }
    Some(values)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
