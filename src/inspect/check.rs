//! Reads the weights: codes of ternary tensors, scales and plain floats that are not finite.

use bitnet_cpu_kernels::format::{Codec, FormatError, Layout, MatrixScales, ternary_bytes};
use serde::Serialize;

use crate::gguf::{I2S_TRAILER_BYTES, TensorType};

/// How often each 2-bit code occurs. The packing does not matter: every byte holds four.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Codes {
    /// Code 0.
    pub minus_one: u64,
    /// Code 1.
    pub zero: u64,
    /// Code 2.
    pub plus_one: u64,
    /// Code 3, which no ternary weight has.
    pub three: u64,
}

impl Codes {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            minus_one: self.minus_one + other.minus_one,
            zero: self.zero + other.zero,
            plus_one: self.plus_one + other.plus_one,
            three: self.three + other.three,
        }
    }

    /// Codes in all.
    pub fn total(&self) -> u64 {
        self.minus_one + self.zero + self.plus_one + self.three
    }
}

/// The scale of a tensor of a type that has one, as I2_S, TL1 and TL2 keep it: in the last 32 bytes.
pub(super) fn one_scale(ty: TensorType, data: &[u8]) -> Option<f32> {
    if !matches!(ty, TensorType::I2_S | TensorType::TL1 | TensorType::TL2) {
        return None;
    }
    let trailer = data.last_chunk::<I2S_TRAILER_BYTES>()?;
    Some(f32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]))
}

/// The scales of a tensor that has several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scales {
    /// Weights that share one; a row's number of columns where each row has its own.
    pub group: usize,
    /// How many.
    pub count: usize,
    /// The least; negative scales are counted as they are.
    pub least: f32,
    /// The greatest.
    pub greatest: f32,
}

impl Scales {
    /// Scales of a matrix; `None` where it has only one.
    pub(super) fn of(codec: &Codec, scales: &MatrixScales) -> Option<Self> {
        let of = |group, values: &mut dyn Iterator<Item = f32>| {
            let (mut count, mut least, mut greatest) = (0, f32::INFINITY, f32::NEG_INFINITY);
            for value in values {
                (count, least, greatest) = (count + 1, least.min(value), greatest.max(value));
            }
            Some(Self { group, count, least, greatest })
        };
        match scales {
            MatrixScales::PerTensor(_) => None,
            MatrixScales::PerRow(values) => of(codec.cols(), &mut values.iter().copied()),
            MatrixScales::PerGroup { size, values } => of(*size, &mut values.iter().map(|value| value.to_f32())),
        }
    }
}

/// Decodes a whole tensor and counts its codes.
///
/// # Errors
/// The first that is not ternary.
pub(super) fn decoded_codes(codec: &Codec, data: &[u8]) -> Result<Codes, FormatError> {
    let (rows, cols, step) = (codec.rows(), codec.cols(), codec.row_step());
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    let mut packed = vec![0; step * row_bytes];
    let mut bytes = [0u64; 256];
    for first in (0..rows).step_by(step) {
        codec.decode_rows(data, first..first + step, &mut packed)?;
        count_bytes(&packed, &mut bytes);
    }
    let mut counts = by_code(&bytes);
    // A partial last block is filled up with zeros.
    counts.zero -= (rows * (4 * row_bytes - cols)) as u64;
    Ok(counts)
}

/// Fault of the scale of a ternary matrix, if it has one.
pub(super) fn wrong_scale(scale: f32) -> Option<String> {
    let why = if scale.is_nan() {
        "is not a number"
    } else if scale.is_infinite() {
        "is infinite"
    } else if scale == 0.0 {
        "is zero"
    } else if scale < 0.0 {
        "is negative"
    } else if scale.is_subnormal() {
        "is denormal"
    } else {
        return None;
    };
    Some(format!("the scale {scale} {why}"))
}

/// Counts the 2-bit codes of a tensor without decoding it; `None` for types that keep none.
pub(super) fn codes(ty: TensorType, data: &[u8]) -> Option<Codes> {
    let mut bytes = [0u64; 256];
    match ty {
        TensorType::I2_S => count_bytes(&data[..data.len() - I2S_TRAILER_BYTES], &mut bytes),
        // f16 scale in front
        TensorType::Q2_0 => data.as_chunks::<18>().0.iter().for_each(|block| count_bytes(&block[2..], &mut bytes)),
        TensorType::Q2_0_G128 | TensorType::PQ2_0 => {
            data.as_chunks::<34>().0.iter().for_each(|block| count_bytes(&block[2..], &mut bytes));
        }
        // f16 scale behind
        TensorType::TQ2_0 => data.as_chunks::<66>().0.iter().for_each(|block| count_bytes(&block[..64], &mut bytes)),
        _ => return None,
    }
    Some(by_code(&bytes))
}

/// How often each code occurs in bytes of four, by how often each byte does.
fn by_code(bytes: &[u64; 256]) -> Codes {
    let mut counts = [0; 4];
    for (byte, count) in bytes.iter().enumerate() {
        for shift in [0, 2, 4, 6] {
            counts[byte >> shift & 3] += count;
        }
    }
    let [minus_one, zero, plus_one, three] = counts;
    Codes { minus_one, zero, plus_one, three }
}

fn count_bytes(data: &[u8], counts: &mut [u64; 256]) {
    for &byte in data {
        counts[usize::from(byte)] += 1;
    }
}

/// Floats that are not finite: how many, of how many, and what they are; `None` for types not looked into.
pub(super) fn not_finite(ty: TensorType, data: &[u8]) -> Option<(usize, usize, &'static str)> {
    let (bad, of) = match ty {
        TensorType::F32 => count_bad(data, |v| f32::from_le_bytes(v).is_finite()),
        TensorType::F16 => count_bad(data, f16_is_finite),
        TensorType::BF16 => count_bad(data, |v| half::bf16::from_le_bytes(v).is_finite()),
        _ => {
            let (bad, of) = bad_scales(data, scales_at(ty)?);
            return Some((bad, of, "block scales"));
        }
    };
    Some((bad, of, "values"))
}

fn count_bad<const N: usize>(data: &[u8], finite: impl Fn([u8; N]) -> bool) -> (usize, usize) {
    let values = data.as_chunks().0;
    (values.iter().filter(|&&value| !finite(value)).count(), values.len())
}

fn f16_is_finite(bytes: [u8; 2]) -> bool {
    half::f16::from_le_bytes(bytes).is_finite()
}

/// Block length and where the f16 scales of a block stand.
type ScalePlaces = (usize, &'static [usize]);

fn scales_at(ty: TensorType) -> Option<ScalePlaces> {
    Some(match ty {
        TensorType::Q4_0 => (18, &[0]),
        TensorType::Q8_0 => (34, &[0]),
        TensorType::Q4_K => (144, &[0, 2]),
        TensorType::Q6_K => (210, &[208]),
        TensorType::TQ1_0 => (54, &[52]),
        TensorType::TQ2_0 => (66, &[64]),
        TensorType::Q2_0 => (18, &[0]),
        TensorType::Q2_0_G128 | TensorType::PQ2_0 => (34, &[0]),
        TensorType::PTQ1_0 => (28, &[26]),
        _ => return None,
    })
}

fn bad_scales(data: &[u8], (block_bytes, places): ScalePlaces) -> (usize, usize) {
    let blocks = data.chunks_exact(block_bytes);
    let of = blocks.len() * places.len();
    let scales = blocks.flat_map(|block| places.iter().map(|&at| [block[at], block[at + 1]]));
    (scales.filter(|&scale| !f16_is_finite(scale)).count(), of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_counted_apart_from_scales() {
        // One of each code in a byte; the scale bytes would count as codes 3 if they were read.
        let codes_of = |before: usize, codes: usize, after: usize, blocks: usize| {
            [vec![0xff; before], vec![0b11_10_01_00; codes], vec![0xff; after]].concat().repeat(blocks)
        };
        let cases = [
            (TensorType::I2_S, codes_of(0, 96, 32, 1), 96),
            (TensorType::Q2_0, codes_of(2, 16, 0, 3), 48),
            (TensorType::Q2_0_G128, codes_of(2, 32, 0, 3), 96),
            (TensorType::PQ2_0, codes_of(2, 32, 0, 2), 64),
            (TensorType::TQ2_0, codes_of(0, 64, 2, 2), 128),
        ];
        for (ty, data, each) in cases {
            let expected = Codes { minus_one: each, zero: each, plus_one: each, three: each };
            assert_eq!(codes(ty, &data), Some(expected), "{}", ty.name());
        }
        assert_eq!(codes(TensorType::F16, &[0; 64]), None);
    }

    #[test]
    fn floats_that_are_not_finite_are_found_where_the_type_keeps_them() {
        const INF_F16: [u8; 2] = [0x00, 0x7c];
        // Type, block length, where the scales stand.
        let cases: &[(TensorType, usize, &[usize])] = &[
            (TensorType::Q8_0, 34, &[0]),
            (TensorType::Q4_0, 18, &[0]),
            (TensorType::Q4_K, 144, &[0, 2]),
            (TensorType::Q6_K, 210, &[128 + 64 + 16]),
            (TensorType::TQ1_0, 54, &[48 + 4]),
            (TensorType::TQ2_0, 66, &[64]),
            (TensorType::Q2_0, 18, &[0]),
            (TensorType::PTQ1_0, 28, &[24 + 2]),
        ];
        for &(ty, block, places) in cases {
            for &at in places {
                let mut data = vec![0; 3 * block];
                data[block + at..block + at + 2].copy_from_slice(&INF_F16);
                assert_eq!(not_finite(ty, &data), Some((1, 3 * places.len(), "block scales")), "{}", ty.name());
            }
        }
        let f32s: Vec<u8> = [1.0, f32::NAN, f32::NEG_INFINITY, f32::MAX].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(not_finite(TensorType::F32, &f32s), Some((2, 4, "values")));
        assert_eq!(not_finite(TensorType::F16, &[0x00, 0x7c, 0xff, 0x7b, 0x01, 0xfe]), Some((2, 3, "values")));
        assert_eq!(not_finite(TensorType::BF16, &[0x80, 0x7f, 0x7f, 0x7f, 0xff, 0xff]), Some((2, 3, "values")));
        assert_eq!(not_finite(TensorType::I32, &[0xff; 8]), None);
    }

    #[test]
    fn each_kind_of_wrong_scale_is_named() {
        assert_eq!(wrong_scale(0.5), None);
        assert_eq!(wrong_scale(f32::MIN_POSITIVE), None);
        for (scale, why) in [
            (f32::NAN, "not a number"),
            (f32::INFINITY, "infinite"),
            (f32::NEG_INFINITY, "infinite"),
            (0.0, "zero"),
            (-0.0, "zero"),
            (-1.0, "negative"),
            (f32::from_bits(1), "denormal"),
        ] {
            assert!(wrong_scale(scale).is_some_and(|text| text.ends_with(why)), "{scale}");
        }
    }
}
