//! Q2_0: blocks of 64 weights in 18 bytes, or, before ggml settled the size and in PrismML's PQ2_0, of 128 weights in
//! 34: the f16 scale d, then the codes in order, weight j in byte 2 + j / 4 at shift 2 * (j % 4).
//!
//! ```text
//! bits      7 6    5 4    3 2    1 0
//! byte 0    d, 2 bytes
//! byte 2    j 3    j 2    j 1    j 0
//! byte 3    j 7    j 6    j 5    j 4
//!  ..
//! ```
//!
//! The format gives code 3 the value +2, which no ternary weight has. Source: ggml, `block_q2_0` in ggml-common.h;
//! PrismML's model cards.

use super::{super::I2S_BLOCK_BYTES, blocks::Blocks};

pub(super) const BYTES_64: usize = 18;
pub(super) const BYTES_128: usize = 34;

pub(super) fn coding_64(cols: usize) -> Blocks<BYTES_64, 64> {
    Blocks { cols, header: 0, scale: 0, unpack, pack }
}

pub(super) fn coding_128(cols: usize) -> Blocks<BYTES_128, 128> {
    Blocks { cols, header: 0, scale: 0, unpack, pack }
}

fn unpack<const B: usize, const N: usize>(block: &[u8; B], codes: &mut [u8; N]) {
    for (byte, codes) in block[2..].iter().zip(codes.as_chunks_mut::<4>().0) {
        // A number for each byte becomes a lane of a vector, a code for each does not.
        let byte = u32::from(*byte);
        *codes = ((byte | byte << 6 | byte << 12 | byte << 18) & 0x0303_0303).to_le_bytes();
    }
}

fn pack<const B: usize, const N: usize>(codes: &[u8; N], block: &mut [u8; B]) {
    for (byte, codes) in block[2..].iter_mut().zip(codes.as_chunks::<4>().0) {
        *byte = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6;
    }
}

/// A row as [`Layout::I2sP128`](crate::format::Layout::I2sP128), see [`super::straight`]; false if it has a code 3.
#[inline(always)]
pub(super) fn plain_row<const B: usize>(row: &[u8], out: &mut [[u8; I2S_BLOCK_BYTES]]) -> bool {
    let mut threes = 0;
    for (codes, out) in codes_of::<B>(row).zip(out) {
        *out = exchange_fields(&codes);
        threes |= codes.iter().fold(0, |threes, byte| threes | (byte & byte >> 1 & 0x55));
    }
    threes == 0
}

/// Four codes of 0.
pub(super) const ZEROS: u8 = 0b01_01_01_01;

/// The codes of a row in blocks of `B` bytes, 128 at a time, with zeros behind the last ones.
#[inline(always)]
fn codes_of<const B: usize>(row: &[u8]) -> impl Iterator<Item = [u8; I2S_BLOCK_BYTES]> {
    row.chunks(I2S_BLOCK_BYTES / (B - 2) * B).map(|blocks| {
        let mut codes = [ZEROS; I2S_BLOCK_BYTES];
        for (block, codes) in blocks.as_chunks::<B>().0.iter().zip(codes.chunks_exact_mut(B - 2)) {
            codes.copy_from_slice(&block[2..]);
        }
        codes
    })
}

/// The bytes of 128 codes in order as a block of [`Layout::I2sP128`](crate::format::Layout::I2sP128): byte 4 n + k has there,
/// from its upper bits down, field k of bytes n, 8 + n, 16 + n and 24 + n here. Four bytes and their four fields, exchanged.
#[inline(always)]
fn exchange_fields(codes: &[u8; I2S_BLOCK_BYTES]) -> [u8; I2S_BLOCK_BYTES] {
    let mut block = [0; I2S_BLOCK_BYTES];
    for (n, out) in block.as_chunks_mut().0.iter_mut().enumerate() {
        let mut four = u32::from_le_bytes([codes[24 + n], codes[16 + n], codes[8 + n], codes[n]]);
        // Single fields, then two of each of two bytes, change places across the diagonal.
        for (distance, mask) in [(6, 0x00CC_00CC), (12, 0x0000_F0F0)] {
            let moved = (four ^ four >> distance) & mask;
            four ^= moved ^ moved << distance;
        }
        *out = four.to_le_bytes();
    }
    block
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use half::f16;

    use crate::format::{GroupScales, MatrixScales};

    #[test]
    fn bytes_are_those_of_the_format() {
        // d = 1 and d = 0, as a block of zeros has: 0x3c00 and 0x0000. Weight 5 of the first block: byte 2 + 1, shift 2.
        // Weight 63, or 127, the last: shift 6.
        let values: GroupScales = [1.0, 0.0].map(f16::from_f32).into();
        let mut bytes = [0b01_01_01_01; 36];
        bytes[3] = 0b01_01_10_01;
        bytes[17] = 0b00_01_01_01;
        bytes[..2].copy_from_slice(&[0x00, 0x3c]);
        bytes[18..20].copy_from_slice(&[0, 0]);
        let scales = MatrixScales::PerGroup { size: 64, values: values.clone() };
        check_by_hand(Dialect::Q2_0, (2, 64), &[(0, 5, 1), (0, 63, -1)], scales, &bytes);

        let mut bytes = [0b01_01_01_01; 68];
        bytes[3] = 0b01_01_10_01;
        bytes[33] = 0b00_01_01_01;
        bytes[..2].copy_from_slice(&[0x00, 0x3c]);
        bytes[34..36].copy_from_slice(&[0, 0]);
        let scales = MatrixScales::PerGroup { size: 128, values };
        check_by_hand(Dialect::Q2_0G128, (1, 256), &[(0, 5, 1), (0, 127, -1)], scales, &bytes);
    }
}
