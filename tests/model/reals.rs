//! Projections of real numbers whose values are ternary.

use bitnet_cpu_kernels::format::{Layout, MatrixScales, unpack};
use bitnet_gpu::{
    error::Error,
    gguf::File,
    model::{Linear, Model, TernaryScales, names},
};
use half::{bf16, f16};

use crate::common::gguf_builder::{Gguf, tiny_model};

/// The scale of a weight by its row and column.
type Scale = fn(usize, usize) -> f32;

/// -1, 0 or +1.
fn weight(row: usize, col: usize) -> f32 {
    ((row * 7 + col * 5 + row * col / 3) % 3) as f32 - 1.0
}

/// The tiny model with projections of such numbers, in the type of this id.
fn file(id: u32, scale: impl Fn(usize, usize) -> f32) -> Gguf {
    let mut file = tiny_model();
    for role in Linear::ATTENTION {
        file = file.edit(&names::linear(0, role), |tensor| {
            let (cols, rows) = (tensor.dims[0] as usize, tensor.dims[1] as usize);
            let values = (0..rows * cols).map(|at| weight(at / cols, at % cols) * scale(at / cols, at % cols));
            tensor.id = id;
            tensor.data = match id {
                0 => values.flat_map(f32::to_le_bytes).collect(),
                1 => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
                _ => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
            };
        });
    }
    file
}

fn open(file: &Gguf) -> Result<Model, Error> {
    Model::from_gguf(&File::parse(file.build().into()).unwrap())
}

#[test]
fn one_scale_a_scale_for_each_row_and_scales_of_groups_are_found() {
    for id in [0, 1, 30] {
        let scales: [(Scale, Option<usize>); 3] =
            [(|_, _| 0.5, None), (|row, _| [0.5, 0.25][row % 2], None), (|_, col| [0.5, 2.0][col / 64 % 2], Some(64))];
        for (at, (scale, group)) in scales.into_iter().enumerate() {
            let model = open(&file(id, scale)).unwrap();
            for role in Linear::ATTENTION {
                let matrix = model.weights.blocks[0].linear(role);
                let codes =
                    unpack(Layout::I2sP128, matrix.rows, matrix.cols, &matrix.codes_in(Layout::I2sP128).unwrap());
                let expected = |at: usize| (weight(at / matrix.cols, at % matrix.cols) + 1.0) as u8;
                assert!(codes.iter().enumerate().all(|(at, &code)| code == expected(at)), "{id} {role:?}");
                assert_eq!(matrix.scales.group(), group);
                match &matrix.scales {
                    TernaryScales::Given(MatrixScales::PerTensor(scale)) => assert_eq!((at, *scale), (0, 0.5)),
                    TernaryScales::Given(MatrixScales::PerRow(rows)) => {
                        assert_eq!((at, &rows[..2]), (1, &[0.5, 0.25][..]))
                    }
                    TernaryScales::Given(MatrixScales::PerGroup { values, .. }) => {
                        assert_eq!((at, [values[0].to_f32(), values[1].to_f32()]), (2, [0.5, 2.0]));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn what_is_not_ternary_is_refused_with_its_place() {
    let odd = file(1, |row, col| if (row, col) == (3, 70) { 3.0 } else { 1.0 });
    let error = open(&odd).unwrap_err().to_string();
    let expected = "tensor blk.0.attn_q.weight of type F16 is not supported: its values are not ternary";
    assert!(error.starts_with(expected) && error.contains("3 in row 3, column 70"), "{error}");
    let integers = tiny_model().edit("blk.0.attn_q.weight", |tensor| {
        (tensor.id, tensor.data) = (8, vec![0; 128 * 4 * 34]);
    });
    let error = open(&integers).unwrap_err().to_string();
    assert!(
        error.starts_with("tensor blk.0.attn_q.weight of type Q8_0 is not supported: projections are read as I2_S")
    );
}

#[test]
fn matrices_of_zeros_are_named() {
    let damaged = tiny_model().edit("blk.0.attn_k.weight", |tensor| {
        let codes = tensor.data.len() - 32;
        tensor.data[..codes].fill(0b01_01_01_01);
    });
    assert_eq!(open(&damaged).unwrap().zero_matrices().unwrap(), ["blk.0.attn_k.weight"]);
    assert_eq!(open(&tiny_model()).unwrap().zero_matrices().unwrap(), [""; 0]);
    let zeros = open(&file(1, |row, col| if row < 200 && col < 200 { 0.0 } else { 1.0 })).unwrap();
    assert_eq!(zeros.zero_matrices().unwrap().len(), 4, "those of attention");
}
