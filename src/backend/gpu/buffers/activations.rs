//! Buffers of activations.

use super::shape::{Shape, qkv_width};
use crate::{backend::gpu::device::Gpu, error::Result, graph::op::Slot, model::Config};

/// The activation buffers of a segment. Separate ones, because wgpu tracks use per buffer: one cannot be read
/// and written by the same dispatch.
pub struct ActivationBuffers {
    /// The step: see common/batch.wgsl.
    pub batch: wgpu::Buffer,
    pub hidden: wgpu::Buffer,
    pub qkv: wgpu::Buffer,
    pub attn: wgpu::Buffer,
    pub ffn: wgpu::Buffer,
    /// (tokens, act_words) four int8 each
    pub xq: wgpu::Buffer,
    /// (tokens, groups) step f32 and sum i32
    pub acts: wgpu::Buffer,
    /// (tokens, splits, heads, head_dim + 2)
    pub parts: wgpu::Buffer,
    /// (tokens, dim), or nothing
    pub stream: wgpu::Buffer,
    /// (rows, dim): the input of the head; behind the rows for any step, two of each sequence
    pub normed: wgpu::Buffer,
    /// (sequences, dim), where there are several: the input of the head that gave each its last candidates, once another
    /// step has overwritten it
    pub kept: wgpu::Buffer,
    /// (logit rows, vocab)
    pub logits: wgpu::Buffer,
}

/// Where a slot lies: f32 between tokens, and before the first.
pub struct SlotPlace<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub stride: usize,
    pub offset: usize,
}

impl ActivationBuffers {
    pub fn new(gpu: &Gpu, config: &Config, shape: &Shape) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let usage = Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC;
        let mut buffers = Vec::new();
        for (name, bytes) in shape.buffers(config) {
            buffers.push(gpu.buffer(name, bytes.max(32), usage)?);
        }
        let buffers: [wgpu::Buffer; 12] = buffers.try_into().unwrap_or_else(|_| unreachable!("twelve were made"));
        let [batch, hidden, qkv, attn, ffn, xq, acts, parts, stream, normed, kept, logits] = buffers;
        Ok(Self { batch, hidden, qkv, attn, ffn, xq, acts, parts, stream, normed, kept, logits })
    }

    /// Q, K, V share one buffer, and so do Gate and Up: one product writes them all.
    pub fn place(&self, config: &Config, slot: Slot) -> SlotPlace<'_> {
        let (buffer, stride, offset) = match slot {
            Slot::Hidden => (&self.hidden, config.dim, 0),
            Slot::Q => (&self.qkv, qkv_width(config), 0),
            Slot::K => (&self.qkv, qkv_width(config), Slot::Q.width(config)),
            Slot::V => (&self.qkv, qkv_width(config), Slot::Q.width(config) + Slot::K.width(config)),
            Slot::Attn => (&self.attn, Slot::Attn.width(config), 0),
            Slot::Gate => (&self.ffn, 2 * config.ffn_dim, 0),
            Slot::Up => (&self.ffn, 2 * config.ffn_dim, config.ffn_dim),
            Slot::Normed => (&self.stream, config.dim, 0),
            Slot::GatedQ
            | Slot::AttnGate
            | Slot::DeltaQkv
            | Slot::DeltaGate
            | Slot::Delta
            | Slot::Alpha
            | Slot::Beta => {
                unreachable!("models with {slot:?} are refused before buffers are made")
            }
        };
        SlotPlace { buffer, stride, offset }
    }
}
