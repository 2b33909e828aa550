//! The GPU as a [`Backend`].

use std::{ops::Range, sync::Arc, task::Poll};

use super::{
    buffers::head_copy::screen_pays,
    device::{Gpu, OpenOptions},
    lower::{screen::Screen, select::Choice},
    record::profile::{KernelTime, add},
    segment::{counters::Counters, demand::demand, loaded::Loaded, plan::segment_bytes},
    startup::self_test::{self, Candidate},
};
use crate::{
    backend::{Activations, Backend, Batch, Checkpoint, LayerState, Limits, SegmentId, SlotId, States, Ticket},
    error::{Error, Result},
    model::Model,
    plan::{Demand, Segment, SegmentBytes, Sizes},
};

/// Runs segments on one GPU.
pub struct GpuBackend {
    name: String,
    gpu: Arc<Gpu>,
    segments: Vec<Loaded>,
    compared: Vec<Candidate>,
    /// Results of the last step.
    done: Activations,
    steps: u64,
    /// The segment whose states were asked for last.
    of_states: SegmentId,
}

impl GpuBackend {
    /// Opens the adapter that `options` ask for, and refuses it when it fails the self-test.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let (gpu, compared) =
            self_test::prepare(Gpu::open(options)?, options, |gpu| Box::new(Self::on(Arc::clone(gpu))))?;
        gpu.compiler.keep();
        Ok(Self { compared, ..Self::on(gpu) })
    }

    /// An empty backend on a GPU that is open already; it shares the compiled kernels.
    pub fn on(gpu: Arc<Gpu>) -> Self {
        let name = format!("GPU ({}, {})", gpu.caps().name, gpu.caps().backend);
        Self {
            name,
            gpu,
            segments: Vec::new(),
            compared: Vec::new(),
            done: Activations::default(),
            steps: 0,
            of_states: SegmentId(0),
        }
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
        segment_bytes(&self.gpu, model, segment, sizes)
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
        for kernel in self.segments.iter_mut().flat_map(Loaded::take_profile) {
            add(&mut all, &kernel);
        }
        all.sort_by_key(|kernel| std::cmp::Reverse(kernel.time));
        all
    }

    fn loaded(&mut self, segment: SegmentId) -> Result<(&Gpu, &mut Loaded)> {
        let count = self.segments.len();
        let loaded = self.segments.get_mut(segment.0);
        let loaded = loaded.ok_or_else(|| Error::malformed("the segment", format!("below {count}"), segment.0))?;
        Ok((&self.gpu, loaded))
    }

    /// What all parts of `model` would take; an error when the GPU cannot run it, whatever its memory.
    pub fn demand(&self, model: &Model, sizes: &Sizes) -> Result<Demand> {
        demand(&self.gpu, model, sizes)
    }

    /// True where a copy of the head in fewer bits is read faster than the head itself.
    pub fn screen_pays(&self, model: &Model) -> bool {
        screen_pays(model.weights.head())
    }

    /// True where that copy serves steps that ask for so many candidates.
    pub fn screen_serves(model: &Model, candidates: usize) -> bool {
        Choice::of(candidates, model.config.vocab, true).is_some_and(Screen::serves)
    }

    /// What has been done so far: the difference of two readings describes a step.
    pub fn counters(&self) -> Counters {
        let mut all = Counters { objects_created: self.gpu.objects_created(), ..Counters::default() };
        for counters in self.segments.iter().map(Loaded::counters) {
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
        self.segments.push(Loaded::new(&self.gpu, model, segment, sizes, progress)?);
        self.gpu.compiler.keep();
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn limits(&self, segment: SegmentId) -> Limits {
        self.segments[segment.0].limits()
    }

    fn submit(&mut self, segment: SegmentId, batch: &Batch, input: &Activations) -> Result<Ticket> {
        let [row] = &batch.rows[..] else {
            return Err(Error::unsupported("a step of several sequences", "the GPU runs one at a time"));
        };
        let mut done = std::mem::take(&mut self.done);
        done.ids.clone_from(&input.ids);
        done.hidden.clone_from(&input.hidden);
        let (gpu, loaded) = self.loaded(segment)?;
        let ran = loaded.run(gpu, &mut done, row.positions.clone(), row.want);
        self.done = done;
        ran?;
        self.steps += 1;
        Ok(Ticket(self.steps))
    }

    fn poll(&mut self, _ticket: &Ticket, out: &mut Activations) -> Poll<Result<()>> {
        std::mem::swap(out, &mut self.done);
        Poll::Ready(Ok(()))
    }

    fn wait(&mut self, _ticket: Ticket, out: &mut Activations) -> Result<()> {
        std::mem::swap(out, &mut self.done);
        Ok(())
    }

    fn full_logits(&mut self, segment: SegmentId, _slot: SlotId, logits: &mut Vec<f32>) -> Result<()> {
        let (gpu, loaded) = self.loaded(segment)?;
        loaded.full_logits(gpu, logits)
    }

    fn states(&mut self, segment: SegmentId) -> Result<&mut dyn States> {
        self.loaded(segment)?;
        self.of_states = segment;
        Ok(self)
    }
}

impl States for GpuBackend {
    fn clear(&mut self, _slot: SlotId) -> Result<()> {
        Ok(())
    }

    fn fork(&mut self, _from: SlotId, _to: SlotId, _len: usize) -> Result<()> {
        Err(Error::unsupported("a fork of a sequence", "the GPU runs one at a time"))
    }

    fn rewind(&mut self, _slot: SlotId, _len: usize) -> bool {
        true
    }

    fn checkpoint(&mut self, _slot: SlotId) -> Result<Checkpoint> {
        // Keys and values of earlier positions stay where they are.
        Ok(Checkpoint(0))
    }

    fn restore(&mut self, _slot: SlotId, _from: Checkpoint) -> Result<()> {
        Ok(())
    }

    fn export(&mut self, layer: usize, _slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        let (gpu, loaded) = self.loaded(self.of_states)?;
        loaded.export(gpu, layer, positions, to)
    }

    fn import(&mut self, layer: usize, _slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        let (gpu, loaded) = self.loaded(self.of_states)?;
        loaded.import(gpu, layer, positions, from)
    }
}
