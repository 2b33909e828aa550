//! Many sequences on the backends of a plan: batches of their tokens through the segments, and the states they leave.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    phase::{LoadedSegment, Phase, Phases},
    recover::{Standby, Takeover},
    sequence::{FreeSlots, Sequence},
};
use crate::{
    backend::{Activations, Backend, Batch, LayerState, Limits, Row, RowOutput, Want},
    error::{Error, Result},
    graph::{Graph, StateKind},
    model::Model,
    plan::{BackendKind, Plan, Segment, Sizes},
};

/// Tokens of one sequence to run.
pub struct Work<'a> {
    /// The sequence; the tokens follow those it holds.
    pub sequence: &'a mut Sequence,
    /// At least one token.
    pub ids: &'a [u32],
    /// Logits to produce.
    pub want: Want,
    /// Whether they belong to a prompt or to an answer: the plan may place these apart.
    pub phase: Phase,
}

/// A loaded model that runs many sequences.
pub struct Runtime {
    pub(super) backends: Vec<Box<dyn Backend>>,
    pub(super) phases: Phases,
    pub(super) sizes: Sizes,
    pub(super) vocab: usize,
    /// Every layer can forget positions from any one on.
    pub(super) can_rewind: bool,
    /// The state of each layer, and of a block of multi-token prediction.
    pub(super) kinds: Vec<StateKind>,
    pub(super) free: FreeSlots,
    /// Counts takeovers: a sequence with another number has lost its states.
    pub(super) epoch: u32,
    pub(super) standby: Option<Standby>,
    pub(super) takeover: Option<Takeover>,
    pub(super) batch: Batch,
    /// Tokens of each row of the batch that run once more, before those of its work.
    repeated: Vec<usize>,
    members: Vec<usize>,
    pub(super) activations: Activations,
    moved: LayerState,
    /// One for each work of the last step.
    pub(super) outputs: Vec<RowOutput>,
    /// (rows, vocab): logits of the last step.
    pub(super) logits: Vec<f32>,
    /// (vocab): logits that were asked for behind candidates.
    pub(super) full: Vec<f32>,
    /// (tokens, dim): hidden states of the last step, where the plan has no head; and the values of each work.
    pub(super) hidden: Vec<f32>,
    pub(super) hidden_of: Vec<Range<usize>>,
    /// The segment that computes, or was the last to.
    current: usize,
    /// See [`Self::cancel_when`].
    pub(super) cancel: Option<Arc<AtomicBool>>,
}

impl Runtime {
    /// Loads every segment of `plan` on its backend. `progress` is told the bytes of weights finished since the last call.
    #[doc(hidden)]
    pub fn load(
        model: &Arc<Model>,
        plan: &Plan,
        backends: Vec<(BackendKind, Box<dyn Backend>)>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let (kinds, mut backends): (Vec<_>, Vec<_>) = backends.into_iter().unzip();
        let phases = Phases::load(model, plan, &kinds, &mut backends, progress)?;
        Ok(Self {
            backends,
            phases,
            sizes: Sizes { mtp: plan.sizes.mtp && model.weights.mtp.is_some(), ..plan.sizes },
            vocab: model.config.vocab,
            kinds: StateKind::all_of(&model.config).collect(),
            can_rewind: Graph::of(&model.config).can_rewind(),
            free: FreeSlots::all(plan.sizes.sequences),
            epoch: 0,
            standby: None,
            takeover: None,
            batch: Batch::default(),
            repeated: Vec::new(),
            members: Vec::new(),
            activations: Activations::default(),
            moved: LayerState::default(),
            outputs: Vec::new(),
            logits: Vec::new(),
            full: Vec::new(),
            hidden: Vec::new(),
            hidden_of: Vec::new(),
            current: 0,
            cancel: None,
        })
    }

    /// Lets `standby` take over where a GPU fails: callers notice nothing but the time it takes to run all tokens again.
    #[must_use]
    #[doc(hidden)]
    pub fn with_standby(mut self, standby: Standby) -> Self {
        self.standby = Some(standby);
        self
    }

    /// From now on a step over a prompt ends with [`Error::Cancelled`] soon after this flag is raised; its tokens do not
    /// count as run. `None` as at first.
    pub fn cancel_when(&mut self, raised: Option<Arc<AtomicBool>>) {
        self.backends.iter_mut().for_each(|backend| backend.cancel_when(raised.clone()));
        self.cancel = raised;
    }

    /// The failure after which the standby took over, if it did.
    pub fn takeover(&self) -> Option<&Takeover> {
        self.takeover.as_ref()
    }

    /// Sizes that states and buffers were made for.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Tokens in the vocabulary, which is the length of a row of logits.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Limits that callers may rely on in decode steps.
    pub fn limits(&self) -> Limits {
        let of = |loaded: &LoadedSegment| self.backends[loaded.backend].limits(loaded.id);
        let all = self.phases.segments(Phase::Decode).map(of).reduce(Limits::and);
        // Candidates come from the segment with the head, in whichever phase.
        let heads = self.phases.loaded.iter().filter(|loaded| loaded.segment.head).map(of);
        let heads = heads.reduce(Limits::and);
        let (most_top, most_summed) = heads.map_or((0, 0), |limits| (limits.most_top, limits.most_summed));
        let (most_each, most_drafted) = heads.map_or((0, 0), |limits| (limits.most_each, limits.most_drafted));
        let (max_tokens, exact_tokens) = all.map_or((1, 1), |limits| (limits.max_tokens, limits.exact_tokens));
        let prompts = self.phases.segments(Phase::Prefill).map(of).reduce(Limits::and);
        let batch_tokens = self.sizes.batch_tokens;
        Limits {
            max_tokens: max_tokens.min(batch_tokens),
            exact_tokens: exact_tokens.min(batch_tokens),
            least_prompt: prompts.map_or(1, |limits| limits.least_prompt),
            mixes_rows: all.is_some_and(|limits| limits.mixes_rows),
            keeps_on_the_way: prompts.is_some_and(|limits| limits.keeps_on_the_way),
            most_top,
            most_each,
            most_summed,
            most_drafted,
        }
    }

    /// The segments that decode, in order, each with the name of its backend.
    pub fn segments(&self) -> impl Iterator<Item = (&Segment, &str)> {
        self.named(Phase::Decode)
    }

    /// The segments that read prompts, likewise, where they are others.
    pub fn prefill_segments(&self) -> Option<impl Iterator<Item = (&Segment, &str)>> {
        self.phases.differ().then(|| self.named(Phase::Prefill))
    }

    fn named(&self, phase: Phase) -> impl Iterator<Item = (&Segment, &str)> {
        self.phases.segments(phase).map(|loaded| (&loaded.segment, self.backends[loaded.backend].name()))
    }

    /// True where some layer runs on `backend` in some phase.
    pub fn runs_on(&self, backend: BackendKind) -> bool {
        self.phases.loaded.iter().any(|loaded| loaded.segment.backend == backend)
    }

    /// The name of the backend that gives the logits.
    pub fn head_backend(&self) -> &str {
        self.segments().last().map_or("no backend", |(_, name)| name)
    }

    /// The names of the backends in the order of the layers, "+" between them; those of the prompt first, where they are
    /// others.
    pub fn devices(&self) -> String {
        let joined = |phase| self.named(phase).map(|(_, name)| name).collect::<Vec<_>>().join(" + ");
        let decode = joined(Phase::Decode);
        if self.phases.differ() { format!("{}, then {decode}", joined(Phase::Prefill)) } else { decode }
    }

    /// The backends, for what only one kind of them can tell.
    #[doc(hidden)]
    pub fn backends_mut(&mut self) -> impl Iterator<Item = &mut dyn Backend> {
        self.backends.iter_mut().map(AsMut::as_mut)
    }

    /// Begins an empty sequence; `None` while all slots are taken.
    pub fn begin(&mut self) -> Option<Sequence> {
        Sequence::begin(&self.free, self.epoch, self.sizes.context_tokens)
    }

    /// Ends a sequence, as dropping it does; its slot can be taken by another.
    pub fn end(&mut self, sequence: Sequence) {
        drop(sequence);
    }

    /// Forgets the tokens of a sequence from position `len` on; does nothing when there are fewer.
    ///
    /// Where a layer cannot, the states go back to the last checkpoint before it, or to the beginning. A few tokens from there
    /// on, as many as may share a batch, run again with the sequence's next step; more are forgotten as well.
    pub fn rewind(&mut self, sequence: &mut Sequence, len: usize) -> Result<()> {
        self.check_owned(sequence)?;
        if len >= sequence.tokens.len() {
            return Ok(());
        }
        sequence.truncate(len);
        if sequence.epoch != self.epoch {
            return Ok(());
        }
        for phase in Phase::ALL {
            if sequence.filled[phase as usize] > len {
                sequence.filled[phase as usize] = self.rewind_states(sequence, phase, len)?;
            }
        }
        let missing = self.missing(sequence);
        if missing > self.limits().exact_tokens {
            sequence.truncate(len - missing);
        }
        Ok(())
    }

    /// A sequence that begins with the first `len` tokens of another, without computing them again, as far as its layers can
    /// rewind or have a checkpoint; `None` while all slots are taken.
    pub fn fork(&mut self, from: &Sequence, len: usize) -> Result<Option<Sequence>> {
        self.check_owned(from)?;
        let Some(mut to) = self.begin() else { return Ok(None) };
        to.tokens.extend_from_slice(&from.tokens[..len.min(from.tokens.len())]);
        to.steps = from.steps.clone();
        to.steps.truncate(len);
        self.fork_states(from, &mut to)?;
        Ok(Some(to))
    }

    fn fork_states(&mut self, from: &Sequence, to: &mut Sequence) -> Result<()> {
        if from.epoch != self.epoch {
            return Ok(());
        }
        let mut copied = vec![false; self.phases.loaded.len()];
        for phase in Phase::ALL {
            let held = from.filled[phase as usize];
            let filled = if self.can_rewind || held <= to.tokens.len() {
                held.min(to.tokens.len())
            } else {
                from.last_mark(phase).map(|(_, len)| len).filter(|len| *len <= to.tokens.len()).unwrap_or(0)
            };
            if filled == 0 {
                continue;
            }
            for index in self.phases.indices(phase) {
                if !std::mem::replace(&mut copied[index], true) {
                    let loaded = &self.phases.loaded[index];
                    self.backends[loaded.backend].states(loaded.id)?.fork(from.slot, to.slot, filled)?;
                }
            }
            to.filled[phase as usize] = filled;
        }
        Ok(())
    }

    /// One step of many sequences. [`output`](Self::output) `i` then belongs to work `i`.
    ///
    /// # Errors
    /// If a token id is not in the vocabulary, a sequence has no room or is another runtime's, logits are wanted of a model
    /// without its head, or a backend fails and nothing takes over. The sequences then hold what they held before.
    pub fn run(&mut self, work: &mut [Work<'_>]) -> Result<()> {
        for one in &*work {
            self.check(one.sequence, one.ids)?;
            if one.want != Want::Nothing {
                self.check_head(true)?;
            }
        }
        loop {
            match self.try_run(work) {
                Err(error) if self.failed_on_gpu(&error) => self.hand_over(error, held_tokens(work))?,
                done => return done,
            }
        }
    }

    /// The results of work `i` of the last step.
    ///
    /// # Panics
    /// If it had no such work.
    pub fn output(&self, i: usize) -> &RowOutput {
        &self.outputs[i]
    }

    /// The results of work `i` of the last step, and its logits, (rows, vocab).
    ///
    /// # Panics
    /// If it had no such work.
    pub fn output_and_logits(&mut self, i: usize) -> (&RowOutput, &mut [f32]) {
        let output = &self.outputs[i];
        let rows = &output.logits;
        (output, &mut self.logits[rows.start * self.vocab..rows.end * self.vocab])
    }

    /// All logits after the last token of a sequence whose last step gave candidates: reruns the head, not the model.
    pub fn full_logits(&mut self, sequence: &mut Sequence) -> Result<&mut [f32]> {
        self.check_owned(sequence)?;
        self.check_head(true)?;
        let head = self.phases.segments(Phase::Decode).last().map(|loaded| (loaded.backend, loaded.id));
        let (backend, id) = head.ok_or_else(|| Error::missing("a segment with the head", "logits"))?;
        // After a takeover the new backends have not seen the step.
        if sequence.epoch == self.epoch {
            self.full.clear();
            match self.backends[backend].full_logits(id, sequence.slot, &mut self.full) {
                Ok(()) => return Ok(&mut self.full),
                Err(error) if self.failed_on_gpu(&error) => self.hand_over(error, sequence.tokens.len())?,
                Err(error) => return Err(error),
            }
        }
        self.rerun_last(sequence)?;
        std::mem::swap(&mut self.full, &mut self.logits);
        Ok(&mut self.full)
    }

    /// The guess of the model's block of multi-token prediction: at most `most` tokens behind `last`, which follows the tokens
    /// of the sequence, replace `ids`. None where there is no such block, see [`Limits::most_drafted`].
    ///
    /// # Errors
    /// If `last` is not in the vocabulary, or the backend fails.
    pub fn draft(&mut self, sequence: &Sequence, last: u32, most: usize, ids: &mut Vec<u32>) -> Result<()> {
        ids.clear();
        self.check_owned(sequence)?;
        self.check_vocabulary(&[last])?;
        let (held, limits) = (sequence.tokens.len(), self.limits());
        let most = most.min(limits.most_drafted).min(self.sizes.context_tokens - held);
        let head = self.phases.segments(Phase::Decode).last().map(|loaded| (loaded.backend, loaded.id));
        let Some((backend, id)) = head.filter(|_| most > 0 && sequence.epoch == self.epoch) else { return Ok(()) };
        self.backends[backend].draft(id, (sequence.slot, held), last, most, ids)
    }

    /// Completes what that block keeps of the tokens of a sequence.
    pub(super) fn fill_drafts(&mut self, sequence: &Sequence) -> Result<()> {
        let head = self.phases.segments(Phase::Decode).last().map(|loaded| (loaded.backend, loaded.id));
        match head.filter(|_| self.sizes.mtp) {
            Some((backend, id)) => {
                self.backends[backend].draft(id, (sequence.slot, sequence.tokens.len()), 0, 0, &mut Vec::new())
            }
            None => Ok(()),
        }
    }

    /// Runs the last token of a sequence once more, for all of its logits.
    fn rerun_last(&mut self, sequence: &mut Sequence) -> Result<()> {
        let Some(&last) = sequence.tokens.last() else { return Ok(()) };
        self.rewind(sequence, sequence.tokens.len() - 1)?;
        self.run(&mut [Work { sequence, ids: &[last], want: Want::Last, phase: Phase::Decode }])
    }

    pub(super) fn failed_on_gpu(&self, error: &Error) -> bool {
        match error {
            Error::NotFinite { .. } => {
                self.phases.loaded.get(self.current).is_some_and(|loaded| loaded.segment.backend == BackendKind::Gpu)
            }
            other => other.is_of_device(),
        }
    }

    /// All works, in as few batches as the backends allow.
    fn try_run(&mut self, work: &mut [Work<'_>]) -> Result<()> {
        self.outputs.resize_with(work.len(), RowOutput::default);
        self.logits.clear();
        self.hidden.clear();
        self.hidden_of.clear();
        self.hidden_of.resize(work.len(), 0..0);
        for one in work.iter_mut() {
            if !self.joins(one) {
                self.restore(one.sequence)?;
            }
        }
        // Prompts whose first tokens ran by themselves: which, the tokens held before, and all to run.
        let mut parted = Vec::new();
        let checkpoints = if self.can_rewind { Ok(()) } else { self.run_to_checkpoints(work, &mut parted) };
        let done = checkpoints.and_then(|()| self.run_phases(work));
        if done.is_err() && !self.can_rewind {
            for (at, held, ids) in parted {
                work[at].sequence.truncate(held);
                work[at].ids = ids;
            }
            // States may be ahead of the tokens, and nothing overwrites them.
            work.iter_mut().for_each(|one| one.sequence.lose_states(self.epoch));
        }
        done?;
        let Limits { exact_tokens, least_prompt, .. } = self.limits();
        for one in work.iter_mut() {
            let made = self.on_the_way(one);
            let Work { sequence, ids, phase, .. } = one;
            if let Some((len, place)) = made {
                sequence.mark(place, self.phases.effective(*phase), len);
            }
            let are_steps = match phase {
                Phase::Decode => ids.len() <= exact_tokens,
                Phase::Prefill => ids.len() < least_prompt,
            };
            if are_steps {
                sequence.steps.add(sequence.tokens.len(), ids.len());
            }
            sequence.tokens.extend_from_slice(ids);
        }
        Ok(())
    }

    fn run_phases(&mut self, work: &mut [Work<'_>]) -> Result<()> {
        let mut members = std::mem::take(&mut self.members);
        let done = Phase::ALL.into_iter().try_for_each(|phase| self.run_phase(phase, work, &mut members));
        self.members = members;
        done
    }

    /// Runs a part of a prompt of which no logits are wanted.
    pub(super) fn run_prompt(&mut self, sequence: &mut Sequence, ids: &[u32]) -> Result<()> {
        let mut one = [Work { sequence: &mut *sequence, ids, want: Want::Nothing, phase: Phase::Prefill }];
        let done = self.run_batch(self.phases.effective(Phase::Prefill), &mut one, &[0]);
        match done {
            Ok(()) => sequence.tokens.extend_from_slice(ids),
            Err(_) if !self.can_rewind => sequence.lose_states(self.epoch),
            Err(_) => {}
        }
        done
    }

    /// The works of one phase; `members` is room for the indices of those that share a batch.
    fn run_phase(&mut self, phase: Phase, work: &mut [Work<'_>], members: &mut Vec<usize>) -> Result<()> {
        let exact = self.limits().exact_tokens;
        let limits = self.phases.segments(phase).map(|loaded| self.backends[loaded.backend].limits(loaded.id));
        let mixes_rows = limits.reduce(Limits::and).is_some_and(|limits| limits.mixes_rows);
        let most = if mixes_rows { self.sizes.batch_tokens } else { exact };
        members.clear();
        let mut tokens = 0;
        // Answers first: they share parallel regions.
        for of_prompts in [false, true] {
            for next in 0..work.len() {
                let len = self.missing(work[next].sequence) + work[next].ids.len();
                let is_prompt = work[next].phase == Phase::Prefill;
                if self.phases.effective(work[next].phase) != phase || is_prompt != of_prompts {
                    continue;
                }
                if !members.is_empty() && tokens + len > most {
                    self.run_batch(phase, work, members)?;
                    members.clear();
                    tokens = 0;
                }
                members.push(next);
                tokens += len;
            }
        }
        if members.is_empty() { Ok(()) } else { self.run_batch(phase, work, members) }
    }

    /// One batch through the segments of a phase. After an error states may be ahead of the tokens, which is harmless:
    /// the next run overwrites them.
    fn run_batch(&mut self, phase: Phase, work: &mut [Work<'_>], members: &[usize]) -> Result<()> {
        self.batch.rows.clear();
        self.repeated.clear();
        self.activations.ids.clear();
        for &at in members {
            let checkpoint = self.on_the_way(&work[at]);
            let Work { sequence, ids, want, phase: own_phase } = &mut work[at];
            let is_prompt = *own_phase == Phase::Prefill;
            let repeated = self.missing(sequence);
            let (start, end) = (sequence.tokens.len() - repeated, sequence.tokens.len() + ids.len());
            self.bring_states(sequence, phase)?;
            sequence.filled[phase as usize] = end;
            if let Some(other) = self.phases.other(phase) {
                let filled = &mut sequence.filled[other as usize];
                *filled = (*filled).min(start);
            }
            let slot = sequence.slot;
            self.batch.rows.push(Row { slot, positions: start..end, want: *want, is_prompt, checkpoint });
            self.repeated.push(repeated);
            self.activations.ids.extend_from_slice(&sequence.tokens[start..]);
            self.activations.ids.extend_from_slice(ids);
        }
        for index in self.phases.indices(phase) {
            self.current = index;
            let loaded = &self.phases.loaded[index];
            self.backends[loaded.backend].run(loaded.id, &self.batch, &mut self.activations)?;
        }
        self.take_outputs(members)
    }

    /// Moves the results of a batch to where those of its works are expected.
    fn take_outputs(&mut self, members: &[usize]) -> Result<()> {
        let has_head = self.phases.segments(Phase::Decode).last().is_some_and(|loaded| loaded.segment.head);
        if !has_head {
            return self.take_hidden(members);
        }
        let before = self.logits.len() / self.vocab.max(1);
        let mut total = 0;
        // Of tokens that ran once more nobody wants logits: where these begin, and how many rows.
        let mut dropped: Vec<(usize, usize)> = Vec::new();
        for (row, &at) in members.iter().enumerate() {
            let found = &self.activations.rows[row];
            let expected = match self.batch.rows[row].want {
                Want::Nothing => 0,
                Want::Top(_) | Want::Each(_) if !found.candidates.top.is_empty() => 0,
                Want::Last | Want::Top(_) => 1,
                Want::All | Want::Each(_) => self.batch.rows[row].positions.len(),
            };
            if found.logits.len() != expected {
                let thing = format!("rows of logits of {}", self.head_backend());
                return Err(Error::malformed(thing, expected, found.logits.len()));
            }
            let output = &mut self.outputs[at];
            std::mem::swap(output, &mut self.activations.rows[row]);
            let again = match self.batch.rows[row].want {
                Want::All | Want::Each(_) => self.repeated[row],
                _ => 0,
            };
            if let Some(of_one) = output.candidates.top.len().checked_div(output.each) {
                output.candidates.top.drain(..again * of_one);
                output.each -= again;
                continue;
            }
            if again > 0 {
                dropped.push((output.logits.start, again));
            }
            total += expected - again;
        }
        // A backend may have the logits of some rows behind those of later ones.
        dropped.sort_unstable();
        for &(start, again) in dropped.iter().rev() {
            self.activations.logits.drain(start * self.vocab..(start + again) * self.vocab);
        }
        for &at in members {
            let logits = &mut self.outputs[at].logits;
            let is_own = |part: &&(usize, usize)| part.0 == logits.start && logits.start < logits.end;
            let kept = logits.end - logits.start - dropped.iter().find(is_own).map_or(0, |part| part.1);
            let earlier: usize =
                dropped.iter().filter(|(start, _)| *start < logits.start).map(|(_, again)| again).sum();
            let start = before + logits.start - earlier;
            *logits = start..start + kept;
        }
        let (expected, found) = (total * self.vocab, self.activations.logits.len());
        if found != expected {
            return Err(Error::malformed(format!("logits of {}", self.head_backend()), expected, found));
        }
        if before == 0 {
            std::mem::swap(&mut self.logits, &mut self.activations.logits);
        } else {
            self.logits.extend_from_slice(&self.activations.logits);
        }
        Ok(())
    }

    /// Runs the tokens of a sequence again whose states were lost: to a takeover, or to a rewind that a layer could not do.
    fn restore(&mut self, sequence: &mut Sequence) -> Result<()> {
        if sequence.epoch != self.epoch {
            sequence.lose_states(self.epoch);
        }
        let filled = Phase::ALL.map(|phase| sequence.filled[phase as usize]).into_iter().max().unwrap_or(0);
        if filled >= sequence.tokens.len() {
            return Ok(());
        }
        sequence.steps.truncate(filled);
        let tokens = sequence.tokens.split_off(filled);
        let mut batches = tokens.chunks(self.sizes.batch_tokens);
        let done = batches.try_for_each(|ids| self.run_prompt(sequence, ids));
        // After an error the rest is still to be run.
        sequence.tokens.extend_from_slice(&tokens[sequence.tokens.len() - filled..]);
        done
    }

    /// Before a step of a sequence: states that the other phase computed since this one ran last.
    pub(super) fn bring_states(&mut self, sequence: &Sequence, phase: Phase) -> Result<()> {
        let missing = sequence.filled[phase as usize]..sequence.tokens.len();
        let Some(other) = self.phases.other(phase).filter(|_| !missing.is_empty()) else { return Ok(()) };
        // Both are cut at the same layers, and a segment of both has one state.
        let pairs = self.phases.indices(other).zip(self.phases.indices(phase));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let (from, to) = (&self.phases.loaded[from], &self.phases.loaded[to]);
            for layer in 0..from.segment.layers.len() {
                let source = self.backends[from.backend].states(from.id)?;
                source.export(layer, sequence.slot, missing.clone(), &mut self.moved)?;
                let target = self.backends[to.backend].states(to.id)?;
                target.import(layer, sequence.slot, missing.clone(), &self.moved)?;
            }
        }
        Ok(())
    }
}

/// Tokens that the sequences of a step hold.
fn held_tokens(work: &[Work<'_>]) -> usize {
    work.iter().map(|one| one.sequence.tokens.len()).sum()
}
