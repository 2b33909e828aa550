//! Projections: any ternary dialect -> packed rows that the kernels read, and scales of one kind for the whole model.

use std::{num::NonZero, thread};

use bitnet_cpu_kernels::{
    format::{Layout, MatrixScales, PANEL_ROWS, ScaleKind, only_indices, repack_into, ternary_bytes},
    memory::Memory,
};
use half::f16;

use super::{Loader, tensor};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    gguf::TensorInfo,
    model::{
        Block, Linear, Norm, TernaryMatrix,
        dialect::{blame, decode},
        names,
    },
};

/// Codes are scanned for the invalid value 3 at load up to this many bytes of ternary weights (0.1 s at
/// 20 GB/s). Scanning more would make a model that is larger than memory unusable; [`crate::inspect`] does it.
const CODE_SCAN_LIMIT_BYTES: usize = 2 << 30;

impl Loader<'_> {
    /// All blocks.
    pub(super) fn blocks(&self) -> Result<Vec<Block>> {
        let layers = self.config.layers;
        let weights: usize = Linear::ALL.iter().map(|&role| self.config.linear_shape(role)).map(|(m, k)| m * k).sum();
        let scan = weights.saturating_mul(layers) / 4 <= CODE_SCAN_LIMIT_BYTES;
        if !scan {
            log::info!("{layers} layers of {weights} weights: invalid codes are not looked for at load");
        }
        let mut blocks = (0..layers).map(|layer| self.block(layer, scan)).collect::<Result<Vec<_>>>()?;
        unify(&mut blocks)?;
        if blocks.iter().flat_map(|block| &block.linears).any(|m| m.scales.view().group().is_some()) {
            blocks.iter_mut().flat_map(|block| &mut block.linears).for_each(|m| *m = side_by_side(m));
        }
        Ok(blocks)
    }

    fn block(&self, layer: usize, scan: bool) -> Result<Block> {
        let linears: Vec<_> =
            Linear::ALL.into_iter().map(|role| self.ternary(layer, role, scan)).collect::<Result<_>>()?;
        let linears = linears.try_into().unwrap_or_else(|_| unreachable!("one matrix for each role"));
        let mut norms = [const { None }; Norm::BLOCK.len()];
        for &role in self.config.family.block_norms() {
            norms[role as usize] = Some(self.floats(&names::norm(layer, role), self.config.norm_len(role))?);
        }
        Ok(Block { linears, norms })
    }

    fn ternary(&self, layer: usize, role: Linear, scan: bool) -> Result<TernaryMatrix> {
        let (rows, cols) = self.config.linear_shape(role);
        let info = self.shaped(&names::linear(layer, role), &[cols, rows])?;
        let Some(codec) = self.dialects.codec(info)? else {
            return Err(Error::unsupported(
                format!("{} of type {}", tensor(info), info.ty.name()),
                "projections are read as I2_S, TL1, TL2, TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, IQ1_BN or IQ2_BN",
            ));
        };
        let data = self.file.data(info);
        let scales = codec.scales(&data).map_err(|e| blame(&info.name, cols, e))?;
        if let MatrixScales::PerTensor(scale) = scales {
            positive(format!("scale of {}", tensor(info)), scale)?;
        }
        let scales = match self.file.tensor(&names::linear_scale(layer, role)) {
            None => scales,
            Some(factor) => multiplied(scales, self.factor(factor)?).map_err(|product| {
                let reason = format!("times {} it would be {product}, which f16 rounds", tensor(factor));
                Error::unsupported(format!("a scale of {}", tensor(info)), reason)
            })?,
        };
        if let MatrixScales::PerTensor(scale) = scales
            && !scale.is_finite()
        {
            return Err(Error::malformed(
                format!("scale of {} times its factor", tensor(info)),
                "a finite number",
                scale,
            ));
        }
        if let Some(layout @ Layout::Tl2(_)) = codec.lookup_layout()
            && let Some(codes) = data.slice(0..ternary_bytes(layout, rows, cols))
        {
            if scan && !only_indices(layout, rows, cols, &codes) {
                decode(&codec, &data).map_err(|e| blame(&info.name, cols, e))?;
            }
            return Ok(TernaryMatrix { rows, cols, codes, layout, scales });
        }
        let codes = match data.slice(0..rows * cols / 4).filter(|_| codec.is_in_place()) {
            Some(codes) => {
                if scan && has_code_3(&codes) {
                    // Decoding finds the place.
                    decode(&codec, &data).map_err(|e| blame(&info.name, cols, e))?;
                }
                codes
            }
            None => Bytes::from(decode(&codec, &data).map_err(|e| blame(&info.name, cols, e))?),
        };
        Ok(TernaryMatrix { rows, cols, codes, layout: Layout::I2sP128, scales })
    }

    /// A scale in a tensor of its own: llama.cpp's BitNet graph multiplies the product by it, and this program keeps an
    /// f32 scale there where the type of the weights has f16 ones.
    fn factor(&self, info: &TensorInfo) -> Result<f32> {
        positive(tensor(info), self.floats(&info.name, 1)?[0])
    }
}

fn positive(thing: String, scale: f32) -> Result<f32> {
    if scale.is_normal() && scale > 0.0 {
        return Ok(scale);
    }
    Err(Error::malformed(thing, "a finite number above 0", scale))
}

/// Every scale times `factor`.
///
/// # Errors
/// The first product that a group has no room for.
fn multiplied(scales: MatrixScales, factor: f32) -> Result<MatrixScales, f32> {
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

/// Gives all matrices scales of the same kind: per tensor or row where that keeps every value, as activations are then
/// quantised with one scale a token, which models of one scale are trained for; else per group, of the smallest size
/// there is.
fn unify(blocks: &mut [Block]) -> Result<()> {
    let simplest = |m: &TernaryMatrix| match &m.scales {
        MatrixScales::PerTensor(scale) => Some(MatrixScales::PerTensor(*scale)),
        scales => match (scales.one_for(m.rows, m.cols, &m.codes), scales) {
            (Some(scale), _) => Some(MatrixScales::PerTensor(scale)),
            (None, MatrixScales::PerGroup { .. }) => None,
            (None, scales) => Some(scales.clone()),
        },
    };
    let all: Option<Vec<MatrixScales>> = blocks.iter().flat_map(|block| &block.linears).map(simplest).collect();
    if let Some(all) = all {
        blocks.iter_mut().flat_map(|block| &mut block.linears).zip(all).for_each(|(m, scales)| m.scales = scales);
        return Ok(());
    }
    let sizes = blocks.iter().flat_map(|block| &block.linears).filter_map(|m| m.scales.view().group());
    let size = sizes.min().unwrap_or_else(|| unreachable!("a matrix without one scale has groups"));
    for (layer, block) in blocks.iter_mut().enumerate() {
        for role in Linear::ALL {
            let m = &mut block.linears[role as usize];
            let fitted = match m.cols.is_multiple_of(size) {
                true => m.scales.fitted(ScaleKind::PerGroup(size), m.rows, m.cols, false).map_err(|e| e.to_string()),
                false => Err(format!("its {} columns are not whole groups", m.cols)),
            };
            m.scales = fitted.map_err(|reason| {
                let thing = format!("tensor {} beside others with groups of {size}", names::linear(layer, role));
                Error::unsupported(thing, reason)
            })?;
        }
    }
    Ok(())
}

/// A matrix with group scales in the layout that the CPU multiplies it in: it was decoded into memory, and a copy for the
/// CPU alone would take as much again. Its rows are shared among all cores; the memory is asked for here, where that of
/// the matrix before is free again (glibc would give each thread memory of its own).
fn side_by_side(m: &TernaryMatrix) -> TernaryMatrix {
    let (plain, to) = (m.plain(), Layout::I2sR16);
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, m.cols);
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let share = m.rows.div_ceil(cores).next_multiple_of(PANEL_ROWS) * row_bytes;
    let mut codes = Memory::zeroed(ternary_bytes(to, m.rows, m.cols));
    thread::scope(|scope| {
        for (from, out) in plain.codes.chunks(share).zip(codes.chunks_mut(share)) {
            scope.spawn(move || {
                let rows = from.len() / row_bytes;
                repack_into(from, rows, m.cols, to, out).expect("it has room for all codes");
            });
        }
    });
    let scales = plain.scales.reordered(m.rows, m.cols, plain.layout, to);
    TernaryMatrix { rows: m.rows, cols: m.cols, codes: codes.into(), layout: to, scales }
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

    #[test]
    fn a_factor_multiplies_without_rounding_a_group() {
        let groups = |values: &[f32]| MatrixScales::PerGroup {
            size: 64,
            values: values.iter().map(|&value| f16::from_f32(value)).collect(),
        };
        let third = 1.0_f32 / 3.0;
        assert_eq!(multiplied(groups(&[1.0, 1.0]), third), Ok(MatrixScales::PerTensor(third)));
        assert_eq!(multiplied(groups(&[1.0, 0.5]), 0.25), Ok(groups(&[0.25, 0.125])));
        assert_eq!(multiplied(groups(&[1.0, 0.5]), third), Err(third));
        assert_eq!(multiplied(groups(&[0.1, 0.3]), 1.0), Ok(groups(&[0.1, 0.3])));
        let rows = MatrixScales::PerRow([1.0, 3.0].into());
        assert_eq!(multiplied(rows, 0.1), Ok(MatrixScales::PerRow([0.1, 3.0 * 0.1].into())));
    }
}
