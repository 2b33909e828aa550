//! Matrices of real numbers (F16, BF16, F32) whose values are ternary -> codes and scales.
//!
//! Models trained in a framework are often published so: each value is -c, 0 or +c, where c belongs to the matrix, to the
//! row, or to a group of columns.

use bitnet_cpu_kernels::format::{
    DenseType, GROUP_SIZES, Layout, MatrixScales, dense::decode_row, pack_row, ternary_bytes,
};
use half::f16;

use crate::gguf::TensorType;

/// Stands for the scale of a matrix that has nothing but zeros.
const ZERO_SCALE: f32 = 1e-5;

/// The first value that keeps a matrix from being ternary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Odd {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub col: usize,
    /// The value.
    pub value: f32,
}

/// The magnitude that `values` and all before them share (0 = none but zeros so far), or the place of one with another.
pub(crate) fn common_magnitude(mut magnitude: f32, values: &[f32]) -> Result<f32, usize> {
    for (at, value) in values.iter().enumerate() {
        let size = value.abs();
        if size != 0.0 && size != magnitude {
            if magnitude != 0.0 || !size.is_finite() {
                return Err(at);
            }
            magnitude = size;
        }
    }
    Ok(magnitude)
}

/// The type of real numbers that is read so; `None` for others.
pub(crate) fn real_type(ty: TensorType) -> Option<DenseType> {
    match ty {
        TensorType::F32 => Some(DenseType::F32),
        TensorType::F16 => Some(DenseType::F16),
        TensorType::BF16 => Some(DenseType::BF16),
        _ => None,
    }
}

/// As [`of_reals`], of the bytes of a tensor.
pub(crate) fn of_bytes(
    ty: DenseType,
    (rows, cols): (usize, usize),
    data: &[u8],
) -> Result<(Vec<u8>, MatrixScales), Odd> {
    let row_bytes = ty.row_bytes(cols);
    of_reals(rows, cols, |row, out| decode_row(ty, &data[row * row_bytes..][..row_bytes], out))
}

/// Codes in [`Layout::I2sP128`] and the scales of a matrix (rows, cols) whose rows `read` writes: one scale for the matrix
/// where that is enough, else for each row, else for the largest groups of columns.
///
/// # Errors
/// The first value that is none of -c, 0 and +c in the smallest groups.
fn of_reals(rows: usize, cols: usize, read: impl Fn(usize, &mut [f32])) -> Result<(Vec<u8>, MatrixScales), Odd> {
    let whole = coded(rows, cols, cols, true, &read);
    if let Ok((codes, magnitudes)) = whole {
        let scale = magnitudes.last().copied().filter(|&scale| scale > 0.0).unwrap_or(ZERO_SCALE);
        return Ok((codes, MatrixScales::PerTensor(scale)));
    }
    let mut odd = match coded(rows, cols, cols, false, &read) {
        Ok((codes, scales)) => return Ok((codes, MatrixScales::PerRow(scales.into()))),
        Err(odd) => odd,
    };
    for size in GROUP_SIZES.into_iter().rev().filter(|&size| cols.is_multiple_of(size)) {
        match coded(rows, cols, size, false, &read) {
            Ok((codes, scales)) => {
                let values: Vec<f16> = scales.iter().map(|&scale| f16::from_f32(scale)).collect();
                match values.iter().zip(&scales).position(|(kept, scale)| kept.to_f32() != *scale) {
                    None => return Ok((codes, MatrixScales::PerGroup { size, values: values.into() })),
                    Some(at) => {
                        let (row, col) = (at * size / cols, at * size % cols);
                        odd = Odd { row, col, value: scales[at] };
                    }
                }
            }
            Err(found) => odd = found,
        }
    }
    Err(odd)
}

/// Codes, and the magnitude of each `width` columns; of all values read so far, where there is to be one.
fn coded(
    rows: usize,
    cols: usize,
    width: usize,
    one: bool,
    read: &impl Fn(usize, &mut [f32]),
) -> Result<(Vec<u8>, Vec<f32>), Odd> {
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    let mut packed = vec![0; rows * row_bytes];
    let (mut values, mut codes) = (vec![0.0; cols], vec![0; cols]);
    let mut magnitudes = Vec::new();
    let mut magnitude = 0.0;
    for (row, packed) in packed.chunks_exact_mut(row_bytes).enumerate() {
        read(row, &mut values);
        for (part, group) in values.chunks(width).enumerate() {
            let before = if one { magnitude } else { 0.0 };
            magnitude = common_magnitude(before, group).map_err(|at| {
                let col = part * width + at;
                Odd { row, col, value: values[col] }
            })?;
            if !one {
                magnitudes.push(magnitude);
            }
        }
        for (code, value) in codes.iter_mut().zip(&values) {
            *code = 1 + u8::from(*value > 0.0) - u8::from(*value < 0.0);
        }
        pack_row(&codes, packed);
    }
    if one {
        magnitudes.push(magnitude);
    }
    Ok((packed, magnitudes))
}

#[cfg(test)]
mod tests {
    use bitnet_cpu_kernels::format::unpack;

    use super::*;

    const COLS: usize = 256;

    /// Two rows of +, 0, - in turn, times what `scale` says of row and column.
    fn of(scale: impl Fn(usize, usize) -> f32) -> Result<(Vec<u8>, MatrixScales), Odd> {
        of_reals(2, COLS, |row, out| {
            for (col, value) in out.iter_mut().enumerate() {
                *value = [1.0, 0.0, -1.0][col % 3] * scale(row, col);
            }
        })
    }

    #[test]
    fn scales_belong_to_the_matrix_to_rows_or_to_groups() {
        let (codes, scales) = of(|_, _| 0.3).unwrap();
        assert_eq!(scales, MatrixScales::PerTensor(0.3));
        assert_eq!(unpack(Layout::I2sP128, 2, COLS, &codes)[..4], [2, 1, 0, 2]);
        assert_eq!(of(|row, _| [0.3, 0.7][row]).unwrap().1, MatrixScales::PerRow(vec![0.3, 0.7].into()));
        let halves = of(|row, col| [0.5, 0.25][col / 128] * [1.0, 2.0][row]).unwrap();
        let values = [0.5, 0.25, 1.0, 0.5].map(f16::from_f32);
        assert_eq!(halves.1, MatrixScales::PerGroup { size: 128, values: values.into() });
        assert_eq!(halves.0, codes);
        let quarters = of(|_, col| [1.0, 2.0, 4.0, 8.0][col / 64]).unwrap();
        assert!(matches!(quarters.1, MatrixScales::PerGroup { size: 64, .. }), "{quarters:?}");
        assert_eq!(of(|_, _| 0.0).unwrap().1, MatrixScales::PerTensor(ZERO_SCALE));
    }

    #[test]
    fn the_first_other_value_is_named() {
        let odd = of(|row, col| if (row, col) == (1, 5) { 9.0 } else { 1.0 }).unwrap_err();
        assert_eq!(odd, Odd { row: 1, col: 5, value: -9.0 });
        assert!(of(|_, col| if col == 3 { f32::NAN } else { 1.0 }).is_err());
        assert!(of(|_, _| f32::INFINITY).is_err());
        // A third is no f16, so no group has it as its scale.
        assert_eq!(of(|_, col| [1.0, 1.0 / 3.0][col / 128]).unwrap_err().col, 128);
    }
}
