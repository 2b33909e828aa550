//! Checkpoints of real numbers that are ternary already, as frameworks save them.

use std::fs;

use bitnet_cpu_kernels::format::{Layout, MatrixScales, unpack};
use bitnet_gpu::{
    convert::{ConvertOptions, TernaryType, convert},
    gguf::{self, TensorType},
    model::{Linear, Model as Loaded, TernaryScales, names},
};
use half::f16;
use safetensors::Dtype;
use serde_json::Value;

use super::support::{Case, Model, Source};
use crate::common::gguf_builder::tiny_model;

/// -1, 0 or +1.
fn weight(row: usize, col: usize) -> f32 {
    ((row * 7 + col * 5 + row * col / 3) % 3) as f32 - 1.0
}

/// A model of Llama's architecture whose projections have these scales.
fn model(dtype: Dtype, scale: impl Fn(usize, usize) -> f32) -> Model {
    let mut model = Model::wide_llama();
    model.config["quantization_config"] = Value::Null;
    for (name, tensor) in &mut model.tensors {
        if name.contains("_proj.") {
            let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
            let value = |at: usize| weight(at / cols, at % cols) * scale(at / cols, at % cols);
            *tensor = Source::f32(&[rows, cols], (0..rows * cols).map(value)).cast(dtype);
        }
    }
    model
}

fn loaded(model: &Model) -> Loaded {
    Loaded::from_gguf(&Case::of(model).file()).unwrap()
}

#[test]
fn a_scale_for_each_row_is_kept() {
    for dtype in [Dtype::BF16, Dtype::F16] {
        let loaded = loaded(&model(dtype, |row, _| [0.5, 0.25, 0.125][row % 3]));
        let down = loaded.weights.blocks[1].linear(Linear::Down);
        let TernaryScales::Given(MatrixScales::PerRow(scales)) = &down.scales else { panic!("{:?}", down.scales) };
        assert_eq!(scales[..4], [0.5, 0.25, 0.125, 0.5]);
        let codes = unpack(Layout::I2sP128, down.rows, down.cols, &down.codes_in(Layout::I2sP128).unwrap());
        let expected = |at: usize| (weight(at / down.cols, at % down.cols) + 1.0) as u8;
        assert!(codes.iter().enumerate().all(|(at, &code)| code == expected(at)));
    }
}

#[test]
fn codes_beside_a_weight_scale_are_multiplied_by_it() {
    let mut given = model(Dtype::BF16, |_, _| 1.0);
    for layer in 0..2 {
        for name in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"] {
            let name = format!("model.layers.{layer}.{name}_proj.weight_scale");
            given.tensors.insert(name, Source::f32(&[1], [0.375]));
        }
    }
    let loaded = loaded(&given);
    let q = loaded.weights.blocks[0].linear(Linear::Q);
    assert_eq!(q.scales, TernaryScales::Given(MatrixScales::PerTensor(0.375)));
}

#[test]
fn a_matrix_of_zeros_is_named_once() {
    let mut damaged = model(Dtype::BF16, |_, _| 0.5);
    for name in ["q", "k"] {
        let tensor = damaged.tensors.get_mut(&format!("model.layers.1.self_attn.{name}_proj.weight")).unwrap();
        tensor.bytes.fill(0);
    }
    let case = Case::of(&damaged);
    // From the directory; from the file, whose matrices are kept; and into another type.
    let again = case.output().with_file_name("again.gguf");
    let other = ConvertOptions { ty: Some(TernaryType::TQ2_0), force: true, ..Default::default() };
    for (report, first) in [
        (case.convert(), "layers.1.self_attn.q_proj.weight"),
        (convert(&case.output(), &again, &ConvertOptions::default()), "blk.1.attn_q.weight"),
        (convert(&case.output(), &again, &other), "blk.1.attn_q.weight"),
    ] {
        let warnings = report.unwrap().warnings;
        let named: Vec<_> = warnings.iter().filter(|warning| warning.contains("nothing but zeros")).collect();
        assert_eq!(named.len(), 1, "{warnings:?}");
        assert!(named[0].contains(&format!("{first} and 1 more")), "{named:?}");
    }
}

/// A GGUF file of real numbers, as converters for other programs write them.
#[test]
fn real_numbers_of_a_gguf_file_become_ternary_types() {
    let mut file = tiny_model();
    for role in Linear::ATTENTION {
        file = file.edit(&names::linear(0, role), |tensor| {
            let cols = tensor.dims[0] as usize;
            let count = cols * tensor.dims[1] as usize;
            let value = |at: usize| f16::from_f32(0.75 * weight(at / cols, at % cols));
            (tensor.id, tensor.data) = (1, (0..count).flat_map(|at| value(at).to_le_bytes()).collect());
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("in.gguf"), file.build()).unwrap();
    for (name, ty, expected) in [
        ("a", None, TensorType::I2_S),
        ("b", Some(TernaryType::I2S), TensorType::I2_S),
        ("c", Some(TernaryType::Q2_0), TensorType::Q2_0),
    ] {
        convert(&path("in.gguf"), &path(name), &ConvertOptions { ty, ..Default::default() }).unwrap();
        let written = gguf::File::open(&path(name)).unwrap();
        assert_eq!(written.tensor("blk.0.ffn_down.weight").unwrap().ty, expected);
        let loaded = Loaded::from_gguf(&written).unwrap();
        let down = loaded.weights.blocks[0].linear(Linear::Down);
        assert_eq!(down.scales, TernaryScales::Given(MatrixScales::PerTensor(0.75)));
        let codes = unpack(Layout::I2sP128, down.rows, down.cols, &down.codes_in(Layout::I2sP128).unwrap());
        let expected = |at: usize| (weight(at / down.cols, at % down.cols) + 1.0) as u8;
        assert!(codes.iter().enumerate().all(|(at, &code)| code == expected(at)), "{name}");
    }
    let odd =
        file.edit("blk.0.attn_k.weight", |tensor| tensor.data[..2].copy_from_slice(&f16::from_f32(3.0).to_le_bytes()));
    fs::write(path("in.gguf"), odd.build()).unwrap();
    let options = ConvertOptions { ty: Some(TernaryType::I2S), force: true, ..Default::default() };
    let error = convert(&path("in.gguf"), &path("a"), &options).unwrap_err().to_string();
    assert!(
        error.contains("tensor blk.0.attn_k.weight of type F16 is not supported: its values are not ternary"),
        "{error}"
    );
}
