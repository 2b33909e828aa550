//! I2_S in order: weight e of the flattened matrix is in byte e / 4 at shift 6 - 2 * (e % 4). The scale is where it
//! is in the blocks of 128.
//!
//! ```text
//! bits      7 6    5 4    3 2    1 0
//! byte 0    e 0    e 1    e 2    e 3
//! byte 1    e 4    e 5    e 6    e 7
//! ```
//!
//! Source: bitnet.cpp, `quantize_i2_s` in a snapshot of July 2026, which none of its own SIMD kernels read.

use super::flat::Flat;

pub(super) fn coding(cols: usize) -> Flat<1, 4> {
    Flat { cols, unpack, pack }
}

fn unpack(bytes: &[u8; 1], codes: &mut [u8; 4]) {
    let byte = bytes[0];
    *codes = [byte >> 6, byte >> 4 & 3, byte >> 2 & 3, byte & 3];
}

fn pack(codes: &[u8; 4], bytes: &mut [u8; 1]) {
    bytes[0] = codes[0] << 6 | codes[1] << 4 | codes[2] << 2 | codes[3];
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::{I2sPacking, MatrixScales};

    #[test]
    fn bytes_are_those_of_the_format() {
        // 2 rows of 6 columns: weights 0 to 3 in byte 0, 4 to 7 in byte 1, which has columns 4 and 5 of row 0 and 0 and 1
        // of row 1.
        let mut bytes = [vec![0b10_01_01_00, 0b01_00_10_01, 0b01_01_01_10], vec![0; 32]].concat();
        // 0.5 = 0x3f000000, then zeros.
        bytes[3..][..4].copy_from_slice(&[0, 0, 0, 0x3f]);
        let scales = MatrixScales::PerTensor(0.5);
        check_by_hand(
            Dialect::I2S(I2sPacking::Seq),
            (2, 6),
            &[(0, 0, 1), (0, 3, -1), (0, 5, -1), (1, 0, 1), (1, 5, 1)],
            scales,
            &bytes,
        );
    }
}
