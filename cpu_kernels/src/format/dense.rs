//! Rows of tables as `f32`, one block at a time: the definition of [`DenseType`] as code.

mod base3;
mod encode;
mod four_bit;
mod two_bit;

pub use base3::{PTQ1_0_BYTES, TQ1_0_BYTES, ptq1_0_codes, tq1_0_codes};
pub use encode::encode_row;
pub use four_bit::{Q4_0_BYTES, Q4K_BYTES, q4k_scales};
use half::{bf16, f16};
pub use two_bit::{Q2_0_BYTES, Q2_0_G128_BYTES, TQ2_0_BYTES};

use super::DenseType;

/// Bytes of a Q8_0 block: f16 d, then 32 x i8; value = d * q.
pub const Q8_0_BYTES: usize = 34;

/// Bytes of a Q6_K block: low nibbles\[128\], high bit pairs\[64\], i8 scales\[16\], f16 d.
pub const Q6K_BYTES: usize = 210;

/// Writes one row as f32. `row` has the bytes of `out.len()` columns.
///
/// # Panics
/// If it has not.
pub fn decode_row(ty: DenseType, row: &[u8], out: &mut [f32]) {
    assert!(out.len().is_multiple_of(ty.block_len()), "{} columns in blocks of {}", out.len(), ty.block_len());
    assert_eq!(row.len(), ty.row_bytes(out.len()), "bytes of a row of {} columns of {ty:?}", out.len());
    match ty {
        DenseType::F32 => zip(row, out, |b: &[u8; 4], x: &mut [f32; 1]| x[0] = f32::from_le_bytes(*b)),
        DenseType::F16 => zip(row, out, |b: &[u8; 2], x: &mut [f32; 1]| x[0] = f16::from_le_bytes(*b).to_f32()),
        DenseType::BF16 => zip(row, out, |b: &[u8; 2], x: &mut [f32; 1]| x[0] = bf16::from_le_bytes(*b).to_f32()),
        DenseType::Q8_0 => zip(row, out, q8_0),
        DenseType::Q6K => zip(row, out, q6k),
        DenseType::Q4K => zip(row, out, four_bit::q4k),
        DenseType::Q4_0 => zip(row, out, four_bit::q4_0),
        DenseType::TQ1_0 => zip(row, out, base3::tq1_0),
        DenseType::TQ2_0 => zip(row, out, two_bit::tq2_0),
        DenseType::Q2_0 => zip(row, out, two_bit::q2_0::<Q2_0_BYTES, 64>),
        DenseType::Q2_0G128 => zip(row, out, two_bit::q2_0::<Q2_0_G128_BYTES, 128>),
        DenseType::PTQ1_0 => zip(row, out, base3::ptq1_0),
    }
}

/// Calls `decode` with each block of `B` bytes and its `N` values.
fn zip<const B: usize, const N: usize>(row: &[u8], out: &mut [f32], decode: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, values) in row.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, values);
    }
}

fn q8_0(block: &[u8; Q8_0_BYTES], out: &mut [f32; 32]) {
    let d = f16::from_le_bytes([block[0], block[1]]).to_f32();
    for (x, &q) in out.iter_mut().zip(&block[2..]) {
        *x = d * f32::from(q as i8);
    }
}

/// Each half of 128 values has 64 bytes of low nibbles, 32 bytes of high bit pairs and 8 scales. Quarter j of a half
/// takes its nibbles from byte l or l + 32 (j odd), low (j < 2) or high half, and its bit pairs at shift 2j; each
/// run of 16 values has a scale.
fn q6k(block: &[u8; Q6K_BYTES], out: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = f16::from_le_bytes([d[0], d[1]]).to_f32();
    for (i, x) in out.iter_mut().enumerate() {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        let nibble = low[64 * half + 32 * (j % 2) + l] >> (4 * (j / 2)) & 15;
        let pair = high[32 * half + l] >> (2 * j) & 3;
        let q = i32::from(nibble | pair << 4) - 32;
        *x = d * f32::from(scales[i / 16] as i8) * q as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(ty: DenseType, row: &[u8], cols: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; cols];
        decode_row(ty, row, &mut out);
        out
    }

    #[test]
    fn plain_types() {
        // 1.5 = 0x3FC00000, -2 = 0xC0000000; binary16: 0x3E00, 0xC000; bfloat16: 0x3FC0, 0xC000.
        assert_eq!(decode(DenseType::F32, &[0, 0, 0xC0, 0x3F, 0, 0, 0, 0xC0], 2), [1.5, -2.0]);
        assert_eq!(decode(DenseType::F16, &[0x00, 0x3E, 0x00, 0xC0], 2), [1.5, -2.0]);
        assert_eq!(decode(DenseType::BF16, &[0xC0, 0x3F, 0x00, 0xC0], 2), [1.5, -2.0]);
        // The smallest subnormal of binary16.
        assert_eq!(decode(DenseType::F16, &[0x01, 0x00], 1), [2.0_f32.powi(-24)]);
    }

    #[test]
    fn q8_0_is_d_times_q() {
        let mut row = vec![0x00, 0x38]; // d = 0.5
        row.extend((0..32).map(|i| (i * 8 - 128) as u8));
        let expected: Vec<f32> = (0..32).map(|i| 0.5 * (i * 8 - 128) as f32).collect();
        assert_eq!(decode(DenseType::Q8_0, &row, 32), expected);
    }

    #[test]
    fn q6k_places_and_scales() {
        let mut block = [0; Q6K_BYTES];
        // q = 0 everywhere: value = d * scale * -32.
        (block[208], block[209]) = (0x00, 0x3C); // d = 1
        for (i, scale) in block[192..208].iter_mut().enumerate() {
            *scale = (i as i8 - 8) as u8;
        }
        let low = 0;
        let high = 128;
        block[low + 3] |= 0x05; // element 3: low nibble 5
        block[high + 3] |= 0b00_00_00_10; // and bit pair 2: q = 5 + 32 = 37
        block[low + 40] |= 0xA0; // element 96 + 8 (half 0): high nibble of byte 32 + 8: 10
        block[high + 8] |= 0b01_00_00_00; // and pair 1 at shift 6: q = 10 + 16 = 26
        block[low + 64 + 17] |= 0xF0; // element 128 + 64 + 17: high nibble of byte 17 of half 1: 15
        block[high + 32 + 17] |= 0b00_11_00_00; // and pair 3 at shift 4: q = 63
        let mut expected: Vec<f32> = (0..256).map(|i| -32.0 * (i / 16 - 8) as f32).collect();
        expected[3] = (37.0 - 32.0) * -8.0;
        expected[104] = (26.0 - 32.0) * (6.0 - 8.0);
        expected[209] = (63.0 - 32.0) * (13.0 - 8.0);
        assert_eq!(decode(DenseType::Q6K, &block, 256), expected);
    }
}
