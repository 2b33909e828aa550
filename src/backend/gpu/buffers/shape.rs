//! Sizes of a segment's activations and caches, known before anything is allocated.

use std::ops::Range;

use super::{cache, limits::too_large};
use crate::{
    error::{Error, Remedy, Result},
    graph::{CHECKPOINTS, StateKind, op::Slot},
    model::{Config, Linear},
    plan::{Segment, Sizes},
};

/// Multiply-adds of the head for logits that are computed together, where those of every token are wanted.
const HEAD_MACS: u64 = 4_000_000_000;
/// Tokens of a tile of ternary_matmul_i2s: fewer take as long.
pub const TILE_TOKENS: usize = 64;
/// Most tokens computed together: four tiles, so that the activations of a wide model (2 x 23040 feed-forward) stay
/// below 64 MiB.
const CHUNK_TOKENS: usize = 256;
/// Deep in a long context, where attention outweighs the products: one tile of attention_prefill.
const LEAST_CHUNK_TOKENS: usize = 16;
/// Up to this many tokens share a reading of the weights in ternary_few_i2s; beyond, a 64-wide tile of
/// ternary_matmul_i2s wastes less. Not measured on hardware yet.
const SMALL_BATCH: usize = 8;
/// Workgroup memory for the keys of a step in attention_decode, in f32: the rest takes 8.6 KiB of the 16 KiB that every
/// device has.
const FRESH_VALUES: usize = 1792;
/// Most splits: with 5 kv heads, 32 make 160 workgroups, more than an integrated GPU runs at once.
const MAX_SPLITS: usize = 32;
/// Logits computed and read back at once when those of every token are wanted.
const LOGIT_BYTES: usize = 16 << 20;

/// Most bytes of a cache that are copied at once from one sequence to another.
const COPY_BYTES: u64 = 4 << 20;
/// Most buffers of a layer's keys: each is bound by a dispatch of its own.
const MAX_WINDOWS: usize = 64;
/// Bytes of common/batch.wgsl before its tokens, and of one of these.
pub const BATCH_HEADER_BYTES: u64 = 16;
pub const TOKEN_BYTES: u64 = 16;

/// Multiply-adds of one token in the products of one layer.
pub fn layer_macs(config: &Config) -> u64 {
    let macs = |role: Linear| {
        let (rows, cols) = config.linear_shape(role);
        (rows * cols) as u64
    };
    let attention = Linear::ATTENTION.into_iter().map(macs).sum::<u64>();
    let Some(delta) = &config.delta else { return attention };
    // Of layers of two kinds the larger one: what is bounded by it fits both.
    let rule = 4 * (delta.value_width() * delta.head_dim) as u64;
    attention.max(Linear::DELTA.into_iter().map(macs).sum::<u64>() + rule)
}

/// Multiply-adds of one token in the attention of one layer over `keys` keys.
pub fn attention_macs(config: &Config, keys: usize) -> u64 {
    (2 * Slot::Q.width(config) * keys) as u64
}

/// Sizes of a segment's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Most tokens computed together.
    pub chunk_tokens: usize,
    /// Most tokens that take the matrix-vector kernels.
    pub small_batch: usize,
    /// Keys for which there is a split, up to the most splits.
    pub split_keys: usize,
    /// Most splits of the keys.
    pub max_splits: usize,
    /// Most rows of logits computed together; 0 without a head.
    pub logit_rows: usize,
    /// u32 of a row of quantised activations.
    pub act_words: usize,
    /// Scales of a row of quantised activations.
    pub act_groups: usize,
    /// Most rows of logits whose highest are chosen together.
    pub top_rows: usize,
    /// Sequences at a time.
    pub sequences: usize,
    /// Positions of each.
    pub context_tokens: usize,
    /// Bytes of the keys of one sequence in one layer.
    pub k_bytes: u64,
    /// Bytes of its values.
    pub v_bytes: u64,
    /// Sequences that one binding of each of the caches holds.
    pub window_slots: usize,
    /// Bytes of the matrices of one sequence in a recurrent layer; 0 where there is none.
    pub recurrent_bytes: u64,
}

/// Bytes of what one sequence keeps in a recurrent layer: the inputs of its convolution, and its matrices.
pub fn recurrent_bytes(kind: StateKind) -> (u64, u64) {
    match kind {
        StateKind::Kv { .. } => (0, 0),
        StateKind::Recurrent { conv: (channels, positions), heads, key_dim, value_dim } => {
            (4 * (channels * positions) as u64, 4 * (heads * key_dim * value_dim) as u64)
        }
    }
}

/// f32 of a token in the shared buffer of queries, keys and values.
pub fn qkv_width(config: &Config) -> usize {
    Slot::Q.width(config).max(Slot::GatedQ.width(config)) + Slot::K.width(config) + Slot::V.width(config)
}

/// f32 of a token in the buffer of what a DeltaNet projects.
pub fn delta_width(config: &Config) -> usize {
    Slot::DeltaQkv.width(config) + Slot::DeltaGate.width(config)
}

/// f32 of a token beside the residual stream: a normed copy, or embeddings before their rotation.
fn stream_width(config: &Config) -> usize {
    if config.input_norms.is_some() || config.rotation.is_some() { config.dim } else { 0 }
}

impl Shape {
    /// The sizes for `segment` with bindings of at most `max_binding` bytes. `act_group` columns share a scale of the
    /// quantised activations; `None` = all of a token. At most `chunk` tokens are computed together, and there is a split
    /// for `split_keys` keys.
    pub fn new(
        config: &Config,
        act_group: Option<usize>,
        segment: &Segment,
        sizes: &Sizes,
        max_binding: u64,
        (chunk, split_keys): (Option<usize>, usize),
    ) -> Result<Self> {
        let widest = qkv_width(config).max(2 * config.ffn_dim).max(config.dim).max(delta_width(config));
        let most = (max_binding / (4 * widest as u64)) as usize;
        let vocab_bytes = 4 * config.vocab;
        let head_macs = (config.vocab * config.dim) as u64;
        let most_logit_rows = most_rows(max_binding, vocab_bytes);
        let part_bytes = 4 * config.heads * (config.head_dim + 2);
        let attended = most_rows(max_binding, part_bytes);
        for (what, rows, bytes) in [
            ("the activations of one token", most, 4 * widest),
            ("the attention of one token", attended, part_bytes),
            ("the logits of one token", if segment.head { most_logit_rows } else { 1 }, vocab_bytes),
        ] {
            if rows == 0 {
                return Err(too_large(what, bytes as u64, max_binding));
            }
        }
        let chunk_tokens = sizes.batch_tokens.min(CHUNK_TOKENS).min(chunk.unwrap_or(usize::MAX)).min(most).max(1);
        // The logits of all of a small batch are computed together.
        let small_batch =
            SMALL_BATCH.min(FRESH_VALUES / config.head_dim).min(attended).min(most_logit_rows.max(1)).min(chunk_tokens);
        let logit_rows = most_logit_rows
            .min((LOGIT_BYTES / vocab_bytes).max(1))
            .min((HEAD_MACS / head_macs.max(1)) as usize)
            .clamp(small_batch, chunk_tokens);
        let max_splits = sizes
            .context_tokens
            .div_ceil(split_keys)
            .clamp(1, MAX_SPLITS)
            .min(most_rows(max_binding, part_bytes * small_batch).max(1));
        let cache_bytes = |ty| (sizes.context_tokens * cache::position_bytes(ty, config)) as u64;
        let (k_bytes, v_bytes) = (cache_bytes(sizes.k_type), cache_bytes(sizes.v_type));
        let window_slots = most_rows(max_binding, k_bytes.max(v_bytes).max(1) as usize);
        if window_slots == 0 {
            let what = format!("a cache of {} tokens", sizes.context_tokens);
            let error = too_large(&what, k_bytes.max(v_bytes), max_binding);
            return Err(error.with_remedy(Remedy::LowerContext));
        }
        let inputs = [config.dim, config.ffn_dim, Slot::Attn.width(config), Slot::Delta.width(config)];
        let act_words = inputs.into_iter().fold(0, usize::max).next_multiple_of(128) / 4;
        let layers = segment.layers.clone();
        let recurrent_bytes = layers.map(|layer| recurrent_bytes(StateKind::of(config, layer)).1).max().unwrap_or(0);
        let all = recurrent_bytes * (CHECKPOINTS * sizes.sequences) as u64;
        if all > max_binding {
            let what = format!("the recurrent states of {} sequences", sizes.sequences);
            return Err(too_large(&what, all, max_binding));
        }
        let shape = Self {
            chunk_tokens,
            small_batch,
            split_keys,
            max_splits,
            logit_rows: if segment.head { logit_rows } else { 0 },
            top_rows: if sizes.sequences > 1 { small_batch } else { 1 },
            act_words,
            act_groups: act_group.map_or(1, |size| (4 * act_words).div_ceil(size)),
            sequences: sizes.sequences,
            context_tokens: sizes.context_tokens,
            k_bytes,
            v_bytes,
            window_slots,
            recurrent_bytes,
        };
        if shape.windows().len() > MAX_WINDOWS {
            let reason = format!(
                "{} sequences of {} tokens take more than {MAX_WINDOWS} bindings of this GPU: lower one of both",
                sizes.sequences, sizes.context_tokens
            );
            return Err(Error::unsupported("the caches", reason));
        }
        Ok(shape)
    }

    /// The sequences whose caches lie in one buffer, for each of these.
    pub fn windows(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let Self { sequences, window_slots, .. } = *self;
        (0..sequences.div_ceil(window_slots)).map(move |window| {
            let first = window * window_slots;
            first..sequences.min(first + window_slots)
        })
    }

    /// How many of `left` tokens to compute together when `start` are cached, so that one layer is at most
    /// `submit_macs` multiply-adds where that can be had.
    pub fn chunk(&self, config: &Config, start: usize, left: usize, submit_macs: u64) -> usize {
        let fitting = |macs_of_a_token: u64| (submit_macs / macs_of_a_token.max(1)) as usize;
        let tiles = (fitting(layer_macs(config)) / TILE_TOKENS).max(1);
        let attended = fitting(attention_macs(config, start + 1)).max(LEAST_CHUNK_TOKENS);
        left.min(self.chunk_tokens).min(tiles.saturating_mul(TILE_TOKENS)).min(attended)
    }

    /// Bytes of what a layer keeps of all sequences.
    pub fn state_bytes(&self, kind: StateKind) -> u64 {
        match kind {
            StateKind::Kv { .. } => (self.k_bytes + self.v_bytes) * self.sequences as u64,
            StateKind::Recurrent { .. } => {
                let (conv, memory) = recurrent_bytes(kind);
                (conv + memory) * ((1 + CHECKPOINTS) * self.sequences) as u64
            }
        }
    }

    /// Bytes of a cache that are copied at once from one sequence to another; 0 where there is only one.
    pub fn copy_bytes(&self) -> u64 {
        if self.sequences > 1 { self.k_bytes.max(self.v_bytes).max(self.recurrent_bytes).min(COPY_BYTES) } else { 0 }
    }

    /// Bytes of the activation buffers.
    pub fn activation_bytes(&self, config: &Config) -> u64 {
        self.buffers(config).iter().map(|&(_, bytes)| bytes).sum::<u64>() + self.copy_bytes()
    }

    /// The name and the bytes of each of the activation buffers, in the order of their fields.
    pub fn buffers(&self, config: &Config) -> [(&'static str, u64); 15] {
        // Beside the rows for any step each sequence has two of its own: a step of its single tokens may begin before the
        // one before it is done with.
        let normed_rows = if self.logit_rows > 0 { self.logit_rows + 2 * self.sequences } else { 0 };
        let kept_rows = if self.logit_rows > 0 && self.sequences > 1 { self.sequences } else { 0 };
        let tokens = self.chunk_tokens;
        let f32s = |n: usize| 4 * n as u64;
        [
            ("tokens of a step", BATCH_HEADER_BYTES + TOKEN_BYTES * tokens as u64),
            ("hidden", f32s(tokens * config.dim)),
            ("qkv", f32s(tokens * qkv_width(config))),
            ("attn", f32s(tokens * Slot::Attn.width(config))),
            ("ffn", f32s(tokens * 2 * config.ffn_dim)),
            ("quantised activations", f32s(tokens * self.act_words)),
            ("activation steps", 8 * (tokens * self.act_groups) as u64),
            ("attention parts", f32s(self.small_batch * self.max_splits * config.heads * (config.head_dim + 2))),
            ("normed stream", f32s(tokens * stream_width(config))),
            ("projections of a DeltaNet", f32s(tokens * delta_width(config))),
            ("output of a DeltaNet", f32s(tokens * Slot::Delta.width(config))),
            ("gates of a DeltaNet", f32s(tokens * 2 * Slot::Alpha.width(config))),
            ("normed", f32s(normed_rows * config.dim)),
            ("normed tokens of sequences", f32s(kept_rows * config.dim)),
            ("logits", f32s(self.logit_rows * config.vocab)),
        ]
    }
}

fn most_rows(max_binding: u64, row_bytes: usize) -> usize {
    usize::try_from(max_binding / row_bytes as u64).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Activation, Family, Multipliers, Rope, RopeStyle},
        plan::{BackendKind, KvType},
    };

    fn config(dim: usize, ffn_dim: usize, heads: usize, kv_heads: usize, vocab: usize) -> Config {
        Config {
            arch: String::new(),
            family: Family::BitNet,
            name: String::new(),
            layers: 30,
            dim,
            ffn_dim,
            heads,
            kv_heads,
            head_dim: 128,
            vocab,
            context: 4096,
            rms_eps: 1e-5,
            rope: Rope {
                dims: 128,
                base: 1e4,
                position_scale: 1.0,
                yarn: None,
                long: None,
                style: RopeStyle::HalfSplit,
            },
            activation: Activation::Relu2,
            delta: None,
            rotation: None,
            mtp_blocks: 0,
            input_norms: None,
            multipliers: Multipliers::default(),
            biased: &[],
        }
    }

    fn shape(config: &Config, context_tokens: usize, max_binding: u64) -> Result<Shape> {
        let (k_type, v_type) = (KvType::F16, KvType::F16);
        let sizes = Sizes::new(context_tokens, 512).with_kv(k_type, v_type);
        let segment =
            Segment { layers: 0..30, backend: BackendKind::Gpu, embed: true, head: true, reason: String::new() };
        Shape::new(config, None, &segment, &sizes, max_binding, (None, 64))
    }

    const BINDING: u64 = 128 << 20;

    #[test]
    fn slow_devices_large_models_and_long_contexts_take_smaller_chunks() {
        let (small, large) = (config(512, 1408, 4, 2, 32000), config(4096, 14336, 32, 8, 128_256));
        const SLOW: u64 = 4_000_000_000;
        const FAST: u64 = 400_000_000_000;
        let of = |config| shape(config, 4096, BINDING).unwrap();
        assert_eq!((of(&small).chunk_tokens, of(&large).chunk_tokens), (256, 256));
        assert_eq!(of(&small).chunk(&small, 0, 1000, SLOW), 256);
        // 218 M multiply-adds a layer and token: not even a tile, and less than a tile takes as long.
        assert_eq!(of(&large).chunk(&large, 0, 1000, SLOW), 64);
        assert_eq!(of(&large).chunk(&large, 0, 1000, FAST), 256);
        assert_eq!(of(&large).chunk(&large, 0, 1000, 32_000_000_000), 128);
        assert_eq!(of(&large).chunk(&large, 0, 5, SLOW), 5);
        // 8192 a key: 1 G a token.
        assert_eq!(of(&large).chunk(&large, 131_071, 1000, SLOW), 16);
        assert_eq!(of(&large).chunk(&large, 131_071, 1000, FAST), 256);
        // 128256 x 4096 multiply-adds a token: no more than a small batch together.
        assert_eq!(of(&large).logit_rows, 8);
    }

    #[test]
    fn there_is_a_split_for_so_many_keys_up_to_the_most() {
        let small = config(512, 1408, 4, 2, 32000);
        for (context, splits) in [(64, 1), (65, 2), (512, 8), (2048, 32), (4096, 32)] {
            assert_eq!(shape(&small, context, BINDING).unwrap().max_splits, splits, "{context} tokens");
        }
    }

    #[test]
    fn what_no_binding_can_hold_is_refused() {
        let large = config(4096, 14336, 32, 8, 128_256);
        // 8 heads of 128 in f16: 2 KiB a position.
        assert_eq!(shape(&large, 65536, BINDING).unwrap().k_bytes, BINDING);
        let error = shape(&large, 65537, BINDING).unwrap_err().to_string();
        assert!(error.contains("a cache of 65537 tokens"), "{error}");
        let error = shape(&large, 16, 100_000).unwrap_err().to_string();
        assert!(error.contains("the activations of one token"), "{error}");
    }
}
