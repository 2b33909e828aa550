//! Projections: the codes of any ternary dialect, checked and left in the file, and scales of one kind for the whole model.

use bitnet_cpu_kernels::format::{Codec, FormatError, Layout, MatrixScales, ScaleKind, only_indices, ternary_bytes};
use half::f16;

use super::{Loader, tensor};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::TensorInfo,
    model::{
        Block, Linear, Norm, TernaryCodes, TernaryMatrix, TernaryScales,
        dialect::{blame, check, scales},
        names,
        reals::{Odd, of_bytes, real_type},
        scales::{differ_in_zeros_only, multiplied},
    },
};

/// Codes are scanned for invalid values when a file is opened up to this many bytes of ternary weights (0.1 s at 20 GB/s).
/// Scanning more would make a model that is larger than memory unusable, and others would be read twice: backends find
/// invalid codes when they decode them, and [`crate::inspect`] looks at all.
const CODE_SCAN_LIMIT_BYTES: usize = 2 << 30;

impl Loader<'_> {
    /// All blocks.
    pub(super) fn blocks(&self) -> Result<Vec<Block>> {
        let layers = self.config.layers;
        let of_layer = |layer: usize| {
            let shapes = self.config.linears(layer).iter().map(|&role| self.config.linear_shape(role));
            shapes.map(|(m, k)| m * k).sum::<usize>()
        };
        let weights = (0..layers).map(of_layer).fold(0, usize::saturating_add);
        let scan = weights / 4 <= CODE_SCAN_LIMIT_BYTES;
        if !scan {
            log::info!(
                "{layers} layers of {weights} weights in all: invalid codes are looked for where they are decoded only"
            );
        }
        let (mut blocks, mut simplest) = (Vec::with_capacity(layers), Vec::with_capacity(layers * Linear::ALL.len()));
        for layer in 0..layers {
            blocks.push(self.block(layer, scan, &mut simplest)?);
        }
        unify(&mut blocks, simplest)?;
        Ok(blocks)
    }

    /// A block; `simplest` is given the scales of each matrix as [`simplest`] has them.
    fn block(&self, layer: usize, scan: bool, simplest: &mut Vec<Option<MatrixScales>>) -> Result<Block> {
        let mut linears = Vec::with_capacity(Linear::ALL.len());
        for &role in self.config.linears(layer) {
            let (matrix, scales) = self.ternary(layer, role, scan)?;
            linears.push((role, matrix, scales));
        }
        linears.sort_by_key(|(role, ..)| *role as usize);
        let mut norms = [const { None }; Norm::BLOCK.len()];
        for role in self.config.norms(layer) {
            let name = names::norm(self.config.family, layer, role);
            norms[role as usize] = Some(self.floats(&name, self.config.norm_len(role))?);
        }
        let mut block = Block::new([], norms);
        if !self.config.biased.is_empty() {
            let bias = |role| self.floats(&names::bias(layer, role), self.config.linear_shape(role).0);
            let parts = self.config.biased.iter().copied().map(bias).collect::<Result<Vec<_>>>()?;
            block = block.with_bias(parts.concat());
        }
        let mut block = match &self.config.delta {
            Some(delta) if self.config.is_recurrent(layer) => block.with_delta(self.delta(layer, delta)?),
            _ => block,
        };
        for (role, matrix, scales) in linears {
            block.linears[role as usize] = Some(matrix);
            simplest.push(scales);
        }
        Ok(block)
    }

    /// A projection, and its scales as [`simplest`] has them.
    fn ternary(&self, layer: usize, role: Linear, scan: bool) -> Result<(TernaryMatrix, Option<MatrixScales>)> {
        let (rows, cols) = self.config.linear_shape(role);
        let info = self.shaped(&names::linear(layer, role), &[cols, rows])?;
        let Some(codec) = self.dialects.codec(info)? else {
            let matrix = self.of_reals(info, (rows, cols), &names::linear_scale(layer, role))?;
            let TernaryScales::Given(scales) = matrix.scales.clone() else {
                unreachable!("scales that were found are given")
            };
            let simplest = simplest(&matrix, scales).map_err(|e| blame(&info.name, cols, e))?;
            return Ok((matrix, simplest));
        };
        let data = self.file.data(info);
        if !scan && self.differ_by_group(info, &codec, &data, &names::linear_scale(layer, role))? {
            let codes = codes(codec, data, scan).map_err(|e| blame(&info.name, cols, e))?;
            let ScaleKind::PerGroup(size) = codec.scale_kind() else { unreachable!("groups that differ are some") };
            let scales = TernaryScales::Encoded { size, factor: 1.0 };
            return Ok((TernaryMatrix { rows, cols, codes, scales }, None));
        }
        let (scales, factor) = self.scales(info, &codec, &data, &names::linear_scale(layer, role))?;
        let codes = codes(codec, data, scan).map_err(|e| blame(&info.name, cols, e))?;
        // Those of groups are many: they stay in the file.
        let kept = match scales.view().group() {
            Some(size) if scales.collapsed() != Some(0.0) => TernaryScales::Encoded { size, factor },
            _ => TernaryScales::Given(scales.clone()),
        };
        let matrix = TernaryMatrix { rows, cols, codes, scales: kept };
        let simplest = simplest(&matrix, scales).map_err(|e| blame(&info.name, cols, e))?;
        Ok((matrix, simplest))
    }

    /// A projection of real numbers whose values are ternary. Its codes are in main memory, a quarter of a byte each.
    fn of_reals(&self, info: &TensorInfo, (rows, cols): (usize, usize), factor: &str) -> Result<TernaryMatrix> {
        let ty = real_type(info.ty).ok_or_else(|| {
            Error::unsupported(
                format!("{} of type {}", tensor(info), info.ty.name()),
                "projections are read as I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, IQ1_BN, IQ2_BN, and as F32, F16 \
                 and BF16 where all values are ternary",
            )
        })?;
        let found = of_bytes(ty, (rows, cols), &self.file.data(info));
        let (codes, scales) = found.map_err(|Odd { row, col, value }| {
            let reason = format!(
                "its values are not ternary (-c, 0 and c in the matrix, a row or a group of columns): {value} in row {row}, \
                 column {col}; a model that was trained for it is published in other types too"
            );
            Error::unsupported(format!("{} of type {}", tensor(info), info.ty.name()), reason)
        })?;
        let scales = match self.file.tensor(factor) {
            None => scales,
            Some(found) => multiplied(scales, self.factor(found)?).map_err(|product| {
                let reason = format!("times {} it would be {product}, which f16 rounds", tensor(found));
                Error::unsupported(format!("a scale of {}", tensor(info)), reason)
            })?,
        };
        let codes = TernaryCodes::Packed { bytes: codes.into(), layout: Layout::I2sP128 };
        Ok(TernaryMatrix { rows, cols, codes, scales: scales.into() })
    }

    /// True where the groups of the first row have scales of their own: then so has the matrix, and the others need not be
    /// read now. False where a factor has still to be multiplied.
    fn differ_by_group(&self, info: &TensorInfo, codec: &Codec, data: &[u8], factor: &str) -> Result<bool> {
        if !matches!(codec.scale_kind(), ScaleKind::PerGroup(_)) || self.file.tensor(factor).is_some() {
            return Ok(false);
        }
        let scales = codec.group_scales(data, 0..1).map_err(|e| blame(&info.name, codec.cols(), e))?;
        let mut others = scales.iter().filter(|scale| **scale != f16::ZERO);
        let first = others.next();
        Ok(others.any(|scale| Some(scale) != first))
    }

    /// The scales of a tensor, multiplied by the factor that may stand in a tensor of its own, and that factor.
    fn scales(&self, info: &TensorInfo, codec: &Codec, data: &[u8], factor: &str) -> Result<(MatrixScales, f32)> {
        let scales = scales(codec, data).map_err(|e| blame(&info.name, codec.cols(), e))?;
        if let MatrixScales::PerTensor(scale) = scales {
            positive(format!("scale of {}", tensor(info)), scale)?;
        }
        let Some(found) = self.file.tensor(factor) else { return Ok((scales, 1.0)) };
        let factor = self.factor(found)?;
        let scales = multiplied(scales, factor).map_err(|product| {
            let reason = format!("times {} it would be {product}, which f16 rounds", tensor(found));
            Error::unsupported(format!("a scale of {}", tensor(info)), reason)
        })?;
        match scales {
            MatrixScales::PerTensor(scale) if !scale.is_finite() => {
                let thing = format!("scale of {} times its factor", tensor(info));
                Err(Error::malformed(thing, "a finite number", scale))
            }
            scales => Ok((scales, factor)),
        }
    }

    /// A scale in a tensor of its own: llama.cpp's BitNet graph multiplies the product by it, and this program keeps an
    /// f32 scale there where the type of the weights has f16 ones.
    fn factor(&self, info: &TensorInfo) -> Result<f32> {
        positive(tensor(info), self.floats(&info.name, 1)?[0])
    }
}

/// The codes of a tensor; checked, if `scan` says so.
fn codes(codec: Codec, data: Bytes, scan: bool) -> Result<TernaryCodes, FormatError> {
    let layout = match codec.lookup_layout() {
        Some(layout @ Layout::Tl2(_)) => Some(layout),
        _ => codec.is_in_place().then_some(Layout::I2sP128),
    };
    let (rows, cols) = (codec.rows(), codec.cols());
    let in_place = layout.and_then(|layout| Some((layout, data.slice(0..ternary_bytes(layout, rows, cols))?)));
    let Some((layout, bytes)) = in_place else {
        if scan {
            check(&codec, &data)?;
        }
        return Ok(TernaryCodes::Encoded { codec, data });
    };
    let valid = || if layout.is_lookup() { only_indices(layout, rows, cols, &bytes) } else { !has_code_3(&bytes) };
    if scan && !valid() {
        // Decoding finds the place.
        check(&codec, &data)?;
    }
    Ok(TernaryCodes::Packed { bytes, layout })
}

fn positive(thing: String, scale: f32) -> Result<f32> {
    if scale.is_normal() && scale > 0.0 {
        return Ok(scale);
    }
    Err(Error::malformed(thing, "a finite number above 0", scale))
}

/// Gives all matrices scales of the same kind: per tensor or row where that keeps every value, as activations are then
/// quantised with one scale a token, which models of one scale are trained for; else per group, of the smallest size
/// there is.
fn unify(blocks: &mut [Block], simplest: Vec<Option<MatrixScales>>) -> Result<()> {
    if let Some(all) = simplest.into_iter().collect::<Option<Vec<_>>>() {
        blocks
            .iter_mut()
            .flat_map(|block| block.linears.iter_mut().flatten())
            .zip(all)
            .for_each(|(m, scales)| m.scales = scales.into());
        return Ok(());
    }
    let sizes = blocks.iter().flat_map(Block::linears).filter_map(|(_, m)| m.scales.group());
    let size = sizes.min().unwrap_or_else(|| unreachable!("a matrix without one scale has groups"));
    for (layer, block) in blocks.iter_mut().enumerate() {
        for (role, m) in Linear::ALL.into_iter().zip(&mut block.linears) {
            let Some(m) = m else { continue };
            regroup(m, size).map_err(|reason| {
                let thing = format!("tensor {} beside others with groups of {size}", names::linear(layer, role));
                Error::unsupported(thing, reason)
            })?;
        }
    }
    Ok(())
}

/// Gives a matrix scales for groups of `size` columns.
///
/// # Errors
/// Why that would change a value.
fn regroup(m: &mut TernaryMatrix, size: usize) -> Result<(), String> {
    if !m.cols.is_multiple_of(size) {
        return Err(format!("its {} columns are not whole groups", m.cols));
    }
    match &mut m.scales {
        TernaryScales::Encoded { size: of_file, .. } => *of_file = size,
        TernaryScales::Given(scales) => {
            *scales =
                scales.fitted(ScaleKind::PerGroup(size), m.rows, m.cols, false).map_err(|loss| loss.to_string())?;
        }
    }
    Ok(())
}

/// The one scale that leaves every weight of a matrix its value, or those of its rows; `None` where groups differ.
///
/// # Errors
/// Names a code that is none.
fn simplest(m: &TernaryMatrix, scales: MatrixScales) -> Result<Option<MatrixScales>, FormatError> {
    let one = match scales.collapsed() {
        // Only what a scale of 0 multiplies decides.
        None if differ_in_zeros_only(&scales) => scales.one_for(m.rows, m.cols, &m.codes_in(Layout::I2sP128)?),
        one => one,
    };
    Ok(match (one, scales) {
        (Some(scale), _) => Some(MatrixScales::PerTensor(scale)),
        (None, MatrixScales::PerGroup { size, values }) => {
            // A type with groups may hold a matrix with a scale for each row.
            let rows = values.chunks_exact(m.cols / size);
            let one_each = m.cols > size && rows.clone().all(|row| row.iter().all(|scale| *scale == row[0]));
            one_each.then(|| MatrixScales::PerRow(rows.map(|row| row[0].to_f32()).collect()))
        }
        (None, scales) => Some(scales),
    })
}

/// True if a 2-bit field is 3, in any packing of four codes a byte.
fn has_code_3(codes: &[u8]) -> bool {
    // The loop over a page has no branch and runs at memory speed.
    codes.chunks(4096).any(|page| page.iter().fold(0, |found, byte| found | (byte & (byte >> 1) & 0x55)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_3_is_found_in_each_field() {
        for shift in [0, 2, 4, 6] {
            let mut codes = vec![0b10_01_00_10u8; 9000];
            assert!(!has_code_3(&codes));
            codes[8193] |= 3 << shift;
            assert!(has_code_3(&codes), "shift {shift}");
        }
    }
}
