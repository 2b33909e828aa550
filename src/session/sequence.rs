//! One conversation's tokens, and how much of them the states hold.

use crate::backend::SlotId;

/// The tokens of one sequence of a [`Runtime`](super::Runtime), which hands it out and takes it back.
#[derive(Debug)]
pub struct Sequence {
    pub(super) slot: SlotId,
    pub(super) tokens: Vec<u32>,
    /// Leading positions that the states of each [`Phase`](super::Phase) hold.
    pub(super) filled: [usize; 2],
    /// See [`super::Runtime`]: with another number the states are lost.
    pub(super) epoch: u32,
}

impl Sequence {
    pub(super) fn new(slot: SlotId, epoch: u32, context_tokens: usize) -> Self {
        Self { slot, tokens: Vec::with_capacity(context_tokens), filled: [0; 2], epoch }
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
