//! Taking back tokens of a small batch in layers that cannot rewind: from the checkpoint before the batch, the tokens that
//! stay run once more through the convolution and the delta rule alone, whose inputs were kept. They get the same bits.

use std::sync::Arc;

use bitnet_cpu_kernels::{ALIKE_TOKENS, Cpu, attention::Placed, delta};

use super::{
    super::{Checkpoint, Row, SlotId},
    segment::CpuSegment,
    states::{LayerStates, delta_shape},
};
use crate::graph::op::Slot;

/// Buffers whose contents of a batch are kept: inputs of the convolution and of the gates.
pub(super) const KEPT: [Slot; 3] = [Slot::DeltaQkv, Slot::Alpha, Slot::Beta];

/// Inputs of the recurrent layers in the last batch of a few tokens.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Rows of the batch; none where its inputs are not kept.
    rows: Vec<Row>,
    /// By layer of the segment: (tokens, width) of each slot of [`KEPT`]; empty for attention.
    layers: Vec<[Vec<f32>; KEPT.len()]>,
    /// Rows to be taken back before the states are looked at: the checkpoint at the beginning of the row, and its tokens that
    /// stay.
    due: Vec<(Checkpoint, Row)>,
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
        let tokens: usize = rows.iter().map(|row| row.positions.len()).sum();
        if tokens > rows.len() && tokens <= ALIKE_TOKENS {
            self.rows.extend_from_slice(rows);
        }
    }

    /// Keeps the contents of a slot in a layer, if they are of use.
    pub fn keep(&mut self, layer: usize, slot: Slot, values: &[f32]) {
        if let (Some(at), false) = (KEPT.iter().position(|kept| *kept == slot), self.rows.is_empty()) {
            self.layers[layer][at].extend_from_slice(values);
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
            self.forget(slot);
            self.due.push((place, row));
        }
    }

    /// What was kept is of a text that is no more.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// Nothing is to be taken back in a slot any more.
    pub fn forget(&mut self, slot: SlotId) {
        self.due.retain(|(_, row)| row.slot != slot);
    }
}

impl CpuSegment {
    /// Takes back what is due.
    pub(super) fn settle(&mut self, cpu: &Cpu) {
        while let Some((place, row)) = self.states.inputs.due.pop() {
            self.replay(cpu, place, &row);
        }
    }

    fn replay(&mut self, cpu: &Cpu, place: Checkpoint, row: &Row) {
        let model = Arc::clone(&self.model);
        let Some(heads) = &model.config.delta else { return };
        let shape = delta_shape(heads);
        let slot = row.slot.index();
        let earlier = self.states.inputs.rows.iter().take_while(|other| other.slot != row.slot);
        let first: usize = earlier.map(|row| row.positions.len()).sum();
        let tokens = row.positions.len();
        self.placed.clear();
        self.placed.push(Placed { cache: slot, start: row.positions.start, tokens });
        for (index, layer) in self.layers.clone().enumerate() {
            let LayerStates::Recurrent { live, kept } = &mut self.states.layers[index] else { continue };
            let (Some(weights), Some(taps)) = (model.weights.blocks[layer].delta(), &self.taps[index]) else {
                continue;
            };
            live[slot].copy_from(&kept[slot][place.index()]);
            for (of, values) in KEPT.into_iter().zip(&self.states.inputs.layers[index]) {
                let width = of.width(&model.config);
                let values = &values[first * width..(first + tokens) * width];
                self.slots[of as usize][..values.len()].copy_from_slice(values);
            }
            let slots = [Slot::DeltaQkv, Slot::Alpha, Slot::Beta, Slot::Delta];
            let [qkv, alpha, beta, out] = self
                .slots
                .get_disjoint_mut(slots.map(|slot| slot as usize))
                .unwrap_or_else(|_| unreachable!("four different slots"));
            let [qkv_len, gates, _, width] = slots.map(|slot| tokens * slot.width(&model.config));
            delta::conv(cpu, &shape, taps, live, &self.placed, &mut qkv[..qkv_len]);
            let decay = delta::Decay { rate: &weights.rate, bias: &weights.dt_bias };
            let (alpha, beta, out) = (&mut alpha[..gates], &mut beta[..gates], &mut out[..width]);
            delta::mix(cpu, &shape, &qkv[..qkv_len], alpha, beta, decay, live, &self.placed, out);
        }
    }
}
