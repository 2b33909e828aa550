//! Keys and values in and out of a layer's cache, when a prompt was computed on one backend and the answer is on
//! the other.

use std::ops::Range;

use bitnet_cpu_kernels::attention::{KvRows, Q8_BLOCK};

use super::readback::Readback;
use crate::{
    backend::{LayerState, gpu::device::Gpu},
    error::{Error, Result},
    model::Config,
    plan::KvType,
};

/// One of the arrays of a layer: (positions, heads, [`head_bytes`]), as `shaders/common/kv_cache.wgsl` reads it.
pub struct Rows<'a> {
    buffer: &'a wgpu::Buffer,
    ty: KvType,
    heads: usize,
    head_dim: usize,
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

/// The key and value cache of a layer.
pub struct LayerCache {
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
}

impl LayerCache {
    /// Keys, then values.
    pub fn arrays(&self, types: [KvType; 2], config: &Config) -> [Rows<'_>; 2] {
        let [k, v] = types;
        let rows = |buffer, ty| Rows { buffer, ty, heads: config.kv_heads, head_dim: config.head_dim };
        [rows(&self.k, k), rows(&self.v, v)]
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

    fn write(&self, gpu: &Gpu, start: usize, rows: &KvRows) -> Result<()> {
        gpu.queue.write_buffer(self.buffer, self.bytes(start), &self.encode(rows)?);
        Ok(())
    }
}

/// Replaces `to` by what the arrays hold at `positions`. Makes a staging buffer: this happens once a prompt.
pub fn read(gpu: &Gpu, [k, v]: [Rows<'_>; 2], positions: Range<usize>, to: &mut LayerState) -> Result<()> {
    let (start, count) = (positions.start, positions.len());
    let k_bytes = k.bytes(count);
    let mut readback = Readback::new(gpu, k_bytes + v.bytes(count))?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let sources = [(k.buffer, k.bytes(start), k_bytes), (v.buffer, v.bytes(start), v.bytes(count))];
    let pending = readback.record_ranges(&mut encoder, &sources);
    let submission = gpu.queue.submit([encoder.finish()]);
    readback.read(gpu, pending, submission, |bytes| {
        let (keys, values) = bytes.split_at(k_bytes as usize);
        *to = LayerState::Kv { k: k.decode(keys), v: v.decode(values) };
    })
}

/// Writes `from` from position `start` on.
pub fn write(gpu: &Gpu, [k, v]: [Rows<'_>; 2], start: usize, from: &LayerState) -> Result<()> {
    let LayerState::Kv { k: keys, v: values } = from else {
        return Err(Error::malformed("state for a layer", "keys and values", "a recurrent state"));
    };
    k.write(gpu, start, keys)?;
    v.write(gpu, start, values)?;
    gpu.check("writing the cache")
}
