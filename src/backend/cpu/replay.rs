//! Taking back tokens of a small batch in layers that cannot rewind: from the checkpoint before the batch, the tokens that
//! stay run once more through the convolution and the delta rule alone, whose inputs were kept. They get the same bits.

use std::sync::Arc;

use bitnet_cpu_kernels::Cpu;

use super::{
    super::{Checkpoint, Row},
    inputs::KEPT,
    segment::CpuSegment,
    states::LayerStates,
};
use crate::graph::op::Op;

impl CpuSegment {
    /// Takes back what is due.
    pub(super) fn settle(&mut self, cpu: &Cpu) {
        while let Some((place, row)) = self.states.inputs.due.pop() {
            self.replay(cpu, place, &row);
        }
    }

    fn replay(&mut self, cpu: &Cpu, place: Checkpoint, row: &Row) {
        let model = Arc::clone(&self.model);
        let slot = row.slot.index();
        let earlier = self.states.inputs.rows.iter().take_while(|other| other.slot != row.slot);
        let first: usize = earlier.map(|row| row.positions.len()).sum();
        let tokens = row.positions.len();
        self.spans.set(std::slice::from_ref(row));
        for (index, layer) in self.layers.clone().enumerate() {
            let LayerStates::Recurrent { live, kept } = &mut self.states.layers[index] else { continue };
            live[slot].copy_from(&kept[slot][place.index()]);
            for (of, values) in KEPT.into_iter().zip(&self.states.inputs.layers[index]) {
                let width = of.width(&model.config);
                let values = &values[first * width..(first + tokens) * width];
                self.slots[of as usize][..values.len()].copy_from_slice(values);
            }
            for op in [Op::DeltaConv, Op::DeltaRule] {
                self.run_delta(cpu, &op, &model.weights.blocks[layer], index, tokens);
            }
        }
    }
}
