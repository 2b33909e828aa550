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
}

impl Linear {
    /// All projections, in storage order.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];
}

/// An RMSNorm weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Before q, k, v; (dim)
    Attn,
    /// On each head of q; (head_dim); Qwen3 only
    QHead,
    /// On each head of k; (head_dim); Qwen3 only
    KHead,
    /// Before o; (heads * head_dim); BitNet only
    AttnSub,
    /// Before gate and up; (dim)
    Ffn,
    /// Before down; (ffn_dim); BitNet only
    FfnSub,
    /// On the input of q alone; (dim). The norms of inputs are those of BitNet embedding models.
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
    /// After the last block; (dim). The only one outside the blocks.
    Output,
}

impl Norm {
    /// The norms that belong to a block.
    pub const BLOCK: [Self; 15] = [
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
    ];
}

/// An unquantised or conventionally quantised matrix: the embedding table or the output head.
#[derive(Clone, Debug)]
pub struct DenseMatrix {
    /// Output features: the vocabulary.
    pub rows: usize,
    /// Input features: `dim`.
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

/// The weights of one transformer block.
#[derive(Clone, Debug)]
pub struct Block {
    pub(super) linears: [TernaryMatrix; Linear::ALL.len()],
    pub(super) norms: [Option<Vec<f32>>; Norm::BLOCK.len()],
}

impl Block {
    /// A block from its matrices in the order of [`Linear::ALL`] and its norms in that of [`Norm::BLOCK`].
    pub fn new(linears: [TernaryMatrix; Linear::ALL.len()], norms: [Option<Vec<f32>>; Norm::BLOCK.len()]) -> Self {
        Self { linears, norms }
    }

    /// The matrix of a projection.
    pub fn linear(&self, role: Linear) -> &TernaryMatrix {
        &self.linears[role as usize]
    }

    /// The norm of that role, where the family has one.
    pub fn norm(&self, role: Norm) -> Option<&[f32]> {
        self.norms.get(role as usize)?.as_deref()
    }

    /// Ternary weights: each is one multiply-add a token.
    pub fn ternary_weights(&self) -> usize {
        self.linears.iter().map(|m| m.rows * m.cols).sum()
    }

    /// Bytes of the ternary codes as [`Layout::I2sP128`], in which the GPU reads them, and of their scales.
    pub fn plain_bytes(&self) -> usize {
        let bytes = |m: &TernaryMatrix| ternary_bytes(Layout::I2sP128, m.rows, m.cols) + m.scales.bytes(m.rows, m.cols);
        self.linears.iter().map(bytes).sum()
    }

    /// Bytes of the ternary codes and their scales, as [`TernaryMatrix::bytes`].
    pub fn ternary_bytes(&self) -> usize {
        self.linears.iter().map(TernaryMatrix::bytes).sum()
    }
}

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct Weights {
    /// (vocab, dim)
    pub token_embd: DenseMatrix,
    /// One entry per layer.
    pub blocks: Vec<Block>,
    /// (dim)
    pub output_norm: Vec<f32>,
    /// (vocab, dim); `None` = the embedding table serves as the head.
    pub output: Option<DenseMatrix>,
    /// Divides each RoPE frequency; (rope.dims / 2), where the file has `rope_freqs.weight`.
    pub rope_factors: Option<Vec<f32>>,
}

impl Weights {
    /// Columns that share a scale of the quantised activations; `None` = one scale per token. The same for all
    /// matrices of a model.
    pub fn act_group(&self) -> Option<usize> {
        self.blocks.first().and_then(|block| block.linear(Linear::Q).scales.group())
    }

    /// The output head, tied or not.
    pub fn head(&self) -> &DenseMatrix {
        self.output.as_ref().unwrap_or(&self.token_embd)
    }
}
