//! Where the input of the head lies that gave each sequence its last candidates, for those who need all logits after all.

use crate::backend::SlotId;

/// A place of the input of the head, (dim).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A row for the tokens of any step.
    Shared(usize),
    /// A row of the sequence's own, for steps of its single tokens: one of two, so that a step may begin before the one
    /// before it is done with.
    Own(usize),
    /// Out of the way of other steps.
    Kept,
}

/// The places by slot.
pub struct Held {
    places: Vec<Option<Place>>,
    shared_rows: usize,
}

impl Held {
    /// Nothing yet. Own rows lie behind `shared_rows`.
    pub fn new(sequences: usize, shared_rows: usize) -> Self {
        Self { places: vec![None; sequences], shared_rows }
    }

    pub fn get(&self, slot: SlotId) -> Option<Place> {
        self.places[slot.index()]
    }

    pub fn set(&mut self, slot: SlotId, place: Option<Place>) {
        self.places[slot.index()] = place;
    }

    /// The own row of a slot that a step may write while `busy` is still needed.
    pub fn own_row(&self, slot: SlotId, busy: Option<usize>) -> usize {
        let first = self.shared_rows + 2 * slot.index();
        if busy == Some(first) { first + 1 } else { first }
    }

    /// Slots whose input lies in the rows for any step.
    pub fn shared(&self) -> impl Iterator<Item = (SlotId, usize)> {
        (0..).map(SlotId).zip(&self.places).filter_map(|(slot, place)| match place {
            Some(Place::Shared(row)) => Some((slot, *row)),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_alternates_between_rows_of_its_own() {
        let mut held = Held::new(3, 8);
        assert_eq!((held.own_row(SlotId(0), None), held.own_row(SlotId(2), None)), (8, 12));
        assert_eq!((held.own_row(SlotId(2), Some(12)), held.own_row(SlotId(2), Some(13))), (13, 12));
        held.set(SlotId(1), Some(Place::Shared(4)));
        held.set(SlotId(2), Some(Place::Own(12)));
        assert_eq!(held.shared().collect::<Vec<_>>(), [(SlotId(1), 4)]);
    }
}
