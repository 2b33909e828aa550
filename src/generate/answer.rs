//! The loop of one answer: prompt in, events out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::{Constraint, Drafter, Sampler, Stats, StopStrings, draft::Draft};
use crate::{
    backend::Wanted,
    error::{Error, Result},
    session::Session,
};

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

/// A draft that is being checked, token by token as they are sampled.
struct Ahead {
    draft: Draft,
    /// Position of its first token.
    start: usize,
    /// How many of its tokens were sampled so far.
    right: usize,
    /// The logits of a pass that is not trusted yet, to be compared with those of single steps; `None` where the
    /// session holds them, and its caches the draft.
    trial: Option<Vec<f32>>,
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
    position: usize,   // of the id sampled last
    drafter: Option<&'a mut Drafter>,
    ahead: Option<Ahead>,
    constraint: Option<&'a mut Constraint>,
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
        sampler.restrict(None);
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
            position: 0,
            drafter: None,
            ahead: None,
            constraint: None,
            ended: false,
            finish: None,
            stats: Stats { prompt_tokens: prompt.len(), ..Stats::default() },
        })
    }

    /// Several tokens a pass, where `drafter` finds that it pays. The answer is the same.
    pub fn drafting(mut self, drafter: &'a mut Drafter) -> Self {
        drafter.begin(self.prompt);
        self.drafter = Some(drafter);
        self
    }

    /// Only text that `constraint` allows.
    pub fn constrained(mut self, constraint: &'a mut Constraint) -> Self {
        constraint.begin();
        self.constraint = Some(constraint);
        self
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
        let wanted = if self.constraint.is_some() { Wanted::Last } else { self.sampler.wanted() };
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
                self.run(id, wanted)?;
                // A pass that checked a draft computed all of the head.
                if self.ahead.as_ref().is_none_or(|ahead| ahead.trial.is_some()) {
                    self.stats.head_rows += self.session.head_rows();
                    self.stats.head_steps += 1;
                }
            }
        }
        let id = self.sample()?;
        self.compare_with_draft(id);
        if self.last.is_some() {
            self.stats.latencies.push(start.elapsed());
        }
        self.take(id)
    }

    /// Runs the token sampled last, alone or with a draft of what follows.
    fn run(&mut self, id: u32, wanted: Wanted) -> Result<()> {
        if let Some(ahead) = &self.ahead {
            // A pass that is trusted has run it already.
            return if ahead.trial.is_some() { self.step_of_trial(id) } else { Ok(()) };
        }
        let Some(drafter) = &mut self.drafter else { return self.session.step_for(id, wanted) };
        let start = self.session.tokens().len() + 1;
        let left = self.options.max_tokens.map_or(usize::MAX, |max| max - self.stats.generated_tokens);
        let room = self.session.context_tokens() - start;
        let most = (self.session.alike_tokens() - 1).min(left.saturating_sub(1)).min(room);
        let Some(draft) = drafter.draft(most, &self.options.end_ids) else {
            let begin = Instant::now();
            self.session.step_for(id, wanted)?;
            drafter.timed_step(begin.elapsed().as_secs_f64());
            return Ok(());
        };
        let begin = Instant::now();
        self.session.run_ahead(&[&[id], &draft.ids[..]].concat())?;
        drafter.timed_pass(draft.ids.len(), begin.elapsed().as_secs_f64());
        let trial = (!drafter.is_trusted()).then(|| self.session.logits_mut().to_vec());
        let trying = trial.is_some();
        self.ahead = Some(Ahead { draft, start, right: 0, trial });
        if trying {
            self.session.truncate(start - 1);
            self.step_of_trial(id)?;
        }
        Ok(())
    }

    /// Runs the next token of a trial alone, and compares its logits with those of the pass.
    fn step_of_trial(&mut self, id: u32) -> Result<()> {
        let alone = self.session.step(id)?;
        if let (Some(Ahead { right, trial: Some(rows), .. }), Some(drafter)) = (&self.ahead, &mut self.drafter) {
            let row = &rows[right * alone.len()..][..alone.len()];
            if row.iter().zip(&*alone).any(|(a, b)| a.to_bits() != b.to_bits()) {
                drafter.compared(*right + 1, false);
                self.ahead = None;
            }
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<u32> {
        if let Some(constraint) = &mut self.constraint {
            self.sampler.restrict(Some(&constraint.allowed()?));
        }
        let checked = self.ahead.as_ref().filter(|ahead| ahead.trial.is_none());
        self.position = checked.map_or(self.session.tokens().len(), |ahead| ahead.start + ahead.right);
        let chosen = match (checked, self.session.candidates()) {
            (Some(ahead), _) => {
                Some(self.sampler.sample(self.session.logits_after(ahead.right), self.position)).transpose()
            }
            (None, Some(candidates)) => self.sampler.sample_top(candidates, self.position),
            (None, None) => Ok(None),
        };
        let chosen = match chosen {
            Ok(None) => self.sampler.sample(self.session.all_logits()?, self.position),
            Ok(Some(id)) => Ok(id),
            Err(error) => Err(error),
        };
        chosen.map_err(|error| match error {
            // The sampler does not know who computed its input.
            Error::NotFinite { place, .. } => Error::NotFinite { place, backend: self.session.head_backend().into() },
            other => other,
        })
    }

    /// The draft goes on, if the sampled id is its next one, or ends here.
    fn compare_with_draft(&mut self, id: u32) {
        let Some(ahead) = &mut self.ahead else { return };
        if ahead.draft.ids.get(ahead.right) == Some(&id) {
            ahead.right += 1;
        } else {
            self.end_draft();
        }
    }

    /// Forgets what the caches hold of a draft beyond the tokens that were right.
    fn end_draft(&mut self) {
        let (Some(ahead), Some(drafter)) = (self.ahead.take(), &mut self.drafter) else { return };
        drafter.outcome(&ahead.draft, ahead.right);
        if ahead.trial.is_some() {
            drafter.compared(ahead.right, true);
        } else {
            self.stats.drafted_tokens += ahead.draft.ids.len();
            self.stats.accepted_tokens += ahead.right;
            self.session.truncate(ahead.start + ahead.right);
        }
    }

    fn take(&mut self, id: u32) -> Result<Option<Event>> {
        if self.options.end_ids.contains(&id) {
            return Ok(self.end(Finish::EndToken(id)));
        }
        self.sampler.accept(id);
        if let Some(drafter) = &mut self.drafter {
            drafter.push(id);
        }
        self.last = Some(id);
        self.stats.generated_tokens += 1;
        let complete = match &mut self.constraint {
            Some(constraint) => constraint.accept(id)?,
            None => false,
        };
        let mut text = String::new();
        let piece = self.decoder.push(id);
        if let Some(stopped) = self.stops.push(&piece, &mut text) {
            self.finish = Some(Finish::StopString(stopped.stop));
        } else if complete {
            self.flush(Finish::Complete, &mut text);
        } else if self.options.max_tokens == Some(self.stats.generated_tokens) {
            self.flush(Finish::MaxTokens, &mut text);
        } else if self.position >= self.session.context_tokens() {
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
        if self.ended || self.finish.is_some() {
            self.end_draft();
        }
        event
    }
}
