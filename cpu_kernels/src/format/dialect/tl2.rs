//! TL2: triples of columns as 4-bit codes and sign bits, and the columns that are left over as [pairs](super::pairs),
//! in the order in which bitnet.cpp's AVX2 kernel looks them up.
//!
//! The first K3 = cols / BK * BK columns are triples, the K2 columns after them (a multiple of 32) pairs. The value of
//! the triple (w0, w1, w2) is v = 9 w0 + 3 w1 + w2, from -13 to 13; its code is |v|, its sign bit is set where v < 0.
//!
//! ```text
//! codes   rows * K3 / 6 bytes   signs   rows * K3 / 24 bytes   pairs   rows * K2 / 4 bytes
//! zeros   up to the size that the converter reserves, then to a multiple of 32
//! f32 scale, 28 zero bytes
//!
//! in each of the three parts:
//! row tiles of BM rows
//!   column tiles of BK columns (pairs: 32 columns)
//!     row groups of 32 rows
//!       codes: 6 columns, 32 bytes: a byte for each row, the first triple in the high nibble
//!       signs: 24 columns, 16 words: bit 15 - 2 t of word i is triple t of row i, bit 14 - 2 t that of row i + 16
//!       pairs: 4 columns, 32 bytes: a byte for each row, the first pair in the high nibble
//! ```
//!
//! In the codes and the pairs, the 32 bytes of a vector hold the rows 0-7, 16-23, 8-15, 24-31: the order that is left
//! when AVX2 unpacks within its halves. Codes 14 and 15, and indices of pairs from 9 up, are never written. Source:
//! bitnet.cpp, `preprocess_weights_tl2` in convert-hf-to-gguf-bitnet.py.

use super::{
    super::FormatError,
    Coding, TRAILER_BYTES, Tile,
    grid::{COLUMN_ROWS as ROWS, Column, Grid, all, column, column_of, reaches},
    pairs,
};

/// The size that is reserved for a matrix has pairs for this many columns.
pub(in crate::format) const MIN_COLS: usize = 256;
/// Columns of a tile of the pairs.
const PAIR_TILE: usize = 32;
/// Columns of a vector of signs, and of four of codes.
const SIGN_COLS: usize = 24;
/// Columns of a vector of codes.
const CODE_COLS: usize = 6;

/// Bytes of a matrix: what the converter reserves and ggml computes, in integer steps in this order.
///
/// # Errors
/// If the tile does not cut it up.
pub(super) fn bytes(tile: Tile, rows: usize, cols: usize) -> Result<usize, FormatError> {
    let Tile { rows: tile_rows, cols: tile_cols, lanes } = tile;
    let ok = lanes == ROWS
        && tile_rows > 0
        && tile_rows.is_multiple_of(ROWS)
        && tile_cols > 0
        && tile_cols.is_multiple_of(24)
        && rows.is_multiple_of(tile_rows)
        && cols >= MIN_COLS
        && (cols % tile_cols).is_multiple_of(PAIR_TILE)
        // With more, the pairs would not fit in the size that is reserved.
        && cols % tile_cols <= MIN_COLS;
    match ok {
        true => {
            let triples = (cols - MIN_COLS) * rows / 3 * 5 / 8;
            let pairs = MIN_COLS * rows / 2 * 4 / 8;
            Ok((triples + pairs).next_multiple_of(TRAILER_BYTES) + TRAILER_BYTES)
        }
        false => Err(FormatError::Tile { dialect: "TL2", rows, cols, tile }),
    }
}

pub(super) struct Tl2 {
    pub tile: Tile,
    pub rows: usize,
    pub cols: usize,
}

/// Where a row stands in a vector of 32 bytes.
const PLACE: [u8; ROWS] = {
    let mut place = [0; ROWS];
    let mut row = 0;
    while row < ROWS {
        place[row] = ([0, 2, 1, 3][row / 8] * 8 + row % 8) as u8;
        row += 1;
    }
    place
};

/// First bytes of what belongs to 32 rows and 24 columns, and the first of these.
struct Triples {
    /// 32 bytes of codes for each 6 columns.
    codes: usize,
    /// 16 words of signs.
    signs: usize,
    col: usize,
}

/// The three columns of triples of 32 rows, in the order of their bytes, from |v| and a 1 where v is negative; 3 where
/// there is no such triple.
#[inline]
fn read_triples(sizes: &Column, negative: &Column, columns: &mut [Column; 3]) {
    // |v| + 13 = 9 c0 + 3 c1 + c2 in codes: c0 is 1 or 2, and `left` is what is left of it, from 0 to 8.
    let upper = column(|at| reaches(sizes[at], 5));
    let left = column(|at| sizes[at] + all(4) - (upper[at] << 3) - upper[at]);
    let middle = column(|at| reaches(left[at], 3) + reaches(left[at], 6));
    let lower = column(|at| left[at] - middle[at] - middle[at] - middle[at]);
    let upper = column(|at| upper[at] + all(1));
    let invalid = column(|at| reaches(sizes[at], 14));
    for (column, codes) in columns.iter_mut().zip([&upper, &middle, &lower]) {
        for at in 0..column.len() {
            let code = (codes[at] | invalid[at] | invalid[at] << 1) & all(3);
            // -v has 2 for 0 and 0 for 2.
            column[at] = code ^ (!code & negative[at]) << 1;
        }
    }
}

/// The bits of the signs of 24 columns in the order of the bytes of their codes: of the first four triples, and of the
/// last four. Triple t is bit 7 - 2 t of a byte.
fn read_signs(signs: &[u8; ROWS]) -> [Column; 2] {
    let mut bytes = [[0; ROWS]; 2];
    for (half, words) in signs.as_chunks::<16>().0.iter().enumerate() {
        for (at, word) in words.as_chunks::<2>().0.iter().enumerate() {
            for (bytes, bits) in bytes.iter_mut().zip([word[1], word[0]]) {
                // Row `8 * half + at`, and the row 16 below, whose bits stand one lower.
                bytes[16 * half + at] = bits;
                bytes[16 * half + 8 + at] = bits << 1;
            }
        }
    }
    [column_of(&bytes[0]), column_of(&bytes[1])]
}

impl Tl2 {
    /// Bytes of codes, signs and pairs.
    pub fn content_bytes(&self) -> usize {
        self.pairs_at() + self.rows * (self.cols - self.triple_cols()) / 4
    }

    fn triple_cols(&self) -> usize {
        self.cols / self.tile.cols * self.tile.cols
    }

    pub fn signs_at(&self) -> usize {
        self.rows * self.triple_cols() / 6
    }

    pub fn pairs_at(&self) -> usize {
        self.signs_at() + self.rows * self.triple_cols() / 24
    }

    /// First byte of a part, counted from `at`, for 32 rows: `bytes` for `cols` columns, in tiles of `tile` columns.
    fn place(
        &self,
        at: usize,
        first: usize,
        col: usize,
        (tile, all): (usize, usize),
        (cols, bytes): (usize, usize),
    ) -> usize {
        let tile_rows = self.tile.rows;
        let group = tile / cols * bytes;
        let row_tile = all / tile * (tile_rows / ROWS) * group;
        at + first / tile_rows * row_tile
            + col / tile * (tile_rows / ROWS) * group
            + first % tile_rows / ROWS * group
            + col % tile / cols * bytes
    }

    fn triples(&self, first: usize) -> impl Iterator<Item = Triples> {
        let tile_cols = self.tile.cols;
        let tiles = (tile_cols, self.triple_cols());
        (0..self.triple_cols()).step_by(tile_cols).flat_map(move |tile| {
            let codes = self.place(0, first, tile, tiles, (CODE_COLS, ROWS));
            let signs = self.place(self.signs_at(), first, tile, tiles, (SIGN_COLS, ROWS));
            (0..tile_cols / SIGN_COLS).map(move |group| Triples {
                codes: codes + group * (SIGN_COLS / CODE_COLS) * ROWS,
                signs: signs + group * ROWS,
                col: tile + group * SIGN_COLS,
            })
        })
    }

    /// First byte of each vector of pairs with the first of its four columns.
    fn pairs(&self, first: usize) -> impl Iterator<Item = (usize, usize)> {
        let left_over = self.cols - self.triple_cols();
        (0..left_over).step_by(4).map(move |col| {
            (self.place(self.pairs_at(), first, col, (PAIR_TILE, left_over), (4, 32)), self.triple_cols() + col)
        })
    }
}

impl Coding for Tl2 {
    fn step(&self) -> usize {
        ROWS
    }

    fn by_columns(&self) -> Option<&'static [u8; ROWS]> {
        Some(&PLACE)
    }

    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid) {
        let columns = codes.columns_mut();
        for Triples { codes, signs, col } in self.triples(first) {
            let signs = read_signs(bytes[signs..].first_chunk().unwrap_or_else(|| unreachable!("a checked size")));
            let vectors = bytes[codes..][..SIGN_COLS / CODE_COLS * ROWS].as_chunks().0;
            let triples = columns[col..][..SIGN_COLS].as_chunks_mut().0;
            for (at, triple) in triples.iter_mut().enumerate() {
                let vector = column_of(&vectors[at / 2]);
                let sizes = column(|number| vector[number] >> (4 * (1 - at % 2)) & all(15));
                let negative = column(|number| signs[at / 4][number] >> (7 - 2 * (at % 4)) & all(1));
                read_triples(&sizes, &negative, triple);
            }
        }
        for (at, col) in self.pairs(first) {
            if let (Some(vector), Some(columns)) = (bytes[at..].first_chunk(), columns[col..].first_chunk_mut()) {
                pairs::read(&column_of(vector), columns);
            }
        }
    }

    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]) {
        for Triples { codes: at, signs, col } in self.triples(first) {
            for (row, &place) in PLACE.iter().enumerate() {
                let mut word = 0;
                for (quarter, codes) in codes.row(row)[col..][..SIGN_COLS].as_chunks::<CODE_COLS>().0.iter().enumerate()
                {
                    let triples = codes.as_chunks::<3>().0;
                    let values = [0, 1].map(|t| triples[t].iter().fold(0, |v, &code| 3 * v + i16::from(code)) - 13);
                    bytes[at + quarter * ROWS + usize::from(place)] =
                        (values[0].unsigned_abs() << 4 | values[1].unsigned_abs()) as u8;
                    let bits = u16::from(values[0] < 0) << 15 | u16::from(values[1] < 0) << 13;
                    word |= bits >> (4 * quarter + row / 16);
                }
                let signs = &mut bytes[signs + 2 * (row % 16)..][..2];
                signs[0] |= word.to_le_bytes()[0];
                signs[1] |= word.to_le_bytes()[1];
            }
        }
        for (at, col) in self.pairs(first) {
            for (row, &place) in PLACE.iter().enumerate() {
                bytes[at + usize::from(place)] = pairs::byte(&codes.row(row)[col..col + 4]);
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
        let tile = Tile { rows: 32, cols: 96, lanes: 32 };
        // 32 x 256: 192 columns of triples, 64 of pairs. 1024 bytes of codes and 256 of signs, 0 for zeros; 512 bytes of
        // pairs of index 4; the converter reserves 256 * 32 / 4 = 2048 bytes; then the scale.
        let mut bytes = vec![0; 2048 + 32];
        bytes[1280..1792].fill(0x44);
        // Row 9, columns 99 to 101 = -1, 0, +1: v = -9 + 1 = -8. Triple 33 is the second of column tile 1, whose codes
        // begin at 16 vectors; row 9 stands in byte 17; low nibble. Its sign is bit 13 of word 64 + 9.
        bytes[16 * 32 + 17] = 0x08;
        bytes[1024 + 2 * 73 + 1] = 0x20;
        // Row 20, columns 0 to 2 = +1, +1, +1: v = 13, high nibble of byte 12.
        bytes[12] = 0xd0;
        // Row 31, columns 24 to 26 = 0, 0, -1: v = -1. Triple 8: vector 4, byte 31, high nibble; bit 14 of word 16 + 15.
        bytes[4 * 32 + 31] = 0x10;
        bytes[1024 + 2 * 31 + 1] = 0x40;
        // Row 3, columns 226 and 227 = 0, -1: index 3. Pair 17 is the second of pair tile 1 (8 vectors), byte 3.
        bytes[1280 + 8 * 32 + 3] = 0x43;
        bytes[2048..2052].copy_from_slice(&[0, 0, 0, 0x3f]);
        let weights = [(9, 99, -1), (9, 101, 1), (20, 0, 1), (20, 1, 1), (20, 2, 1), (31, 26, -1), (3, 227, -1)];
        check_by_hand(Dialect::TL2(tile), (32, 256), &weights, MatrixScales::PerTensor(0.5), &bytes);
    }
}
