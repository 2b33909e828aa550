//! The time that a connection has for its requests: little for the head of one that has begun, more where none has.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Time for the head of a request, from its first byte on: a client that is slower only holds the connection.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// Time between requests. Clients keep their connections for up to 75 s, and fail on one that ends while they use it.
const IDLE_TIME: Duration = Duration::from_secs(120);

/// Time in which a client takes no byte of its answer. A slow one lets go of some megabytes that wait in the system at once.
const STUCK_TIME: Duration = Duration::from_secs(600);

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Between requests, since then.
    Idle(Instant),
    /// A head arrives, since then.
    Head(Instant),
    Answering,
    /// The answer is complete, and on its way to the client.
    Sending,
}

/// The state of a connection, which its two sides share.
pub struct Clock(Mutex<Times>);

struct Times {
    state: State,
    /// Since when the client takes nothing that waits for it.
    stuck: Option<Instant>,
}

impl Clock {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Times { state: State::Idle(now), stuck: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where the connection is now.
    pub fn set(&self, state: State) {
        self.lock().state = state;
    }

    /// Bytes came: a head begins, unless they belong to a request that is known.
    pub fn read(&self, now: Instant) {
        let mut times = self.lock();
        if let State::Idle(_) = times.state {
            times.state = State::Head(now);
        }
    }

    /// The client took some bytes, or none can be written.
    pub fn moved(&self) {
        self.lock().stuck = None;
    }

    /// The client takes no more bytes for now.
    pub fn stuck(&self, now: Instant) {
        self.lock().stuck.get_or_insert(now);
    }

    /// All that was written is on its way: the pause until the next request begins, if that was the end of an answer.
    pub fn flushed(&self, now: Instant) {
        let mut times = self.lock();
        if times.state == State::Sending {
            times.state = State::Idle(now);
        }
    }

    /// True while a request is being answered.
    pub fn is_answering(&self) -> bool {
        self.lock().state == State::Answering
    }

    /// True where the client has had its time.
    pub fn is_over(&self, now: Instant) -> bool {
        let Times { state, stuck } = *self.lock();
        let is_stuck = stuck.is_some_and(|since| now - since >= STUCK_TIME);
        is_stuck
            || match state {
                State::Idle(since) => now - since >= IDLE_TIME,
                State::Head(since) => now - since >= HEAD_TIME,
                State::Answering | State::Sending => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_less_time_than_a_pause_and_an_answer_has_all() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let clock = Clock::new(start);
        assert!(!clock.is_over(after(119)) && clock.is_over(after(120)));
        clock.read(after(100));
        // A byte now and then does not help.
        clock.read(after(110));
        assert!(!clock.is_over(after(119)) && clock.is_over(after(120)));
        clock.set(State::Answering);
        clock.read(after(130));
        assert!(!clock.is_over(after(10_000)));
        clock.set(State::Idle(after(200)));
        assert!(!clock.is_over(after(319)) && clock.is_over(after(320)));
    }

    /// A large answer takes its time from the server to the client.
    #[test]
    fn a_pause_begins_when_the_answer_is_sent_and_a_client_that_takes_nothing_ends_it() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let clock = Clock::new(start);
        clock.set(State::Answering);
        clock.flushed(after(1));
        assert!(!clock.is_over(after(1000)), "no end of an answer");
        clock.set(State::Sending);
        clock.stuck(after(10));
        clock.stuck(after(400));
        assert!(!clock.is_over(after(609)) && clock.is_over(after(610)));
        clock.moved();
        clock.stuck(after(500));
        assert!(!clock.is_over(after(1099)));
        clock.moved();
        clock.flushed(after(700));
        assert!(!clock.is_over(after(819)) && clock.is_over(after(820)));
        // An answer that is still being written, too.
        clock.set(State::Answering);
        clock.stuck(after(900));
        assert!(!clock.is_over(after(1499)) && clock.is_over(after(1500)));
    }
}
