//! A runtime with a single sequence.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::{Phase, Runtime, Sequence, Standby, Work};
use crate::{
    backend::{Backend, Candidates, Want},
    error::{Error, Result},
    model::Model,
    plan::{BackendKind, Plan},
};

/// One sequence of tokens on the backends of a plan.
pub struct Session {
    runtime: Runtime,
    sequence: Sequence,
}

impl Deref for Session {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Runtime {
        &mut self.runtime
    }
}

impl Session {
    /// Loads every segment of `plan` on its backend. `progress` is told the bytes of weights finished since the last call.
    #[doc(hidden)]
    pub fn load(
        model: &Arc<Model>,
        plan: &Plan,
        backends: Vec<(BackendKind, Box<dyn Backend>)>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        Runtime::load(model, plan, backends, progress)?.try_into()
    }

    /// Lets `standby` take over where a GPU fails: the caller notices nothing but the time it takes to run all tokens
    /// again.
    #[must_use]
    #[doc(hidden)]
    pub fn with_standby(self, standby: Standby) -> Self {
        Self { runtime: self.runtime.with_standby(standby), sequence: self.sequence }
    }

    /// The runtime and its one sequence.
    pub fn parts(&mut self) -> (&mut Runtime, &mut Sequence) {
        (&mut self.runtime, &mut self.sequence)
    }

    /// The tokens whose states are held.
    pub fn tokens(&self) -> &[u32] {
        self.sequence.tokens()
    }

    /// Tokens the states can hold.
    pub fn context_tokens(&self) -> usize {
        self.runtime.sizes().context_tokens
    }

    /// True when not one more token fits.
    pub fn is_full(&self) -> bool {
        self.tokens().len() >= self.context_tokens()
    }

    /// Logits of the last step that wanted some: (wanted tokens, vocab). Empty where it gave
    /// [`candidates`](Self::candidates).
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.runtime.logits
    }

    /// The highest logits of the last step, where it wanted no more and the backend has a shortcut for them.
    pub fn candidates(&self) -> Option<&Candidates> {
        self.runtime.outputs.first().map(|output| &output.candidates).filter(|candidates| !candidates.top.is_empty())
    }

    /// Rows of the output head that the last step multiplied exactly; 0 before any.
    pub fn head_rows(&self) -> usize {
        self.runtime.outputs.first().map_or(0, |output| output.head_rows)
    }

    /// All logits after the last token, also where the last step gave candidates alone.
    pub fn all_logits(&mut self) -> Result<&mut [f32]> {
        if self.runtime.logits.is_empty() && !self.tokens().is_empty() {
            self.runtime.full_logits(&mut self.sequence)?;
            std::mem::swap(&mut self.runtime.full, &mut self.runtime.logits);
        }
        Ok(self.logits_mut())
    }

    /// Forgets all tokens from position `len` on, or more, see [`Runtime::rewind`]; does nothing when there are fewer.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        self.runtime.rewind(&mut self.sequence, len)
    }

    /// Forgets what differs from `prompt`, and its last token in any case, as that one has to run to give
    /// logits. Returns how many tokens of `prompt` are kept.
    pub fn keep_common_prefix(&mut self, prompt: &[u32]) -> Result<usize> {
        self.truncate(self.sequence.common_prefix(prompt))?;
        Ok(self.tokens().len())
    }

    /// Runs all of `ids`, in batches; the logits are those of the last one.
    pub fn prefill(&mut self, ids: &[u32]) -> Result<&mut [f32]> {
        self.prefill_while(ids, Want::Last, || true)?;
        Ok(self.logits_mut())
    }

    /// As [`prefill`](Self::prefill), asking `go_on` before each batch and giving what is wanted of the last token. False
    /// when it was stopped: then there are no logits, and [`tokens`](Self::tokens) tells how far it came.
    pub fn prefill_while(&mut self, ids: &[u32], want: Want, go_on: impl FnMut() -> bool) -> Result<bool> {
        self.runtime.prefill_while(&mut self.sequence, ids, want, go_on)
    }

    /// Runs one token; the logits are for the one after it.
    pub fn step(&mut self, id: u32) -> Result<&mut [f32]> {
        self.step_for(id, Want::Last)?;
        Ok(self.logits_mut())
    }

    /// Runs one token, for what is wanted of the logits after it.
    pub fn step_for(&mut self, id: u32, want: Want) -> Result<()> {
        self.run_ids(&[id], want, Phase::Decode)
    }

    /// As [`Runtime::draft`], behind the tokens held.
    pub fn draft(&mut self, last: u32, most: usize, ids: &mut Vec<u32>) -> Result<()> {
        self.runtime.draft(&self.sequence, last, most, ids)
    }

    /// Runs at most [`Limits::exact_tokens`](crate::backend::Limits) tokens in one pass, as steps of an answer:
    /// [`logits_after`](Self::logits_after) has those of each.
    pub fn run_ahead(&mut self, ids: &[u32]) -> Result<()> {
        self.run_ids(ids, Want::All, Phase::Decode)
    }

    /// The logits after token `row` of the last [`run_ahead`](Self::run_ahead), (vocab).
    ///
    /// # Panics
    /// If it ran fewer tokens.
    pub fn logits_after(&mut self, row: usize) -> &mut [f32] {
        let vocab = self.runtime.vocab();
        &mut self.runtime.logits[row * vocab..][..vocab]
    }

    /// Runs all of `ids`, in batches; `use_logits` is given the logits after each token, (vocab), in order.
    pub fn score(&mut self, ids: &[u32], use_logits: impl FnMut(&[f32])) -> Result<()> {
        self.runtime.score(&mut self.sequence, ids, use_logits)
    }

    /// Runs all of `ids`, in batches, on a plan whose last segment has no head; `use_stream` is given the residual
    /// stream behind the last block after each token, (dim), in order.
    ///
    /// # Errors
    /// As [`Runtime::run`], and if the session has a head.
    pub fn hidden(&mut self, ids: &[u32], mut use_stream: impl FnMut(&[f32])) -> Result<()> {
        self.runtime.check(&self.sequence, ids)?;
        self.runtime.check_head(false)?;
        for batch in ids.chunks(self.runtime.sizes().batch_tokens) {
            self.run_ids(batch, Want::Nothing, Phase::Prefill)?;
            let stream = self.runtime.hidden(0);
            stream.chunks_exact((stream.len() / batch.len()).max(1)).for_each(&mut use_stream);
        }
        Ok(())
    }

    /// That `ids` are of the vocabulary and fit behind the tokens held.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        self.runtime.check(&self.sequence, ids)
    }

    pub(crate) fn run_ids(&mut self, ids: &[u32], want: Want, phase: Phase) -> Result<()> {
        let Self { runtime, sequence } = self;
        if phase == Phase::Prefill {
            runtime.check_cancelled()?;
        }
        runtime.run(&mut [Work { sequence, ids, want, phase }])
    }
}

impl TryFrom<Runtime> for Session {
    type Error = Error;

    /// Begins the one sequence.
    fn try_from(mut runtime: Runtime) -> Result<Self> {
        let sequence = runtime.begin();
        let sequence =
            sequence.ok_or_else(|| Error::argument("the free sequences of a session's runtime", "one", "none"))?;
        Ok(Self { runtime, sequence })
    }
}

impl From<Session> for Runtime {
    /// Ends the one sequence.
    fn from(session: Session) -> Self {
        let Session { mut runtime, sequence } = session;
        runtime.end(sequence);
        runtime
    }
}
