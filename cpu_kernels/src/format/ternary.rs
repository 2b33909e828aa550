//! Packing and unpacking ternary codes, one at a time: the definition of [`Layout`] as code.

use super::{Layout, base3, base3_rows16, dialect, lookup, rows16};

/// Columns of one I2_S block.
pub const I2S_BLOCK: usize = 128;
/// Bytes of one I2_S block.
pub const I2S_BLOCK_BYTES: usize = I2S_BLOCK / 4;

/// Most columns of a ternary matrix: the i32 sums of a row hold that many products even in kernels that multiply
/// codes by 64 on the way (64 * 3 * 128 * 4 for each block in a lane).
pub const MAX_COLS: usize = 1 << 20;

/// Code of the value 0, which fills the columns past the end of a row.
pub(super) const ZERO: u8 = 1;

/// Columns of a packed row: `cols` rounded up to a multiple of [`I2S_BLOCK`].
pub fn padded_cols(cols: usize) -> usize {
    cols.div_ceil(I2S_BLOCK).saturating_mul(I2S_BLOCK)
}

/// Bytes of a packed (rows, cols) matrix; `usize::MAX` if that is too large a number, or the layout's tile does not cut
/// up the shape.
pub fn ternary_bytes(layout: Layout, rows: usize, cols: usize) -> usize {
    match layout {
        Layout::I2sP128 => cols.div_ceil(I2S_BLOCK).saturating_mul(I2S_BLOCK_BYTES).saturating_mul(rows),
        Layout::I2sR16 => rows16::bytes(rows, cols),
        Layout::Base3 => base3::row_bytes(cols).saturating_mul(rows),
        Layout::Base3R16 => base3_rows16::bytes(rows, cols),
        Layout::Tl1(_) | Layout::Tl2(_) => dialect::lookup_bytes(layout, rows, cols).unwrap_or(usize::MAX),
    }
}

/// Byte and shift of a column within its row, packed as [`Layout::I2sP128`].
pub(crate) fn place(col: usize) -> (usize, u32) {
    let (block, c) = (col / I2S_BLOCK, col % I2S_BLOCK);
    (block * I2S_BLOCK_BYTES + c % 32, 6 - 2 * (c / 32) as u32)
}

/// Packs `codes` (rows, cols), each 0, 1 or 2.
///
/// # Panics
/// If `codes` has not `rows * cols` entries, or one is above 2.
pub fn pack(layout: Layout, rows: usize, cols: usize, codes: &[u8]) -> Vec<u8> {
    assert_eq!(codes.len(), rows * cols, "codes of a {rows} x {cols} matrix");
    if let Some(at) = codes.iter().position(|&code| code > 2) {
        panic!("code {} at row {}, column {}", codes[at], at / cols, at % cols);
    }
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    let mut packed = vec![0; rows * row_bytes];
    for row in 0..rows {
        for col in 0..padded_cols(cols) {
            let (byte, shift) = place(col);
            packed[row * row_bytes + byte] |= if col < cols { codes[row * cols + col] } else { ZERO } << shift;
        }
    }
    lookup::repack(&packed, rows, cols, layout).expect("codes below 3")
}

/// The codes (rows, cols) of a packed matrix, one a byte.
///
/// # Panics
/// If `packed` has not [`ternary_bytes`] bytes.
pub fn unpack(layout: Layout, rows: usize, cols: usize, packed: &[u8]) -> Vec<u8> {
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    let mut plain = vec![0; rows * row_bytes];
    lookup::unpack_rows(layout, (rows, cols), packed, 0..rows, &mut plain);
    let mut codes = vec![0; rows * cols];
    for (at, code) in codes.iter_mut().enumerate() {
        *code = code_at(&plain[at / cols * row_bytes..], at % cols);
    }
    codes
}

/// The code of one column of a row packed as [`Layout::I2sP128`].
pub fn code_at(packed_row: &[u8], col: usize) -> u8 {
    let (byte, shift) = place(col);
    packed_row[byte] >> shift & 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// Byte b of a block holds columns b, b + 32, b + 64, b + 96, most significant first (bitnet.cpp's
    /// `quantize_i2_s`).
    #[test]
    fn i2s_bytes_are_those_of_the_format() {
        // Columns 0, 32, 64, 96 = codes 2, 1, 0, 2; columns 31, 63, 95, 127 = 0, 2, 2, 1; all others 1.
        let mut codes = vec![1; 128];
        (codes[0], codes[32], codes[64], codes[96]) = (2, 1, 0, 2);
        (codes[31], codes[63], codes[95], codes[127]) = (0, 2, 2, 1);
        let mut expected = [0b01_01_01_01; 32];
        expected[0] = 0b10_01_00_10;
        expected[31] = 0b00_10_10_01;
        assert_eq!(pack(Layout::I2sP128, 1, 128, &codes), expected);
    }

    #[test]
    fn a_short_row_is_filled_with_code_1() {
        // Two rows of 2 columns: the codes stand in bytes 0 and 1, top bits; everything else is code 1.
        let packed = pack(Layout::I2sP128, 2, 2, &[0, 2, 2, 0]);
        let mut expected = [0b01_01_01_01; 64];
        (expected[0], expected[1]) = (0b00_01_01_01, 0b10_01_01_01);
        (expected[32], expected[33]) = (0b10_01_01_01, 0b00_01_01_01);
        assert_eq!(packed, expected);
    }

    #[test]
    fn unpack_undoes_pack() {
        let mut rng = Rng::new(1);
        for (rows, cols) in [(0, 5), (3, 0), (1, 1), (3, 127), (2, 128), (5, 129), (2, 640)] {
            let codes = rng.codes(rows * cols);
            let packed = pack(Layout::I2sP128, rows, cols, &codes);
            assert_eq!(packed.len(), ternary_bytes(Layout::I2sP128, rows, cols));
            assert_eq!(unpack(Layout::I2sP128, rows, cols, &packed), codes, "{rows} x {cols}");
        }
    }

    #[test]
    #[should_panic(expected = "code 3 at row 1, column 0")]
    fn code_3_is_not_packed() {
        pack(Layout::I2sP128, 2, 2, &[0, 1, 3, 1]);
    }
}
