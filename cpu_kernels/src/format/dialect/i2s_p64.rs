//! I2_S in blocks of 64: weight e of the flattened matrix is in byte 16 * (e / 64) + e % 16 at shift
//! 6 - 2 * (e % 64 / 16). The scale is where it is in the blocks of 128.
//!
//! ```text
//! bits      7 6    5 4    3 2    1 0
//! byte 0    e 0    e 16   e 32   e 48
//! byte 1    e 1    e 17   e 33   e 49
//!  ..
//! byte 15   e 15   e 31   e 47   e 63
//! ```
//!
//! Source: bitnet.cpp, `quantize_i2_s` in ggml-bitnet-mad.cpp as built for ARM since November 2025.

use super::flat::Flat;

pub(super) fn coding(cols: usize) -> Flat<16, 64> {
    Flat { cols, unpack, pack }
}

fn unpack(bytes: &[u8; 16], codes: &mut [u8; 64]) {
    for (at, byte) in bytes.iter().enumerate() {
        codes[at] = byte >> 6;
        codes[at + 16] = byte >> 4 & 3;
        codes[at + 32] = byte >> 2 & 3;
        codes[at + 48] = byte & 3;
    }
}

fn pack(codes: &[u8; 64], bytes: &mut [u8; 16]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = codes[at] << 6 | codes[at + 16] << 4 | codes[at + 32] << 2 | codes[at + 48];
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::{I2sPacking, MatrixScales};

    #[test]
    fn bytes_are_those_of_the_format() {
        // 2 rows of 96 columns are 3 blocks. Row 0, column 17: block 0, byte 1, shift 4. Row 1, column 95 = weight 191:
        // the last of block 2, byte 32 + 15, shift 0. Row 1, column 0 = weight 96: 32 of block 1, byte 16, shift 2.
        let mut bytes = [vec![0b01_01_01_01; 48], vec![0; 32]].concat();
        bytes[1] = 0b01_10_01_01;
        bytes[47] = 0b01_01_01_00;
        bytes[16] = 0b01_01_10_01;
        // 0.5 = 0x3f000000, then zeros.
        bytes[48..][..4].copy_from_slice(&[0, 0, 0, 0x3f]);
        let scales = MatrixScales::PerTensor(0.5);
        check_by_hand(Dialect::I2S(I2sPacking::P64), (2, 96), &[(0, 17, 1), (1, 95, -1), (1, 0, 1)], scales, &bytes);
    }
}
