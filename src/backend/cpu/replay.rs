//! Taking back tokens of a small batch in layers that cannot rewind: from the checkpoint before the batch, the tokens that
//! stay run once more through the convolution and the delta rule alone, whose inputs were kept. They get the same bits.

use std::sync::Arc;

use bitnet_cpu_kernels::{Cpu, attention::Placed, delta};

use super::{
    super::{Checkpoint, Row},
    inputs::KEPT,
    segment::CpuSegment,
    states::{LayerStates, delta_shape},
};
use crate::graph::op::Slot;

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
