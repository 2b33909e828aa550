//! TQ2_0: blocks of 256 weights in 66 bytes, 64 of codes and the f16 scale d. Weight i of a block is in byte
//! 32 * (i / 128) + i % 32 at shift 2 * (i % 128 / 32).
//!
//! ```text
//! bits      7 6     5 4     3 2     1 0
//! byte 0    i 96    i 64    i 32    i 0
//! byte 1    i 97    i 65    i 33    i 1
//!  ..
//! byte 31   i 127   i 95    i 63    i 31
//! byte 32   i 224   i 192   i 160   i 128
//!  ..
//! byte 63   i 255   i 223   i 191   i 159
//! byte 64   d, 2 bytes
//! ```
//!
//! Source: ggml, `block_tq2_0` in ggml-common.h and `dequantize_row_tq2_0` in ggml-quants.c.

use super::{super::I2S_BLOCK_BYTES, blocks::Blocks};

pub(super) const BYTES: usize = 66;

pub(super) fn coding(cols: usize) -> Blocks<BYTES, 256> {
    Blocks { cols, header: 0, scale: 64, unpack, pack }
}

fn unpack(block: &[u8; BYTES], codes: &mut [u8; 256]) {
    for (bytes, codes) in block.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<128>().0) {
        for (at, byte) in bytes.iter().enumerate() {
            codes[at] = byte & 3;
            codes[at + 32] = byte >> 2 & 3;
            codes[at + 64] = byte >> 4 & 3;
            codes[at + 96] = byte >> 6;
        }
    }
}

fn pack(codes: &[u8; 256], block: &mut [u8; BYTES]) {
    for (bytes, codes) in block.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[at] | codes[at + 32] << 2 | codes[at + 64] << 4 | codes[at + 96] << 6;
        }
    }
}

/// A row as [`Layout::I2sP128`](crate::format::Layout::I2sP128), see [`super::straight`]; false if it has a code 3. Bytes
/// hold the same columns there, from their upper bits down.
#[inline(always)]
pub(super) fn plain_row(row: &[u8], out: &mut [[u8; I2S_BLOCK_BYTES]]) -> bool {
    let mut threes = 0;
    for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<2>().0) {
        for (byte, out) in block.iter().zip(out.as_flattened_mut()) {
            let fields = byte.rotate_left(4);
            *out = fields >> 2 & 0x33 | (fields & 0x33) << 2;
            threes |= byte & byte >> 1 & 0x55;
        }
    }
    threes == 0
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use half::f16;

    use crate::format::MatrixScales;

    #[test]
    fn bytes_are_those_of_the_format() {
        // Two blocks of zeros. Weight 70 of block 0: byte 6, shift 4. Weight 255 of block 1: byte 32 + 31, shift 6.
        let mut bytes = [0b01_01_01_01; 132];
        bytes[6] = 0b01_10_01_01;
        bytes[66 + 63] = 0b00_01_01_01;
        // d = 1 and d = 0.5: 0x3c00 and 0x3800.
        bytes[64..66].copy_from_slice(&[0x00, 0x3c]);
        bytes[130..].copy_from_slice(&[0x00, 0x38]);
        let scales = MatrixScales::PerGroup { size: 256, values: [1.0, 0.5].map(f16::from_f32).into() };
        check_by_hand(Dialect::TQ2_0, (1, 512), &[(0, 70, 1), (0, 511, -1)], scales, &bytes);
    }
}
