//! Codes of a few rows, one a byte: what stands between a dialect and the packed rows of the kernels.
//!
//! Where the bytes of 32 rows interleave, they are read column by column, eight rows in a number: sums and shifts of codes
//! never reach the next byte, and compilers make vectors of them.

use super::super::{I2S_BLOCK, I2S_BLOCK_BYTES, padded_cols};

/// The code of a weight of 0, which fills rows up to a whole block.
pub(super) const ZERO: u8 = 1;

/// Bytes behind the codes of a row, so that rows whose length is a power of two do not all fall on the same cache sets.
const SLACK: usize = 64;

/// Rows of a [`Column`].
pub(super) const COLUMN_ROWS: usize = 32;

/// A column of 32 rows, a byte each: row r is byte r % 8, from the lowest up, of number r / 8.
pub(super) type Column = [u64; COLUMN_ROWS / 8];

/// `byte` eight times.
pub(super) const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// A column, number by number.
#[inline]
pub(super) fn column(number: impl Fn(usize) -> u64) -> Column {
    std::array::from_fn(number)
}

/// The bytes of a column.
#[inline]
pub(super) fn column_of(bytes: &[u8; COLUMN_ROWS]) -> Column {
    let numbers = bytes.as_chunks().0;
    column(|at| u64::from_le_bytes(numbers[at]))
}

/// 1 in each byte that is `least` or more; all must be below 128.
#[inline]
pub(super) fn reaches(bytes: u64, least: u8) -> u64 {
    (bytes + all(128 - least)) >> 7 & all(1)
}

/// The places of rows that stand in order in a [`Column`].
pub(super) const IN_ORDER: [u8; COLUMN_ROWS] = {
    let mut places = [0; COLUMN_ROWS];
    let mut row = 0;
    while row < COLUMN_ROWS {
        places[row] = row as u8;
        row += 1;
    }
    places
};

/// Codes (rows, cols), rows a fixed distance apart; or, of 32 rows, one column after the other.
pub(super) struct Grid {
    /// Eight bytes each.
    codes: Vec<u64>,
    /// Bytes of a row, a multiple of 64.
    stride: usize,
    cols: usize,
}

impl Grid {
    pub fn new(rows: usize, cols: usize) -> Self {
        let stride = padded_cols(cols) + SLACK;
        Self { codes: vec![all(ZERO); rows * stride / 8], stride, cols }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.codes)
    }

    /// The codes of a row.
    pub fn row(&self, row: usize) -> &[u8] {
        &bytemuck::cast_slice(&self.codes)[row * self.stride..][..self.cols]
    }

    /// The codes of a row.
    pub fn row_mut(&mut self, row: usize) -> &mut [u8] {
        let (from, cols) = (row * self.stride, self.cols);
        &mut self.bytes_mut()[from..][..cols]
    }

    /// The codes of 32 rows, by columns.
    ///
    /// # Panics
    /// If the grid has other rows.
    pub fn columns_mut(&mut self) -> &mut [Column] {
        assert_eq!(self.codes.len() * 8, COLUMN_ROWS * self.stride, "a grid of {COLUMN_ROWS} rows");
        &mut self.codes.as_chunks_mut().0[..self.cols]
    }

    /// Packs the first `cols` of [`Self::columns_mut`], as many rows as `out` has room for; row `r` is byte `places[r]` of
    /// a column.
    ///
    /// # Errors
    /// The place of the first 3 in the matrix (rows, cols). All codes are packed nevertheless.
    ///
    /// # Panics
    /// If the grid has fewer columns.
    pub fn pack_columns(&mut self, places: &[u8; COLUMN_ROWS], cols: usize, out: &mut [u8]) -> Result<(), usize> {
        assert!(cols <= self.cols, "{cols} of {} columns", self.cols);
        let row_bytes = padded_cols(cols) / 4;
        let columns = &mut self.codes.as_chunks_mut().0[..padded_cols(cols)];
        columns[cols..].fill([all(ZERO); COLUMN_ROWS / 8]);
        let mut threes = 0;
        for (at, block) in columns.as_chunks::<I2S_BLOCK>().0.iter().enumerate() {
            for part in 0..I2S_BLOCK_BYTES / 8 {
                let mut eight = pack_eight(block, 8 * part, &mut threes);
                transpose(&mut eight);
                for (row, &place) in out.chunks_exact_mut(row_bytes).zip(places) {
                    let [place, number] = [place % 8, place / 8 % 4].map(usize::from);
                    row[at * I2S_BLOCK_BYTES + 8 * part..][..8].copy_from_slice(&eight[place][number].to_le_bytes());
                }
            }
        }
        if threes == 0 {
            return Ok(());
        }
        let code = |column: &Column, place: u8| column[usize::from(place / 8)] >> (8 * (place % 8)) & 3;
        let rows = out.len().checked_div(row_bytes).unwrap_or(0);
        let first = places[..rows].iter().enumerate().find_map(|(row, &place)| {
            let col = columns.iter().position(|column| code(column, place) == 3)?;
            Some(row * cols + col)
        });
        first.map_or(Ok(()), Err)
    }

    /// Packs all rows.
    ///
    /// # Errors
    /// The place of the first 3 in the matrix (rows, cols).
    pub fn pack(&mut self, out: &mut [u8]) -> Result<(), usize> {
        let packed_cols = self.stride - SLACK;
        for (row, out) in out.chunks_exact_mut(packed_cols / 4).enumerate() {
            let cols = self.cols;
            let from = row * self.stride;
            let codes = &mut self.bytes_mut()[from..][..packed_cols];
            codes[cols..].fill(ZERO);
            let mut threes = 0;
            for (block, packed) in codes.as_chunks::<I2S_BLOCK>().0.iter().zip(out.as_chunks_mut().0) {
                pack(block, packed);
                threes |= threes_in(packed);
            }
            if threes != 0 {
                let place = codes.iter().position(|&code| code > 2).unwrap_or_default();
                return Err(row * cols + place);
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
            let cols = self.cols;
            let from = row * self.stride;
            let codes = &mut self.bytes_mut()[from..][..packed_cols];
            let mut threes = 0;
            for (packed, block) in packed.as_chunks().0.iter().zip(codes.as_chunks_mut::<I2S_BLOCK>().0) {
                unpack(packed, block);
                threes |= threes_in(packed);
            }
            if threes != 0
                && let Some(place) = codes[..cols].iter().position(|&code| code > 2)
            {
                return Err(row * cols + place);
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

/// Eight bytes of a block of 32 rows, from byte `first` on, by columns; what is found in `threes` where a code is 3.
#[inline]
fn pack_eight(columns: &[Column; I2S_BLOCK], first: usize, threes: &mut u64) -> [Column; 8] {
    let mut eight = [[0; COLUMN_ROWS / 8]; 8];
    let mut found = [0; COLUMN_ROWS / 8];
    for (at, packed) in eight.iter_mut().enumerate() {
        let at = first + at;
        let [a, b, c, d] = [&columns[at], &columns[at + 32], &columns[at + 64], &columns[at + 96]];
        for number in 0..packed.len() {
            packed[number] = a[number] << 6 | b[number] << 4 | c[number] << 2 | d[number];
            found[number] |= packed[number] & packed[number] >> 1;
        }
    }
    *threes |= found.iter().fold(0, |any, found| any | found) & all(0x55);
    eight
}

/// Exchanges rows and columns of the 8 x 8 bytes in each of the four numbers of eight columns: halves, then quarters,
/// then single bytes change places across the diagonal.
#[inline]
fn transpose(eight: &mut [Column; 8]) {
    for (distance, lower) in [(4, 0x0000_0000_ffff_ffff), (2, 0x0000_ffff_0000_ffff), (1, 0x00ff_00ff_00ff_00ff)] {
        for at in (0..8).filter(|at| at & distance == 0) {
            for number in 0..COLUMN_ROWS / 8 {
                let (a, b) = (eight[at][number], eight[at + distance][number]);
                let moved = (a >> (8 * distance) ^ b) & lower;
                eight[at][number] = a ^ moved << (8 * distance);
                eight[at + distance][number] = b ^ moved;
            }
        }
    }
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
    fn columns_are_packed_as_rows_are() {
        let mut rng = Rng::new(4);
        // Any order of the 32 rows.
        let places: [u8; 32] = std::array::from_fn(|row| (row * 5 % 32) as u8);
        for (rows, cols) in [(32, 1), (32, 128), (7, 130), (32, 640)] {
            let codes = rng.codes(rows * cols);
            // What stands in columns past the end does not matter.
            let mut grid = Grid::new(32, cols + 9);
            grid.columns_mut().fill([all(3); 4]);
            for (col, column) in grid.columns_mut()[..cols].iter_mut().enumerate() {
                let mut bytes = [0; 32];
                (0..rows).for_each(|row| bytes[usize::from(places[row])] = codes[row * cols + col]);
                *column = column_of(&bytes);
            }
            let mut packed = vec![0; format::ternary_bytes(Layout::I2sP128, rows, cols)];
            assert_eq!(grid.pack_columns(&places, cols, &mut packed), Ok(()), "{rows} x {cols}");
            assert_eq!(packed, format::pack(Layout::I2sP128, rows, cols, &codes), "{rows} x {cols}");
        }
        for (row, col) in [(0, 0), (3, 129), (31, 31)] {
            let mut grid = Grid::new(32, 130);
            let place = usize::from(places[row]);
            grid.columns_mut()[col][place / 8] |= 3 << (8 * (place % 8));
            assert_eq!(grid.pack_columns(&places, 130, &mut [0; 32 * 64]), Err(row * 130 + col));
        }
    }
}
