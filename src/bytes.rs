//! A shared, read-only range of bytes: of a memory-mapped file, of the program itself, or owned.
//!
//! Weights are read in place from the memory map; cloning a [`Bytes`] never copies data.

use std::{
    fmt,
    fs::{self, File},
    io::Read,
    ops::{Deref, Range},
    path::Path,
    sync::Arc,
};

use bitnet_cpu_kernels::memory::Memory;

use crate::error::{Error, Result};

/// Read-only bytes with shared ownership. Cheap to clone and to slice.
#[derive(Clone)]
pub struct Bytes {
    source: Source,
    range: Range<usize>,
}

#[derive(Clone)]
enum Source {
    Mapped(Arc<memmap2::Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Memory>),
}

/// How the bytes of a file are had.
#[derive(Clone, Copy)]
pub enum Access<'a> {
    /// Mapped: read from the file when they are touched. A file that is truncated by another process meanwhile makes the
    /// operating system stop this process (SIGBUS) when the missing part is read.
    Map,
    /// Read into memory of our own: what happens to the file afterwards is of no matter. The function is told of every
    /// piece: bytes so far, and bytes of the file.
    Copy(&'a dyn Fn(u64, u64)),
}

/// Bytes read at once into a copy: enough for a disk, and a step of a progress bar.
const PIECE_BYTES: usize = 16 << 20;

impl Bytes {
    /// Maps a file read-only; see [`Access::Map`].
    pub fn map(path: &Path) -> Result<Self> {
        Self::open(path, Access::Map)
    }

    /// The bytes of a file. An empty file gives empty bytes.
    pub fn open(path: &Path, access: Access<'_>) -> Result<Self> {
        // Asked before opening, which would wait for ever on a pipe without a writer.
        let meta = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
        if !meta.is_file() {
            let found = if meta.is_dir() { "a directory" } else { "a device or a pipe" };
            return Err(Error::malformed("file", "a regular file", found).in_file(path.display().to_string()));
        }
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
        if meta.len() == 0 {
            return Ok(Self::from_static(&[]));
        }
        if let Access::Copy(progress) = access {
            return Self::copy(path, file, meta.len(), progress);
        }
        #[allow(unsafe_code)]
        // SAFETY: the map is private and read-only and `Bytes` hands out `&[u8]` only. Another process may
        // still change the file underneath: all values read from it are validated as untrusted, and none
        // is read twice with the second reading trusted.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let range = 0..map.len();
        Ok(Self { source: Source::Mapped(Arc::new(map)), range })
    }

    fn copy(path: &Path, mut file: File, len: u64, progress: &dyn Fn(u64, u64)) -> Result<Self> {
        let mut memory = Memory::for_file(len).map_err(|e| Error::io("copy", path, e))?;
        let mut done = 0;
        for piece in memory.chunks_mut(PIECE_BYTES) {
            file.read_exact(piece).map_err(|e| Error::io("read", path, e))?;
            done += piece.len() as u64;
            progress(done, len);
        }
        Ok(memory.into())
    }

    /// A copy in memory of our own, where the bytes are a memory-mapped file's; others are shared.
    ///
    /// # Errors
    /// If there is not the memory.
    pub fn detached(&self) -> Result<Self> {
        if !self.is_mapped() {
            return Ok(self.clone());
        }
        let memory = Memory::for_file(self.len() as u64);
        let mut memory = memory.map_err(|e| Error::io("copy", Path::new("a mapped file"), e))?;
        memory.copy_from_slice(self);
        Ok(memory.into())
    }

    /// Bytes that are part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { source: Source::Static(bytes), range: 0..bytes.len() }
    }

    /// Gives the memory of the file's pages back, where there is a file: they are read again when they are touched.
    /// For weights that have been copied to where they are used.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Source::Mapped(map) = &self.source {
            #[allow(unsafe_code)]
            // SAFETY: the map is read-only and of a file, so that dropped pages come back with the same bytes; the
            // range is inside the map, as every `Bytes` is.
            let released = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
            if let Err(error) = released {
                log::debug!("the pages of a file stay in memory: {error}");
            }
        }
    }

    /// True of a memory-mapped file: the system reads it when it is needed, and may drop it again.
    pub fn is_mapped(&self) -> bool {
        matches!(self.source, Source::Mapped(_))
    }

    /// The part `range` of these bytes, or `None` when it is out of bounds.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { source: self.source.clone(), range: start..start + range.len() })
    }
}

impl From<Memory> for Bytes {
    fn from(bytes: Memory) -> Self {
        let range = 0..bytes.len();
        Self { source: Source::Owned(Arc::new(bytes)), range }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let mut owned = Memory::zeroed(bytes.len());
        owned.copy_from_slice(&bytes);
        owned.into()
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.source {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.source {
            Source::Mapped(_) => "mapped",
            Source::Static(_) => "static",
            Source::Owned(_) => "owned",
        };
        write!(f, "Bytes({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A file of more than one piece.
    fn file(dir: &tempfile::TempDir) -> (std::path::PathBuf, Vec<u8>) {
        let (path, bytes) = (dir.path().join("f"), (0..PIECE_BYTES + 77).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        fs::write(&path, &bytes).unwrap();
        (path, bytes)
    }

    #[test]
    fn a_copy_does_not_need_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, expected) = file(&dir);
        let (told, len) = (RefCell::new(Vec::new()), expected.len() as u64);
        let copy = Bytes::open(&path, Access::Copy(&|done, all| told.borrow_mut().push((done, all)))).unwrap();
        assert_eq!(told.into_inner(), [(PIECE_BYTES as u64, len), (len, len)]);
        let map = Bytes::map(&path).unwrap();
        let detached = map.slice(3..PIECE_BYTES).unwrap().detached().unwrap();
        assert_eq!((map.is_mapped(), copy.is_mapped(), detached.is_mapped()), (true, false, false));
        drop(map);
        File::options().write(true).open(&path).unwrap().set_len(5).unwrap();
        copy.release();
        assert!(*copy == expected && *detached == expected[3..PIECE_BYTES]);
        fs::remove_file(&path).unwrap();
        assert!(*copy.slice(2..9).unwrap() == expected[2..9]);
    }

    #[test]
    fn what_is_in_memory_already_is_not_copied_again() {
        let bytes = Bytes::from(vec![1, 2, 3]);
        assert_eq!(bytes.detached().unwrap().as_ptr(), bytes.as_ptr());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("empty"), []).unwrap();
        assert!(Bytes::open(&dir.path().join("empty"), Access::Copy(&|_, _| {})).unwrap().is_empty());
    }

    #[test]
    fn slices_stay_inside() {
        let bytes = Bytes::from(vec![1, 2, 3, 4]);
        let middle = bytes.slice(1..3).unwrap();
        assert_eq!(&*middle, &[2, 3]);
        assert_eq!(&*middle.slice(1..2).unwrap(), &[3]);
        assert!(middle.slice(1..3).is_none());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 2..1;
        assert!(bytes.slice(reversed).is_none());
    }

    #[test]
    fn owned_bytes_begin_on_a_cache_line() {
        for len in [0, 1, 64, 65, 1000] {
            let bytes = Bytes::from((0..len).map(|i| i as u8).collect::<Vec<_>>());
            assert!(bytes.as_ptr().addr().is_multiple_of(64));
            assert!(bytes.iter().copied().eq((0..len).map(|i| i as u8)), "{len} bytes");
            assert_eq!(*Memory::zeroed(len), vec![0; len]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused() {
        for (path, what) in [("/dev/null", "a device or a pipe"), ("/", "a directory")] {
            let error = Bytes::map(Path::new(path)).unwrap_err().to_string();
            assert_eq!(error, format!("{path}: file: expected a regular file, found {what}"));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Bytes::map(Path::new("no-such-file.gguf")).unwrap_err();
        assert!(error.to_string().starts_with("cannot open no-such-file.gguf"), "{error}");
    }
}
