//! The way of an answer from the engine to the connection: a bounded channel for each request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    error::Error,
    generate::{Event, Finish, Stats},
};

/// Outputs that a reader may be behind: an answer of some thousand tokens. One that reads slower loses the answer.
const BUFFERED: usize = 4096;

/// News of an answer.
#[derive(Debug)]
pub enum Output {
    /// It has a place, and its prompt is being read.
    Begun,
    /// More of a prompt has been read.
    Progress { choice: usize, progress: Progress },
    /// Counts and times so far of the choice that has the next event.
    Times { choice: usize, stats: Box<Stats> },
    /// A token, or text that was held back.
    Event { choice: usize, event: Event },
    /// A choice has ended.
    Ended { choice: usize, finish: Finish, stats: Stats, place: usize },
    /// It failed by itself; there is no more.
    Failed(Error),
    /// The engine failed; there is no more.
    Broken(String),
    /// The server ends; there is no more.
    Stopping,
}

/// How far a prompt has been read.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Tokens of the prompt.
    pub total: usize,
    /// Those that were not computed again.
    pub cached: usize,
    /// Those that are read, with the cached ones.
    pub read: usize,
    /// Since the request got its place.
    pub time: Duration,
    /// Whether a stream tells the times as well.
    pub with_times: bool,
}

/// The end of the channel that the engine has.
#[derive(Clone)]
pub struct Reply {
    sender: mpsc::Sender<Output>,
    cancel: Arc<AtomicBool>,
}

impl Reply {
    /// Hands an output over; without a reader, or with one that is too far behind, the answer is cancelled.
    pub fn send(&self, output: Output) {
        if self.sender.try_send(output).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// True where nobody waits for the answer.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// The flag that generations look at.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }
}

/// The end of the channel that a connection has. Dropping it, as happens when a client goes away, cancels the answer.
pub struct Answers {
    receiver: mpsc::Receiver<Output>,
    cancel: Arc<AtomicBool>,
}

impl Answers {
    /// The next output; `None` where the engine has dropped its end.
    pub async fn next(&mut self) -> Option<Output> {
        self.receiver.recv().await
    }

    /// An output that is there already.
    pub fn ready(&mut self) -> Option<Output> {
        self.receiver.try_recv().ok()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// A channel for one request.
pub fn channel() -> (Reply, Answers) {
    let (sender, receiver) = mpsc::channel(BUFFERED);
    let cancel = Arc::<AtomicBool>::default();
    (Reply { sender, cancel: Arc::clone(&cancel) }, Answers { receiver, cancel })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_or_too_slow_cancels() {
        let (reply, answers) = channel();
        reply.send(Output::Begun);
        assert!(!reply.is_cancelled());
        drop(answers);
        assert!(reply.is_cancelled());

        let (reply, mut answers) = channel();
        for _ in 0..BUFFERED {
            reply.send(Output::Begun);
        }
        assert!(!reply.is_cancelled());
        reply.send(Output::Begun);
        assert!(reply.is_cancelled());
        assert!(matches!(answers.ready(), Some(Output::Begun)));
    }
}
