//! Real numbers of a checkpoint (F32, F16, BF16) -> f32.

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

/// All elements as f32; each has to be finite.
pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.elements()];
    read(tensor, 0, &mut values);
    if values.iter().any(|value| !value.is_finite()) {
        return Err(not_finite(tensor, 0, &values));
    }
    Ok(values)
}

/// Looks for a number that is not finite, a few at a time.
pub(super) fn check_finite(tensor: &Tensor) -> Result<()> {
    const CHUNK: usize = 1 << 16;
    let elements = tensor.elements();
    let mut values = vec![0.0; CHUNK.min(elements)];
    for start in (0..elements).step_by(CHUNK) {
        let values = &mut values[..CHUNK.min(elements - start)];
        read(tensor, start, values);
        if values.iter().any(|value| !value.is_finite()) {
            return Err(not_finite(tensor, start, values));
        }
    }
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
    fn what_is_not_finite_is_an_error() {
        let bytes: Vec<u8> = [1.0_f32, f32::INFINITY].iter().flat_map(|v| v.to_le_bytes()).collect();
        let error = floats(&tensor(Dtype::F32, &bytes)).unwrap_err().to_string();
        assert_eq!(error, "tensor w: expected finite numbers, found inf at element 1");
        assert_eq!(check_finite(&tensor(Dtype::F32, &bytes)).unwrap_err().to_string(), error);
    }
}
