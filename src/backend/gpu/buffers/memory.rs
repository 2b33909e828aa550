//! State of a layer for each sequence: keys and values, or a recurrent state.

use super::{cache::CacheWindow, readback::Readback, shape};
use crate::{
    backend::{Checkpoint, LayerState, SlotId, gpu::device::Gpu},
    error::{Error, Result},
    graph::{CHECKPOINTS, StateKind},
};

/// The memory of a layer.
pub enum LayerMemory {
    /// By window.
    Kv(Vec<CacheWindow>),
    Recurrent(Recurrent),
}

impl LayerMemory {
    /// The windows of a layer of attention; none of another.
    pub fn windows(&self) -> &[CacheWindow] {
        match self {
            Self::Kv(windows) => windows,
            Self::Recurrent(_) => &[],
        }
    }

    /// The states of a recurrent layer.
    pub fn recurrent(&self) -> Result<&Recurrent> {
        match self {
            Self::Kv(_) => Err(Error::missing("the recurrent state", "a layer of attention")),
            Self::Recurrent(recurrent) => Ok(recurrent),
        }
    }
}

/// The states of a recurrent layer, of all sequences.
pub struct Recurrent {
    /// (sequences, kernel - 1, channels) f32: the last inputs of the convolution.
    pub conv: wgpu::Buffer,
    /// (sequences, heads, values, keys) f32: S.
    pub memory: wgpu::Buffer,
    /// By sequence: inputs and S of each checkpoint.
    kept: Vec<wgpu::Buffer>,
    conv_bytes: u64,
    memory_bytes: u64,
}

impl Recurrent {
    pub fn new(gpu: &Gpu, kind: StateKind, sequences: usize) -> Result<Self> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let (conv_bytes, memory_bytes) = shape::recurrent_bytes(kind);
        let buffer = |name, bytes: u64| gpu.buffer(name, bytes.max(16), usage);
        let kept = |_| buffer("checkpoints", CHECKPOINTS as u64 * (conv_bytes + memory_bytes));
        Ok(Self {
            conv: buffer("inputs of a convolution", conv_bytes * sequences as u64)?,
            memory: buffer("recurrent states", memory_bytes * sequences as u64)?,
            kept: (0..sequences).map(kept).collect::<Result<_>>()?,
            conv_bytes,
            memory_bytes,
        })
    }

    /// Live buffers, each with the bytes of a sequence and those before them in a checkpoint.
    fn parts(&self) -> [(&wgpu::Buffer, u64, u64); 2] {
        [(&self.conv, self.conv_bytes, 0), (&self.memory, self.memory_bytes, self.conv_bytes)]
    }

    fn kept_offset(&self, place: Checkpoint) -> u64 {
        place.index() as u64 * (self.conv_bytes + self.memory_bytes)
    }

    /// Records a copy of the state of a slot to a checkpoint of it.
    pub fn keep(&self, encoder: &mut wgpu::CommandEncoder, slot: SlotId, place: Checkpoint) {
        let to = self.kept_offset(place);
        for (live, bytes, before) in self.parts() {
            let at = bytes * slot.index() as u64;
            encoder.copy_buffer_to_buffer(live, at, &self.kept[slot.index()], to + before, bytes);
        }
    }

    /// Records a copy of a checkpoint of slot `of` to the state of slot `to`.
    pub fn restore(&self, encoder: &mut wgpu::CommandEncoder, (of, place): (SlotId, Checkpoint), to: SlotId) {
        let from = self.kept_offset(place);
        for (live, bytes, before) in self.parts() {
            let at = bytes * to.index() as u64;
            encoder.copy_buffer_to_buffer(&self.kept[of.index()], from + before, live, at, bytes);
        }
    }

    /// Records a copy of the state of a slot to another one, through `room`: a buffer cannot be copied to itself.
    pub fn copy(&self, encoder: &mut wgpu::CommandEncoder, from: SlotId, to: SlotId, room: &wgpu::Buffer) {
        for (live, bytes, _) in self.parts() {
            let mut done = 0;
            while done < bytes {
                let now = room.size().min(bytes - done);
                encoder.copy_buffer_to_buffer(live, bytes * from.index() as u64 + done, room, 0, now);
                encoder.copy_buffer_to_buffer(room, 0, live, bytes * to.index() as u64 + done, now);
                done += now;
            }
        }
    }

    /// Replaces `to` by the state of a slot. Makes a staging buffer: this happens once a prompt.
    pub fn read(&self, gpu: &Gpu, slot: SlotId, to: &mut LayerState) -> Result<()> {
        let mut readback = Readback::new(gpu, 1, self.conv_bytes + self.memory_bytes)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let sources = self.parts().map(|(live, bytes, _)| (live, bytes * slot.index() as u64, bytes));
        // A convolution over single tokens has no inputs to keep.
        let sources: Vec<_> = sources.into_iter().filter(|&(.., bytes)| bytes > 0).collect();
        let pending = readback.record(&mut encoder, &sources);
        let submission = gpu.queue.submit([encoder.finish()]);
        readback.wait(gpu, pending, submission, |bytes| {
            let (conv, memory) = bytes.split_at(self.conv_bytes as usize);
            let memory = &memory[..self.memory_bytes as usize];
            *to = LayerState::Recurrent {
                conv: bytemuck::pod_collect_to_vec(conv),
                state: bytemuck::pod_collect_to_vec(memory),
            };
        })
    }

    /// Makes `from` the state of a slot.
    pub fn write(&self, gpu: &Gpu, slot: SlotId, from: &LayerState) -> Result<()> {
        let LayerState::Recurrent { conv, state } = from else {
            return Err(Error::malformed("state for a layer", "a recurrent state", "keys and values"));
        };
        let expected = (self.conv_bytes / 4, self.memory_bytes / 4);
        let found = (conv.len() as u64, state.len() as u64);
        if found != expected {
            return Err(Error::malformed("a recurrent state", format!("{expected:?} values"), format!("{found:?}")));
        }
        for ((live, bytes, _), values) in self.parts().into_iter().zip([conv, state]) {
            gpu.queue.write_buffer(live, bytes * slot.index() as u64, bytemuck::cast_slice(values));
        }
        gpu.check("writing a recurrent state")
    }
}
