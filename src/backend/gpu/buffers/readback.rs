//! Results back to the processor, through staging buffers that are made once.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use crate::{
    backend::gpu::device::Gpu,
    error::{Error, Result},
};

const PENDING: u8 = 0;
const MAPPED: u8 = 1;
const FAILED: u8 = 2;

struct Staging {
    buffer: wgpu::Buffer,
    state: Arc<AtomicU8>,
    /// Recorded into and not read yet.
    taken: bool,
}

/// Staging buffers: while one is read, the next step can already be recorded into another.
pub struct Readback {
    staging: Vec<Staging>,
    bytes: u64,
}

/// A copy that has been recorded but not read. It holds a staging buffer until it is read or released.
#[must_use]
#[derive(Debug)]
pub struct Pending {
    index: usize,
    bytes: u64,
}

impl Readback {
    /// So many staging buffers for results of up to `bytes` each.
    pub fn new(gpu: &Gpu, count: usize, bytes: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = |_| {
            let buffer = gpu.buffer("readback", bytes, usage)?;
            Ok(Staging { buffer, state: Arc::new(AtomicU8::new(PENDING)), taken: false })
        };
        Ok(Self { staging: (0..count).map(staging).collect::<Result<_>>()?, bytes })
    }

    /// Records copies of the sources (buffer, offset, bytes), one behind the other, to be mapped when they are done.
    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder, sources: &[(&wgpu::Buffer, u64, u64)]) -> Pending {
        let index = self.staging.iter().position(|staging| !staging.taken);
        let index = index.unwrap_or_else(|| panic!("all {} staging buffers hold results", self.staging.len()));
        let staging = &mut self.staging[index];
        staging.taken = true;
        let mut bytes = 0;
        for &(source, offset, length) in sources {
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

    /// Gives up a copy that was never submitted.
    pub fn release(&mut self, pending: Pending) {
        self.staging[pending.index].taken = false;
    }

    /// True once the results can be read without waiting. The device has to be polled for that.
    pub fn is_ready(&self, pending: &Pending) -> bool {
        self.staging[pending.index].state.load(Ordering::Acquire) != PENDING
    }

    /// Hands the bytes of copies to `read`, once their submission is done.
    pub fn read<T>(&mut self, pending: Pending, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let failed = |reason: &str| Error::Gpu { action: "reading results back".to_owned(), reason: reason.to_owned() };
        let staging = &mut self.staging[pending.index];
        staging.taken = false;
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

    /// The same, waiting for the submission that the copies were recorded in.
    pub fn wait<T>(
        &mut self,
        gpu: &Gpu,
        pending: Pending,
        submission: wgpu::SubmissionIndex,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        gpu.wait(submission)?;
        self.read(pending, read)
    }
}
