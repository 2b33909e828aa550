//! Results back to the processor, through staging buffers that are made once.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use crate::{
    backend::gpu::device::Gpu,
    error::{Error, Result},
};

/// Staging buffers: while one is read, the next step can already be recorded into another.
const RING: usize = 2;

const PENDING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

struct Staging {
    buffer: wgpu::Buffer,
    state: Arc<AtomicU8>,
}

/// The ring of staging buffers of a segment.
pub struct Readback {
    ring: Vec<Staging>,
    next: usize,
    bytes: u64,
}

/// A copy that has been recorded but not read.
#[must_use]
pub struct Pending {
    index: usize,
    bytes: u64,
}

impl Readback {
    /// Staging buffers for results of up to `bytes`.
    pub fn new(gpu: &Gpu, bytes: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = |_| {
            let buffer = gpu.buffer("readback", bytes, usage)?;
            Ok(Staging { buffer, state: Arc::new(AtomicU8::new(PENDING)) })
        };
        Ok(Self { ring: (0..RING).map(staging).collect::<Result<_>>()?, next: 0, bytes })
    }

    /// Records copies of the first bytes of each source, one behind the other, to be mapped when they are done.
    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder, sources: &[(&wgpu::Buffer, u64)]) -> Pending {
        self.record_all(encoder, sources.iter().map(|&(source, length)| (source, 0, length)))
    }

    /// The same with (source, offset, bytes).
    pub fn record_ranges(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sources: &[(&wgpu::Buffer, u64, u64)],
    ) -> Pending {
        self.record_all(encoder, sources.iter().copied())
    }

    fn record_all<'b>(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        sources: impl Iterator<Item = (&'b wgpu::Buffer, u64, u64)>,
    ) -> Pending {
        let index = self.next;
        self.next = (self.next + 1) % self.ring.len();
        let staging = &self.ring[index];
        let mut bytes = 0;
        for (source, offset, length) in sources {
            encoder.copy_buffer_to_buffer(source, offset, &staging.buffer, bytes, length);
            bytes += length;
        }
        assert!(bytes <= self.bytes, "{bytes} bytes read back through buffers of {}", self.bytes);
        staging.state.store(PENDING, Ordering::Release);
        let state = Arc::clone(&staging.state);
        encoder.map_buffer_on_submit(&staging.buffer, wgpu::MapMode::Read, 0..bytes, move |result| {
            state.store(if result.is_ok() { MAPPED } else { FAILED }, Ordering::Release);
        });
        Pending { index, bytes }
    }

    /// Waits for the submission the copies were recorded in, and hands their bytes to `read`.
    pub fn read<T>(
        &self,
        gpu: &Gpu,
        pending: Pending,
        submission: wgpu::SubmissionIndex,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let failed = |reason: &str| Error::Gpu { action: "reading results back".to_owned(), reason: reason.to_owned() };
        let staging = &self.ring[pending.index];
        gpu.wait(submission)?;
        if staging.state.load(Ordering::Acquire) != MAPPED {
            return Err(failed("the staging buffer could not be mapped"));
        }
        let result = {
            let view = staging.buffer.slice(0..pending.bytes).get_mapped_range().map_err(|e| failed(&e.to_string()))?;
            read(&view)
        };
        staging.buffer.unmap();
        Ok(result)
    }
}
