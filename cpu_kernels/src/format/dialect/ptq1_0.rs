//! PTQ1_0: blocks of 128 weights in 28 bytes: 24 bytes of five weights, 2 bytes of four, and the f16 scale d. Bytes
//! hold digits as in [TQ1_0](super::tq1_0).
//!
//! ```text
//! byte m, 0..15        weights       m,  16 + m,  32 + m,  48 + m,  64 + m
//! byte 16 + m, 0..7    weights  80 + m,  88 + m,  96 + m, 104 + m, 112 + m
//! byte 24 + m, 0..1    weights 120 + m, 122 + m, 124 + m, 126 + m, then a digit 0
//! byte 26              d, 2 bytes
//! ```
//!
//! Source: PrismML's description of Ternary Bonsai files; no file of this type was at hand.

use super::{
    super::I2S_BLOCK_BYTES,
    blocks::Blocks,
    straight::from_quarters,
    tq1_0::{digits, pack_digits, unpack_digits},
};

pub(in super::super) const BYTES: usize = 28;

pub(super) fn coding(cols: usize) -> Blocks<BYTES, 128> {
    Blocks { cols, header: 0, scale: 26, unpack, pack }
}

/// The codes of a block. Inlined into functions with target features.
#[inline(always)]
pub(in super::super) fn unpack(block: &[u8; BYTES], codes: &mut [u8; 128]) {
    unpack_digits::<16>(&block[..16], &mut codes[..80]);
    unpack_digits::<8>(&block[16..24], &mut codes[80..120]);
    unpack_digits::<2>(&block[24..26], &mut codes[120..]);
}

fn pack(codes: &[u8; 128], block: &mut [u8; BYTES]) {
    pack_digits::<16>(&codes[..80], &mut block[..16]);
    pack_digits::<8>(&codes[80..120], &mut block[16..24]);
    pack_digits::<2>(&codes[120..], &mut block[24..26]);
}

/// A row as [`Layout::I2sP128`](crate::format::Layout::I2sP128), see [`super::straight`]. True: all bytes are codes.
#[inline(always)]
pub(super) fn plain_row(row: &[u8], out: &mut [[u8; I2S_BLOCK_BYTES]]) -> bool {
    for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out) {
        let mut bytes = [0; 32];
        bytes[..BYTES].copy_from_slice(block);
        let digits = digits(bytes);
        let mut quarters = [[0; I2S_BLOCK_BYTES]; 4];
        let mut put = |col: usize, codes: &[u8]| {
            quarters[col / I2S_BLOCK_BYTES][col % I2S_BLOCK_BYTES..][..codes.len()].copy_from_slice(codes);
        };
        for (digit, codes) in digits.iter().enumerate() {
            put(16 * digit, &codes[..16]);
            put(80 + 8 * digit, &codes[16..24]);
        }
        // The last two bytes have four.
        for (digit, codes) in digits[..4].iter().enumerate() {
            put(120 + 2 * digit, &codes[24..26]);
        }
        *out = from_quarters(&quarters);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use half::f16;

    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        // Five zeros: v = 11111 in base 3 = 121, and ceil(256 * 121 / 243) = ceil(127.47) = 128.
        let mut bytes = [128; 28];
        // Four zeros and a digit 0: v = 11110 = 120, ceil(126.42) = 127.
        bytes[24..26].fill(127);
        // Weight 17 = 1, digit 1 of byte 1: v = 12111 = 148, ceil(155.92) = 156.
        bytes[1] = 156;
        // Weight 99 = 80 + 8 * 2 + 3 = -1, digit 2 of byte 16 + 3: v = 11011 = 112, ceil(117.99) = 118.
        bytes[19] = 118;
        // Weight 125 = 120 + 2 * 2 + 1 = 1, digit 2 of byte 24 + 1: v = 11210 = 129, ceil(135.9) = 136.
        bytes[25] = 136;
        bytes[26..].copy_from_slice(&[0x00, 0x38]);
        let scales = MatrixScales::PerGroup { size: 128, values: [f16::from_f32(0.5)].into() };
        check_by_hand(Dialect::PTQ1_0, (1, 128), &[(0, 17, 1), (0, 99, -1), (0, 125, 1)], scales, &bytes);
    }
}
