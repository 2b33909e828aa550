//! Codes of a few rows, one a byte: what stands between a dialect and the packed rows of the kernels.

use super::super::{I2S_BLOCK, I2S_BLOCK_BYTES, padded_cols};

/// The code of a weight of 0, which fills rows up to a whole block.
pub(super) const ZERO: u8 = 1;

/// Bytes behind the codes of a row, so that a writer of 8 codes may begin at any column, and rows whose length is a
/// power of two do not all fall on the same cache sets.
const SLACK: usize = 64;

/// Codes (rows, cols), rows a fixed distance apart.
pub(super) struct Grid {
    codes: Vec<u8>,
    stride: usize,
    cols: usize,
}

impl Grid {
    pub fn new(rows: usize, cols: usize) -> Self {
        let stride = padded_cols(cols) + SLACK;
        Self { codes: vec![ZERO; rows * stride], stride, cols }
    }

    /// The codes of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.codes[row * self.stride..][..self.cols]
    }

    /// The codes of a row.
    pub fn row_mut(&mut self, row: usize) -> &mut [u8] {
        &mut self.codes[row * self.stride..][..self.cols]
    }

    /// Stores `N` codes, at most 8, from a column on; those past the end of the row are dropped.
    pub fn put<const N: usize>(&mut self, row: usize, col: usize, codes: [u8; N]) {
        const { assert!(N <= 8) };
        debug_assert!(col < self.cols);
        self.codes[row * self.stride + col..][..N].copy_from_slice(&codes);
    }

    /// Packs all rows.
    ///
    /// # Errors
    /// The place of the first 3 in the matrix (rows, cols).
    pub fn pack(&mut self, out: &mut [u8]) -> Result<(), usize> {
        let packed_cols = self.stride - SLACK;
        for (row, out) in out.chunks_exact_mut(packed_cols / 4).enumerate() {
            let codes = &mut self.codes[row * self.stride..][..packed_cols];
            codes[self.cols..].fill(ZERO);
            let mut threes = 0;
            for (block, packed) in codes.as_chunks::<I2S_BLOCK>().0.iter().zip(out.as_chunks_mut().0) {
                pack(block, packed);
                threes |= threes_in(packed);
            }
            if threes != 0 {
                let place = codes.iter().position(|&code| code > 2).unwrap_or_default();
                return Err(row * self.cols + place);
            }
        }
        Ok(())
    }

    /// Unpacks as many rows as there are.
    ///
    /// # Errors
    /// The place of the first 3 in the matrix (rows, cols).
    pub fn unpack(&mut self, packed: &[u8]) -> Result<(), usize> {
        let packed_cols = self.stride - SLACK;
        for (row, packed) in packed.chunks_exact(packed_cols / 4).enumerate() {
            let codes = &mut self.codes[row * self.stride..][..packed_cols];
            let mut threes = 0;
            for (packed, block) in packed.as_chunks().0.iter().zip(codes.as_chunks_mut::<I2S_BLOCK>().0) {
                unpack(packed, block);
                threes |= threes_in(packed);
            }
            if threes != 0
                && let Some(place) = codes[..self.cols].iter().position(|&code| code > 2)
            {
                return Err(row * self.cols + place);
            }
        }
        Ok(())
    }
}

/// Packs the codes of one row, each 0, 1 or 2, as [`Layout::I2sP128`](super::super::Layout::I2sP128).
///
/// # Panics
/// If `out` has not the bytes of such a row.
pub fn pack_row(codes: &[u8], out: &mut [u8]) {
    assert_eq!(out.len(), padded_cols(codes.len()) / 4, "bytes of a row of {} columns", codes.len());
    let (whole, rest) = codes.as_chunks();
    let (blocks, last) = out.as_chunks_mut().0.split_at_mut(whole.len());
    for (codes, packed) in whole.iter().zip(blocks) {
        pack(codes, packed);
    }
    if let Some(last) = last.first_mut() {
        let mut codes = [ZERO; I2S_BLOCK];
        codes[..rest.len()].copy_from_slice(rest);
        pack(&codes, last);
    }
}

/// Not zero if one of the 2-bit fields is 3.
fn threes_in(packed: &[u8; I2S_BLOCK_BYTES]) -> u8 {
    packed.iter().fold(0, |found, byte| found | (byte & byte >> 1 & 0x55))
}

/// A block of [`Layout::I2sP128`](super::super::Layout::I2sP128), as plain loops that compilers turn into SIMD.
pub(super) fn pack(codes: &[u8; I2S_BLOCK], packed: &mut [u8; I2S_BLOCK_BYTES]) {
    for (at, byte) in packed.iter_mut().enumerate() {
        *byte = codes[at] << 6 | codes[at + 32] << 4 | codes[at + 64] << 2 | codes[at + 96];
    }
}

/// Undoes [`pack`].
pub(super) fn unpack(packed: &[u8; I2S_BLOCK_BYTES], codes: &mut [u8; I2S_BLOCK]) {
    for (at, byte) in packed.iter().enumerate() {
        codes[at] = byte >> 6;
        codes[at + 32] = byte >> 4 & 3;
        codes[at + 64] = byte >> 2 & 3;
        codes[at + 96] = byte & 3;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{self, Layout},
        testing::Rng,
    };

    #[test]
    fn packs_as_the_layout_is_defined() {
        let mut rng = Rng::new(3);
        for cols in [1, 5, 127, 128, 129, 640] {
            let codes = rng.codes(3 * cols);
            let mut grid = Grid::new(3, cols);
            for (row, codes) in codes.chunks(cols).enumerate() {
                grid.row_mut(row).copy_from_slice(codes);
            }
            let mut packed = vec![0; format::ternary_bytes(Layout::I2sP128, 3, cols)];
            grid.pack(&mut packed).unwrap();
            assert_eq!(packed, format::pack(Layout::I2sP128, 3, cols, &codes), "{cols} columns");
            let mut row = vec![0; packed.len() / 3];
            pack_row(&codes[..cols], &mut row);
            assert_eq!(row, packed[..row.len()], "{cols} columns");
            let mut back = Grid::new(3, cols);
            back.unpack(&packed).unwrap();
            for (row, codes) in codes.chunks(cols).enumerate() {
                assert_eq!(back.row(row), codes, "{cols} columns");
            }
        }
    }

    #[test]
    fn code_3_is_found_where_it_stands() {
        for (row, col) in [(0, 0), (1, 129), (2, 31)] {
            let mut grid = Grid::new(3, 130);
            grid.row_mut(row)[col] = 3;
            let mut packed = vec![0; 3 * 64];
            assert_eq!(grid.pack(&mut packed), Err(row * 130 + col));
            assert_eq!(Grid::new(3, 130).unpack(&packed), Err(row * 130 + col));
        }
    }

    #[test]
    fn what_is_stored_past_a_row_does_not_reach_it() {
        let mut grid = Grid::new(2, 126);
        grid.put(0, 125, [2, 3, 3, 3, 3, 3, 3, 3]);
        let mut packed = vec![0; 2 * 32];
        grid.pack(&mut packed).unwrap();
        let mut expected = vec![1; 252];
        expected[125] = 2;
        assert_eq!(packed, format::pack(Layout::I2sP128, 2, 126, &expected));
    }
}
