//! Buffers of activations.

use super::shape::{Shape, delta_width, qkv_width};
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
    /// (tokens, [`delta_width`]): what a DeltaNet projects
    pub delta: wgpu::Buffer,
    /// (tokens, value width): its output
    pub delta_out: wgpu::Buffer,
    /// (tokens, 2 * value heads): its gates, alpha then beta
    pub gates: wgpu::Buffer,
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
        let buffers: [wgpu::Buffer; 15] = buffers.try_into().unwrap_or_else(|_| unreachable!("fifteen were made"));
        let [batch, hidden, qkv, attn, ffn, xq, acts, parts, stream, delta, delta_out, gates, normed, kept, logits] =
            buffers;
        Ok(Self {
            batch,
            hidden,
            qkv,
            attn,
            ffn,
            xq,
            acts,
            parts,
            stream,
            delta,
            delta_out,
            gates,
            normed,
            kept,
            logits,
        })
    }

    /// Q, K, V share one buffer, and so do Gate and Up, and what a DeltaNet projects: one product writes them all.
    pub fn place(&self, config: &Config, slot: Slot) -> SlotPlace<'_> {
        let projected = |before: &[Slot]| before.iter().map(|slot| slot.width(config)).sum();
        let queries = if config.has_output_gate() { Slot::GatedQ } else { Slot::Q };
        let (buffer, stride, offset) = match slot {
            Slot::Hidden => (&self.hidden, config.dim, 0),
            // Gates lie behind the queries of each head.
            Slot::Q | Slot::GatedQ | Slot::AttnGate => (&self.qkv, qkv_width(config), 0),
            Slot::K => (&self.qkv, qkv_width(config), projected(&[queries])),
            Slot::V => (&self.qkv, qkv_width(config), projected(&[queries, Slot::K])),
            Slot::Attn => (&self.attn, Slot::Attn.width(config), 0),
            Slot::Gate => (&self.ffn, 2 * config.ffn_dim, 0),
            Slot::Up => (&self.ffn, 2 * config.ffn_dim, config.ffn_dim),
            Slot::Normed => (&self.stream, config.dim, 0),
            Slot::DeltaQkv => (&self.delta, delta_width(config), 0),
            Slot::DeltaGate => (&self.delta, delta_width(config), projected(&[Slot::DeltaQkv])),
            Slot::Delta => (&self.delta_out, Slot::Delta.width(config), 0),
            Slot::Alpha => (&self.gates, 2 * Slot::Alpha.width(config), 0),
            Slot::Beta => (&self.gates, 2 * Slot::Alpha.width(config), Slot::Alpha.width(config)),
        };
        SlotPlace { buffer, stride, offset }
    }
}
