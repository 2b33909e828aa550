//! Dummy models: readable, reproducible, of the shape asked for.

use std::{fs, ops::ControlFlow, path::Path};

use bitnet_cpu_kernels::format::{Layout, unpack};
use bitnet_gpu::{
    convert::{Progress, TernaryType},
    dummy::{DummyOptions, HeadType, Shape, make},
    gguf::{Array, File, TensorType, Value},
    model::{Linear, MatrixScales, Model},
};
use half::f16;
use serde_json::json;
use tempfile::TempDir;

/// A shape of a few thousand weights.
fn small(folder: &Path, class: &str) -> Shape {
    let config = json!({
        "architectures": [class], "vocab_size": 300, "hidden_size": 64, "intermediate_size": 192,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    let path = folder.join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    Shape::from_config(&path).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_another() {
    let folder = TempDir::new().unwrap();
    let shape = small(folder.path(), "BitNetForCausalLM");
    let bytes = |name: &str, seed| {
        let out = folder.path().join(name);
        make(&shape, &out, &DummyOptions { seed, ..Default::default() }).unwrap();
        fs::read(out).unwrap()
    };
    let first = bytes("1.gguf", 7);
    assert!(first == bytes("2.gguf", 7));
    assert!(first != bytes("3.gguf", 8));
}

#[test]
fn every_tensor_holds_sensible_numbers() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("m.gguf");
    for head in [HeadType::F16, HeadType::Q8_0, HeadType::Q6K, HeadType::Q2_0] {
        let mut shape = small(folder.path(), "LlamaForCausalLM");
        if matches!(head, HeadType::Q6K | HeadType::Q2_0) {
            (shape.model.dim, shape.model.head_dim) = (256, 64);
        }
        let report = make(&shape, &out, &DummyOptions { head, force: true, ..Default::default() }).unwrap();
        let file = File::open(&out).unwrap();
        assert_eq!(file.metadata().get("llama.block_count"), Some(&Value::U32(2)));
        assert_eq!(file.tensors().len(), 2 * 9 + 3);
        assert_eq!(report.bytes_out, fs::metadata(&out).unwrap().len());
        for tensor in file.tensors() {
            let data = file.data(tensor);
            let largest = (3.0 / shape.model.dim as f32).sqrt() * 1.001;
            match tensor.ty {
                TensorType::I2_S => {
                    let (codes, trailer) = data.split_at(data.len() - 32);
                    assert!(codes.iter().all(|byte| byte & byte >> 1 & 0x55 == 0), "{}: a code 3", tensor.name);
                    let scale = f32::from_le_bytes(trailer[..4].try_into().unwrap());
                    assert_eq!(scale, f16::from_f32((1.5 / tensor.dims[0] as f32).sqrt()).to_f32(), "{}", tensor.name);
                }
                TensorType::F16 => {
                    let values = data.chunks(2).map(|raw| f16::from_le_bytes(raw.try_into().unwrap()).to_f32());
                    assert!(values.clone().all(|v| v.abs() <= largest));
                    assert!(values.clone().any(|v| v > largest / 2.0) && values.clone().any(|v| v < -largest / 2.0));
                }
                TensorType::Q8_0 => {
                    for block in data.chunks(34) {
                        let scale = f16::from_le_bytes(block[..2].try_into().unwrap()).to_f32();
                        assert!(scale > 0.0 && 127.0 * scale <= largest, "{scale}");
                    }
                }
                TensorType::Q6_K => {
                    let mut counts = [0_u32; 64];
                    for block in data.chunks(210) {
                        let scale = f16::from_le_bytes(block[208..].try_into().unwrap()).to_f32();
                        assert!(scale > 0.0 && block[192..208].iter().all(|&s| 32.0 * f32::from(s) * scale <= largest));
                        for (at, low) in block[..128].iter().enumerate() {
                            let high = block[128 + at % 32 + at / 64 * 32] >> (2 * (at / 32 % 2));
                            counts[usize::from(low & 15 | (high & 3) << 4)] += 1;
                        }
                    }
                    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
                }
                TensorType::Q2_0 => {
                    let (blocks, rest) = data.as_chunks::<18>();
                    assert!(rest.is_empty());
                    let expected = f16::from_f32((1.5 / shape.model.dim as f32).sqrt());
                    let mut counts = [0_u32; 4];
                    for block in blocks {
                        assert_eq!(f16::from_le_bytes([block[0], block[1]]), expected);
                        let codes = block[2..].iter().flat_map(|byte| (0..4).map(move |at| byte >> (2 * at) & 3));
                        codes.for_each(|code| counts[usize::from(code)] += 1);
                    }
                    assert!(counts[..3].iter().all(|&count| count > 0) && counts[3] == 0, "{counts:?}");
                }
                TensorType::F32 => assert!(data.chunks(4).all(|raw| raw == 1.0_f32.to_le_bytes())),
                other => panic!("{} has type {}", tensor.name, other.name()),
            }
        }
    }
}

#[test]
fn what_does_not_fill_blocks_is_refused_and_stopping_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("m.gguf");
    let mut shape = small(folder.path(), "BitNetForCausalLM");
    let stop = |_: &Progress| ControlFlow::Break(());
    assert!(make(&shape, &out, &DummyOptions { progress: Some(&stop), ..Default::default() }).is_err());
    shape.model.dim = 50;
    let error = make(&shape, &out, &DummyOptions { head: HeadType::Q8_0, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("token_embd.weight is not supported: its shape [300, 50]"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_the_disk_cannot_hold_is_not_begun() {
    let folder = TempDir::new().unwrap();
    let mut shape = Shape::by_size("100B").unwrap();
    shape.model.vocab = 1 << 40;
    let error = make(&shape, &folder.path().join("m.gguf"), &DummyOptions::default()).unwrap_err().to_string();
    assert!(error.contains("MB free on the disk"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_command_makes_a_model_that_takes_text() {
    let folder = TempDir::new().unwrap();
    small(folder.path(), "BitNetForCausalLM");
    let run = |args: &[&str]| {
        let program = env!("CARGO_BIN_EXE_bitnet-gpu");
        std::process::Command::new(program).current_dir(folder.path()).args(args).output().unwrap()
    };
    let made =
        run(&["dummy", "--config", "config.json", "--type", "tl1", "--head", "q8_0", "--seed", "3", "-o", "m.gguf"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let answer = run(&["run", "-m", "m.gguf", "--backend", "cpu", "-p", "Hi", "-n", "8", "--temp", "0"]);
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert!(!answer.stdout.is_empty());

    let again = run(&["dummy", "--config", "config.json", "-o", "m.gguf"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("m.gguf exists; --force overwrites it"));
    assert_eq!(run(&["dummy", "--size", "1B", "--like", "2b-4t", "-o", "n.gguf"]).status.code(), Some(2));
    assert_eq!(run(&["dummy", "-o", "n.gguf"]).status.code(), Some(2));
}

/// A shape that every type of matrix can have.
fn wide(folder: &Path) -> Shape {
    let mut shape = small(folder, "BitNetForCausalLM");
    (shape.model.dim, shape.model.head_dim, shape.model.ffn_dim) = (512, 128, 768);
    shape
}

#[test]
fn every_type_holds_the_same_weights() {
    let folder = TempDir::new().unwrap();
    let shape = wide(folder.path());
    let mut expected: Vec<(Vec<u8>, MatrixScales)> = Vec::new();
    let types = [
        (TernaryType::I2S, TensorType::I2_S),
        (TernaryType::TL1, TensorType::TL1),
        (TernaryType::TL2, TensorType::TL2),
        (TernaryType::TQ1_0, TensorType::TQ1_0),
        (TernaryType::TQ2_0, TensorType::TQ2_0),
        (TernaryType::Q2_0, TensorType::Q2_0),
        (TernaryType::PQ2_0, TensorType::PQ2_0),
        (TernaryType::PTQ1_0, TensorType::PTQ1_0),
    ];
    for (ty, tensor_type) in types {
        let out = folder.path().join(format!("{ty:?}.gguf"));
        make(&shape, &out, &DummyOptions { ty, seed: 3, ..Default::default() }).unwrap();
        let count = File::open(&out).unwrap().tensors().iter().filter(|tensor| tensor.ty == tensor_type).count();
        assert_eq!(count, 14, "{ty:?}");
        let model = Model::open(&out).unwrap();
        let matrices = model.weights.blocks.iter().flat_map(|block| Linear::ATTENTION.map(|role| block.linear(role)));
        let plain = matrices.map(|m| m.packed(Layout::I2sP128).unwrap());
        let found: Vec<_> = plain.map(|m| (unpack(m.layout, m.rows, m.cols, &m.codes), m.scales)).collect();
        if ty == TernaryType::I2S {
            assert!(found[0].0 != found[7].0, "layers differ");
            expected = found;
        } else {
            assert!(found == expected, "{ty:?}");
        }
    }
}

#[test]
fn a_type_that_a_shape_cannot_have_is_refused() {
    let folder = TempDir::new().unwrap();
    let shape = small(folder.path(), "BitNetForCausalLM");
    for (ty, part) in [
        (TernaryType::TL2, "tensor blk.0.attn_q.weight is not supported: TL2 needs multiples of 32 rows"),
        (TernaryType::TQ1_0, "tensor blk.0.attn_q.weight: expected columns to be a multiple of 256 for TQ1_0"),
    ] {
        let options = DummyOptions { ty, ..Default::default() };
        let error = make(&shape, &folder.path().join("m.gguf"), &options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// A hybrid model in a rotated basis, of a published shape but smaller.
#[test]
fn hybrid_models_are_as_their_keys_say() {
    let folder = TempDir::new().unwrap();
    for (name, tied) in [("bonsai2-27b", false), ("bonsai2-9b", false), ("bonsai2-4b", true), ("bonsai-27b", false)] {
        let mut shape = Shape::like(name).unwrap();
        assert_eq!((shape.tied, shape.model.rotation.is_some()), (tied, name != "bonsai-27b"), "{name}");
        // Three DeltaNet layers and one of attention; the same layers again whatever their number.
        assert_eq!(shape.model.layer_period(), 4, "{name}");
        let model = &mut shape.model;
        (model.layers, model.dim, model.ffn_dim, model.heads, model.vocab) = (4, 512, 1024, 4, 300);
        let delta = model.delta.as_mut().unwrap();
        delta.layers.truncate(4);
        (delta.key_heads, delta.value_heads) = (4, 8);
        if let Some(rotation) = &mut model.rotation {
            rotation.folded.truncate(4);
            rotation.block = 256;
            let signs = rotation.signs.as_mut().unwrap();
            let all = signs[0].1.clone();
            *signs = [512, 1024].map(|width| (width, all[..width].to_vec())).to_vec();
        }
        let out = folder.path().join(format!("{name}.gguf"));
        for (ty, group) in [(TernaryType::Q2_0, Some(64)), (TernaryType::TQ2_0, None)] {
            let options = DummyOptions { ty, head: HeadType::AsMatrices, force: true, ..Default::default() };
            make(&shape, &out, &options).unwrap();
            let model = Model::open(&out).unwrap();
            assert_eq!(model.config, shape.model, "{name}");
            assert_eq!(model.weights.act_group(), group, "{name} {ty:?}");
            assert_eq!(model.weights.output.is_none(), tied, "{name}");
        }
        // llama.cpp refuses the family without them: those of the published files.
        let file = File::open(&out).unwrap();
        let sections = file.metadata().get("qwen35.rope.dimension_sections");
        assert_eq!(sections, Some(&Value::Array(Array::I32(vec![11, 11, 10, 0]))), "{name}");
    }
}

#[test]
fn a_dummy_may_have_a_block_of_multi_token_prediction() {
    let folder = TempDir::new().unwrap();
    let shape = || {
        let mut shape = Shape::like("bonsai2-4b").unwrap();
        let model = &mut shape.model;
        (model.layers, model.dim, model.ffn_dim, model.heads, model.vocab) = (4, 512, 1024, 4, 300);
        (model.kv_heads, model.head_dim, model.rope.dims, model.rotation) = (2, 128, 64, None);
        let delta = model.delta.as_mut().unwrap();
        (delta.layers, delta.key_heads, delta.value_heads) = (vec![true, true, true, false], 2, 4);
        shape
    };
    let options = DummyOptions { ty: TernaryType::Q2_0, head: HeadType::AsMatrices, ..Default::default() };
    let (with, without) = (folder.path().join("1.gguf"), folder.path().join("2.gguf"));
    make(&shape().with_mtp().unwrap(), &with, &options).unwrap();
    make(&shape(), &without, &options).unwrap();
    let (with, without) = (File::open(&with).unwrap(), File::open(&without).unwrap());
    assert_eq!(with.metadata().get("qwen35.block_count"), Some(&Value::U32(5)));
    assert_eq!(with.metadata().get("qwen35.nextn_predict_layers"), Some(&Value::U32(1)));
    // The layers are what they are without.
    for info in without.tensors() {
        assert!(with.data(with.tensor(&info.name).unwrap())[..] == without.data(info)[..], "{}", info.name);
    }
    let [with, without] = [&with, &without].map(|file| Model::from_gguf(file).unwrap());
    let mtp = with.weights.mtp.unwrap();
    assert!(without.weights.mtp.is_none());
    // 34 bytes for 32 weights.
    assert_eq!(mtp.join.data.len(), 512 * 1024 * 34 / 32);
    assert!(Shape::like("2b-4t").unwrap().with_mtp().is_err());
}
