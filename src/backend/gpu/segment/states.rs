//! The caches of a segment's sequences.

use std::ops::Range;

use super::loaded::GpuSegment;
use crate::{
    backend::{
        Checkpoint, LayerState, SlotId, States,
        gpu::buffers::cache::{self, Rows},
    },
    error::{Error, Result},
};

impl GpuSegment {
    /// Before the cache of a slot is changed, or read.
    fn open(&mut self, slot: SlotId) -> Result<()> {
        self.check_slot(slot)?;
        self.abandon()?;
        self.forget_ahead()
    }

    fn check_slot(&self, slot: SlotId) -> Result<()> {
        let slots = self.cached.len();
        if slot.index() < slots {
            return Ok(());
        }
        Err(Error::malformed("a sequence's slot", format!("below {slots}"), slot.index()))
    }

    /// Keys and values of a slot in a layer.
    fn arrays(&self, layer: usize, slot: SlotId) -> Result<[Rows<'_>; 2]> {
        let layers = self.caches.len();
        let windows =
            self.caches.get(layer).ok_or_else(|| Error::malformed("a layer", format!("below {layers}"), layer))?;
        let window = &windows[slot.index() / self.shape.window_slots];
        Ok(window.arrays(slot, &self.sizes, &self.model.config))
    }

    fn check_held(&self, slot: SlotId, end: usize) -> Result<()> {
        let cached = self.cached[slot.index()];
        if end <= cached {
            return Ok(());
        }
        Err(Error::malformed("positions of the cache", format!("up to {cached}"), format!("up to {end}")))
    }
}

impl States for GpuSegment {
    fn clear(&mut self, slot: SlotId) -> Result<()> {
        self.open(slot)?;
        self.cached[slot.index()] = 0;
        self.held.set(slot, None);
        Ok(())
    }

    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()> {
        self.open(to)?;
        self.check_slot(from)?;
        self.check_held(from, len)?;
        if from != to && len > 0 {
            let room = self.copy_room.clone();
            let room = room.ok_or_else(|| Error::missing("a second sequence", "the caches"))?;
            let mut encoder = self.new_encoder();
            for layer in 0..self.caches.len() {
                let arrays = self.arrays(layer, from)?.into_iter().zip(self.arrays(layer, to)?);
                for (from, to) in arrays {
                    from.copy(&mut encoder, &to, len, &room);
                }
            }
            self.gpu.queue.submit([encoder.finish()]);
            self.gpu.check("copying a cache")?;
        }
        self.cached[to.index()] = len;
        self.held.set(to, None);
        Ok(())
    }

    fn rewind(&mut self, slot: SlotId, len: usize) -> bool {
        if let Some(cached) = self.cached.get_mut(slot.index()) {
            *cached = len.min(*cached);
        }
        true
    }

    fn checkpoint(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        self.check_slot(slot)?;
        // Keys and values of earlier positions stay where they are.
        self.kept[slot.index()][place.index()] = self.cached[slot.index()];
        Ok(())
    }

    fn restore(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        self.open(slot)?;
        self.cached[slot.index()] = self.kept[slot.index()][place.index()];
        Ok(())
    }

    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        self.check_slot(slot)?;
        self.check_held(slot, positions.end)?;
        cache::read(&self.gpu, self.arrays(layer, slot)?, positions, to)
    }

    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        if positions.end > self.sizes.context_tokens {
            return Err(Error::ContextFull { needed: positions.end, context: self.sizes.context_tokens });
        }
        self.open(slot)?;
        cache::write(&self.gpu, self.arrays(layer, slot)?, &positions, from)?;
        // What runs next begins behind these.
        self.cached[slot.index()] = positions.end;
        self.held.set(slot, None);
        Ok(())
    }
}
