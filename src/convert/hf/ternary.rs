//! Matrices of a checkpoint -> ternary codes (0, 1, 2 = -1, 0, +1) row by row, and one scale.

use std::ops::Range;

use bitnet_cpu_kernels::format::{Layout, MatrixScales, pack_row, ternary_bytes};
use half::f16;
use safetensors::Dtype;

use super::{config::ScaleReading, dense, safetensors::Tensor};
use crate::{
    convert::TernaryType,
    error::{Error, Remedy, Result},
    gguf::TensorType,
    model::{common_magnitude, dialect::blame},
};

/// Columns of a block of Q2_0.
const Q2_0_COLS: usize = 64;

/// The smallest scale: keeps an all-zero matrix from dividing by zero.
const SCALE_EPSILON: f32 = 1e-5;
/// Scales outside this range are worth a warning: published models lie within 0.01 to 3.
const PLAUSIBLE_SCALES: std::ops::RangeInclusive<f32> = 1e-4..=1e2;

/// Where the codes come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Origin {
    /// Real numbers, rounded to ternary: code = round(w * inverse), where inverse = 1 / mean|w|.
    Rounded {
        /// Factor of the weights before rounding.
        inverse: f32,
    },
    /// The values are -c, 0 and +c already; c is the scale.
    Exact,
    /// Four codes in a byte, rows m, m + R, m + 2R and m + 3R of R = ceil(rows / 4) (`pack_weights` of transformers).
    Packed,
}

/// A matrix whose scale is known; codes are made when they are asked for.
#[derive(Debug)]
pub(super) struct Ternary<'a> {
    pub tensor: &'a Tensor,
    rows: usize,
    cols: usize,
    pub origin: Origin,
    /// value = scale * (code - 1)
    pub scale: f32,
}

impl<'a> Ternary<'a> {
    /// Reads a packed matrix (rows, cols) with its `weight_scale`. The caller has checked the shape.
    pub fn packed(tensor: &'a Tensor, rows: usize, cols: usize, stated: f32, reading: ScaleReading) -> Result<Self> {
        let scale = match reading {
            ScaleReading::Multiply => stated,
            ScaleReading::Divide => 1.0 / stated,
        };
        if !(stated > 0.0 && scale.is_normal()) {
            let thing = format!("weight_scale of tensor {}", tensor.name);
            return Err(Error::malformed(thing, "a finite number above zero", stated));
        }
        Ok(Self { tensor, rows, cols, origin: Origin::Packed, scale })
    }

    /// Looks through a matrix (rows, cols) of real numbers for its scale. Unless `may_round`, it must be ternary
    /// already.
    pub fn master(tensor: &'a Tensor, rows: usize, cols: usize, may_round: bool) -> Result<Self> {
        let found = survey(tensor, rows, cols)?;
        let (origin, scale) = match found.only_magnitude {
            Some(c) if c > 0.0 => (Origin::Exact, c),
            _ if !may_round && found.only_magnitude.is_none() => return Err(not_ternary(tensor)),
            _ => {
                let inverse = 1.0 / found.mean.max(SCALE_EPSILON);
                // What transformers multiplies the codes by is 1 / inverse, which may differ from the mean by a bit.
                (Origin::Rounded { inverse }, 1.0 / inverse)
            }
        };
        Ok(Self { tensor, rows, cols, origin, scale })
    }

    /// Reads codes -1, 0 and +1 written as real numbers beside their `weight_scale`, as transformers 5 saves them.
    pub fn scaled(tensor: &'a Tensor, rows: usize, cols: usize, stated: f32) -> Result<Self> {
        let mut matrix = Self::master(tensor, rows, cols, false)?;
        matrix.scale *= stated;
        if stated > 0.0 && matrix.scale.is_normal() {
            return Ok(matrix);
        }
        let thing = format!("weight_scale of tensor {}", tensor.name);
        Err(Error::malformed(thing, "a finite number above zero", stated))
    }

    /// Some rows as real numbers: scale * (code - 1).
    pub fn values(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let mut codes = vec![0; self.cols];
        for (row, values) in rows.zip(out.chunks_exact_mut(self.cols)) {
            self.row(row, values, &mut codes)?;
            for (value, code) in values.iter_mut().zip(&codes) {
                *value = self.scale * (f32::from(*code) - 1.0);
            }
        }
        Ok(())
    }

    /// The type that a table of such weights is kept in: Q2_0, or F16 where its rows are not whole blocks. Either rounds the
    /// scale to an f16, which is one factor of all its products.
    pub fn table_type(&self) -> TensorType {
        if self.cols.is_multiple_of(Q2_0_COLS) { TensorType::Q2_0 } else { TensorType::F16 }
    }

    /// The bytes of that type.
    pub fn table(&self) -> Result<Vec<u8>> {
        let scale = f16::from_f32(self.scale);
        if !scale.is_normal() || scale.is_sign_negative() {
            let thing = format!("scale of tensor {}", self.tensor.name);
            return Err(Error::malformed(thing, "a number above 0 that f16 holds", self.scale));
        }
        let mut values = vec![0.0; self.cols];
        if self.table_type() == TensorType::F16 {
            let mut bytes = Vec::with_capacity(2 * self.rows * self.cols);
            for row in 0..self.rows {
                self.values(row..row + 1, &mut values)?;
                bytes.extend(values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()));
            }
            return Ok(bytes);
        }
        let mut codes = vec![0; self.cols];
        let row_bytes = ternary_bytes(Layout::I2sP128, 1, self.cols);
        let mut packed = vec![0; self.rows * row_bytes];
        for (row, packed) in packed.chunks_exact_mut(row_bytes).enumerate() {
            self.row(row, &mut values, &mut codes)?;
            pack_row(&codes, packed);
        }
        let codec = TernaryType::Q2_0.codec(&self.tensor.name, self.rows, self.cols)?;
        let groups = vec![scale; self.rows * self.cols / Q2_0_COLS].into();
        let scales = MatrixScales::PerGroup { size: Q2_0_COLS, values: groups };
        codec.encode(&packed, &scales).map_err(|e| blame(&self.tensor.name, self.cols, e))
    }

    /// True when the scale is far from that of any known model.
    pub fn scale_is_odd(&self) -> bool {
        !PLAUSIBLE_SCALES.contains(&self.scale)
    }

    /// Codes of one row; `codes` has `cols` elements and `values` is scratch of the same length.
    pub fn row(&self, row: usize, values: &mut [f32], codes: &mut [u8]) -> Result<()> {
        match self.origin {
            Origin::Rounded { inverse } => {
                dense::read(self.tensor, row * self.cols, values);
                // Half rounds to even, which is 0, and what rounds to 2 or more is cut to 1.
                for (code, value) in codes.iter_mut().zip(values) {
                    let ratio = *value * inverse;
                    *code = 1 + u8::from(ratio > 0.5) - u8::from(ratio < -0.5);
                }
            }
            Origin::Exact => {
                dense::read(self.tensor, row * self.cols, values);
                for (code, value) in codes.iter_mut().zip(values) {
                    *code = 1 + u8::from(*value > 0.0) - u8::from(*value < 0.0);
                }
            }
            Origin::Packed => {
                let byte_rows = self.rows.div_ceil(4);
                let start = row % byte_rows * self.cols;
                let shift = 2 * (row / byte_rows);
                for (code, byte) in codes.iter_mut().zip(&self.tensor.data[start..start + self.cols]) {
                    *code = byte >> shift & 3;
                }
                if let Some(col) = codes.iter().position(|&code| code == 3) {
                    let found = format!("3 at row {row}, column {col}");
                    return Err(Error::malformed(format!("tensor {}", self.tensor.name), "codes 0, 1 and 2", found));
                }
            }
        }
        Ok(())
    }
}

struct Survey {
    /// mean|w|, summed in f64: torch sums in f32 in an order that depends on its number of threads, so the exact
    /// mean is the only one that can be reproduced. It agrees with torch's to about 1e-7.
    mean: f32,
    /// The one magnitude besides 0, or 0 if all are 0; `None` when there are several.
    only_magnitude: Option<f32>,
}

fn survey(tensor: &Tensor, rows: usize, cols: usize) -> Result<Survey> {
    let mut values = vec![0.0; cols];
    let mut sum = 0.0;
    let mut only_magnitude = Some(0.0);
    for row in 0..rows {
        dense::read(tensor, row * cols, &mut values);
        let row_sum = absolute_sum(&values);
        if !row_sum.is_finite() {
            return Err(dense::not_finite(tensor, row * cols, &values));
        }
        sum += row_sum;
        if let Some(magnitude) = only_magnitude {
            only_magnitude = common_magnitude(magnitude, &values).ok();
        }
    }
    Ok(Survey { mean: (sum / (rows * cols) as f64) as f32, only_magnitude })
}

/// Eight sums side by side, so that the additions do not wait for each other.
fn absolute_sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0; 8];
    let (chunks, rest) = values.as_chunks::<8>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value.abs());
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(v.abs())).sum::<f64>()
}

/// Why a matrix of real numbers is not rounded.
fn not_ternary(tensor: &Tensor) -> Error {
    let reason = "its values are not ternary, neither all nor in groups of 64 or 128 columns, and config.json has no \
                  quantization_config of method bitnet; rounding a model that was not trained for it destroys it";
    Error::unsupported(format!("tensor {}", tensor.name), reason).with_remedy(Remedy::Ternarise)
}

/// True for dtypes that hold real numbers this module reads.
pub(super) fn is_real(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;

    fn reals(shape: [usize; 2], values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor { name: "w".into(), dtype: Dtype::F32, shape: shape.to_vec(), data: Bytes::from(data) }
    }

    fn codes(matrix: &Ternary) -> Vec<Vec<u8>> {
        let mut values = vec![0.0; matrix.cols];
        let mut codes = vec![0; matrix.cols];
        let row = |row| {
            matrix.row(row, &mut values, &mut codes).unwrap();
            codes.clone()
        };
        (0..matrix.rows).map(row).collect()
    }

    #[test]
    fn masters_are_rounded_half_to_even_by_their_mean() {
        // mean |w| = (1 + 3 + 2 + 6 + 0 + 0 + 0 + 4) / 8 = 2; w / 2 = 0.5 -1.5 1 3 0 0 0 -2, and 0.5 rounds to 0.
        let tensor = reals([2, 4], &[1.0, -3.0, 2.0, 6.0, 0.0, -0.0, 0.0, -4.0]);
        let matrix = Ternary::master(&tensor, 2, 4, true).unwrap();
        assert_eq!(matrix.scale, 2.0);
        assert_eq!(matrix.origin, Origin::Rounded { inverse: 0.5 });
        assert_eq!(codes(&matrix), [[1, 0, 2, 2], [1, 1, 1, 0]]);
    }

    #[test]
    fn ternary_values_keep_their_scale() {
        // absmean would make the scale 0.75 * 2 / 4 = 0.375.
        let tensor = reals([2, 2], &[0.75, 0.0, -0.0, -0.75]);
        let matrix = Ternary::master(&tensor, 2, 2, false).unwrap();
        assert_eq!((matrix.scale, matrix.origin), (0.75, Origin::Exact));
        assert_eq!(codes(&matrix), [[2, 1], [1, 0]]);
    }

    #[test]
    fn codes_as_real_numbers_take_the_scale_beside_them() {
        let tensor = reals([2, 2], &[1.0, 0.0, -1.0, 1.0]);
        let matrix = Ternary::scaled(&tensor, 2, 2, 0.25).unwrap();
        assert_eq!((matrix.scale, codes(&matrix)), (0.25, vec![vec![2, 1], vec![0, 2]]));
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(Ternary::scaled(&tensor, 2, 2, bad).is_err(), "{bad}");
        }
        assert!(Ternary::scaled(&reals([1, 3], &[0.5, 0.25, 0.0]), 1, 3, 0.25).is_err());
    }

    #[test]
    fn a_matrix_of_zeros_has_the_smallest_scale() {
        let tensor = reals([1, 2], &[0.0, -0.0]);
        let matrix = Ternary::master(&tensor, 1, 2, false).unwrap();
        assert!((matrix.scale - 1e-5).abs() < 1e-11, "{}", matrix.scale);
        assert_eq!(codes(&matrix), [[1, 1]]);
    }

    #[test]
    fn real_numbers_of_an_ordinary_model_are_refused() {
        let tensor = reals([1, 3], &[0.5, 0.25, 0.0]);
        let error = Ternary::master(&tensor, 1, 3, false).unwrap_err().to_string();
        assert!(error.starts_with("tensor w is not supported: its values are not ternary"), "{error}");
    }

    #[test]
    fn not_a_number_is_named_with_its_place() {
        let tensor = reals([2, 2], &[1.0, 2.0, 3.0, f32::NAN]);
        let error = Ternary::master(&tensor, 2, 2, true).unwrap_err().to_string();
        assert_eq!(error, "tensor w: expected finite numbers, found NaN at element 3");
    }

    fn packed(rows: usize, cols: usize, bytes: &[u8]) -> Tensor {
        let shape = vec![rows.div_ceil(4), cols];
        Tensor { name: "w".into(), dtype: Dtype::U8, shape, data: Bytes::from(bytes.to_vec()) }
    }

    #[test]
    fn a_packed_byte_holds_rows_a_quarter_apart() {
        // 8 rows: byte row 0 holds rows 0, 2, 4, 6 from the lowest bits up, byte row 1 holds rows 1, 3, 5, 7.
        let tensor = packed(8, 2, &[0b00_01_10_00, 0b10_10_10_10, 0b01_01_01_01, 0b10_01_00_10]);
        let matrix = Ternary::packed(&tensor, 8, 2, 0.5, ScaleReading::Multiply).unwrap();
        assert_eq!(codes(&matrix), [[0, 2], [1, 2], [2, 2], [1, 0], [1, 2], [1, 1], [0, 2], [1, 2]]);
    }

    #[test]
    fn rows_past_a_multiple_of_four_share_the_last_bits() {
        // 5 rows in 2 byte rows: rows 0, 2, 4 in the first, rows 1, 3 in the second.
        let tensor = packed(5, 1, &[0b11_00_01_10, 0b11_11_10_00]);
        let matrix = Ternary::packed(&tensor, 5, 1, 0.5, ScaleReading::Multiply).unwrap();
        assert_eq!(codes(&matrix), [[2], [0], [1], [2], [0]]);
    }

    #[test]
    fn the_scale_of_packed_weights_multiplies_or_divides() {
        let tensor = packed(4, 1, &[0]);
        let scale = |stated, reading| Ternary::packed(&tensor, 4, 1, stated, reading).map(|matrix| matrix.scale);
        assert_eq!(scale(4.0, ScaleReading::Multiply).unwrap(), 4.0);
        assert_eq!(scale(4.0, ScaleReading::Divide).unwrap(), 0.25);
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(scale(bad, ScaleReading::Multiply).is_err(), "{bad}");
            assert!(scale(bad, ScaleReading::Divide).is_err(), "{bad}");
        }
    }

    #[test]
    fn code_3_is_refused_with_its_place() {
        let tensor = packed(4, 2, &[0, 0b00_11_00_00]);
        let matrix = Ternary::packed(&tensor, 4, 2, 1.0, ScaleReading::Multiply).unwrap();
        let error = matrix.row(2, &mut [], &mut [0; 2]).unwrap_err().to_string();
        assert_eq!(error, "tensor w: expected codes 0, 1 and 2, found 3 at row 2, column 1");
    }
}
