//! Runs op lists with the SIMD kernels: each op is one kernel call on pre-allocated buffers.

mod kernel;
mod segment;
pub mod tune;

use std::{ops::Range, sync::Arc};

use bitnet_cpu_kernels::{ALIKE_TOKENS, Cpu, isa::Isa};

use self::{kernel::Repacked, segment::CpuSegment};
pub use self::{
    kernel::{Kernel, Kernels},
    tune::Split,
};
use super::{Activations, Backend, CacheRows, SegmentId, Wanted, known_product::KnownProduct};
use crate::{
    error::{Error, Result},
    model::Model,
    plan::{Segment, Sizes},
};

/// The processor, with a fixed set of kernels and threads.
#[derive(Debug)]
pub struct CpuBackend {
    name: String,
    cpu: Cpu,
    kernels: Kernels,
    /// Threads in steps of few tokens, and of more.
    active_threads: [usize; 2],
    segments: Vec<CpuSegment>,
}

impl CpuBackend {
    /// The kernels of `isa` on `threads` threads (at least 1), on matrices as they were loaded.
    pub fn new(isa: Isa, threads: usize) -> Self {
        Self::with_kernels(isa, threads, Kernels::AsLoaded)
    }

    /// As [`Self::new`], with other kernels for ternary products.
    pub fn with_kernels(isa: Isa, threads: usize, kernels: Kernels) -> Self {
        let cpu = Cpu::new(isa, threads.max(1));
        let plural = if cpu.threads() == 1 { "" } else { "s" };
        let label = kernels.label().map(|label| format!("{label}, ")).unwrap_or_default();
        let name = format!("CPU ({}, {label}{} thread{plural})", isa.name(), cpu.threads());
        let active_threads = [cpu.threads(); 2];
        Self { name, cpu, kernels, active_threads, segments: Vec::new() }
    }

    /// Shares the work out as was found best. What is computed stays the same.
    pub fn split_as(mut self, split: Split) -> Self {
        self.active_threads = [split.decode_threads, split.prompt_threads].map(|n| n.clamp(1, self.cpu.threads()));
        self.cpu.set_tilings(split.tilings);
        self
    }
}

/// Compares one small product of the kernels of `isa` with the scalar reference.
pub fn self_test(isa: Isa) -> Result<()> {
    let known = KnownProduct::new();
    match known.fault(&known.on(isa)) {
        None => Ok(()),
        Some(fault) => Err(Error::unsupported(format!("the {isa} instruction set"), format!("self-test: {fault}"))),
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(
        &mut self,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SegmentId> {
        // Weights stay in the memory map, unless they are repacked.
        let repacked = Repacked::new(&self.cpu, model, segment, &self.kernels, progress)?;
        self.segments.push(CpuSegment::new(&self.cpu, model, segment, sizes, repacked)?);
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn alike_tokens(&self, _segment: SegmentId) -> usize {
        ALIKE_TOKENS
    }

    fn run(
        &mut self,
        segment: SegmentId,
        activations: &mut Activations,
        positions: Range<usize>,
        wanted: Wanted,
    ) -> Result<()> {
        self.cpu.pool().limit(self.active_threads[usize::from(positions.len() > ALIKE_TOKENS)]);
        self.segments[segment.0].run(&self.cpu, &self.name, activations, positions, wanted)
    }

    fn read_cache(
        &mut self,
        segment: SegmentId,
        layer: usize,
        positions: Range<usize>,
        rows: &mut CacheRows,
    ) -> Result<()> {
        [rows.k, rows.v] = self.segments[segment.0].cache(layer).read(positions);
        Ok(())
    }

    fn write_cache(
        &mut self,
        segment: SegmentId,
        layer: usize,
        positions: Range<usize>,
        rows: &CacheRows,
    ) -> Result<()> {
        self.segments[segment.0].cache(layer).write(positions.start, &rows.k, &rows.v);
        Ok(())
    }
}
