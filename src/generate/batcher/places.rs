//! Which place an answer takes: that of the conversation it goes on, or the one unused for longest.

use super::{AnswerId, Batcher, PlaceState, RunningAnswer, no_sequence};
use crate::{
    error::{Error, Result},
    session::{Runtime, SavedSequence, Sequence},
};

/// A common beginning that is worth copying; less is read again in no time.
const WORTH_COPYING: usize = 32;

/// A sequence, and the answer that is written in it.
pub(super) struct Place {
    /// Its tokens stay when the answer has ended. `None` before the first.
    pub sequence: Option<Sequence>,
    pub answer: Option<RunningAnswer>,
    /// When its last answer began; 0: never.
    pub used: u64,
}

impl Place {
    pub fn all(count: usize) -> Vec<Self> {
        (0..count).map(|_| Self { sequence: None, answer: None, used: 0 }).collect()
    }

    pub fn state(&self) -> PlaceState {
        let answer = self.answer.as_ref();
        PlaceState {
            answer: answer.map(|answer| answer.id),
            tokens: self.tokens().len(),
            generated_tokens: answer.map_or(0, |answer| answer.generation.stats().generated_tokens),
        }
    }

    /// The answer in it, while its prompt is not read to the end.
    pub fn reading(&self) -> Option<AnswerId> {
        self.answer.as_ref().filter(|answer| !answer.has_ended() && answer.generation.is_reading()).map(|one| one.id)
    }

    fn tokens(&self) -> &[u32] {
        self.sequence.as_ref().map_or(&[], Sequence::tokens)
    }

    /// Tokens of `prompt` that it holds.
    fn common(&self, prompt: &[u32], least_prompt: usize) -> usize {
        self.sequence.as_ref().map_or(0, |sequence| sequence.reusable_prefix(prompt, least_prompt))
    }
}

impl Batcher {
    /// A free place for `prompt` that holds as much of it as any place or kept prefix does, and nothing else;
    /// where one is `asked` for, that one, which is free.
    pub(super) fn take_place(&mut self, asked: Option<usize>, prompt: &[u32], reuse: bool) -> Result<usize> {
        let least_prompt = self.runtime.limits().least_prompt;
        if let Some(at) = asked {
            self.prepare_asked(at, prompt, reuse, least_prompt)?;
            return Ok(at);
        }
        let common: Vec<usize> = self.places.iter().map(|place| place.common(prompt, least_prompt)).collect();
        // Of equal ones a free one.
        let best = (0..common.len()).max_by_key(|&at| (common[at], self.places[at].answer.is_none()));
        let Some((from, most)) = best.map(|at| (at, common[at])).filter(|&(_, most)| reuse && most > 0) else {
            let kept = if reuse { self.prefixes.longest(prompt, least_prompt) } else { 0 };
            return self.take_least_recent(prompt, kept, least_prompt);
        };
        let kept = self.prefixes.longest(prompt, least_prompt);
        if kept > most + WORTH_COPYING {
            return self.take_least_recent(prompt, kept, least_prompt);
        }
        // It goes on, or nearly so: little is lost.
        let held = self.places[from].tokens().len();
        let at = self.least_recent();
        let goes_on = self.places[from].answer.is_none() && (held - most) * 8 <= held;
        if !goes_on && from != at && most >= WORTH_COPYING {
            self.keep(at);
            // A layer may not have the state after an earlier position.
            if let Err(error) = self.fork_into(from, at, most) {
                log::debug!("a common beginning is computed again: {error}");
            }
            return Ok(at);
        }
        let at = if goes_on || from == at { from } else { return self.take_least_recent(prompt, 0, least_prompt) };
        if !goes_on {
            self.keep(at);
        }
        if let Some(sequence) = &mut self.places[at].sequence {
            self.runtime.rewind(sequence, most)?;
        }
        Ok(at)
    }

    /// Leaves in the free place `at` what it holds of `prompt`, or more of it that another place or a kept prefix holds.
    fn prepare_asked(&mut self, at: usize, prompt: &[u32], reuse: bool, least_prompt: usize) -> Result<()> {
        let common_of = |place: &Place| if reuse { place.common(prompt, least_prompt) } else { 0 };
        let own = common_of(&self.places[at]);
        let kept = if reuse { self.prefixes.longest(prompt, least_prompt) } else { 0 };
        let others = (0..self.places.len()).map(|other| (common_of(&self.places[other]), other));
        let (most, from) = others.max_by_key(|&(common, other)| (common, other == at)).unwrap_or((own, at));
        if own < self.places[at].tokens().len() {
            self.keep(at);
        }
        if kept > most.max(own + WORTH_COPYING) {
            return self.bring_back(at, prompt, kept, least_prompt);
        }
        if most > own + WORTH_COPYING {
            // A layer may not have the state after an earlier position.
            let Err(error) = self.fork_into(from, at, most) else { return Ok(()) };
            log::debug!("a common beginning is computed again: {error}");
            return self.bring_back(at, prompt, 0, least_prompt);
        }
        match &mut self.places[at].sequence {
            Some(sequence) if own > 0 => self.runtime.rewind(sequence, own),
            _ => self.bring_back(at, prompt, 0, least_prompt),
        }
    }

    /// The place unused for longest, empty but for a kept prefix of `kept` tokens, if there is one.
    fn take_least_recent(&mut self, prompt: &[u32], kept: usize, least_prompt: usize) -> Result<usize> {
        let at = self.least_recent();
        self.keep(at);
        self.bring_back(at, prompt, kept, least_prompt)?;
        Ok(at)
    }

    /// Replaces what a place holds by a kept prefix of `kept` tokens; 0: by nothing.
    fn bring_back(&mut self, at: usize, prompt: &[u32], kept: usize, least_prompt: usize) -> Result<()> {
        if let Some(sequence) = self.places[at].sequence.take() {
            self.runtime.end(sequence);
        }
        // What the place held may have taken the room of the best one.
        let kept = kept.min(self.prefixes.longest(prompt, least_prompt));
        if kept > 0 {
            let mut sequence = self.runtime.begin().ok_or_else(no_sequence)?;
            self.prefixes.bring_back(&mut self.runtime, &mut sequence, prompt, least_prompt)?;
            self.runtime.rewind(&mut sequence, kept)?;
            self.places[at].sequence = Some(sequence);
        }
        Ok(())
    }

    /// The free place whose last answer began first.
    pub(super) fn least_recent(&self) -> usize {
        let free = self.places.iter().enumerate().filter(|(_, place)| place.answer.is_none());
        free.min_by_key(|(_, place)| place.used).map_or(0, |(at, _)| at)
    }

    /// A copy of what a place holds; `None` where that is nothing.
    ///
    /// # Errors
    /// If an answer is in the place, or its states cannot be read.
    pub fn save_place(&mut self, at: usize) -> Result<Option<SavedSequence>> {
        self.free_place(at)?;
        let Some(sequence) = &self.places[at].sequence else { return Ok(None) };
        let saved = self.runtime.save(sequence)?;
        saved.map(|saved| self.runtime.check_saved(&saved).map(|()| saved)).transpose()
    }

    /// Makes a place hold what was saved; what it held gives way.
    ///
    /// # Errors
    /// If an answer is in the place, or the runtime cannot take it.
    pub fn restore_place(&mut self, at: usize, saved: SavedSequence) -> Result<()> {
        self.free_place(at)?;
        self.runtime.check_saved(&saved)?;
        self.keep(at);
        self.empty(at);
        let mut sequence = self.runtime.begin().ok_or_else(no_sequence)?;
        self.runtime.restore_saved(&saved, &mut sequence)?;
        self.clock += 1;
        let place = &mut self.places[at];
        (place.sequence, place.used) = (Some(sequence), self.clock);
        Ok(())
    }

    /// Forgets what a place holds; gives the number of its tokens.
    ///
    /// # Errors
    /// If an answer is in the place.
    pub fn erase_place(&mut self, at: usize) -> Result<usize> {
        let tokens = self.free_place(at)?.tokens().len();
        self.empty(at);
        self.places[at].used = 0;
        Ok(tokens)
    }

    /// Lends the runtime, with the empty sequence of the free place that was unused for longest; what it held gives way. It holds
    /// then what `work` leaves there.
    ///
    /// # Errors
    /// If no place is free.
    pub fn lend<T>(&mut self, work: impl FnOnce(&mut Runtime, &mut Sequence) -> T) -> Result<T> {
        let at = self.least_recent();
        self.free_place(at)?;
        self.keep(at);
        self.empty(at);
        let mut sequence = self.runtime.begin().ok_or_else(no_sequence)?;
        let done = work(&mut self.runtime, &mut sequence);
        self.places[at].sequence = Some(sequence);
        Ok(done)
    }

    fn free_place(&self, at: usize) -> Result<&Place> {
        let place = self.places.get(at).filter(|place| place.answer.is_none());
        place.ok_or_else(|| Error::missing(format!("free place {at}"), "work on what it holds"))
    }

    fn empty(&mut self, at: usize) {
        if let Some(sequence) = self.places[at].sequence.take() {
            self.runtime.end(sequence);
        }
    }

    /// Copies what a place holds to the kept prefixes.
    pub(super) fn keep(&mut self, at: usize) {
        if let Some(sequence) = &self.places[at].sequence
            && let Err(error) = self.prefixes.keep(&mut self.runtime, sequence)
        {
            log::warn!("a conversation will be computed again: {error}");
        }
    }

    /// Replaces what place `to` holds by the first `len` tokens of place `from`.
    pub(super) fn fork_into(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        self.empty(to);
        let Some(source) = &self.places[from].sequence else { return Ok(()) };
        let fork = self.runtime.fork(source, len.min(source.tokens().len()))?;
        self.places[to].sequence = Some(fork.ok_or_else(no_sequence)?);
        Ok(())
    }
}
