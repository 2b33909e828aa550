//! The states of a segment's sequences.

use std::ops::Range;

use super::loaded::GpuSegment;
use crate::{
    backend::{
        Checkpoint, LayerState, SlotId, States,
        gpu::buffers::{cache, memory::LayerMemory},
    },
    error::{Error, Result},
};

impl GpuSegment {
    /// Before the state of a slot is changed, or read.
    fn open(&mut self, slot: SlotId) -> Result<()> {
        self.check_slot(slot)?;
        self.abandon()?;
        self.forget_ahead()
    }

    fn check_slot(&self, slot: SlotId) -> Result<()> {
        let slots = self.sizes.sequences;
        if slot.index() < slots {
            return Ok(());
        }
        Err(Error::malformed("a sequence's slot", format!("below {slots}"), slot.index()))
    }

    fn memory(&self, layer: usize) -> Result<&LayerMemory> {
        let layers = self.memories.len();
        self.memories.get(layer).ok_or_else(|| Error::malformed("a layer", format!("below {layers}"), layer))
    }

    /// The number of the window that has a slot's keys and values.
    fn window(&self, slot: SlotId) -> usize {
        slot.index() / self.shape.window_slots
    }
}

impl States for GpuSegment {
    fn clear(&mut self, slot: SlotId) -> Result<()> {
        self.open(slot)?;
        self.lengths.clear(slot);
        self.held.set(slot, None);
        Ok(())
    }

    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()> {
        self.open(to)?;
        self.check_slot(from)?;
        let source = self.lengths.source(from, len).ok_or_else(|| self.lengths.not_held(from, len))?;
        if len > 0 && (from != to || source.is_some()) {
            let room = self.copy_room.clone();
            let mut encoder = self.new_encoder();
            for memory in &self.memories {
                let room = || room.as_ref().ok_or_else(|| Error::missing("a second sequence", "the caches"));
                match memory {
                    LayerMemory::Recurrent(recurrent) => match source {
                        Some(place) => recurrent.restore(&mut encoder, (from, place), to),
                        None => recurrent.copy(&mut encoder, from, to, room()?),
                    },
                    LayerMemory::Kv(windows) if from != to => {
                        let arrays = |slot| windows[self.window(slot)].arrays(slot, &self.sizes, &self.model.config);
                        for (from, to) in arrays(from).into_iter().zip(arrays(to)) {
                            from.copy(&mut encoder, &to, len, room()?);
                        }
                    }
                    LayerMemory::Kv(_) => {}
                }
            }
            self.gpu.queue.submit([encoder.finish()]);
            self.gpu.check("copying a sequence's state")?;
        }
        self.lengths.clear(to);
        self.lengths.set(to, len);
        self.held.set(to, None);
        Ok(())
    }

    fn rewind(&mut self, slot: SlotId, len: usize) -> bool {
        self.lengths.rewind(slot, len)
    }

    fn checkpoint(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        // Keys and values of earlier positions stay where they are.
        if self.lengths.has_recurrent {
            self.open(slot)?;
            let mut encoder = self.new_encoder();
            for memory in &self.memories {
                if let LayerMemory::Recurrent(recurrent) = memory {
                    recurrent.keep(&mut encoder, slot, place);
                }
            }
            self.gpu.queue.submit([encoder.finish()]);
            self.gpu.check("keeping a checkpoint")?;
        }
        self.check_slot(slot)?;
        self.lengths.keep(slot, place);
        Ok(())
    }

    fn restore(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        self.open(slot)?;
        self.lengths.restore(slot, place)?;
        if self.lengths.has_recurrent {
            let mut encoder = self.new_encoder();
            for memory in &self.memories {
                if let LayerMemory::Recurrent(recurrent) = memory {
                    recurrent.restore(&mut encoder, (slot, place), slot);
                }
            }
            self.gpu.queue.submit([encoder.finish()]);
            self.gpu.check("going back to a checkpoint")?;
        }
        Ok(())
    }

    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        self.check_slot(slot)?;
        let memory = self.memory(layer)?;
        if !self.lengths.holds(slot, &positions, matches!(memory, LayerMemory::Recurrent(_))) {
            return Err(self.lengths.not_held(slot, positions.end));
        }
        match memory {
            LayerMemory::Kv(windows) => {
                let arrays = windows[self.window(slot)].arrays(slot, &self.sizes, &self.model.config);
                cache::read(&self.gpu, arrays, positions, to)
            }
            LayerMemory::Recurrent(recurrent) => recurrent.read(&self.gpu, slot, to),
        }
    }

    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        if positions.end > self.sizes.context_tokens {
            return Err(Error::ContextFull { needed: positions.end, context: self.sizes.context_tokens });
        }
        self.open(slot)?;
        match self.memory(layer)? {
            LayerMemory::Kv(windows) => {
                let arrays = windows[self.window(slot)].arrays(slot, &self.sizes, &self.model.config);
                cache::write(&self.gpu, arrays, &positions, from)?;
            }
            LayerMemory::Recurrent(recurrent) => recurrent.write(&self.gpu, slot, from)?,
        }
        // The next step begins behind these.
        self.lengths.begin(slot, positions.start);
        self.lengths.set(slot, positions.end);
        self.held.set(slot, None);
        Ok(())
    }
}
