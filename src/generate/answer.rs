//! The loop of one answer: prompt in, events out.

use std::{
    ops::Deref,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use super::{Chooser, Fed, Generation, Logprobs, Need, ReasoningLimit, Stats, sampler::UNNAMED};
use crate::{
    backend::{RowOutput, Want},
    error::{Error, Result},
    session::{Phase, Session},
    tokenizer::{TokenStream, Tokenizer},
};

/// Turns ids into text piece by piece, holding back incomplete characters.
pub trait TextDecoder {
    /// Text that is complete with this id.
    fn push(&mut self, id: u32) -> String;

    /// The text still held back, at the end.
    fn flush(&mut self) -> String;

    /// Whether nothing is held back.
    fn is_whole(&self) -> bool {
        true
    }
}

impl<T: Deref<Target = Tokenizer>> TextDecoder for TokenStream<T> {
    fn push(&mut self, id: u32) -> String {
        TokenStream::push(self, id)
    }

    fn flush(&mut self) -> String {
        TokenStream::flush(self)
    }

    fn is_whole(&self) -> bool {
        TokenStream::is_whole(self)
    }
}

/// For models without a tokenizer, which are used through ids: no text.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoText;

impl TextDecoder for NoText {
    fn push(&mut self, _id: u32) -> String {
        String::new()
    }

    fn flush(&mut self) -> String {
        String::new()
    }
}

/// When an answer ends, besides the end of the context. Change the fields of [`AnswerOptions::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnswerOptions {
    /// Most tokens of the answer; `None` = as many as the context holds.
    pub max_tokens: Option<usize>,
    /// The model's end-of-generation ids.
    pub end_ids: Vec<u32>,
    /// Never choose an end id, so that the answer goes on.
    pub ignore_end: bool,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// How long the model may think before; `None` = whatever it writes is the answer.
    pub reasoning: Option<ReasoningLimit>,
    /// Probabilities of each token and of so many of the most probable ones; `None` = none.
    pub logprobs: Option<usize>,
    /// Whether those are of the draw, behind bias, penalties, cuts and temperature; else of the model.
    pub drawn_logprobs: bool,
    /// Whether the tokens that a sequence holds already may serve for the prompt.
    pub reuse: bool,
}

impl Default for AnswerOptions {
    fn default() -> Self {
        Self {
            max_tokens: None,
            end_ids: Vec::new(),
            ignore_end: false,
            stop: Vec::new(),
            reasoning: None,
            logprobs: None,
            drawn_logprobs: false,
            reuse: true,
        }
    }
}

/// A step of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The token; `None` for text that was held back to the end and belongs to earlier tokens.
    pub id: Option<u32>,
    /// Text that is now certain; often empty while a character or a stop string may be incomplete.
    pub text: String,
    /// Its probability, where [`AnswerOptions::logprobs`] asked for it.
    pub logprobs: Option<Logprobs>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose this end-of-generation token.
    EndToken(u32),
    /// This stop string was found.
    StopString(String),
    /// The grammar allows nothing more.
    Complete,
    /// `max_tokens` were generated.
    MaxTokens,
    /// No more tokens fit the context.
    ContextFull,
    /// The flag was raised.
    Cancelled,
}

impl Finish {
    /// A word for machines to read.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EndToken(_) => "eos",
            Self::StopString(_) => "stop",
            Self::Complete => "grammar",
            Self::MaxTokens => "limit",
            Self::ContextFull => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An answer in the making: an iterator over its tokens, which drives a [`Generation`] in a session of its own. The prompt
/// runs at the first [`next`](Iterator::next). After an error there are no more events.
pub struct Answer<'a> {
    session: &'a mut Session,
    /// Where the generation's chooser goes back to.
    chooser: &'a mut Chooser,
    generation: Generation,
    /// Room for a guess.
    drafted: Vec<u32>,
    ended: bool,
    failed: bool,
}

impl<'a> Answer<'a> {
    /// Prepares an answer to the whole token sequence `prompt`; what `session` holds of it already is not
    /// computed again. `cancel` is looked at before each token, and while the prompt is read.
    pub fn new(
        session: &'a mut Session,
        chooser: &'a mut Chooser,
        decoder: Box<dyn TextDecoder + Send>,
        prompt: &[u32],
        options: AnswerOptions,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self> {
        let context = session.context_tokens();
        let of_session = Arc::clone(&cancel);
        let generation = Generation::new(std::mem::take(chooser), decoder, prompt.to_vec(), options, context, cancel);
        match generation {
            Ok(generation) => {
                session.cancel_when(Some(of_session));
                Ok(Self { session, chooser, generation, drafted: Vec::new(), ended: false, failed: false })
            }
            Err(refused) => {
                let (error, unused) = *refused;
                *chooser = unused;
                Err(error)
            }
        }
    }

    /// Why the answer ended; `None` while it goes on and after an error.
    pub fn finish(&self) -> Option<&Finish> {
        self.generation.finish().filter(|_| !self.failed)
    }

    /// Counts and times so far.
    pub fn stats(&self) -> &Stats {
        self.generation.stats()
    }

    /// One step of the session; false when nothing is left to do.
    fn advance(&mut self) -> Result<bool> {
        let Self { session, generation, drafted, .. } = self;
        let limits = session.limits();
        match generation.need(session.tokens(), &limits) {
            Need::Done => {
                session.truncate(generation.held())?;
                return Ok(false);
            }
            Need::Rewind(len) => {
                session.truncate(len)?;
                return Ok(true);
            }
            Need::Draft { last, most } => {
                session.draft(last, most, drafted)?;
                generation.drafted(drafted);
                return Ok(true);
            }
            Need::Run { ids, want, phase } => {
                // All is checked before anything runs: a prompt that cannot fit must not cost minutes first.
                session.check_ids(ids)?;
                let batch_tokens = session.sizes().batch_tokens;
                if phase == Phase::Prefill && ids.len() > batch_tokens {
                    session.run_ids(&ids[..batch_tokens], Want::Nothing, phase)?;
                    return Ok(true);
                }
                session.run_ids(ids, want, phase)?;
            }
        }
        let (output, logits) = session.output_and_logits(0);
        let kept = match generation.feed(output, logits)? {
            Fed::Keep(kept) => kept,
            Fed::NeedsLogits => {
                let vocab = session.vocab();
                let output = RowOutput { logits: 0..1, head_rows: vocab, ..RowOutput::default() };
                match generation.feed(&output, session.all_logits()?)? {
                    Fed::Keep(kept) => kept,
                    Fed::NeedsLogits => return Err(Error::malformed("the logits of a step", vocab, "candidates")),
                }
            }
        };
        let begun = Instant::now();
        session.truncate(kept)?;
        generation.rewound(begun.elapsed());
        Ok(true)
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        *self.chooser = self.generation.take_chooser();
        self.session.cancel_when(None);
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.generation.event() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            match self.advance() {
                Ok(goes_on) => self.ended = !goes_on,
                // The generation sees the flag, too, and ends.
                Err(Error::Cancelled) => {}
                Err(error) => {
                    (self.ended, self.failed) = (true, true);
                    return Some(Err(match error {
                        // The sampler does not know who computed its input.
                        Error::NotFinite { place, backend } if backend == UNNAMED => {
                            Error::NotFinite { place, backend: self.session.head_backend().into() }
                        }
                        other => other,
                    }));
                }
            }
        }
    }
}
