//! The thread that owns the model: requests wait in a queue, take places, and are served in steps of all together.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Log,
    answer::{Output, Progress},
    job::{Action, Done, Job, Loan, SlotTask},
    metrics::Metrics,
    queue::{Command, JobReceiver, Received},
};
use crate::{
    error::Error,
    generate::{AnswerId, Batcher, Event, Finish, FinishedAnswer, PlaceState, Stats},
};

/// How often the queue is looked at for clients that went away, while nothing else happens.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// A job that has places.
struct Serving {
    job: Job,
    /// The answer that reads the prompt, and how much of it was told.
    reader: AnswerId,
    told: usize,
    begun: Instant,
    /// Choices that have not ended.
    open: usize,
    last_token: Option<Instant>,
    first_token: Option<Duration>,
    tokens: usize,
}

/// The engine's thread.
pub struct EngineThread {
    batcher: Batcher,
    jobs: JobReceiver,
    queue: VecDeque<Job>,
    /// Work on slots that are not free.
    slot_tasks: VecDeque<SlotTask>,
    loans: VecDeque<Loan>,
    serving: HashMap<u64, Serving>,
    /// Which job an answer belongs to, and its number there.
    answers: HashMap<AnswerId, (u64, usize)>,
    next_job: u64,
    metrics: Arc<Metrics>,
    places: Arc<Mutex<Vec<PlaceState>>>,
    log: Arc<dyn Log>,
    has_taken_over: bool,
}

impl EngineThread {
    pub fn new(
        batcher: Batcher,
        jobs: JobReceiver,
        metrics: Arc<Metrics>,
        places: Arc<Mutex<Vec<PlaceState>>>,
        log: Arc<dyn Log>,
    ) -> Self {
        let engine = Self {
            batcher,
            jobs,
            queue: VecDeque::new(),
            slot_tasks: VecDeque::new(),
            loans: VecDeque::new(),
            serving: HashMap::new(),
            answers: HashMap::new(),
            next_job: 0,
            metrics,
            places,
            log,
            has_taken_over: false,
        };
        // The slots stand there from the first request on, however late the thread gets to run.
        engine.publish();
        engine
    }

    /// Serves until it is told to stop, or nobody is left who could send more and all is answered.
    pub fn run(mut self) {
        while self.take_commands() {
            self.drop_cancelled();
            self.work_on_slots();
            self.lend();
            self.admit();
            self.publish();
            match self.batcher.step() {
                Ok(true) => self.metrics.stepped(self.batcher.len()),
                Ok(false) => {}
                Err(error) => self.fail_all(&error),
            }
            self.deliver();
            self.publish();
        }
        for Serving { job, .. } in self.serving.values() {
            job.reply.send(Output::Stopping);
        }
        for job in &self.queue {
            job.reply.send(Output::Stopping);
        }
    }

    /// Waits where there is nothing else to do; false when it is time to stop.
    fn take_commands(&mut self) -> bool {
        let idles = self.batcher.is_empty();
        let has_work = self.has_work();
        let mut most = match (idles, has_work) {
            (false, _) => Some(Duration::ZERO),
            (true, true) => Some(LOOK_AROUND),
            (true, false) => None,
        };
        loop {
            match self.jobs.receive(most) {
                Received::Command(Command::Answer(job)) => self.queue.push_back(*job),
                Received::Command(Command::Slot(task)) => self.slot_tasks.push_back(task),
                Received::Command(Command::Loan(loan)) => self.loans.push_back(loan),
                // This model gives none, which its requests are told before.
                Received::Command(Command::Vectors(_)) => self.jobs.served(1),
                Received::Nothing => return true,
                Received::Closed => return !idles || has_work || self.has_work(),
                Received::Stopped => return false,
            }
            most = Some(Duration::ZERO);
        }
    }

    /// Whether something waits for a place.
    fn has_work(&self) -> bool {
        !(self.queue.is_empty() && self.slot_tasks.is_empty() && self.loans.is_empty())
    }

    /// Does what was asked for slots that are free.
    fn work_on_slots(&mut self) {
        for _ in 0..self.slot_tasks.len() {
            let Some(SlotTask { place, action, reply }) = self.slot_tasks.pop_front() else { return };
            let is_free = self.batcher.places().nth(place).is_some_and(|place| place.answer.is_none());
            if reply.is_closed() {
                continue;
            }
            if !is_free {
                self.slot_tasks.push_back(SlotTask { place, action, reply });
                continue;
            }
            let done = match action {
                Action::Save => self.batcher.save_place(place).map(|saved| Done::Saved(saved.map(Box::new))),
                Action::Restore(saved) => self.batcher.restore_place(place, *saved).map(|()| Done::Restored),
                Action::Erase => self.batcher.erase_place(place).map(Done::Erased),
            };
            // The client may have gone away.
            let _ = reply.send(done);
        }
    }

    /// Does work on the model itself, one piece between two steps of answers.
    fn lend(&mut self) {
        while self.batcher.room() > 0 {
            let Some(Loan(work)) = self.loans.pop_front() else { return };
            if let Err(error) = self.batcher.lend(work) {
                self.log.request(&format!("no place for work on the model: {error}"));
            }
            if !self.batcher.is_empty() || !self.queue.is_empty() {
                return;
            }
        }
    }

    fn drop_cancelled(&mut self) {
        let before = self.queue.len();
        let (metrics, log) = (&self.metrics, &self.log);
        self.queue.retain(|job| {
            let waits = !job.reply.is_cancelled();
            if !waits {
                let prompt_tokens = job.choices.first().map_or(0, |one| one.prompt().len());
                log.request(&format!("{} {prompt_tokens} prompt tokens, cancelled in the queue", job.id));
                metrics.cancelled_in_queue();
            }
            waits
        });
        self.jobs.served(before - self.queue.len());
    }

    /// Gives places to those who wait, in their order. Who asks for a place that is taken lets others pass.
    fn admit(&mut self) {
        let mut at = 0;
        while let Some(mut job) = self.queue.remove(at) {
            let choices = std::mem::take(&mut job.choices);
            match self.batcher.add_choices_at(job.place, choices) {
                Err(refused) => {
                    job.choices = refused;
                    let asks = job.place.is_some();
                    self.queue.insert(at, job);
                    if !asks {
                        return;
                    }
                    at += 1;
                }
                Ok(ids) => {
                    self.jobs.served(1);
                    self.metrics.began(job.arrived.elapsed());
                    job.reply.send(Output::Begun);
                    let number = self.next_job;
                    self.next_job += 1;
                    let first = job.first_choice;
                    let told = self.tell_begin(&job, ids[0]);
                    self.answers.extend(ids.iter().enumerate().map(|(at, &id)| (id, (number, first + at))));
                    let serving = Serving {
                        job,
                        reader: ids[0],
                        told,
                        begun: Instant::now(),
                        open: ids.len(),
                        last_token: None,
                        first_token: None,
                        tokens: 0,
                    };
                    self.serving.insert(number, serving);
                }
            }
        }
    }

    /// Tells how much of a prompt its place holds already, where that is asked for; returns it.
    fn tell_begin(&self, job: &Job, reader: AnswerId) -> usize {
        let Some((generation, held)) = self.batcher.running(reader).filter(|_| job.tells_progress) else { return 0 };
        let total = generation.prompt().len();
        // The last token has to run to give logits.
        let cached = held.min(total - 1);
        let with_times = job.tells_times;
        let progress = Progress { total, cached, read: cached, time: Duration::ZERO, with_times };
        job.reply.send(Output::Progress { choice: job.first_choice, progress });
        cached
    }

    /// Tells how far prompts are, where that is asked for.
    fn tell_progress(&mut self) {
        for Serving { job, reader, told, begun, .. } in self.serving.values_mut().filter(|one| one.job.tells_progress) {
            let Some((generation, held)) = self.batcher.running(*reader) else { continue };
            let total = generation.prompt().len();
            let read = held.min(total);
            if read > *told {
                *told = read;
                let cached = generation.stats().reused_tokens;
                let with_times = job.tells_times;
                let progress = Progress { total, cached, read, time: begun.elapsed(), with_times };
                job.reply.send(Output::Progress { choice: job.first_choice, progress });
            }
        }
    }

    /// Sends what a step brought.
    fn deliver(&mut self) {
        self.tell_progress();
        while let Some((id, event)) = self.batcher.event() {
            if let Some(&(number, choice)) = self.answers.get(&id)
                && let Some(serving) = self.serving.get_mut(&number)
            {
                serving.take_time(&event, &self.metrics);
                if serving.job.tells_times
                    && let Some((generation, _)) = self.batcher.running(id)
                {
                    let stats = Box::new(generation.stats().clone());
                    serving.job.reply.send(Output::Times { choice, stats });
                }
                serving.job.reply.send(Output::Event { choice, event });
            }
        }
        while let Some(FinishedAnswer { id, generation, error, place }) = self.batcher.finished() {
            let Some((number, choice)) = self.answers.remove(&id) else { continue };
            let Some(serving) = self.serving.get_mut(&number) else { continue };
            let finish = generation.finish().cloned().unwrap_or(Finish::Cancelled);
            let stats = generation.stats().clone();
            self.metrics.ended(&finish, &stats, serving.job.arrived.elapsed());
            self.log.request(&serving.line(choice, error.as_ref(), &finish, &stats));
            serving.open -= 1;
            serving.job.reply.send(match error {
                Some(error) => Output::Failed(error),
                None => Output::Ended { choice, finish, stats, place },
            });
            if serving.open == 0 {
                self.serving.remove(&number);
            }
        }
        if !self.has_taken_over && self.batcher.runtime().takeover().is_some() {
            self.has_taken_over = true;
            self.metrics.took_over();
        }
    }

    /// A step failed, and nothing took over: nobody knows whose fault it is.
    fn fail_all(&mut self, error: &Error) {
        self.log.request(&format!("a step failed: {error}"));
        for Serving { job, .. } in self.serving.values() {
            job.reply.send(Output::Broken(error.to_string()));
        }
        self.serving.clear();
        self.answers.clear();
        self.batcher.clear();
    }

    /// For whoever looks at the slots while a step runs.
    fn publish(&self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.clear();
        places.extend(self.batcher.places());
        drop(places);
        self.metrics.load(self.batcher.len(), self.queue.len());
    }
}

impl Serving {
    fn take_time(&mut self, event: &Event, metrics: &Metrics) {
        if event.id.is_none() {
            return;
        }
        let now = Instant::now();
        match self.last_token {
            None => {
                let waited = now - self.job.arrived;
                self.first_token = Some(waited);
                metrics.first_token(waited);
            }
            Some(last) => metrics.next_token(now - last),
        }
        self.last_token = Some(now);
        self.tokens += 1;
    }

    /// The line of the log, without any text of the request.
    fn line(&self, choice: usize, error: Option<&Error>, finish: &Finish, stats: &Stats) -> String {
        let milliseconds = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
        let rate = stats.decode_rate().map_or_else(String::new, |rate| format!(", {rate:.1} tok/s"));
        let first =
            self.first_token.map_or_else(String::new, |time| format!(", first token after {}", milliseconds(time)));
        format!(
            "{}{} {} prompt tokens ({} cached), {} generated, queued {}{first}{rate}, {}",
            self.job.id,
            if choice > 0 { format!("#{choice}") } else { String::new() },
            stats.prompt_tokens,
            stats.reused_tokens,
            stats.generated_tokens,
            milliseconds(self.begun - self.job.arrived),
            error.map_or_else(
                || finish.name().to_owned(),
                |error| format!("failed: {}", error.to_string().escape_debug())
            ),
        )
    }
}
