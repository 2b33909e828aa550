//! IQ1_BN: rows of an f16 scale and blocks of 64 weights in 13 bytes. Each 16 weights take three bytes of five and a
//! digit of the last byte of the block.
//!
//! A byte holds base-3 digits (the codes) as a fixed-point number: ceil(256 * v / 243), where the first digit is the
//! *least* significant of v, unlike TQ1_0. Digit j is the whole part of 3 * fraction(3^(4 - j) * byte / 256).
//!
//! ```text
//! byte 3 g + k, g 0..3, k 0..2   weights 16 g + 5 k + 0 .. 4
//! byte 12                        weights 15, 31, 47, 63, then a digit 0
//! ```
//!
//! Every byte is valid; 13 of the 256 are never written. Source: ik_llama.cpp, `block_iq1_bn` in ggml-common.h and
//! `quantize_iq1_bn` in iqk_quantize.cpp.

use super::blocks::Blocks;

pub(super) const BYTES: usize = 13;
pub(super) const HEADER_BYTES: usize = 2;

pub(super) fn coding(cols: usize) -> Blocks<BYTES, 64> {
    Blocks { cols, header: HEADER_BYTES, scale: 0, unpack, pack }
}

/// The five digits of each byte.
static DIGITS: [[u8; 5]; 256] = {
    const POWERS: [u8; 5] = [81, 27, 9, 3, 1];
    let mut digits = [[0; 5]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut j = 0;
        while j < 5 {
            let fraction = (byte as u8).wrapping_mul(POWERS[j]) as u16;
            digits[byte][j] = ((fraction * 3) >> 8) as u8;
            j += 1;
        }
        byte += 1;
    }
    digits
};

fn unpack(block: &[u8; BYTES], codes: &mut [u8; 64]) {
    let last = DIGITS[usize::from(block[12])];
    for (g, (codes, bytes)) in codes.as_chunks_mut::<16>().0.iter_mut().zip(block.as_chunks::<3>().0).enumerate() {
        for (codes, byte) in codes.as_chunks_mut::<5>().0.iter_mut().zip(bytes) {
            *codes = DIGITS[usize::from(*byte)];
        }
        codes[15] = last[g];
    }
}

fn pack(codes: &[u8; 64], block: &mut [u8; BYTES]) {
    for (codes, bytes) in codes.as_chunks::<16>().0.iter().zip(block.as_chunks_mut::<3>().0) {
        for (codes, byte) in codes.as_chunks::<5>().0.iter().zip(bytes) {
            *byte = fixed_point(codes);
        }
    }
    block[12] = fixed_point(&[codes[15], codes[31], codes[47], codes[63]]);
}

fn fixed_point(digits: &[u8]) -> u8 {
    let v = digits.iter().rev().fold(0, |v, &digit| 3 * v + u32::from(digit));
    (256 * v).div_ceil(243) as u8
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        // Five zeros: v = 11111 in base 3 = 121, and ceil(256 * 121 / 243) = ceil(127.47) = 128.
        let mut bytes = [128; 30];
        // Four zeros, lowest digits: v = 1 + 3 + 9 + 27 = 40, ceil(42.14) = 43.
        bytes[14] = 43;
        bytes[29] = 43;
        // Row 0, weight 22 = 1: group 1, byte 3 + 1, digit 1: v = 121 + 3 = 124, ceil(130.63) = 131.
        bytes[2 + 4] = 131;
        // Row 1, weight 31 = -1: digit 1 of the last byte: v = 40 - 3 = 37, ceil(38.98) = 39.
        bytes[15 + 14] = 39;
        // 1 = 0x3c00, 0.5 = 0x3800.
        bytes[..2].copy_from_slice(&[0x00, 0x3c]);
        bytes[15..17].copy_from_slice(&[0x00, 0x38]);
        let scales = MatrixScales::PerRow([1.0, 0.5].into());
        check_by_hand(Dialect::IQ1BN, (2, 64), &[(0, 22, 1), (1, 31, -1)], scales, &bytes);
    }
}
