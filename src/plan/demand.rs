//! Bytes that a model needs on a device, by part: known before anything is allocated.

use std::ops::Range;

use bitnet_cpu_kernels::{Isa, screen::Screen};

use super::{MTP_TOKENS, Sizes};
use crate::{
    graph::{Graph, op::Slot},
    model::{Block, Config, Model},
};

/// Bytes a model needs on a device, by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Weights of each layer.
    pub layer_weight_bytes: Vec<u64>,
    /// State of each layer for all sequences at the planned context.
    pub layer_state_bytes: Vec<u64>,
    /// Embedding table.
    pub embed_bytes: u64,
    /// Output head, with its copy in fewer bits where the sizes ask for one; 0 extra where it is the embedding table
    /// and both are on one device.
    pub head_bytes: u64,
    /// The head is the embedding table.
    pub tied: bool,
    /// Activation buffers of one backend.
    pub activation_bytes: u64,
    /// Bytes that the head adds to them.
    pub head_activation_bytes: u64,
    /// Weights, cache and buffers of the block of multi-token prediction, where the sizes ask for it: of the processor
    /// with the head.
    pub mtp_bytes: u64,
}

/// Bytes of a segment, by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentBytes {
    /// Weights and norms of the layers.
    pub weights: u64,
    /// Embedding table and output head.
    pub tables: u64,
    /// Key/value caches and recurrent states.
    pub states: u64,
    /// Activations, and small tables of a step.
    pub activations: u64,
    /// Block of multi-token prediction, with its cache.
    pub mtp: u64,
}

impl SegmentBytes {
    /// The sum.
    pub fn total(&self) -> u64 {
        self.weights + self.tables + self.states + self.activations + self.mtp
    }
}

impl Demand {
    /// Demand of `model` on the CPU with kernels of `isa` and these sizes; `held` gives the bytes of a block's matrices in
    /// the layouts that they are held in. A GPU, which aligns and splits, tells its own.
    pub fn of(model: &Model, sizes: &Sizes, isa: Isa, held: impl Fn(&Block) -> usize) -> Self {
        let config = &model.config;
        let graph = Graph::of(config);
        let head = model.weights.head();
        let screen_bytes = if sizes.head_screen { Screen::bytes(isa, head.rows, head.cols, head.ty) } else { 0 };
        Self {
            layer_weight_bytes: (model.weights.blocks.iter())
                .map(|block| (held(block) + block.other_bytes()) as u64)
                .collect(),
            layer_state_bytes: (0..config.layers).map(|layer| sizes.state_bytes(graph.layer(layer).state)).collect(),
            embed_bytes: model.weights.token_embd.data.len() as u64,
            head_bytes: (head.data.len() + screen_bytes) as u64,
            tied: model.weights.output.is_none(),
            activation_bytes: activation_bytes(config, sizes),
            head_activation_bytes: 4 * config.vocab as u64,
            mtp_bytes: model.weights.mtp.as_ref().filter(|_| sizes.mtp).map_or(0, |mtp| {
                mtp.bytes() as u64
                    + sizes.mtp_state_bytes(config)
                    + 4 * (config.vocab + MTP_TOKENS * 3 * config.dim) as u64
            }),
        }
    }

    /// Bytes that a segment takes of one device.
    pub fn segment(&self, layers: Range<usize>, embed: bool, head: bool) -> SegmentBytes {
        let embed_bytes = if embed && !(head && self.tied) { self.embed_bytes } else { 0 };
        let (head_bytes, head_activations) = if head { (self.head_bytes, self.head_activation_bytes) } else { (0, 0) };
        let mtp = if head { self.mtp_bytes } else { 0 };
        SegmentBytes {
            states: self.layer_state_bytes[layers.clone()].iter().sum(),
            weights: self.layer_weight_bytes[layers].iter().sum(),
            tables: embed_bytes + head_bytes,
            activations: self.activation_bytes + head_activations,
            mtp,
        }
    }

    /// All of [`segment`](Self::segment).
    pub fn segment_bytes(&self, layers: Range<usize>, embed: bool, head: bool) -> u64 {
        self.segment(layers, embed, head).total()
    }

    /// How many of the last `wanted` layers fit into `budget` bytes, together with the head; with all layers the
    /// embedding table as well.
    pub fn most_layers(&self, wanted: usize, budget: u64) -> usize {
        let layers = self.layer_weight_bytes.len();
        let fits = |n: usize| self.segment_bytes(layers - n..layers, n == layers, true) <= budget;
        (1..=wanted).rev().find(|&n| fits(n)).unwrap_or(0)
    }
}

/// f32 slots and int8 activations.
fn activation_bytes(config: &Config, sizes: &Sizes) -> u64 {
    let per_token: usize = Slot::ALL.iter().map(|slot| slot.width(config) * 4).sum::<usize>()
        + config.ffn_dim.max(config.dim).max(config.heads * config.head_dim);
    (per_token * sizes.batch_tokens) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untied_table_counts_twice_only_where_both_ends_are() {
        let tied = Demand {
            layer_weight_bytes: vec![100; 10],
            layer_state_bytes: vec![10; 10],
            embed_bytes: 300,
            head_bytes: 300,
            tied: true,
            activation_bytes: 5,
            head_activation_bytes: 2,
            mtp_bytes: 0,
        };
        let untied = Demand { tied: false, ..tied.clone() };
        assert_eq!(untied.segment_bytes(0..10, true, true), 1100 + 600 + 7);
        assert_eq!(untied.segment_bytes(5..10, false, true), 550 + 300 + 7);
        assert_eq!(tied.segment_bytes(0..10, true, true), 1100 + 300 + 7);
        assert_eq!(
            tied.segment(0..5, true, false),
            SegmentBytes { weights: 500, tables: 300, states: 50, activations: 5, mtp: 0 }
        );
    }
}
