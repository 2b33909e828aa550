//! Rows of `f32` in the non-ternary types: what [`decode_row`](super::decode_row) reads back, as close as the type
//! allows.

use half::{bf16, f16};

use super::{Q6K_BYTES, Q8_0_BYTES};
use crate::format::DenseType;

/// Writes one row. `row` has the bytes of `values.len()` columns.
///
/// F16 and BF16 round to nearest, ties to even. Q8_0 is d = max|x| / 127, q = x / d rounded half away from zero, as ggml
/// writes it. Q6_K looks for the scales with the least squared error; ggml weighs the errors, so its bytes differ.
///
/// # Errors
/// The place of the first value that is not finite or too large for the type.
///
/// # Panics
/// If `row` has not as many bytes, or the type is one that is only read.
pub fn encode_row(ty: DenseType, values: &[f32], row: &mut [u8]) -> Result<(), usize> {
    assert!(values.len().is_multiple_of(ty.block_len()), "{} columns in blocks of {}", values.len(), ty.block_len());
    assert_eq!(row.len(), ty.row_bytes(values.len()), "bytes of a row of {} columns of {ty:?}", values.len());
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        return Err(at);
    }
    match ty {
        DenseType::F32 => zip(values, row, |x: &[f32; 1], b: &mut [u8; 4]| {
            *b = x[0].to_le_bytes();
            true
        }),
        DenseType::F16 => zip(values, row, |x: &[f32; 1], b: &mut [u8; 2]| {
            let half = f16::from_f32(x[0]);
            *b = half.to_le_bytes();
            half.is_finite()
        }),
        DenseType::BF16 => zip(values, row, |x: &[f32; 1], b: &mut [u8; 2]| {
            let half = bf16::from_f32(x[0]);
            *b = half.to_le_bytes();
            half.is_finite()
        }),
        DenseType::Q8_0 => zip(values, row, q8_0),
        DenseType::Q6K => zip(values, row, q6k),
        DenseType::Q4K
        | DenseType::Q4_0
        | DenseType::TQ1_0
        | DenseType::TQ2_0
        | DenseType::Q2_0
        | DenseType::Q2_0G128
        | DenseType::PTQ1_0 => panic!("{ty:?} is read and not written"),
    }
}

/// Calls `encode` with each `N` values and their block of `B` bytes; it tells whether they fit.
fn zip<const B: usize, const N: usize>(
    values: &[f32],
    row: &mut [u8],
    encode: impl Fn(&[f32; N], &mut [u8; B]) -> bool,
) -> Result<(), usize> {
    for (at, (values, block)) in values.as_chunks().0.iter().zip(row.as_chunks_mut().0).enumerate() {
        if !encode(values, block) {
            return Err(at * N + largest(values));
        }
    }
    Ok(())
}

/// Place of the largest magnitude.
fn largest(values: &[f32]) -> usize {
    (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap_or_default()
}

fn q8_0(values: &[f32; 32], block: &mut [u8; Q8_0_BYTES]) -> bool {
    let d = values[largest(values)].abs() / 127.0;
    // The reciprocal is that of the f32 d; the f16 beside the codes is rounded.
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let stored = f16::from_f32(d);
    block[..2].copy_from_slice(&stored.to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    stored.is_finite()
}

/// Values that share one of the 16 scales of a Q6_K block.
const SUB: usize = 16;

fn q6k(values: &[f32; 256], block: &mut [u8; Q6K_BYTES]) -> bool {
    let parts = values.as_chunks::<SUB>().0;
    let mut ideal = [0.0; SUB];
    for (scale, part) in ideal.iter_mut().zip(parts) {
        *scale = ideal_scale(part);
    }
    // Scales are multiples of d in -128 ..= 127: the largest becomes -128.
    let d = f16::from_f32(ideal[largest(&ideal)] / -128.0);
    if !d.is_finite() {
        return false;
    }
    let mut codes = [0_u8; 256];
    let mut scales = [0_i8; SUB];
    for (at, part) in parts.iter().enumerate() {
        let codes = &mut codes[at * SUB..(at + 1) * SUB];
        scales[at] = whole_scale(part, ideal[at], d.to_f32());
        let scale = d.to_f32() * f32::from(scales[at]);
        for (code, value) in codes.iter_mut().zip(part) {
            *code = (quant(*value, scale) + 32.0) as u8;
        }
    }
    place(&codes, block);
    for (byte, scale) in block[192..208].iter_mut().zip(scales) {
        *byte = scale as u8;
    }
    block[208..].copy_from_slice(&d.to_le_bytes());
    true
}

/// The whole number in -32 ..= 31 that times `scale` is nearest to `value`.
fn quant(value: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { (value / scale).round_ties_even().clamp(-32.0, 31.0) }
}

/// Sum of the squared errors when `values` are multiples of `scale`.
fn error(values: &[f32; SUB], scale: f32) -> f32 {
    values.iter().map(|&value| (value - scale * quant(value, scale)).powi(2)).sum()
}

/// How far around max|x| / 32 the scale is looked for, in 32nds of it: below, the largest values are cut off, above,
/// codes stay unused. Wider or finer steps lower the error on normally distributed values by less than 0.3 %.
const STEPS: [f32; 9] = [-3.0, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0];

/// The scale with the least squared error among some near that of the largest value, each improved by the scale that
/// is best for its codes. Negative where the largest value is positive, as codes reach -32 but only 31.
fn ideal_scale(values: &[f32; SUB]) -> f32 {
    let top = values[largest(values)];
    if top == 0.0 {
        return 0.0;
    }
    let mut best = (f32::INFINITY, 0.0);
    for step in STEPS {
        let scale = top / (step - 32.0);
        // The best scale for codes q is sum(x q) / sum(q q).
        let (mut xq, mut qq) = (0.0, 0.0);
        for &value in values {
            let q = quant(value, scale);
            xq += value * q;
            qq += q * q;
        }
        for scale in [scale, xq / qq] {
            let error = error(values, scale);
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

/// The multiple of `d` with the least squared error: `ideal` rounded, or a neighbour of that.
fn whole_scale(values: &[f32; SUB], ideal: f32, d: f32) -> i8 {
    if d == 0.0 {
        return 0;
    }
    let nearest = (ideal / d).round_ties_even();
    let mut best = (f32::INFINITY, 0);
    for step in [0.0, -1.0, 1.0] {
        let scale = (nearest + step).clamp(-128.0, 127.0);
        let error = error(values, d * scale);
        if error < best.0 {
            best = (error, scale as i8);
        }
    }
    best.1
}

/// Low nibbles and high bit pairs of the codes, at the places where they are read.
fn place(codes: &[u8; 256], block: &mut [u8; Q6K_BYTES]) {
    block[..192].fill(0);
    for (i, code) in codes.iter().enumerate() {
        let (half, j, l) = (i / 128, i % 128 / 32, i % 32);
        block[64 * half + 32 * (j % 2) + l] |= (code & 15) << (4 * (j / 2));
        block[128 + 32 * half + l] |= (code >> 4) << (2 * j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::dense::decode_row, testing::Rng};

    fn encoded(ty: DenseType, values: &[f32]) -> Vec<u8> {
        let mut row = vec![0xff; ty.row_bytes(values.len())];
        encode_row(ty, values, &mut row).unwrap();
        row
    }

    fn back(ty: DenseType, values: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; values.len()];
        decode_row(ty, &encoded(ty, values), &mut out);
        out
    }

    #[test]
    fn plain_types() {
        assert_eq!(encoded(DenseType::F32, &[1.5]), [0, 0, 0xc0, 0x3f]);
        // 1/3 = 0x3eaaaaab: rounded to 0x3555 and 0x3eab. -2 = 0xc000 in both.
        assert_eq!(encoded(DenseType::F16, &[1.0 / 3.0, -2.0]), [0x55, 0x35, 0x00, 0xc0]);
        assert_eq!(encoded(DenseType::BF16, &[1.0 / 3.0, -2.0]), [0xab, 0x3e, 0x00, 0xc0]);
    }

    #[test]
    fn q8_0_by_hand() {
        // max|x| = 127, so d = 1; 2.5 and -2.5 are rounded away from zero, 3.4 to 3.
        let mut values = [0.0; 32];
        values[..5].copy_from_slice(&[-127.0, 2.5, -2.5, 3.4, 126.9]);
        let mut expected = vec![0; 34];
        expected[..7].copy_from_slice(&[0x00, 0x3c, 0x81, 3, 0xfd, 3, 127]);
        assert_eq!(encoded(DenseType::Q8_0, &values), expected);
        assert_eq!(encoded(DenseType::Q8_0, &[0.0; 32]), [0; 34]);
    }

    #[test]
    fn q6k_keeps_what_it_can_hold() {
        // Multiples of 0.5 * scale with scales 64, -3, 1, ... and codes that reach the ends.
        let mut rng = Rng::new(4);
        let scales: [i32; 16] = [-128, 64, -32, 16, 127, -64, 100, 8, -128, 4, 50, -100, 2, -2, 33, 0];
        let mut values = [0.0; 256];
        for (i, value) in values.iter_mut().enumerate() {
            let q = if i % 16 == 5 { -32 } else { rng.below(64) as i32 - 32 };
            *value = 0.5 * (scales[i / 16] * q) as f32;
        }
        assert_eq!(back(DenseType::Q6K, &values), values);
        assert_eq!(back(DenseType::Q6K, &[0.0; 256]), [0.0; 256]);
    }

    /// Root mean square error over root mean square.
    fn relative_error(ty: DenseType, values: &[f32]) -> f64 {
        let difference: Vec<f32> = back(ty, values).iter().zip(values).map(|(a, b)| a - b).collect();
        crate::testing::norm(&difference) / crate::testing::norm(values)
    }

    /// 63 steps over twice the largest magnitude of 16 have the rms error step / sqrt(12). That magnitude is (root mean
    /// square) 0.94 for numbers in -1 .. 1, and 2.1 for normal ones, where cutting the largest off pays.
    #[test]
    fn q6k_errors_are_those_of_64_steps() {
        let mut rng = Rng::new(5);
        let uniform = rng.floats(1 << 16);
        let bound = 2.0 * 0.94 / 63.0 / 12_f64.sqrt() / (1.0 / 3_f64.sqrt());
        let found = relative_error(DenseType::Q6K, &uniform);
        assert!(found < bound, "{found} of {bound}");
        let normal: Vec<f32> = (0..1 << 16).map(|_| rng.floats(12).iter().sum::<f32>() / 2.0).collect();
        let bound = 0.9 * 2.0 * 2.1 / 63.0 / 12_f64.sqrt();
        let found = relative_error(DenseType::Q6K, &normal);
        assert!(found < bound, "{found} of {bound}");
        // Blocks whose parts differ by a factor of 1000 use the fine end of the scales.
        let mixed: Vec<f32> =
            uniform.iter().enumerate().map(|(i, x)| if i / 16 % 2 == 0 { *x } else { x / 1000.0 }).collect();
        assert!(relative_error(DenseType::Q6K, &mixed) < 0.02);
    }

    #[test]
    fn no_value_is_further_off_than_its_step() {
        let values = Rng::new(6).floats(1 << 14);
        for (ty, block, steps) in [(DenseType::Q8_0, 32, 254.0), (DenseType::Q6K, 16, 62.0)] {
            for (part, found) in values.chunks(block).zip(back(ty, &values).chunks(block)) {
                let top = part.iter().fold(0_f32, |top, x| top.max(x.abs()));
                // Half a step of twice the range, and what the scale's rounding adds: f16 1/2048, i8 up to 1/64.
                let bound = top * (1.0 / steps + if ty == DenseType::Q6K { 1.0 / 32.0 } else { 1.0 / 2048.0 });
                for (x, y) in part.iter().zip(found) {
                    assert!((x - y).abs() <= bound, "{ty:?}: {x} became {y}, bound {bound}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let error = |ty, values: &[f32]| encode_row(ty, values, &mut vec![0; DenseType::row_bytes(ty, values.len())]);
        assert_eq!(error(DenseType::F16, &[65504.0, 65520.0]), Err(1));
        assert_eq!(error(DenseType::F32, &[0.0, f32::NAN]), Err(1));
        assert_eq!(error(DenseType::BF16, &[f32::MAX]), Err(0));
        let mut values = [0.0; 512];
        values[300] = -1e9;
        assert_eq!(error(DenseType::Q8_0, &values), Err(300));
        assert_eq!(error(DenseType::Q6K, &values), Err(300));
        values[7] = f32::INFINITY;
        assert_eq!(error(DenseType::Q6K, &values), Err(7));
    }
}
