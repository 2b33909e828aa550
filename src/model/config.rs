//! Hyperparameters of a model, read from GGUF metadata and validated before anything is sized by them.

/// The model families this program has an op list for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// BitNet b1.58: sub-norms before `o` and `down` (arch `bitnet-b1.58`, `bitnet-25`, `bitnet`).
    BitNet,
    /// Plain Llama graph with ternary projections (arch `llama`: Llama3-8B-1.58, Falcon3-1.58, Falcon-E).
    Llama,
    /// Llama graph with an RMSNorm on each head of q and k (arch `qwen3`).
    Qwen3,
}

/// The function between the two halves of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// relu(gate)^2 * up
    Relu2,
    /// silu(gate) * up
    Silu,
}

/// Which elements of a head rotate together (formats.md 4.9).
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
    /// Pairing of the elements.
    pub style: RopeStyle,
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
    /// Epsilon of every RMSNorm.
    pub rms_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Feed-forward activation.
    pub activation: Activation,
}
