//! Hyperparameters of a model, read from GGUF metadata and validated before anything is sized by them.

use std::ops::RangeInclusive;

use bitnet_cpu_kernels::{attention::MAX_HEAD_DIM, rope::Yarn};

use super::{
    delta::{DeltaNet, mtp_blocks},
    keys::Keys,
    rotation::Rotation,
    weights::{Linear, Norm},
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
    /// Where `rope.scaling.type` is `longrope`.
    pub long: Option<LongRope>,
    /// Pairing of the elements.
    pub style: RopeStyle,
}

impl Rope {
    /// `rope.scaling.type` of models whose tensors have factors for short and for long texts.
    pub(crate) const LONG: &'static str = "longrope";
}

/// LongRoPE (arXiv:2402.13753): other divisors of the frequencies where the context is longer than the model was trained for
/// first. As llama.cpp does it, the context that is asked for decides, and not the length of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LongRope {
    /// Positions up to which the divisors for short texts hold.
    pub original_context: usize,
    /// Factor of cos and sin.
    pub magnitude: f32,
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
    #[doc(hidden)]
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
    #[doc(hidden)]
    pub rope: Rope,
    /// Feed-forward activation.
    #[doc(hidden)]
    pub activation: Activation,
    /// The recurrent layers of a hybrid model; `None` where all are attention.
    #[doc(hidden)]
    pub delta: Option<DeltaNet>,
    /// Where weights are stored in a rotated basis; read with the tensors.
    #[doc(hidden)]
    pub rotation: Option<Rotation>,
    /// Blocks of the file behind the layers that predict further tokens ahead: the first may make drafts, see
    /// [`MtpBlock`](super::MtpBlock).
    pub mtp_blocks: usize,
    /// Norms on the inputs of projections; where no key says it, read with the tensors.
    #[doc(hidden)]
    pub input_norms: Option<InputNorms>,
    /// Factors of the graph.
    #[doc(hidden)]
    pub multipliers: Multipliers,
    /// Projections of attention with a bias: those of q, k and v, or all; of Llama's they are read with the tensors.
    #[doc(hidden)]
    pub biased: &'static [Linear],
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
    #[doc(hidden)]
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
            biased: if family == Family::Qwen2 { &Linear::BIASED[..3] } else { &[] },
        })
    }

    /// True where a layer is a gated DeltaNet and not attention.
    #[doc(hidden)]
    pub fn is_recurrent(&self, layer: usize) -> bool {
        self.delta.as_ref().is_some_and(|delta| delta.layers[layer])
    }

    /// Layers after which their kinds come again in the same order.
    #[doc(hidden)]
    pub fn layer_period(&self) -> usize {
        let comes_again = |period: &usize| {
            (*period..self.layers).all(|layer| self.is_recurrent(layer) == self.is_recurrent(layer - period))
        };
        (1..self.layers).find(comes_again).unwrap_or(self.layers)
    }

    /// True where the output of attention goes through a gate, which q's projection has beside q.
    #[doc(hidden)]
    pub fn has_output_gate(&self) -> bool {
        self.family == Family::Qwen35
    }

    /// Factor of embeddings before the first block.
    ///
    /// The residual multiplier r of MiniCPM is no op: with the stream h = r g, what a block adds to g is not multiplied, and
    /// a norm of h with epsilon e is that of g with e / r^2 ([`Self::eps`]).
    #[doc(hidden)]
    pub fn embedding_scale(&self) -> f32 {
        match self.family {
            Family::Gemma3 => (self.dim as f32).sqrt(),
            // The stream is kept in units of what is added to it.
            _ => self.multipliers.embedding / self.multipliers.residual,
        }
    }

    /// Epsilon of a norm.
    #[doc(hidden)]
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
    #[doc(hidden)]
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
        if head_dim > MAX_HEAD_DIM {
            let expected = format!("heads of at most {MAX_HEAD_DIM}, which attention computes");
            return Err(self.wrong("attention.key_length", expected, head_dim));
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
        let (mut position_scale, mut yarn, mut long) = (1.0, None, None);
        match self.metadata.str(&self.name("rope.scaling.type"))? {
            None | Some("none") => {}
            Some("linear") => position_scale = 1.0 / factor,
            Some("yarn") => yarn = Some(self.yarn(factor, context)?),
            Some(Rope::LONG) => {
                let original_context =
                    self.count("rope.scaling.original_context_length", Some(context), MAX_CONTEXT)?;
                let magnitude = self.positive("rope.scaling.attn_factor", Some(1.0))?;
                long = Some(LongRope { original_context, magnitude });
            }
            Some(other) => {
                return Err(Error::unsupported(
                    format!("key {} = '{}'", self.name("rope.scaling.type"), shown(other)),
                    "known are none, linear, yarn and longrope",
                ));
            }
        }
        // llama.cpp's converter permutes the q and k rows of llama models; all others keep Hugging Face's order.
        let style = if family == Family::Llama { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
        Ok(Rope { dims, base, position_scale, yarn, long, style })
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
mod tests;
