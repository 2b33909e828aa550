//! State that the layers of a segment keep for each sequence.

use std::ops::Range;

use super::{KvRows, SlotId};
use crate::error::Result;

/// A place for a copy of what a sequence's layers cannot rewind; below [`CHECKPOINTS`](crate::graph::CHECKPOINTS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint(pub u32);

impl Checkpoint {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The state of one layer and sequence, on its way between backends or to disk.
#[derive(Clone, Debug, PartialEq)]
pub enum LayerState {
    /// Keys and values of some positions.
    Kv {
        /// Keys.
        k: KvRows,
        /// Values.
        v: KvRows,
    },
    /// State of a layer that keeps no positions.
    Recurrent {
        /// Last inputs of the convolution, (positions, channels).
        conv: Vec<f32>,
        /// (heads, value_dim, key_dim)
        state: Vec<f32>,
    },
}

impl Default for LayerState {
    fn default() -> Self {
        Self::Kv { k: KvRows::default(), v: KvRows::default() }
    }
}

/// The per-sequence states of a loaded segment. Layers count from the first of the segment.
pub trait States {
    /// Forgets all positions of a slot.
    fn clear(&mut self, slot: SlotId) -> Result<()>;

    /// Makes `to` begin with the first `len` positions of `from`: prefix sharing, several answers to one prompt. Layers
    /// that cannot rewind have that length where `from` stands or has a checkpoint.
    ///
    /// # Errors
    /// If `from` holds fewer, or a layer cannot give the state after an earlier position.
    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()>;

    /// Forgets the positions of a slot from `len` on. False, with nothing changed, where a layer cannot.
    fn rewind(&mut self, slot: SlotId, len: usize) -> bool;

    /// Keeps what [`Self::restore`] needs to bring the slot back to its present length, instead of what that place kept.
    fn checkpoint(&mut self, slot: SlotId, place: Checkpoint) -> Result<()>;

    /// Brings a slot back to a checkpoint of its own. The positions before it must not have been overwritten since.
    fn restore(&mut self, slot: SlotId, place: Checkpoint) -> Result<()>;

    /// Replaces `to` by what a layer holds of a slot at `positions`.
    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()>;

    /// Puts `from` at `positions` as if it had been computed there. Positions before must be there already.
    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()>;
}
