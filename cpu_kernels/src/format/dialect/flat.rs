//! I2_S blocks over the flattened matrix: they run across the ends of rows.

use super::{Coding, grid::Grid};

/// Blocks of `N` codes in `B` bytes from the first weight of the matrix to its last, then the trailer.
pub(super) struct Flat<const B: usize, const N: usize> {
    pub cols: usize,
    pub unpack: fn(&[u8; B], &mut [u8; N]),
    pub pack: fn(&[u8; N], &mut [u8; B]),
}

/// The overlap of a row and a block.
struct Overlap {
    /// First column of the row.
    col: usize,
    /// First code of the block.
    code: usize,
    len: usize,
}

impl<const B: usize, const N: usize> Flat<B, N> {
    /// The blocks of a row: number, and the part of it.
    fn overlaps(&self, row: usize) -> impl Iterator<Item = (usize, Overlap)> + use<B, N> {
        let (start, end) = (row * self.cols, (row + 1) * self.cols);
        (start / N..end.div_ceil(N)).map(move |block| {
            let from = start.max(block * N);
            let to = end.min(block * N + N);
            (block, Overlap { col: from - start, code: from - block * N, len: to - from })
        })
    }
}

impl<const B: usize, const N: usize> Coding for Flat<B, N> {
    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid) {
        let blocks = bytes.as_chunks::<B>().0;
        let row = codes.row_mut(0);
        let mut part = [0; N];
        for (block, Overlap { col, code, len }) in self.overlaps(first) {
            if let Some(whole) = row[col..].first_chunk_mut::<N>().filter(|_| len == N) {
                (self.unpack)(&blocks[block], whole);
            } else {
                (self.unpack)(&blocks[block], &mut part);
                row[col..][..len].copy_from_slice(&part[code..][..len]);
            }
        }
    }

    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]) {
        let blocks = bytes.as_chunks_mut::<B>().0;
        let mut part = [0; N];
        for (block, Overlap { col, code, len }) in self.overlaps(first) {
            // The rest of a shared block belongs to the row before, which is written, or to the next.
            (self.unpack)(&blocks[block], &mut part);
            part[code..][..len].copy_from_slice(&codes.row(0)[col..][..len]);
            (self.pack)(&part, &mut blocks[block]);
        }
    }
}
