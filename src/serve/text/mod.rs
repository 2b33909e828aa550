//! From the text that a model writes to what clients get: the answer, thoughts, calls of tools.

mod calls;

pub use calls::{CallForm, ToolCalls};

use crate::chat::{AnswerParts, ReasoningSplit};

/// More of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Text of the answer.
    Content(String),
    /// Text of a thought.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Its number in the answer.
        index: usize,
        /// Name of the function.
        name: String,
    },
    /// More of the arguments of a call, in JSON.
    Arguments {
        /// Number of the call.
        index: usize,
        /// The text.
        text: String,
    },
}

/// Takes the text of one answer apart.
#[derive(Debug)]
pub struct Splitter {
    reasoning: Option<ReasoningSplit>,
    calls: Option<ToolCalls>,
}

impl Splitter {
    /// `None` for what is not to be told apart.
    pub fn new(reasoning: Option<ReasoningSplit>, calls: Option<ToolCalls>) -> Self {
        Self { reasoning, calls }
    }

    /// Takes more text; appends what is certain to `out`.
    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        match &mut self.reasoning {
            None => self.answer(text, out),
            Some(reasoning) => {
                let parts = reasoning.push(text);
                self.parts(parts, out);
            }
        }
    }

    /// The end of the text; what was held back is text after all.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        if let Some(reasoning) = &mut self.reasoning {
            let parts = reasoning.finish();
            self.parts(parts, out);
        }
        if let Some(calls) = &mut self.calls {
            calls.finish(out);
        }
    }

    fn parts(&mut self, AnswerParts { reasoning, answer }: AnswerParts, out: &mut Vec<Delta>) {
        if !reasoning.is_empty() {
            out.push(Delta::Reasoning(reasoning));
        }
        self.answer(&answer, out);
    }

    /// Complete calls so far.
    pub fn complete_calls(&self) -> usize {
        self.calls.as_ref().map_or(0, ToolCalls::complete)
    }

    fn answer(&mut self, text: &str, out: &mut Vec<Delta>) {
        match &mut self.calls {
            Some(calls) => calls.push(text, out),
            None => content(text, out),
        }
    }
}

/// No empty pieces: clients take an empty one for the end.
fn content(text: &str, out: &mut Vec<Delta>) {
    if !text.is_empty() {
        out.push(Delta::Content(text.to_owned()));
    }
}

/// Bytes at the start of `text` that cannot be the beginning of `mark`: what follows them may be.
fn certain(text: &str, mark: &str) -> usize {
    let starts = text.char_indices().map(|(at, _)| at);
    starts.filter(|&at| text.len() - at < mark.len()).find(|&at| mark.starts_with(&text[at..])).unwrap_or(text.len())
}
