//! Tables and vectors of real numbers.

use bitnet_cpu_kernels::format::DenseType;

use super::{
    Loader, tensor,
    unpacked::{self, to_f16},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::{TensorInfo, TensorType},
    model::DenseMatrix,
};

/// The type of rows of numbers that the kernels read; `None` for others.
pub(crate) fn dense_type(ty: TensorType) -> Option<DenseType> {
    match ty {
        TensorType::F32 => Some(DenseType::F32),
        TensorType::F16 => Some(DenseType::F16),
        TensorType::BF16 => Some(DenseType::BF16),
        TensorType::Q8_0 => Some(DenseType::Q8_0),
        TensorType::Q6_K => Some(DenseType::Q6K),
        TensorType::Q4_K => Some(DenseType::Q4K),
        TensorType::Q4_0 => Some(DenseType::Q4_0),
        TensorType::TQ1_0 => Some(DenseType::TQ1_0),
        TensorType::TQ2_0 => Some(DenseType::TQ2_0),
        TensorType::Q2_0 => Some(DenseType::Q2_0),
        TensorType::Q2_0_G128 | TensorType::PQ2_0 => Some(DenseType::Q2_0G128),
        TensorType::PTQ1_0 => Some(DenseType::PTQ1_0),
        _ => None,
    }
}

impl Loader<'_> {
    pub(super) fn table(&self, name: &str) -> Result<DenseMatrix> {
        self.dense(name, self.config.vocab, self.config.dim)
    }

    /// Whether [`Self::dense`] reads that type.
    pub(super) fn reads_dense(ty: TensorType) -> bool {
        dense_type(ty).is_some() || unpacked::reads(ty)
    }

    /// A matrix that is multiplied with f32 activations.
    pub(super) fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<DenseMatrix> {
        let info = self.shaped(name, &[cols, rows])?;
        let (ty, data) = match dense_type(info.ty) {
            Some(ty) => (ty, self.file.data(info)),
            None => {
                let unpacked = to_f16(info.ty, &self.file.data(info)).ok_or_else(|| {
                    Error::unsupported(
                        format!("{} of type {}", tensor(info), info.ty.name()),
                        "embeddings, heads and gates are read as F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, \
                         Q3_K, Q2_K, TQ1_0, TQ2_0, Q2_0, PQ2_0 or PTQ1_0",
                    )
                })?;
                (DenseType::F16, Bytes::from(unpacked))
            }
        };
        let expected = rows * ty.row_bytes(cols);
        if data.len() != expected {
            return Err(Error::malformed(tensor(info), format!("{expected} bytes"), data.len()));
        }
        Ok(DenseMatrix { rows, cols, data, ty })
    }

    pub(super) fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.finite(self.shaped(name, &[len])?)
    }

    /// (rows, cols)
    pub(super) fn matrix_of_floats(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>> {
        self.finite(self.shaped(name, &[cols, rows])?)
    }

    fn finite(&self, info: &TensorInfo) -> Result<Vec<f32>> {
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

    /// Divisors of the frequencies, where there are some: llama.cpp's files of models with LongRoPE may lack either.
    pub(super) fn rope_factors(&self, name: &str) -> Result<Option<Vec<f32>>> {
        if self.file.tensor(name).is_none() {
            return Ok(None);
        }
        let factors = self.floats(name, self.config.rope.dims / 2)?;
        match factors.iter().find(|f| **f <= 0.0) {
            Some(bad) => Err(Error::malformed(format!("tensor {name}"), "factors above 0", bad)),
            None => Ok(Some(factors)),
        }
    }
}
