//! Whole texts, in batches: the logits at their end, those after each token, or the hidden states of all.

use super::{Phase, Runtime, Sequence, Work};
use crate::{
    backend::Want,
    error::{Error, Result},
};

impl Runtime {
    /// Runs all of `ids` behind the tokens of a sequence, in batches, asking `go_on` before each and giving what is wanted of the
    /// last token. False when it was stopped: then there are no logits, and the sequence tells how far it came.
    ///
    /// # Errors
    /// As of [`run`](Self::run). The batches before the one that failed are held.
    pub fn prefill_while(
        &mut self,
        sequence: &mut Sequence,
        ids: &[u32],
        want: Want,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<bool> {
        // All is checked before anything runs: a prompt that cannot fit must not cost minutes first.
        self.check(sequence, ids)?;
        let mut batches = ids.chunks(self.sizes.batch_tokens).peekable();
        while let Some(batch) = batches.next() {
            if !go_on() {
                return Ok(false);
            }
            let want = if batches.peek().is_some() { Want::Nothing } else { want };
            self.run(&mut [Work { sequence: &mut *sequence, ids: batch, want, phase: Phase::Prefill }])?;
        }
        Ok(true)
    }

    /// Runs all of `ids` behind the tokens of a sequence, in batches; `use_logits` is given the logits after each token,
    /// (vocab), in order.
    ///
    /// # Errors
    /// As of [`prefill_while`](Self::prefill_while).
    pub fn score(&mut self, sequence: &mut Sequence, ids: &[u32], mut use_logits: impl FnMut(&[f32])) -> Result<()> {
        self.check(sequence, ids)?;
        for batch in ids.chunks(self.sizes.batch_tokens) {
            self.check_cancelled()?;
            self.run(&mut [Work { sequence: &mut *sequence, ids: batch, want: Want::All, phase: Phase::Prefill }])?;
            self.logits.chunks_exact(self.vocab).for_each(&mut use_logits);
        }
        Ok(())
    }

    /// Hidden states behind the last block of the tokens of work `i` of the last step, (tokens, dim); empty where the plan has a
    /// head.
    pub fn hidden(&self, i: usize) -> &[f32] {
        self.hidden_of.get(i).map_or(&[], |values| &self.hidden[values.clone()])
    }

    /// Keeps the hidden states of a batch for its works, as the next batch of the step overwrites them.
    pub(super) fn take_hidden(&mut self, members: &[usize]) -> Result<()> {
        let (found, tokens) = (self.activations.hidden.len(), self.batch.tokens());
        let width = found / tokens.max(1);
        if width * tokens != found {
            return Err(Error::malformed("the hidden states of a step", format!("rows of {tokens} tokens"), found));
        }
        let mut end = self.hidden.len();
        for (row, &at) in self.batch.rows.iter().zip(members) {
            let start = end;
            end += row.positions.len() * width;
            self.hidden_of[at] = start..end;
        }
        self.hidden.extend_from_slice(&self.activations.hidden);
        Ok(())
    }
}
