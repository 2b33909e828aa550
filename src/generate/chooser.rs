//! The sampler of answers and its guides. They live longer than one answer: they learn.

use super::{Constraint, Drafter, Sampler};

/// A sampler with what may guide it. The default is greedy.
#[derive(Default)]
pub struct Chooser {
    /// Draws the ids.
    pub sampler: Sampler,
    /// Guesses several tokens ahead, where that pays; the text stays the same.
    pub drafter: Option<Drafter>,
    /// Allows only text that follows a grammar.
    pub constraint: Option<Constraint>,
}

impl From<Sampler> for Chooser {
    fn from(sampler: Sampler) -> Self {
        Self { sampler, drafter: None, constraint: None }
    }
}
