//! Where everything lives on the device: weights in arenas, activations in one buffer per slot, KV caches.
//!
//! In: lists of byte ranges still in the memory map. Out: [`Region`]s and the [`Window`]s a kernel binds.

use std::{collections::VecDeque, ops::Range};

use super::limits::too_large;
use crate::{
    backend::gpu::device::Gpu,
    error::{Error, Result},
};

/// Weights are written in pieces of this size: one large write would need a staging copy of the same size, and
/// was 4 to 7 times slower on lavapipe than pieces of 4 MiB.
const UPLOAD_BYTES: usize = 4 << 20;
/// Pieces that may be under way before the oldest must have arrived: bounds the staging memory.
const UPLOADS_IN_FLIGHT: usize = 4;

/// A run of rows in one buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RowRun {
    rows: Range<usize>,
    arena: usize,
    offset: u64,
}

/// A matrix, or several one after the other, to be placed in arenas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    pieces: Vec<RowRun>,
    row_bytes: u64,
}

/// Assigns places to regions before anything is allocated, so that arenas are made exactly as large as needed.
///
/// Every place is a multiple of the alignment long, and a region is cut by its own size only: the bytes of several
/// regions are the sum of theirs, in whatever order and arenas they lie.
#[derive(Debug)]
pub struct Layout {
    max_arena_bytes: u64,
    max_binding_bytes: u64,
    alignment: u64,
    /// Bytes used of each arena.
    arenas: Vec<u64>,
}

impl Layout {
    pub fn new(max_arena_bytes: u64, max_binding_bytes: u64, alignment: u64) -> Self {
        let max_arena_bytes = max_arena_bytes / alignment * alignment;
        Self { max_arena_bytes, max_binding_bytes, alignment, arenas: Vec::new() }
    }

    /// Bytes of all arenas.
    pub fn bytes(&self) -> u64 {
        self.arenas.iter().sum()
    }

    /// A place for `rows` of `row_bytes` each, split by rows where an arena ends.
    pub fn place(&mut self, what: &str, rows: usize, row_bytes: u64) -> Result<Region> {
        if row_bytes == 0 || row_bytes > self.max_arena_bytes {
            return Err(Error::unsupported(
                what,
                format!("a row has {row_bytes} bytes, a buffer of this GPU at most {}", self.max_arena_bytes),
            ));
        }
        // A single row begins its binding; one of several may begin anywhere between two offsets.
        let bound_bytes = row_bytes + if rows > 1 { self.alignment } else { 0 };
        if bound_bytes.next_multiple_of(16) > self.max_binding_bytes {
            return Err(too_large(what, row_bytes, self.max_binding_bytes));
        }
        let mut pieces = Vec::new();
        let mut row = 0;
        while row < rows {
            let rest = row_bytes * (rows - row) as u64;
            let mut offset = self.arenas.last().map_or(u64::MAX, |used| used.next_multiple_of(self.alignment));
            // A region that fits in an arena of its own stays whole; a larger one takes what each can hold.
            let fits = |offset: u64| self.max_arena_bytes.saturating_sub(offset) / row_bytes;
            if self.arenas.is_empty()
                || fits(offset) * row_bytes < rest.min(self.max_arena_bytes / row_bytes * row_bytes)
            {
                self.arenas.push(0);
                offset = 0;
            }
            let count = fits(offset).min((rows - row) as u64);
            let arena = self.arenas.len() - 1;
            // Kernels read whole words, or groups of four where rows have a multiple of 16 bytes.
            self.arenas[arena] = offset + (count * row_bytes).next_multiple_of(self.alignment);
            pieces.push(RowRun { rows: row..row + count as usize, arena, offset });
            row += count as usize;
        }
        Ok(Region { pieces, row_bytes })
    }
}

/// The buffers of all weights of a segment.
pub struct Arenas {
    buffers: Vec<wgpu::Buffer>,
    /// Whether they are mapped for writing.
    are_mapped: bool,
}

/// Rows of a region that one binding holds.
#[derive(Clone, Debug)]
pub struct Window<'a> {
    pub binding: wgpu::BufferBinding<'a>,
    /// Bytes of the binding before the first row.
    pub before_bytes: u64,
    /// Which rows of the region.
    pub rows: Range<usize>,
}

impl Arenas {
    /// Allocates what `layout` asks for.
    pub fn new(gpu: &Gpu, layout: &Layout) -> Result<Self> {
        let storage = wgpu::BufferUsages::STORAGE;
        let arenas = layout.arenas.iter();
        if gpu.maps_weights() {
            let mapped = arenas.clone().map(|&bytes| gpu.mapped_buffer("weights", bytes, storage));
            match mapped.collect::<Result<Vec<_>>>() {
                // What can be mapped may be a small heap of the memory, as on some integrated GPUs; what was taken of it is
                // given back here.
                Err(error) if error.is_of_gpu_memory() => log::info!("weights go through staging memory: {error}"),
                mapped => return Ok(Self { buffers: mapped?, are_mapped: true }),
            }
        }
        let plain = arenas.map(|&bytes| gpu.buffer("weights", bytes, storage | wgpu::BufferUsages::COPY_DST));
        Ok(Self { buffers: plain.collect::<Result<_>>()?, are_mapped: false })
    }

    /// The region in bindings of at most `max_bytes` and `max_rows`, in order.
    pub fn windows(&self, region: &Region, max_bytes: u64, max_rows: usize, alignment: u64) -> Vec<Window<'_>> {
        let mut windows = Vec::new();
        for piece in &region.pieces {
            let mut row = piece.rows.start;
            while row < piece.rows.end {
                let begin = piece.offset + (row - piece.rows.start) as u64 * region.row_bytes;
                let bound = begin / alignment * alignment;
                let before_bytes = begin - bound;
                // One row at least: `place` refuses rows that no binding holds.
                let fitting = (max_bytes.saturating_sub(before_bytes + 15) / region.row_bytes).max(1) as usize;
                let rows = row..piece.rows.end.min(row.saturating_add(fitting.min(max_rows)));
                let size = (before_bytes + rows.len() as u64 * region.row_bytes).next_multiple_of(16);
                let binding = wgpu::BufferBinding {
                    buffer: &self.buffers[piece.arena],
                    offset: bound,
                    size: wgpu::BufferSize::new(size),
                };
                row = rows.end;
                windows.push(Window { binding, before_bytes, rows });
            }
        }
        windows
    }
}

/// Writes regions piece by piece: where the GPU reads them, or through staging memory.
pub struct Uploader<'a> {
    gpu: &'a Gpu,
    arenas: &'a Arenas,
    /// One for each arena; empty where they cannot be mapped.
    mapped: Vec<wgpu::BufferViewMut>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Uploader<'a> {
    pub fn new(gpu: &'a Gpu, arenas: &'a Arenas, progress: &'a mut dyn FnMut(u64)) -> Result<Self> {
        let view = |buffer: &wgpu::Buffer| {
            let failed =
                |e: wgpu::MapRangeError| Error::Gpu { action: "mapping weights".into(), reason: e.to_string() };
            buffer.get_mapped_range_mut(..).map_err(failed)
        };
        let mapped = if arenas.are_mapped { arenas.buffers.iter().map(view).collect::<Result<_>>()? } else { vec![] };
        Ok(Self { gpu, arenas, mapped, in_flight: VecDeque::new(), progress })
    }

    /// Fills a region with `sources`, one after the other.
    pub fn write(&mut self, region: &Region, sources: &[&[u8]]) -> Result<()> {
        let total: u64 = sources.iter().map(|s| s.len() as u64).sum();
        let expected = region.pieces.iter().map(|p| p.rows.len() as u64 * region.row_bytes).sum::<u64>();
        assert_eq!(total, expected, "bytes of a region");
        let mut sources = sources.iter().copied();
        let mut rest: &[u8] = &[];
        for piece in &region.pieces {
            let mut left = piece.rows.len() as u64 * region.row_bytes;
            let mut offset = piece.offset;
            while left > 0 {
                if rest.is_empty() {
                    rest = sources.next().unwrap_or_default();
                    continue;
                }
                let length = rest.len().min(UPLOAD_BYTES).min(usize::try_from(left).unwrap_or(usize::MAX));
                let (now, later) = rest.split_at(length);
                self.write_piece(piece.arena, offset, now)?;
                rest = later;
                offset += length as u64;
                left -= length as u64;
            }
        }
        Ok(())
    }

    /// Fills a region with rows that `make` gives, many at a time.
    pub fn write_rows(&mut self, region: &Region, mut make: impl FnMut(Range<usize>, &mut [u8])) -> Result<()> {
        let many = (UPLOAD_BYTES as u64 / region.row_bytes).max(1) as usize;
        let mut bytes = Vec::new();
        for piece in &region.pieces {
            for row in piece.rows.clone().step_by(many) {
                let rows = row..piece.rows.end.min(row + many);
                let offset = piece.offset + (row - piece.rows.start) as u64 * region.row_bytes;
                bytes.resize(rows.len() * region.row_bytes as usize, 0);
                make(rows, &mut bytes);
                self.write_piece(piece.arena, offset, &bytes)?;
            }
        }
        Ok(())
    }

    fn write_piece(&mut self, arena: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        if let Some(view) = self.mapped.get_mut(arena) {
            let begin = usize::try_from(offset).unwrap_or(usize::MAX);
            view.slice(begin..begin + bytes.len()).copy_from_slice(bytes);
            (self.progress)(bytes.len() as u64);
            return Ok(());
        }
        let buffer = &self.arenas.buffers[arena];
        // Only the last piece of a matrix can be a fraction of a word; what follows it there is padding.
        let (words, tail) = bytes.split_at(bytes.len() / 4 * 4);
        self.gpu.queue.write_buffer(buffer, offset, words);
        if !tail.is_empty() {
            let mut word = [0; 4];
            word[..tail.len()].copy_from_slice(tail);
            self.gpu.queue.write_buffer(buffer, offset + words.len() as u64, &word);
        }
        self.in_flight.push_back(self.gpu.queue.submit([]));
        if self.in_flight.len() > UPLOADS_IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            self.gpu.wait(oldest)?;
        }
        (self.progress)(bytes.len() as u64);
        Ok(())
    }

    /// Waits until everything has arrived.
    pub fn finish(mut self) -> Result<()> {
        if !self.mapped.is_empty() {
            self.mapped.clear();
            self.arenas.buffers.iter().for_each(wgpu::Buffer::unmap);
        }
        match self.in_flight.pop_back() {
            Some(last) => self.gpu.wait(last),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(region: &Region) -> Vec<(Range<usize>, usize, u64)> {
        region.pieces.iter().map(|p| (p.rows.clone(), p.arena, p.offset)).collect()
    }

    #[test]
    fn regions_are_aligned_and_stay_whole_where_they_can() {
        let mut layout = Layout::new(1100, 1024, 256);
        assert_eq!(pieces(&layout.place("a", 3, 100).unwrap()), [(0..3, 0, 0)]);
        assert_eq!(pieces(&layout.place("b", 4, 100).unwrap()), [(0..4, 0, 512)]);
        assert_eq!(pieces(&layout.place("c", 2, 100).unwrap()), [(0..2, 1, 0)]);
        assert_eq!(layout.arenas, [1024, 256]);
        assert_eq!(layout.bytes(), 1280);
    }

    #[test]
    fn a_region_larger_than_an_arena_is_split_by_rows() {
        let mut layout = Layout::new(1024, 704, 256);
        assert_eq!(pieces(&layout.place("a", 7, 300).unwrap()), [(0..3, 0, 0), (3..6, 1, 0), (6..7, 2, 0)]);
        assert_eq!(pieces(&layout.place("b", 2, 300).unwrap()), [(0..2, 3, 0)]);
        let error = layout.place("row too long", 1, 1025).unwrap_err().to_string();
        assert!(error.contains("row too long") && error.contains("a buffer of this GPU at most 1024"), "{error}");
        assert!(layout.place("one row", 1, 704).is_ok());
        let error = layout.place("rows", 2, 500).unwrap_err().to_string();
        assert!(error.contains("rows") && error.contains("binds at most 704"), "{error}");
    }

    #[test]
    fn bytes_add_up_in_any_order() {
        let regions = [(7, 300), (1, 5), (2, 300), (40, 16), (3, 340)];
        let alone = |&(rows, row_bytes): &(usize, u64)| {
            let mut layout = Layout::new(1024, 704, 256);
            layout.place("alone", rows, row_bytes).unwrap();
            layout.bytes()
        };
        let sum: u64 = regions.iter().map(alone).sum();
        for turn in 0..regions.len() {
            let mut layout = Layout::new(1024, 704, 256);
            for i in 0..regions.len() {
                let (rows, row_bytes) = regions[(i + turn) % regions.len()];
                layout.place("together", rows, row_bytes).unwrap();
            }
            assert_eq!(layout.bytes(), sum, "beginning with {turn}");
        }
    }
}
