//! Small checkpoints written with the `safetensors` crate's own writer, and readers for what comes out.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use bitnet_gpu::{
    convert::{ConvertOptions, Report, convert},
    error::Result,
    gguf,
};
use half::{bf16, f16};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor to be written to a checkpoint.
#[derive(Clone, Debug)]
pub struct Source {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Source {
    pub fn f32(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Self {
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn u8(shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { dtype: Dtype::U8, shape: shape.to_vec(), bytes }
    }

    /// These values in another format; they have to fit it.
    pub fn cast(&self, dtype: Dtype) -> Self {
        assert_eq!(self.dtype, Dtype::F32);
        let values = self.bytes.chunks(4).map(|raw| f32::from_le_bytes(raw.try_into().unwrap()));
        let bytes = match dtype {
            Dtype::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            Dtype::F16 => values.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            other => panic!("no cast to {other}"),
        };
        Self { dtype, shape: self.shape.clone(), bytes }
    }
}

/// Numbers between -1 and 1 that differ from seed to seed.
pub fn noise(seed: &str, count: usize) -> Vec<f32> {
    let mut state =
        seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |s, b| (s ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A Hugging Face directory that a test may change before it is written.
#[derive(Clone, Debug)]
pub struct Model {
    pub config: Value,
    pub tensors: BTreeMap<String, Source>,
}

pub const VOCAB: usize = 24;
pub const DIM: usize = 32;
pub const FFN: usize = 64;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const LAYERS: usize = 2;
const HEAD_DIM: usize = DIM / HEADS;

/// The sizes of a model.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    vocab: usize,
    dim: usize,
    ffn: usize,
    heads: usize,
    kv_heads: usize,
    layers: usize,
}

/// As small as the architecture allows.
const SMALL: Sizes = Sizes { vocab: VOCAB, dim: DIM, ffn: FFN, heads: HEADS, kv_heads: KV_HEADS, layers: LAYERS };

/// Rows in multiples of 32, columns in multiples of 256: what every ternary type can hold.
const WIDE: Sizes = Sizes { vocab: 40, dim: 512, ffn: 768, heads: 4, kv_heads: 2, layers: 2 };

impl Model {
    /// A checkpoint of the BitNet architecture in f32.
    pub fn bitnet() -> Self {
        Self::bitnet_of(SMALL)
    }

    /// As [`Self::bitnet`], with shapes that every ternary type can hold.
    pub fn wide() -> Self {
        Self::bitnet_of(WIDE)
    }

    /// A model of the Llama architecture with such shapes and a head of its own.
    pub fn wide_llama() -> Self {
        let mut model = Self::base("LlamaForCausalLM", "silu", WIDE);
        model.config["tie_word_embeddings"] = json!(false);
        model.matrix("lm_head.weight", WIDE.vocab, WIDE.dim);
        model
    }

    fn bitnet_of(sizes: Sizes) -> Self {
        let mut model = Self::base("BitNetForCausalLM", "relu2", sizes);
        for layer in 0..sizes.layers {
            model.norm(&format!("model.layers.{layer}.self_attn.attn_sub_norm.weight"), sizes.dim);
            model.norm(&format!("model.layers.{layer}.mlp.ffn_sub_norm.weight"), sizes.ffn);
        }
        model
    }

    /// A checkpoint of the Llama architecture in f32, trained to be ternary.
    pub fn llama() -> Self {
        Self::base("LlamaForCausalLM", "silu", SMALL)
    }

    /// A checkpoint of the Qwen3 architecture in f32, with heads wider than dim / heads.
    pub fn qwen3() -> Self {
        const WIDE: usize = 2 * HEAD_DIM;
        let mut model = Self::base("Qwen3ForCausalLM", "silu", SMALL);
        model.config["head_dim"] = json!(WIDE);
        for layer in 0..LAYERS {
            let attention = format!("model.layers.{layer}.self_attn");
            model.matrix(&format!("{attention}.q_proj.weight"), HEADS * WIDE, DIM);
            model.matrix(&format!("{attention}.k_proj.weight"), KV_HEADS * WIDE, DIM);
            model.matrix(&format!("{attention}.v_proj.weight"), KV_HEADS * WIDE, DIM);
            model.matrix(&format!("{attention}.o_proj.weight"), DIM, HEADS * WIDE);
            model.norm(&format!("{attention}.q_norm.weight"), WIDE);
            model.norm(&format!("{attention}.k_norm.weight"), WIDE);
        }
        model
    }

    fn base(class: &str, activation: &str, sizes: Sizes) -> Self {
        let Sizes { vocab, dim, ffn, heads, kv_heads, layers } = sizes;
        let config = json!({
            "architectures": [class], "vocab_size": vocab, "hidden_size": dim, "intermediate_size": ffn,
            "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "hidden_act": activation, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true,
            "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"},
        });
        let mut model = Self { config, tensors: BTreeMap::new() };
        model.matrix("model.embed_tokens.weight", vocab, dim);
        model.norm("model.norm.weight", dim);
        let kv_width = kv_heads * (dim / heads);
        for layer in 0..layers {
            let block = format!("model.layers.{layer}");
            model.norm(&format!("{block}.input_layernorm.weight"), dim);
            model.norm(&format!("{block}.post_attention_layernorm.weight"), dim);
            model.matrix(&format!("{block}.self_attn.q_proj.weight"), dim, dim);
            model.matrix(&format!("{block}.self_attn.k_proj.weight"), kv_width, dim);
            model.matrix(&format!("{block}.self_attn.v_proj.weight"), kv_width, dim);
            model.matrix(&format!("{block}.self_attn.o_proj.weight"), dim, dim);
            model.matrix(&format!("{block}.mlp.gate_proj.weight"), ffn, dim);
            model.matrix(&format!("{block}.mlp.up_proj.weight"), ffn, dim);
            model.matrix(&format!("{block}.mlp.down_proj.weight"), dim, ffn);
        }
        model
    }

    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) {
        self.tensors.insert(name.to_owned(), Source::f32(&[rows, cols], noise(name, rows * cols)));
    }

    pub fn norm(&mut self, name: &str, size: usize) {
        self.tensors
            .insert(name.to_owned(), Source::f32(&[size], noise(name, size).into_iter().map(|v| 1.0 + v / 4.0)));
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let renamed = std::mem::take(&mut self.tensors).into_iter().map(|(name, t)| (name.replace(from, to), t));
        self.tensors = renamed.collect();
    }

    /// Writes `config.json` and one `model.safetensors`.
    pub fn write(&self, dir: &Path) {
        self.write_config(dir);
        fs::write(dir.join("model.safetensors"), serialise(self.tensors.iter())).unwrap();
    }

    /// Writes `config.json`, an index and shards that hold every n-th tensor each.
    pub fn write_shards(&self, dir: &Path, shards: usize) {
        self.write_config(dir);
        let mut map = serde_json::Map::new();
        for shard in 0..shards {
            let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
            let part = self.tensors.iter().skip(shard).step_by(shards);
            for (name, _) in part.clone() {
                map.insert(name.clone(), json!(file));
            }
            fs::write(dir.join(file), serialise(part)).unwrap();
        }
        let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
        fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    pub fn write_config(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
    }
}

pub fn serialise<'a>(tensors: impl Iterator<Item = (&'a String, &'a Source)>) -> Vec<u8> {
    let views = tensors.map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// A folder with a checkpoint in `in` and room for outputs.
pub struct Case {
    pub folder: TempDir,
}

impl Case {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// The checkpoint as one file.
    pub fn of(model: &Model) -> Self {
        let case = Self::new();
        model.write(&case.input());
        case
    }

    pub fn input(&self) -> PathBuf {
        self.folder.path().join("in")
    }

    pub fn output(&self) -> PathBuf {
        self.folder.path().join("out.gguf")
    }

    pub fn convert(&self) -> Result<Report> {
        convert(&self.input(), &self.output(), &ConvertOptions::default())
    }

    /// Converts and gives the bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        self.convert().unwrap();
        fs::read(self.output()).unwrap()
    }

    /// Converts and opens the file.
    pub fn file(&self) -> gguf::File {
        self.convert().unwrap();
        gguf::File::open(&self.output()).unwrap()
    }

    /// The message of a conversion that has to fail, after which nothing may be left behind.
    pub fn failure(&self) -> String {
        let message = self.convert().unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(self.names(), ["in"], "{message}");
        message
    }

    /// Names in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The weights -1, 0, +1 of an I2_S tensor in the order of the flattened matrix, by the rule of bitnet.cpp's quantiser:
/// element e lies in byte 32 * (e / 128) + e % 32 at shift 6 - 2 * ((e % 128) / 32).
pub fn ternary(file: &gguf::File, name: &str) -> Vec<i8> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    assert_eq!(tensor.ty, gguf::TensorType::I2_S);
    let data = file.data(tensor);
    let weight = |e: usize| (data[32 * (e / 128) + e % 32] >> (6 - 2 * (e % 128 / 32)) & 3) as i8 - 1;
    (0..tensor.elements() as usize).map(weight).collect()
}

/// The scale of an I2_S tensor: the f32 behind the codes; the 28 bytes after it are zeros.
pub fn scale(file: &gguf::File, name: &str) -> f32 {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let data = file.data(tensor);
    let trailer = &data[tensor.elements() as usize / 4..];
    assert_eq!(trailer[4..], [0; 28]);
    f32::from_le_bytes(trailer[..4].try_into().unwrap())
}

/// The values of an F32 or F16 tensor.
pub fn reals(file: &gguf::File, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let data = file.data(tensor);
    match tensor.ty {
        gguf::TensorType::F32 => data.chunks(4).map(|raw| f32::from_le_bytes(raw.try_into().unwrap())).collect(),
        gguf::TensorType::F16 => data.chunks(2).map(|raw| f16::from_le_bytes(raw.try_into().unwrap()).into()).collect(),
        other => panic!("{name} has type {}", other.name()),
    }
}
