//! TL1: [pairs](super::pairs) of columns as 4-bit indices, in the order in which bitnet.cpp's NEON kernel looks them
//! up. Each 16 bytes hold four columns of 16 rows, byte i those of row i; two such vectors one after the other (for
//! bm = 32) hold eight columns of the same rows; these stand in the order
//!
//! ```text
//! row tiles of BM rows
//!   column tiles of BK columns
//!     row groups of bm rows
//!       column groups of by = 256 / bm columns
//!         16 rows
//!           4 columns: one vector of 16 bytes
//! ```
//!
//! The indices take rows * cols / 4 bytes; the f32 scale stands in the first four of 32 bytes behind them, which begin
//! at a multiple of 32. Index 9 and up are never written. Source: bitnet.cpp, `preprocess_weights_tl1` in
//! convert-hf-to-gguf-bitnet.py.

use super::{
    super::FormatError,
    Coding, TRAILER_BYTES, Tile,
    grid::{COLUMN_ROWS, Grid, IN_ORDER, column_of},
    pairs,
};

/// Rows of a vector.
const ROWS: usize = 16;
/// Columns of a vector.
const COLS: usize = 4;

/// Bytes of a matrix.
///
/// # Errors
/// If the tile does not cut it up.
pub(super) fn bytes(tile: Tile, rows: usize, cols: usize) -> Result<usize, FormatError> {
    let Tile { rows: tile_rows, cols: tile_cols, lanes } = tile;
    let ok = matches!(lanes, 32 | 64)
        && tile_rows > 0
        && tile_rows.is_multiple_of(lanes)
        && tile_cols > 0
        && tile_cols.is_multiple_of(256 / lanes)
        && rows.is_multiple_of(tile_rows)
        && cols.is_multiple_of(tile_cols);
    match ok {
        true => Ok((rows * cols / 4).next_multiple_of(TRAILER_BYTES) + TRAILER_BYTES),
        false => Err(FormatError::Tile { dialect: "TL1", rows, cols, tile }),
    }
}

pub(super) struct Tl1 {
    pub tile: Tile,
    pub cols: usize,
}

impl Tl1 {
    /// Bytes of 16 rows of a column group: the next 16 rows of the row group follow.
    fn vector_bytes(&self) -> usize {
        256 / self.tile.lanes / COLS * ROWS
    }

    /// First byte of each vector of the first 16 of 32 rows from `first` on, with the first of its four columns.
    fn vectors(&self, first: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let Tile { rows: tile_rows, cols: tile_cols, lanes } = self.tile;
        let group_cols = 256 / lanes;
        let vector_bytes = self.vector_bytes();
        // Bytes of a column group, of a row group, of a tile, of a row tile.
        let group_bytes = lanes / ROWS * vector_bytes;
        let rows_bytes = tile_cols / group_cols * group_bytes;
        let tile_bytes = tile_rows / lanes * rows_bytes;
        let row_tile_bytes = self.cols / tile_cols * tile_bytes;
        let start = first / tile_rows * row_tile_bytes
            + first % tile_rows / lanes * rows_bytes
            + first % lanes / ROWS * vector_bytes;
        (0..self.cols / tile_cols).flat_map(move |tile| {
            (0..tile_cols / group_cols).flat_map(move |group| {
                (0..group_cols / COLS).map(move |vector| {
                    let byte = start + tile * tile_bytes + group * group_bytes + vector * ROWS;
                    (byte, tile * tile_cols + group * group_cols + vector * COLS)
                })
            })
        })
    }
}

impl Coding for Tl1 {
    fn step(&self) -> usize {
        COLUMN_ROWS
    }

    fn by_columns(&self) -> Option<&'static [u8; COLUMN_ROWS]> {
        Some(&IN_ORDER)
    }

    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid) {
        let columns = codes.columns_mut();
        let mut vector = [0; COLUMN_ROWS];
        for (at, col) in self.vectors(first) {
            let (upper, lower) = vector.split_at_mut(ROWS);
            upper.copy_from_slice(&bytes[at..][..ROWS]);
            lower.copy_from_slice(&bytes[at + self.vector_bytes()..][..ROWS]);
            if let Some(columns) = columns[col..].first_chunk_mut() {
                pairs::read(&column_of(&vector), columns);
            }
        }
    }

    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]) {
        for (at, col) in self.vectors(first) {
            for row in 0..COLUMN_ROWS {
                let at = at + row / ROWS * self.vector_bytes() + row % ROWS;
                bytes[at] = pairs::byte(&codes.row(row)[col..col + COLS]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, Tile, tests::check_by_hand};
    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        let tile = Tile { rows: 64, cols: 32, lanes: 32 };
        // 64 x 64 zeros: index 4 everywhere; 1024 bytes, then the scale.
        let mut bytes = [vec![0x44; 1024], vec![0; 32]].concat();
        // Row 17, columns 12 and 13 = +1, -1: index 3 - 1 + 4 = 6. Column group 1 of 8, its second vector, the upper 16
        // rows of 32: vector ((1 * 2) + 1) * 2 + 1 = 7, byte 1; columns 12 and 13 are its first pair.
        bytes[7 * 16 + 1] = 0x64;
        // Row 40, columns 38 and 39 = 0, +1: index 5. The second column tile (32 vectors), the second row group (16),
        // column group 0, second vector, byte 8, second pair.
        bytes[(32 + 16 + 1) * 16 + 8] = 0x45;
        bytes[1024..1028].copy_from_slice(&[0, 0, 0, 0x3f]);
        let weights = [(17, 12, 1), (17, 13, -1), (40, 39, 1)];
        check_by_hand(Dialect::TL1(tile), (64, 64), &weights, MatrixScales::PerTensor(0.5), &bytes);
    }
}
