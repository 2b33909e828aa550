//! Keys and values in and out of a layer's cache, when a prompt was computed on one backend and the answer is on
//! the other.

use std::ops::Range;

use half::f16;

use super::{device::Gpu, lower::LayerCache, readback::Readback};
use crate::{backend::CacheRows, error::Result, plan::KvType};

/// One of the arrays of a layer: (positions, width).
pub(super) struct Rows<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub ty: KvType,
    pub width: usize,
}

impl LayerCache {
    /// Keys, then values.
    pub(super) fn arrays(&self, types: [KvType; 2], width: usize) -> [Rows<'_>; 2] {
        let [k, v] = types;
        [Rows { buffer: &self.k, ty: k, width }, Rows { buffer: &self.v, ty: v, width }]
    }
}

impl Rows<'_> {
    fn bytes(&self, positions: usize) -> u64 {
        self.ty.bytes(positions * self.width) as u64
    }

    fn decode(&self, bytes: &[u8], out: &mut Vec<f32>) {
        out.clear();
        match self.ty {
            KvType::F16 => out.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())),
            KvType::F32 => {
                out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
            KvType::Q8_0 => unreachable!("refused when the segment is planned"),
        }
    }

    fn write(&self, gpu: &Gpu, start: usize, values: &[f32]) {
        let bytes: Vec<u8> = match self.ty {
            KvType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            KvType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            KvType::Q8_0 => unreachable!("refused when the segment is planned"),
        };
        gpu.queue.write_buffer(self.buffer, self.bytes(start), &bytes);
    }
}

/// Replaces `rows` by what the arrays hold at `positions`. Makes a staging buffer: this happens once a prompt.
pub(super) fn read(gpu: &Gpu, [k, v]: [Rows<'_>; 2], positions: Range<usize>, rows: &mut CacheRows) -> Result<()> {
    let (start, count) = (positions.start, positions.len());
    let k_bytes = k.bytes(count);
    let mut readback = Readback::new(gpu, k_bytes + v.bytes(count))?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let sources = [(k.buffer, k.bytes(start), k_bytes), (v.buffer, v.bytes(start), v.bytes(count))];
    let pending = readback.record_ranges(&mut encoder, &sources);
    let submission = gpu.queue.submit([encoder.finish()]);
    readback.read(gpu, pending, submission, |bytes| {
        let (keys, values) = bytes.split_at(k_bytes as usize);
        k.decode(keys, &mut rows.k);
        v.decode(values, &mut rows.v);
    })
}

/// Writes `rows` from position `start` on.
pub(super) fn write(gpu: &Gpu, [k, v]: [Rows<'_>; 2], start: usize, rows: &CacheRows) -> Result<()> {
    k.write(gpu, start, &rows.k);
    v.write(gpu, start, &rows.v);
    gpu.check("writing the cache")
}
