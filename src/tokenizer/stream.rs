//! Turns token ids into text as they come.

use std::ops::Deref;

use super::Tokenizer;

/// Text from ids, one at a time, by a borrowed or a shared tokenizer. A character that is spread over several tokens comes out when it is complete;
/// bytes that can no longer become a character come out as U+FFFD.
#[derive(Debug)]
pub struct TokenStream<T> {
    tokenizer: T,
    start: Start,
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> TokenStream<T> {
    /// Text from the start of a text.
    pub fn new(tokenizer: T) -> Self {
        let start = Start { trim: tokenizer.space_first };
        Self { tokenizer, start, pending: Vec::new() }
    }

    /// Text that goes on where `prompt` ended: a space between the two is kept.
    pub fn after(tokenizer: T, prompt: &[u32]) -> Self {
        let at_start = prompt.iter().all(|&id| tokenizer.vocab.printed(id, false).is_empty());
        let start = Start { trim: tokenizer.space_first && at_start };
        Self { tokenizer, start, pending: Vec::new() }
    }

    /// Takes the next token and returns the text that is certain now; often one word, sometimes nothing.
    pub fn push(&mut self, id: u32) -> String {
        self.pending.extend_from_slice(self.start.trim(self.tokenizer.vocab.printed(id, false)));
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(good) => {
                    text.push_str(good);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(good));
                    rest = bad;
                    let Some(skip) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[skip..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
        text
    }

    /// Whether the tokens so far do not end within a character.
    pub fn is_whole(&self) -> bool {
        self.pending.is_empty()
    }

    /// Ends the text: an unfinished character comes out as U+FFFD.
    pub fn flush(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Takes away the space that encoding put before the text: one, before the first thing printed.
#[derive(Debug)]
pub(super) struct Start {
    /// Nothing was printed yet and the first space is not part of the text.
    pub trim: bool,
}

impl Start {
    pub fn trim<'b>(&mut self, printed: &'b [u8]) -> &'b [u8] {
        if !self.trim || printed.is_empty() {
            return printed;
        }
        self.trim = false;
        printed.strip_prefix(b" ").unwrap_or(printed)
    }
}
