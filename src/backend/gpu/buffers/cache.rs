//! The caches of a layer, and keys and values in and out of them: from one sequence to another, or to another backend.

use std::ops::Range;

use bitnet_cpu_kernels::attention::{KvRows, Q8_BLOCK};

use super::readback::Readback;
use crate::{
    backend::{LayerState, SlotId, gpu::device::Gpu},
    error::{Error, Result},
    model::Config,
    plan::{KvType, Sizes},
};

/// Keys or values of one sequence in a layer: (positions, heads, [`head_bytes`]), as `shaders/common/kv_cache.wgsl` reads it.
pub struct Rows<'a> {
    buffer: &'a wgpu::Buffer,
    ty: KvType,
    heads: usize,
    head_dim: usize,
    /// Positions of other sequences before.
    base: usize,
}

/// Bytes of a head at a position: of 8-bit values the codes, then their scales, each in whole words.
fn head_bytes(ty: KvType, head_dim: usize) -> usize {
    match ty {
        KvType::F16 => 2 * head_dim,
        KvType::F32 => 4 * head_dim,
        KvType::Q8_0 => code_bytes(head_dim) + (2 * head_dim.div_ceil(Q8_BLOCK)).next_multiple_of(4),
    }
}

/// Bytes of the codes of a head, in whole words.
fn code_bytes(head_dim: usize) -> usize {
    head_dim.next_multiple_of(4)
}

/// Bytes of a position in one of the arrays.
pub fn position_bytes(ty: KvType, config: &Config) -> usize {
    config.kv_heads * head_bytes(ty, config.head_dim)
}

/// Keys and values of one layer, of the sequences whose caches one binding holds.
pub struct CacheWindow {
    pub index: u32,
    pub slots: Range<usize>,
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
}

impl CacheWindow {
    /// Keys, then values, of a slot of this window.
    pub fn arrays(&self, slot: SlotId, sizes: &Sizes, config: &Config) -> [Rows<'_>; 2] {
        let base = (slot.index() - self.slots.start) * sizes.context_tokens;
        let rows = |buffer, ty| Rows { buffer, ty, heads: config.kv_heads, head_dim: config.head_dim, base };
        [rows(&self.k, sizes.k_type), rows(&self.v, sizes.v_type)]
    }
}

impl Rows<'_> {
    fn bytes(&self, positions: usize) -> u64 {
        (positions * self.heads * head_bytes(self.ty, self.head_dim)) as u64
    }

    fn decode(&self, bytes: &[u8]) -> KvRows {
        match self.ty {
            KvType::F16 => KvRows::F16 { bits: bytemuck::pod_collect_to_vec(bytes) },
            KvType::F32 => KvRows::Floats(bytemuck::pod_collect_to_vec(bytes)),
            KvType::Q8_0 => {
                let heads = || bytes.chunks_exact(head_bytes(self.ty, self.head_dim));
                let scale_bytes = 2 * self.head_dim.div_ceil(Q8_BLOCK);
                let scales = heads().flat_map(|head| head[code_bytes(self.head_dim)..][..scale_bytes].chunks_exact(2));
                KvRows::Q8_0 {
                    codes: heads().flat_map(|head| &head[..self.head_dim]).map(|&code| code.cast_signed()).collect(),
                    scales: scales.map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
                }
            }
        }
    }

    fn encode(&self, rows: &KvRows) -> Result<Vec<u8>> {
        Ok(match (self.ty, rows) {
            (KvType::F16, KvRows::F16 { bits }) => bytemuck::pod_collect_to_vec(bits),
            (KvType::F32, KvRows::Floats(values)) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            (KvType::Q8_0, KvRows::Q8_0 { codes, scales }) => {
                let mut bytes = Vec::new();
                let heads = codes.chunks_exact(self.head_dim);
                for (codes, scales) in heads.zip(scales.chunks_exact(self.head_dim.div_ceil(Q8_BLOCK))) {
                    let codes: &[u8] = bytemuck::cast_slice(codes);
                    bytes.extend_from_slice(codes);
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                    bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
                bytes
            }
            (ty, KvRows::Floats(_)) => return Err(Error::malformed("rows for the cache", format!("{ty:?}"), "floats")),
            (ty, KvRows::F16 { .. }) => {
                return Err(Error::malformed("rows for the cache", format!("{ty:?}"), "16-bit floats"));
            }
            (ty, KvRows::Q8_0 { .. }) => {
                return Err(Error::malformed("rows for the cache", format!("{ty:?}"), "8-bit values"));
            }
        })
    }

    /// Bytes of the buffer before a position.
    fn offset(&self, position: usize) -> u64 {
        self.bytes(self.base + position)
    }

    fn write(&self, gpu: &Gpu, positions: &Range<usize>, rows: &KvRows) -> Result<()> {
        let (bytes, expected) = (self.encode(rows)?, self.bytes(positions.len()));
        // What lies behind belongs to another sequence.
        if bytes.len() as u64 != expected {
            return Err(Error::malformed("rows for the cache", format!("{expected} bytes"), bytes.len()));
        }
        gpu.queue.write_buffer(self.buffer, self.offset(positions.start), &bytes);
        Ok(())
    }

    /// Records a copy of the first `positions` to another sequence, through `room` where both lie in one buffer: that
    /// cannot be copied to itself.
    pub fn copy(&self, encoder: &mut wgpu::CommandEncoder, to: &Self, positions: usize, room: &wgpu::Buffer) {
        let (bytes, from_offset, to_offset) = (self.bytes(positions), self.offset(0), to.offset(0));
        if self.buffer != to.buffer {
            encoder.copy_buffer_to_buffer(self.buffer, from_offset, to.buffer, to_offset, bytes);
            return;
        }
        let mut done = 0;
        while done < bytes {
            let now = room.size().min(bytes - done);
            encoder.copy_buffer_to_buffer(self.buffer, from_offset + done, room, 0, now);
            encoder.copy_buffer_to_buffer(room, 0, to.buffer, to_offset + done, now);
            done += now;
        }
    }
}

/// Replaces `to` by what the arrays hold at `positions`. Makes a staging buffer: this happens once a prompt.
pub fn read(gpu: &Gpu, [k, v]: [Rows<'_>; 2], positions: Range<usize>, to: &mut LayerState) -> Result<()> {
    let (start, count) = (positions.start, positions.len());
    let k_bytes = k.bytes(count);
    let mut readback = Readback::new(gpu, 1, k_bytes + v.bytes(count))?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let sources = [(k.buffer, k.offset(start), k_bytes), (v.buffer, v.offset(start), v.bytes(count))];
    let pending = readback.record(&mut encoder, &sources);
    let submission = gpu.queue.submit([encoder.finish()]);
    readback.wait(gpu, pending, submission, |bytes| {
        let (keys, values) = bytes.split_at(k_bytes as usize);
        *to = LayerState::Kv { k: k.decode(keys), v: v.decode(values) };
    })
}

/// Writes `from` to `positions`.
pub fn write(gpu: &Gpu, [k, v]: [Rows<'_>; 2], positions: &Range<usize>, from: &LayerState) -> Result<()> {
    let LayerState::Kv { k: keys, v: values } = from else {
        return Err(Error::malformed("state for a layer", "keys and values", "a recurrent state"));
    };
    k.write(gpu, positions, keys)?;
    v.write(gpu, positions, values)?;
    gpu.check("writing the cache")
}
