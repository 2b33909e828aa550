//! Positions that the states of a segment hold of each sequence: the rules of [`States`](super::States), for any backend.

use std::ops::Range;

use super::{Checkpoint, SlotId};
use crate::{
    error::{Error, Result},
    graph::CHECKPOINTS,
};

/// Positions of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Length {
    /// Positions with keys and values.
    cached: usize,
    /// Positions that the recurrent layers stand behind; `None` after a step that failed halfway.
    live: Option<usize>,
    kept: [Option<usize>; CHECKPOINTS],
}

/// Positions of all sequences. Where no layer is recurrent, any number up to those cached can be gone back to.
#[derive(Debug)]
pub(super) struct Lengths {
    of_slot: Vec<Length>,
    pub has_recurrent: bool,
}

impl Lengths {
    pub fn new(sequences: usize, has_recurrent: bool) -> Self {
        Self { of_slot: vec![Length { live: Some(0), ..Length::default() }; sequences], has_recurrent }
    }

    /// Whether a step may begin at `start`. Recurrent layers begin with zeros at 0.
    pub fn can_begin(&self, slot: SlotId, start: usize) -> bool {
        let Length { cached, live, .. } = self.of_slot[slot.index()];
        start <= cached && (!self.has_recurrent || start == 0 || live == Some(start))
    }

    /// Where a step may begin, in words for an error.
    pub fn beginnings(&self, slot: SlotId) -> String {
        let Length { cached, live, .. } = self.of_slot[slot.index()];
        match live {
            _ if !self.has_recurrent => format!("at most position {cached}"),
            Some(live) => format!("position 0 or {live}"),
            None => "position 0".to_owned(),
        }
    }

    /// The error where `end` positions are asked for that are not held.
    pub fn not_held(&self, slot: SlotId, end: usize) -> Error {
        let Length { cached, live, .. } = self.of_slot[slot.index()];
        let held = match live {
            _ if !self.has_recurrent => format!("up to {cached}"),
            Some(live) => format!("the state behind {live}, or one of a checkpoint"),
            None => "the state of a checkpoint".to_owned(),
        };
        Error::malformed("positions of a sequence", held, format!("up to {end}"))
    }

    /// The positions from `start` on are about to be replaced: checkpoints behind them are of a text that is no more, maybe of
    /// another sequence.
    pub fn begin(&mut self, slot: SlotId, start: usize) {
        let length = &mut self.of_slot[slot.index()];
        length.live = None;
        length.kept.iter_mut().filter(|kept| kept.is_some_and(|len| len > start)).for_each(|kept| *kept = None);
    }

    pub fn set(&mut self, slot: SlotId, len: usize) {
        let length = &mut self.of_slot[slot.index()];
        (length.cached, length.live) = (len, Some(len));
    }

    pub fn clear(&mut self, slot: SlotId) {
        self.of_slot[slot.index()] = Length { live: Some(0), ..Length::default() };
    }

    /// Whether `positions` can be copied out: recurrent layers have the state behind the last one only.
    pub fn holds(&self, slot: SlotId, positions: &Range<usize>, recurrent: bool) -> bool {
        let Length { cached, live, .. } = self.of_slot[slot.index()];
        positions.end <= cached && (!recurrent || live == Some(positions.end))
    }

    /// Where a fork of the first `len` positions finds recurrent states: `None` = nowhere, `Some(None)` = in the live ones.
    pub fn source(&self, slot: SlotId, len: usize) -> Option<Option<Checkpoint>> {
        let Length { cached, live, kept } = self.of_slot[slot.index()];
        if len > cached {
            None
        } else if !self.has_recurrent || len == 0 || live == Some(len) {
            Some(None)
        } else {
            let place = kept.iter().position(|kept| *kept == Some(len))?;
            Some(Some(Checkpoint(place as u32)))
        }
    }

    /// Forgets positions from `len` on; false where recurrent layers cannot.
    pub fn rewind(&mut self, slot: SlotId, len: usize) -> bool {
        let Some(length) = self.of_slot.get_mut(slot.index()) else { return true };
        if self.has_recurrent {
            return length.live == Some(len);
        }
        length.cached = len.min(length.cached);
        true
    }

    /// The checkpoint behind `start` positions, from which the states can come to stand behind `len`, which is no further than
    /// they have come.
    pub fn checkpoint_before(&self, slot: SlotId, start: usize, len: usize) -> Option<Checkpoint> {
        let Length { live, kept, .. } = self.of_slot[slot.index()];
        let place = kept.iter().position(|kept| *kept == Some(start))?;
        live.filter(|live| len <= *live).map(|_| Checkpoint(place as u32))
    }

    pub fn keep(&mut self, slot: SlotId, place: Checkpoint) {
        let length = &mut self.of_slot[slot.index()];
        length.kept[place.index()] = if self.has_recurrent { length.live } else { Some(length.cached) };
    }

    /// Goes back to a checkpoint.
    ///
    /// # Errors
    /// If there is none.
    pub fn restore(&mut self, slot: SlotId, place: Checkpoint) -> Result<()> {
        let length = &mut self.of_slot[slot.index()];
        let kept = length.kept[place.index()];
        let kept = kept.ok_or_else(|| Error::missing(format!("checkpoint {}", place.0), "the sequence"))?;
        (length.cached, length.live) = (kept, Some(kept));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: SlotId = SlotId(0);

    #[test]
    fn recurrent_layers_go_back_to_checkpoints_only() {
        let mut lengths = Lengths::new(1, true);
        lengths.set(SLOT, 5);
        lengths.keep(SLOT, Checkpoint(1));
        lengths.set(SLOT, 9);
        assert!(!lengths.rewind(SLOT, 5) && lengths.rewind(SLOT, 9));
        let source = |lengths: &Lengths, len| lengths.source(SLOT, len);
        assert_eq!([9, 5, 0].map(|len| source(&lengths, len)), [Some(None), Some(Some(Checkpoint(1))), Some(None)]);
        assert_eq!([6, 10].map(|len| source(&lengths, len)), [None, None]);
        assert!(lengths.can_begin(SLOT, 9) && lengths.can_begin(SLOT, 0) && !lengths.can_begin(SLOT, 5));
        assert!(lengths.holds(SLOT, &(2..5), false) && !lengths.holds(SLOT, &(2..5), true));
        lengths.begin(SLOT, 9);
        assert!(!lengths.can_begin(SLOT, 9) && lengths.can_begin(SLOT, 0));
        assert!(lengths.restore(SLOT, Checkpoint(0)).is_err() && lengths.restore(SLOT, Checkpoint(1)).is_ok());
        assert!(lengths.can_begin(SLOT, 5) && !lengths.can_begin(SLOT, 9));
        lengths.clear(SLOT);
        assert!(lengths.restore(SLOT, Checkpoint(1)).is_err());
    }

    /// A slot that another sequence had, and a sequence that went back and on with other tokens: what was kept of the text
    /// before must not be found by its length.
    #[test]
    fn checkpoints_of_another_text_are_forgotten() {
        let mut lengths = Lengths::new(1, true);
        for (place, len) in [(0, 5), (1, 7)] {
            lengths.set(SLOT, len);
            lengths.keep(SLOT, Checkpoint(place));
        }
        lengths.restore(SLOT, Checkpoint(0)).unwrap();
        lengths.begin(SLOT, 5);
        lengths.set(SLOT, 9);
        assert_eq!([5, 7].map(|len| lengths.source(SLOT, len)), [Some(Some(Checkpoint(0))), None]);
        lengths.begin(SLOT, 0);
        lengths.set(SLOT, 9);
        assert_eq!(lengths.source(SLOT, 5), None);
    }

    #[test]
    fn attention_goes_back_to_any_position() {
        let mut lengths = Lengths::new(1, false);
        lengths.set(SLOT, 9);
        assert!(lengths.can_begin(SLOT, 4) && !lengths.can_begin(SLOT, 10));
        assert_eq!([4, 10].map(|len| lengths.source(SLOT, len)), [Some(None), None]);
        lengths.keep(SLOT, Checkpoint(0));
        assert!(lengths.rewind(SLOT, 4) && !lengths.can_begin(SLOT, 5));
        assert!(lengths.restore(SLOT, Checkpoint(0)).is_ok() && lengths.can_begin(SLOT, 9));
    }
}
