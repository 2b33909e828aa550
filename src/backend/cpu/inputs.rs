//! Inputs of recurrent layers that are kept, for tokens that are taken back.

use bitnet_cpu_kernels::ALIKE_TOKENS;

use super::super::{Checkpoint, Row, SlotId};
use crate::graph::op::Slot;

/// Buffers whose contents of a batch are kept: inputs of the convolution and of the gates.
pub(super) const KEPT: [Slot; 3] = [Slot::DeltaQkv, Slot::Alpha, Slot::Beta];

/// Inputs of the recurrent layers in the last batch of a few tokens.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// The first rows of the batch, which share at most [`ALIKE_TOKENS`] tokens; none where their inputs are not kept.
    pub(super) rows: Vec<Row>,
    /// By layer of the segment: (tokens, width) of each slot of [`KEPT`]; empty for attention.
    pub(super) layers: Vec<[Vec<f32>; KEPT.len()]>,
    /// Rows to be taken back before the states are looked at: the checkpoint at the beginning of the row, and its tokens that
    /// stay.
    pub(super) due: Vec<(Checkpoint, Row)>,
}

impl Inputs {
    /// Room for the inputs of `layers`: widths of the slots of [`KEPT`], 0 for attention.
    pub fn new(layers: impl Iterator<Item = [usize; KEPT.len()]>, sequences: usize) -> Self {
        let layers = layers.map(|widths| widths.map(|width| Vec::with_capacity(width * ALIKE_TOKENS))).collect();
        let rows = sequences.min(ALIKE_TOKENS);
        Self { rows: Vec::with_capacity(rows), layers, due: Vec::with_capacity(rows) }
    }

    /// Before a batch: its inputs are kept where some of its tokens may be taken back.
    pub fn begin(&mut self, rows: &[Row]) {
        self.rows.clear();
        self.layers.iter_mut().flatten().for_each(Vec::clear);
        let ends = rows.iter().scan(0, |end, row| {
            *end += row.positions.len();
            Some(*end)
        });
        let (kept, tokens) = ends.take_while(|end| *end <= ALIKE_TOKENS).fold((0, 0), |(rows, _), end| (rows + 1, end));
        if tokens > kept {
            self.rows.extend_from_slice(&rows[..kept]);
        }
    }

    /// Keeps the contents of a slot in a layer, (tokens, width), as far as they are of use.
    pub fn keep(&mut self, layer: usize, slot: Slot, values: &[f32], width: usize) {
        if let (Some(at), false) = (KEPT.iter().position(|kept| *kept == slot), self.rows.is_empty()) {
            let tokens: usize = self.rows.iter().map(|row| row.positions.len()).sum();
            self.layers[layer][at].extend_from_slice(&values[..tokens * width]);
        }
    }

    /// The tokens of a slot in the last batch, where they go past `len`.
    pub fn row(&self, slot: SlotId, len: usize) -> Option<&Row> {
        let row = self.rows.iter().find(|row| row.slot == slot)?;
        (row.positions.start < len && len < row.positions.end).then_some(row)
    }

    /// Takes the tokens of a slot from `len` on back, before its states are looked at; `place` has the state before its row.
    pub fn take_back(&mut self, slot: SlotId, len: usize, place: Checkpoint) {
        if let Some(row) = self.row(slot, len) {
            let mut row = row.clone();
            row.positions.end = len;
            row.checkpoint = None;
            self.forget(slot);
            self.due.push((place, row));
        }
    }

    /// Forgets all that was kept: it is of a text that is no more.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// Nothing is to be taken back in a slot any more.
    pub fn forget(&mut self, slot: SlotId) {
        self.due.retain(|(_, row)| row.slot != slot);
    }
}
