//! Checkpoints that do not fit their configuration, and outputs that must not be written.

use std::{fs, path::Path};

use bitnet_gpu::{
    ErrorKind, Remedy,
    convert::{ConvertOptions, convert},
};
use safetensors::Dtype;
use serde_json::json;

use super::support::{Case, DIM, FFN, Model, Source, VOCAB};

const UP: &str = "model.layers.1.mlp.up_proj.weight";

/// Opening a pipe without a writer would wait for ever.
#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    for name in ["config.json", "model.safetensors"] {
        let case = Case::of(&Model::bitnet());
        let path = case.input().join(name);
        fs::remove_file(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let message = case.failure();
        assert!(
            message.ends_with(&format!("{name}: file: expected a regular file, found a device or a pipe")),
            "{message}"
        );
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Change = fn(&mut Model);
    let cases: [(Change, &str); 13] = [
        (|m| drop(m.tensors.remove(UP)), "tensor model.layers.1.mlp.up_proj.weight is missing"),
        (|m| drop(m.tensors.remove("model.norm.weight")), "tensor model.norm.weight is missing"),
        (|m| m.config["tie_word_embeddings"] = json!(false), "tensor lm_head.weight is missing"),
        (
            |m| m.matrix(UP, DIM, FFN),
            "tensor model.layers.1.mlp.up_proj.weight: expected its shape to be [64, 32] by config.json, found [32, 64]",
        ),
        (|m| m.norm("model.norm.weight", DIM + 1), "tensor model.norm.weight: expected its shape to be [32]"),
        (|m| m.norm(UP, 5), "expected its shape to be [64, 32] by config.json, found [5]"),
        (
            |m| m.matrix("model.layers.0.self_attn.q_proj.bias", 1, DIM),
            "tensor model.layers.0.self_attn.q_proj.bias [1, 32] is not supported",
        ),
        (
            |m| m.config["num_hidden_layers"] = json!(1),
            "tensor model.layers.1.input_layernorm.weight [32] is not supported: the architecture in config.json has no \
             place for it (and 10 more)",
        ),
        (
            |m| {
                let bytes = vec![0; FFN * DIM];
                m.tensors.insert(UP.into(), Source { dtype: Dtype::I8, shape: vec![FFN, DIM], bytes });
            },
            "dtype of tensor model.layers.1.mlp.up_proj.weight: expected BF16, F16 or F32, found I8",
        ),
        (
            |m| drop(m.tensors.insert(UP.into(), Source::u8(&[FFN / 4, DIM], vec![0; FFN / 4 * DIM]))),
            "tensor model.layers.1.mlp.up_proj.weight_scale is missing",
        ),
        (
            |m| drop(m.tensors.insert(UP.into(), Source::u8(&[FFN, DIM], vec![0; FFN * DIM]))),
            "expected packed shape to be [16, 32] by config.json, found [64, 32]",
        ),
        (
            |m| {
                let mut table = vec![0.0; VOCAB * DIM];
                table[33] = 1e6;
                m.tensors.insert("model.embed_tokens.weight".into(), Source::f32(&[VOCAB, DIM], table));
            },
            "tensor model.embed_tokens.weight: expected numbers that fit f16 (±65504), found 1000000 at element 33",
        ),
        (
            |m| {
                let norm = Source::f32(&[DIM], (0..DIM).map(|i| if i == 7 { f32::INFINITY } else { 1.0 }));
                m.tensors.insert("model.norm.weight".into(), norm);
            },
            "tensor model.norm.weight: expected finite numbers, found inf at element 7",
        ),
    ];
    for (change, expected) in cases {
        let mut model = Model::bitnet();
        change(&mut model);
        let message = Case::of(&model).failure();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn packed_weights_need_a_usable_scale() {
    let mut model = Model::bitnet();
    model.tensors.insert(UP.into(), Source::u8(&[FFN / 4, DIM], vec![0x55; FFN / 4 * DIM]));
    let name = "model.layers.1.mlp.up_proj.weight_scale";
    for (scale, expected) in [
        (Source::f32(&[1], [0.0]), "expected a finite number above zero, found 0"),
        (Source::f32(&[1], [f32::NAN]), "expected a finite number above zero, found NaN"),
        (Source::f32(&[2], [1.0, 1.0]), "expected one element, found [2]"),
        (Source::u8(&[1], vec![1]), "expected BF16, F16 or F32, found U8"),
    ] {
        model.tensors.insert(name.into(), scale);
        let message = Case::of(&model).failure();
        assert!(message.contains(expected) && message.contains("weight_scale"), "{message}");
    }
    model.tensors.insert(name.into(), Source::f32(&[], [2.0]));
    model.config["quantization_config"] = json!(null);
    let message = Case::of(&model).failure();
    assert!(message.contains("quantization_config in config.json is missing"), "{message}");
}

#[test]
fn old_buffers_are_skipped() {
    let mut model = Model::llama();
    let expected = Case::of(&model).bytes();
    model.norm("model.layers.0.self_attn.rotary_emb.inv_freq", 4);
    assert!(Case::of(&model).bytes() == expected);
}

#[test]
fn blocks_of_i2s_have_to_come_out_even() {
    // 4 heads of 4 and 36 columns: 16 * 36 = 576 is four and a half blocks.
    let mut model = Model::llama();
    model.config["hidden_size"] = json!(36);
    model.config["head_dim"] = json!(4);
    model.matrix("model.embed_tokens.weight", VOCAB, 36);
    model.norm("model.norm.weight", 36);
    for layer in 0..2 {
        let block = format!("model.layers.{layer}");
        model.norm(&format!("{block}.input_layernorm.weight"), 36);
        model.norm(&format!("{block}.post_attention_layernorm.weight"), 36);
        for (name, rows, cols) in [
            ("self_attn.q_proj", 16, 36),
            ("self_attn.k_proj", 8, 36),
            ("self_attn.v_proj", 8, 36),
            ("self_attn.o_proj", 36, 16),
            ("mlp.gate_proj", FFN, 36),
            ("mlp.up_proj", FFN, 36),
            ("mlp.down_proj", 36, FFN),
        ] {
            model.matrix(&format!("{block}.{name}.weight"), rows, cols);
        }
    }
    let message = Case::of(&model).failure();
    let expected =
        "tensor model.layers.0.self_attn.q_proj.weight: expected weights to be a multiple of 128 for I2_S, found 576";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn an_output_is_overwritten_only_by_force() {
    let case = Case::of(&Model::bitnet());
    fs::write(case.output(), "mine").unwrap();
    let error = case.convert().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("out.gguf exists"), "{error}");
    assert_eq!(error.remedy(), Some(&Remedy::Overwrite));
    assert_eq!(fs::read(case.output()).unwrap(), b"mine");
    convert(&case.input(), &case.output(), &ConvertOptions { force: true, ..Default::default() }).unwrap();
    assert_eq!(&fs::read(case.output()).unwrap()[..4], b"GGUF");
    assert_eq!(case.names(), ["in", "out.gguf"]);
}

#[test]
fn a_failed_overwrite_keeps_the_old_file() {
    let mut model = Model::bitnet();
    model.tensors.insert(UP.into(), Source::f32(&[FFN, DIM], vec![f32::NAN; FFN * DIM]));
    let case = Case::of(&model);
    fs::write(case.output(), "mine").unwrap();
    convert(&case.input(), &case.output(), &ConvertOptions { force: true, ..Default::default() }).unwrap_err();
    assert_eq!(fs::read(case.output()).unwrap(), b"mine");
    assert_eq!(case.names(), ["in", "out.gguf"]);
}

#[test]
fn input_files_and_folders_are_no_output() {
    let case = Case::of(&Model::bitnet());
    let before = fs::read(case.input().join("model.safetensors")).unwrap();
    let refuse = |out: &Path| {
        convert(&case.input(), out, &ConvertOptions { force: true, ..Default::default() }).unwrap_err().to_string()
    };
    for name in ["model.safetensors", "config.json", "../in/config.json"] {
        let message = refuse(&case.input().join(name));
        assert!(message.contains("is part of the input"), "{message}");
    }
    assert!(fs::read(case.input().join("model.safetensors")).unwrap() == before);
    assert!(refuse(&case.input()).contains("is not a regular file"));
    assert!(refuse(&case.folder.path().join("none/out.gguf")).contains("cannot write"));
    assert_eq!(case.names(), ["in"]);
}

#[cfg(unix)]
#[test]
fn the_file_has_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::of(&Model::bitnet());
    case.convert().unwrap();
    let plain = case.folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&case.output()), mode(&plain));
}

#[test]
fn directories_that_are_no_checkpoint_say_what_is_missing() {
    let case = Case::new();
    assert!(convert(&case.input(), &case.output(), &ConvertOptions::default()).is_err());
    Model::bitnet().write_config(&case.input());
    assert!(case.failure().contains("model.safetensors or model.safetensors.index.json"));
    fs::write(case.input().join("pytorch_model.bin"), "").unwrap();
    assert!(case.failure().contains("pytorch_model.bin is a pickle"));
    fs::remove_file(case.input().join("config.json")).unwrap();
    assert!(case.failure().contains("config.json is missing"));
    let file = case.input().join("pytorch_model.bin");
    let error = convert(&file, &case.output(), &ConvertOptions::default()).unwrap_err();
    assert!(error.to_string().contains("expected a GGUF file"), "{error}");
}

#[test]
fn a_pointer_of_git_lfs_is_named_as_one() {
    for name in ["tokenizer.json", "tokenizer.model"] {
        let case = Case::of(&Model::bitnet());
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9085657\n";
        fs::write(case.input().join(name), pointer).unwrap();
        let message = case.failure();
        assert!(message.contains(name) && message.contains("a Git LFS pointer"), "{message}");
    }
}
