//! Embeddings against values computed by tests/data/embedding/reference.py, which shares no code with the program; and
//! the command around them.

use std::{fs, path::Path, sync::Arc};

use bitnet_cpu_kernels::{
    format::{Codec, Dialect, I2sPacking, Layout, MatrixScales, pack},
    isa::Isa,
};
use bitnet_gpu::{
    Error,
    backend::{
        Backend,
        cpu::CpuBackend,
        gpu::{GpuBackend, OpenOptions},
    },
    generate::{Pooling, embedding, embeddings},
    gguf::{File, Metadata, TensorSpec, TensorType, Value, Writer},
    model::{Activation, Family, Model},
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::{Runtime, Session},
};
use half::f16;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::common::{
    cli::{run, run_with_input},
    tiny_vocab::{BOS, BYTE_LEVEL_TOKENS, EOT, byte_level, byte_level_json, gpt2_json},
};

const EXPECTED: &str = include_str!("../data/embedding/expected.json");

/// As in reference.py.
struct Shape {
    arch: &'static str,
    dim: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    theta: f32,
}

const SHAPES: [Shape; 2] = [
    Shape { arch: "qwen3", dim: 128, ffn: 256, heads: 4, kv_heads: 2, head_dim: 64, theta: 1e6 },
    Shape { arch: "gemma3", dim: 128, ffn: 384, heads: 2, kv_heads: 1, head_dim: 128, theta: 1e4 },
];
const LAYERS: usize = 2;
const SCALE: f32 = 1.0 / 8.0;

/// A linear congruential generator, started by the FNV-1a hash of the name.
fn numbers(name: &str) -> impl Iterator<Item = u64> {
    let start = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let step =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(start), step).skip(1).map(|state| state >> 33)
}

/// F16, as the norms of these models are.
fn norm(name: &str, size: usize) -> (TensorSpec, Vec<u8>) {
    let values = numbers(name).take(size).map(|n| f16::from_f32(0.75 + (n % 256) as f32 / 512.0));
    let data = values.flat_map(f16::to_le_bytes).collect();
    (TensorSpec { name: name.into(), dims: vec![size as u64], ty: TensorType::F16 }, data)
}

fn matrix(name: &str, rows: usize, cols: usize) -> (TensorSpec, Vec<u8>) {
    let codes: Vec<u8> = numbers(name).take(rows * cols).map(|n| (n % 3) as u8).collect();
    let codec = Codec::new(Dialect::I2S(I2sPacking::P128), rows, cols).unwrap();
    let packed = pack(Layout::I2sP128, rows, cols, &codes);
    let data = codec.encode(&packed, &MatrixScales::PerTensor(SCALE)).unwrap();
    (TensorSpec { name: name.into(), dims: vec![cols as u64, rows as u64], ty: TensorType::I2_S }, data)
}

/// The metadata and tensors that Microsoft's converter would write for such a model.
fn write(shape: &Shape, path: &Path, change: impl FnOnce(&mut Metadata)) {
    let &Shape { arch, dim, ffn, heads, kv_heads, head_dim, theta } = shape;
    let mut metadata = byte_level("qwen2");
    metadata.set("general.architecture", Value::String(arch.into()));
    for (key, value) in [
        ("block_count", LAYERS),
        ("context_length", 64),
        ("embedding_length", dim),
        ("feed_forward_length", ffn),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", head_dim),
        ("attention.value_length", head_dim),
        ("pooling_type", 3),
    ] {
        metadata.set(format!("{arch}.{key}"), Value::U32(value as u32));
    }
    metadata.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-6));
    metadata.set(format!("{arch}.rope.freq_base"), Value::F32(theta));
    // As Qwen's embedding models: no BOS, and a token that ends each text.
    metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(EOT));
    change(&mut metadata);

    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let vocab = BYTE_LEVEL_TOKENS as usize;
    let table = numbers("token_embd.weight").take(vocab * dim).map(|n| f16::from_f32((n % 256) as f32 / 256.0 - 0.5));
    let table_spec =
        TensorSpec { name: "token_embd.weight".into(), dims: vec![dim as u64, vocab as u64], ty: TensorType::F16 };
    let mut tensors = vec![(table_spec, table.flat_map(f16::to_le_bytes).collect())];
    for layer in 0..LAYERS {
        let name = |name: &str| format!("blk.{layer}.{name}.weight");
        for (of, rows, cols) in [
            ("attn_q", width, dim),
            ("attn_k", kv_width, dim),
            ("attn_v", kv_width, dim),
            ("attn_output", dim, width),
            ("ffn_gate", ffn, dim),
            ("ffn_up", ffn, dim),
            ("ffn_down", dim, ffn),
        ] {
            tensors.push(matrix(&name(of), rows, cols));
            tensors.push(norm(&name(&format!("{of}_norm_in")), cols));
        }
        tensors.push(norm(&name("attn_norm"), dim));
        tensors.push(norm(&name("ffn_norm"), dim));
        tensors.push(norm(&name("attn_q_norm"), head_dim));
        tensors.push(norm(&name("attn_k_norm"), head_dim));
        if arch == "gemma3" {
            tensors.push(norm(&name("post_attention_norm"), dim));
            tensors.push(norm(&name("post_ffw_norm"), dim));
        }
    }
    tensors.push(norm("output_norm.weight", dim));
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = Writer::create(&metadata, specs, fs::File::create(path).unwrap()).unwrap();
    for (spec, data) in &tensors {
        writer.write_tensor(&spec.name, data).unwrap();
    }
    writer.finish().unwrap();
}

/// The name in a Hugging Face repository of a tensor of the GGUF file.
fn hf_name(name: &str, is_gemma: bool) -> String {
    let name = name.strip_suffix(".weight").unwrap();
    let Some(of_block) = name.strip_prefix("blk.") else {
        return if name == "token_embd" { "embed_tokens.weight".into() } else { "norm.weight".into() };
    };
    let (layer, role) = of_block.split_once('.').unwrap();
    let projection = |role: &str| match role {
        "attn_output" => "self_attn.o_proj".to_owned(),
        _ => match role.split_once('_').unwrap() {
            ("attn", letter) => format!("self_attn.{letter}_proj"),
            (_, kind) => format!("mlp.{kind}_proj"),
        },
    };
    let role = match role {
        "attn_norm" => "input_layernorm".to_owned(),
        "ffn_norm" if is_gemma => "pre_feedforward_layernorm".to_owned(),
        "ffn_norm" | "post_attention_norm" => "post_attention_layernorm".to_owned(),
        "post_ffw_norm" => "post_feedforward_layernorm".to_owned(),
        "attn_q_norm" => "self_attn.q_norm".to_owned(),
        "attn_k_norm" => "self_attn.k_norm".to_owned(),
        _ => match role.strip_suffix("_norm_in") {
            Some(role) => format!("{}.norm", projection(role)),
            None => projection(role),
        },
    };
    format!("layers.{layer}.{role}.weight")
}

/// Writes the model in `gguf` as a repository: real-valued weights, the class and the files that such ones have.
fn write_repository(shape: &Shape, gguf: &Path, dir: &Path) {
    let &Shape { arch, dim, ffn, heads, kv_heads, head_dim, theta } = shape;
    let is_gemma = arch == "gemma3";
    fs::create_dir_all(dir.join("1_Pooling")).unwrap();
    let put = |name: &str, json: Json| fs::write(dir.join(name), json.to_string()).unwrap();
    let mut config = json!({
        "architectures": ["BitNetEmbeddingModel"], "model_type": if is_gemma { "gemma3_text" } else { "qwen3" },
        "vocab_size": BYTE_LEVEL_TOKENS, "hidden_size": dim, "intermediate_size": ffn, "num_hidden_layers": LAYERS,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "rope_theta": theta,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "hidden_act": "silu",
    });
    if is_gemma {
        config["hidden_activation"] = json!("gelu_pytorch_tanh");
        config["query_pre_attn_scalar"] = json!(head_dim);
        config["layer_types"] = json!(["sliding_attention", "full_attention"]);
        config["sliding_window"] = json!(512);
    }
    put("config.json", config);
    // Qwen's names the end of an answer, and the converter knows the end of a text.
    let end = if is_gemma { "<|eot_id|>" } else { "<|endoftext|>" };
    let tokenizer = byte_level_json(gpt2_json()).to_string().replace("<|eot_id|>", end);
    fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
    let (named, added) = if is_gemma { (end, true) } else { ("<|begin_of_text|>", false) };
    put("tokenizer_config.json", json!({"eos_token": named, "add_eos_token": added, "add_bos_token": false}));
    put("modules.json", json!([{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]));
    put("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": false, "pooling_mode_lasttoken": true}));

    let file = File::open(gguf).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .tensors()
        .iter()
        .map(|info| {
            let name = hf_name(&info.name, is_gemma);
            let dims: Vec<usize> = info.dims.iter().rev().map(|&size| size as usize).collect();
            let halves = || file.data(info).chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
            let values: Vec<f32> = match info.ty {
                TensorType::I2_S => {
                    let count = dims.iter().product();
                    numbers(&info.name).take(count).map(|n| ((n % 3) as f32 - 1.0) * SCALE).collect()
                }
                // Gemma's own norms are stored less one.
                _ if is_gemma && dims.len() == 1 && !info.name.contains("_norm_in") => {
                    let stored: Vec<f32> = halves();
                    stored.iter().map(|value| value - 1.0).collect()
                }
                _ => halves(),
            };
            (name, dims, values.into_iter().flat_map(f32::to_le_bytes).collect())
        })
        .collect();
    let views =
        tensors.iter().map(|(name, dims, data)| (name, TensorView::new(Dtype::F32, dims.clone(), data).unwrap()));
    fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_repository_gives_the_vectors_of_the_file_made_of_it() {
    let case = Case::new();
    for shape in &SHAPES {
        let (gguf, dir) = (case.path(shape), case.file(&format!("{}-repository", shape.arch)));
        write_repository(shape, gguf.as_ref(), dir.as_ref());
        let out = case.file(&format!("{}-converted.gguf", shape.arch));
        let converted = run(&["convert", &dir, "-o", &out, "--head", "keep"]);
        assert_eq!(converted.code, Some(0), "{converted:?}");
        assert_eq!(converted.stdout.contains("look back 512 tokens"), shape.arch == "gemma3", "{converted:?}");
        let embed = |model: &str| {
            let json = run(&["embed", "-m", model, "-p", "hello hell", "--backend", "cpu"]).json();
            (json["pooling"].clone(), json["embeddings"].clone())
        };
        let expected = embed(&gguf);
        assert_eq!(expected.1[0]["tokens"], 4, "hello, a space, hell and the token that ends a text");
        assert_eq!(embed(&dir), expected, "{}, from its directory", shape.arch);
        assert_eq!(embed(&out), expected, "{}, converted", shape.arch);
    }

    let dir = case.file("qwen3-repository");
    let pooling = Path::new(&dir).join("1_Pooling/config.json");
    let put = |name: &str, value: Json| fs::write(Path::new(&dir).join(name), value.to_string()).unwrap();
    put("modules.json", json!([{"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Normalize", "path": ""}]));
    put("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true}));
    put("config_sentence_transformers.json", json!({"prompts": {"query": "hello ", "document": ""}}));
    let embed = |args: &[&str]| run(&[&["embed", "-m", &dir, "--backend", "cpu"], args].concat());
    let with_prompt = embed(&["-p", "hell", "--prompt-name", "query"]).json();
    assert_eq!((&with_prompt["pooling"], &with_prompt["embeddings"][0]["tokens"]), (&json!("mean"), &json!(4)));
    assert_eq!(with_prompt["embeddings"], embed(&["-p", "hello hell"]).json()["embeddings"]);
    let unknown = embed(&["-p", "hell", "--prompt-name", "title"]);
    assert!(unknown.one_line_error(2).contains("expected query, document, found title"), "{unknown:?}");
    put("modules.json", json!([{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]));
    let dense = embed(&["-p", "hell"]);
    assert!(dense.one_line_error(1).contains("the module Dense is not supported"), "{dense:?}");
    put("modules.json", json!([{"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Normalize", "path": ""}]));
    fs::write(&pooling, r#"{"pooling_mode_cls_token": true}"#).unwrap();
    let refused = run(&["embed", "-m", &dir, "-p", "hello"]);
    assert!(refused.one_line_error(1).contains("pooling_mode_cls_token"), "{refused:?}");
    // The folder has the name that modules.json gives it.
    fs::rename(Path::new(&dir).join("1_Pooling"), Path::new(&dir).join("2_Average")).unwrap();
    put("2_Average/config.json", json!({"pooling_mode_mean_tokens": true}));
    let refused = embed(&["-p", "hello"]);
    assert!(refused.one_line_error(1).contains("1_Pooling/config.json is missing"), "{refused:?}");
    put("modules.json", json!([{"type": "x.Pooling", "path": "2_Average"}, {"type": "x.Normalize", "path": ""}]));
    assert_eq!(embed(&["-p", "hello"]).json()["pooling"], "mean");
    fs::write(Path::new(&dir).join("modules.json"), r#"[{"type": "Pooling", "path": "../elsewhere"}]"#).unwrap();
    let refused = run(&["embed", "-m", &dir, "-p", "hello"]);
    assert!(refused.one_line_error(1).contains("path of the pooling module"), "{refused:?}");
}

struct Case {
    folder: TempDir,
}

impl Case {
    fn new() -> Self {
        let case = Self { folder: TempDir::new().unwrap() };
        SHAPES.iter().for_each(|shape| write(shape, case.path(shape).as_ref(), |_| ()));
        case
    }

    fn path(&self, shape: &Shape) -> String {
        self.folder.path().join(format!("{}.gguf", shape.arch)).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

fn floats(values: &Json) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn backends() -> Vec<(BackendKind, Box<dyn Backend>)> {
    let mut backends: Vec<(BackendKind, Box<dyn Backend>)> =
        Isa::available().into_iter().map(|isa| (BackendKind::Cpu, Box::new(CpuBackend::new(isa, 2)) as _)).collect();
    match GpuBackend::open(&OpenOptions { software_allowed: true, ..OpenOptions::default() }) {
        Ok(gpu) => backends.push((BackendKind::Gpu, Box::new(gpu))),
        Err(error) => {
            eprintln!("skipped: {error}");
            assert!(std::env::var_os("BITNET_REQUIRE_GPU").is_none(), "{error}");
        }
    }
    backends
}

#[test]
fn texts_side_by_side_get_the_vectors_that_they_get_alone() {
    let case = Case::new();
    let model = Arc::new(Model::open(case.path(&SHAPES[0]).as_ref()).unwrap());
    // Of one token, of batches large and small, and longer than a batch.
    let texts: Vec<Vec<u32>> = [1, 3, 8, 9, 40, 2, 12, 16, 17, 5, 33]
        .into_iter()
        .enumerate()
        .map(|(number, len)| (0..len).map(|at| (number as u32 * 7 + at * 3) % BYTE_LEVEL_TOKENS).collect())
        .collect();
    for (kind, backend) in backends() {
        let name = backend.name().to_owned();
        let segment = Segment { layers: 0..LAYERS, backend: kind, embed: true, head: true, reason: "test".into() };
        let sizes = Sizes { sequences: 3, ..Sizes::new(40, 16) };
        let plan = Plan { segments: vec![segment], prefill: None, sizes }.without_head();
        let mut session = Session::load(&model, &plan, vec![(kind, backend)], &mut |_| ()).unwrap();
        let pooling = Pooling::Mean;
        let alone: Vec<_> = texts.iter().map(|ids| embedding(&mut session, &model, ids, pooling).unwrap()).collect();
        let mut runtime = Runtime::from(session);
        let mut told = Vec::new();
        let together = embeddings(&mut runtime, &model, &texts, pooling, |done| {
            told.push(done);
            true
        });
        assert_eq!(together.unwrap(), alone, "on {name}");
        // 1 + 3 + 8 tokens; 9; 16; 16; 8 + 2; 12; 16; 16; 1 + 5; 16; 16; 1.
        assert_eq!(told, [0, 3, 4, 4, 4, 6, 7, 8, 8, 10, 10, 10], "on {name}");

        let stopped = embeddings(&mut runtime, &model, &texts, pooling, |done| done < 3);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?} on {name}");
        let too_long = [vec![1], vec![1; 41]];
        let refused = embeddings(&mut runtime, &model, &too_long, pooling, |_| unreachable!("nothing runs"));
        assert!(matches!(refused, Err(Error::ContextFull { needed: 41, context: 40 })), "{refused:?} on {name}");
        let unknown = embeddings(&mut runtime, &model, &[vec![1], vec![BYTE_LEVEL_TOKENS]], pooling, |_| true);
        assert!(unknown.is_err(), "on {name}");
        assert_eq!(embeddings(&mut runtime, &model, &[], pooling, |_| true).unwrap(), Vec::<Vec<f32>>::new());
        // However it ended, all sequences are free again.
        assert!((0..3).all(|_| runtime.begin().is_some()), "on {name}");
    }
}

#[test]
fn vectors_equal_those_of_the_reference_on_every_backend() {
    let expected: Json = serde_json::from_str(EXPECTED).unwrap();
    let ids: Vec<u32> = floats(&expected["ids"]).into_iter().map(|id| id as u32).collect();
    let case = Case::new();
    for shape in &SHAPES {
        let model = Arc::new(Model::open(case.path(shape).as_ref()).unwrap());
        let is_gemma = shape.arch == "gemma3";
        let (family, activation) =
            if is_gemma { (Family::Gemma3, Activation::GeluTanh) } else { (Family::Qwen3, Activation::Silu) };
        assert_eq!((model.config.family, model.config.activation), (family, activation));
        for (kind, backend) in backends() {
            let name = backend.name().to_owned();
            let segment = Segment { layers: 0..LAYERS, backend: kind, embed: true, head: true, reason: "test".into() };
            // Two batches, so that the second one reads the cache of the first.
            let (k_type, v_type) = (KvType::F32, KvType::F32);
            let sizes = Sizes::new(8, 4).with_kv(k_type, v_type);
            let plan = Plan { segments: vec![segment], prefill: None, sizes }.without_head();
            let mut session = Session::load(&model, &plan, vec![(kind, backend)], &mut |_| ()).unwrap();
            for (pooling, key) in [(Pooling::Last, "last"), (Pooling::Mean, "mean")] {
                let expected = floats(&expected[shape.arch][key]);
                let found = embedding(&mut session, &model, &ids, pooling).unwrap();
                assert!((dot(&found, &found) - 1.0).abs() < 1e-6, "length 1");
                let cosine = dot(&found, &expected);
                eprintln!("{} {key} on {name}: 1 - cosine {:.1e}", shape.arch, 1.0 - cosine);
                // A rounding to int8 that falls the other way moves a vector by some 1e-3.
                assert!(cosine > 0.9999, "{} {key} on {name}: cosine {cosine}", shape.arch);
            }
        }
    }
}

#[test]
fn texts_become_json_or_a_numpy_file() {
    let case = Case::new();
    let model = case.path(&SHAPES[0]);
    let args = |more: &[&str]| [&["embed", "-m", &model, "--backend", "cpu"], more].concat().join("\u{1}");
    let embed = |more: &[&str]| run(&args(more).split('\u{1}').collect::<Vec<_>>());
    let vector = |json: &Json, at: usize| floats(&json["embeddings"][at]["embedding"]);

    let one = embed(&["-p", "hello"]).json();
    assert_eq!((one["dim"].as_u64(), &one["pooling"]), (Some(128), &Json::from("last")));
    assert_eq!(one["embeddings"][0]["tokens"], 2, "hello and the token that ends a text");
    assert!((dot(&vector(&one, 0), &vector(&one, 0)) - 1.0).abs() < 1e-5);

    // Lines, from a file and from standard input; the same text gives the same vector.
    let texts = case.file("texts.txt");
    fs::write(&texts, "hello\n\nhell\r\nhello\n").unwrap();
    let three = embed(&["-f", &texts, "--lines"]).json();
    assert_eq!(three["embeddings"].as_array().unwrap().len(), 3);
    assert_eq!(vector(&three, 0), vector(&one, 0));
    assert_eq!(vector(&three, 2), vector(&one, 0));
    assert!(dot(&vector(&three, 1), &vector(&one, 0)) < 0.999, "another text, another vector");
    let from_input = args(&["--lines"]);
    let piped = run_with_input(&from_input.split('\u{1}').collect::<Vec<_>>(), b"hello\nhell\n").json();
    assert_eq!(vector(&piped, 1), vector(&three, 1));
    let whole = embed(&["-f", &texts]).json();
    assert_eq!(whole["embeddings"].as_array().unwrap().len(), 1);

    // A prefix is part of the text.
    let query = embed(&["-p", "hello", "--query"]).json();
    assert_eq!(vector(&query, 0), vector(&embed(&["-p", "query: hello"]).json(), 0));
    assert_eq!(vector(&query, 0), vector(&embed(&["-p", "hello", "--prefix", "query: "]).json(), 0));
    let mean = embed(&["-p", "hello", "--pooling", "mean"]).json();
    assert_ne!(vector(&mean, 0), vector(&one, 0));

    let out = case.file("out.npy");
    let written = embed(&["-f", &texts, "--lines", "-o", &out]);
    assert_eq!((written.code, written.stdout.as_str()), (Some(0), ""), "{written:?}");
    let bytes = fs::read(&out).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!((10 + header) % 64, 0, "aligned as the format asks");
    let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
    assert_eq!(text.trim_end(), "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 128), }");
    assert!(text.ends_with('\n'));
    let values: Vec<f32> = bytes[10 + header..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(values.len(), 3 * 128);
    assert_eq!(values[128..256], vector(&three, 1));

    // In one step: who has the file open, or another name of it, keeps what was there.
    let kept = case.file("kept.npy");
    fs::hard_link(&out, &kept).unwrap();
    assert_eq!(embed(&["-p", "hello", "-o", &out]).code, Some(0));
    assert_eq!(fs::read(&kept).unwrap(), bytes);
    assert_ne!(fs::read(&out).unwrap(), bytes);
    let nowhere = embed(&["-p", "hello", "-o", &case.file("no/folder/out.npy")]);
    assert!(nowhere.one_line_error(1).contains("out.npy: there is no folder"), "{nowhere:?}");
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let case = Case::new();
    let model = case.path(&SHAPES[1]);
    let story = run(&["embed", "-p", "hello"]);
    assert!(story.one_line_error(1).contains("it was made to write text"), "{story:?}");
    let long = "hello ".repeat(100);
    let too_long = run(&["embed", "-m", &model, "-p", &long]);
    assert!(too_long.one_line_error(1).contains("64 tokens available"), "{too_long:?}");
    let text = run(&["embed", "-m", &model, "-p", "hello", "-o", "out.txt"]);
    assert!(text.one_line_error(2).contains("-o writes a NumPy file"), "{text:?}");
    let nothing = run(&["embed", "-m", &model, "--lines", "-p", "\n\n"]);
    assert!(nothing.one_line_error(2).contains("no text"), "{nothing:?}");

    let windowed = case.file("windowed.gguf");
    write(&SHAPES[1], windowed.as_ref(), |m| m.set("gemma3.attention.sliding_window", Value::U32(512)));
    let refused = run(&["embed", "-m", &windowed, "-p", "hello"]);
    assert!(refused.one_line_error(1).contains("gemma3.attention.sliding_window"), "{refused:?}");
    // Gemma's tokenizer adds BOS instead.
    let with_bos = case.file("bos.gguf");
    write(&SHAPES[1], with_bos.as_ref(), |m| {
        m.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        m.set("tokenizer.ggml.bos_token_id", Value::U32(BOS));
        m.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
    });
    let json = run(&["embed", "-m", &with_bos, "-p", "hello", "--backend", "cpu"]).json();
    assert_eq!(json["embeddings"][0]["tokens"], 2);
}
