//! A shared, read-only range of bytes: of a memory-mapped file, of the program itself, or owned.
//!
//! Weights are read in place from the memory map; cloning a [`Bytes`] never copies data.

use std::{
    fmt,
    fs::{self, File},
    ops::{Deref, DerefMut, Range},
    path::Path,
    sync::Arc,
};

use bytemuck::{Pod, Zeroable};

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
    Owned(Arc<OwnedBytes>),
}

/// Bytes of our own, to be written and then shared. They begin on a cache line, so that a vector of a line never
/// touches two: kernels read such weights twice as fast.
pub struct OwnedBytes {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl OwnedBytes {
    /// `len` zeros, whose memory is the system's until they are written.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: bytemuck::zeroed_vec(len.div_ceil(size_of::<Line>())), len }
    }
}

impl Deref for OwnedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for OwnedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl Bytes {
    /// Maps a file read-only. An empty file gives empty bytes.
    ///
    /// A file that is truncated by another process while it is mapped makes the operating system stop
    /// this process (SIGBUS) when the missing part is read: do not write to a model file in use.
    pub fn map(path: &Path) -> Result<Self> {
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
        #[allow(unsafe_code)]
        // SAFETY: the map is private and read-only and `Bytes` hands out `&[u8]` only. Another process may
        // still change the file underneath: all values read from it are validated as untrusted, and none
        // is read twice with the second reading trusted.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        let range = 0..map.len();
        Ok(Self { source: Source::Mapped(Arc::new(map)), range })
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

impl From<OwnedBytes> for Bytes {
    fn from(bytes: OwnedBytes) -> Self {
        let range = 0..bytes.len;
        Self { source: Source::Owned(Arc::new(bytes)), range }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let mut owned = OwnedBytes::zeroed(bytes.len());
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
    use super::*;

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
            assert_eq!(*OwnedBytes::zeroed(len), vec![0; len]);
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
