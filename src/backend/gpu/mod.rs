//! The forward pass as compute shaders through wgpu (Vulkan, Metal, DirectX 12).
//!
//! In: a [`Model`] whose weights still lie in the memory map, token ids or hidden states. Out: hidden states or
//! logits. Reading order, which is the order data flows through: [`adapter`] (which GPU), [`device`] (open it),
//! [`self_test`], [`geometry`], [`pipelines`] (the table of kernels), `compile` and [`params`], `weights` and `buffers` (upload),
//! `slots` (activations), `fuse`, `lower` and `head` (op list to dispatches), `encode` (record them), `readback`, `segment`
//! (the steps), `profile`, [`debug`].
//!
//! Nothing of a step is computed on the processor. Everything is created in [`Backend::load`]; a step writes its ids,
//! records the prepared dispatches, submits once, and reads the logits back.

pub mod adapter;

mod buffers;

mod demand;

mod cache;

mod compile;

pub mod debug;

pub mod device;

mod encode;

pub mod fault;

mod fuse;

pub mod geometry;

mod head;

mod lower;

mod memory;

mod pace;

pub mod params;

pub mod pipelines;

mod profile;

mod readback;

mod segment;

mod select;

pub mod self_test;

mod slots;

mod weights;

use std::{ops::Range, sync::Arc};

use crate::{
    backend::{Activations, Backend, CacheRows, SegmentId, Wanted},
    error::{Error, Result},
    model::Model,
    plan::{Demand, Segment, SegmentBytes, Sizes},
};
pub use adapter::{AdapterCaps, Measure, OpenOptions, Tuning, adapters};
pub use device::{Gpu, settle};
pub use geometry::Geometry;
pub use memory::Memory;
pub use profile::KernelTime;
pub use segment::Counters;
pub use self_test::Candidate;

/// Runs segments on one GPU.
pub struct GpuBackend {
    name: String,
    gpu: Arc<Gpu>,
    segments: Vec<segment::Loaded>,
    compared: Vec<Candidate>,
}

impl GpuBackend {
    /// Opens the adapter that `options` ask for, and refuses it when it fails the self-test.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let (gpu, compared) = self_test::prepare(Gpu::open(options)?, options)?;
        gpu.compiler.keep();
        Ok(Self { compared, ..Self::on(gpu) })
    }

    /// An empty backend on a GPU that is open already; it shares the compiled kernels.
    pub fn on(gpu: Arc<Gpu>) -> Self {
        let name = format!("GPU ({}, {})", gpu.caps().name, gpu.caps().backend);
        Self { name, gpu, segments: Vec::new(), compared: Vec::new() }
    }

    /// The ways to compute that were compared when it was opened: none where an earlier run has done that.
    pub fn compared(&self) -> &[Candidate] {
        &self.compared
    }

    /// The device, for its capabilities and for tests.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Device memory that `segment` would take; also an error when it could not be loaded.
    pub fn segment_bytes(&self, model: &Model, segment: &Segment, sizes: &Sizes) -> Result<SegmentBytes> {
        segment::segment_bytes(&self.gpu, model, segment, sizes)
    }

    /// Times every kernel of the steps from here on, in a slower way, until [`take_profile`](Self::take_profile).
    ///
    /// # Errors
    /// When the adapter has no time stamps.
    pub fn start_profile(&mut self) -> Result<()> {
        self.segments.iter_mut().try_for_each(|segment| segment.start_profile(&self.gpu))
    }

    /// The kernels timed since [`start_profile`](Self::start_profile), the costliest first.
    pub fn take_profile(&mut self) -> Vec<KernelTime> {
        let mut all = Vec::new();
        for kernel in self.segments.iter_mut().flat_map(segment::Loaded::take_profile) {
            profile::add(&mut all, &kernel);
        }
        all.sort_by_key(|kernel| std::cmp::Reverse(kernel.time));
        all
    }

    fn loaded(&mut self, segment: SegmentId) -> Result<(&Gpu, &mut segment::Loaded)> {
        let count = self.segments.len();
        let loaded = self.segments.get_mut(segment.0);
        let loaded = loaded.ok_or_else(|| Error::malformed("the segment", format!("below {count}"), segment.0))?;
        Ok((&self.gpu, loaded))
    }

    /// What all parts of `model` would take; an error when the GPU cannot run it, whatever its memory.
    pub fn demand(&self, model: &Model, sizes: &Sizes) -> Result<Demand> {
        demand::demand(&self.gpu, model, sizes)
    }

    /// True where a copy of the head in fewer bits is read faster than the head itself.
    pub fn screen_pays(&self, model: &Model) -> bool {
        head::screen_pays(model.weights.head())
    }

    /// What has been done so far: the difference of two readings describes a step.
    pub fn counters(&self) -> Counters {
        let mut all = Counters { objects_created: self.gpu.objects_created(), ..Counters::default() };
        for counters in self.segments.iter().map(segment::Loaded::counters) {
            all.dispatches += counters.dispatches;
            all.submits += counters.submits;
            all.readback_bytes += counters.readback_bytes;
            all.recording += counters.recording;
        }
        all
    }
}

impl Backend for GpuBackend {
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
        self.segments.push(segment::Loaded::new(&self.gpu, model, segment, sizes, progress)?);
        self.gpu.compiler.keep();
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn alike_tokens(&self, segment: SegmentId) -> usize {
        self.segments.get(segment.0).map_or(1, segment::Loaded::alike_tokens)
    }

    fn run(
        &mut self,
        segment: SegmentId,
        activations: &mut Activations,
        positions: Range<usize>,
        wanted: Wanted,
    ) -> Result<()> {
        let (gpu, loaded) = self.loaded(segment)?;
        loaded.run(gpu, activations, positions, wanted)
    }

    fn read_cache(
        &mut self,
        segment: SegmentId,
        layer: usize,
        positions: Range<usize>,
        rows: &mut CacheRows,
    ) -> Result<()> {
        let (gpu, loaded) = self.loaded(segment)?;
        loaded.read_cache(gpu, layer, positions, rows)
    }

    fn write_cache(
        &mut self,
        segment: SegmentId,
        layer: usize,
        positions: Range<usize>,
        rows: &CacheRows,
    ) -> Result<()> {
        let (gpu, loaded) = self.loaded(segment)?;
        loaded.write_cache(gpu, layer, positions, rows)
    }
}
