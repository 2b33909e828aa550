//! States of sequences that had to give way, in main memory, within a budget; the least recently used go first.

use std::collections::VecDeque;

use crate::{
    error::Result,
    session::{Runtime, SavedSequence, Sequence},
};

/// Shorter ones are read again in no time, and would fill the memory with every short question there was.
const LEAST_TOKENS: usize = 128;

/// Kept at most: each prompt is compared with all of them.
const MOST_KEPT: usize = 256;

/// Kept prefixes, the least recently used first.
pub(super) struct Prefixes {
    kept: VecDeque<SavedSequence>,
    bytes: usize,
    most_bytes: usize,
}

impl Prefixes {
    /// At most so many bytes; 0 keeps nothing.
    pub fn new(most_bytes: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, most_bytes }
    }

    /// Tokens of `prompt` that the best of them holds.
    pub fn longest(&self, prompt: &[u32], least_prompt: usize) -> usize {
        self.kept.iter().map(|kept| kept.reusable_prefix(prompt, least_prompt)).max().unwrap_or(0)
    }

    /// Keeps a copy of what a sequence holds, unless something kept goes further.
    pub fn keep(&mut self, runtime: &mut Runtime, sequence: &Sequence) -> Result<()> {
        let tokens = sequence.tokens();
        let known = self.kept.iter().any(|kept| kept.tokens().starts_with(tokens));
        if tokens.len() < LEAST_TOKENS || self.most_bytes == 0 || known {
            return Ok(());
        }
        let Some(saved) = runtime.save(sequence)? else { return Ok(()) };
        let bytes = saved.bytes();
        if bytes > self.most_bytes {
            return Ok(());
        }
        // What it goes on from is part of it.
        self.kept.retain(|kept| !saved.tokens().starts_with(kept.tokens()));
        self.bytes = self.kept.iter().map(SavedSequence::bytes).sum();
        while self.bytes + bytes > self.most_bytes || self.kept.len() >= MOST_KEPT {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
        self.bytes += bytes;
        self.kept.push_back(saved);
        Ok(())
    }

    /// Fills an empty sequence with the one that holds most of `prompt`, which stays, unless it is from before a failure
    /// that changed what layers keep.
    pub fn bring_back(
        &mut self,
        runtime: &mut Runtime,
        sequence: &mut Sequence,
        prompt: &[u32],
        least_prompt: usize,
    ) -> Result<()> {
        let best = (0..self.kept.len()).max_by_key(|&at| self.kept[at].reusable_prefix(prompt, least_prompt));
        let Some(saved) = best.and_then(|at| self.kept.remove(at)) else { return Ok(()) };
        if !runtime.takes(&saved) {
            return Ok(());
        }
        let restored = runtime.restore_saved(&saved, sequence);
        self.kept.push_back(saved);
        restored
    }
}
