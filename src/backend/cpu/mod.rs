//! Runs op lists with the SIMD kernels: each op is one kernel call on pre-allocated buffers.

mod head;
mod inputs;
mod kernel;
mod matrices;
mod mtp;
mod mtp_state;
mod replay;
mod rotations;
mod segment;
mod spans;
mod states;
pub mod tune;

use std::{
    sync::{Arc, atomic::AtomicBool},
    task::Poll,
};

use bitnet_cpu_kernels::{ALIKE_TOKENS, Cpu, isa::Isa};

pub use self::{
    kernel::{Kernel, Kernels, own_layout},
    tune::WorkSplit,
};
use self::{matrices::Matrices, segment::CpuSegment};
use super::{Activations, Backend, Batch, Limits, SegmentId, SlotId, States, Ticket, known_product::KnownProduct};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    model::Model,
    plan::{Demand, Segment, Sizes},
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
    /// Results of the last step, and whether its segment has the head.
    done: Activations,
    done_with_head: bool,
    steps: u64,
    /// Ends a step over a prompt.
    cancel: Option<Arc<AtomicBool>>,
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
        Self {
            name,
            cpu,
            kernels,
            active_threads,
            segments: Vec::new(),
            done: Activations::default(),
            done_with_head: false,
            steps: 0,
            cancel: None,
        }
    }

    /// The codes of all loaded matrices, as a step of one token reads them.
    pub fn weights(&self) -> impl Iterator<Item = &Bytes> {
        self.segments.iter().flat_map(CpuSegment::weights)
    }

    /// Threads that compute: fewer than asked for where the system refuses more.
    pub fn threads(&self) -> usize {
        self.cpu.threads()
    }

    /// Shares the work out as was found best. What is computed stays the same.
    pub fn split_as(mut self, split: WorkSplit) -> Self {
        self.active_threads = [split.decode_threads, split.prompt_threads].map(|n| n.clamp(1, self.cpu.threads()));
        self.cpu.set_tilings(split.tilings);
        self
    }
}

/// Memory that a model takes with kernels of `isa` and these sizes, by part.
pub fn demand(isa: Isa, kernels: &Kernels, model: &Model, sizes: &Sizes) -> Demand {
    Demand::of(model, sizes, isa, |block| kernels.held_bytes(isa, block))
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
        let matrices = Matrices::new(&self.cpu, model, segment, &self.kernels, progress)?;
        self.segments.push(CpuSegment::new(&self.cpu, model, segment, sizes, matrices)?);
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn limits(&self, segment: SegmentId) -> Limits {
        self.segments[segment.0].limits()
    }

    /// Computes the step: there is no device to wait for.
    fn submit(&mut self, segment: SegmentId, batch: &Batch, input: &Activations) -> Result<Ticket> {
        self.cpu.pool().limit(self.active_threads[usize::from(batch.tokens() > ALIKE_TOKENS)]);
        let segment = &mut self.segments[segment.0];
        // A step of an answer is short, and other answers may share it.
        let cancel = self.cancel.as_deref().filter(|_| batch.tokens() > ALIKE_TOKENS);
        segment.run((&self.cpu, &self.name, cancel), batch, input, &mut self.done)?;
        self.done_with_head = segment.has_head();
        self.steps += 1;
        Ok(Ticket(self.steps))
    }

    fn poll(&mut self, ticket: &Ticket, out: &mut Activations) -> Poll<Result<()>> {
        debug_assert_eq!(ticket.0, self.steps, "one step at a time");
        let done = &mut self.done;
        if self.done_with_head {
            std::mem::swap(&mut out.logits, &mut done.logits);
            std::mem::swap(&mut out.rows, &mut done.rows);
        } else {
            std::mem::swap(&mut out.hidden, &mut done.hidden);
        }
        Poll::Ready(Ok(()))
    }

    fn wait(&mut self, ticket: Ticket, out: &mut Activations) -> Result<()> {
        match self.poll(&ticket, out) {
            Poll::Ready(done) => done,
            Poll::Pending => unreachable!("a submitted step is computed"),
        }
    }

    fn cancel_when(&mut self, raised: Option<Arc<AtomicBool>>) {
        self.cancel = raised;
    }

    fn draft(
        &mut self,
        segment: SegmentId,
        held: (SlotId, usize),
        last: u32,
        most: usize,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        self.cpu.pool().limit(self.active_threads[0]);
        self.segments[segment.0].draft(&self.cpu, held, last, most, ids);
        Ok(())
    }

    fn full_logits(&mut self, segment: SegmentId, slot: SlotId, logits: &mut Vec<f32>) -> Result<()> {
        self.segments[segment.0].full_logits(&self.cpu, slot, logits)
    }

    fn states(&mut self, segment: SegmentId) -> Result<&mut dyn States> {
        let segment = &mut self.segments[segment.0];
        segment.settle(&self.cpu);
        Ok(&mut segment.states)
    }
}
