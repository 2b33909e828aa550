//! The GPU as a [`Backend`].

use std::{
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
};

use super::{
    buffers::head_copy::screen_pays,
    device::{Gpu, OpenOptions, candidates},
    lower::{screen::Screen, select::Selection},
    record::profile::{KernelTime, add},
    segment::{counters::Counters, demand::demand, loaded::GpuSegment, plan::segment_bytes},
    startup::self_test::{self, TestedChoices},
};
use crate::{
    backend::{Activations, Backend, Batch, Limits, SegmentId, SlotId, States, Ticket},
    error::{Error, Result},
    model::Model,
    plan::{Demand, Segment, SegmentBytes, Sizes},
};

/// Runs segments on one GPU.
pub struct GpuBackend {
    name: String,
    gpu: Arc<Gpu>,
    segments: Vec<GpuSegment>,
    compared: Vec<TestedChoices>,
    steps: u64,
    /// The step under way, and its segment.
    pending: Option<(u64, SegmentId)>,
}

impl GpuBackend {
    /// Opens the adapter that `options` ask for. One that does not open or fails the self-test is refused, and the next is
    /// taken: another GPU, or the same by another driver.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let (adapters, mut notes) = candidates(options)?;
        let (opened, refused) =
            first_sound(adapters, |adapter| Self::tested(Gpu::open_adapter(adapter, options)?, options))?;
        notes.extend(refused.into_iter().map(|reason| format!("{reason}: {} is used", opened.gpu.caps())));
        notes.into_iter().for_each(|note| opened.gpu.add_note(note));
        Ok(opened)
    }

    fn tested(gpu: Gpu, options: &OpenOptions) -> Result<Self> {
        let (gpu, compared) = self_test::prepare(gpu, options, |gpu| Box::new(Self::on(Arc::clone(gpu))))?;
        gpu.compiler.keep();
        Ok(Self { compared, ..Self::on(gpu) })
    }

    /// An empty backend on a GPU that is open already; it shares the compiled kernels.
    pub fn on(gpu: Arc<Gpu>) -> Self {
        let name = format!("GPU ({}, {})", gpu.caps().name, gpu.caps().backend);
        Self { name, gpu, segments: Vec::new(), compared: Vec::new(), steps: 0, pending: None }
    }

    /// The ways to compute that were compared when it was opened: none where an earlier run has done that.
    pub fn compared(&self) -> &[TestedChoices] {
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
        self.segments.iter_mut().try_for_each(GpuSegment::start_profile)
    }

    /// The kernels timed since [`start_profile`](Self::start_profile), the costliest first.
    pub fn take_profile(&mut self) -> Vec<KernelTime> {
        let mut all = Vec::new();
        for kernel in self.segments.iter_mut().flat_map(GpuSegment::take_profile) {
            add(&mut all, &kernel);
        }
        all.sort_by_key(|kernel| std::cmp::Reverse(kernel.time));
        all
    }

    fn loaded(&mut self, segment: SegmentId) -> Result<&mut GpuSegment> {
        let count = self.segments.len();
        let loaded = self.segments.get_mut(segment.0);
        loaded.ok_or_else(|| Error::malformed("the segment", format!("below {count}"), segment.0))
    }

    /// The segment that a ticket is of.
    fn of_ticket(&mut self, ticket: &Ticket) -> Result<&mut GpuSegment> {
        match self.pending {
            Some((number, segment)) if number == ticket.0 => self.loaded(segment),
            _ => Err(Error::missing("a step under way", format!("ticket {}", ticket.0))),
        }
    }

    /// Memory that all parts of `model` would take; an error when the GPU cannot run it, whatever its memory.
    pub fn demand(&self, model: &Model, sizes: &Sizes) -> Result<Demand> {
        demand(&self.gpu, model, sizes)
    }

    /// True where a copy of the head in fewer bits is read faster than the head itself.
    pub fn screen_pays(&self, model: &Model) -> bool {
        screen_pays(model.weights.head())
    }

    /// True where that copy serves steps that ask for so many candidates.
    pub fn screen_serves(model: &Model, candidates: usize) -> bool {
        Selection::of(candidates, model.config.vocab, true).is_some_and(Screen::serves)
    }

    /// Work done so far: the difference of two readings describes a step.
    pub fn counters(&self) -> Counters {
        let mut all = Counters { objects_created: self.gpu.objects_created(), ..Counters::default() };
        for counters in self.segments.iter().map(GpuSegment::counters) {
            all.dispatches += counters.dispatches;
            all.submits += counters.submits;
            all.readback_bytes += counters.readback_bytes;
            all.recording += counters.recording;
        }
        all
    }
}

/// The first that `open` takes, and why it took none of those before; where it takes none, all reasons.
fn first_sound<A, T>(all: Vec<A>, mut open: impl FnMut(A) -> Result<T>) -> Result<(T, Vec<String>)> {
    let mut refused = Vec::new();
    for candidate in all {
        match open(candidate) {
            Ok(opened) => return Ok((opened, refused.into_iter().map(reason).collect())),
            Err(error) => refused.push(error),
        }
    }
    if refused.len() == 1 {
        return Err(refused.remove(0));
    }
    Err(Error::NoAdapter { reason: refused.into_iter().map(reason).collect::<Vec<_>>().join("; ") })
}

fn reason(error: Error) -> String {
    match error {
        Error::NoAdapter { reason } => reason,
        other => other.to_string(),
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
        self.segments.push(GpuSegment::new(&self.gpu, model, segment, sizes, progress)?);
        self.gpu.compiler.keep();
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn limits(&self, segment: SegmentId) -> Limits {
        self.segments[segment.0].limits()
    }

    fn submit(&mut self, segment: SegmentId, batch: &Batch, input: &Activations) -> Result<Ticket> {
        if let Some((_, other)) = self.pending.take() {
            self.loaded(other)?.abandon()?;
        }
        self.loaded(segment)?.submit(batch, input)?;
        self.steps += 1;
        self.pending = Some((self.steps, segment));
        Ok(Ticket(self.steps))
    }

    fn poll(&mut self, ticket: &Ticket, out: &mut Activations) -> Poll<Result<()>> {
        let done = match self.of_ticket(ticket) {
            Ok(loaded) => loaded.poll(out),
            Err(error) => Poll::Ready(Err(error)),
        };
        if done.is_ready() {
            self.pending = None;
        }
        done
    }

    fn wait(&mut self, ticket: Ticket, out: &mut Activations) -> Result<()> {
        let done = self.of_ticket(&ticket).and_then(|loaded| loaded.wait(out));
        self.pending = None;
        done
    }

    fn cancel_when(&mut self, raised: Option<Arc<AtomicBool>>) {
        self.segments.iter_mut().for_each(|segment| segment.cancel.clone_from(&raised));
    }

    fn full_logits(&mut self, segment: SegmentId, slot: SlotId, logits: &mut Vec<f32>) -> Result<()> {
        self.loaded(segment)?.full_logits(slot, logits)
    }

    fn states(&mut self, segment: SegmentId) -> Result<&mut dyn States> {
        Ok(self.loaded(segment)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_adapter_is_taken_where_one_fails() {
        let open = |name: &'static str| match name {
            "wrong" => Err(Error::NoAdapter { reason: "wrong failed the self-test".to_owned() }),
            "closed" => Err(Error::Gpu { action: "opening closed".to_owned(), reason: "lost".to_owned() }),
            sound => Ok(sound),
        };
        assert_eq!(first_sound(vec!["a", "wrong"], open).unwrap(), ("a", Vec::new()));
        let (opened, refused) = first_sound(vec!["wrong", "closed", "a", "b"], open).unwrap();
        assert_eq!((opened, &*refused[0]), ("a", "wrong failed the self-test"));
        assert!(refused.len() == 2 && refused[1].contains("opening closed"), "{refused:?}");
        let none = first_sound(vec!["wrong", "closed"], open).unwrap_err();
        assert!(matches!(none, Error::NoAdapter { .. }) && none.to_string().contains("self-test; "), "{none}");
        assert!(matches!(first_sound(vec!["closed"], open).unwrap_err(), Error::Gpu { .. }), "its own error");
    }
}
