//! I2_S with four rows in a byte: column c of row r is in byte r / 4 * cols + c at shift 6 - 2 * (r % 4). The number
//! of rows is a multiple of 4. The scale is where it is in the blocks of 128.
//!
//! ```text
//! bits      7 6        5 4        3 2        1 0
//! byte 0    r 0, c 0   r 1, c 0   r 2, c 0   r 3, c 0
//! byte 1    r 0, c 1   r 1, c 1   r 2, c 1   r 3, c 1
//! ```
//!
//! Source: bitnet.cpp, `quantize_i2_s` in ggml-bitnet-mad.cpp as built for x86 without `ACT_PARALLEL`.

use super::{Coding, grid::Grid};

/// Rows in a byte.
const ROWS: usize = 4;

pub(super) struct R4 {
    pub cols: usize,
}

impl Coding for R4 {
    fn step(&self) -> usize {
        ROWS
    }

    fn read(&self, bytes: &[u8], first: usize, codes: &mut Grid) {
        let bytes = &bytes[first / ROWS * self.cols..][..self.cols];
        for row in 0..ROWS {
            for (code, byte) in codes.row_mut(row).iter_mut().zip(bytes) {
                *code = byte >> (6 - 2 * row) & 3;
            }
        }
    }

    fn write(&self, codes: &Grid, first: usize, bytes: &mut [u8]) {
        let bytes = &mut bytes[first / ROWS * self.cols..][..self.cols];
        for row in 0..ROWS {
            for (code, byte) in codes.row(row).iter().zip(bytes.iter_mut()) {
                *byte |= code << (6 - 2 * row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::{I2sPacking, MatrixScales};

    #[test]
    fn bytes_are_those_of_the_format() {
        // 8 rows of 3 columns: byte 2 has column 2 of rows 0 to 3, byte 3 column 0 of rows 4 to 7.
        let mut bytes = [vec![0b01_01_01_01; 6], vec![0; 32]].concat();
        bytes[2] = 0b00_01_10_01;
        bytes[3] = 0b01_01_01_10;
        // 0.5 = 0x3f000000, then zeros.
        bytes[6..][..4].copy_from_slice(&[0, 0, 0, 0x3f]);
        let scales = MatrixScales::PerTensor(0.5);
        check_by_hand(Dialect::I2S(I2sPacking::R4), (8, 3), &[(0, 2, -1), (2, 2, 1), (7, 0, 1)], scales, &bytes);
    }
}
