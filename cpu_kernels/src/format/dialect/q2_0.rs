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

use super::blocks::Blocks;

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
