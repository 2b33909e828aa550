//! Builds GGUF files byte by byte, right or wrong: counts, lengths, types and offsets can be declared apart
//! from what is there. Written from the format's description, independent of the crate's own writer.
//!
//!     Gguf::new().with("general.architecture", str("llama")).tensor(Tensor::f32("w", &[4])).build()

/// A metadata value: type id and the bytes after it.
#[derive(Clone, Debug)]
pub struct Raw {
    pub ty: u32,
    pub bytes: Vec<u8>,
}

/// Any value type with any bytes.
pub fn raw(ty: u32, bytes: impl AsRef<[u8]>) -> Raw {
    Raw { ty, bytes: bytes.as_ref().to_vec() }
}

pub fn u32(value: u32) -> Raw {
    raw(4, value.to_le_bytes())
}

pub fn i32(value: i32) -> Raw {
    raw(5, value.to_le_bytes())
}

pub fn f32(value: f32) -> Raw {
    raw(6, value.to_le_bytes())
}

pub fn bool(value: u8) -> Raw {
    raw(7, [value])
}

pub fn str(value: impl AsRef<[u8]>) -> Raw {
    raw(8, prefixed(value.as_ref(), None))
}

pub fn u64(value: u64) -> Raw {
    raw(10, value.to_le_bytes())
}

/// An array that declares `count` elements of type `ty` and holds `bytes`.
pub fn array(ty: u32, count: u64, bytes: impl AsRef<[u8]>) -> Raw {
    raw(9, [&ty.to_le_bytes()[..], &count.to_le_bytes(), bytes.as_ref()].concat())
}

pub fn strings<T: AsRef<[u8]>>(values: &[T]) -> Raw {
    let bytes: Vec<u8> = values.iter().flat_map(|value| prefixed(value.as_ref(), None)).collect();
    array(8, values.len() as u64, bytes)
}

pub fn i32s(values: &[i32]) -> Raw {
    array(5, values.len() as u64, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

pub fn f32s(values: &[f32]) -> Raw {
    array(6, values.len() as u64, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
}

/// A string with its length in front, the true one or a declared one.
fn prefixed(text: &[u8], declared: Option<u64>) -> Vec<u8> {
    [&declared.unwrap_or(text.len() as u64).to_le_bytes(), text].concat()
}

/// A key with its value. `None` = the truth.
#[derive(Clone, Debug)]
pub struct Pair {
    pub key: Vec<u8>,
    pub key_len: Option<u64>,
    pub value: Raw,
}

/// A tensor with its data. `None` = the truth.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Vec<u8>,
    pub name_len: Option<u64>,
    pub n_dims: Option<u32>,
    pub dims: Vec<u64>,
    pub id: u32,
    /// From the start of the data; the data itself always follows that of the tensor before.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn new(name: impl AsRef<[u8]>, dims: &[u64], id: u32, data: Vec<u8>) -> Self {
        Self { name: name.as_ref().to_vec(), name_len: None, n_dims: None, dims: dims.to_vec(), id, offset: None, data }
    }

    /// An F32 tensor of ones.
    pub fn f32(name: impl AsRef<[u8]>, dims: &[u64]) -> Self {
        let n: u64 = dims.iter().product();
        Self::new(name, dims, 0, 1f32.to_le_bytes().repeat(n as usize))
    }

    /// An I2_S tensor with the codes of 0, -1, +1, 0 in each byte and the given scale.
    pub fn i2_s(name: impl AsRef<[u8]>, dims: &[u64], scale: f32) -> Self {
        let n: u64 = dims.iter().product();
        let mut data = vec![0b01_00_10_01; n as usize / 4];
        data.extend(scale.to_le_bytes());
        data.extend([0; 28]);
        Self::new(name, dims, 36, data)
    }

    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }

    #[must_use]
    pub fn declaring_dims(self, n_dims: u32) -> Self {
        Self { n_dims: Some(n_dims), ..self }
    }
}

/// A whole file.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub magic: [u8; 4],
    pub version: u32,
    /// Declared counts; `None` = the truth.
    pub n_tensors: Option<u64>,
    pub n_pairs: Option<u64>,
    pub pairs: Vec<Pair>,
    pub tensors: Vec<Tensor>,
    /// Alignment of the data; not stated in the metadata.
    pub alignment: usize,
}

impl Gguf {
    /// Version 3, no metadata, no tensors.
    pub fn new() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_pairs: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// Appends a key, or replaces its value where it is.
    #[must_use]
    pub fn with(mut self, key: &str, value: Raw) -> Self {
        match self.pairs.iter_mut().find(|pair| pair.key == key.as_bytes()) {
            Some(pair) => pair.value = value,
            None => return self.pair(key, value),
        }
        self
    }

    /// Appends a key even if it is there, of any bytes.
    #[must_use]
    pub fn pair(mut self, key: impl AsRef<[u8]>, value: Raw) -> Self {
        self.pairs.push(Pair { key: key.as_ref().to_vec(), key_len: None, value });
        self
    }

    /// Removes a key, which must be there.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        let before = self.pairs.len();
        self.pairs.retain(|pair| pair.key != key.as_bytes());
        assert_eq!(self.pairs.len() + 1, before, "no key {key}");
        self
    }

    /// Appends a tensor, or replaces the one of that name where it is.
    #[must_use]
    pub fn tensor(mut self, tensor: Tensor) -> Self {
        match self.tensors.iter_mut().find(|old| old.name == tensor.name) {
            Some(old) => *old = tensor,
            None => self.tensors.push(tensor),
        }
        self
    }

    /// Appends a tensor even if the name is there.
    #[must_use]
    pub fn another(mut self, tensor: Tensor) -> Self {
        self.tensors.push(tensor);
        self
    }

    /// Changes the tensor of that name, which must be there.
    #[must_use]
    pub fn edit(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        let found = self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes());
        change(found.unwrap_or_else(|| panic!("no tensor {name}")));
        self
    }

    /// Removes the tensor of that name, which must be there.
    #[must_use]
    pub fn without_tensor(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name.as_bytes());
        assert_eq!(self.tensors.len() + 1, before, "no tensor {name}");
        self
    }

    #[must_use]
    pub fn version(self, version: u32) -> Self {
        Self { version, ..self }
    }

    #[must_use]
    pub fn declaring(self, n_tensors: Option<u64>, n_pairs: Option<u64>) -> Self {
        Self { n_tensors, n_pairs, ..self }
    }

    /// Everything before the padding in front of the data.
    pub fn head(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_pairs.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for pair in &self.pairs {
            out.extend(prefixed(&pair.key, pair.key_len));
            out.extend(pair.value.ty.to_le_bytes());
            out.extend(&pair.value.bytes);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            out.extend(prefixed(&tensor.name, tensor.name_len));
            out.extend(tensor.n_dims.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            out.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.id.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        out
    }

    /// The whole file; the last tensor is not padded.
    pub fn build(&self) -> Vec<u8> {
        let mut out = self.head();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out
    }
}

/// A small valid file with a value of each kind that matters and four tensors.
pub fn sample() -> Gguf {
    Gguf::new()
        .with("general.architecture", str("bitnet-b1.58"))
        .with("test.count", u32(2))
        .with("test.rate", f32(0.5))
        .with("test.flag", bool(1))
        .with("tokenizer.ggml.tokens", strings(&["<s>", "a", "Ġb"]))
        .with("tokenizer.ggml.scores", f32s(&[0.0, -1.0, -2.0]))
        .with("tokenizer.ggml.token_type", i32s(&[3, 1, 1]))
        .tensor(Tensor::f32("output_norm.weight", &[8]))
        .tensor(Tensor::i2_s("blk.0.attn_q.weight", &[128, 2], 0.5))
        .tensor(Tensor::new("token_embd.weight", &[32, 3], 8, vec![1; 3 * 34]))
        .tensor(Tensor::i2_s("blk.0.attn_k.weight", &[128, 1], 2.0))
}

/// The architecture of [`tiny_model`].
pub const ARCH: &str = "bitnet-b1.58";

/// A model of one layer: dim 128, feed-forward 256, 2 heads of 64, 1 key/value head, 4 tokens.
pub fn tiny_model() -> Gguf {
    let mut file = Gguf::new().with("general.architecture", str(ARCH));
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", 128),
        ("feed_forward_length", 256),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
    ] {
        file = file.with(&format!("{ARCH}.{key}"), u32(value));
    }
    file = file
        .with(&format!("{ARCH}.attention.layer_norm_rms_epsilon"), f32(1e-5))
        .with("tokenizer.ggml.tokens", strings(&["a", "b", "c", "d"]))
        .tensor(Tensor::f32("token_embd.weight", &[128, 4]))
        .tensor(Tensor::f32("output_norm.weight", &[128]));
    for (name, len) in [("attn_norm", 128), ("attn_sub_norm", 128), ("ffn_norm", 128), ("ffn_sub_norm", 256)] {
        file = file.tensor(Tensor::f32(format!("blk.0.{name}.weight"), &[len]));
    }
    for (name, rows, cols) in [
        ("attn_q", 128, 128),
        ("attn_k", 64, 128),
        ("attn_v", 64, 128),
        ("attn_output", 128, 128),
        ("ffn_gate", 256, 128),
        ("ffn_up", 256, 128),
        ("ffn_down", 128, 256),
    ] {
        file = file.tensor(Tensor::i2_s(format!("blk.0.{name}.weight"), &[cols, rows], 0.5));
    }
    file
}

/// A hybrid model (`qwen35`) of two layers, a gated DeltaNet and attention: dim 128, feed-forward 256, 2 heads of 64 with
/// gates, 1 key/value head, 4 value heads of 32 over 2 key heads, 4 tokens.
pub fn tiny_hybrid() -> Gguf {
    let mut file = Gguf::new().with("general.architecture", str("qwen35"));
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 128),
        ("feed_forward_length", 256),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 64),
        ("attention.value_length", 64),
        ("rope.dimension_count", 16),
        ("full_attention_interval", 2),
        ("ssm.conv_kernel", 4),
        ("ssm.state_size", 32),
        ("ssm.group_count", 2),
        ("ssm.time_step_rank", 4),
        ("ssm.inner_size", 128),
    ] {
        file = file.with(&format!("qwen35.{key}"), u32(value));
    }
    file = file.with("qwen35.attention.layer_norm_rms_epsilon", f32(1e-6));
    for (name, dims) in [
        ("token_embd.weight", &[128, 4][..]),
        ("output.weight", &[128, 4]),
        ("output_norm.weight", &[128]),
        ("blk.0.attn_norm.weight", &[128]),
        ("blk.0.post_attention_norm.weight", &[128]),
        ("blk.0.ssm_alpha.weight", &[128, 4]),
        ("blk.0.ssm_beta.weight", &[128, 4]),
        ("blk.0.ssm_conv1d.weight", &[4, 256]),
        ("blk.0.ssm_dt.bias", &[4]),
        ("blk.0.ssm_norm.weight", &[32]),
        ("blk.1.attn_norm.weight", &[128]),
        ("blk.1.post_attention_norm.weight", &[128]),
        ("blk.1.attn_q_norm.weight", &[64]),
        ("blk.1.attn_k_norm.weight", &[64]),
    ] {
        file = file.tensor(Tensor::f32(name, dims));
    }
    file = file.tensor(Tensor::new("blk.0.ssm_a", &[4], 0, (-1.0_f32).to_le_bytes().repeat(4)));
    for (name, rows, cols) in [
        ("blk.0.attn_qkv", 256, 128),
        ("blk.0.attn_gate", 128, 128),
        ("blk.0.ssm_out", 128, 128),
        ("blk.1.attn_q", 256, 128),
        ("blk.1.attn_k", 64, 128),
        ("blk.1.attn_v", 64, 128),
        ("blk.1.attn_output", 128, 128),
    ] {
        file = file.tensor(Tensor::i2_s(format!("{name}.weight"), &[cols, rows], 0.5));
    }
    for layer in 0..2 {
        for (name, rows, cols) in [("ffn_gate", 256, 128), ("ffn_up", 256, 128), ("ffn_down", 128, 256)] {
            file = file.tensor(Tensor::i2_s(format!("blk.{layer}.{name}.weight"), &[cols, rows], 0.5));
        }
    }
    file
}
