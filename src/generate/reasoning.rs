//! A bound on what a model thinks before it answers.

use std::collections::VecDeque;

use crate::{
    chat::{ReasoningFormat, ReasoningSplit, opens_reasoning},
    error::Result,
    tokenizer::{EncodeOptions, Tokenizer},
};

/// Ends the reasoning as Qwen3's template does.
const END: &str = "\n</think>\n\n";

/// Text that holds the tag where a prompt ends in it.
const END_OF_PROMPT_TOKENS: usize = 32;

/// How long a model may think. Where a grammar is given, it holds for the answer and not for the reasoning that the prompt
/// has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasoningLimit {
    /// Most tokens of it; then the answer is begun for the model. `None` = as many as it likes.
    pub max_tokens: Option<usize>,
    /// Whether the prompt ends in the tag that begins it.
    pub opened: bool,
    /// Tokens that end it.
    pub end: Vec<u32>,
}

impl ReasoningLimit {
    /// For the answer to this prompt.
    ///
    /// # Errors
    /// If the tag that ends it cannot be written in the vocabulary.
    pub fn after(prompt: &[u32], max_tokens: Option<usize>, tokenizer: &Tokenizer) -> Result<Self> {
        let end = tokenizer.encode(END, &EncodeOptions { add_special: false, parse_special: true })?;
        Ok(Self { max_tokens, opened: opens_reasoning(&prompt_end(prompt, tokenizer)), end })
    }
}

/// The last text of a prompt, with its markup: enough for [`opens_reasoning`].
pub fn prompt_end(prompt: &[u32], tokenizer: &Tokenizer) -> String {
    tokenizer.decode(&prompt[prompt.len().saturating_sub(END_OF_PROMPT_TOKENS)..], true)
}

/// Follows the reasoning of an answer, and ends it.
#[derive(Debug)]
pub(super) struct Guard {
    limit: ReasoningLimit,
    split: ReasoningSplit,
    spent: usize,
    /// Tokens that come next, whatever the model would say.
    forced: VecDeque<u32>,
}

impl Guard {
    pub fn new(limit: ReasoningLimit) -> Self {
        let split = ReasoningSplit::starting(limit.opened, ReasoningFormat::Auto);
        let mut guard = Self { limit, split, spent: 0, forced: VecDeque::new() };
        guard.end_if_spent();
        guard
    }

    /// The token that has to come next.
    pub fn forced(&self) -> Option<u32> {
        self.forced.front().copied()
    }

    /// Whether the next token is none of the answer.
    pub fn is_before_answer(&self) -> bool {
        self.split.is_reasoning() || !self.forced.is_empty()
    }

    /// Takes the text of a token that was chosen. `whole`: it does not end within a character.
    pub fn push(&mut self, piece: &str, whole: bool) {
        let was_reasoning = self.split.is_reasoning();
        self.split.push(piece);
        if self.forced.pop_front().is_none() {
            self.spent += usize::from(was_reasoning && self.split.is_reasoning());
            if whole {
                self.end_if_spent();
            }
        }
    }

    fn end_if_spent(&mut self) {
        if self.split.is_reasoning() && self.limit.max_tokens.is_some_and(|max| self.spent >= max) {
            self.forced.extend(&self.limit.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places at which the end is forced, for a model that says these pieces.
    fn forced(opened: bool, max_tokens: usize, pieces: &[&str]) -> Vec<usize> {
        let limit = ReasoningLimit { max_tokens: Some(max_tokens), opened, end: vec![7] };
        let mut guard = Guard::new(limit);
        let mut places = Vec::new();
        for (at, piece) in pieces.iter().enumerate() {
            let next = if guard.forced().is_some() {
                places.push(at);
                "</think>"
            } else {
                piece
            };
            guard.push(next, true);
        }
        places
    }

    #[test]
    fn the_end_comes_when_the_tokens_are_spent() {
        assert_eq!(forced(true, 2, &["a", "b", "c", "d"]), [2]);
        assert_eq!(forced(true, 0, &["a", "b"]), [0]);
        assert_eq!(forced(true, 9, &["a", "b"]), [] as [usize; 0]);
        // The tag is no part of it, be it one token or several.
        assert_eq!(forced(false, 2, &["<think>", "a", "b", "c"]), [3]);
        assert_eq!(forced(false, 2, &["<th", "ink>", "a", "b", "c"]), [4]);
        assert_eq!(forced(false, 0, &["<think>", "a", "b"]), [1]);
        // Ended by the model; what it says then is the answer's.
        assert_eq!(forced(true, 2, &["a", "</think>", "b", "<think>", "c", "d"]), [] as [usize; 0]);
        assert_eq!(forced(false, 0, &["a", "<think>", "b"]), [] as [usize; 0]);
    }

    #[test]
    fn characters_are_finished_first() {
        let mut guard = Guard::new(ReasoningLimit { max_tokens: Some(1), opened: true, end: vec![7, 8] });
        guard.push("", false);
        assert_eq!(guard.forced(), None);
        guard.push("é", true);
        assert_eq!(guard.forced(), Some(7));
        guard.push("</think>", true);
        // All of the end comes before the answer.
        assert!(guard.forced() == Some(8) && guard.is_before_answer());
        guard.push("\n", true);
        assert!(guard.forced().is_none() && !guard.is_before_answer());
    }
}
