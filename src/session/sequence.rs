//! One conversation's tokens, and how much of them the states hold.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use super::Phase;
use crate::{
    backend::{Checkpoint, SlotId},
    graph::CHECKPOINTS,
};

/// Tokens at the end of an answer that may differ where a conversation goes on: the rest of a text that ended it.
const ENDING_TOKENS: usize = 8;

/// The slots of a [`Runtime`](super::Runtime) that no sequence has; the next one to be handed out is the last.
#[derive(Clone, Debug)]
pub(super) struct FreeSlots(Arc<Mutex<Vec<SlotId>>>);

impl FreeSlots {
    pub fn all(count: usize) -> Self {
        let slots = u32::try_from(count).unwrap_or(u32::MAX);
        Self(Arc::new(Mutex::new((0..slots).rev().map(SlotId).collect())))
    }

    fn with<T>(&self, use_slots: impl FnOnce(&mut Vec<SlotId>) -> T) -> T {
        use_slots(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The tokens of one sequence of a [`Runtime`](super::Runtime), which hands it out. Dropped, it gives its place back.
#[derive(Debug)]
pub struct Sequence {
    /// Where the slot is from and goes back to, which also tells the runtimes apart.
    home: FreeSlots,
    pub(super) slot: SlotId,
    pub(super) tokens: Vec<u32>,
    /// Leading positions that the states of each [`Phase`](super::Phase) hold.
    pub(super) filled: [usize; 2],
    /// See [`super::Runtime`]: with another number the states are lost.
    pub(super) epoch: u32,
    /// Contents of its checkpoints, by [`Checkpoint`].
    marks: [Option<Mark>; CHECKPOINTS],
    pub(super) steps: Steps,
}

/// Positions that ran as steps of an answer, or as a prompt below [`Limits::least_prompt`](crate::backend::Limits). Their
/// states differ in the last bits from those of a longer prompt.
#[derive(Clone, Debug, Default)]
pub(super) struct Steps(Vec<Range<usize>>);

impl Steps {
    /// `len` more tokens from `start` on ran so.
    pub fn add(&mut self, start: usize, len: usize) {
        match self.0.last_mut() {
            Some(last) if last.end == start => last.end += len,
            _ => self.0.push(start..start + len),
        }
    }

    /// True where all of `positions` ran so.
    pub fn hold(&self, positions: Range<usize>) -> bool {
        self.0.iter().any(|span| span.start <= positions.start && positions.end <= span.end)
    }

    /// Beginnings and ends, in order.
    pub fn bounds(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|span| [span.start, span.end])
    }

    /// Those with such bounds, in a sequence of `len` tokens; `None` where they are not in order.
    pub fn from_bounds(bounds: impl ExactSizeIterator<Item = usize>, len: usize) -> Option<Self> {
        let bounds: Vec<usize> = bounds.collect();
        let (spans, []) = bounds.as_chunks::<2>() else { return None };
        let in_order = bounds.is_sorted() && bounds.last().is_none_or(|&last| last <= len);
        in_order.then(|| Self(spans.iter().map(|&[start, end]| start..end).collect()))
    }

    /// Forgets the positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.0.retain(|span| span.start < len);
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(len);
        }
    }

    /// How many of `common` leading tokens may serve another prompt. One that happens to begin as an answer did gets
    /// nothing of it: it must not depend on who was served before. One that goes on behind the answer is the next turn.
    fn reusable(&self, common: usize) -> usize {
        let cut = self.0.iter().find(|span| {
            let slack = if span.len() >= 4 * ENDING_TOKENS { ENDING_TOKENS } else { 0 };
            span.start < common && common + slack < span.end
        });
        cut.map_or(common, |span| span.start)
    }

    /// As [`Self::reusable`] for a sequence of `tokens`; at least `least_prompt` tokens of `prompt` are left to run.
    pub fn reusable_of(&self, tokens: &[u32], prompt: &[u32], least_prompt: usize) -> usize {
        let common = tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.reusable(common).min(prompt.len().saturating_sub(least_prompt))
    }
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
    /// An empty one in a free slot; `None` where there is none.
    pub(super) fn begin(home: &FreeSlots, epoch: u32, context_tokens: usize) -> Option<Self> {
        let slot = home.with(Vec::pop)?;
        Some(Self {
            home: home.clone(),
            slot,
            tokens: Vec::with_capacity(context_tokens),
            filled: [0; 2],
            epoch,
            marks: [None; CHECKPOINTS],
            steps: Steps::default(),
        })
    }

    /// Whether its slot is one of these.
    pub(super) fn is_of(&self, home: &FreeSlots) -> bool {
        Arc::ptr_eq(&self.home.0, &home.0)
    }

    /// Nothing is held: the states are those of new backends, or a failed step left them in the middle.
    pub(super) fn lose_states(&mut self, epoch: u32) {
        (self.epoch, self.filled, self.marks) = (epoch, [0; 2], [None; CHECKPOINTS]);
        self.steps.truncate(0);
    }

    /// Forgets the tokens from position `len` on, and the checkpoints behind it.
    pub(super) fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.steps.truncate(len);
        self.marks.iter_mut().filter(|mark| mark.is_some_and(|mark| mark.len > len)).for_each(|mark| *mark = None);
    }

    /// A checkpoint of `phase` was made at `place`, behind `len` tokens.
    pub(super) fn mark(&mut self, place: Checkpoint, phase: Phase, len: usize) {
        self.marks[place.index()] = Some(Mark { len, phase });
    }

    /// The latest checkpoint of `phase`, and its tokens.
    pub(super) fn last_mark(&self, phase: Phase) -> Option<(Checkpoint, usize)> {
        let marks = self.marks.iter().zip(0..).filter_map(|(mark, place)| Some((Checkpoint(place), (*mark)?)));
        let of_phase = marks.filter(|(_, mark)| mark.phase == phase).map(|(place, mark)| (place, mark.len));
        of_phase.max_by_key(|(_, len)| *len)
    }

    /// The place for a checkpoint in a prompt, behind `len` tokens: a free one, or the one with the fewest tokens. `None`
    /// where there is one already.
    pub(super) fn place_in_prompt(&self, phase: Phase, len: usize) -> Option<Checkpoint> {
        if self.last_mark(phase).is_some_and(|(_, last)| last == len) {
            return None;
        }
        let places = (0..BEFORE_DRAFT.0).map(Checkpoint);
        places.min_by_key(|place| self.marks[place.index()].map(|mark| mark.len))
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

    /// As [`common_prefix`](Self::common_prefix), as far as the answer to `prompt` is then what it is without, bit for bit,
    /// where it does not go on from an earlier answer: the rest is at least `least_prompt` tokens
    /// ([`Limits::least_prompt`](crate::backend::Limits)), and what others were answered is no part of it.
    pub fn reusable_prefix(&self, prompt: &[u32], least_prompt: usize) -> usize {
        self.steps.reusable_of(&self.tokens, prompt, least_prompt)
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.home.with(|slots| slots.push(self.slot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_serve_the_turn_behind_them_and_nobody_else() {
        let tokens: Vec<u32> = (0..120).collect();
        let mut steps = Steps::default();
        (20..70).for_each(|at| steps.add(at, 1));
        steps.add(100, 5);
        let reusable = |common: usize| {
            let mut prompt = tokens[..common].to_vec();
            prompt.extend([999; 50]);
            steps.reusable_of(&tokens, &prompt, 9)
        };
        assert_eq!((reusable(10), reusable(20)), (10, 20), "within the prompt");
        assert_eq!((reusable(21), reusable(61)), (20, 20), "within the answer");
        assert_eq!((reusable(62), reusable(70), reusable(90)), (62, 70, 90), "behind it, but for its ending");
        assert_eq!(
            (reusable(101), reusable(104), reusable(105)),
            (100, 100, 105),
            "a short one has no ending to spare"
        );
        assert_eq!(steps.reusable_of(&tokens, &tokens[..30], 9), 20);
        assert_eq!(steps.reusable_of(&tokens, &tokens[..20], 9), 11, "the rest is a prompt of its own");
        assert_eq!(steps.reusable_of(&tokens, &tokens[..8], 9), 0);
        assert_eq!(steps.reusable_of(&tokens, &tokens[..20], 1), 19, "one token runs to give logits");
        steps.truncate(50);
        assert_eq!(steps.0, vec![Range { start: 20, end: 50 }]);
        steps.truncate(20);
        assert!(steps.0.is_empty());
    }
}
