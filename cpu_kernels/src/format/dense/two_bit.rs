//! Tables of ternary weights in two bits: the blocks of [`super::super::dialect`] read in place, one f16 scale d each.
//! Value = d * (code - 1), code 3 as +2.

use half::f16;

/// Bytes of a TQ2_0 block: 64 of codes, f16 d.
pub const TQ2_0_BYTES: usize = 66;

/// Bytes of a Q2_0 block: f16 d, 16 of codes.
pub const Q2_0_BYTES: usize = 18;

/// Bytes of a Q2_0 block of 128: f16 d, 32 of codes.
pub const Q2_0_G128_BYTES: usize = 34;

/// Value i of 256 is in byte 32 * (i / 128) + i % 32 at shift 2 * (i % 128 / 32).
pub(super) fn tq2_0(block: &[u8; TQ2_0_BYTES], out: &mut [f32; 256]) {
    let d = f16::from_le_bytes([block[64], block[65]]).to_f32();
    for (i, x) in out.iter_mut().enumerate() {
        let code = block[32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3;
        *x = d * (f32::from(code) - 1.0);
    }
}

/// Value i is in byte 2 + i / 4 at shift 2 * (i % 4).
pub(super) fn q2_0<const BYTES: usize, const N: usize>(block: &[u8; BYTES], out: &mut [f32; N]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    for (i, x) in out.iter_mut().enumerate() {
        let code = block[2 + i / 4] >> (2 * (i % 4)) & 3;
        *x = d * (f32::from(code) - 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DenseType, decode_row};
    use crate::{
        format::{Codec, Dialect, Layout, MatrixScales, unpack},
        testing::Rng,
    };

    /// Decoding agrees with the codec of the same dialect, which is tested on bytes written by hand.
    #[test]
    fn the_blocks_are_those_of_the_dialects() {
        let mut rng = Rng::new(41);
        for (ty, dialect) in [
            (DenseType::TQ1_0, Dialect::TQ1_0),
            (DenseType::TQ2_0, Dialect::TQ2_0),
            (DenseType::Q2_0, Dialect::Q2_0),
            (DenseType::Q2_0G128, Dialect::Q2_0G128),
            (DenseType::PTQ1_0, Dialect::PTQ1_0),
        ] {
            let (rows, cols) = (3, 768);
            let codec = Codec::new(dialect, rows, cols).unwrap();
            let size = ty.block_len();
            let values = (0..rows * cols / size).map(|_| half::f16::from_f32(rng.f32())).collect();
            let scales = MatrixScales::PerGroup { size, values };
            let codes = rng.codes(rows * cols);
            let packed = crate::format::pack(Layout::I2sP128, rows, cols, &codes);
            let bytes = codec.encode(&packed, &scales).unwrap();
            assert_eq!(unpack(Layout::I2sP128, rows, cols, &codec.decode(&bytes).unwrap()), codes);
            assert_eq!(bytes.len(), rows * ty.row_bytes(cols), "{ty:?}");
            let MatrixScales::PerGroup { values, .. } = scales else { unreachable!("made above") };
            for (row, bytes) in bytes.chunks(ty.row_bytes(cols)).enumerate() {
                let mut out = vec![f32::NAN; cols];
                decode_row(ty, bytes, &mut out);
                for (col, x) in out.into_iter().enumerate() {
                    let at = row * cols + col;
                    let expected = values[at / size].to_f32() * (f32::from(codes[at]) - 1.0);
                    assert_eq!(x, expected, "{ty:?}, row {row}, column {col}");
                }
            }
        }
    }

    #[test]
    fn code_3_is_plus_two() {
        // d = 0.5.
        let mut block = [0xFF; super::Q2_0_BYTES];
        (block[0], block[1]) = (0x00, 0x38);
        let mut out = [0.0; 64];
        decode_row(DenseType::Q2_0, &block, &mut out);
        assert_eq!(out, [1.0; 64]);
    }
}
