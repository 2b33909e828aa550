//! Embedding tables and heads in ggml types that no kernel reads -> F16: Q4_1, Q5_0, Q5_1, Q2_K, Q3_K and Q5_K.
//!
//! Blocks and formulas are those of `ggml-quants.c`. `d` and `m` are f16.

use half::f16;

use crate::gguf::TensorType;

/// A function that writes the values of a block.
type Decode = fn(&[u8], &mut [f32]);

/// Values and bytes of a block, and how it is read; `None` for other types.
fn block(ty: TensorType) -> Option<(usize, usize, Decode)> {
    Some(match ty {
        TensorType::Q4_1 => (32, 20, q4_1),
        TensorType::Q5_0 => (32, 22, q5_0),
        TensorType::Q5_1 => (32, 24, q5_1),
        TensorType::Q2_K => (256, 84, q2_k),
        TensorType::Q3_K => (256, 110, q3_k),
        TensorType::Q5_K => (256, 176, q5_k),
        _ => return None,
    })
}

/// True for a type that [`to_f16`] reads.
pub(crate) fn reads(ty: TensorType) -> bool {
    block(ty).is_some()
}

/// The values of a tensor as F16; `None` for a type that is not read so.
pub(crate) fn to_f16(ty: TensorType, data: &[u8]) -> Option<Vec<u8>> {
    let (values, bytes, decode) = block(ty)?;
    let mut out = Vec::with_capacity(data.len() / bytes * values * 2);
    let mut scratch = [0.0; 256];
    for block in data.chunks_exact(bytes) {
        decode(block, &mut scratch[..values]);
        out.extend(scratch[..values].iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
    }
    Some(out)
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Two values of four bits a byte, the low ones first; `fifth` has a fifth bit of each.
fn nibbles(bytes: &[u8], fifth: u32, out: &mut [f32], value: impl Fn(u8) -> f32) {
    for (j, &byte) in bytes.iter().enumerate() {
        let high = |at: usize| ((fifth >> at & 1) as u8) << 4;
        out[j] = value(byte & 15 | high(j));
        out[j + 16] = value(byte >> 4 | high(j + 16));
    }
}

/// d, m, 16 bytes: q * d + m
fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    nibbles(&b[4..], 0, out, |q| f32::from(q) * d + m);
}

/// d, the fifth bits, 16 bytes: (q - 16) * d
fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    nibbles(&b[6..], u32::from_le_bytes([b[2], b[3], b[4], b[5]]), out, |q| (f32::from(q) - 16.0) * d);
}

/// d, m, the fifth bits, 16 bytes: q * d + m
fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    nibbles(&b[8..], u32::from_le_bytes([b[4], b[5], b[6], b[7]]), out, |q| f32::from(q) * d + m);
}

/// 16 bytes of scales (low bits) and minima (high bits), 64 of codes, d, m: for each 16 values d * scale * q - m * minimum
fn q2_k(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half(b, 80), half(b, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (scale, minimum) = (d * f32::from(b[group] & 15), m * f32::from(b[group] >> 4));
        for (at, value) in out.iter_mut().enumerate() {
            *value = scale * f32::from(two_bits(&b[16..80], group, at)) - minimum;
        }
    }
}

/// 32 bytes of third bits, 64 of the two low ones, 12 of scales, d: for each 16 values d * (scale - 32) * (q - 4)
fn q3_k(b: &[u8], out: &mut [f32]) {
    let d = half(b, 108);
    let scales = &b[96..108];
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        // Four bits in the first eight bytes, low ones first, and two in the last four.
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        for (at, value) in out.iter_mut().enumerate() {
            let third = b[16 * (group % 2) + at] >> (group / 2) & 1;
            *value = scale * (f32::from(two_bits(&b[32..96], group, at) | third << 2) - 4.0);
        }
    }
}

/// Code `at` of a group of 16: 128 values in 32 bytes, one in each pair of bits.
fn two_bits(codes: &[u8], group: usize, at: usize) -> u8 {
    let (part, shift, half) = (group / 8, 2 * (group % 8 / 2), group % 2);
    codes[32 * part + 16 * half + at] >> shift & 3
}

/// d, m, 12 bytes of scales and minima, 32 of fifth bits, 128 of codes: for each 32 values d * scale * q - m * minimum
fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    let packed = &b[4..16];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                (packed[group + 4] & 15 | packed[group - 4] >> 6 << 4, packed[group + 4] >> 4 | packed[group] >> 6 << 4)
            }
        };
        let (scale, minimum) = (d * f32::from(scale), m * f32::from(minimum));
        for (at, value) in out.iter_mut().enumerate() {
            let code = b[48 + 32 * (group / 2) + at] >> (4 * (group % 2)) & 15;
            let fifth = b[16 + at] >> group & 1;
            *value = scale * f32::from(code | fifth << 4) - minimum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte i is (37 i + 11) % 256, d is 0.5 and m 0.25; values by the `gguf` package of llama.cpp (numpy): the first two,
    /// the middle one and the last, the sum, and the sum of each times its number.
    #[test]
    fn blocks_have_the_values_of_ggufs_own_reader() {
        let (d, m) = (f16::from_f32(0.5).to_le_bytes(), f16::from_f32(0.25).to_le_bytes());
        let cases = [
            (TensorType::Q4_1, Some(0), Some(2), [7.75, 2.25, 4.75, 6.25], 130.5, 2123.5),
            (TensorType::Q5_0, Some(0), None, [4.5, -1.0, 7.0, 0.5], 7.5, 56.0),
            (TensorType::Q5_1, Some(0), Some(2), [9.75, 12.25, 9.75, 2.75], 260.5, 4082.5),
            (TensorType::Q2_K, Some(80), Some(82), [16.5, 0.0, 3.75, 2.25], 1029.5, 121_565.0),
            (TensorType::Q3_K, Some(108), None, [40.5, -54.0, 1.0, 21.0], 479.0, 88_572.5),
            (TensorType::Q5_K, Some(0), Some(2), [405.75, -12.75, 523.5, 54.25], 58_108.0, 8_013_724.0),
        ];
        for (ty, d_at, m_at, some, sum, weighted) in cases {
            let (count, bytes, decode) = block(ty).unwrap();
            let mut data: Vec<u8> = (0..bytes).map(|i| ((i * 37 + 11) % 256) as u8).collect();
            for (at, value) in [(d_at, d), (m_at, m)] {
                if let Some(at) = at {
                    data[at..at + 2].copy_from_slice(&value);
                }
            }
            let mut found = vec![0.0; count];
            decode(&data, &mut found);
            assert_eq!([found[0], found[1], found[count / 2], found[count - 1]], some, "{ty:?}");
            let numbered = found.iter().zip(1..).map(|(&value, number)| f64::from(value) * f64::from(number));
            let sums = (found.iter().map(|&value| f64::from(value)).sum::<f64>(), numbered.sum::<f64>());
            assert_eq!(sums, (sum, weighted), "{ty:?}");
            let halves: Vec<u8> = found.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
            assert_eq!(to_f16(ty, &[data.clone(), data].concat()).unwrap(), [halves.clone(), halves].concat());
        }
        assert!(to_f16(TensorType::Q8_0, &[]).is_none());
    }
}
