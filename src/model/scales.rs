//! The scales of ternary matrices: at hand, or left in the file where there are many.

use std::ops::Range;

use bitnet_cpu_kernels::format::{Codec, FormatError, GROUP_SIZES, MatrixScales, ScaleKind};
use half::f16;

/// The scales of a ternary matrix. Those of all matrices of a model are per group, or none are.
#[derive(Clone, Debug, PartialEq)]
pub enum TernaryScales {
    /// At hand; those of groups row by row, (rows, cols / size), under every layout of the codes.
    Given(MatrixScales),
    /// One for each group of columns, beside the codes of the file: see [`super::TernaryCodes::Encoded`].
    Encoded {
        /// Columns that share a scale: as many as in the file, or a part of them.
        size: usize,
        /// Multiplies every scale, and rounds none.
        factor: f32,
    },
}

impl From<MatrixScales> for TernaryScales {
    fn from(scales: MatrixScales) -> Self {
        Self::Given(scales)
    }
}

impl TernaryScales {
    /// Columns that share a scale; `None` = the whole row.
    pub fn group(&self) -> Option<usize> {
        match self {
            Self::Given(scales) => scales.view().group(),
            Self::Encoded { size, .. } => Some(*size),
        }
    }

    /// Bytes of the scales of rows or groups.
    pub fn bytes(&self, rows: usize, cols: usize) -> usize {
        match self {
            Self::Given(scales) => scales.bytes(),
            Self::Encoded { size, .. } => rows * (cols / size) * size_of::<f16>(),
        }
    }

    /// Checks the number of scales and the size of groups.
    ///
    /// # Errors
    /// Names what is wrong.
    pub(super) fn check(&self, rows: usize, cols: usize) -> Result<(), FormatError> {
        match *self {
            Self::Given(ref scales) => scales.view().check(rows, cols),
            Self::Encoded { size, .. } if GROUP_SIZES.contains(&size) && cols.is_multiple_of(size) => Ok(()),
            Self::Encoded { size, .. } => Err(FormatError::Groups { cols, size }),
        }
    }

    /// Scales of the groups of some rows of a file, as [`Self::Encoded`] says.
    ///
    /// # Errors
    /// Names a scale that is not finite, or that would be rounded.
    pub(super) fn decode(
        codec: &Codec,
        data: &[u8],
        rows: Range<usize>,
        size: usize,
        factor: f32,
    ) -> Result<MatrixScales, FormatError> {
        let rounded = |found: String| FormatError::Scale { element: None, found };
        let ScaleKind::PerGroup(of_file) = codec.scale_kind() else { unreachable!("groups in a file without them") };
        let found = codec.group_scales(data, rows.clone())?;
        let scales = MatrixScales::PerGroup { size: of_file, values: found.into() };
        let scales = multiplied(scales, factor).map_err(|product| rounded(product.to_string()))?;
        if scales.view().group() == Some(size) {
            return Ok(scales);
        }
        let fitted = scales.fitted(ScaleKind::PerGroup(size), rows.len(), codec.cols(), false);
        fitted.map_err(|loss| rounded(loss.to_string()))
    }
}

/// Every scale times `factor`.
///
/// # Errors
/// The first product that a group has no room for.
pub(super) fn multiplied(scales: MatrixScales, factor: f32) -> Result<MatrixScales, f32> {
    if factor == 1.0 {
        return Ok(scales);
    }
    if let Some(scale) = scales.collapsed() {
        return Ok(MatrixScales::PerTensor(scale * factor));
    }
    Ok(match scales {
        MatrixScales::PerTensor(scale) => MatrixScales::PerTensor(scale * factor),
        MatrixScales::PerRow(values) => MatrixScales::PerRow(values.iter().map(|value| value * factor).collect()),
        MatrixScales::PerGroup { size, values } => {
            let product = |value: &f16| {
                let product = value.to_f32() * factor;
                let half = f16::from_f32(product);
                if half.to_f32() == product { Ok(half) } else { Err(product) }
            };
            MatrixScales::PerGroup { size, values: values.iter().map(product).collect::<Result<_, _>>()? }
        }
    })
}

/// True if all scales but those of 0 are one, to the bit.
pub(super) fn differ_in_zeros_only(scales: &MatrixScales) -> bool {
    fn alike(values: impl Iterator<Item = f32>) -> bool {
        let mut others = values.filter(|value| *value != 0.0);
        let first = others.next();
        others.all(|value| Some(value.to_bits()) == first.map(f32::to_bits))
    }
    match scales {
        MatrixScales::PerTensor(_) => true,
        MatrixScales::PerRow(values) => alike(values.iter().copied()),
        MatrixScales::PerGroup { values, .. } => alike(values.iter().map(|value| value.to_f32())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(values: &[f32]) -> MatrixScales {
        MatrixScales::PerGroup { size: 64, values: values.iter().map(|&value| f16::from_f32(value)).collect() }
    }

    #[test]
    fn a_factor_multiplies_without_rounding_a_group() {
        let third = 1.0_f32 / 3.0;
        assert_eq!(multiplied(groups(&[1.0, 1.0]), third), Ok(MatrixScales::PerTensor(third)));
        assert_eq!(multiplied(groups(&[1.0, 0.5]), 0.25), Ok(groups(&[0.25, 0.125])));
        assert_eq!(multiplied(groups(&[1.0, 0.5]), third), Err(third));
        assert_eq!(multiplied(groups(&[0.1, 0.3]), 1.0), Ok(groups(&[0.1, 0.3])));
        let rows = MatrixScales::PerRow([1.0, 3.0].into());
        assert_eq!(multiplied(rows, 0.1), Ok(MatrixScales::PerRow([0.1, 3.0 * 0.1].into())));
    }

    #[test]
    fn zeros_beside_one_scale_are_told_from_two_scales() {
        assert!(differ_in_zeros_only(&groups(&[0.5, 0.0, 0.5, -0.0])));
        assert!(differ_in_zeros_only(&groups(&[0.0, -0.0])));
        assert!(!differ_in_zeros_only(&groups(&[0.5, 0.0, 0.25])));
        assert!(!differ_in_zeros_only(&MatrixScales::PerRow([1.0, 2.0].into())));
        assert!(differ_in_zeros_only(&MatrixScales::PerRow([0.0, 2.0].into())));
    }
}
