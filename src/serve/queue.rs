//! Queue between the threads of the network and the thread of a model: jobs, and work on its slots, in order.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{
    error::{ApiError, ApiResult},
    job::{Job, Loan, SlotTask, VectorsJob},
};

/// Something for the engine to do.
pub enum Command {
    Answer(Box<Job>),
    Slot(SlotTask),
    Vectors(VectorsJob),
    Loan(Loan),
}

/// Hands work to the engine, which ends when this is gone and all is done.
pub struct JobSender(Arc<Shared>);

/// The other end of a [`JobSender`], for the thread of the model.
pub struct JobReceiver(Arc<Shared>);

/// Ends the answers of an engine, whether it gets more jobs or not.
#[derive(Clone)]
pub struct Stopper(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Jobs that wait for a place, also those that the engine has taken out.
    waiting: AtomicUsize,
    most_waiting: usize,
}

#[derive(Default)]
struct State {
    commands: VecDeque<Command>,
    stopped: bool,
    /// Whether one of the ends is gone.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue of at most so many jobs that wait for a place.
pub fn queue(most_waiting: usize) -> (JobSender, JobReceiver) {
    let (state, changed, waiting) = (Mutex::default(), Condvar::new(), AtomicUsize::new(0));
    let shared = Arc::new(Shared { state, changed, waiting, most_waiting });
    (JobSender(Arc::clone(&shared)), JobReceiver(shared))
}

impl JobSender {
    /// Queues a job.
    ///
    /// # Errors
    /// If too many wait, or the engine has ended.
    pub fn submit(&self, job: Job) -> ApiResult<()> {
        self.enqueue(Command::Answer(Box::new(job)))
    }

    /// Queues texts for their vectors.
    ///
    /// # Errors
    /// If too many wait, or the engine has ended.
    pub fn submit_vectors(&self, job: VectorsJob) -> ApiResult<()> {
        if self.waiting() >= self.0.most_waiting {
            self.forget_gone();
        }
        self.enqueue(Command::Vectors(job))
    }

    /// Queues work on a slot.
    ///
    /// # Errors
    /// If the engine has ended.
    pub fn submit_slot(&self, task: SlotTask) -> ApiResult<()> {
        self.send(Command::Slot(task))
    }

    /// Queues work on the model itself.
    ///
    /// # Errors
    /// If the engine has ended.
    pub fn submit_loan(&self, loan: Loan) -> ApiResult<()> {
        self.send(Command::Loan(loan))
    }

    /// Jobs that wait for a place.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Stops the engine also when this is gone.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.0))
    }

    fn enqueue(&self, command: Command) -> ApiResult<()> {
        let Shared { waiting, most_waiting, .. } = &*self.0;
        if waiting.fetch_add(1, Ordering::Relaxed) >= *most_waiting {
            waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(ApiError::busy());
        }
        self.send(command).inspect_err(|_| _ = waiting.fetch_sub(1, Ordering::Relaxed))
    }

    /// Makes room: texts whose client is gone wait no more.
    fn forget_gone(&self) {
        let mut state = self.0.lock();
        let before = state.commands.len();
        state.commands.retain(|command| !matches!(command, Command::Vectors(job) if job.reply.is_closed()));
        self.0.waiting.fetch_sub(before - state.commands.len(), Ordering::Relaxed);
    }

    fn send(&self, command: Command) -> ApiResult<()> {
        let mut state = self.0.lock();
        if state.closed || state.stopped {
            return Err(ApiError::stopping());
        }
        state.commands.push_back(command);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for JobSender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_one();
    }
}

impl Stopper {
    /// Ends all answers before the next step, and the thread.
    pub fn stop(&self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_one();
    }
}

/// Reply of [`JobReceiver::receive`].
pub enum Received {
    Command(Command),
    /// None came.
    Nothing,
    /// None will come.
    Closed,
    /// All is to end.
    Stopped,
}

impl JobReceiver {
    /// The next command. Where there is none, waits for one, for so long at most.
    pub fn receive(&self, most: Option<Duration>) -> Received {
        let waits = |state: &mut State| state.commands.is_empty() && !state.stopped && !state.closed;
        let (state, changed) = (self.0.lock(), &self.0.changed);
        let mut state = match most {
            None => changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner),
            Some(Duration::ZERO) => state,
            Some(most) => changed.wait_timeout_while(state, most, waits).unwrap_or_else(PoisonError::into_inner).0,
        };
        match state.commands.pop_front() {
            _ if state.stopped => Received::Stopped,
            Some(command) => Received::Command(command),
            None if state.closed => Received::Closed,
            None => Received::Nothing,
        }
    }

    /// So many jobs wait no more.
    pub fn served(&self, jobs: usize) {
        self.0.waiting.fetch_sub(jobs, Ordering::Relaxed);
    }
}

impl Drop for JobReceiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        // Whoever waits for them is told so.
        state.commands.clear();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::{
        super::job::{Action, SlotTask},
        *,
    };

    fn task() -> SlotTask {
        SlotTask { place: 0, action: Action::Erase, reply: oneshot::channel().0 }
    }

    #[test]
    fn what_was_sent_is_done_before_the_end_and_a_stop_ends_it_at_once() {
        let (sender, receiver) = queue(4);
        assert!(matches!(receiver.receive(Some(Duration::ZERO)), Received::Nothing));
        sender.submit_slot(task()).unwrap();
        drop(sender);
        assert!(matches!(receiver.receive(None), Received::Command(Command::Slot(_))));
        assert!(matches!(receiver.receive(None), Received::Closed));

        let (sender, receiver) = queue(4);
        let stopper = sender.stopper();
        sender.submit_slot(task()).unwrap();
        drop(sender);
        stopper.stop();
        assert!(matches!(receiver.receive(None), Received::Stopped));

        let (sender, receiver) = queue(4);
        drop(receiver);
        assert!(sender.submit_slot(task()).is_err());
    }

    #[test]
    fn texts_of_clients_that_are_gone_make_room() {
        let job = || {
            let (reply, vectors) = oneshot::channel();
            (VectorsJob { texts: Vec::new(), reply }, vectors)
        };
        let (sender, receiver) = queue(2);
        let ((first, _first), (second, gone)) = (job(), job());
        sender.submit_vectors(first).unwrap();
        sender.submit_vectors(second).unwrap();
        assert_eq!(sender.submit_vectors(job().0).unwrap_err().status, 503);
        drop(gone);
        let (third, _third) = job();
        sender.submit_vectors(third).unwrap();
        assert_eq!(sender.waiting(), 2);
        let (fourth, _fourth) = job();
        assert_eq!(sender.submit_vectors(fourth).unwrap_err().status, 503);
        assert!(matches!(receiver.receive(None), Received::Command(Command::Vectors(_))));
        receiver.served(1);
        assert_eq!(sender.waiting(), 1);
    }

    #[test]
    fn a_stop_wakes_who_waits() {
        let (sender, receiver) = queue(4);
        let stopper = sender.stopper();
        let waiting = std::thread::spawn(move || matches!(receiver.receive(None), Received::Stopped));
        stopper.stop();
        assert!(waiting.join().unwrap());
        assert!(sender.submit_slot(task()).is_err());
    }
}
