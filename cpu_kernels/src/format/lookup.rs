//! The layouts that table lookups read: TL1 and TL2 as files have them, without the trailer, for any shape; and the
//! ways from one layout to another.

use std::ops::Range;

use super::{
    FormatError, Layout, Tile, base3, base3_rows16,
    dialect::{self, tl2::MIN_COLS},
    rows16,
    ternary::code_at,
    ternary_bytes,
};

/// Rows that interleave.
pub const LOOKUP_ROWS: usize = 32;

/// Columns that matrices are padded to a multiple of: those of a tile of TL2's pairs.
const COLS_STEP: usize = 32;

/// The shape that a (rows, cols) matrix is padded to with weights of 0. Matrices of files that have TL1 or TL2 need no
/// padding.
pub fn lookup_shape(rows: usize, cols: usize) -> (usize, usize) {
    (rows.next_multiple_of(LOOKUP_ROWS), cols.next_multiple_of(COLS_STEP).max(MIN_COLS))
}

impl Layout {
    /// True for the layouts whose products are looked up.
    pub fn is_lookup(self) -> bool {
        match self {
            Self::I2sP128 | Self::I2sR16 | Self::Base3 | Self::Base3R16 => false,
            Self::Tl1(_) | Self::Tl2(_) => true,
        }
    }

    /// True for the layouts of group scales, which have 16 rows side by side.
    pub fn is_side_by_side(self) -> bool {
        matches!(self, Self::I2sR16 | Self::Base3R16)
    }

    /// The TL1 layout that a matrix is repacked to, in tiles of at most `tile_rows` rows.
    pub fn tl1(rows: usize, cols: usize, tile_rows: usize) -> Self {
        let (rows, cols) = lookup_shape(rows, cols);
        let tile_cols = [128, 64, 32].into_iter().find(|&tile| cols.is_multiple_of(tile));
        let tile_cols = tile_cols.unwrap_or_else(|| unreachable!("{cols} is a multiple of {COLS_STEP}"));
        Self::Tl1(Tile { rows: tile_of(rows, tile_rows), cols: tile_cols, lanes: LOOKUP_ROWS })
    }

    /// The TL2 layout that a matrix is repacked to, in tiles of at most `tile_rows` rows.
    pub fn tl2(rows: usize, cols: usize, tile_rows: usize) -> Self {
        let (rows, _) = lookup_shape(rows, cols);
        // The columns left by tiles of 96 are a multiple of 32 wherever there are whole 32s.
        Self::Tl2(Tile { rows: tile_of(rows, tile_rows), cols: 96, lanes: LOOKUP_ROWS })
    }
}

/// The most rows, at most `wanted`, that cut `rows` into whole tiles.
fn tile_of(rows: usize, wanted: usize) -> usize {
    let groups = rows / LOOKUP_ROWS;
    let fits = |tile: &usize| groups.is_multiple_of(*tile);
    (1..=(wanted / LOOKUP_ROWS).max(1)).rev().find(fits).unwrap_or(1) * LOOKUP_ROWS
}

/// Repacks a matrix from [`Layout::I2sP128`].
///
/// # Errors
/// Names the first code that is 3, where the layout has no room for it.
///
/// # Panics
/// If `packed` has not the bytes of such a matrix, or the tile of the layout does not cut up the shape.
pub fn repack(packed: &[u8], rows: usize, cols: usize, to: Layout) -> Result<Vec<u8>, FormatError> {
    let mut out = vec![0; ternary_bytes(to, rows, cols)];
    repack_into(packed, rows, cols, to, &mut out)?;
    Ok(out)
}

/// As [`repack`], into zeroed bytes.
///
/// # Errors
/// As [`repack`].
///
/// # Panics
/// As [`repack`], or if `out` has not the bytes of the matrix in its new layout.
pub fn repack_into(packed: &[u8], rows: usize, cols: usize, to: Layout, out: &mut [u8]) -> Result<(), FormatError> {
    let bytes = ternary_bytes(Layout::I2sP128, rows, cols);
    assert_eq!(packed.len(), bytes, "bytes of a {rows} x {cols} matrix");
    assert_eq!(out.len(), ternary_bytes(to, rows, cols), "bytes of a {rows} x {cols} matrix as {to:?}");
    match to {
        Layout::I2sP128 => out.copy_from_slice(packed),
        Layout::I2sR16 => rows16::interleave(packed, ternary_bytes(Layout::I2sP128, 1, cols), out),
        Layout::Tl1(_) | Layout::Tl2(_) => return dialect::write_lookup(to, (rows, cols), packed, out),
        Layout::Base3 if out.is_empty() => {}
        Layout::Base3 => {
            let plain_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
            let pairs = packed.chunks_exact(plain_bytes).zip(out.chunks_exact_mut(base3::row_bytes(cols)));
            for (row, (plain, out)) in pairs.enumerate() {
                if !base3::pack_row(plain, out) {
                    return Err(code_3(plain, row, cols));
                }
            }
        }
        Layout::Base3R16 => {
            let plain_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
            let packed_rows = base3_rows16::pack_rows(packed, plain_bytes, cols, out);
            return packed_rows.map_err(|row| code_3(&packed[row * plain_bytes..], row, cols));
        }
    }
    Ok(())
}

/// The first code 3 of a row of I2_S that has one.
fn code_3(plain: &[u8], row: usize, cols: usize) -> FormatError {
    let col = (0..cols).find(|&col| code_at(plain, col) > 2).unwrap_or_else(|| unreachable!("padding is code 1"));
    FormatError::Code { element: row * cols + col }
}

/// True if all bytes of a matrix in a lookup layout are indices of tables.
///
/// # Panics
/// If `packed` has not the bytes of such a matrix.
pub fn only_indices(layout: Layout, rows: usize, cols: usize, packed: &[u8]) -> bool {
    assert_eq!(packed.len(), ternary_bytes(layout, rows, cols), "bytes of a {rows} x {cols} matrix");
    // The loop over a page has no branch and runs at memory speed.
    let below = |bytes: &[u8], end: u8| {
        let above = |byte: &u8| u8::from(byte & 15 >= end) | u8::from(byte >> 4 >= end);
        bytes.chunks(4096).all(|page| page.iter().fold(0, |found, byte| found | above(byte)) == 0)
    };
    let (triples, signs) = dialect::triple_bytes(layout, lookup_shape(rows, cols));
    below(&packed[..triples], 14) && below(&packed[triples + signs..], 9)
}

/// Unpacks the rows `range` of a matrix to [`Layout::I2sP128`]; the range begins at a multiple of [`LOOKUP_ROWS`]
/// where rows interleave for lookups. What is no code means a weight of 0.
///
/// # Panics
/// If `packed` has not the bytes of such a matrix, or `out` not those of its rows.
pub fn unpack_rows(layout: Layout, (rows, cols): (usize, usize), packed: &[u8], range: Range<usize>, out: &mut [u8]) {
    assert_eq!(packed.len(), ternary_bytes(layout, rows, cols), "bytes of a {rows} x {cols} matrix");
    assert!(range.start <= range.end && range.end <= rows, "rows {range:?} of {rows}");
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    assert_eq!(out.len(), range.len() * row_bytes, "bytes of {} rows of {cols} columns", range.len());
    match layout {
        Layout::I2sP128 => out.copy_from_slice(&packed[range.start * row_bytes..range.end * row_bytes]),
        Layout::I2sR16 => rows16::part(packed, row_bytes, range, out),
        Layout::Base3R16 => base3_rows16::part(packed, row_bytes, cols, range, out),
        Layout::Tl1(_) | Layout::Tl2(_) => {
            assert!(range.start.is_multiple_of(LOOKUP_ROWS), "rows {range:?} in steps of {LOOKUP_ROWS}");
            dialect::read_lookup(layout, (rows, cols), packed, range, out);
        }
        Layout::Base3 if out.is_empty() => {}
        Layout::Base3 => {
            let packed = packed.chunks_exact(base3::row_bytes(cols)).skip(range.start);
            packed.zip(out.chunks_exact_mut(row_bytes)).for_each(|(packed, out)| base3::unpack_row(packed, cols, out));
        }
    }
}
