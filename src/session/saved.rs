//! Sequences in main memory: the tokens and the states of every layer, to go on with later.

use super::{Phase, Runtime, SavedForm, Sequence, sequence::Steps};
use crate::{
    backend::{KvRows, LayerState},
    error::{Error, Result},
};

/// Tokens of a sequence, and its states. For the runtime that saved it, or one with the same model and types of caches.
#[derive(Clone, Debug)]
pub struct SavedSequence {
    pub(super) form: SavedForm,
    pub(super) tokens: Vec<u32>,
    pub(super) steps: Steps,
    /// One for each layer, in order, and one for a block of multi-token prediction.
    pub(super) states: Vec<LayerState>,
}

impl SavedSequence {
    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// As [`Sequence::reusable_prefix`].
    pub fn reusable_prefix(&self, prompt: &[u32], least_prompt: usize) -> usize {
        self.steps.reusable_of(&self.tokens, prompt, least_prompt)
    }

    /// Main memory that it takes.
    pub fn bytes(&self) -> usize {
        let of_state = |state: &LayerState| match state {
            LayerState::Kv { k, v } => rows_bytes(k) + rows_bytes(v),
            LayerState::Recurrent { conv, state } => (conv.len() + state.len()) * size_of::<f32>(),
        };
        self.tokens.len() * size_of::<u32>() + self.states.iter().map(of_state).sum::<usize>()
    }
}

impl Runtime {
    /// A copy of a sequence in main memory; `None` where its states were lost, and the tokens are all there is.
    ///
    /// # Errors
    /// If a backend cannot read its states.
    pub fn save(&mut self, sequence: &Sequence) -> Result<Option<SavedSequence>> {
        self.check_owned(sequence)?;
        let len = sequence.tokens.len();
        let phases = Phase::ALL.into_iter().filter(|&phase| self.phases.effective(phase) == phase);
        let complete = phases.into_iter().find(|&phase| sequence.filled[phase as usize] >= len);
        let Some(phase) = complete.filter(|_| sequence.epoch == self.epoch && len > 0) else { return Ok(None) };
        // What a block of multi-token prediction has put off.
        self.fill_drafts(sequence)?;
        let mut states = Vec::new();
        for index in self.phases.indices(phase) {
            let loaded = &self.phases.loaded[index];
            for layer in 0..loaded.states(&self.sizes) {
                let mut state = LayerState::default();
                self.backends[loaded.backend].states(loaded.id)?.export(layer, sequence.slot, 0..len, &mut state)?;
                states.push(state);
            }
        }
        let (tokens, steps) = (sequence.tokens.clone(), sequence.steps.clone());
        Ok(Some(SavedSequence { form: self.saved_form(), tokens, steps, states }))
    }

    /// Makes a sequence hold what was saved, and nothing else.
    ///
    /// # Errors
    /// If it was saved by a model of another shape or with other types of keys and values, is longer than the context, or a
    /// backend cannot take the states: the sequence is empty then.
    pub fn restore_saved(&mut self, saved: &SavedSequence, sequence: &mut Sequence) -> Result<()> {
        self.rewind(sequence, 0)?;
        self.check_saved(saved)?;
        let len = saved.tokens.len();
        let phase = self.phases.effective(Phase::Prefill);
        let mut states = saved.states.iter();
        for index in self.phases.indices(phase) {
            let loaded = &self.phases.loaded[index];
            for (layer, state) in (0..loaded.states(&self.sizes)).zip(states.by_ref()) {
                self.backends[loaded.backend].states(loaded.id)?.import(layer, sequence.slot, 0..len, state)?;
            }
        }
        sequence.tokens.clear();
        sequence.tokens.extend_from_slice(&saved.tokens);
        sequence.steps = saved.steps.clone();
        sequence.epoch = self.epoch;
        sequence.filled = [0; 2];
        sequence.filled[phase as usize] = len;
        Ok(())
    }

    /// That [`restore_saved`](Self::restore_saved) can take it.
    pub(crate) fn check_saved(&self, saved: &SavedSequence) -> Result<()> {
        if !self.takes(saved) {
            let expected = "the states of the layers as they run now";
            let found = "those of other layers or types, or of before a failure";
            return Err(Error::argument("saved sequence", expected, found));
        }
        let (needed, context) = (saved.tokens.len(), self.sizes.context_tokens);
        if needed > context { Err(Error::ContextFull { needed, context }) } else { Ok(()) }
    }
}

fn rows_bytes(rows: &KvRows) -> usize {
    match rows {
        KvRows::Floats(values) => size_of_val(values.as_slice()),
        KvRows::F16 { bits } => size_of_val(bits.as_slice()),
        KvRows::Q8_0 { codes, scales } => codes.len() + size_of_val(scales.as_slice()),
    }
}
