//! Hyperparameters of a model, read from GGUF metadata and validated before anything is sized by them.

use std::ops::RangeInclusive;

use bitnet_cpu_kernels::rope::Yarn;

use super::{
    delta::{DeltaNet, mtp_blocks},
    keys::Keys,
    rotation::Rotation,
    weights::Norm,
};
use crate::{
    error::{Error, Result, shown},
    gguf::Metadata,
};

/// The model families this program has an op list for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BitNet b1.58: sub-norms before `o` and `down` (arch `bitnet-b1.58`, `bitnet-25`, `bitnet`).
    BitNet,
    /// Plain Llama graph with ternary projections (arch `llama`: Llama3-8B-1.58, Falcon3-1.58, Falcon-E, Mistral; with
    /// [`Multipliers`] arch `minicpm`: BitCPM4).
    Llama,
    /// Llama graph with an RMSNorm on each head of q and k (arch `qwen3`).
    Qwen3,
    /// Llama graph with biases on q, k and v (arch `qwen2`).
    Qwen2,
    /// Gemma 3 with norms on the inputs of its projections (arch `gemma3`: Microsoft's bitnet-embedding-270m): norms behind
    /// `o` and `down` as well, embeddings times the root of the width.
    Gemma3,
    /// Gated DeltaNet layers, and attention with a gate on its output in between (arch `qwen35`: Ternary Bonsai 27B and
    /// Bonsai 2).
    Qwen35,
}

/// The function between the two halves of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// relu(gate)^2 * up
    Relu2,
    /// silu(gate) * up
    Silu,
    /// gelu(gate) * up, by the formula with tanh
    GeluTanh,
}

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// x\[i\] with x\[i + d/2\] ("neox").
    HalfSplit,
    /// x\[2i\] with x\[2i + 1\] ("norm").
    Interleaved,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Leading elements of each head that rotate; even, at most `head_dim`.
    pub dims: usize,
    /// theta.
    pub base: f32,
    /// Position scale: 1 / `rope.scaling.factor` for linear scaling, else 1.
    pub position_scale: f32,
    /// Where `rope.scaling.type` is `yarn`.
    pub yarn: Option<Yarn>,
    /// Pairing of the elements.
    pub style: RopeStyle,
}

impl Rope {
    /// `rope.scaling.type` of models whose tensors have factors for short and for long texts.
    pub(crate) const LONG: &'static str = "longrope";
}

/// RMSNorms on the input of each projection, besides those of the block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputNorms {
    /// Their epsilon.
    pub eps: f32,
    /// The model makes vectors of texts, as BitNet's embedding models do, and nothing reads its head.
    pub embedder: bool,
}

impl InputNorms {
    /// Key of the epsilon, behind the architecture, in files of models that write text: llama.cpp has none.
    pub(crate) const KEY: &'static str = "attention.input_norm_rms_epsilon";
}

/// Factors of MiniCPM's graph; 1 in all other models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Multiplies embeddings: `scale_emb`.
    pub embedding: f32,
    /// Multiplies what attention and the feed-forward block add to the stream: `scale_depth` / sqrt(layers).
    pub residual: f32,
    /// Divides logits: `hidden_size` / `dim_model_base`.
    pub logits: f32,
}

impl Multipliers {
    /// Keys behind the architecture: llama.cpp's.
    pub(crate) const KEYS: [&'static str; 3] = ["embedding_scale", "residual_scale", "logit_scale"];
    /// Beyond these, products and quotients of them are no numbers any more.
    const PLAUSIBLE: RangeInclusive<f32> = 1e-6..=1e6;
    /// Architecture that has them.
    pub(crate) const ARCH: &'static str = "minicpm";

    /// Those of MiniCPM's first models, which its files do not always state.
    pub(crate) fn minicpm(layers: usize, dim: usize) -> Self {
        Self { embedding: 12.0, residual: 1.4 / (layers as f32).sqrt(), logits: dim as f32 / 256.0 }
    }

    /// In the order of [`Self::KEYS`].
    pub(crate) fn values(self) -> [f32; 3] {
        [self.embedding, self.residual, self.logits]
    }
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, logits: 1.0 }
    }
}

/// Validated hyperparameters. All counts are at least 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub arch: String,
    /// Which op list runs it.
    pub family: Family,
    /// `general.name`, or empty.
    pub name: String,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub dim: usize,
    /// Width of the feed-forward block.
    pub ffn_dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// Epsilon of RMSNorms as the file states it; [`Self::eps`] has that of each.
    pub rms_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Feed-forward activation.
    pub activation: Activation,
    /// The recurrent layers of a hybrid model; `None` where all are attention.
    pub delta: Option<DeltaNet>,
    /// Where weights are stored in a rotated basis; read with the tensors.
    pub rotation: Option<Rotation>,
    /// Blocks of the file behind the layers that predict further tokens ahead: the first may make drafts, see
    /// [`MtpBlock`](super::MtpBlock).
    pub mtp_blocks: usize,
    /// Norms on the inputs of projections; where no key says it, read with the tensors.
    pub input_norms: Option<InputNorms>,
    /// Factors of the graph.
    pub multipliers: Multipliers,
}

/// Upper bounds no real model comes near; they keep sizes computed from a hostile file small.
const MAX_LAYERS: u64 = 512;
const MAX_WIDTH: u64 = 1 << 20;
const MAX_CONTEXT: u64 = (1 << 31) - 1;

impl Config {
    /// Reads and validates the hyperparameters.
    ///
    /// `vocab` is the number of rows of the embedding table: the file's other statements about the
    /// vocabulary must agree with it.
    ///
    /// # Errors
    /// Names the key, what is allowed and what was found.
    pub fn from_metadata(metadata: &Metadata, vocab: usize) -> Result<Self> {
        let arch = metadata.architecture()?;
        refuse_variants(metadata, arch)?;
        let family = family(arch)?;
        let keys = Keys { metadata, arch };

        let blocks = keys.count("block_count", None, MAX_LAYERS)?;
        let mtp_blocks = if family == Family::Qwen35 { mtp_blocks(&keys, blocks)? } else { 0 };
        let layers = blocks - mtp_blocks;
        let delta = (family == Family::Qwen35).then(|| DeltaNet::from_keys(&keys, layers)).transpose()?;
        let dim = keys.count("embedding_length", None, MAX_WIDTH)?;
        let ffn_dim = keys.count("feed_forward_length", None, MAX_WIDTH)?;
        let context = keys.count("context_length", None, MAX_CONTEXT)?;
        let heads = keys.count("attention.head_count", None, MAX_WIDTH)?;
        let kv_heads = keys.count("attention.head_count_kv", Some(heads), MAX_WIDTH)?;
        if kv_heads > heads || heads % kv_heads != 0 {
            return Err(keys.wrong("attention.head_count_kv", format!("a divisor of the {heads} heads"), kv_heads));
        }
        let head_dim = keys.head_dim(dim, heads)?;

        let stated = keys.count("vocab_size", Some(vocab), u64::from(u32::MAX))?;
        if stated != vocab {
            return Err(keys.wrong("vocab_size", format!("{vocab}, the rows of token_embd.weight"), stated));
        }
        if let Some(tokens) = metadata.strings("tokenizer.ggml.tokens")?
            && tokens.len() != vocab
        {
            return Err(Error::malformed(
                "key tokenizer.ggml.tokens",
                format!("{vocab} tokens, the rows of token_embd.weight"),
                tokens.len(),
            ));
        }

        let rms_eps = keys.positive("attention.layer_norm_rms_epsilon", None)?;
        let rope = keys.rope(family, head_dim, context)?;
        let activation = keys.activation(family, vocab, layers, dim)?;
        let input_norms = keys.input_norms(family, rms_eps)?;
        let name = metadata.str("general.name")?.unwrap_or_default().to_owned();
        Ok(Self {
            arch: arch.to_owned(),
            family,
            name,
            layers,
            dim,
            ffn_dim,
            heads,
            kv_heads,
            head_dim,
            vocab,
            context,
            rms_eps,
            rope,
            activation,
            delta,
            rotation: None,
            mtp_blocks,
            input_norms,
            multipliers: keys.multipliers(layers, dim)?,
        })
    }

    /// True where a layer is a gated DeltaNet and not attention.
    pub fn is_recurrent(&self, layer: usize) -> bool {
        self.delta.as_ref().is_some_and(|delta| delta.layers[layer])
    }

    /// Layers after which their kinds come again in the same order.
    pub fn layer_period(&self) -> usize {
        let comes_again = |period: &usize| {
            (*period..self.layers).all(|layer| self.is_recurrent(layer) == self.is_recurrent(layer - period))
        };
        (1..self.layers).find(comes_again).unwrap_or(self.layers)
    }

    /// True where the output of attention goes through a gate, which q's projection has beside q.
    pub fn has_output_gate(&self) -> bool {
        self.family == Family::Qwen35
    }

    /// Factor of embeddings before the first block.
    ///
    /// The residual multiplier r of MiniCPM is no op: with the stream h = r g, what a block adds to g is not multiplied, and
    /// a norm of h with epsilon e is that of g with e / r^2 ([`Self::eps`]).
    pub fn embedding_scale(&self) -> f32 {
        match self.family {
            Family::Gemma3 => (self.dim as f32).sqrt(),
            // The stream is kept in units of what is added to it.
            _ => self.multipliers.embedding / self.multipliers.residual,
        }
    }

    /// True where q, k and v have biases.
    pub fn has_bias(&self) -> bool {
        self.family == Family::Qwen2
    }

    /// Epsilon of a norm.
    pub fn eps(&self, norm: Norm) -> f32 {
        match self.input_norms {
            Some(norms) if Norm::INPUTS.contains(&norm) || norm == Norm::HeadIn => norms.eps,
            _ if matches!(norm, Norm::Attn | Norm::Ffn | Norm::Output) => {
                self.rms_eps / (self.multipliers.residual * self.multipliers.residual)
            }
            _ => self.rms_eps,
        }
    }

    /// Values of one position in the key (or value) cache of one layer.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

fn family(arch: &str) -> Result<Family> {
    match arch {
        "bitnet-b1.58" | "bitnet-25" | "bitnet" => Ok(Family::BitNet),
        "llama" | Multipliers::ARCH => Ok(Family::Llama),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        "gemma3" => Ok(Family::Gemma3),
        "qwen35" => Ok(Family::Qwen35),
        "qwen35moe" => Err(Error::unsupported(
            "architecture 'qwen35moe'",
            "its feed-forward blocks are mixtures of experts, which have no op list (qwen35, without them, runs)",
        )),
        other => Err(Error::unsupported(
            format!("architecture '{}'", shown(other)),
            "known are bitnet-b1.58, bitnet-25, bitnet, llama, minicpm, qwen2, qwen3, qwen35 and gemma3",
        )),
    }
}

/// Graph variants that would run and give fluent but wrong text.
fn refuse_variants(metadata: &Metadata, arch: &str) -> Result<()> {
    if metadata.bool(&format!("{arch}.attention.causal"))? == Some(false) {
        return Err(Error::unsupported(format!("key {arch}.attention.causal = false"), "only causal attention is"));
    }
    if metadata.uint(&format!("{arch}.attention.sliding_window"))?.unwrap_or(0) > 0 {
        return Err(Error::unsupported(
            format!("key {arch}.attention.sliding_window"),
            "every layer attends to all positions here",
        ));
    }
    if metadata.uint(&format!("{arch}.expert_count"))?.unwrap_or(0) > 0 {
        return Err(Error::unsupported(
            format!("key {arch}.expert_count"),
            "mixture-of-experts models have no op list",
        ));
    }
    Ok(())
}

impl Keys<'_> {
    fn head_dim(&self, dim: usize, heads: usize) -> Result<usize> {
        let derived = match self.metadata.get(&self.name("attention.key_length")) {
            Some(_) => None,
            None if dim.is_multiple_of(heads) => Some(dim / heads),
            None => return Err(self.wrong("embedding_length", format!("a multiple of the {heads} heads"), dim)),
        };
        let head_dim = self.count("attention.key_length", derived, MAX_WIDTH)?;
        let value_length = self.count("attention.value_length", Some(head_dim), MAX_WIDTH)?;
        if value_length != head_dim {
            return Err(self.wrong("attention.value_length", format!("{head_dim}, the key length"), value_length));
        }
        if heads.saturating_mul(head_dim) > MAX_WIDTH as usize {
            return Err(self.wrong("attention.key_length", format!("heads x length at most {MAX_WIDTH}"), head_dim));
        }
        Ok(head_dim)
    }

    fn rope(&self, family: Family, head_dim: usize, context: usize) -> Result<Rope> {
        let dims = self.count("rope.dimension_count", Some(head_dim), MAX_WIDTH)?;
        if dims % 2 != 0 || dims > head_dim {
            return Err(self.wrong("rope.dimension_count", format!("an even number up to {head_dim}"), dims));
        }
        let base = self.positive("rope.freq_base", Some(10_000.0))?;
        let factor = self.positive("rope.scaling.factor", Some(1.0))?;
        let (mut position_scale, mut yarn) = (1.0, None);
        match self.metadata.str(&self.name("rope.scaling.type"))? {
            None | Some("none") => {}
            Some("linear") => position_scale = 1.0 / factor,
            Some("yarn") => yarn = Some(self.yarn(factor, context)?),
            Some(Rope::LONG) => self.check_longrope(context)?,
            Some(other) => {
                return Err(Error::unsupported(
                    format!("key {} = '{}'", self.name("rope.scaling.type"), shown(other)),
                    "known are none, linear, yarn and longrope",
                ));
            }
        }
        // llama.cpp's converter permutes the q and k rows of llama models; all others keep Hugging Face's order.
        let style = if family == Family::Llama { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
        Ok(Rope { dims, base, position_scale, yarn, style })
    }

    /// That the short factors alone are used, unstretched, as they are up to the original context.
    fn check_longrope(&self, context: usize) -> Result<()> {
        let original = self.count("rope.scaling.original_context_length", Some(context), MAX_CONTEXT)?;
        let stretch = self.positive("rope.scaling.attn_factor", Some(1.0))?;
        if original >= context && stretch == 1.0 {
            return Ok(());
        }
        let found = format!("a context of {context} over {original}, factor {stretch}");
        Err(Error::unsupported(
            format!("key {} = 'longrope' with {found}", self.name("rope.scaling.type")),
            "only models that stay within their original context are",
        ))
    }

    /// MiniCPM's factors.
    fn multipliers(&self, layers: usize, dim: usize) -> Result<Multipliers> {
        if self.arch != Multipliers::ARCH {
            return Ok(Multipliers::default());
        }
        let mut values = Multipliers::minicpm(layers, dim).values();
        for (value, key) in values.iter_mut().zip(Multipliers::KEYS) {
            *value = self.positive(key, Some(*value))?;
            if !Multipliers::PLAUSIBLE.contains(value) {
                return Err(self.wrong(key, "1e-6 to 1e6", *value));
            }
        }
        let [embedding, residual, logits] = values;
        Ok(Multipliers { embedding, residual, logits })
    }

    fn yarn(&self, factor: f32, context: usize) -> Result<Yarn> {
        // Of models whose attention has other formulas: DeepSeek's, and those that mix in a part of YaRN.
        for key in ["rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor"] {
            let neutral = if key.ends_with("ext_factor") { 1.0 } else { 0.0 };
            if self.metadata.float(&self.name(key))?.is_some_and(|value| value != neutral) {
                return Err(Error::unsupported(
                    format!("key {}", self.name(key)),
                    "no family here has a formula for it",
                ));
            }
        }
        Ok(Yarn {
            factor,
            original_context: self.count("rope.scaling.original_context_length", Some(context), MAX_CONTEXT)?,
            beta_fast: self.positive("rope.scaling.yarn_beta_fast", Some(32.0))?,
            beta_slow: self.positive("rope.scaling.yarn_beta_slow", Some(1.0))?,
            attention_factor: self.positive("rope.scaling.attn_factor", Some(1.0))?,
        })
    }

    /// Norms on the inputs of projections, by the key that says so, or because all such models have them.
    fn input_norms(&self, family: Family, rms_eps: f32) -> Result<Option<InputNorms>> {
        let stated = match self.get(InputNorms::KEY) {
            Some(_) => Some(self.positive(InputNorms::KEY, None)?),
            None => None,
        };
        match (family, stated) {
            (Family::Gemma3, eps) => Ok(Some(InputNorms { eps: eps.unwrap_or(rms_eps), embedder: true })),
            (Family::BitNet | Family::Qwen35, Some(_)) => Err(Error::unsupported(
                format!("key {}", self.name(InputNorms::KEY)),
                "its blocks have other norms in front of projections",
            )),
            (_, eps) => Ok(eps.map(|eps| InputNorms { eps, embedder: false })),
        }
    }

    /// The architecture name alone is not trustworthy: bitnet.cpp's converter of 2026 writes one name for models with
    /// either activation, and its releases disagree about which activation a name means.
    fn activation(&self, family: Family, vocab: usize, layers: usize, dim: usize) -> Result<Activation> {
        match self.metadata.str(&self.name("hidden_activation"))? {
            Some("relu2") => return Ok(Activation::Relu2),
            Some("silu") => return Ok(Activation::Silu),
            Some(other) => return Err(self.wrong("hidden_activation", "relu2 or silu", shown(other))),
            None => {}
        }
        let is_1bitllm = vocab == 32002 && (layers == 24 || layers == 26);
        let is_2b4t = vocab == 128_256 && layers == 30 && dim == 2560;
        Ok(match (family, self.arch) {
            (Family::BitNet, "bitnet") if is_2b4t => Activation::Relu2,
            (Family::BitNet, "bitnet") => Activation::Silu,
            (Family::BitNet, _) if is_1bitllm => Activation::Silu,
            (Family::BitNet, _) => Activation::Relu2,
            (Family::Gemma3, _) => Activation::GeluTanh,
            (Family::Llama | Family::Qwen2 | Family::Qwen3 | Family::Qwen35, _) => Activation::Silu,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    fn metadata(arch: &str, changes: &[(&str, Value)]) -> Metadata {
        let mut m = Metadata::default();
        m.set("general.architecture", Value::String(arch.into()));
        for (key, value) in [
            ("block_count", 30),
            ("context_length", 4096),
            ("embedding_length", 2560),
            ("feed_forward_length", 6912),
            ("attention.head_count", 20),
            ("attention.head_count_kv", 5),
        ] {
            m.set(format!("{arch}.{key}"), Value::U32(value));
        }
        m.set(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
        m.set(format!("{arch}.rope.freq_base"), Value::F32(500_000.0));
        for (key, value) in changes {
            m.set(format!("{arch}.{key}"), value.clone());
        }
        m
    }

    #[test]
    fn the_official_2b4t_file_is_understood() {
        for arch in ["bitnet-b1.58", "bitnet-25", "bitnet"] {
            let config = Config::from_metadata(&metadata(arch, &[]), 128_256).unwrap();
            assert_eq!((config.head_dim, config.kv_width()), (128, 640));
            assert_eq!(config.activation, Activation::Relu2, "{arch}");
            assert_eq!(config.rope.style, RopeStyle::HalfSplit);
        }
    }

    #[test]
    fn the_activation_follows_the_model_not_the_name() {
        let large = [("block_count", Value::U32(24)), ("vocab_size", Value::U32(32002))];
        for arch in ["bitnet", "bitnet-b1.58"] {
            let config = Config::from_metadata(&metadata(arch, &large), 32002).unwrap();
            assert_eq!(config.activation, Activation::Silu, "{arch}");
        }
        let stated = [("hidden_activation", Value::String("silu".into()))];
        let config = Config::from_metadata(&metadata("bitnet-b1.58", &stated), 128_256).unwrap();
        assert_eq!(config.activation, Activation::Silu);
    }

    #[test]
    fn an_explicit_head_dim_wins() {
        let changes = [("attention.key_length", Value::U32(64)), ("attention.value_length", Value::U32(64))];
        let config = Config::from_metadata(&metadata("qwen3", &changes), 1000).unwrap();
        assert_eq!((config.head_dim, config.rope.dims), (64, 64));
    }

    #[test]
    fn yarn_is_read_with_its_defaults() {
        let yarn = |changes: &[(&str, Value)]| {
            let mut all = vec![("rope.scaling.type", Value::String("yarn".into()))];
            all.extend(changes.iter().cloned());
            Config::from_metadata(&metadata("qwen3", &all), 1000).map(|config| config.rope)
        };
        let rope = yarn(&[("rope.scaling.factor", Value::F32(4.0))]).unwrap();
        let expected =
            Yarn { factor: 4.0, original_context: 4096, beta_fast: 32.0, beta_slow: 1.0, attention_factor: 1.0 };
        assert_eq!((rope.yarn, rope.position_scale), (Some(expected), 1.0));
        let original = ("rope.scaling.original_context_length", Value::U32(1024));
        let attention = ("rope.scaling.attn_factor", Value::F32(0.5));
        let rope = yarn(&[("rope.scaling.factor", Value::F32(4.0)), original, attention]).unwrap();
        assert_eq!(rope.yarn, Some(Yarn { original_context: 1024, attention_factor: 0.5, ..expected }));
        for (key, value) in [("rope.scaling.yarn_log_multiplier", 0.1), ("rope.scaling.yarn_ext_factor", 0.5)] {
            let error = yarn(&[(key, Value::F32(value))]).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
        let error = yarn(&[("rope.scaling.original_context_length", Value::U32(0))]).unwrap_err().to_string();
        assert!(error.contains("1 to"), "{error}");
    }

    #[test]
    fn factors_of_minicpm_are_read_with_their_defaults() {
        let minicpm = |changes: &[(&str, Value)]| Config::from_metadata(&metadata("minicpm", changes), 1000);
        let config = minicpm(&[]).unwrap();
        // 30 layers of width 2560.
        let usual = Multipliers { embedding: 12.0, residual: 1.4 / 30f32.sqrt(), logits: 10.0 };
        assert_eq!((config.multipliers, config.rope.style), (usual, RopeStyle::Interleaved));
        let stated = [("embedding_scale", 2.0), ("residual_scale", 0.5), ("logit_scale", 4.0)];
        let config = minicpm(&stated.map(|(key, value)| (key, Value::F32(value)))).unwrap();
        assert_eq!(config.multipliers, Multipliers { embedding: 2.0, residual: 0.5, logits: 4.0 });
        assert_eq!((config.embedding_scale(), config.eps(Norm::Attn), config.eps(Norm::QHead)), (4.0, 4e-5, 1e-5));
        for key in Multipliers::KEYS {
            for (value, expected) in [
                (0.0, "above 0"),
                (-1.0, "above 0"),
                (f32::NAN, "above 0"),
                (1e-7, "1e-6 to 1e6"),
                (1e7, "1e-6 to 1e6"),
            ] {
                let error = minicpm(&[(key, Value::F32(value))]).unwrap_err().to_string();
                assert!(error.contains(&format!("minicpm.{key}")) && error.contains(expected), "{error}");
            }
        }
        // Other architectures have none.
        let llama = Config::from_metadata(&metadata("llama", &[("logit_scale", Value::F32(4.0))]), 1000).unwrap();
        assert_eq!(llama.multipliers, Multipliers::default());
    }

    #[test]
    fn norms_on_inputs_have_an_epsilon_of_their_own() {
        let key = "attention.input_norm_rms_epsilon";
        let with = |arch: &str, eps: f32| Config::from_metadata(&metadata(arch, &[(key, Value::F32(eps))]), 1000);
        let config = with("llama", 0.5).unwrap();
        assert_eq!(config.input_norms, Some(InputNorms { eps: 0.5, embedder: false }));
        assert_eq!([Norm::QIn, Norm::HeadIn, Norm::Output].map(|norm| config.eps(norm)), [0.5, 0.5, 1e-5]);
        assert!(with("gemma3", 0.5).unwrap().input_norms.is_some_and(|norms| norms.embedder));
        for (arch, eps, expected) in
            [("llama", 0.0, "above 0"), ("qwen2", f32::NAN, "above 0"), ("bitnet", 0.5, "other norms")]
        {
            let error = with(arch, eps).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn longrope_is_taken_within_the_original_context() {
        let long = |original: u32, stretch: f32| {
            let kind = ("rope.scaling.type", Value::String("longrope".into()));
            let context = ("rope.scaling.original_context_length", Value::U32(original));
            let changes = [kind, context, ("rope.scaling.attn_factor", Value::F32(stretch))];
            Config::from_metadata(&metadata("minicpm", &changes), 1000).map(|config| config.rope.yarn)
        };
        assert_eq!(long(4096, 1.0).unwrap(), None);
        for (original, stretch) in [(2048, 1.0), (4096, 1.1)] {
            let error = long(original, stretch).unwrap_err().to_string();
            assert!(error.contains("longrope") && error.contains("original context"), "{error}");
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        let cases: &[(&str, Value, &str)] = &[
            ("block_count", Value::U32(0), "1 to 512"),
            ("block_count", Value::U32(513), "1 to 512"),
            ("block_count", Value::U32(1_000_000_000), "1 to 512"),
            ("block_count", Value::F32(30.0), "an integer"),
            ("block_count", Value::I32(-1), "a non-negative integer"),
            ("block_count", Value::String("30".into()), "an integer"),
            ("attention.head_count", Value::U32(0), "1 to"),
            ("attention.head_count", Value::U32(3), "a divisor"),
            ("attention.head_count_kv", Value::U32(0), "1 to"),
            ("attention.head_count_kv", Value::U32(40), "a divisor"),
            ("attention.head_count_kv", Value::U32(3), "a divisor"),
            ("embedding_length", Value::U32(0), "1 to"),
            ("embedding_length", Value::U32(2561), "a multiple of the 20 heads"),
            ("embedding_length", Value::U32(1 << 31), "1 to"),
            ("feed_forward_length", Value::U32(0), "1 to"),
            ("context_length", Value::U32(0), "1 to"),
            ("context_length", Value::U32(1 << 31), "1 to"),
            ("rope.dimension_count", Value::U32(0), "1 to"),
            ("rope.dimension_count", Value::U32(127), "an even number up to 128"),
            ("rope.dimension_count", Value::U32(130), "an even number up to 128"),
            ("rope.freq_base", Value::F32(0.0), "above 0"),
            ("rope.freq_base", Value::F32(-1.0), "above 0"),
            ("rope.freq_base", Value::F32(f32::NAN), "above 0"),
            ("rope.freq_base", Value::F32(f32::INFINITY), "above 0"),
            ("attention.layer_norm_rms_epsilon", Value::F32(0.0), "above 0"),
            ("attention.layer_norm_rms_epsilon", Value::F32(-1e-5), "above 0"),
            ("attention.layer_norm_rms_epsilon", Value::F32(f32::NAN), "above 0"),
            ("attention.value_length", Value::U32(64), "128, the key length"),
            ("vocab_size", Value::U32(5), "the rows of token_embd.weight"),
            ("rope.scaling.type", Value::String("su".into()), "known are"),
            ("rope.scaling.factor", Value::F32(0.0), "above 0"),
            ("hidden_activation", Value::String("gelu".into()), "relu2 or silu"),
        ];
        for (key, value, expected) in cases {
            let error = Config::from_metadata(&metadata("bitnet-b1.58", &[(key, value.clone())]), 128_256).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(expected), "{key} = {value:?} gave: {text}");
            assert!(text.contains("bitnet-b1.58."), "{key} = {value:?} gave: {text}");
        }
    }

    #[test]
    fn unknown_models_are_refused_with_a_reason() {
        for (arch, reason) in [("qwen35moe", "mixtures of experts"), ("maple", "known are")] {
            let error = Config::from_metadata(&metadata(arch, &[]), 100).unwrap_err().to_string();
            assert!(error.contains(&format!("architecture '{arch}'")) && error.contains(reason), "{error}");
        }
        let empty = Metadata::default();
        let error = Config::from_metadata(&empty, 100).unwrap_err().to_string();
        assert!(error.contains("general.architecture is missing"), "{error}");
    }
}
