//! Answers written side by side: every step of the runtime serves all of them.
//!
//! An answer takes a place: a sequence whose tokens stay after the answer has ended, so that a prompt which begins with
//! them is not computed again. `places` chooses one, `prefixes` keeps what had to give way, `pace` says how much of a
//! prompt a step reads.

mod pace;

mod places;

mod prefixes;

use std::{collections::VecDeque, time::Instant};

use self::{
    pace::{Pace, whole_piece},
    places::Place,
    prefixes::Prefixes,
};
use super::{Event, Fed, Generation, Need};
use crate::{
    backend::{Limits, RowOutput, Want},
    error::{Error, Result},
    session::{Phase, Runtime, Work},
};

/// Names an answer of a [`Batcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerId(pub u64);

/// An answer in the making.
struct RunningAnswer {
    id: AnswerId,
    generation: Generation,
    /// Its part in the step at hand.
    part: StepShare,
    /// The answer whose prompt is its own, and whose states it takes over once that is read.
    leader: Option<AnswerId>,
    /// Its own failure, which does not concern the others.
    error: Option<Error>,
}

impl RunningAnswer {
    fn has_ended(&self) -> bool {
        self.error.is_some() || self.generation.finish().is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepShare {
    /// Nothing: a prompt that waits for its turn, or an answer that has ended.
    Waits,
    /// So many leading tokens of a prompt that is longer.
    Piece(usize),
    /// All tokens it needs.
    All,
}

/// An answer that has ended.
pub struct FinishedAnswer {
    /// Its name while it ran.
    pub id: AnswerId,
    /// The generation, with its text's end and counts.
    pub generation: Generation,
    /// Its own failure, if it had one.
    pub error: Option<Error>,
    /// Number of the place that it had.
    pub place: usize,
}

/// Number, tokens and use of a place, for people who look at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceState {
    /// The answer in it, if there is one.
    pub answer: Option<AnswerId>,
    /// Tokens whose states it holds.
    pub tokens: usize,
    /// Tokens of the answer in it, so far.
    pub generated_tokens: usize,
}

/// Drives many [`Generation`]s on one [`Runtime`]. A step runs one row for each answer, and pieces of prompts.
/// The text of an answer does not depend on the others.
pub struct Batcher {
    runtime: Runtime,
    places: Vec<Place>,
    prefixes: Prefixes,
    pace: Pace,
    events: VecDeque<(AnswerId, Event)>,
    /// Room for a guess.
    drafted: Vec<u32>,
    next_id: u64,
    /// Counts answers begun: the age of what a place holds.
    clock: u64,
    /// Counts pieces of prompts, which go in turn to the oldest and to the shortest.
    turns: u64,
}

impl Batcher {
    /// No answers yet.
    pub fn new(runtime: Runtime) -> Self {
        Self {
            places: Place::all(runtime.sizes().sequences),
            runtime,
            prefixes: Prefixes::new(0),
            pace: Pace::default(),
            events: VecDeque::new(),
            drafted: Vec::new(),
            next_id: 0,
            clock: 0,
            turns: 0,
        }
    }

    /// Keeps states of at most so many bytes that had to give way to other answers.
    #[must_use]
    pub fn keeping_prefixes(mut self, bytes: usize) -> Self {
        self.prefixes = Prefixes::new(bytes);
        self
    }

    /// The runtime, for its limits and names.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Begins an answer at the next step; gives it back while all sequences of the runtime are in use.
    pub fn add(&mut self, generation: Generation) -> Result<AnswerId, Box<Generation>> {
        match self.add_choices(vec![generation]) {
            Ok(ids) => Ok(ids[0]),
            Err(mut refused) => Err(Box::new(refused.remove(0))),
        }
    }

    /// As [`add`](Self::add), for several answers to one prompt, which is read once. All of them find a place, or none.
    pub fn add_choices(&mut self, generations: Vec<Generation>) -> Result<Vec<AnswerId>, Vec<Generation>> {
        self.add_choices_at(None, generations)
    }

    /// As [`add_choices`](Self::add_choices), with the first answer in the place of that number, which has to be free.
    pub fn add_choices_at(
        &mut self,
        place: Option<usize>,
        generations: Vec<Generation>,
    ) -> Result<Vec<AnswerId>, Vec<Generation>> {
        let is_free = |at: usize| self.places.get(at).is_some_and(|place| place.answer.is_none());
        if self.room() < generations.len() || place.is_some_and(|at| !is_free(at)) {
            return Err(generations);
        }
        let mut ids = Vec::with_capacity(generations.len());
        for generation in generations {
            let leader = ids.first().copied();
            let id = AnswerId(self.next_id);
            self.next_id += 1;
            let (at, error) = match leader {
                None => match self.take_place(place, generation.prompt(), generation.reuses()) {
                    Ok(at) => (at, None),
                    Err(error) => (self.least_recent(), Some(error)),
                },
                Some(_) => {
                    let at = self.least_recent();
                    self.keep(at);
                    (at, None)
                }
            };
            self.clock += 1;
            let place = &mut self.places[at];
            place.used = self.clock;
            place.answer = Some(RunningAnswer { id, generation, part: StepShare::Waits, leader, error });
            ids.push(id);
        }
        Ok(ids)
    }

    /// Answers that can be added now.
    pub fn room(&self) -> usize {
        self.places.iter().filter(|place| place.answer.is_none()).count()
    }

    /// Answers that have not been taken out by [`finished`](Self::finished).
    pub fn len(&self) -> usize {
        self.places.len() - self.room()
    }

    /// True without any answer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places, in order.
    pub fn places(&self) -> impl Iterator<Item = PlaceState> {
        self.places.iter().map(Place::state)
    }

    /// An answer that has not ended, and how many tokens its place holds.
    pub fn running(&self, id: AnswerId) -> Option<(&Generation, usize)> {
        let place = self.places.iter().find(|place| place.answer.as_ref().is_some_and(|answer| answer.id == id))?;
        Some((&place.answer.as_ref()?.generation, place.state().tokens))
    }

    /// The next event of any answer; `None` until another step.
    pub fn event(&mut self) -> Option<(AnswerId, Event)> {
        self.events.pop_front()
    }

    /// Takes an answer out that has ended; its place is free for another.
    pub fn finished(&mut self) -> Option<FinishedAnswer> {
        let ended = |place: &Place| place.answer.as_ref().is_some_and(RunningAnswer::has_ended);
        let place = self.places.iter().position(ended)?;
        let RunningAnswer { id, generation, error, .. } = self.places[place].answer.take()?;
        Some(FinishedAnswer { id, generation, error, place })
    }

    /// Drops all answers and what the places hold, after a failure that left nothing to go on with.
    pub fn clear(&mut self) {
        for place in &mut self.places {
            place.answer = None;
            if let Some(sequence) = place.sequence.take() {
                self.runtime.end(sequence);
            }
        }
        self.events.clear();
    }

    /// One step of every answer that goes on; false where there was nothing to run.
    ///
    /// # Errors
    /// If a backend fails and nothing takes over. What goes wrong with a single answer is told by
    /// [`finished`](Self::finished).
    pub fn step(&mut self) -> Result<bool> {
        self.choose_parts()?;
        let limits = self.runtime.limits();
        let mut work = Vec::with_capacity(self.places.len());
        let (mut decoding, mut prompt_tokens) = (0, 0);
        for Place { sequence, answer, .. } in &mut self.places {
            let (Some(sequence), Some(RunningAnswer { generation, part, .. })) = (sequence, answer) else { continue };
            match (*part, generation.need(sequence.tokens(), &limits)) {
                (StepShare::Piece(len), Need::Run { ids, phase, .. }) => {
                    prompt_tokens += len;
                    work.push(Work { sequence, ids: &ids[..len], want: Want::Nothing, phase });
                }
                (StepShare::All, Need::Run { ids, want, phase }) => {
                    match phase {
                        Phase::Decode => decoding += 1,
                        Phase::Prefill => prompt_tokens += ids.len(),
                    }
                    work.push(Work { sequence, ids, want, phase });
                }
                _ => *part = StepShare::Waits,
            }
        }
        if work.is_empty() {
            return Ok(false);
        }
        let begun = Instant::now();
        self.runtime.run(&mut work)?;
        drop(work);
        self.pace.ran(decoding, prompt_tokens, begun.elapsed());
        self.feed()?;
        Ok(true)
    }

    /// Rewinds what has to be, and decides what each answer does in this step.
    fn choose_parts(&mut self) -> Result<()> {
        let limits = self.runtime.limits();
        let leaders: Vec<AnswerId> = self.places.iter().filter_map(Place::reading).collect();
        let mut prompts = Vec::new();
        let mut decoding = 0;
        for (at, Place { sequence, answer, .. }) in self.places.iter_mut().enumerate() {
            let Some(RunningAnswer { id, generation, part, leader, error }) = answer else { continue };
            *part = StepShare::Waits;
            if error.is_some() {
                continue;
            }
            let sequence = match sequence {
                Some(sequence) => sequence,
                None => sequence.insert(self.runtime.begin().ok_or_else(no_sequence)?),
            };
            if let Need::Rewind(len) = generation.need(sequence.tokens(), &limits) {
                self.runtime.rewind(sequence, len)?;
            }
            let follows = leader.is_some_and(|leader| leaders.contains(&leader));
            if let Need::Draft { last, most } = generation.need(sequence.tokens(), &limits) {
                self.runtime.draft(sequence, last, most, &mut self.drafted)?;
                generation.drafted(&self.drafted);
            }
            let need = generation.need(sequence.tokens(), &limits);
            if let Need::Run { ids, .. } = need
                && let Err(refused) = self.runtime.check(sequence, ids)
            {
                // What cannot run must not keep the others from running.
                *error = Some(refused);
                continue;
            }
            match need {
                Need::Run { phase: Phase::Prefill, .. } if follows => {}
                Need::Run { ids, phase: Phase::Prefill, .. } => prompts.push((at, *id, ids.len())),
                Need::Run { .. } => {
                    decoding += 1;
                    *part = StepShare::All;
                }
                Need::Rewind(_) | Need::Draft { .. } | Need::Done => {}
            }
            // A cancelled answer may have held text back.
            self.events.extend(std::iter::from_fn(|| generation.event()).map(|event| (*id, event)));
        }
        self.cut_prompts(prompts, decoding, &limits);
        Ok(())
    }

    /// Chooses pieces of `prompts`, (place, name, tokens left), for a step of `decoding` answers.
    fn cut_prompts(&mut self, mut prompts: Vec<(usize, AnswerId, usize)>, decoding: usize, limits: &Limits) {
        if prompts.is_empty() {
            return;
        }
        // The shortest first lets a question pass a book; the oldest in turn lets the book end.
        prompts.sort_unstable_by_key(|&(_, id, left)| (left, id));
        if self.turns % 2 == 1
            && let Some(oldest) = (0..prompts.len()).min_by_key(|&at| prompts[at].1)
        {
            prompts[..=oldest].rotate_right(1);
        }
        self.turns += 1;
        let batch_tokens = self.runtime.sizes().batch_tokens;
        let mut wanted = self.pace.prompt_tokens(prompts.len(), decoding).min(batch_tokens);
        // Each in a pass of its own would read all weights once more.
        let most = if limits.mixes_rows { prompts.len() } else { 1 };
        for (number, (at, _, left)) in prompts.into_iter().take(most).enumerate() {
            let piece = whole_piece(left, wanted, limits.least_prompt, batch_tokens);
            if number > 0 && piece > wanted {
                continue;
            }
            wanted = wanted.saturating_sub(piece);
            if let Some(answer) = &mut self.places[at].answer {
                answer.part = if piece == left { StepShare::All } else { StepShare::Piece(piece) };
            }
        }
    }

    /// Hands the outputs of a step to the answers that took part in it.
    fn feed(&mut self) -> Result<()> {
        let mut row = 0;
        let mut lacking = Vec::new();
        for at in 0..self.places.len() {
            let leads = self.places[at].reading().is_some_and(|leader| self.has_followers(leader));
            let Place { sequence: Some(sequence), answer: Some(answer), .. } = &mut self.places[at] else { continue };
            if answer.part == StepShare::Waits {
                continue;
            }
            let (output, logits) = self.runtime.output_and_logits(row);
            row += 1;
            if answer.part != StepShare::All {
                continue;
            }
            let id = answer.id;
            let shared = leads.then(|| (output.clone(), logits.to_vec()));
            match answer.generation.feed(output, logits) {
                Ok(Fed::Keep(kept)) => {
                    let begun = Instant::now();
                    self.runtime.rewind(sequence, kept)?;
                    answer.generation.rewound(begun.elapsed());
                }
                Ok(Fed::NeedsLogits) => lacking.push(at),
                Err(error) => answer.error = Some(error),
            }
            if let Some((output, logits)) = shared {
                self.share_prompt(at, id, &output, &logits, &mut lacking)?;
            }
        }
        // Behind the others, as a failure of a backend would replace what is still to be fed.
        for at in lacking {
            let Place { sequence: Some(sequence), answer: Some(answer), .. } = &mut self.places[at] else { continue };
            let output = RowOutput { logits: 0..1, head_rows: self.runtime.vocab(), ..RowOutput::default() };
            match answer.generation.feed(&output, self.runtime.full_logits(sequence)?) {
                Ok(Fed::Keep(kept)) => self.runtime.rewind(sequence, kept)?,
                Ok(Fed::NeedsLogits) => {
                    answer.error = Some(Error::malformed("the logits of a step", "all of them", "candidates"));
                }
                Err(error) => answer.error = Some(error),
            }
        }
        for RunningAnswer { id, generation, .. } in self.places.iter_mut().filter_map(|place| place.answer.as_mut()) {
            self.events.extend(std::iter::from_fn(|| generation.event()).map(|event| (*id, event)));
        }
        Ok(())
    }

    fn has_followers(&self, leader: AnswerId) -> bool {
        self.places.iter().filter_map(|place| place.answer.as_ref()).any(|answer| answer.leader == Some(leader))
    }

    /// Hands the states and the logits of the prompt at `from` to the other answers to it.
    fn share_prompt(
        &mut self,
        from: usize,
        leader: AnswerId,
        output: &RowOutput,
        logits: &[f32],
        lacking: &mut Vec<usize>,
    ) -> Result<()> {
        for at in 0..self.places.len() {
            let follows = |answer: &RunningAnswer| answer.leader == Some(leader) && !answer.has_ended();
            if !self.places[at].answer.as_ref().is_some_and(follows) {
                continue;
            }
            self.fork_into(from, at, usize::MAX)?;
            let Place { sequence: Some(sequence), answer: Some(answer), .. } = &mut self.places[at] else { continue };
            answer.leader = None;
            answer.generation.reused(sequence.tokens().len());
            match answer.generation.feed(output, &mut logits.to_vec()) {
                Ok(Fed::Keep(kept)) => self.runtime.rewind(sequence, kept)?,
                Ok(Fed::NeedsLogits) => lacking.push(at),
                Err(error) => answer.error = Some(error),
            }
        }
        Ok(())
    }
}

fn no_sequence() -> Error {
    Error::missing("a free sequence", "an answer")
}
