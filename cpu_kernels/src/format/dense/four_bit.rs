//! Blocks of 4-bit values. Source: ggml, `block_q4_0` and `block_q4_K` in ggml-common.h, `dequantize_row_q4_0`,
//! `dequantize_row_q4_K` and `get_scale_min_k4` in ggml-quants.c.

use half::f16;

/// Bytes of a Q4_0 block: f16 d, then 16 bytes; value = d * (q - 8).
pub const Q4_0_BYTES: usize = 18;

/// Bytes of a Q4_K block: f16 d, f16 dmin, 12 bytes of scales, 128 of values.
pub const Q4K_BYTES: usize = 144;

/// Value i of 32 is the low nibble of byte i, value 16 + i the high one.
pub(super) fn q4_0(block: &[u8; Q4_0_BYTES], out: &mut [f32; 32]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[2..]) {
        *low = d * (f32::from(byte & 15) - 8.0);
        *high = d * (f32::from(byte >> 4) - 8.0);
    }
}

/// Eight runs of 32 values, each with a scale and a minimum: value = (d * scale) * q - dmin * minimum. Runs 2p and
/// 2p + 1 are the low and the high nibbles of bytes 32p .. 32p + 31.
pub(super) fn q4k(block: &[u8; Q4K_BYTES], out: &mut [f32; 256]) {
    let (scales, values) = block[4..].split_first_chunk().expect("144 bytes");
    let (factors, minima) = q4k_scales([block[0], block[1]], [block[2], block[3]], scales);
    for (run, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (x, byte) in out.iter_mut().zip(&values[run / 2 * 32..]) {
            let q = byte >> (4 * (run % 2)) & 15;
            *x = factors[run] * f32::from(q) - minima[run];
        }
    }
}

/// Factors of the values of each run, and the minima taken off afterwards, from d, dmin and the packed scales.
///
/// The first four runs have 6 bits of each in bytes 0..3 and 4..7; the others four bits of both in bytes 8..11 and the
/// upper two in the upper bits of the first eight.
pub fn q4k_scales(d: [u8; 2], dmin: [u8; 2], packed: &[u8; 12]) -> ([f32; 8], [f32; 8]) {
    let (d, dmin) = (f16::from_le_bytes(d).to_f32(), f16::from_le_bytes(dmin).to_f32());
    let (mut factors, mut minima) = ([0.0; 8], [0.0; 8]);
    for run in 0..8 {
        let (scale, minimum) = if run < 4 {
            (packed[run] & 63, packed[run + 4] & 63)
        } else {
            (packed[run + 4] & 15 | packed[run - 4] >> 6 << 4, packed[run + 4] >> 4 | packed[run] >> 6 << 4)
        };
        factors[run] = d * f32::from(scale);
        minima[run] = dmin * f32::from(minimum);
    }
    (factors, minima)
}

#[cfg(test)]
mod tests {
    use super::super::{DenseType, decode_row};
    use super::*;

    #[test]
    fn q4_0_has_low_nibbles_first() {
        let mut block = [0x88; Q4_0_BYTES];
        // d = 0.5; value 3 = low nibble 15, value 16 + 3 = high nibble 0, value 31 = high nibble 9.
        (block[0], block[1]) = (0x00, 0x38);
        block[2 + 3] = 0x0F;
        block[2 + 15] = 0x98;
        let mut expected = [0.0; 32];
        (expected[3], expected[19], expected[31]) = (3.5, -4.0, 0.5);
        let mut out = [f32::NAN; 32];
        decode_row(DenseType::Q4_0, &block, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn q4k_places_scales_and_minima() {
        let mut block = [0; Q4K_BYTES];
        // d = 2, dmin = 0.5.
        block[..4].copy_from_slice(&[0x00, 0x40, 0x00, 0x38]);
        let scales = &mut block[4..16];
        // Run 1: scale 33, minimum 7. Run 6: scale 0b10_0101 = 37, minimum 0b01_1010 = 26.
        scales[1] = 33;
        scales[5] = 7;
        scales[10] = 0xA5;
        scales[2] |= 0b10 << 6;
        scales[6] |= 0b01 << 6;
        // Value 4 of run 1: high nibble of byte 4. Value 31 of run 6: low nibble of byte 3 * 32 + 31.
        block[16 + 4] = 0xB0;
        block[16 + 127] = 0x0C;
        let mut expected = [0.0; 256];
        expected[32..64].fill(-3.5);
        expected[36] = 66.0 * 11.0 - 3.5;
        expected[192..224].fill(-13.0);
        expected[223] = 74.0 * 12.0 - 13.0;
        let mut out = [f32::NAN; 256];
        decode_row(DenseType::Q4K, &block, &mut out);
        assert_eq!(out, expected);
    }
}
