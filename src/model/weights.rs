//! The tensors of a model by role. Shapes are (rows, cols): rows = output features, cols = input features.

use bitnet_cpu_kernels::format::{DenseType, DenseView, Layout, ternary_bytes};

use super::ternary::TernaryMatrix;
use crate::bytes::Bytes;

/// A ternary projection of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Linear {
    /// (heads * head_dim, dim)
    Q,
    /// (kv_heads * head_dim, dim)
    K,
    /// (kv_heads * head_dim, dim)
    V,
    /// (dim, heads * head_dim)
    O,
    /// (ffn_dim, dim)
    Gate,
    /// (ffn_dim, dim)
    Up,
    /// (dim, ffn_dim)
    Down,
    /// Queries, keys and values of a DeltaNet; (channels, dim)
    DeltaQkv,
    /// Gate of a DeltaNet's output; (value width, dim)
    DeltaGate,
    /// (dim, value width)
    DeltaOut,
}

impl Linear {
    /// All projections.
    pub const ALL: [Self; 10] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::DeltaQkv,
        Self::DeltaGate,
        Self::DeltaOut,
    ];

    /// Those that have a bias in some models, in the order of their products; the last one in some of these.
    pub const BIASED: [Self; 4] = [Self::Q, Self::K, Self::V, Self::O];

    /// Those of a block of attention, in storage order.
    pub const ATTENTION: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Those of a block with a gated DeltaNet, in storage order.
    pub const DELTA: [Self; 6] = [Self::DeltaQkv, Self::DeltaGate, Self::DeltaOut, Self::Gate, Self::Up, Self::Down];
}

/// An RMSNorm weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Before q, k, v; (dim)
    Attn,
    /// On each head of q; (head_dim); Qwen3 and Qwen3.5 only
    QHead,
    /// On each head of k; (head_dim); Qwen3 and Qwen3.5 only
    KHead,
    /// Before o; (heads * head_dim); BitNet only
    AttnSub,
    /// Before gate and up; (dim)
    Ffn,
    /// Before down; (ffn_dim); BitNet only
    FfnSub,
    /// On the input of q alone; (dim). The norms of inputs are those of BitNet's embedding models and of checkpoints with
    /// `use_rms_norm`.
    QIn,
    /// On the input of k; (dim)
    KIn,
    /// On the input of v; (dim)
    VIn,
    /// On the input of o; (heads * head_dim)
    OIn,
    /// On the input of gate; (dim)
    GateIn,
    /// On the input of up; (dim)
    UpIn,
    /// On the input of down; (ffn_dim)
    DownIn,
    /// Behind o, before it is added; (dim); Gemma 3 only
    PostAttn,
    /// Behind down, before it is added; (dim); Gemma 3 only
    PostFfn,
    /// On each head of a DeltaNet's output; (its head_dim); Qwen3.5 only
    DeltaHead,
    /// After the last block; (dim).
    Output,
    /// On the input of the head, behind [`Self::Output`]; (dim). Only in models with norms on the inputs of projections.
    HeadIn,
}

impl Norm {
    /// The norms that belong to a block.
    pub const BLOCK: [Self; 16] = [
        Self::Attn,
        Self::QHead,
        Self::KHead,
        Self::AttnSub,
        Self::Ffn,
        Self::FfnSub,
        Self::QIn,
        Self::KIn,
        Self::VIn,
        Self::OIn,
        Self::GateIn,
        Self::UpIn,
        Self::DownIn,
        Self::PostAttn,
        Self::PostFfn,
        Self::DeltaHead,
    ];

    /// Those on the inputs of a block's projections.
    pub const INPUTS: [Self; 7] = [Self::QIn, Self::KIn, Self::VIn, Self::OIn, Self::GateIn, Self::UpIn, Self::DownIn];
}

/// An unquantised or conventionally quantised matrix, multiplied with f32 activations: the embedding table, the output
/// head, the gates of a DeltaNet, and a block of multi-token prediction.
#[derive(Clone, Debug)]
pub struct DenseMatrix {
    /// Output features; the vocabulary in a table.
    pub rows: usize,
    /// Input features: `dim` in a table.
    pub cols: usize,
    /// Rows in file order.
    pub data: Bytes,
    /// Element or block type.
    pub ty: DenseType,
}

impl DenseMatrix {
    /// The matrix as the kernels take it.
    pub fn view(&self) -> DenseView<'_> {
        DenseView { rows: self.rows, cols: self.cols, data: &self.data, ty: self.ty }
    }
}

/// The small tensors of a gated DeltaNet.
#[derive(Clone, Debug)]
pub struct DeltaWeights {
    /// Decay of each value head: (value heads, dim).
    pub alpha: DenseMatrix,
    /// Strength of the update of each value head: (value heads, dim).
    pub beta: DenseMatrix,
    /// Taps of the convolution, the current token's last: (channels, kernel).
    pub conv: Vec<f32>,
    /// Added to alpha's product: (value heads).
    pub dt_bias: Vec<f32>,
    /// Negative rate of the decay: (value heads).
    pub rate: Vec<f32>,
}

/// The weights of one block.
#[derive(Clone, Debug)]
pub struct Block {
    pub(super) linears: [Option<TernaryMatrix>; Linear::ALL.len()],
    pub(super) norms: [Option<Vec<f32>>; Norm::BLOCK.len()],
    pub(super) delta: Option<DeltaWeights>,
    pub(super) bias: Option<Vec<f32>>,
}

impl Block {
    /// A block from its matrices and its norms, these in the order of [`Norm::BLOCK`].
    pub fn new(
        linears: impl IntoIterator<Item = (Linear, TernaryMatrix)>,
        norms: [Option<Vec<f32>>; Norm::BLOCK.len()],
    ) -> Self {
        let mut block = Self { linears: [const { None }; Linear::ALL.len()], norms, delta: None, bias: None };
        for (role, matrix) in linears {
            block.linears[role as usize] = Some(matrix);
        }
        block
    }

    /// This block with the small tensors of a DeltaNet.
    #[must_use]
    pub fn with_delta(self, delta: DeltaWeights) -> Self {
        Self { delta: Some(delta), ..self }
    }

    /// This block with the biases of q, k and v, one after the other.
    #[must_use]
    pub fn with_bias(self, bias: Vec<f32>) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// The matrix of a projection.
    ///
    /// # Panics
    /// If blocks of this kind have none.
    pub fn linear(&self, role: Linear) -> &TernaryMatrix {
        self.linears[role as usize].as_ref().unwrap_or_else(|| panic!("no {role:?} in this block"))
    }

    /// All projections, in the order of [`Linear::ALL`].
    pub fn linears(&self) -> impl Iterator<Item = (Linear, &TernaryMatrix)> {
        Linear::ALL.into_iter().zip(&self.linears).filter_map(|(role, matrix)| Some((role, matrix.as_ref()?)))
    }

    /// The norm of that role, where the family has one.
    pub fn norm(&self, role: Norm) -> Option<&[f32]> {
        self.norms.get(role as usize)?.as_deref()
    }

    /// The small tensors of a DeltaNet, where the block is one.
    pub fn delta(&self) -> Option<&DeltaWeights> {
        self.delta.as_ref()
    }

    /// The biases of [`Config::biased`](super::Config::biased), one after the other, where there are any.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Ternary weights: each is one multiply-add a token.
    pub fn ternary_weights(&self) -> usize {
        self.linears().map(|(_, m)| m.rows * m.cols).sum()
    }

    /// Bytes of the ternary codes as [`Layout::I2sP128`], in which the GPU reads them, and of their scales.
    pub fn plain_bytes(&self) -> usize {
        let bytes = |m: &TernaryMatrix| ternary_bytes(Layout::I2sP128, m.rows, m.cols) + m.scales.bytes(m.rows, m.cols);
        self.linears().map(|(_, m)| bytes(m)).sum()
    }

    /// Bytes of the ternary codes and their scales, as [`TernaryMatrix::bytes`].
    pub fn ternary_bytes(&self) -> usize {
        self.linears().map(|(_, m)| m.bytes()).sum()
    }

    /// Bytes of everything else.
    pub fn other_bytes(&self) -> usize {
        let norms: usize = self.norms.iter().flatten().map(Vec::len).sum();
        let delta = self.delta.as_ref().map_or(0, |delta| {
            let vectors = delta.conv.len() + delta.dt_bias.len() + delta.rate.len();
            vectors * size_of::<f32>() + delta.alpha.data.len() + delta.beta.data.len()
        });
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        (norms + bias) * size_of::<f32>() + delta
    }
}

/// The block behind the layers that predicts the token after the next (multi-token prediction), for drafts. It is attention
/// as in the layers; its matrices, of whatever type, are multiplied with f32 activations.
#[derive(Clone, Debug)]
pub struct MtpBlock {
    /// Norm of the embedding of the next token; (dim).
    pub embedding_norm: Vec<f32>,
    /// Norm of the layers' output before it; (dim).
    pub hidden_norm: Vec<f32>,
    /// Makes the block's input of both, the embedding first; (dim, 2 dim).
    pub join: DenseMatrix,
    /// The norms of attention and feed-forward, without matrices.
    pub norms: Block,
    /// Matrices of attention and feed-forward, by [`Linear`].
    pub linears: [Option<DenseMatrix>; Linear::ALL.len()],
    /// Norm before the head; (dim). `None` = that of the layers.
    pub head_norm: Option<Vec<f32>>,
    /// (vocab, dim); `None` = the model's table.
    pub token_embd: Option<DenseMatrix>,
    /// (vocab, dim); `None` = the model's head.
    pub output: Option<DenseMatrix>,
}

impl MtpBlock {
    /// The matrix of a projection.
    ///
    /// # Panics
    /// If attention has no such projection.
    pub fn linear(&self, role: Linear) -> &DenseMatrix {
        self.linears[role as usize].as_ref().unwrap_or_else(|| panic!("no {role:?} in a block of attention"))
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        let tables = [self.token_embd.as_ref(), self.output.as_ref()].into_iter().flatten();
        let matrices = self.linears.iter().flatten().chain([&self.join]).chain(tables);
        let norms = self.embedding_norm.len() + self.hidden_norm.len() + self.head_norm.as_ref().map_or(0, Vec::len);
        matrices.map(|matrix| matrix.data.len()).sum::<usize>() + norms * size_of::<f32>() + self.norms.other_bytes()
    }
}

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// (vocab, dim)
    pub token_embd: DenseMatrix,
    /// One entry per layer.
    pub blocks: Vec<Block>,
    /// (dim), divided by [`Multipliers::logits`](super::Multipliers::logits)
    pub output_norm: Vec<f32>,
    /// [`Norm::HeadIn`], where there is one; (dim)
    pub head_norm: Option<Vec<f32>>,
    /// (vocab, dim); `None` = the embedding table serves as the head.
    pub output: Option<DenseMatrix>,
    /// Divides each RoPE frequency; (rope.dims / 2), where the file has `rope_freqs.weight`.
    pub rope_factors: Option<Vec<f32>>,
    /// Those of [`LongRope`](super::LongRope) beyond the original context; (rope dims / 2).
    pub long_rope_factors: Option<Vec<f32>>,
    /// For drafts; `None` where the file has none, or one that cannot run.
    pub mtp: Option<MtpBlock>,
}

impl Weights {
    /// Columns that share a scale of the quantised activations; `None` = one scale per token. The same for all
    /// matrices of a model.
    pub fn act_group(&self) -> Option<usize> {
        self.blocks.first()?.linears().next().and_then(|(_, matrix)| matrix.scales.group())
    }

    /// The output head, tied or not.
    pub fn head(&self) -> &DenseMatrix {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }
}
