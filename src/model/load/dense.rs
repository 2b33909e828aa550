//! Tables and vectors of real numbers.

use bitnet_cpu_kernels::format::DenseType;

use super::{Loader, tensor};
use crate::{
    error::{Error, Result},
    gguf::TensorType,
    model::{DenseMatrix, names},
};

/// The type of rows of numbers that the kernels read; `None` for others.
pub(crate) fn dense_type(ty: TensorType) -> Option<DenseType> {
    match ty {
        TensorType::F32 => Some(DenseType::F32),
        TensorType::F16 => Some(DenseType::F16),
        TensorType::BF16 => Some(DenseType::BF16),
        TensorType::Q8_0 => Some(DenseType::Q8_0),
        TensorType::Q6_K => Some(DenseType::Q6K),
        _ => None,
    }
}

impl Loader<'_> {
    pub(super) fn dense(&self, name: &str) -> Result<DenseMatrix> {
        let (rows, cols) = (self.config.vocab, self.config.dim);
        let info = self.shaped(name, &[cols, rows])?;
        let ty = dense_type(info.ty).ok_or_else(|| {
            Error::unsupported(
                format!("{} of type {}", tensor(info), info.ty.name()),
                "embeddings and heads are read as F32, F16, BF16, Q8_0 or Q6_K",
            )
        })?;
        let data = self.file.data(info);
        let expected = rows * ty.row_bytes(cols);
        if data.len() != expected {
            return Err(Error::malformed(tensor(info), format!("{expected} bytes"), data.len()));
        }
        Ok(DenseMatrix { rows, cols, data, ty })
    }

    pub(super) fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let info = self.shaped(name, &[len])?;
        let data = self.file.data(info);
        let values: Vec<f32> = match info.ty {
            TensorType::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            TensorType::F16 => data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            TensorType::BF16 => {
                data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            other => return Err(Error::malformed(tensor(info), "F32, F16 or BF16", other.name())),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(Error::malformed(format!("{} element {at}", tensor(info)), "a finite number", values[at])),
            None => Ok(values),
        }
    }

    pub(super) fn rope_factors(&self) -> Result<Vec<f32>> {
        let factors = self.floats(names::ROPE_FREQS, self.config.rope.dims / 2)?;
        match factors.iter().find(|f| **f <= 0.0) {
            Some(bad) => Err(Error::malformed(format!("tensor {}", names::ROPE_FREQS), "factors above 0", bad)),
            None => Ok(factors),
        }
    }
}
