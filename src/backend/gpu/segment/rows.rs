//! The rows of a step: where their tokens lie, and what each gets of the head. No device is needed to tell.

use std::ops::Range;

use crate::{
    backend::{Batch, SlotId, Want, gpu::lower::select::Selection},
    plan::Sizes,
};

/// Results of the head for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gets {
    Nothing,
    /// Logits of the last token.
    Last,
    /// Logits of every token.
    All,
    /// The highest logits of the last token.
    Highest(Selection),
}

/// The tokens of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRow {
    pub slot: SlotId,
    /// Among those of the step.
    pub tokens: Range<usize>,
    /// Position of the first.
    pub position: usize,
    pub gets: Gets,
}

/// A result that is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Logits of these tokens.
    Logits { row: usize, tokens: Range<usize> },
    /// The highest of this token.
    Highest { row: usize, token: usize, choice: Selection },
}

/// The rows of `batch`; `choice` tells what serves the highest so many logits.
pub fn rows<'a>(
    batch: &'a Batch,
    choice: impl Fn(usize) -> Option<Selection> + 'a,
) -> impl Iterator<Item = StepRow> + 'a {
    let mut before = 0;
    batch.rows.iter().map(move |row| {
        let tokens = before..before + row.positions.len();
        before = tokens.end;
        let gets = match row.want {
            Want::Nothing => Gets::Nothing,
            Want::Last => Gets::Last,
            Want::All | Want::Each(_) => Gets::All,
            Want::Top(count) => choice(count).map_or(Gets::Last, Gets::Highest),
        };
        StepRow { slot: row.slot, tokens, position: row.positions.start, gets }
    })
}

impl StepRow {
    /// Tokens whose logits are computed.
    fn head_tokens(&self) -> Range<usize> {
        let Range { start, end } = self.tokens;
        match self.gets {
            Gets::Nothing => end..end,
            Gets::Last | Gets::Highest(_) => end - 1..end,
            Gets::All => start..end,
        }
    }

    /// Position behind those of its tokens that are before `end`.
    pub fn end_position(&self, end: usize) -> usize {
        self.position + self.tokens.end.min(end).saturating_sub(self.tokens.start)
    }

    /// The kernels' words for a token, as in common/batch.wgsl; `chunk` are the tokens that the step
    /// computes together.
    pub fn token_words(&self, token: usize, id: u32, chunk: &Range<usize>, sizes: &Sizes) -> [u32; 4] {
        let position = self.position + token - self.tokens.start;
        let first = self.tokens.start.max(chunk.start) - chunk.start;
        [id, position as u32, first as u32, (self.slot.index() * sizes.context_tokens) as u32]
    }
}

/// The tokens of `chunk` whose logits are computed: a run of tokens that may hold some that nobody asks for. Empty where
/// nobody asks for any.
pub fn head_tokens(rows: &[StepRow], chunk: &Range<usize>) -> Range<usize> {
    let wanted = rows.iter().map(|row| common(&row.head_tokens(), chunk)).filter(|tokens| !tokens.is_empty());
    wanted.reduce(|all, tokens| all.start.min(tokens.start)..all.end.max(tokens.end)).unwrap_or(chunk.end..chunk.end)
}

/// Outputs to read back of `tokens`, whose logits have been computed.
pub fn outputs<'a>(rows: &'a [StepRow], tokens: &'a Range<usize>) -> impl Iterator<Item = Output> + 'a {
    rows.iter().enumerate().filter_map(move |(number, row)| {
        let tokens = common(&row.head_tokens(), tokens);
        match row.gets {
            _ if tokens.is_empty() => None,
            Gets::Nothing => None,
            Gets::Last | Gets::All => Some(Output::Logits { row: number, tokens }),
            Gets::Highest(choice) => Some(Output::Highest { row: number, token: tokens.start, choice }),
        }
    })
}

/// The selection among the logits of `tokens`, and whether it can do without some of them.
pub fn choice(rows: &[StepRow], tokens: &Range<usize>) -> (Option<Selection>, bool) {
    outputs(rows, tokens).fold((None, true), |(choice, some), output| match output {
        Output::Logits { .. } => (choice, false),
        Output::Highest { choice: own, .. } => (choice.max(Some(own)), some),
    })
}

fn common(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Row;

    fn step(rows: &[(u32, Range<usize>, Want)]) -> Vec<StepRow> {
        let row = |(slot, positions, want): &(u32, Range<usize>, Want)| Row {
            slot: SlotId(*slot),
            positions: positions.clone(),
            want: *want,
            is_prompt: false,
            checkpoint: None,
        };
        let batch = Batch { rows: rows.iter().map(row).collect() };
        super::rows(&batch, |count| Selection::of(count, 10_000, false)).collect()
    }

    #[test]
    fn rows_lie_one_after_the_other() {
        let sizes = Sizes { sequences: 4, ..Sizes::new(100, 8) };
        let rows = step(&[(3, 7..8, Want::Nothing), (0, 0..3, Want::All), (1, 5..6, Want::Top(3))]);
        assert_eq!(rows.iter().map(|row| row.tokens.clone()).collect::<Vec<_>>(), [0..1, 1..4, 4..5]);
        assert_eq!(rows[0].token_words(0, 9, &(0..5), &sizes), [9, 7, 0, 300]);
        assert_eq!(rows[1].token_words(3, 9, &(0..5), &sizes), [9, 2, 1, 0]);
        // In the second chunk its tokens begin at the chunk's first.
        assert_eq!(rows[1].token_words(3, 9, &(2..5), &sizes), [9, 2, 0, 0]);
        assert_eq!((rows[1].end_position(3), rows[1].end_position(5), rows[2].end_position(5)), (2, 3, 6));
    }

    #[test]
    fn the_head_takes_one_run_of_tokens() {
        let rows = step(&[(3, 7..8, Want::Nothing), (0, 0..3, Want::All), (1, 5..7, Want::Top(3))]);
        assert_eq!(head_tokens(&rows, &(0..6)), 1..6);
        assert_eq!(head_tokens(&rows, &(0..1)), 1..1);
        let all: Vec<_> = outputs(&rows, &(1..6)).collect();
        let highest = Output::Highest { row: 2, token: 5, choice: Selection::Top };
        assert_eq!(all, [Output::Logits { row: 1, tokens: 1..4 }, highest.clone()]);
        assert_eq!(outputs(&rows, &(3..6)).collect::<Vec<_>>(), [Output::Logits { row: 1, tokens: 3..4 }, highest]);
        assert_eq!(choice(&rows, &(1..6)), (Some(Selection::Top), false));
    }

    #[test]
    fn the_strongest_choice_serves_all() {
        let rows = step(&[(0, 0..1, Want::Top(1)), (1, 0..1, Want::Top(100)), (2, 0..1, Want::Nothing)]);
        assert_eq!(head_tokens(&rows, &(0..3)), 0..2);
        assert_eq!(choice(&rows, &(0..2)), (Some(Selection::Top), true));
        // More than come back are logits.
        assert_eq!(step(&[(0, 0..1, Want::Top(300))])[0].gets, Gets::Last);
    }
}
