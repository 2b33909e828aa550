//! Scales of one type -> scales of another, where no weight changes its value.

use bitnet_cpu_kernels::format::{Codec, MatrixScales, ScaleKind};

use super::source::Matrix;
use crate::error::{Error, Result};

/// The scales to write a matrix with, and the factor to write beside it.
///
/// Types with f16 scales take an f32 scale of a whole matrix as the factor, and scales of 1; types with one scale take
/// the product. `round` lets an f16 stand for an f32 that it is not.
///
/// # Errors
/// Names the scales that would change; `name` is the tensor.
pub(super) fn fit(name: &str, matrix: &Matrix, codec: &Codec, round: bool) -> Result<(MatrixScales, Option<f32>)> {
    let (rows, cols) = (codec.rows(), codec.cols());
    let refused = |reason: String| {
        let thing = format!("tensor {name} as {}", codec.dialect().name());
        Err(Error::unsupported(thing, reason))
    };
    let one = || matrix.scales.one_for(rows, cols, &matrix.codes);
    match codec.scale_kind() {
        kind @ ScaleKind::PerTensor => match (one(), matrix.scales.fitted(kind, rows, cols, round)) {
            (None, Err(loss)) => refused(format!("it has {kind}, and {loss}")),
            (None, Ok(scales)) => Ok((scales, None)),
            (Some(scale), _) => {
                let product = scale * matrix.factor.unwrap_or(1.0);
                if !(product.is_normal() && product > 0.0) {
                    return refused(format!("its scale would be {product}, and only finite ones above 0 are read"));
                }
                Ok((MatrixScales::PerTensor(product), None))
            }
        },
        kind => {
            let whole = match &matrix.scales {
                MatrixScales::PerTensor(scale) => Some(*scale),
                MatrixScales::PerRow(_) => one(),
                MatrixScales::PerGroup { .. } => None,
            };
            let (scales, factor) = match whole {
                Some(scale) => (MatrixScales::PerTensor(1.0), Some(scale * matrix.factor.unwrap_or(1.0))),
                None => (matrix.scales.clone(), matrix.factor),
            };
            match scales.fitted(kind, rows, cols, round) {
                Ok(scales) => Ok((scales, factor)),
                Err(loss) => refused(format!("it has {kind}, and {loss}")),
            }
        }
    }
}
