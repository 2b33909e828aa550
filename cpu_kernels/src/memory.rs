//! Memory for packed weights: zeroed, from a cache line on, and in huge pages where the system grants them.

use std::{
    io,
    ops::{Deref, DerefMut},
};

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;

/// From here on huge pages are asked for: their size on most processors.
const HUGE_BYTES: usize = 2 << 20;

/// Zeroed bytes to be written once and then read. They begin on a cache line, so that a vector of a line never touches
/// two: kernels read such weights twice as fast.
#[derive(Debug)]
pub struct Memory {
    storage: Storage,
    len: usize,
}

#[derive(Debug)]
enum Storage {
    Lines(Vec<Line>),
    Pages(MmapMut),
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Memory {
    /// `len` zeros, whose memory is the system's until they are written. On Linux in huge pages from 2 MiB on:
    /// one core of an Intel Xeon (virtual machine, Linux 6.18) then streams 14 to 17 GB/s with fetching ahead where small
    /// pages give 12 to 13.5, two give no worse, and filling 660 MB takes 0.2 s instead of 0.5, or as long in one of three
    /// runs.
    ///
    /// # Panics
    /// If there is not the memory.
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|| panic!("no memory for {len} bytes"))
    }

    /// As [`Self::zeroed`]; `None` if there is not the memory.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        if len >= HUGE_BYTES
            && let Ok(map) = MmapMut::map_anon(len)
        {
            #[cfg(target_os = "linux")]
            if let Err(error) = map.advise(memmap2::Advice::HugePage) {
                log::debug!("no huge pages: {error}");
            }
            return Some(Self { storage: Storage::Pages(map), len });
        }
        Self::in_lines(len)
    }

    /// Zeros from the allocator, which clears them at once for the sake of the alignment.
    fn in_lines(len: usize) -> Option<Self> {
        let lines = bytemuck::try_zeroed_vec(len.div_ceil(size_of::<Line>())).ok()?;
        Some(Self { storage: Storage::Lines(lines), len })
    }

    /// As [`Self::zeroed`], for copies of whole files, in small pages: one of 1.2 GB took 2.2 to 4.5 s to copy into
    /// huge ones instead of 1.4 (the system clears them), and was read no faster afterwards (virtual machine on a Zen 5
    /// server, Linux 6).
    ///
    /// # Errors
    /// If there is not the memory.
    pub fn for_file(len: u64) -> io::Result<Self> {
        let none = || io::Error::from(io::ErrorKind::OutOfMemory);
        usize::try_from(len).ok().and_then(Self::in_lines).ok_or_else(none)
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.storage {
            Storage::Lines(lines) => &bytemuck::cast_slice(lines)[..self.len],
            Storage::Pages(map) => map,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.storage {
            Storage::Lines(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.len],
            Storage::Pages(map) => map,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_writable_to_its_last_byte() {
        for len in [0, 1, 63, 64, 65, HUGE_BYTES - 1, HUGE_BYTES, HUGE_BYTES + 1, 3 * HUGE_BYTES + 77] {
            let tried = Memory::try_zeroed(len).unwrap();
            for mut memory in [Memory::zeroed(len), tried, Memory::for_file(len as u64).unwrap()] {
                assert_eq!(memory.len(), len);
                assert!(memory.iter().all(|&byte| byte == 0), "{len}");
                assert!(len == 0 || memory.as_ptr().addr().is_multiple_of(64), "{len}");
                memory.fill(7);
                assert!(memory.last().is_none_or(|&byte| byte == 7));
            }
        }
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(Memory::try_zeroed(usize::MAX / 4).is_none());
        assert_eq!(Memory::for_file(u64::MAX / 4).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
