//! The closed set of operations a backend runs, and where their data lives.
//!
//! A model family is a list of these (see [`super::block_ops`]): a new family is a new list, not a new kernel.
//! T is the number of tokens of a step.

use crate::model::{Activation, Config, Linear, Norm};

/// A named activation buffer, (T, width) f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The residual stream.
    Hidden,
    /// Queries, all heads.
    Q,
    /// New keys.
    K,
    /// New values.
    V,
    /// Attention output, all heads.
    Attn,
    /// Feed-forward gate, then the gated product.
    Gate,
    /// Feed-forward up.
    Up,
    /// A normed copy of the residual stream, or what is to be normed before it is added to that; only where
    /// projections have norms on their inputs.
    Normed,
}

impl Slot {
    /// All slots.
    pub const ALL: [Self; 8] =
        [Self::Hidden, Self::Q, Self::K, Self::V, Self::Attn, Self::Gate, Self::Up, Self::Normed];

    /// f32 values per token.
    pub fn width(self, config: &Config) -> usize {
        match self {
            Self::Hidden => config.dim,
            Self::Q | Self::Attn => config.heads * config.head_dim,
            Self::K | Self::V => config.kv_heads * config.head_dim,
            Self::Gate | Self::Up => config.ffn_dim,
            Self::Normed if config.family.has_input_norms() => config.dim,
            Self::Normed => 0,
        }
    }
}

/// One matrix of a [`Op::Linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which projection.
    pub weight: Linear,
    /// Where the product goes.
    pub out: Slot,
    /// Add to what `out` holds (residual) instead of overwriting it.
    pub add: bool,
}

/// One operation. Weights are named by role; the layer that runs supplies them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `out` = RMSNorm of `input`, or that added to `out`.
    Norm {
        /// Read, not changed; `Hidden` or `Normed`.
        input: Slot,
        /// The weight.
        norm: Norm,
        /// The other one of the two.
        out: Slot,
        /// Add to what `out` holds.
        add: bool,
    },
    /// RMSNorm of `input`, then int8 per token: q = round_half_even(x * 127 / max(|x|, 1e-5)), with the
    /// step max/127 and the sum of q. The result is the input of the next [`Op::Linear`].
    NormQuantize {
        /// Read, not changed.
        input: Slot,
        /// `None` quantises without a norm.
        norm: Option<Norm>,
    },
    /// Ternary products of the quantised activations: out = (sum(code * q) - sum(q)) * scale * step.
    Linear {
        /// Matrices that share the input.
        parts: Vec<Part>,
    },
    /// RMSNorm over each head of `slot`, in place.
    HeadNorm {
        /// `Q` or `K`.
        slot: Slot,
        /// `QHead` or `KHead`.
        norm: Norm,
    },
    /// Rotates the heads of Q and K in place by their positions.
    Rope,
    /// Appends K and V to the cache, then Attn = softmax(Q K^T / sqrt(head_dim), causal) V.
    Attention,
    /// Gate = activation(Gate) * Up.
    Gate(Activation),
}
