//! Matrices of MLX's affine quantisation in 2 bits that are ternary: value = scale * code + bias with bias = -scale
//! (`mlx.core.quantize`; the files of Ternary Bonsai for MLX).

use safetensors::Dtype;

use super::{
    dense,
    safetensors::{Tensor, shape},
    ternary::is_real,
};
use crate::{
    error::{Error, Result},
    gguf::TensorType,
};

/// Codes in a u32, the first in its lowest bits.
const CODES: usize = 16;

/// A matrix (rows, cols) and what belongs to it.
pub(super) struct Affine<'a> {
    pub codes: &'a Tensor,
    scales: &'a Tensor,
    biases: &'a Tensor,
    cols: usize,
    /// Columns that share a scale: 64 or 128.
    pub group: usize,
}

impl<'a> Affine<'a> {
    /// Checks types and shapes.
    pub fn new(
        codes: &'a Tensor,
        scales: &'a Tensor,
        biases: &'a Tensor,
        (rows, cols): (usize, usize),
        group: usize,
    ) -> Result<Self> {
        let wrong = |tensor: &Tensor, expected: String| {
            let found = format!("{} of {}", shape(&tensor.shape), tensor.dtype);
            Err(Error::malformed(format!("tensor {}", tensor.name), expected, found))
        };
        if codes.dtype != Dtype::U32 || !cols.is_multiple_of(CODES) || codes.shape != [rows, cols / CODES] {
            return wrong(codes, format!("{rows} x {cols} codes of 2 bits in U32"));
        }
        for tensor in [scales, biases] {
            if !is_real(tensor.dtype) || !cols.is_multiple_of(group) || tensor.shape != [rows, cols / group] {
                return wrong(tensor, format!("a number for each {group} of {rows} x {cols} weights"));
            }
        }
        Ok(Self { codes, scales, biases, cols, group })
    }

    /// The ternary type with such groups.
    pub fn table_type(&self) -> TensorType {
        if self.group == 64 { TensorType::Q2_0 } else { TensorType::PQ2_0 }
    }

    /// The numbers of a row.
    ///
    /// # Errors
    /// Names a place that is not ternary.
    pub fn row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let groups = self.cols / self.group;
        let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
        dense::read(self.scales, row * groups, &mut scales);
        dense::read(self.biases, row * groups, &mut biases);
        let words = self.codes.data[4 * row * self.cols / CODES..].as_chunks::<4>().0;
        for (at, values) in out.chunks_exact_mut(self.group).enumerate() {
            let (scale, bias) = (scales[at], biases[at]);
            if !scale.is_finite() || bias != -scale {
                let found = format!("{scale} and {bias} in row {row}, group {at}");
                let thing = format!("scale and bias of tensor {}", self.codes.name);
                return Err(Error::malformed(thing, "-scale as bias, which makes codes of 2 bits ternary", found));
            }
            for (place, value) in values.iter_mut().enumerate() {
                let col = at * self.group + place;
                let code = u32::from_le_bytes(words[col / CODES]) >> (2 * (col % CODES)) & 3;
                if code == 3 {
                    let found = format!("3 at row {row}, column {col}");
                    return Err(Error::malformed(format!("tensor {}", self.codes.name), "codes 0, 1 and 2", found));
                }
                *value = scale * (code as f32 - 1.0);
            }
        }
        Ok(())
    }
}
