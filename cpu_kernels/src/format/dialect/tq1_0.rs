//! TQ1_0: blocks of 256 weights in 54 bytes: 48 bytes of five weights, 4 bytes of four, and the f16 scale d.
//!
//! A byte holds base-3 digits (the codes) as a fixed-point number: ceil(256 * v / 243) where v is the number whose
//! first digit is the most significant of five. Digit n is the whole part of 3 * fraction(3^n * byte / 256).
//!
//! ```text
//! byte m, 0..31         weights        m,  32 + m,  64 + m,  96 + m, 128 + m
//! byte 32 + m, 0..15    weights  160 + m, 176 + m, 192 + m, 208 + m, 224 + m
//! byte 48 + m, 0..3     weights  240 + m, 244 + m, 248 + m, 252 + m, then a digit 0
//! byte 52               d, 2 bytes
//! ```
//!
//! Every byte has five digits, so every byte is valid; 13 of the 256 are never written. Source: ggml, `block_tq1_0`
//! in ggml-common.h, `quantize_row_tq1_0_ref` and `dequantize_row_tq1_0` in ggml-quants.c.

use super::{super::I2S_BLOCK_BYTES, blocks::Blocks, straight::from_quarters};

pub(in super::super) const BYTES: usize = 54;

pub(super) fn coding(cols: usize) -> Blocks<BYTES, 256> {
    Blocks { cols, header: 0, scale: 52, unpack, pack }
}

/// The codes of a block. Inlined into functions with target features.
#[inline(always)]
pub(in super::super) fn unpack(block: &[u8; BYTES], codes: &mut [u8; 256]) {
    unpack_digits::<32>(&block[..32], &mut codes[..160]);
    unpack_digits::<16>(&block[32..48], &mut codes[160..240]);
    unpack_digits::<4>(&block[48..52], &mut codes[240..]);
}

fn pack(codes: &[u8; 256], block: &mut [u8; BYTES]) {
    pack_digits::<32>(&codes[..160], &mut block[..32]);
    pack_digits::<16>(&codes[160..240], &mut block[32..48]);
    pack_digits::<4>(&codes[240..], &mut block[48..52]);
}

/// A row as [`Layout::I2sP128`](crate::format::Layout::I2sP128), see [`super::straight`]. True: all bytes are codes.
#[inline(always)]
pub(super) fn plain_row(row: &[u8], out: &mut [[u8; I2S_BLOCK_BYTES]]) -> bool {
    for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<2>().0) {
        let (of_32, rest) = block.split_first_chunk().expect("32 bytes of 54");
        let mut bytes = [0; 32];
        bytes[..rest.len()].copy_from_slice(rest);
        let (of_32, rest) = (digits::<32>(*of_32), digits(bytes));
        let mut quarters = [[0; I2S_BLOCK_BYTES]; 8];
        quarters[..5].copy_from_slice(&of_32);
        for (digit, codes) in rest.iter().enumerate() {
            quarters[5 + digit / 2][digit % 2 * 16..][..16].copy_from_slice(&codes[..16]);
        }
        // The last four bytes have four.
        for (digit, codes) in rest[..4].iter().enumerate() {
            quarters[7][16 + 4 * digit..][..4].copy_from_slice(&codes[16..20]);
        }
        for (quarters, out) in quarters.as_chunks().0.iter().zip(out) {
            *out = from_quarters(quarters);
        }
    }
    true
}

/// The five digits of each byte.
#[inline(always)]
pub(super) fn digits<const N: usize>(mut fractions: [u8; N]) -> [[u8; N]; 5] {
    let mut digits = [[0; N]; 5];
    for digits in &mut digits {
        for (digit, fraction) in digits.iter_mut().zip(&mut fractions) {
            // The whole part of 3 / 256 times the byte, and 256 times what is left. A comparison stays within its byte.
            *digit = u8::from(*fraction >= 86) + u8::from(*fraction >= 171);
            *fraction = fraction.wrapping_mul(3);
        }
    }
    digits
}

/// Digit n of byte m becomes code `M` * n + m, for all m and as many n as there is room for.
#[inline(always)]
pub(super) fn unpack_digits<const M: usize>(bytes: &[u8], codes: &mut [u8]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    for (power, codes) in POWERS.into_iter().zip(codes.as_chunks_mut::<M>().0) {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            let fraction = byte.wrapping_mul(power);
            *code = ((u16::from(fraction) * 3) >> 8) as u8;
        }
    }
}

/// Undoes [`unpack_digits`]; digits without a code are 0.
pub(super) fn pack_digits<const M: usize>(codes: &[u8], bytes: &mut [u8]) {
    let digits = codes.as_chunks::<M>().0;
    for (m, byte) in bytes.iter_mut().enumerate() {
        let v = (0..5).fold(0, |v, n| 3 * v + digits.get(n).map_or(0, |codes| u32::from(codes[m])));
        *byte = (256 * v).div_ceil(243) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use half::f16;

    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        // Five zeros: v = 11111 in base 3 = 121, and ceil(256 * 121 / 243) = ceil(127.47) = 128.
        let mut bytes = [128; 54];
        // Four zeros and a digit 0: v = 11110 = 120, ceil(126.42) = 127.
        bytes[48..52].fill(127);
        // Weight 32 = 1, digit 1 of byte 0: v = 12111 = 148, ceil(155.92) = 156.
        bytes[0] = 156;
        // Weight 239 = -1, digit 4 of byte 32 + 15: v = 11110 = 120.
        bytes[47] = 127;
        // Weight 253 = -1, digit 3 of byte 48 + 1: v = 11100 = 117, ceil(123.26) = 124.
        bytes[49] = 124;
        bytes[52..].copy_from_slice(&[0x00, 0x38]);
        let scales = MatrixScales::PerGroup { size: 256, values: [f16::from_f32(0.5)].into() };
        check_by_hand(Dialect::TQ1_0, (1, 256), &[(0, 32, 1), (0, 239, -1), (0, 253, -1)], scales, &bytes);
    }
}
