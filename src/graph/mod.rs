//! The computation: the operations of each layer, and what the layer remembers between steps.
//!
//! In: a [`Config`]. Out: a [`Graph`], which planner and backends read; where it runs is not known here.

mod families;
pub mod op;

use crate::model::Config;
use op::Op;

pub use families::block_ops;
use families::layer_ops;

/// Copies that a sequence can keep of each state that cannot be rewound: of two prompts, and before a draft.
pub const CHECKPOINTS: usize = 3;

/// State that one layer keeps between steps, for one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateKind {
    /// One key and one value a position: can be rewound to any position.
    Kv {
        /// Key/value heads.
        kv_heads: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// State of fixed size that every token overwrites (gated delta net): can only be restored from a checkpoint.
    Recurrent {
        /// Channels and remembered positions of the causal convolution.
        conv: (usize, usize),
        /// Heads of the state.
        heads: usize,
        /// Rows of a head's state.
        key_dim: usize,
        /// Columns of a head's state.
        value_dim: usize,
    },
}

impl StateKind {
    /// The state of a layer.
    pub fn of(config: &Config, layer: usize) -> Self {
        match &config.delta {
            Some(delta) if delta.layers[layer] => Self::Recurrent {
                conv: (delta.channels(), delta.kernel - 1),
                heads: delta.value_heads,
                key_dim: delta.head_dim,
                value_dim: delta.head_dim,
            },
            _ => Self::of_attention(config),
        }
    }

    /// State of a layer of attention, and of a block of multi-token prediction.
    pub fn of_attention(config: &Config) -> Self {
        Self::Kv { kv_heads: config.kv_heads, head_dim: config.head_dim }
    }

    /// States of all layers, and of a block of multi-token prediction behind them.
    pub fn all_of(config: &Config) -> impl Iterator<Item = Self> {
        (0..config.layers).map(|layer| Self::of(config, layer)).chain([Self::of_attention(config)])
    }

    /// True where positions can be forgotten from any one on.
    pub fn can_rewind(self) -> bool {
        matches!(self, Self::Kv { .. })
    }
}

/// One kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockGraph {
    /// Operations in order.
    pub ops: Vec<Op>,
    /// State that the layer keeps between steps.
    pub state: StateKind,
}

/// The block of multi-token prediction ([`crate::model::MtpBlock`]), behind the join of its inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MtpGraph {
    /// Ops that leave keys and values of known tokens, and nothing else.
    pub keys: Vec<Op>,
    /// All of the block.
    pub block: Vec<Op>,
}

impl MtpGraph {
    /// The block of a model that has one.
    pub fn of(config: &Config) -> Self {
        families::mtp_ops(config)
    }
}

/// The distinct blocks of a model, and which one each layer runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// Each block once.
    pub blocks: Vec<BlockGraph>,
    /// Index into `blocks` for each layer.
    pub of_layer: Vec<u16>,
}

impl Graph {
    /// The graph of a model.
    pub fn of(config: &Config) -> Self {
        let mut graph = Self::default();
        for layer in 0..config.layers {
            let block = BlockGraph { ops: layer_ops(config, layer), state: StateKind::of(config, layer) };
            let known = graph.blocks.iter().position(|other| *other == block);
            let index = known.unwrap_or_else(|| {
                graph.blocks.push(block);
                graph.blocks.len() - 1
            });
            graph.of_layer.push(u16::try_from(index).unwrap_or_else(|_| unreachable!("at most 512 layers")));
        }
        graph
    }

    /// The block that `layer` runs.
    pub fn layer(&self, layer: usize) -> &BlockGraph {
        &self.blocks[usize::from(self.of_layer[layer])]
    }

    /// True where every layer can forget positions from any one on.
    pub fn can_rewind(&self) -> bool {
        self.blocks.iter().all(|block| block.state.can_rewind())
    }
}
