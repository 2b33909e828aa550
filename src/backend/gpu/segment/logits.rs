//! All logits of a token whose step gave candidates.

use std::time::Instant;

use super::{
    ahead::{RecordedStep, Stage},
    held::Place,
    loaded::GpuSegment,
    steps::check_damage,
};
use crate::{
    backend::{
        SlotId,
        gpu::{
            kernels::params::Dynamic,
            record::{encode::StepParams, proof::proven},
        },
    },
    error::{Error, Result},
};

impl GpuSegment {
    /// Appends the logits after the last token of `slot`, whose last step gave candidates: from the input of the head,
    /// which is still on the device.
    pub fn full_logits(&mut self, slot: SlotId, logits: &mut Vec<f32>) -> Result<()> {
        self.abandon()?;
        let place = if slot.index() < self.sizes.sequences { self.held.get(slot) } else { None };
        let place = place.ok_or_else(|| Error::missing("a last step with candidates", format!("slot {}", slot.0)))?;
        // What is only recorded shares its parameters with what follows, where those go through a buffer.
        if matches!(self.ahead, Some(RecordedStep { stage: Stage::Recorded(..), .. })) {
            self.forget_ahead()?;
        }
        let vocab = self.model.config.vocab;
        let mut encoder = self.new_encoder();
        encoder.clear_buffer(&self.activations.batch, 0, Some(4));
        self.proof.restart();
        let row_bytes = 4 * self.model.config.dim as u64;
        let normed = match place {
            Place::Shared(row) | Place::Own(row) => row,
            Place::Kept => {
                let row = self.held.own_row(slot, None);
                let (from, to) = (&self.activations.kept, &self.activations.normed);
                encoder.copy_buffer_to_buffer(
                    from,
                    row_bytes * slot.index() as u64,
                    to,
                    row_bytes * row as u64,
                    row_bytes,
                );
                row
            }
        };
        let dynamic = Dynamic { tokens: 1, normed: normed as u32, ..Dynamic::default() };
        let params = StepParams::from(dynamic);
        let Self { lists, recorder, uniforms, activations, bulk, proof, .. } = self;
        let list = lists.head.iter().flat_map(|head| &head.one);
        recorder.record(&mut encoder, list.map(|dispatch| (&params, dispatch)), uniforms);
        let sources = [proof.source(), (&activations.batch, 0, 4), (&activations.logits, 0, 4 * vocab as u64)];
        let pending = bulk.record(&mut encoder, &sources);
        let recorded = recorder.finish(encoder);
        let begun = self.launch(recorded, pending, Instant::now())?;
        let damage = self.bulk.wait(&self.gpu, begun.pending, begun.submission, |bytes| {
            self.readback_bytes += bytes.len() as u64;
            let (damage, values) = proven(bytes, begun.number)?.split_at(4);
            logits.extend(values.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            Ok::<_, Error>(u32::from_le_bytes([damage[0], damage[1], damage[2], damage[3]]))
        })??;
        check_damage(&self.gpu, damage, self.model.config.layers)
    }
}
