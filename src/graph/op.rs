//! The closed set of operations a backend runs, and where their data lives.
//!
//! A model family is a list of these (see [`super::block_ops`]): a new family is a new list, not a new kernel.
//! T is the number of tokens of a step.

use crate::model::{Activation, Config, DeltaNet, Linear, Norm};

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
    /// projections have norms on their inputs, or products in f32 share them.
    Normed,
    /// Queries with the gate of each head behind them, as q's projection gives both.
    GatedQ,
    /// Gate of attention's output, all heads.
    AttnGate,
    /// Queries, keys and values of a DeltaNet, before and after its convolution.
    DeltaQkv,
    /// Gate of a DeltaNet's output.
    DeltaGate,
    /// Output of a DeltaNet, all value heads.
    Delta,
    /// One value for each value head: the decay.
    Alpha,
    /// One value for each value head: the strength of the update.
    Beta,
}

impl Slot {
    /// All slots.
    pub const ALL: [Self; 15] = [
        Self::Hidden,
        Self::Q,
        Self::K,
        Self::V,
        Self::Attn,
        Self::Gate,
        Self::Up,
        Self::Normed,
        Self::GatedQ,
        Self::AttnGate,
        Self::DeltaQkv,
        Self::DeltaGate,
        Self::Delta,
        Self::Alpha,
        Self::Beta,
    ];

    /// f32 values per token.
    pub fn width(self, config: &Config) -> usize {
        let delta = |width: fn(&DeltaNet) -> usize| config.delta.as_ref().map_or(0, width);
        let gated = usize::from(config.has_output_gate()) * config.heads * config.head_dim;
        match self {
            Self::Hidden => config.dim,
            Self::Q | Self::Attn => config.heads * config.head_dim,
            Self::K | Self::V => config.kv_heads * config.head_dim,
            Self::Gate | Self::Up => config.ffn_dim,
            Self::Normed if config.input_norms.is_some() || config.delta.is_some() => config.dim,
            Self::Normed => 0,
            Self::GatedQ => 2 * gated,
            Self::AttnGate => gated,
            Self::DeltaQkv => delta(DeltaNet::channels),
            Self::DeltaGate | Self::Delta => delta(DeltaNet::value_width),
            Self::Alpha | Self::Beta => delta(|delta| delta.value_heads),
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
    /// As [`Self::NormQuantize`], with the model's rotation ([`crate::model::Rotation`]) between norm and int8.
    RotateQuantize {
        /// Read, not changed.
        input: Slot,
        /// `None` rotates without a norm.
        norm: Option<Norm>,
    },
    /// Ternary products of the quantised activations: out = (sum(code * q) - sum(q)) * scale * step.
    Linear {
        /// Matrices that share the input.
        parts: Vec<Part>,
    },
    /// Products of `input` in f32, of matrices of any type, overwriting Normed where they are added.
    Dense {
        /// Read, not changed.
        input: Slot,
        /// Matrices that share the input.
        parts: Vec<Part>,
    },
    /// The model's rotation of `slot`, in place.
    Rotate {
        /// As wide as the input of a folded matrix.
        slot: Slot,
    },
    /// Adds their biases to Q, K and V.
    Bias,
    /// Adds the bias of attention's output to Hidden.
    OutputBias,
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
    /// Appends K and V to the cache, without attention.
    Append,
    /// Q = the queries of GatedQ, AttnGate = its gates.
    SplitGate,
    /// Attn = Attn * sigmoid(AttnGate).
    OutputGate,
    /// Alpha and Beta = products of Normed with their matrices, in f32.
    DeltaGates,
    /// DeltaQkv = silu of its causal convolution over the tokens, channel by channel.
    DeltaConv,
    /// Delta = the gated delta rule (arXiv:2412.06464) over the tokens, from DeltaQkv, Alpha and Beta.
    DeltaRule,
    /// Delta = RMSNorm of each of its heads, times silu(DeltaGate).
    DeltaNorm {
        /// Puts the value heads of a key head next to each other, as a folded output projection reads them.
        grouped: bool,
    },
    /// Gate = activation(Gate) * Up.
    Gate(Activation),
}
