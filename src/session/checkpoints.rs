//! Checkpoints of states that cannot be rewound: when they are made, and how a sequence goes back to one.

use bitnet_cpu_kernels::ALIKE_TOKENS;

use super::{
    Phase, Runtime, Work,
    sequence::{BEFORE_DRAFT, Sequence},
};
use crate::{
    backend::{Checkpoint, Want},
    error::Result,
};

/// Tokens at the end of a prompt that run behind a checkpoint, where a layer cannot rewind. The next prompt of a
/// conversation differs there: chat templates end a prompt with the beginning of an answer, and may take the thinking
/// out of it afterwards. With one token more, as many as may share a batch.
const PROMPT_TAIL: usize = ALIKE_TOKENS - 1;

impl Runtime {
    /// Takes the states of a phase back to at most `len` tokens; gives how many are left.
    pub(super) fn rewind_states(&mut self, sequence: &Sequence, phase: Phase, len: usize) -> Result<usize> {
        let mut all = true;
        for index in self.phases.indices(phase) {
            let loaded = &self.phases.loaded[index];
            all &= self.backends[loaded.backend].states(loaded.id)?.rewind(sequence.slot, len);
        }
        if all {
            return Ok(len);
        }
        let Some((place, kept)) = sequence.last_mark(phase) else { return Ok(0) };
        for index in self.phases.indices(phase) {
            let loaded = &self.phases.loaded[index];
            self.backends[loaded.backend].states(loaded.id)?.restore(sequence.slot, place)?;
        }
        Ok(kept)
    }

    /// Keeps the states of a sequence at its present length.
    pub(super) fn checkpoint(&mut self, sequence: &mut Sequence, place: Checkpoint, phase: Phase) -> Result<()> {
        for index in self.phases.indices(phase) {
            let loaded = &self.phases.loaded[index];
            self.backends[loaded.backend].states(loaded.id)?.checkpoint(sequence.slot, place)?;
        }
        sequence.mark(place, phase, sequence.tokens.len());
        Ok(())
    }

    /// Tokens of a sequence that the states do not hold, since they went back to a checkpoint.
    pub(super) fn missing(&self, sequence: &Sequence) -> usize {
        if self.can_rewind || self.phases.differ() {
            return 0;
        }
        sequence.tokens.len().saturating_sub(sequence.filled[Phase::Decode as usize])
    }

    /// True where the tokens that are missing run in the batch of the new ones: a wrong draft then costs no pass. Those of a
    /// prompt do not run as steps of an answer. Without a head, each hidden state that comes out belongs to a new token.
    pub(super) fn joins(&self, one: &Work<'_>) -> bool {
        let missing = self.missing(one.sequence);
        let held = one.sequence.tokens.len();
        let (most, alike) = match one.phase {
            Phase::Decode => (self.limits().exact_tokens, one.sequence.steps.hold(held - missing..held)),
            Phase::Prefill => (self.sizes.batch_tokens, true),
        };
        let fits = missing > 0 && missing + one.ids.len() <= most;
        fits && alike && one.sequence.epoch == self.epoch && self.phases.loaded.iter().any(|loaded| loaded.segment.head)
    }

    /// Where inside a prompt its batch makes a checkpoint: the tokens before it, and its place. `None` where it is not made on
    /// the way.
    pub(super) fn on_the_way(&self, one: &Work<'_>) -> Option<(usize, Checkpoint)> {
        let is_prompt = one.phase == Phase::Prefill && matches!(one.want, Want::Last | Want::Top(_));
        let is_long = one.ids.len() > PROMPT_TAIL;
        if self.can_rewind || !is_prompt || !is_long || !self.limits().keeps_on_the_way {
            return None;
        }
        let len = one.sequence.tokens.len() + one.ids.len() - PROMPT_TAIL;
        Some((len, one.sequence.place_in_prompt(self.phases.effective(one.phase), len)?))
    }

    /// Before the last tokens of prompts, and before drafts: checkpoints, as what follows may have to be forgotten. Of a
    /// prompt, the tokens before it run here, and `parted` is told, unless backends make it on the way.
    pub(super) fn run_to_checkpoints<'a>(
        &mut self,
        work: &mut [Work<'a>],
        parted: &mut Vec<(usize, usize, &'a [u32])>,
    ) -> Result<()> {
        for (at, one) in work.iter_mut().enumerate() {
            let phase = self.phases.effective(one.phase);
            match (one.phase, one.want) {
                (Phase::Prefill, Want::Last | Want::Top(_)) => {
                    let (first, last) = one.ids.split_at(one.ids.len().saturating_sub(PROMPT_TAIL));
                    if self.on_the_way(one).is_some() {
                        continue;
                    }
                    if !first.is_empty() {
                        parted.push((at, one.sequence.tokens.len(), one.ids));
                        self.run_prompt(one.sequence, first)?;
                        one.ids = last;
                    }
                    let stands = !one.sequence.tokens.is_empty() && self.missing(one.sequence) == 0;
                    if stands && let Some(place) = one.sequence.place_in_prompt(phase, one.sequence.tokens.len()) {
                        self.bring_states(one.sequence, phase)?;
                        self.checkpoint(one.sequence, place, phase)?;
                    }
                }
                // Where tokens are missing, the states stand at a checkpoint.
                (Phase::Decode, Want::All | Want::Each(_)) if one.ids.len() > 1 && self.missing(one.sequence) == 0 => {
                    self.bring_states(one.sequence, phase)?;
                    self.checkpoint(one.sequence, BEFORE_DRAFT, phase)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
