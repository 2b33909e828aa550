//! I2_S in blocks of 128: weight e of the flattened matrix is in byte 32 * (e / 128) + e % 32 at shift
//! 6 - 2 * (e % 128 / 32). An f32 scale follows in the first four of the last 32 bytes.
//!
//! ```text
//! bits      7 6    5 4    3 2    1 0
//! byte 0    e 0    e 32   e 64   e 96
//! byte 1    e 1    e 33   e 65   e 97
//!  ..
//! byte 31   e 31   e 63   e 95   e 127
//! ```
//!
//! Source: bitnet.cpp, `quantize_i2_s` in ggml-bitnet-mad.cpp as built for x86.

use super::{flat::Flat, grid};

pub(super) fn coding(cols: usize) -> Flat<32, 128> {
    Flat { cols, unpack: grid::unpack, pack: grid::pack }
}

#[cfg(test)]
mod tests {
    use super::super::{Dialect, tests::check_by_hand};
    use crate::format::{I2sPacking, MatrixScales};

    #[test]
    fn bytes_are_those_of_the_format() {
        // 2 rows of 192 columns are 3 blocks. Weight 0: byte 0, shift 6. Row 0, column 165 = weight 165: block 1, 37 of
        // it, byte 32 + 5, shift 4. Row 1, column 191 = weight 383: the last of block 2, byte 64 + 31, shift 0.
        let mut bytes = [vec![0b01_01_01_01; 96], vec![0; 32]].concat();
        bytes[0] = 0b10_01_01_01;
        bytes[37] = 0b01_00_01_01;
        bytes[95] = 0b01_01_01_10;
        // 0.5 = 0x3f000000, then zeros.
        bytes[96..][..4].copy_from_slice(&[0, 0, 0, 0x3f]);
        let scales = MatrixScales::PerTensor(0.5);
        check_by_hand(
            Dialect::I2S(I2sPacking::P128),
            (2, 192),
            &[(0, 0, 1), (0, 165, -1), (1, 191, 1)],
            scales,
            &bytes,
        );
    }
}
