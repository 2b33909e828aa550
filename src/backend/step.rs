//! One step of a segment: the rows it runs, what goes in and what comes out.

use std::ops::Range;

use super::{Candidates, Checkpoint};

/// A sequence's place in every per-layer state of every segment; below [`crate::plan::Sizes::sequences`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which logits of a row a step must produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: an early part of a prompt. The head is not run.
    Nothing,
    /// Those of the last token.
    Last,
    /// Those of every token (perplexity, and drafts to be checked).
    All,
    /// At least this many of the highest of the last token, as candidates. A backend without a shortcut for so many gives
    /// all of them as logits, as for `Last`.
    Top(usize),
    /// As `Top`, after every token: drafts to be checked. A backend without a shortcut gives logits as for `All`.
    Each(usize),
}

/// The tokens of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub slot: SlotId,
    /// Consecutive positions, at least one. The first must not exceed the positions that the slot holds: what it held
    /// from there on is overwritten.
    pub positions: Range<usize>,
    /// Logits to produce.
    pub want: Want,
    /// Part of a prompt; see [`Limits::least_prompt`].
    pub is_prompt: bool,
    /// A checkpoint of the states to be made on the way, behind the positions below this one, which is inside `positions`;
    /// only where [`Limits::keeps_on_the_way`].
    pub checkpoint: Option<(usize, Checkpoint)>,
}

/// The rows of a step, in the order in which their tokens are stacked in ids and hidden states.
///
/// Each slot stands there at most once. The kernels for answers and for prompts may differ in the last bit, and what a
/// sequence gets must not depend on who is beside it. So either all rows together have at most [`Limits::exact_tokens`]
/// tokens, or there is a single row, unless the backend [chooses by row](Limits::mixes_rows).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The rows.
    pub rows: Vec<Row>,
}

impl Batch {
    /// A single row of the first slot, not of a prompt.
    pub fn one(positions: Range<usize>, want: Want) -> Self {
        Self { rows: vec![Row { slot: SlotId(0), positions, want, is_prompt: false, checkpoint: None }] }
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.positions.len()).sum()
    }
}

/// Results of one row. Reused from step to step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowOutput {
    /// Its rows of [`Activations::logits`]; empty where none were wanted, and where `candidates` answer.
    pub logits: Range<usize>,
    /// The highest logits of a row that wanted [`Want::Top`], where the backend had a shortcut; empty otherwise.
    pub candidates: Candidates,
    /// Tokens that `candidates` are of, one after the other with as many each, where the row wanted [`Want::Each`]; else 0.
    pub each: usize,
    /// Rows of the head that were multiplied exactly: with `candidates`, fewer than the vocabulary.
    pub head_rows: usize,
}

impl RowOutput {
    /// Forgets what the last step left.
    pub fn clear(&mut self) {
        self.logits = 0..0;
        self.candidates.top.clear();
        self.each = 0;
        self.head_rows = 0;
    }
}

/// Data that crosses a segment's edge; reused from step to step.
#[derive(Debug, Default)]
pub struct Activations {
    /// Input of a segment with `embed`: (T) token ids below the vocabulary size.
    pub ids: Vec<u32>,
    /// Input and output between segments: (T, dim).
    pub hidden: Vec<f32>,
    /// Output of a segment with `head`: (logits of all rows by [`Want`], vocab).
    pub logits: Vec<f32>,
    /// Output of a segment with `head`: one for each row of the batch.
    pub rows: Vec<RowOutput>,
}

impl Activations {
    /// Empties the results and makes room for those of `rows` rows; nothing is allocated where as many were there before.
    pub fn clear_output(&mut self, rows: usize) {
        self.logits.clear();
        self.rows.resize_with(rows, RowOutput::default);
        self.rows.iter_mut().for_each(RowOutput::clear);
    }

    /// The candidates of the first row; empty where it has logits or nothing.
    pub fn candidates(&self) -> Option<&Candidates> {
        self.rows.first().map(|row| &row.candidates).filter(|candidates| !candidates.top.is_empty())
    }
}

/// Limits of a loaded segment that callers may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a batch.
    pub max_tokens: usize,
    /// Up to this many tokens in one batch, of one sequence or of several, give the same bits as so many batches of one.
    pub exact_tokens: usize,
    /// Fewest tokens of a prompt's row that get the bits that they get in any longer one; those of a shorter row may differ
    /// in the last bit.
    pub least_prompt: usize,
    /// Rows of any lengths may share a batch: each gets the bits that it gets alone.
    pub mixes_rows: bool,
    /// Rows may have a [checkpoint](Row::checkpoint).
    pub keeps_on_the_way: bool,
    /// Largest [`Want::Top`] that is answered with candidates; 0 without a shortcut.
    pub most_top: usize,
    /// As `most_top`, of [`Want::Each`].
    pub most_each: usize,
    /// Largest [`Want::Top`] whose candidates come with the sum over the vocabulary ([`super::Rest::Summed`]).
    pub most_summed: usize,
    /// Most tokens that a [draft](super::Backend::draft) has; 0 where none is made.
    pub most_drafted: usize,
}

impl Limits {
    /// Limits that hold for two segments that run the same batches.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            max_tokens: self.max_tokens.min(other.max_tokens),
            exact_tokens: self.exact_tokens.min(other.exact_tokens),
            least_prompt: self.least_prompt.max(other.least_prompt),
            mixes_rows: self.mixes_rows && other.mixes_rows,
            keeps_on_the_way: self.keeps_on_the_way && other.keeps_on_the_way,
            most_top: self.most_top.min(other.most_top),
            most_each: self.most_each.min(other.most_each),
            most_summed: self.most_summed.min(other.most_summed),
            most_drafted: self.most_drafted.min(other.most_drafted),
        }
    }
}

/// A step that was submitted and not yet waited for.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket(pub u64);
