//! Directories of MLX in 2 bits: the same matrices as those of the numbers they stand for.

use bitnet_cpu_kernels::format::{DenseType, dense::decode_row};
use bitnet_gpu::{
    convert::in_memory,
    gguf::{File, TensorType},
    model::{DenseMatrix, Linear, Model as Loaded, names},
};
use half::f16;
use safetensors::Dtype;
use serde_json::json;

use super::support::{Case, Model, Source};

/// A scale for each group of columns; some are negative, and one group has nothing but zeros.
fn scale(row: usize, group: usize) -> f32 {
    [0.5, -0.25, 0.75, 0.0, 0.375][(row + group) % 5]
}

fn code(row: usize, col: usize) -> u32 {
    [0, 1, 2, 2, 0, 1, 1][(3 * row + col + col / 16) % 7]
}

/// One model, as numbers and as MLX has it.
fn models(group: usize) -> [Model; 2] {
    let mut numbers = Model::wide_llama();
    numbers.config.as_object_mut().unwrap().remove("quantization_config");
    let mut mlx = numbers.clone();
    let quantization = json!({"group_size": group, "bits": 2, "mode": "affine"});
    mlx.config["quantization"] = quantization.clone();
    mlx.config["quantization_config"] = quantization;
    for (name, tensor) in Model::wide_llama().tensors {
        let &[rows, cols] = &tensor.shape[..] else { continue };
        let weight = |at: usize| scale(at / cols, at % cols / group) * (code(at / cols, at % cols) as f32 - 1.0);
        numbers.tensors.insert(name.clone(), Source::f32(&[rows, cols], (0..rows * cols).map(weight)).cast(Dtype::F16));
        let word = |at: usize| {
            let (row, first) = (at / (cols / 16), at % (cols / 16) * 16);
            (0..16).fold(0, |word, place| word | code(row, first + place) << (2 * place))
        };
        let codes = (0..rows * cols / 16).flat_map(|at| word(at).to_le_bytes()).collect();
        mlx.tensors.insert(name.clone(), Source { dtype: Dtype::U32, shape: vec![rows, cols / 16], bytes: codes });
        let groups = cols / group;
        for (ends, sign) in [("scales", 1.0), ("biases", -1.0)] {
            let values = (0..rows * groups).map(|at| sign * scale(at / groups, at % groups));
            let tensor = Source::f32(&[rows, groups], values).cast(Dtype::F16);
            mlx.tensors.insert(name.replace("weight", ends), tensor);
        }
    }
    [numbers, mlx]
}

/// A table of any type as numbers.
fn table(matrix: &DenseMatrix) -> Vec<f32> {
    let mut out = vec![0.0; matrix.rows * matrix.cols];
    for (row, out) in out.chunks_mut(matrix.cols).enumerate() {
        decode_row(matrix.ty, matrix.view().row(row), out);
    }
    out
}

fn assert_same(found: &File, expected: &File, group: usize) {
    let [found, expected] = [found, expected].map(|file| Loaded::from_gguf(file).unwrap());
    for (a, b) in found.weights.blocks.iter().zip(&expected.weights.blocks) {
        for role in Linear::ATTENTION {
            let [a, b] = [a, b].map(|block| block.linear(role).clone());
            let layout = bitnet_cpu_kernels::format::Layout::I2sP128;
            let [a, b] = [a, b].map(|matrix| matrix.packed(layout).unwrap());
            assert_eq!((&a.codes[..], &a.scales), (&b.codes[..], &b.scales), "{role:?} in groups of {group}");
        }
    }
    let ty = if group == 64 { DenseType::Q2_0 } else { DenseType::Q2_0G128 };
    assert_eq!((found.weights.token_embd.ty, found.weights.head().ty), (ty, ty));
    assert_eq!(table(&found.weights.token_embd), table(&expected.weights.token_embd));
    assert_eq!(table(found.weights.head()), table(expected.weights.head()));
}

#[test]
fn two_bits_are_the_numbers_they_stand_for() {
    for (group, ty) in [(64, TensorType::Q2_0), (128, TensorType::PQ2_0)] {
        let [numbers, mlx] = models(group).map(|model| Case::of(&model));
        let file = mlx.file();
        assert_eq!(file.tensor(&names::linear(0, Linear::Q)).unwrap().ty, ty);
        assert_eq!(file.tensor("output.weight").unwrap().ty, ty);
        let expected = numbers.file();
        assert_same(&file, &expected, group);
        assert_same(&in_memory(&mlx.input(), None).unwrap(), &expected, group);
    }
}

#[test]
fn what_is_not_ternary_is_named() {
    let of = |change: &dyn Fn(&mut Model)| {
        let [_, mut model] = models(128);
        change(&mut model);
        Case::of(&model).failure()
    };
    let q = "model.layers.1.self_attn.q_proj";
    let edit = |model: &mut Model, name: &str, at: usize, bytes: &[u8]| {
        let tensor = model.tensors.get_mut(name).unwrap();
        tensor.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let error = of(&|model| edit(model, &format!("{q}.weight"), 4 * 33, &[0b1100]));
    assert!(
        error.contains(&format!("tensor {q}.weight: expected codes 0, 1 and 2, found 3 at row 1, column 17")),
        "{error}"
    );
    for value in [0.5, f32::NAN, f32::INFINITY] {
        let half = f16::from_f32(value).to_le_bytes();
        let error = of(&|model| edit(model, &format!("{q}.biases"), 2, &half));
        assert!(
            error.contains(&format!("scale and bias of tensor {q}.weight")) && error.contains("row 0, group 1"),
            "{error}"
        );
    }
    let error = of(&|model| drop(model.tensors.remove(&format!("{q}.scales"))));
    assert!(error.contains("q_proj.scales is missing"), "{error}");
    // Four bits, as MLX mixes them in, and groups of another size.
    let error = of(&|model| {
        let shape = vec![512, 64];
        let codes = Source { dtype: Dtype::U32, shape, bytes: vec![0; 4 * 512 * 64] };
        model.tensors.insert(format!("{q}.weight"), codes);
    });
    assert!(error.contains(&format!("tensor {q}.weight: expected 512 x 512 codes of 2 bits")), "{error}");
    let error = of(&|model| {
        for key in ["quantization", "quantization_config"] {
            model.config[key]["group_size"] = json!(64);
        }
    });
    assert!(error.contains("expected a number for each 64 of"), "{error}");
    // A matrix of numbers that are not ternary, behind those of codes.
    let down = "model.layers.1.mlp.down_proj";
    let error = of(&|model| {
        let values = (0..512 * 1536).map(|at| (at % 97) as f32 * 0.01 - 0.4);
        let shape = model.tensors[&format!("{down}.weight")].shape.clone();
        let cols = shape[1] * 16;
        let values = Source::f32(&[shape[0], cols], values.cycle().take(shape[0] * cols));
        model.tensors.insert(format!("{down}.weight"), values);
        for end in ["scales", "biases"] {
            model.tensors.remove(&format!("{down}.{end}"));
        }
    });
    assert!(error.contains("of MLX in 2 bits is not supported: other matrices"), "{error}");
    // Without the word of config.json that MLX made them, such numbers mean nothing.
    let error = of(&|model| {
        for key in ["quantization", "quantization_config"] {
            model.config.as_object_mut().unwrap().remove(key);
        }
    });
    assert!(error.contains("expected BF16, F16 or F32, found U32"), "{error}");
}
