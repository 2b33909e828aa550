//! The loop of one answer without the backends in it: a state machine that says what it needs run, and is fed the
//! results. One or a hundred can be driven side by side.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    AnswerOptions, Chooser, Drafter, Event, Finish, Stats, StopStrings, TextDecoder,
    draft::{Draft, Proposal, Source},
    logprobs::RawLogprobs,
    reasoning::Guard,
};
use crate::{
    backend::{Candidates, Limits, RowOutput, Want},
    error::{Error, Result},
    session::Phase,
};

/// Next request of an answer to the sequence it is written in.
#[derive(Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// To forget the tokens from this position on.
    Rewind(usize),
    /// A guess of what follows the tokens held and this one, by the model's block of multi-token prediction
    /// ([`Runtime::draft`](crate::session::Runtime::draft)), for [`Generation::drafted`].
    Draft {
        /// The token behind those held.
        last: u32,
        /// Most tokens of the guess.
        most: usize,
    },
    /// These tokens run behind those held. Of a prompt, leading ones may be run first, wanting nothing, and the rest asked
    /// for again.
    Run {
        /// At least one token.
        ids: &'a [u32],
        /// Logits for [`Generation::feed`].
        want: Want,
        /// Phase that the tokens belong to.
        phase: Phase,
    },
    /// Nothing: the answer has ended.
    Done,
}

/// Outcome of feeding results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fed {
    /// They were used. The sequence must hold no more than these leading tokens.
    Keep(usize),
    /// The candidates do not suffice: to be fed again with all logits.
    NeedsLogits,
}

/// Tokens drafted behind the last one, while they are checked.
struct DraftInCheck {
    draft: Draft,
    /// Position of its first token.
    start: usize,
    /// Drafted tokens that were also sampled so far.
    right: usize,
    /// Logits of a pass that is not trusted yet, to be compared with those of single steps; `None` where the pass counts.
    trial: Option<Vec<f32>>,
}

/// A guess that was asked for.
#[derive(Clone, Copy)]
struct AskedGuess {
    /// Most tokens.
    most: usize,
    /// Position of its first token.
    start: usize,
    /// Logits wanted where nothing is guessed.
    plain: Want,
}

/// An answer in the making. Owned, so that it can live in a server's slot or in another language's object.
pub struct Generation {
    chooser: Chooser,
    decoder: Box<dyn TextDecoder + Send>,
    prompt: Vec<u32>,
    options: AnswerOptions,
    context_tokens: usize,
    cancel: Arc<AtomicBool>,
    stops: StopStrings,
    reasoning: Option<Guard>,
    /// Sampled, not yet run.
    last: Option<u32>,
    /// Tokens of the decode step that was asked for, and the logits wanted of it until it is fed.
    run: Vec<u32>,
    asked: Option<Want>,
    /// A guess that was asked for, until it is given.
    guess: Option<AskedGuess>,
    /// The last pass over a draft, until it is known how long taking back took: its source, tokens and seconds.
    passed: Option<(Source, usize, f64)>,
    /// Time of the engine since the last token that no token has yet.
    carried: Duration,
    ahead: Option<DraftInCheck>,
    /// The next token runs without a draft: candidates did not suffice for it.
    alone: bool,
    /// Most candidates that a pass gives of each token.
    most_each: usize,
    /// Candidates of one token of a pass.
    row: Candidates,
    events: VecDeque<Event>,
    finish: Option<Finish>,
    /// Start of the step at hand.
    begun: Option<Instant>,
    stats: Stats,
    /// Those before the last draw.
    logprobs: RawLogprobs,
}

impl Generation {
    /// Prepares an answer to the whole token sequence `prompt` in a sequence of at most `context_tokens`. `cancel` is
    /// looked at before each step.
    ///
    /// # Errors
    /// If the prompt is empty or too long, or a stop string is empty; with the chooser, which was not used.
    pub fn new(
        mut chooser: Chooser,
        decoder: Box<dyn TextDecoder + Send>,
        prompt: Vec<u32>,
        options: AnswerOptions,
        context_tokens: usize,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self, Box<(Error, Chooser)>> {
        let stops = match check(&prompt, context_tokens).and_then(|()| StopStrings::new(options.stop.iter().cloned())) {
            Ok(stops) => stops,
            Err(error) => return Err(Box::new((error, chooser))),
        };
        chooser.sampler.reset(&prompt);
        chooser.sampler.restrict(None);
        chooser.sampler.ban(if options.ignore_end { &options.end_ids } else { &[] });
        if let Some(drafter) = &mut chooser.drafter {
            drafter.begin(&prompt);
        }
        if let Some(constraint) = &mut chooser.constraint {
            constraint.begin();
        }
        let reasoning = options.reasoning.clone().map(Guard::new);
        Ok(Self {
            chooser,
            decoder,
            options,
            context_tokens,
            cancel,
            stops,
            reasoning,
            last: None,
            run: Vec::new(),
            asked: None,
            guess: None,
            passed: None,
            carried: Duration::ZERO,
            ahead: None,
            alone: false,
            most_each: 0,
            row: Candidates::default(),
            events: VecDeque::new(),
            finish: None,
            begun: None,
            stats: Stats { prompt_tokens: prompt.len(), ..Stats::default() },
            logprobs: RawLogprobs::default(),
            prompt,
        })
    }

    /// The next step, for a sequence that holds `held`, on backends with these limits. The same until it is fed.
    pub fn need(&mut self, held: &[u32], limits: &Limits) -> Need<'_> {
        if self.finish.is_none() && self.cancel.load(Ordering::Relaxed) {
            if self.last.is_none() && self.begun.is_some() {
                self.stats.read_tokens = held.len().min(self.prompt.len());
                self.stats.prefill = self.elapsed();
            }
            self.end(Finish::Cancelled);
        }
        if self.finish.is_some() {
            return Need::Done;
        }
        let Some(last) = self.last else { return self.need_prompt(held, limits) };
        if self.asked.is_none() && self.guess.is_none() {
            self.ask(last, held.len() + 1, limits);
        }
        match (self.asked, self.guess) {
            (None, Some(AskedGuess { most, .. })) => Need::Draft { last, most },
            (want, _) => self.need_step(want.unwrap_or(Want::Last)),
        }
    }

    fn need_step(&self, want: Want) -> Need<'_> {
        Need::Run { ids: &self.run, want, phase: Phase::Decode }
    }

    /// Makes up the next decode step: the token sampled last, alone or with a draft from position `start` on; or asks for a
    /// guess first.
    fn ask(&mut self, last: u32, start: usize, limits: &Limits) {
        self.rewound(Duration::ZERO);
        self.begun = Some(Instant::now());
        self.run.clear();
        self.run.push(last);
        let plain = self.want(limits);
        if self.ahead.is_some() {
            // Compared with the pass in full.
            self.asked = Some(Want::Last);
            return;
        }
        if std::mem::take(&mut self.alone) {
            self.asked = Some(plain);
            return;
        }
        self.most_each = limits.most_each;
        match self.draft(start, limits) {
            Some(Proposal::Draft(draft)) => self.try_out(draft, start, plain),
            Some(Proposal::AskMtp(most)) => self.guess = Some(AskedGuess { most, start, plain }),
            None => self.asked = Some(plain),
        }
    }

    /// Takes the guess that was [needed](Need::Draft); without a token the step is a plain one.
    pub fn drafted(&mut self, ids: &[u32]) {
        let Some(AskedGuess { most, start, plain }) = self.guess.take() else { return };
        let drafter = self.chooser.drafter.as_mut();
        match drafter.and_then(|drafter| drafter.draft_of(&ids[..ids.len().min(most)], &self.options.end_ids)) {
            Some(draft) => self.try_out(draft, start, plain),
            None => self.asked = Some(plain),
        }
    }

    /// Puts a draft behind the last token, at position `start`. As many candidates of each token are wanted as a `plain` step
    /// wants; all logits of a pass that is not trusted yet.
    fn try_out(&mut self, draft: Draft, start: usize, plain: Want) {
        self.run.extend_from_slice(&draft.ids);
        self.ahead = Some(DraftInCheck { draft, start, right: 0, trial: None });
        let is_trusted = self.chooser.drafter.as_ref().is_some_and(Drafter::is_trusted);
        self.asked = Some(match plain {
            Want::Top(count) if is_trusted && count <= self.most_each => Want::Each(count),
            _ => Want::All,
        });
    }

    /// Told after a [`Fed::Keep`]: rewinding the sequence took so long, which is a part of what the draft cost.
    pub fn rewound(&mut self, took: Duration) {
        self.carried += took;
        if let (Some((source, drafted, seconds)), Some(drafter)) = (self.passed.take(), &mut self.chooser.drafter) {
            drafter.timed_pass(source, drafted, seconds + took.as_secs_f64());
        }
    }

    /// Time of the token at hand.
    fn latency(&mut self) -> Duration {
        self.elapsed() + std::mem::take(&mut self.carried)
    }

    fn need_prompt(&mut self, held: &[u32], limits: &Limits) -> Need<'_> {
        let reusable = self.options.reuse || self.begun.is_some();
        let common = held.iter().zip(&self.prompt).take_while(|(a, b)| a == b && reusable).count();
        // The last token has to run to give logits.
        let kept = common.min(self.prompt.len() - 1);
        if kept < held.len() {
            return Need::Rewind(kept);
        }
        if self.begun.is_none() {
            self.reused(kept);
        }
        let want = self.want(limits);
        Need::Run { ids: &self.prompt[kept..], want, phase: Phase::Prefill }
    }

    /// A grammar looks at all logits, and so do probabilities.
    fn want(&self, limits: &Limits) -> Want {
        let all = self.chooser.constraint.is_some() || self.options.logprobs.is_some();
        if all { Want::Last } else { self.chooser.sampler.want(limits) }
    }

    /// A draft of what follows position `start` - 1.
    fn draft(&mut self, start: usize, limits: &Limits) -> Option<Proposal> {
        let drafter = self.chooser.drafter.as_mut()?;
        let left = self.options.max_tokens.map_or(usize::MAX, |max| max - self.stats.generated_tokens);
        let room = self.context_tokens - start;
        let most = (limits.exact_tokens - 1).min(left.saturating_sub(1)).min(room);
        drafter.draft(most, limits.most_drafted, &self.options.end_ids)
    }

    /// Takes the results of the tokens that were needed: `logits` are the output's rows, (rows, vocab). What came of them
    /// is then to be had from [`event`](Self::event).
    ///
    /// # Errors
    /// If a logit is not finite, or the grammar allows no token.
    pub fn feed(&mut self, output: &RowOutput, logits: &mut [f32]) -> Result<Fed> {
        self.asked = None;
        let fed = match (self.last, &self.ahead) {
            (None, _) => self.feed_prompt(output, logits),
            (Some(_), Some(DraftInCheck { trial: Some(_), .. })) => self.feed_trial(output, logits),
            (Some(_), Some(_)) => self.feed_pass(output, logits),
            (Some(_), None) => self.feed_step(output, logits),
        };
        if fed.is_err() && self.ahead.is_some() {
            self.end_draft();
        }
        fed
    }

    /// The next event; `None` until more is fed. Of several tokens that one pass gave, those behind a raised cancel flag
    /// are dropped.
    pub fn event(&mut self) -> Option<Event> {
        let has_tokens = self.events.iter().any(|event| event.id.is_some());
        if has_tokens && self.cancel.load(Ordering::Relaxed) {
            self.stats.generated_tokens -= self.events.drain(..).filter(|event| event.id.is_some()).count();
            self.finish = Some(Finish::Cancelled);
        }
        self.events.pop_front()
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// True while the prompt is not read to the end.
    pub fn is_reading(&self) -> bool {
        self.last.is_none() && self.finish.is_none()
    }

    /// Whether tokens that a sequence holds already may serve.
    pub fn reuses(&self) -> bool {
        self.options.reuse
    }

    /// Notes that others have computed so many leading tokens of the prompt.
    pub(super) fn reused(&mut self, tokens: usize) {
        self.stats.reused_tokens = tokens;
        self.begun.get_or_insert_with(Instant::now);
    }

    /// Why the answer ended; `None` while it goes on.
    pub fn finish(&self) -> Option<&Finish> {
        self.finish.as_ref()
    }

    /// Counts and times so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The chooser of its tokens, for the next answer; this one is over then.
    pub fn take_chooser(&mut self) -> Chooser {
        self.finish.get_or_insert(Finish::Cancelled);
        std::mem::take(&mut self.chooser)
    }

    fn feed_prompt(&mut self, output: &RowOutput, logits: &mut [f32]) -> Result<Fed> {
        let held = self.prompt.len();
        self.stats.read_tokens = held;
        if self.options.max_tokens == Some(0) {
            self.stats.prefill = self.elapsed();
            self.end(Finish::MaxTokens);
            return Ok(Fed::Keep(held));
        }
        let took = self.elapsed();
        let Some(id) = self.sample(output, logits, held)? else { return Ok(Fed::NeedsLogits) };
        self.stats.prefill = took;
        self.take(id, held)?;
        Ok(Fed::Keep(held))
    }

    fn feed_step(&mut self, output: &RowOutput, logits: &mut [f32]) -> Result<Fed> {
        let (held, took) = (self.held(), self.elapsed());
        let Some(id) = self.sample(output, logits, held)? else { return Ok(Fed::NeedsLogits) };
        if let Some(drafter) = &mut self.chooser.drafter {
            drafter.timed_step(took.as_secs_f64());
        }
        self.stats.head_rows += output.head_rows;
        self.stats.head_steps += 1;
        let latency = self.latency();
        self.stats.latencies.push(latency);
        self.take(id, held)?;
        Ok(Fed::Keep(held))
    }

    /// The logits after the last token and after each drafted one.
    fn feed_pass(&mut self, output: &RowOutput, logits: &mut [f32]) -> Result<Fed> {
        let (Some(ahead), Some(drafter)) = (&mut self.ahead, &mut self.chooser.drafter) else {
            unreachable!("a pass has a draft and a drafter")
        };
        if !drafter.is_trusted() {
            // Its logits are all computed, which later passes do without: its time says nothing.
            ahead.trial = Some(logits.to_vec());
            // The last token runs again, alone.
            return Ok(Fed::Keep(ahead.start - 1));
        }
        let took = self.begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        self.passed = Some((ahead.draft.source, ahead.draft.ids.len(), took));
        let (start, tokens) = (ahead.start, 1 + ahead.draft.ids.len());
        let vocab = logits.len() / output.logits.len().max(1);
        let of_one = output.candidates.top.len() / output.each.max(1);
        for token in 0..tokens {
            let held = start + self.ahead.as_ref().map_or(0, |ahead| ahead.right);
            let mut one = RowOutput { candidates: std::mem::take(&mut self.row), ..RowOutput::default() };
            one.clear();
            let sampled = if output.each > 0 {
                one.candidates.top.extend_from_slice(&output.candidates.top[token * of_one..][..of_one]);
                one.candidates.rest = output.candidates.rest;
                self.sample(&one, &mut [], held)
            } else {
                self.sample(&one, &mut logits[token * vocab..][..vocab], held)
            };
            self.row = one.candidates;
            let Some(id) = sampled? else {
                // The last token runs again, alone, and may be given all logits.
                self.alone = true;
                self.end_draft();
                return Ok(Fed::Keep(held - 1));
            };
            let latency = self.latency();
            self.stats.latencies.push(latency);
            self.begun = Some(Instant::now());
            let goes_on = self.is_drafted(id);
            self.take(id, held)?;
            if !goes_on || self.finish.is_some() {
                break;
            }
        }
        Ok(Fed::Keep(start + self.end_draft()))
    }

    /// The logits of a single step, to be compared with those of the pass.
    fn feed_trial(&mut self, output: &RowOutput, logits: &mut [f32]) -> Result<Fed> {
        let held = self.held();
        if let (Some(DraftInCheck { right, trial: Some(rows), .. }), Some(drafter)) =
            (&self.ahead, &mut self.chooser.drafter)
        {
            let row = &rows[right * logits.len()..][..logits.len()];
            if row.iter().zip(&*logits).any(|(a, b)| a.to_bits() != b.to_bits()) {
                drafter.compared(*right + 1, false);
                self.ahead = None;
            }
        }
        let Some(id) = self.sample(output, logits, held)? else { return Ok(Fed::NeedsLogits) };
        self.stats.head_rows += output.head_rows;
        self.stats.head_steps += 1;
        let latency = self.latency();
        self.stats.latencies.push(latency);
        let goes_on = self.is_drafted(id);
        self.take(id, held)?;
        if self.ahead.is_some() && (!goes_on || self.finish.is_some()) {
            self.end_draft();
        }
        Ok(Fed::Keep(held))
    }

    /// Tokens of prompt and answer so far: the sequence must hold no more when it has ended.
    pub fn held(&self) -> usize {
        self.prompt.len() + self.stats.generated_tokens
    }

    fn elapsed(&self) -> Duration {
        self.begun.map(|begun| begun.elapsed()).unwrap_or_default()
    }

    /// The id at `position`; `None` where that takes all logits.
    fn sample(&mut self, output: &RowOutput, logits: &mut [f32], position: usize) -> Result<Option<u32>> {
        if let Some(top) = self.options.logprobs.filter(|_| !self.options.drawn_logprobs) {
            self.logprobs.read(logits, top);
        }
        if let Some(id) = self.reasoning.as_ref().and_then(Guard::forced) {
            return Ok(Some(id));
        }
        let is_answer = self.is_answer();
        let Chooser { sampler, constraint, .. } = &mut self.chooser;
        if let Some(constraint) = constraint
            && is_answer
        {
            sampler.restrict(Some(&constraint.allowed()?));
        }
        if output.candidates.top.is_empty() || !logits.is_empty() {
            return sampler.sample(logits, position).map(Some);
        }
        sampler.sample_top(&output.candidates, position)
    }

    /// Whether the next token is the answer's, for which a grammar holds.
    fn is_answer(&self) -> bool {
        !self.reasoning.as_ref().is_some_and(Guard::is_before_answer)
    }

    /// Whether the draft goes on with the sampled id.
    fn is_drafted(&mut self, id: u32) -> bool {
        let Some(ahead) = &mut self.ahead else { return false };
        let goes_on = ahead.draft.ids.get(ahead.right) == Some(&id);
        ahead.right += usize::from(goes_on);
        goes_on
    }

    /// Learns from a draft; returns how many of its tokens were right.
    fn end_draft(&mut self) -> usize {
        let (Some(ahead), Some(drafter)) = (self.ahead.take(), &mut self.chooser.drafter) else { return 0 };
        drafter.outcome(&ahead.draft, ahead.right);
        if ahead.trial.is_some() {
            // The first row that is not as drafted was compared, too.
            drafter.compared(ahead.right + 1, true);
        } else {
            self.stats.drafted_tokens += ahead.draft.ids.len();
            self.stats.accepted_tokens += ahead.right;
        }
        ahead.right
    }

    /// The answer goes on with an id that stands at `position`, or ends.
    fn take(&mut self, id: u32, position: usize) -> Result<()> {
        if self.options.end_ids.contains(&id) {
            self.end(Finish::EndToken(id));
            return Ok(());
        }
        self.chooser.sampler.accept(id);
        if let Some(drafter) = &mut self.chooser.drafter {
            drafter.push(id);
        }
        self.last = Some(id);
        self.stats.generated_tokens += 1;
        let is_answer = self.is_answer();
        let complete = match &mut self.chooser.constraint {
            Some(constraint) if is_answer => constraint.accept(id)?,
            _ => false,
        };
        let mut text = String::new();
        let piece = self.decoder.push(id);
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.push(&piece, self.decoder.is_whole());
        }
        if let Some(stopped) = self.stops.push(&piece, &mut text) {
            self.finish = Some(Finish::StopString(stopped.stop));
        } else if complete {
            self.flush(Finish::Complete, &mut text);
        } else if self.options.max_tokens == Some(self.stats.generated_tokens) {
            self.flush(Finish::MaxTokens, &mut text);
        } else if position >= self.context_tokens {
            self.flush(Finish::ContextFull, &mut text);
        }
        let drawn = self.options.drawn_logprobs;
        let logprobs = self
            .options
            .logprobs
            .map(|top| if drawn { self.chooser.sampler.logprobs(id, top) } else { self.logprobs.of(id) });
        self.events.push_back(Event { id: Some(id), text, logprobs });
        Ok(())
    }

    /// Ends between tokens: what was held back is an event of its own.
    fn end(&mut self, finish: Finish) {
        let mut text = String::new();
        self.flush(finish, &mut text);
        if !text.is_empty() {
            self.events.push_back(Event { id: None, text, logprobs: None });
        }
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

fn check(prompt: &[u32], context_tokens: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::Usage("the prompt is empty: give at least one token".into()));
    }
    if prompt.len() > context_tokens {
        return Err(Error::ContextFull { needed: prompt.len(), context: context_tokens });
    }
    Ok(())
}
