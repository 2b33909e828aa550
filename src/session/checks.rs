//! Checks of what callers hand a runtime, before anything runs.

use std::sync::atomic::Ordering;

use super::{Phase, Runtime, Sequence};
use crate::error::{Error, Result};

impl Runtime {
    /// That a sequence is of this runtime, whose slots are no one else's.
    pub(super) fn check_owned(&self, sequence: &Sequence) -> Result<()> {
        if sequence.is_of(&self.free) {
            return Ok(());
        }
        Err(Error::argument("sequence", "one that this runtime began", "one of another"))
    }

    /// That there are logits, where those are `wanted`, or else hidden states.
    pub(super) fn check_head(&self, wanted: bool) -> Result<()> {
        let has_head = self.phases.segments(Phase::Decode).last().is_some_and(|loaded| loaded.segment.head);
        match (wanted, has_head) {
            (true, false) => Err(Error::argument("purpose of the session", "one with logits", "hidden states")),
            (false, true) => Err(Error::argument("purpose of the session", "hidden states", "one with logits")),
            _ => Ok(()),
        }
    }

    pub(super) fn check_vocabulary(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(id) => Err(Error::argument("token id", format!("below {} (the vocabulary)", self.vocab), id)),
            None => Ok(()),
        }
    }

    /// That `ids` may run behind the tokens of a sequence.
    pub(crate) fn check(&self, sequence: &Sequence, ids: &[u32]) -> Result<()> {
        self.check_owned(sequence)?;
        if ids.is_empty() {
            return Err(Error::argument("prompt", "at least one token", "none"));
        }
        self.check_vocabulary(ids)?;
        let needed = sequence.tokens.len() + ids.len();
        if needed > self.sizes.context_tokens {
            return Err(Error::ContextFull { needed, context: self.sizes.context_tokens });
        }
        Ok(())
    }

    /// That a batch may begin. Backends look at the flag in a batch that takes long, not before each of many short ones.
    pub(super) fn check_cancelled(&self) -> Result<()> {
        match &self.cancel {
            Some(raised) if raised.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}
