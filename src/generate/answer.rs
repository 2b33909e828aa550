//! The loop of one answer: prompt in, events out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::{Sampler, Session, Stats, StopStrings};
use crate::error::{Error, Result};

/// Turns ids into text piece by piece, holding back incomplete characters.
pub trait TextDecoder {
    /// Text that is complete with this id.
    fn push(&mut self, id: u32) -> String;

    /// What was held back, at the end of the text.
    fn flush(&mut self) -> String;
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

/// When an answer ends, besides the end of the context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Most tokens of the answer; `None` = as many as the context holds.
    pub max_tokens: Option<usize>,
    /// The model's end-of-generation ids.
    pub end_ids: Vec<u32>,
    /// Never choose an end id, so that the answer goes on.
    pub ignore_end: bool,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
}

/// A step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token; `None` for text that was held back to the end and belongs to earlier tokens.
    pub id: Option<u32>,
    /// Text that is now certain; often empty while a character or a stop string may be incomplete.
    pub text: String,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model chose this end-of-generation token.
    EndToken(u32),
    /// This stop string was found.
    StopString(String),
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
            Self::MaxTokens => "limit",
            Self::ContextFull => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An answer in the making: an iterator over its tokens. The prompt runs at the first [`next`](Iterator::next).
/// After an error there are no more events.
pub struct Answer<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    decoder: Box<dyn TextDecoder + 'a>,
    prompt: &'a [u32],
    options: AnswerOptions,
    cancel: &'a AtomicBool,
    stops: StopStrings,
    last: Option<u32>, // sampled, not yet run
    ended: bool,
    finish: Option<Finish>,
    stats: Stats,
}

impl<'a> Answer<'a> {
    /// Prepares an answer to the whole token sequence `prompt`; what `session` holds of it already is not
    /// computed again. `cancel` is looked at before each token and each batch of the prompt.
    pub fn new(
        session: &'a mut Session,
        sampler: &'a mut Sampler,
        decoder: Box<dyn TextDecoder + 'a>,
        prompt: &'a [u32],
        options: AnswerOptions,
        cancel: &'a AtomicBool,
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::Usage("the prompt is empty: give at least one token".into()));
        }
        if prompt.len() > session.context_tokens() {
            return Err(Error::ContextFull { needed: prompt.len(), context: session.context_tokens() });
        }
        let stops = StopStrings::new(options.stop.iter().cloned())?;
        sampler.reset(prompt);
        sampler.ban(if options.ignore_end { &options.end_ids } else { &[] });
        Ok(Self {
            session,
            sampler,
            decoder,
            prompt,
            options,
            cancel,
            stops,
            last: None,
            ended: false,
            finish: None,
            stats: Stats { prompt_tokens: prompt.len(), ..Stats::default() },
        })
    }

    /// Why the answer ended; `None` while it goes on and after an error.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// Counts and times so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn advance(&mut self) -> Result<Option<Event>> {
        if self.cancel.load(Ordering::Relaxed) {
            return Ok(self.end(Finish::Cancelled));
        }
        let start = Instant::now();
        let wanted = self.sampler.wanted();
        match self.last {
            None => {
                self.stats.reused_tokens = self.session.keep_common_prefix(self.prompt);
                let rest = &self.prompt[self.stats.reused_tokens..];
                let complete = self.session.prefill_while(rest, wanted, || !self.cancel.load(Ordering::Relaxed))?;
                self.stats.prefill = start.elapsed();
                if !complete {
                    return Ok(self.end(Finish::Cancelled));
                }
                if self.options.max_tokens == Some(0) {
                    return Ok(self.end(Finish::MaxTokens));
                }
            }
            Some(id) => {
                self.session.step_for(id, wanted)?;
            }
        }
        let id = self.sample()?;
        if self.last.is_some() {
            self.stats.latencies.push(start.elapsed());
        }
        self.take(id)
    }

    fn sample(&mut self) -> Result<u32> {
        let position = self.session.tokens().len();
        let chosen = match self.session.candidates() {
            Some(candidates) => self.sampler.sample_top(candidates, position).transpose(),
            None => None,
        };
        let chosen = match chosen {
            Some(chosen) => chosen,
            None => self.sampler.sample(self.session.all_logits()?, position),
        };
        chosen.map_err(|error| match error {
            // The sampler does not know who computed its input.
            Error::NotFinite { place, .. } => Error::NotFinite { place, backend: self.session.head_backend().into() },
            other => other,
        })
    }

    fn take(&mut self, id: u32) -> Result<Option<Event>> {
        if self.options.end_ids.contains(&id) {
            return Ok(self.end(Finish::EndToken(id)));
        }
        self.sampler.accept(id);
        self.last = Some(id);
        self.stats.generated_tokens += 1;
        let mut text = String::new();
        let piece = self.decoder.push(id);
        if let Some(stopped) = self.stops.push(&piece, &mut text) {
            self.finish = Some(Finish::StopString(stopped.stop));
        } else if self.options.max_tokens == Some(self.stats.generated_tokens) {
            self.flush(Finish::MaxTokens, &mut text);
        } else if self.session.is_full() {
            self.flush(Finish::ContextFull, &mut text);
        }
        Ok(Some(Event { id: Some(id), text }))
    }

    fn end(&mut self, finish: Finish) -> Option<Event> {
        let mut text = String::new();
        self.flush(finish, &mut text);
        (!text.is_empty()).then_some(Event { id: None, text })
    }

    /// Ends with `finish`, or with the stop string that the very last text completes.
    fn flush(&mut self, finish: Finish, text: &mut String) {
        let rest = self.decoder.flush();
        self.finish = Some(match self.stops.push(&rest, text) {
            Some(stopped) => Finish::StopString(stopped.stop),
            None => finish,
        });
        self.stops.flush(text);
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.finish.is_some() {
            return None;
        }
        let event = self.advance().transpose();
        self.ended = matches!(event, Some(Err(_)));
        event
    }
}
