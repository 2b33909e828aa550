//! Hugging Face directories of Qwen3.5's text part. They are made of golden GGUF files here: the layout is turned back by
//! loops that share nothing with the converter, which then has to make the same weights of them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bitnet_cpu_kernels::{
    format::{DenseType, dense::decode_row},
    isa::Isa,
};
use bitnet_gpu::{
    backend::{Backend, cpu::CpuBackend},
    convert::in_memory,
    gguf::{File, TensorType},
    model::{DenseMatrix, Model as Loaded},
    plan::{BackendKind, Plan, Sizes},
    session::Session,
};
use half::f16;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{
    mlx,
    support::{Case, Model, Source},
};
use crate::common::{gpu::relative_l2, shared};

/// Rows and columns of any type that these files have, as numbers.
fn values(file: &File, name: &str) -> Vec<f32> {
    let info = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let ty = match info.ty {
        TensorType::F32 => DenseType::F32,
        TensorType::F16 => DenseType::F16,
        TensorType::BF16 => DenseType::BF16,
        TensorType::Q2_0 => DenseType::Q2_0,
        TensorType::Q2_0_G128 | TensorType::PQ2_0 => DenseType::Q2_0G128,
        TensorType::TQ2_0 => DenseType::TQ2_0,
        other => panic!("{name}: {}", other.name()),
    };
    let cols = info.dims[0] as usize;
    let rows = info.dims[1..].iter().product::<u64>() as usize;
    let matrix = DenseMatrix { rows, cols, data: file.data(info), ty };
    let mut out = vec![0.0; rows * cols];
    for (row, out) in out.chunks_mut(cols).enumerate() {
        decode_row(ty, matrix.view().row(row), out);
    }
    out
}

/// Value heads as the file has them -> those of a key head side by side.
fn grouped(tiled: &[f32], key_heads: usize, value_heads: usize) -> Vec<f32> {
    let width = tiled.len() / value_heads;
    let mut out = Vec::new();
    for key_head in 0..key_heads {
        for turn in 0..value_heads / key_heads {
            let at = (turn * key_heads + key_head) * width;
            out.extend_from_slice(&tiled[at..at + width]);
        }
    }
    out
}

/// The tensors of a directory while they are made.
struct Making<'a> {
    file: &'a File,
    tensors: BTreeMap<String, Source>,
}

impl Making<'_> {
    fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        self.tensors.insert(format!("model.{name}"), Source::f32(shape, values));
    }

    /// As it is in the file.
    fn same(&mut self, name: &str, from: &str, shape: &[usize]) {
        self.put(name, shape, values(self.file, from));
    }

    /// A norm, whose weights are one less here.
    fn norm(&mut self, name: &str, from: &str, len: usize) {
        let less = values(self.file, from).into_iter().map(|value| value - 1.0).collect();
        self.put(name, &[len], less);
    }

    fn attention(&mut self, layer: usize, model: &Loaded) {
        let config = &model.config;
        let (dim, q, kv) = (config.dim, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        for (name, from, shape) in [
            ("q_proj", "attn_q", [2 * q, dim]),
            ("k_proj", "attn_k", [kv, dim]),
            ("v_proj", "attn_v", [kv, dim]),
            ("o_proj", "attn_output", [dim, q]),
        ] {
            let name = format!("layers.{layer}.self_attn.{name}.weight");
            self.same(&name, &format!("blk.{layer}.{from}.weight"), &shape);
        }
        for (name, from) in [("q_norm", "attn_q_norm"), ("k_norm", "attn_k_norm")] {
            let name = format!("layers.{layer}.self_attn.{name}.weight");
            self.norm(&name, &format!("blk.{layer}.{from}.weight"), config.head_dim);
        }
    }

    fn delta(&mut self, layer: usize, model: &Loaded) {
        let (dim, delta) = (model.config.dim, model.config.delta.as_ref().unwrap());
        let (width, keys) = (delta.value_heads * delta.head_dim, delta.key_heads * delta.head_dim);
        let group = |values: &[f32]| grouped(values, delta.key_heads, delta.value_heads);
        // The heads of q and k stay where they are, those of v move.
        let channels = |values: Vec<f32>, each: usize| {
            let (of_qk, of_v) = values.split_at(2 * keys * each);
            [of_qk, &group(of_v)].concat()
        };
        let hf = |name: &str| format!("layers.{layer}.linear_attn.{name}");
        let read = |name: &str| values(self.file, &format!("blk.{layer}.{name}"));
        let made = [
            ("in_proj_qkv.weight", vec![2 * keys + width, dim], channels(read("attn_qkv.weight"), dim)),
            ("in_proj_z.weight", vec![width, dim], group(&read("attn_gate.weight"))),
            ("in_proj_a.weight", vec![delta.value_heads, dim], group(&read("ssm_alpha.weight"))),
            ("in_proj_b.weight", vec![delta.value_heads, dim], group(&read("ssm_beta.weight"))),
            (
                "conv1d.weight",
                vec![2 * keys + width, 1, delta.kernel],
                channels(read("ssm_conv1d.weight"), delta.kernel),
            ),
            ("dt_bias", vec![delta.value_heads], group(&read("ssm_dt.bias"))),
            ("A_log", vec![delta.value_heads], group(&read("ssm_a")).into_iter().map(|a| (-a).ln()).collect()),
            ("norm.weight", vec![delta.head_dim], read("ssm_norm.weight")),
            // Columns: row by row.
            ("out_proj.weight", vec![dim, width], read("ssm_out.weight").chunks(width).flat_map(group).collect()),
        ];
        for (name, shape, values) in made {
            self.put(&hf(name), &shape, values);
        }
    }
}

/// The directory that a golden file might have been made from.
fn directory(file: &File, model: &Loaded) -> Model {
    let config = &model.config;
    let mut making = Making { file, tensors: BTreeMap::new() };
    making.same("embed_tokens.weight", "token_embd.weight", &[config.vocab, config.dim]);
    making.norm("norm.weight", "output_norm.weight", config.dim);
    for (layer, &is_delta) in config.delta.as_ref().unwrap().layers.iter().enumerate() {
        for (name, from) in [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm")] {
            making.norm(&format!("layers.{layer}.{name}.weight"), &format!("blk.{layer}.{from}.weight"), config.dim);
        }
        for (name, from, shape) in [
            ("gate_proj", "ffn_gate", [config.ffn_dim, config.dim]),
            ("up_proj", "ffn_up", [config.ffn_dim, config.dim]),
            ("down_proj", "ffn_down", [config.dim, config.ffn_dim]),
        ] {
            making.same(&format!("layers.{layer}.mlp.{name}.weight"), &format!("blk.{layer}.{from}.weight"), &shape);
        }
        if is_delta { making.delta(layer, model) } else { making.attention(layer, model) }
    }
    let mut tensors = making.tensors;
    let head = Source::f32(&[config.vocab, config.dim], values(file, "output.weight"));
    tensors.insert("lm_head.weight".into(), head);
    Model { config: config_json(model), tensors }
}

fn config_json(model: &Loaded) -> Value {
    let config = &model.config;
    let delta = config.delta.as_ref().unwrap();
    let kind = |is_delta: &bool| if *is_delta { "linear_attention" } else { "full_attention" };
    json!({
        "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "vocab_size": config.vocab,
        "hidden_size": config.dim, "intermediate_size": config.ffn_dim, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "max_position_embeddings": config.context, "rms_norm_eps": config.rms_eps, "hidden_act": "silu",
        "layer_types": delta.layers.iter().map(kind).collect::<Vec<_>>(), "tie_word_embeddings": false,
        "linear_conv_kernel_dim": delta.kernel, "linear_key_head_dim": delta.head_dim,
        "linear_value_head_dim": delta.head_dim, "linear_num_key_heads": delta.key_heads,
        "linear_num_value_heads": delta.value_heads, "attn_output_gate": true,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": config.rope.base, "mrope_section": [3, 3, 2],
            "partial_rotary_factor": config.rope.dims as f32 / config.head_dim as f32,
        },
    })
}

/// A model with a vision part added.
fn seeing(text: &Model) -> Model {
    let deeper =
        |(name, source): (&String, &Source)| (name.replacen("model.", "model.language_model.", 1), source.clone());
    let mut tensors: BTreeMap<_, _> = text.tensors.iter().map(deeper).collect();
    for name in ["model.visual.patch_embed.proj.weight", "model.visual.merger.norm.bias", "mtp.fc.weight"] {
        tensors.insert(name.into(), Source::f32(&[2], [0.5, 0.25]));
    }
    let mut text_config = text.config.clone();
    for key in ["architectures", "tie_word_embeddings"] {
        text_config.as_object_mut().unwrap().remove(key);
    }
    let config = json!({
        "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "text_config": text_config,
        "vision_config": {"depth": 2}, "tie_word_embeddings": false,
    });
    Model { config, tensors }
}

/// What mlx-lm makes of the directory of a model that sees: norms have 1 added, convolutions their channel last, matrices are
/// quantized, and the settings of that stand outside. Gives the numbers of the gates as well, which are not ternary.
fn of_mlx(text: &Model, group: usize) -> (Model, BTreeMap<String, Vec<f32>>) {
    let mut mlx = seeing(text);
    let mut gates = BTreeMap::new();
    mlx.config["quantization"] = json!({"group_size": group, "bits": 2});
    mlx.tensors.retain(|name, _| !name.starts_with("mtp."));
    mlx.rename("model.visual.", "vision_tower.");
    mlx.rename("model.language_model.", "language_model.model.");
    mlx.rename("lm_head.", "language_model.lm_head.");
    for name in mlx.tensors.keys().cloned().collect::<Vec<_>>() {
        let tensor = mlx.tensors.get_mut(&name).unwrap();
        if name.ends_with("conv1d.weight") {
            tensor.shape.swap(1, 2);
        } else if name.ends_with("norm.weight") && !name.ends_with("linear_attn.norm.weight") {
            let sums: Vec<f32> =
                tensor.bytes.chunks(4).map(|raw| f32::from_le_bytes(raw.try_into().unwrap()) + 1.0).collect();
            *tensor = Source::f32(&tensor.shape.clone(), sums);
        } else if name.ends_with("in_proj_a.weight") || name.ends_with("in_proj_b.weight") {
            let values = mlx::quantize(&mut mlx, &name, group, 8);
            gates.insert(name, values);
        } else if name.ends_with(".weight") && tensor.shape.len() == 2 {
            // Its columns come in heads, of which two in a row have scales of their own here.
            let group = if name.ends_with("out_proj.weight") { 64 } else { group };
            mlx::quantize(&mut mlx, &name, group, 2);
        }
    }
    (mlx, gates)
}

#[test]
fn a_directory_of_mlx_is_the_same_model() {
    for (name, group) in [("a-q2_0-g128", 128), ("b-q2_0-g64-mtp", 64)] {
        let Some((original, expected)) = golden(name) else { return };
        let (mut text, mut norms) = (directory(&original, &expected), 0);
        let (mlx, gates) = of_mlx(&text, group);
        // The same numbers where MLX has rounded.
        for (name, values) in &gates {
            let name = name.replacen("language_model.", "", 1);
            let shape = text.tensors[&name].shape.clone();
            text.tensors.insert(name, Source::f32(&shape, values.iter().copied()));
        }
        let (case, plain) = (Case::of(&mlx), Case::of(&text).file());
        let words = case.convert().unwrap().warnings.join("\n");
        assert!(words.contains("its vision part is left out: the model reads text only (2 tensors)"), "{words}");
        let file = File::open(&case.output()).unwrap();
        assert_eq!(file.tensors().len(), plain.tensors().len());
        for info in plain.tensors() {
            let found = file.tensor(&info.name).unwrap_or_else(|| panic!("no {}", info.name));
            let bound = if info.name.ends_with("norm.weight") { 1e-6 } else { 0.0 };
            norms += usize::from(bound > 0.0);
            assert_eq!(found.dims, info.dims, "{}", info.name);
            for (a, b) in values(&file, &info.name).iter().zip(values(&plain, &info.name)) {
                assert!((a - b).abs() <= bound * b.abs().max(1.0), "{}: {a} and {b}", info.name);
            }
        }
        assert!(norms > 8 && !gates.is_empty());
        Loaded::from_gguf(&in_memory(&case.input(), None).unwrap()).unwrap();
    }
}

fn golden(name: &str) -> Option<(File, Arc<Loaded>)> {
    let path: PathBuf = shared(&format!("golden/qwen35/qwen35-{name}.gguf"))?;
    Some((File::open(&path).unwrap(), Arc::new(Loaded::open(&path).unwrap())))
}

fn logits(model: &Arc<Loaded>, ids: &[u32]) -> Vec<f32> {
    let plan = Plan::all_cpu(model.config.layers, Sizes::new(64, 64), "test");
    let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(Isa::detect(), 2));
    let mut session = Session::load(model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| {}).unwrap();
    session.prefill(ids).unwrap().to_vec()
}

/// The text part of `file` has the weights of `original`, whose blocks from `layers` on are no part of it.
fn assert_same_weights(file: &File, original: &File, layers: usize) {
    let beyond = format!("blk.{layers}.");
    let infos: Vec<_> = original.tensors().iter().filter(|info| !info.name.starts_with(&beyond)).collect();
    assert_eq!(file.tensors().len(), infos.len());
    for info in infos {
        let found = file.tensor(&info.name).unwrap_or_else(|| panic!("no {}", info.name));
        assert_eq!(found.dims, info.dims, "{}", info.name);
        // One less and one more, or through a logarithm and back.
        let bound = if info.name.ends_with("norm.weight") || info.name.ends_with("ssm_a") { 1e-6 } else { 0.0 };
        for (a, b) in values(file, &info.name).iter().zip(values(original, &info.name)) {
            assert!((a - b).abs() <= bound * b.abs().max(1.0), "{}: {a} and {b}", info.name);
        }
    }
}

/// Groups of 128, of 64 (with a block to skip), and of 256, which are groups of 128 as well.
#[test]
fn a_directory_becomes_the_file_it_was_made_of() {
    for (name, ty) in
        [("a-q2_0-g128", TensorType::PQ2_0), ("b-q2_0-g64-mtp", TensorType::Q2_0), ("c-tq2_0-g256", TensorType::PQ2_0)]
    {
        let Some((original, expected)) = golden(name) else { return };
        let text = directory(&original, &expected);
        for (model, sees) in [(seeing(&text), true), (text, false)] {
            let case = Case::of(&model);
            let words = case.convert().unwrap().warnings.join("\n");
            for word in
                ["its vision part is left out: the model reads text only (2 tensors)", "(mtp) are left out (1 tensor)"]
            {
                assert_eq!(words.contains(word), sees, "{word}: {words}");
            }
            let file = File::open(&case.output()).unwrap();
            assert_eq!(file.tensor("blk.0.attn_qkv.weight").unwrap().ty, ty);
            assert_same_weights(&file, &original, expected.config.layers);
            let found = Loaded::open(&case.output()).unwrap().config;
            let mut wanted = expected.config.clone();
            (wanted.name, wanted.mtp_blocks) = (String::new(), 0);
            assert_eq!(found, wanted, "{name}");
            // Run as it is.
            let ids: Vec<u32> = (3..40).collect();
            let memory = Arc::new(Loaded::from_gguf(&in_memory(&case.input(), None).unwrap()).unwrap());
            let off = relative_l2(&logits(&memory, &ids), &logits(&expected, &ids));
            // Where groups are cut in two, so are those of the int8 activations.
            let bound = if name.starts_with("c-") { 0.03 } else { 1e-3 };
            assert!(off < bound, "{name}: {off}");
        }
    }
}

#[test]
fn what_is_no_such_model_is_refused_by_name() {
    let Some((original, expected)) = golden("a-q2_0-g128") else { return };
    let model = directory(&original, &expected);
    let failure = |change: &dyn Fn(&mut Model)| {
        let mut model = model.clone();
        change(&mut model);
        Case::of(&model).failure()
    };
    let config = |key: &'static str, value: Value| failure(&move |m: &mut Model| m.config[key] = value.clone());
    for (found, expected) in [
        (
            config("linear_value_head_dim", json!(32)),
            "linear_value_head_dim: expected 64, as linear_key_head_dim, found 32",
        ),
        (config("linear_num_value_heads", json!(13)), "expected a multiple of linear_num_key_heads (4), found 13"),
        (config("linear_num_key_heads", json!(0)), "linear_num_key_heads: expected 1 to"),
        (config("linear_conv_kernel_dim", Value::Null), "linear_conv_kernel_dim is missing"),
        (config("layer_types", json!(["full_attention"])), "layer_types: expected 4 layers, found 1"),
        (config("layer_types", json!(["mamba", "", "", ""])), "layer_types is not supported"),
        (config("attn_output_gate", json!(false)), "attn_output_gate = false is not supported"),
        (
            config("rope_parameters", json!({"partial_rotary_factor": 2})),
            "partial_rotary_factor: expected an even part",
        ),
        (config("rope_parameters", json!({"mrope_section": [1, -1, 2]})), "mrope_section: expected three counts"),
        (config("architectures", json!(["Qwen3_5MoeForCausalLM"])), "Qwen3_5MoeForCausalLM is not supported"),
        (
            failure(&|m| m.tensors.retain(|name, _| !name.ends_with("1.linear_attn.A_log"))),
            "tensor model.layers.1.linear_attn.A_log is missing",
        ),
        (
            failure(&|m| drop(m.tensors.insert("model.layers.0.linear_attn.bias".into(), Source::f32(&[1], [0.5])))),
            "tensor model.layers.0.linear_attn.bias",
        ),
        (
            failure(&|m| {
                let taps = m.tensors.get_mut("model.layers.0.linear_attn.conv1d.weight").unwrap();
                taps.shape.remove(1);
            }),
            "expected its shape to be [1280, 1, 4]",
        ),
        (
            failure(&|m| {
                let up = m.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
                // One weight of a row that nobody looks at first.
                up.bytes[4 * (5 * 256 + 3)..][..4].copy_from_slice(&0.625_f32.to_le_bytes());
            }),
            "row 5 of tensor model.layers.1.mlp.up_proj.weight: expected -d, 0 and +d in each 128 columns",
        ),
    ] {
        assert!(found.contains(expected), "{found}");
    }
}

/// Scales are f16 numbers, so f16 masters say the same.
#[test]
fn shorter_floats_give_the_same_matrices() {
    let Some((original, expected)) = golden("a-q2_0-g128") else { return };
    let mut model = directory(&original, &expected);
    let long = Case::of(&model).bytes();
    for (name, source) in model.tensors.iter_mut().filter(|(name, _)| name.ends_with("_proj.weight")) {
        let short = source.cast(Dtype::F16);
        let longer = short.bytes.chunks(2).flat_map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32().to_le_bytes());
        assert!(longer.eq(source.bytes.iter().copied()), "{name}");
        *source = short;
    }
    assert!(Case::of(&model).bytes() == long);
}
