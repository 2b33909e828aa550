//! IQ2_BN: rows of an f32 scale and blocks of 64 weights in 16 bytes, weight j in byte j % 16 at shift 2 * (j / 16).
//!
//! ```text
//! bits      7 6    5 4    3 2    1 0
//! byte 0    j 48   j 32   j 16   j 0
//! byte 1    j 49   j 33   j 17   j 1
//!  ..
//! byte 15   j 63   j 47   j 31   j 15
//! ```
//!
//! Source: ik_llama.cpp, `block_iq2_bn` in ggml-common.h and `quantize_iq2_bn` in iqk_quantize.cpp.

use super::blocks::Blocks;

pub(super) const BYTES: usize = 16;
pub(super) const HEADER_BYTES: usize = 4;

pub(super) fn coding(cols: usize) -> Blocks<BYTES, 64> {
    Blocks { cols, header: HEADER_BYTES, scale: 0, unpack, pack }
}

fn unpack(block: &[u8; BYTES], codes: &mut [u8; 64]) {
    for (at, byte) in block.iter().enumerate() {
        codes[at] = byte & 3;
        codes[at + 16] = byte >> 2 & 3;
        codes[at + 32] = byte >> 4 & 3;
        codes[at + 48] = byte >> 6;
    }
}

fn pack(codes: &[u8; 64], block: &mut [u8; BYTES]) {
    for (at, byte) in block.iter_mut().enumerate() {
        *byte = codes[at] | codes[at + 16] << 2 | codes[at + 32] << 4 | codes[at + 48] << 6;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        // Row 1 of two blocks: weight 20 of block 0, byte 4, shift 2; weight 63 of block 1, byte 15, shift 6.
        let mut bytes = [0b01_01_01_01; 72];
        bytes[36 + 4 + 4] = 0b01_01_10_01;
        bytes[36 + 20 + 15] = 0b00_01_01_01;
        // 0.5 = 0x3f000000, -2 = 0xc0000000.
        bytes[..4].copy_from_slice(&[0, 0, 0, 0x3f]);
        bytes[36..40].copy_from_slice(&[0, 0, 0, 0xc0]);
        let scales = MatrixScales::PerRow([0.5, -2.0].into());
        check_by_hand(Dialect::IQ2BN, (2, 128), &[(1, 20, 1), (1, 127, -1)], scales, &bytes);
    }
}
