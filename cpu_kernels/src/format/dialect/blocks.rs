//! Rows that are whole blocks of their own, with an optional header in front of each row.

use super::{Coding, grid::Grid};

/// Blocks of `N` codes in `B` bytes, the scale of the block included where it has one.
pub(super) struct Blocks<const B: usize, const N: usize> {
    pub cols: usize,
    /// Bytes in front of each row.
    pub header: usize,
    /// Where the scale stands: in its block, or in the header of its row.
    pub scale: usize,
    pub unpack: fn(&[u8; B], &mut [u8; N]),
    /// Writes all of a block but its scale.
    pub pack: fn(&[u8; N], &mut [u8; B]),
}

impl<const B: usize, const N: usize> Blocks<B, N> {
    fn row_bytes(&self) -> usize {
        self.header + self.cols / N * B
    }
}

impl<const B: usize, const N: usize> Coding for Blocks<B, N> {
    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid) {
        let row = &bytes[first * self.row_bytes()..][..self.row_bytes()];
        for (block, codes) in row[self.header..].as_chunks().0.iter().zip(codes.row_mut(0).as_chunks_mut().0) {
            (self.unpack)(block, codes);
        }
    }

    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]) {
        let row = &mut bytes[first * self.row_bytes()..][..self.row_bytes()];
        for (block, codes) in row[self.header..].as_chunks_mut().0.iter_mut().zip(codes.row(0).as_chunks().0) {
            (self.pack)(codes, block);
        }
    }

    fn scale_at(&self, index: usize, _bytes: usize) -> usize {
        // Scales are either in the header of each row or in each block.
        if self.header > 0 { index * self.row_bytes() + self.scale } else { index * B + self.scale }
    }
}
