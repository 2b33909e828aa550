//! Directories of MLX: the same matrices as those of the numbers they stand for.

use bitnet_cpu_kernels::format::{DenseType, dense::decode_row};
use bitnet_gpu::{
    convert::in_memory,
    gguf::{File, TensorType},
    model::{DenseMatrix, Linear, Model as Loaded, names},
};
use half::f16;
use safetensors::Dtype;
use serde_json::json;

use super::support::{Case, Model, Source, noise};

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

/// `mlx.core.quantize`: codes, scales and biases, the last two in F16, and the numbers they stand for.
pub fn quantized(weights: &Source, group: usize, bits: usize) -> ([Source; 3], Vec<f32>) {
    let [rows, cols] = weights.shape[..] else { panic!("{:?}", weights.shape) };
    let weights: Vec<f32> = weights.bytes.chunks(4).map(|raw| f32::from_le_bytes(raw.try_into().unwrap())).collect();
    let top = ((1 << bits) - 1) as f32;
    let (mut stream, mut scales, mut biases, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for weights in weights.chunks(group) {
        let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let is_low = low.abs() > high.abs();
        let step = ((high - low) / top).max(1e-7);
        let (step, edge) = if is_low { (step, low) } else { (-step, high) };
        let steps = (edge / step).round_ties_even();
        let (scale, bias) = if steps == 0.0 { (step, 0.0) } else { (edge / steps, edge) };
        let codes = weights.iter().map(|weight| ((weight - bias) / scale).round_ties_even().clamp(0.0, top));
        let (short_scale, short_bias) = (f16::from_f32(scale).to_f32(), f16::from_f32(bias).to_f32());
        for code in codes {
            stream.extend((0..bits).map(|bit| (code as u32 >> bit & 1) as u8));
            values.push(code * short_scale + short_bias);
        }
        scales.push(scale);
        biases.push(bias);
    }
    let bytes = stream.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit)).collect();
    let codes = Source { dtype: Dtype::U32, shape: vec![rows, cols * bits / 32], bytes };
    let short = |numbers| Source::f32(&[rows, cols / group], numbers).cast(Dtype::F16);
    ([codes, short(scales), short(biases)], values)
}

/// Puts what MLX makes of a matrix in its place.
pub fn quantize(model: &mut Model, name: &str, group: usize, bits: usize) -> Vec<f32> {
    let (made, values) = quantized(&model.tensors[name], group, bits);
    for (end, source) in ["weight", "scales", "biases"].into_iter().zip(made) {
        model.tensors.insert(name.replace("weight", end), source);
    }
    values
}

fn ternary_model(group: usize) -> Model {
    let [mut model, _] = models(group);
    for tensor in model.tensors.values_mut().filter(|tensor| tensor.shape.len() == 2) {
        let longer = tensor.bytes.chunks(2).map(|raw| f16::from_le_bytes([raw[0], raw[1]]).to_f32());
        *tensor = Source::f32(&tensor.shape.clone(), longer);
    }
    model
}

fn matrices(model: &Model) -> Vec<String> {
    model.tensors.iter().filter(|(_, tensor)| tensor.shape.len() == 2).map(|(name, _)| name.clone()).collect()
}

/// The lower end of -d and d is cut, as 16 codes have no middle; the ternary weights come back.
#[test]
fn ternary_weights_survive_the_quantization_of_mlx() {
    let numbers = ternary_model(64);
    let expected = Case::of(&numbers).file();
    for bits in [2, 4, 8] {
        let mut mlx = numbers.clone();
        mlx.config["quantization"] = json!({"group_size": 64, "bits": bits});
        for name in matrices(&numbers) {
            let values = quantize(&mut mlx, &name, 64, bits);
            let Source { bytes, .. } = &numbers.tensors[&name];
            let is_same = values.iter().zip(bytes.chunks(4)).all(|(v, raw)| v.to_le_bytes() == raw);
            assert!(!is_same, "nothing was cut in {name}");
        }
        let case = Case::of(&mlx);
        let words = case.convert().unwrap().warnings;
        assert!(words.iter().any(|word| word.contains("MLX has cut")), "{words:?}");
        assert_same(&File::open(&case.output()).unwrap(), &expected, 64);
    }
}

/// Codes of another width for the tables, which are real numbers.
#[test]
fn tables_may_have_more_bits_than_projections() {
    for (bits, group) in [(4, 64), (6, 128), (8, 32)] {
        let [_, mut mlx] = models(128);
        mlx.config["quantization"] = json!({"group_size": 128, "bits": 2,
            "model.embed_tokens": {"group_size": group, "bits": bits}, "lm_head": {"group_size": group, "bits": bits}});
        let mut values = Vec::new();
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let rows = mlx.tensors[name].shape[0];
            mlx.tensors.insert(name.into(), Source::f32(&[rows, 512], noise(name, rows * 512)));
            values.push(quantize(&mut mlx, name, group, bits));
        }
        let case = Case::of(&mlx);
        for file in [case.file(), in_memory(&case.input(), None).unwrap()] {
            assert_eq!(file.tensor(&names::linear(0, Linear::Q)).unwrap().ty, TensorType::PQ2_0);
            let loaded = Loaded::from_gguf(&file).unwrap();
            for (matrix, values) in [&loaded.weights.token_embd, loaded.weights.head()].into_iter().zip(&values) {
                let shorter: Vec<f32> = values.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
                assert_eq!((matrix.ty, table(matrix)), (DenseType::F16, shorter), "{bits} bits");
            }
        }
    }
}

/// MLX leaves packed projections as they are, and writes its own settings over those of transformers.
#[test]
fn packed_projections_stand_beside_a_table_of_mlx() {
    let mut plain = Model::wide();
    for name in matrices(&plain).into_iter().filter(|name| name.contains("_proj")) {
        let [rows, cols] = plain.tensors[&name].shape[..] else { unreachable!() };
        let packed = (0..rows / 4 * cols).map(|at| [0b00_01_10_00, 0b10_10_01_00, 0b01_01_00_10][at % 3]).collect();
        plain.tensors.insert(name.clone(), Source::u8(&[rows / 4, cols], packed));
        plain.tensors.insert(format!("{name}_scale"), Source::f32(&[1], [0.75]));
    }
    let mut mlx = plain.clone();
    for key in ["quantization", "quantization_config"] {
        mlx.config[key] = json!({"group_size": 64, "bits": 4});
    }
    let name = "model.embed_tokens.weight";
    let values = quantize(&mut mlx, name, 64, 4);
    plain.tensors.insert(name.into(), Source::f32(&plain.tensors[name].shape.clone(), values));
    let [expected, found] = [plain, mlx].map(|model| Case::of(&model).file());
    for tensor in expected.tensors() {
        let other = found.tensor(&tensor.name).unwrap();
        assert_eq!((tensor.ty, &tensor.dims), (other.ty, &other.dims), "{}", tensor.name);
        assert!(expected.data(tensor)[..] == found.data(other)[..], "{}", tensor.name);
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
    let of_q = format!("tensor {q}.weight of MLX in 2 bits is not supported: ");
    assert!(
        error.contains(&format!("{of_q}row 1 has other weights than -d, 0 and d in columns 0 to 127: take")),
        "{error}"
    );
    for value in [0.5, f32::NAN, f32::INFINITY] {
        let half = f16::from_f32(value).to_le_bytes();
        let error = of(&|model| edit(model, &format!("{q}.biases"), 2, &half));
        assert!(error.contains(&format!("{of_q}row 0 has")) && error.contains("columns 128 to 255"), "{error}");
    }
    let error = of(&|model| drop(model.tensors.remove(&format!("{q}.scales"))));
    assert!(error.contains("q_proj.scales is missing"), "{error}");
    // Other shapes than codes have, and than their groups have.
    let error = of(&|model| {
        let codes = Source { dtype: Dtype::U32, shape: vec![512, 63], bytes: vec![0; 4 * 512 * 63] };
        model.tensors.insert(format!("{q}.weight"), codes);
    });
    assert!(error.contains(&format!("tensor {q}.weight: expected 512 x 512 codes of 2 to 8 bits")), "{error}");
    let error = of(&|model| {
        let less = Source::f32(&[512, 2], vec![0.5; 1024]);
        model.tensors.insert(format!("{q}.biases"), less);
    });
    assert!(error.contains(&format!("tensor {q}.biases: expected numbers for groups of 512 x 512 weights")), "{error}");
    // A projection that is real numbers in 4 bits.
    let error = of(&|model| {
        let name = format!("{q}.weight");
        model.tensors.insert(name.clone(), Source::f32(&[512, 512], noise("q", 512 * 512)));
        quantize(model, &name, 64, 4);
    });
    assert!(error.contains(&format!("tensor {q}.weight of MLX in 4 bits is not supported: row 0")), "{error}");
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
    assert!(error.contains("of MLX is not supported: other matrices"), "{error}");
    // Without the word of config.json that MLX made them, such numbers mean nothing.
    let error = of(&|model| {
        for key in ["quantization", "quantization_config"] {
            model.config.as_object_mut().unwrap().remove(key);
        }
    });
    assert!(error.contains("expected BF16, F16 or F32, found U32"), "{error}");
}
