//! One conversation's tokens, and how much of them the states hold.

use super::Phase;
use crate::{
    backend::{Checkpoint, SlotId},
    graph::CHECKPOINTS,
};

/// The tokens of one sequence of a [`Runtime`](super::Runtime), which hands it out and takes it back.
#[derive(Debug)]
pub struct Sequence {
    pub(super) slot: SlotId,
    pub(super) tokens: Vec<u32>,
    /// Leading positions that the states of each [`Phase`](super::Phase) hold.
    pub(super) filled: [usize; 2],
    /// See [`super::Runtime`]: with another number the states are lost.
    pub(super) epoch: u32,
    /// What its checkpoints keep, by [`Checkpoint`].
    marks: [Option<Mark>; CHECKPOINTS],
}

/// A checkpoint of the states of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Tokens before it.
    len: usize,
    phase: Phase,
}

/// The place of the checkpoint before a draft; the others are for prompts.
pub(super) const BEFORE_DRAFT: Checkpoint = Checkpoint(CHECKPOINTS as u32 - 1);

impl Sequence {
    pub(super) fn new(slot: SlotId, epoch: u32, context_tokens: usize) -> Self {
        Self { slot, tokens: Vec::with_capacity(context_tokens), filled: [0; 2], epoch, marks: [None; CHECKPOINTS] }
    }

    /// The states are those of new backends: nothing is held.
    pub(super) fn lose_states(&mut self, epoch: u32) {
        (self.epoch, self.filled, self.marks) = (epoch, [0; 2], [None; CHECKPOINTS]);
    }

    /// Forgets the tokens from position `len` on, and the checkpoints behind it.
    pub(super) fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.marks.iter_mut().filter(|mark| mark.is_some_and(|mark| mark.len > len)).for_each(|mark| *mark = None);
    }

    /// A checkpoint of `phase` was made at `place`, behind all tokens.
    pub(super) fn mark(&mut self, place: Checkpoint, phase: Phase) {
        self.marks[place.index()] = Some(Mark { len: self.tokens.len(), phase });
    }

    /// The latest checkpoint of `phase`, and its tokens.
    pub(super) fn last_mark(&self, phase: Phase) -> Option<(Checkpoint, usize)> {
        let marks = self.marks.iter().zip(0..).filter_map(|(mark, place)| Some((Checkpoint(place), (*mark)?)));
        let of_phase = marks.filter(|(_, mark)| mark.phase == phase).map(|(place, mark)| (place, mark.len));
        of_phase.max_by_key(|(_, len)| *len)
    }

    /// The place for a checkpoint in a prompt: a free one, or the one with the fewest tokens. `None` where there is a
    /// checkpoint behind all tokens.
    pub(super) fn place_in_prompt(&self, phase: Phase) -> Option<Checkpoint> {
        if self.last_mark(phase).is_some_and(|(_, len)| len == self.tokens.len()) {
            return None;
        }
        let places = (0..BEFORE_DRAFT.0).map(Checkpoint);
        places.min_by_key(|place| self.marks[place.index()].map(|mark| mark.len))
    }

    /// Its place in the states.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// The tokens whose states are held.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many leading tokens of `prompt` it holds, at most all but the last, as that one has to run to give logits.
    pub fn common_prefix(&self, prompt: &[u32]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        common.min(prompt.len().saturating_sub(1))
    }
}
