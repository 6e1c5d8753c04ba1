//! Numbers that are too many for memory: appended to a file without a name, then read or filled through
//! a memory map. The space is free again as soon as they are dropped, however the program ends.

use crate::error::{Error, Result};
use bytemuck::Pod;
use memmap2::{Mmap, MmapMut};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Numbers that are being written.
pub struct Spill<T> {
    folder: PathBuf,
    writer: BufWriter<File>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> Spill<T> {
    /// An empty one on the disk of `folder`, which must exist.
    pub fn new(folder: &Path) -> Result<Self> {
        let writer = BufWriter::with_capacity(1 << 20, nameless(folder)?);
        Ok(Spill { folder: folder.to_path_buf(), writer, len: 0, element: PhantomData })
    }

    /// Numbers so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends. Error: the disk is full.
    pub fn push(&mut self, values: &[T]) -> Result<()> {
        self.len += values.len();
        self.writer.write_all(bytemuck::cast_slice(values)).map_err(Error::io(&self.folder, "write numbers to"))
    }

    /// All of them, to be read.
    pub fn finish(self) -> Result<Spilled<T>> {
        let Spill { folder, writer, len, .. } = self;
        let file = writer.into_inner().map_err(|e| Error::io(&folder, "write numbers to")(e.into_error()))?;
        let map = match len {
            0 => None,
            // SAFETY: the file has no name, nobody else can change it.
            _ => Some(unsafe { Mmap::map(&file) }.map_err(Error::io(&folder, "map numbers in"))?),
        };
        Ok(Spilled { map, element: PhantomData })
    }
}

/// Numbers that are read through a map.
pub struct Spilled<T> {
    map: Option<Mmap>,
    element: PhantomData<T>,
}

impl<T: Pod> Deref for Spilled<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.map.as_deref().map_or(&[], bytemuck::cast_slice)
    }
}

/// Numbers that are filled through a map, zeros at first.
pub struct Filled<T> {
    map: Option<MmapMut>,
    element: PhantomData<T>,
}

impl<T: Pod> Filled<T> {
    /// `len` zeros on the disk of `folder`. Error: the disk is full.
    pub fn zeros(folder: &Path, len: usize) -> Result<Self> {
        let file = nameless(folder)?;
        file.set_len((len * size_of::<T>()) as u64).map_err(Error::io(folder, "make room for numbers in"))?;
        let map = match len {
            0 => None,
            // SAFETY: the file has no name, nobody else can change it.
            _ => Some(unsafe { MmapMut::map_mut(&file) }.map_err(Error::io(folder, "map numbers in"))?),
        };
        Ok(Filled { map, element: PhantomData })
    }
}

impl<T: Pod> Deref for Filled<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.map.as_deref().map_or(&[], bytemuck::cast_slice)
    }
}

impl<T: Pod> DerefMut for Filled<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.map.as_deref_mut().map_or(&mut [], bytemuck::cast_slice_mut)
    }
}

/// A file that is open and has no name any more.
fn nameless(folder: &Path) -> Result<File> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = super::write::temporary_name(&folder.join(format!("numbers-{number}")));
    let open = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = open.map_err(Error::io(folder, "create a file in"))?;
    std::fs::remove_file(&path).map_err(Error::io(folder, "remove a file from"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_or_filled_is_read_again_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::<u32>::new(folder.path()).unwrap();
        let mut filled = Filled::<f32>::zeros(folder.path(), 3).unwrap();
        spill.push(&[1, 2]).unwrap();
        spill.push(&[]).unwrap();
        spill.push(&[3]).unwrap();
        assert_eq!(spill.len(), 3);
        filled[1] = 2.5;
        assert_eq!((&*spill.finish().unwrap(), &*filled), (&[1, 2, 3][..], &[0.0, 2.5, 0.0][..]));
        assert!(Spill::<u32>::new(folder.path()).unwrap().finish().unwrap().is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
