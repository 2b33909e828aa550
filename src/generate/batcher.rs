//! Answers written side by side: every step of the runtime serves all of them.

use std::collections::VecDeque;

use super::{Event, Fed, Generation, Need};
use crate::{
    backend::{RowOutput, Want},
    error::{Error, Result},
    session::{Phase, Runtime, Sequence, Work},
};

/// Names an answer of a [`Batcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerId(pub u64);

/// An answer in the making, and the sequence it is written in.
struct RunningAnswer {
    id: AnswerId,
    generation: Generation,
    sequence: Sequence,
    /// Its part in the step at hand.
    part: StepShare,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepShare {
    /// Nothing: a prompt that waits for its turn, or an answer that has ended.
    Waits,
    /// So many leading tokens of a prompt that is longer.
    Piece(usize),
    /// All tokens it needs.
    All,
}

/// Drives many [`Generation`]s on one [`Runtime`]. A step runs one row for each answer, and a piece of at most one prompt.
/// The text of an answer does not depend on the others.
pub struct Batcher {
    runtime: Runtime,
    /// Oldest first.
    writers: Vec<RunningAnswer>,
    events: VecDeque<(AnswerId, Event)>,
    next_id: u64,
}

impl Batcher {
    /// No answers yet.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, writers: Vec::new(), events: VecDeque::new(), next_id: 0 }
    }

    /// The runtime, for its limits and names.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Begins an answer at the next step; gives it back while all sequences of the runtime are in use.
    pub fn add(&mut self, generation: Generation) -> Result<AnswerId, Box<Generation>> {
        let Some(sequence) = self.runtime.begin() else { return Err(Box::new(generation)) };
        let id = AnswerId(self.next_id);
        self.next_id += 1;
        self.writers.push(RunningAnswer { id, generation, sequence, part: StepShare::Waits });
        Ok(id)
    }

    /// Answers that have not been taken out by [`finished`](Self::finished).
    pub fn len(&self) -> usize {
        self.writers.len()
    }

    /// True without any answer.
    pub fn is_empty(&self) -> bool {
        self.writers.is_empty()
    }

    /// The next event of any answer; `None` until another step.
    pub fn event(&mut self) -> Option<(AnswerId, Event)> {
        self.events.pop_front()
    }

    /// Takes an answer out that has ended; its sequence is free for another.
    pub fn finished(&mut self) -> Option<(AnswerId, Generation)> {
        let at = self.writers.iter().position(|writer| writer.generation.finish().is_some())?;
        let RunningAnswer { id, generation, sequence, .. } = self.writers.remove(at);
        self.runtime.end(sequence);
        Some((id, generation))
    }

    /// One step of every answer that goes on; false where there was nothing to run.
    ///
    /// # Errors
    /// If a backend fails and nothing takes over, or a logit is not finite.
    pub fn step(&mut self) -> Result<bool> {
        self.choose_parts()?;
        let limits = self.runtime.limits();
        let mut work = Vec::with_capacity(self.writers.len());
        for RunningAnswer { generation, sequence, part, .. } in &mut self.writers {
            let held = sequence.tokens();
            match (*part, generation.need(held, &limits)) {
                (StepShare::Piece(len), Need::Run { ids, phase, .. }) => {
                    work.push(Work { sequence, ids: &ids[..len], want: Want::Nothing, phase });
                }
                (StepShare::All, Need::Run { ids, want, phase }) => work.push(Work { sequence, ids, want, phase }),
                _ => *part = StepShare::Waits,
            }
        }
        if work.is_empty() {
            return Ok(false);
        }
        self.runtime.run(&mut work)?;
        drop(work);
        self.feed()?;
        Ok(true)
    }

    /// Rewinds what has to be, and decides what each answer does in this step.
    fn choose_parts(&mut self) -> Result<()> {
        let limits = self.runtime.limits();
        let batch_tokens = self.runtime.sizes().batch_tokens;
        let mut prompt_chosen = false;
        for RunningAnswer { id, generation, sequence, part } in &mut self.writers {
            if let Need::Rewind(len) = generation.need(sequence.tokens(), &limits) {
                self.runtime.rewind(sequence, len)?;
            }
            *part = match generation.need(sequence.tokens(), &limits) {
                Need::Run { ids, phase: Phase::Prefill, .. } => {
                    if std::mem::replace(&mut prompt_chosen, true) {
                        StepShare::Waits
                    } else if ids.len() > batch_tokens {
                        StepShare::Piece(batch_tokens)
                    } else {
                        StepShare::All
                    }
                }
                Need::Run { .. } => StepShare::All,
                Need::Rewind(_) | Need::Done => StepShare::Waits,
            };
            // A cancelled answer may have held text back.
            self.events.extend(std::iter::from_fn(|| generation.event()).map(|event| (*id, event)));
        }
        Ok(())
    }

    /// Hands the outputs of a step to the answers that took part in it.
    fn feed(&mut self) -> Result<()> {
        let mut row = 0;
        let mut lacking = Vec::new();
        for (at, writer) in self.writers.iter_mut().enumerate() {
            if writer.part == StepShare::Waits {
                continue;
            }
            let (output, logits) = self.runtime.output_and_logits(row);
            row += 1;
            if writer.part != StepShare::All {
                continue;
            }
            match writer.generation.feed(output, logits)? {
                Fed::Keep(kept) => self.runtime.rewind(&mut writer.sequence, kept)?,
                Fed::NeedsLogits => lacking.push(at),
            }
        }
        // Behind the others, as a failure of a backend would replace what is still to be fed.
        for at in lacking {
            let RunningAnswer { generation, sequence, .. } = &mut self.writers[at];
            let output = RowOutput { logits: 0..1, head_rows: self.runtime.vocab(), ..RowOutput::default() };
            match generation.feed(&output, self.runtime.full_logits(sequence)?)? {
                Fed::Keep(kept) => self.runtime.rewind(sequence, kept)?,
                Fed::NeedsLogits => return Err(Error::malformed("the logits of a step", "all of them", "candidates")),
            }
        }
        for RunningAnswer { id, generation, .. } in &mut self.writers {
            self.events.extend(std::iter::from_fn(|| generation.event()).map(|event| (*id, event)));
        }
        Ok(())
    }
}
