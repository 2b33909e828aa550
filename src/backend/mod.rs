//! The boundary between what to compute and who computes it.
//!
//! Only token ids, hidden states (T, dim) f32 and logits cross it. All allocation happens in [`Backend::load`]; a step
//! allocates and creates nothing.

mod candidates;
pub mod cpu;
pub mod energy;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(feature = "gpu")]
mod known_layer;
mod known_product;
mod lengths;
mod states;
mod step;

use std::{
    any::Any,
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
};

pub use bitnet_cpu_kernels::attention::KvRows;

pub use candidates::{Candidates, Rest, Scored};
pub use states::{Checkpoint, LayerState, States};
pub use step::{Activations, Batch, Limits, Row, RowOutput, SlotId, Ticket, Want};

use crate::{
    error::Result,
    model::Model,
    plan::{Segment, Sizes},
};

/// Names a loaded segment of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId(pub usize);

/// Runs consecutive layers of a model and holds the states of its sequences.
///
/// `Any`, so that `bench` can ask a GPU for what only a GPU can tell.
pub trait Backend: Any + Send {
    /// A name for summaries: "CPU (avx2, 2 threads)", "GPU (AMD Radeon 780M, Vulkan)".
    fn name(&self) -> &str;

    /// Uploads the weights of `segment`, allocates its states, buffers and pipelines.
    /// `progress` is told the bytes of weights finished since the last call.
    fn load(
        &mut self,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SegmentId>;

    /// Limits that callers may rely on for `segment`.
    fn limits(&self, segment: SegmentId) -> Limits;

    /// Starts a step: reads the ids or hidden states of `input`, by the segment's `embed`. Does not wait for a device.
    /// One step at a time; each has to be waited for.
    fn submit(&mut self, segment: SegmentId, batch: &Batch, input: &Activations) -> Result<Ticket>;

    /// Once the step is done, replaces the hidden states or the logits and rows of `out`, by the segment's `head`.
    /// Never blocks. NaN or infinity is [`crate::Error::NotFinite`], naming the layer.
    fn poll(&mut self, ticket: &Ticket, out: &mut Activations) -> Poll<Result<()>>;

    /// As [`Self::poll`], but waits.
    fn wait(&mut self, ticket: Ticket, out: &mut Activations) -> Result<()>;

    /// From now on a step over a prompt ends with [`crate::Error::Cancelled`] soon after this flag is raised, and what it
    /// did to states is lost; `None` as at first. Where such a step is short anyway, it may run to its end.
    fn cancel_when(&mut self, _raised: Option<Arc<AtomicBool>>) {}

    /// All logits after the last token of the last step of `slot`, where that gave candidates and they do not suffice:
    /// appended to `logits`. Reruns the head, not the model.
    fn full_logits(&mut self, segment: SegmentId, slot: SlotId, logits: &mut Vec<f32>) -> Result<()>;

    /// A guess of the tokens behind `last`, which follows the tokens that a slot holds, so many of `held`. At most `most` of
    /// them, see [`Limits::most_drafted`], replace `ids`; none where there is nothing to guess with, as in a backend that does
    /// not have this. What is held stays; states that were put off are complete then.
    fn draft(
        &mut self,
        _segment: SegmentId,
        _held: (SlotId, usize),
        _last: u32,
        _most: usize,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        ids.clear();
        Ok(())
    }

    /// The states of the sequences of `segment`.
    fn states(&mut self, segment: SegmentId) -> Result<&mut dyn States>;

    /// Submits a step and waits for it.
    fn run(&mut self, segment: SegmentId, batch: &Batch, activations: &mut Activations) -> Result<()> {
        let ticket = self.submit(segment, batch, activations)?;
        self.wait(ticket, activations)
    }
}
