//! Matrices of real numbers that are ternary in groups of columns, each with a scale: `unpacked` checkpoints of models that
//! are published in Q2_0 and its kin (Ternary Bonsai).

use bitnet_cpu_kernels::format::{Layout, MatrixScales, pack_row, ternary_bytes};
use half::f16;

use super::{
    dense,
    layout::{Content, Item, Projection},
};
use crate::{
    convert::TernaryType,
    error::{Error, Result},
    gguf::TensorType,
    model::{common_magnitude, dialect::blame},
};

/// Columns that may share a scale, the most first.
const SIZES: [usize; 2] = [128, 64];

/// Rows of a matrix that are looked at to know what shares a scale.
const SAMPLED_ROWS: usize = 8;

/// Groups that the projections of a model have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// The columns that share a scale in all of them, those of a row with a scale of its own among them; `None` where one
    /// scale is enough for each matrix, or groups are not what they are.
    pub size: Option<usize>,
    /// MLX has cut some weights.
    pub are_cut: bool,
}

/// Looks at some rows of each projection, as reading all of them takes minutes; the rest is checked when they are read.
///
/// # Errors
/// If there are matrices of MLX, which have to be in such groups; names one that is not.
pub(super) fn of(items: &[Item<'_>]) -> Result<Groups> {
    let mut are_cut = false;
    let size = size(items, &mut are_cut);
    if size.is_none() {
        let projections = items.iter().filter_map(|item| match &item.content {
            Content::Projection(projection) => projection.affine.as_ref(),
            _ => None,
        });
        let mut first = None;
        for affine in projections {
            affine.check()?;
            first.get_or_insert(affine);
        }
        if let Some(affine) = first {
            let reason = "other matrices of the model are not ternary in groups of 64 or 128 columns";
            return Err(Error::unsupported(format!("tensor {} of MLX", affine.codes.name), reason));
        }
    }
    Ok(Groups { size, are_cut: are_cut && size.is_some() })
}

fn size(items: &[Item<'_>], are_cut: &mut bool) -> Option<usize> {
    let mut sizes = SIZES.as_slice();
    let mut one_scale = true;
    for item in items {
        let Content::Projection(projection) = &item.content else { continue };
        if projection.stated_scale.is_some() {
            return None;
        }
        one_scale &= projection.affine.is_none();
        let mut values = vec![0.0; projection.cols];
        let mut scratch = values.clone();
        let mut of_matrix: Result<f32, usize> = Ok(0.0);
        for row in (0..projection.rows).step_by(projection.rows.div_ceil(SAMPLED_ROWS)) {
            *are_cut |= read_row(projection, row, &mut values, &mut scratch).ok()?;
            of_matrix = of_matrix.and_then(|magnitude| common_magnitude(magnitude, &values));
            let fits = |size: &usize| {
                values.len().is_multiple_of(*size)
                    && values.chunks_exact(*size).all(|group| common_magnitude(0.0, group).is_ok())
            };
            sizes = &sizes[sizes.iter().position(fits)?..];
        }
        one_scale &= of_matrix.is_ok();
    }
    sizes.first().copied().filter(|_| !one_scale)
}

/// Codes in [`Layout::I2sP128`], and a scale for each `size` columns.
///
/// # Errors
/// Names the row whose values are no such thing.
pub(super) fn read(projection: &Projection<'_>, size: usize) -> Result<(Vec<u8>, MatrixScales)> {
    let Projection { weight, rows, cols, .. } = *projection;
    let row_bytes = ternary_bytes(Layout::I2sP128, 1, cols);
    let mut packed = vec![0; rows * row_bytes];
    let mut scales = Vec::with_capacity(rows * cols / size);
    let (mut values, mut scratch, mut codes) = (vec![0.0; cols], vec![0.0; cols], vec![0; cols]);
    for (row, packed) in packed.chunks_exact_mut(row_bytes).enumerate() {
        read_row(projection, row, &mut values, &mut scratch)?;
        for (group, codes) in values.chunks_exact(size).zip(codes.chunks_exact_mut(size)) {
            let scale = common_magnitude(0.0, group).map_err(|_| {
                let thing = format!("row {} of tensor {}", projection.row_order.source(row), weight.name);
                Error::malformed(thing, format!("-d, 0 and +d in each {size} columns, as in other rows"), "more")
            })?;
            let short = f16::from_f32(scale);
            if short.to_f32() != scale {
                let thing = format!("a scale of tensor {}", weight.name);
                return Err(Error::malformed(thing, "a number that f16 can hold", scale));
            }
            scales.push(short);
            for (code, value) in codes.iter_mut().zip(group) {
                *code = 1 + u8::from(*value > 0.0) - u8::from(*value < 0.0);
            }
        }
        pack_row(&codes, packed);
    }
    Ok((packed, MatrixScales::PerGroup { size, values: scales.into() }))
}

/// A row of the file; true where MLX has cut some of its weights.
fn read_row(projection: &Projection<'_>, row: usize, values: &mut [f32], scratch: &mut [f32]) -> Result<bool> {
    let from = projection.row_order.source(row);
    let mut is_cut = false;
    match &projection.affine {
        Some(affine) => is_cut = affine.ternary_row(from, values)?,
        None => dense::read(projection.weight, from * projection.cols, values),
    }
    projection.col_order.apply(values, scratch);
    Ok(is_cut)
}

/// A ternary table of MLX in the type of its groups.
pub(super) fn table(table: &Projection<'_>, ty: TensorType) -> Result<Vec<u8>> {
    let (ty, size) = if ty == TensorType::Q2_0 { (TernaryType::Q2_0, 64) } else { (TernaryType::PQ2_0, 128) };
    let (codes, scales) = read(table, size)?;
    let name = &table.weight.name;
    let codec = ty.codec(name, table.rows, table.cols)?;
    codec.encode(&codes, &scales).map_err(|e| blame(name, table.cols, e))
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::{
        bytes::Bytes,
        convert::hf::{order::Order, safetensors::Tensor},
    };

    fn matrix(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f32) -> Tensor {
        let data: Vec<u8> = (0..rows * cols).flat_map(|at| value(at / cols, at % cols).to_le_bytes()).collect();
        Tensor { name: "w".into(), dtype: Dtype::F32, shape: vec![rows, cols], data: Bytes::from(data) }
    }

    fn projection(weight: &Tensor) -> Projection<'_> {
        let (rows, cols) = (weight.shape[0], weight.shape[1]);
        Projection {
            weight,
            stated_scale: None,
            affine: None,
            rows,
            cols,
            row_order: Order::Same,
            col_order: Order::Same,
        }
    }

    fn size_of(tensors: &[&Tensor]) -> Option<usize> {
        fn item(weight: &Tensor) -> Item<'_> {
            Item { name: "w".into(), sizes: weight.shape.clone(), content: Content::Projection(projection(weight)) }
        }
        of(&tensors.iter().map(|weight| item(weight)).collect::<Vec<_>>()).unwrap().size
    }

    #[test]
    fn the_size_is_the_largest_that_explains_all() {
        let sign = |col: usize| [1.0, 0.0, -1.0][col % 3];
        let by = |size: usize| matrix(2, 256, move |row, col| sign(col) * (1 + row + col / size) as f32);
        let one = matrix(2, 256, |_, col| sign(col));
        let real = matrix(2, 256, |_, col| col as f32);
        assert_eq!(size_of(&[&by(128)]), Some(128));
        assert_eq!(size_of(&[&one, &by(128), &by(64)]), Some(64));
        assert_eq!(size_of(&[&by(32)]), None);
        assert_eq!(size_of(&[&one]), None);
        assert_eq!(size_of(&[&by(128), &real]), None);
        assert_eq!(size_of(&[&by(128), &matrix(2, 96, |_, col| sign(col))]), None);
    }

    #[test]
    fn codes_and_scales_are_those_of_the_values() {
        let weight = matrix(2, 128, |row, col| match (row, col / 64) {
            (0, 0) => [0.5, -0.5][col % 2],
            (0, _) => 0.0,
            (_, half) => [0.0, 0.25][half],
        });
        let (packed, scales) = read(&projection(&weight), 64).unwrap();
        let values = [0.5, 0.0, 0.0, 0.25].map(f16::from_f32);
        assert_eq!(scales, MatrixScales::PerGroup { size: 64, values: values.into() });
        let codes = bitnet_cpu_kernels::format::unpack(Layout::I2sP128, 2, 128, &packed);
        assert_eq!(
            (&codes[..4], &codes[64..66], &codes[190..194]),
            (&[2, 0, 2, 0][..], &[1, 1][..], &[1, 1, 2, 2][..])
        );

        let uneven = matrix(1, 64, |_, col| [1.0, 2.0][usize::from(col == 5)]);
        let error = read(&projection(&uneven), 64).unwrap_err().to_string();
        assert!(error.contains("row 0 of tensor w: expected -d, 0 and +d in each 64 columns"), "{error}");
        let long = matrix(1, 64, |_, _| 1.0 / 3.0);
        let error = read(&projection(&long), 64).unwrap_err().to_string();
        assert!(error.contains("a number that f16 can hold"), "{error}");
        assert!(read(&projection(&matrix(1, 64, |_, _| f32::NAN)), 64).is_err());
    }
}
