//! The time of each kernel, from time stamps of the GPU.
//!
//! In: the steps of a segment while it is profiled; each dispatch becomes a compute pass of its own with a time
//! stamp at both ends, so a profiled step is slower than a usual one, which knows nothing of this. Out: one
//! [`KernelTime`] for each kernel and size of weights.

use std::time::Duration;

use crate::{
    backend::gpu::{
        buffers::readback::{Pending, Readback},
        device::Gpu,
        kernels::pipelines::{Program, Streams},
    },
    error::{Error, Result},
};

/// Calls of a kernel that have the same weights to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// As in the table of kernels.
    pub name: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// All of its time on the GPU.
    pub time: Duration,
    /// Bytes of weights and caches that all calls had to read, once a call. Activations, which stay in the GPU's
    /// caches, are not counted.
    pub bytes: u64,
    /// The part of `bytes` that one call reads of weights: tells apart the products of a layer.
    pub weight_bytes_per_call: u64,
}

/// Bytes that a dispatch reads from memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    weight_bytes: u64,
    /// Bytes of the cache when it is full.
    cache_bytes: u64,
}

impl Traffic {
    /// Traffic of a kernel with these bindings.
    pub fn new(program: Program, buffers: &[wgpu::BufferBinding<'_>]) -> Self {
        let sum = |bindings: &[usize]| -> u64 {
            let bound = bindings.iter().filter_map(|&i| buffers.get(i));
            bound.map(|b| b.size.map_or_else(|| b.buffer.size() - b.offset, wgpu::BufferSize::get)).sum()
        };
        match program.streams() {
            Streams::Weights(bindings) => Self { weight_bytes: sum(bindings), cache_bytes: 0 },
            Streams::Cache(bindings) => Self { weight_bytes: 0, cache_bytes: sum(bindings) },
            Streams::Little => Self::default(),
        }
    }
}

/// Time stamps of one query set: WebGPU's limit.
const QUERIES: u32 = 4096;
const TIMED_PER_SET: usize = QUERIES as usize / 2;

/// A dispatch recorded since the last submit.
struct Mark {
    name: &'static str,
    traffic: Traffic,
    /// Positions of the caches that it reads.
    positions: u64,
}

/// Times the dispatches of a segment.
pub struct Profiler {
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    readback: Readback,
    marks: Vec<Mark>,
    bound_positions: usize,
    kernels: Vec<KernelTime>,
}

impl Profiler {
    /// For submits of up to `dispatches`, and caches of which a binding holds `bound_positions`.
    pub fn new(gpu: &Gpu, dispatches: usize, bound_positions: usize) -> Result<Self> {
        if !gpu.caps().timestamps {
            return Err(Error::unsupported("profiling", format!("{} has no time stamps", gpu.caps().name)));
        }
        let count = dispatches.div_ceil(TIMED_PER_SET).max(1);
        let sets = (0..count).map(|_| gpu.time_stamps(QUERIES)).collect();
        let bytes = count as u64 * u64::from(QUERIES) * u64::from(wgpu::QUERY_SIZE);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self {
            sets,
            resolved: gpu.buffer("time stamps", bytes, usage)?,
            readback: Readback::new(gpu, 1, bytes)?,
            marks: Vec::with_capacity(dispatches),
            bound_positions,
            kernels: Vec::new(),
        })
    }

    /// A pass for one dispatch.
    pub fn pass<'e>(
        &mut self,
        encoder: &'e mut wgpu::CommandEncoder,
        name: &'static str,
        traffic: Traffic,
        positions: u64,
    ) -> wgpu::ComputePass<'e> {
        let at = self.marks.len();
        let first = (at % TIMED_PER_SET * 2) as u32;
        let timestamp_writes = self.sets.get(at / TIMED_PER_SET).map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        });
        if timestamp_writes.is_some() {
            self.marks.push(Mark { name, traffic, positions });
        }
        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(name), timestamp_writes })
    }

    /// Records the copy of all stamps since the last submit; to be followed by the submit and [`read`](Self::read).
    #[must_use]
    pub fn resolve(&mut self, encoder: &mut wgpu::CommandEncoder) -> Option<Pending> {
        let stamps = 2 * self.marks.len();
        if stamps == 0 {
            return None;
        }
        let stride = u64::from(QUERIES) * u64::from(wgpu::QUERY_SIZE);
        for (i, set) in (0..).zip(self.sets.iter().take(stamps.div_ceil(QUERIES as usize))) {
            let here = (stamps - i as usize * QUERIES as usize).min(QUERIES as usize);
            encoder.resolve_query_set(set, 0..here as u32, &self.resolved, i * stride);
        }
        Some(self.readback.record(encoder, &[(&self.resolved, 0, stamps as u64 * u64::from(wgpu::QUERY_SIZE))]))
    }

    /// Waits for the submit, and adds its times.
    pub fn read(&mut self, gpu: &Gpu, pending: Pending, submission: wgpu::SubmissionIndex) -> Result<()> {
        let marks = std::mem::take(&mut self.marks);
        let period_ns = f64::from(gpu.queue.get_timestamp_period());
        let stamps: Vec<u64> = self.readback.wait(gpu, pending, submission, bytemuck::pod_collect_to_vec)?;
        for (mark, pair) in marks.into_iter().zip(stamps.chunks_exact(2)) {
            // A clock that is reset in between gives a negative time; it counts as none.
            let ns = pair[1].saturating_sub(pair[0]) as f64 * period_ns;
            let Traffic { weight_bytes, cache_bytes } = mark.traffic;
            let filled = u128::from(cache_bytes) * u128::from(mark.positions) / self.bound_positions.max(1) as u128;
            add(
                &mut self.kernels,
                &KernelTime {
                    name: mark.name,
                    calls: 1,
                    time: Duration::from_nanos(ns as u64),
                    bytes: weight_bytes + filled as u64,
                    weight_bytes_per_call: weight_bytes,
                },
            );
        }
        Ok(())
    }

    /// Times of the kernels.
    pub fn finish(self) -> Vec<KernelTime> {
        self.kernels
    }
}

/// Adds a kernel's calls to those of the same name and weights.
pub fn add(kernels: &mut Vec<KernelTime>, new: &KernelTime) {
    let same = |k: &&mut KernelTime| (k.name, k.weight_bytes_per_call) == (new.name, new.weight_bytes_per_call);
    match kernels.iter_mut().find(same) {
        Some(kernel) => {
            kernel.calls += new.calls;
            kernel.time += new.time;
            kernel.bytes += new.bytes;
        }
        None => kernels.push(new.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::kernels::pipelines::Shader;

    #[test]
    fn kernels_of_the_same_weights_are_added_up() {
        let kernel = |name, us, bytes| KernelTime {
            name,
            calls: 1,
            time: Duration::from_micros(us),
            bytes,
            weight_bytes_per_call: bytes,
        };
        let mut all = Vec::new();
        for new in [kernel("a", 5, 100), kernel("a", 7, 200), kernel("b", 1, 100), kernel("a", 6, 100)] {
            add(&mut all, &new);
        }
        let found: Vec<_> = all.iter().map(|k| (k.name, k.calls, k.time.as_micros(), k.bytes)).collect();
        assert_eq!(found, [("a", 2, 11, 200), ("a", 1, 7, 200), ("b", 1, 1, 100)]);
    }

    /// A new kernel that reads weights or a cache has to say so, or its GB/s would be missing.
    #[test]
    fn what_reads_weights_or_a_cache_says_which() {
        for program in Shader::ALL.iter().flat_map(|shader| shader.programs()) {
            let name = program.name();
            let streams = ["ternary", "folded", "head", "attention", "delta_input"].iter().any(|start| name.starts_with(start))
                // The parts it adds up are activations.
                && name != "attention_merge";
            let bindings = match program.streams() {
                Streams::Weights(bindings) | Streams::Cache(bindings) => bindings,
                Streams::Little => &[],
            };
            assert_eq!(!bindings.is_empty(), streams, "{name}");
            assert!(bindings.iter().all(|&i| i < program.kernel().bindings.len()), "{name}");
            // What a product that quantises its input itself binds first is that input.
            assert!(!program.folds() || bindings[0] == 2, "{name}");
        }
    }
}
