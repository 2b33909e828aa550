//! A part of a step: what is recorded for one look at its results.

use std::ops::Range;

use crate::backend::gpu::{lower::select::Selection, record::encode::StepParams};

/// Which dispatches run the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Decode,
    Few,
    Prefill,
}

/// Logits to compute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadPart {
    /// Tokens of the step.
    pub tokens: Range<usize>,
    /// Row of the head's input where the first of them goes.
    pub normed: usize,
    pub choice: Option<Selection>,
    /// The copy of the head serves.
    pub screened: bool,
}

/// Layers and logits, or more logits of a chunk whose layers have run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Tokens of the step that are computed together.
    pub chunk: Range<usize>,
    /// `None`: they have run.
    pub layers: Option<List>,
    /// For the layers.
    pub params: StepParams,
    pub head: Option<HeadPart>,
}
