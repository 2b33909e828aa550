//! Real numbers of a checkpoint (F32, F16, BF16) -> f32, and f16 or f32 bytes for the output.

use half::f16;
use safetensors::Dtype;

use super::safetensors::Tensor;
use crate::error::{Error, Result};

/// Reads `out.len()` elements from element `start` on. The caller has checked dtype and size.
pub(super) fn read(tensor: &Tensor, start: usize, out: &mut [f32]) {
    let end = start + out.len();
    let bytes = |size: usize| &tensor.data[start * size..end * size];
    match tensor.dtype {
        Dtype::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes(4).as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        Dtype::BF16 => {
            for (value, raw) in out.iter_mut().zip(bytes(2).as_chunks::<2>().0) {
                // BF16 is the upper half of an f32.
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*raw)) << 16);
            }
        }
        Dtype::F16 => {
            for (value, raw) in out.iter_mut().zip(bytes(2).as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*raw).to_f32();
            }
        }
        other => unreachable!("dtype {other} passed the check for real numbers"),
    }
}

/// The first number that is not finite in `values`, which begin at element `start`.
pub(super) fn not_finite(tensor: &Tensor, start: usize, values: &[f32]) -> Error {
    let at = values.iter().position(|v| !v.is_finite()).expect("the caller found one");
    let found = format!("{} at element {}", values[at], start + at);
    Error::malformed(format!("tensor {}", tensor.name), "finite numbers", found)
}

/// Appends `values`, which begin at element `start`, as f16. A number too large for f16 is an error: as infinity it
/// would make every logit infinite.
pub(super) fn push_f16(tensor: &Tensor, start: usize, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let begin = out.len();
    out.resize(begin + 2 * values.len(), 0);
    for ((at, value), raw) in values.iter().enumerate().zip(out[begin..].as_chunks_mut::<2>().0) {
        let half = f16::from_f32(*value);
        if !half.is_finite() {
            if !value.is_finite() {
                return Err(not_finite(tensor, start, values));
            }
            let found = format!("{value} at element {}", start + at);
            return Err(Error::malformed(format!("tensor {}", tensor.name), "numbers that fit f16 (±65504)", found));
        }
        *raw = half.to_le_bytes();
    }
    Ok(())
}

/// Appends `values`, which begin at element `start`, as f32.
pub(super) fn push_f32(tensor: &Tensor, start: usize, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    if values.iter().any(|value| !value.is_finite()) {
        return Err(not_finite(tensor, start, values));
    }
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;

    fn tensor(dtype: Dtype, data: &[u8]) -> Tensor {
        Tensor { name: "w".into(), dtype, shape: vec![2], data: Bytes::from(data.to_vec()) }
    }

    #[test]
    fn every_dtype_reads_its_own_bits() {
        // 1.5 and -2 in each format.
        for (dtype, bytes) in [
            (Dtype::F32, &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0][..]),
            (Dtype::BF16, &[0xc0, 0x3f, 0, 0xc0]),
            (Dtype::F16, &[0, 0x3e, 0, 0xc0]),
        ] {
            let mut values = [0.0; 2];
            read(&tensor(dtype, bytes), 0, &mut values);
            assert_eq!(values, [1.5, -2.0], "{dtype}");
            read(&tensor(dtype, bytes), 1, &mut values[..1]);
            assert_eq!(values[0], -2.0, "{dtype}");
        }
    }

    #[test]
    fn what_f16_cannot_hold_is_an_error() {
        let tensor = tensor(Dtype::F32, &[]);
        let mut out = Vec::new();
        push_f16(&tensor, 0, &[65504.0, -65504.0], &mut out).unwrap();
        assert_eq!(out, [0xff, 0x7b, 0xff, 0xfb]);
        let error = push_f16(&tensor, 6, &[1.0, -70000.0], &mut out).unwrap_err().to_string();
        assert_eq!(error, "tensor w: expected numbers that fit f16 (±65504), found -70000 at element 7");
        let error = push_f16(&tensor, 6, &[f32::INFINITY], &mut out).unwrap_err().to_string();
        assert_eq!(error, "tensor w: expected finite numbers, found inf at element 6");
    }
}
