//! The time that a connection has for its requests: little for the head of one that has begun, more where none has.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time for the head of a request, from its first byte on: a client that is slower only holds the connection.
const HEAD_TIME: Duration = Duration::from_secs(20);

/// Time between requests. Clients keep their connections for up to 75 s, and fail on one that ends while they use it.
const IDLE_TIME: Duration = Duration::from_secs(120);

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Between requests, since then.
    Idle(Instant),
    /// A head arrives, since then.
    Head(Instant),
    Answering,
}

/// The state of a connection, which its two sides share.
pub struct Clock(Mutex<State>);

impl Clock {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(State::Idle(now)))
    }

    /// Notes where the connection is now.
    pub fn set(&self, state: State) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Bytes came: a head begins, unless they belong to a request that is known.
    pub fn read(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Idle(_) = *state {
            *state = State::Head(now);
        }
    }

    /// True while a request is being answered.
    pub fn is_answering(&self) -> bool {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) == State::Answering
    }

    /// True where the client has had its time.
    pub fn is_over(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Idle(since) => now - since >= IDLE_TIME,
            State::Head(since) => now - since >= HEAD_TIME,
            State::Answering => false,
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
}
