//! IQ2_BN_R4: groups of four rows, each group four f32 scales and then, for each 64 columns, 64 bytes. Byte
//! 16 l + 4 k + i (l, k, i from 0 to 3) belongs to row k; its fields from the lowest bits up are the columns
//! 16 l + i + 0, 4, 8 and 12.
//!
//! ```text
//! bits          7 6         5 4         3 2         1 0
//! byte 0        r 0, c 12   r 0, c 8    r 0, c 4    r 0, c 0
//!  ..
//! byte 3        r 0, c 15   r 0, c 11   r 0, c 7    r 0, c 3
//! byte 4        r 1, c 12   r 1, c 8    r 1, c 4    r 1, c 0
//!  ..
//! byte 16       r 0, c 28   r 0, c 24   r 0, c 20   r 0, c 16
//!  ..
//! byte 63       r 3, c 63   r 3, c 59   r 3, c 55   r 3, c 51
//! ```
//!
//! Source: ik_llama.cpp, `repack_iq2_bn` in iqk_quantize.cpp.

use super::{
    Coding,
    grid::Grid,
    iq2_bn::{BYTES, HEADER_BYTES},
};

const ROWS: usize = 4;
/// Columns of the bytes that stand together.
const COLS: usize = 16;

pub(super) struct R4 {
    pub cols: usize,
}

impl R4 {
    /// Bytes of four rows.
    fn group_bytes(&self) -> usize {
        ROWS * (HEADER_BYTES + self.cols / 64 * BYTES)
    }
}

impl Coding for R4 {
    fn step(&self) -> usize {
        ROWS
    }

    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid) {
        let group = &bytes[first / ROWS * self.group_bytes()..][..self.group_bytes()];
        for (l, part) in group[ROWS * HEADER_BYTES..].as_chunks::<16>().0.iter().enumerate() {
            for (k, part) in part.as_chunks::<4>().0.iter().enumerate() {
                let codes = &mut codes.row_mut(k)[COLS * l..][..COLS];
                for (i, byte) in part.iter().enumerate() {
                    codes[i] = byte & 3;
                    codes[i + 4] = byte >> 2 & 3;
                    codes[i + 8] = byte >> 4 & 3;
                    codes[i + 12] = byte >> 6;
                }
            }
        }
    }

    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]) {
        let group = &mut bytes[first / ROWS * self.group_bytes()..][..self.group_bytes()];
        for (l, part) in group[ROWS * HEADER_BYTES..].as_chunks_mut::<16>().0.iter_mut().enumerate() {
            for (k, part) in part.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let codes = &codes.row(k)[COLS * l..][..COLS];
                for (i, byte) in part.iter_mut().enumerate() {
                    *byte = codes[i] | codes[i + 4] << 2 | codes[i + 8] << 4 | codes[i + 12] << 6;
                }
            }
        }
    }

    fn scale_at(&self, index: usize, _bytes: usize) -> usize {
        index / ROWS * self.group_bytes() + index % ROWS * HEADER_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        // Eight rows of 64 columns: groups of 16 + 64 bytes. Row 2, column 4 + 1: l = 0, i = 1, byte 2 * 4 + 1, shift 2.
        // Row 7, column 63: row 3 of the second group, l = 3, i = 3, byte 48 + 12 + 3, shift 6.
        let mut bytes = [0b01_01_01_01; 160];
        bytes[16 + 9] = 0b01_01_10_01;
        bytes[80 + 16 + 63] = 0b00_01_01_01;
        for row in 0..8 {
            // 0.5, but 2 = 0x40000000 for row 6.
            let scale = if row == 6 { [0, 0, 0, 0x40] } else { [0, 0, 0, 0x3f] };
            bytes[80 * (row / 4) + 4 * (row % 4)..][..4].copy_from_slice(&scale);
        }
        let scales = MatrixScales::PerRow([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 2.0, 0.5].into());
        check_by_hand(Dialect::IQ2BNR4, (8, 64), &[(2, 5, 1), (7, 63, -1)], scales, &bytes);
    }
}
