//! The rows of a step as recurrent layers run them: cut where a checkpoint is made on the way.

use std::ops::Range;

use bitnet_cpu_kernels::attention::Placed;

use super::super::{Checkpoint, Row};

/// Rows that run in one go.
#[derive(Debug)]
struct Span {
    placed: Range<usize>,
    tokens: Range<usize>,
    /// Made behind the last of them, of its sequence.
    checkpoint: Option<Checkpoint>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spans {
    placed: Vec<Placed>,
    spans: Vec<Span>,
}

impl Spans {
    /// Room for the rows of so many sequences.
    pub fn new(sequences: usize) -> Self {
        Self { placed: Vec::with_capacity(2 * sequences), spans: Vec::with_capacity(sequences + 1) }
    }

    /// Cuts the rows of a step.
    pub fn set(&mut self, rows: &[Row]) {
        self.placed.clear();
        self.spans.clear();
        let mut begun = (0, 0);
        let mut tokens = 0;
        for Row { slot, positions, is_prompt, checkpoint, .. } in rows {
            let part = |positions: Range<usize>| Placed {
                cache: slot.index(),
                start: positions.start,
                tokens: positions.len(),
                is_prompt: *is_prompt,
            };
            let mut rest = positions.clone();
            if let Some((at, place)) = *checkpoint {
                assert!(positions.start < at && at < positions.end, "a checkpoint behind {at} of {positions:?}");
                rest.start = at;
                self.placed.push(part(positions.start..at));
                tokens += at - positions.start;
                let placed = begun.0..self.placed.len();
                self.spans.push(Span { placed, tokens: begun.1..tokens, checkpoint: Some(place) });
                begun = (self.placed.len(), tokens);
            }
            tokens += rest.len();
            self.placed.push(part(rest));
        }
        let placed = begun.0..self.placed.len();
        self.spans.push(Span { placed, tokens: begun.1..tokens, checkpoint: None });
    }

    /// Rows that run in one go, where their tokens stand, and a checkpoint to make then, of the sequence with that number.
    pub fn iter(&self) -> impl Iterator<Item = (&[Placed], Range<usize>, Option<(usize, Checkpoint)>)> {
        self.spans.iter().map(|Span { placed, tokens, checkpoint }| {
            let placed = &self.placed[placed.clone()];
            let of_last = checkpoint.and_then(|place| Some((placed.last()?.cache, place)));
            (placed, tokens.clone(), of_last)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{SlotId, Want};

    #[test]
    fn rows_are_cut_behind_checkpoints_only() {
        let row = |slot, positions: Range<usize>, checkpoint| Row {
            slot: SlotId(slot),
            positions,
            want: Want::Nothing,
            is_prompt: true,
            checkpoint,
        };
        let mut spans = Spans::new(3);
        let found = |spans: &Spans| {
            let numbers = |placed: &[Placed]| placed.iter().map(|p| (p.cache, p.start, p.tokens)).collect::<Vec<_>>();
            spans.iter().map(|(placed, tokens, then)| (numbers(placed), tokens, then)).collect::<Vec<_>>()
        };
        spans.set(&[row(1, 4..5, None), row(0, 0..3, None)]);
        assert_eq!(found(&spans), [(vec![(1, 4, 1), (0, 0, 3)], 0..4, None)]);
        spans.set(&[row(1, 4..5, None), row(2, 10..30, Some((23, Checkpoint(1)))), row(0, 0..3, None)]);
        let expected = [
            (vec![(1, 4, 1), (2, 10, 13)], 0..14, Some((2, Checkpoint(1)))),
            (vec![(2, 23, 7), (0, 0, 3)], 14..24, None),
        ];
        assert_eq!(found(&spans), expected);
    }
}
