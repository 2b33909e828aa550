//! A fixed pool of threads that share the chunks of one operation.
//!
//! A decode step runs about 250 operations of 5 to 500 us each, so a barrier must cost a microsecond; and the
//! machine is shared, so a thread that the system has put aside must not hold up the others. Hence:
//!
//! - Each thread has a range of the chunks, which it claims one by one from a counter, and then those that others have not
//!   come to: a slow thread takes fewer. Chunks that follow each other mostly run on one thread, so what a kernel fetches
//!   past the end of its weights is what that thread reads next.
//! - The caller works too, and never waits for a worker that has not begun: when no chunk is left it closes the
//!   job, and a worker that wakes up late finds it closed.
//! - Workers wait for the next job by spinning for 50 us, then sleep. Nobody spins without end.
//! - Nothing is allocated per operation.

mod ahead;
mod split;

use std::{
    any::Any,
    cell::UnsafeCell,
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ahead::Ahead;
pub use split::Disjoint;

/// How long a thread spins before it sleeps: longer than the serial stretches between the parallel operations of a
/// step (1 to 20 us), short against a scheduler's time slice (a few ms) that another process is waiting for.
const SPIN: Duration = Duration::from_micros(50);

/// Threads that run [`Pool::run`]; joined on drop.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a job: one at a time.
    running: Mutex<()>,
}

/// A job's closure, its lifetime erased, and how often to call it.
#[derive(Clone, Copy)]
struct Job {
    call: *const (dyn Fn(usize) + Sync),
    chunks: usize,
    /// Threads that have a range of the chunks, at least one.
    ranges: usize,
}

impl Job {
    /// Where range number `n` begins, which is where the one before ends.
    fn start(self, n: usize) -> usize {
        first_chunk(self.chunks, self.ranges, n)
    }
}

/// The chunk that thread `n` of `threads` begins with, of `chunks` in all, at least as many.
fn first_chunk(chunks: usize, threads: usize, n: usize) -> usize {
    chunks / threads * n + (chunks % threads).min(n)
}

/// The next chunk to claim of a range; on a line of its own, and beside none that is fetched along with it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Next(AtomicUsize);

/// State shared by the caller and the workers.
///
/// `state` holds the job's number in the upper 32 bits, then [`STOP`] and [`OPEN`], then the count of workers inside
/// the job. A worker enters by raising the count while the job is open, in one compare-and-swap: after the caller
/// has closed the job and has seen the count at zero, no worker reads `job` until the next one is opened.
struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Job>,
    /// Next chunk of each thread's range.
    next: Box<[Next]>,
    /// Weights that each thread fetches while it waits.
    ahead: Box<[Ahead]>,
    /// Workers asleep, or about to be; changed only under `lock`.
    sleepers: AtomicUsize,
    /// The caller is asleep, or about to be; changed only under `lock`.
    caller_sleeps: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
    finished: Condvar,
    /// The first panic of a worker in the current job.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers that take part, the first ones; the others rest. Raised only under `lock`.
    active: AtomicUsize,
    raised: Condvar,
}

const OPEN: u64 = 1 << 31;
const STOP: u64 = 1 << 30;
const INSIDE: u64 = STOP - 1;
const JOB_NUMBER_SHIFT: u32 = 32;

// SAFETY: `job` is written by the caller only while no worker is inside and the job is closed, and read by workers
// only while inside; the pointer in it leads to a `Sync` closure that lives until the caller has seen the last
// worker leave.
unsafe impl Sync for Shared {}
// SAFETY: as above; the other fields are Send.
unsafe impl Send for Shared {}

impl Pool {
    /// `threads` (at least 1) includes the calling thread. Where the system refuses a thread, there are as many as it
    /// grants: [`Self::threads`] tells.
    ///
    /// # Panics
    /// If `threads` is 0.
    pub fn new(threads: usize) -> Self {
        assert!((1..INSIDE as usize).contains(&threads), "a pool of {threads} threads");
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { call: &|_| {}, chunks: 0, ranges: 1 }),
            next: (0..threads).map(|_| Next::default()).collect(),
            ahead: (0..threads).map(|_| Ahead::default()).collect(),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            finished: Condvar::new(),
            panic: Mutex::new(None),
            active: AtomicUsize::new(threads - 1),
            raised: Condvar::new(),
        });
        let start = |n| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("kernel-{n}")).spawn(move || shared.work(n)).ok()
        };
        let workers: Vec<_> = (1..threads).map_while(start).collect();
        shared.active.store(workers.len(), Ordering::SeqCst);
        Self { shared, workers, running: Mutex::new(()) }
    }

    /// Threads that run a job, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Lets at most `threads` threads (at least 1, the caller included) run the jobs from now on; the others sleep.
    pub fn limit(&self, threads: usize) {
        let active = self.workers.len().min(threads.max(1) - 1);
        if self.shared.active.load(Ordering::Relaxed) == active {
            return;
        }
        let _guard = lock(&self.shared.lock);
        self.shared.active.store(active, Ordering::SeqCst);
        self.shared.raised.notify_all();
    }

    /// Has each thread, whenever it waits from now on, in a job or for one, fetch the bytes into its cache that it will read
    /// first in a job of so many chunks: `bytes` has them by the first chunk. They take the place of those named before.
    pub fn fetch_ahead<'a>(&self, chunks: usize, bytes: impl Fn(usize) -> &'a [u8]) {
        let threads = chunks.min(self.shared.active.load(Ordering::Relaxed) + 1);
        for (n, ahead) in self.shared.ahead.iter().enumerate() {
            ahead.set(if n < threads { bytes(first_chunk(chunks, threads, n)) } else { &[] });
        }
    }

    /// The addresses of what thread `n` is still to fetch.
    #[cfg(test)]
    pub(crate) fn left_ahead(&self, n: usize) -> std::ops::Range<usize> {
        self.shared.ahead[n].left()
    }

    /// Calls `call(0)`, `call(1)`, .. `call(chunks - 1)`, each once, on all threads, and returns when all are done.
    ///
    /// A single chunk, a pool of one thread, and a call from within a running job all stay on the calling thread.
    ///
    /// # Panics
    /// With the first panic of `call`, after all threads have left it; the remaining chunks may not have run.
    pub fn run(&self, chunks: usize, call: impl Fn(usize) + Sync) {
        let turn =
            if chunks > 1 && !self.workers.is_empty() { self.running.try_lock() } else { return serial(chunks, call) };
        let _turn = match turn {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return serial(chunks, call),
        };
        let call: &(dyn Fn(usize) + Sync) = &call;
        // SAFETY: only the lifetime changes. `Closing` below outlives no return and no unwinding from here: it waits
        // until every worker has left the job, so the pointer is not used after `call` is gone.
        let call: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(call) };
        let ranges = chunks.min(self.shared.active.load(Ordering::Relaxed) + 1);
        let job = Job { call, chunks, ranges };
        for (n, next) in self.shared.next[..ranges].iter().enumerate() {
            next.0.store(job.start(n), Ordering::Relaxed);
        }
        // SAFETY: `running` is held, the previous job is closed and its last worker has left (`Closing` saw to it).
        unsafe { *self.shared.job.get() = job };
        self.shared.open();
        let closing = Closing(&self.shared);
        self.shared.claim(0, job, call);
        drop(closing);
        let panicked = lock(&self.shared.panic).take();
        if let Some(payload) = panicked {
            panic::resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::SeqCst);
        self.shared.wake_workers();
        // Taking the lock waits for a worker that is between looking at the state and resting.
        drop(lock(&self.shared.lock));
        self.shared.raised.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of jobs, so it can only have ended well.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

/// Closes the job and waits for its workers, on the normal way out of [`Pool::run`] and on a panic.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        if thread::panicking() {
            // The caller's own panic is on its way out; a worker's must not surface in a later job.
            *lock(&self.0.panic) = None;
        }
    }
}

impl Shared {
    /// The life of worker number `n`, from 1.
    fn work(&self, n: usize) {
        let mut last = 0;
        while let Some(number) = self.enter(last, n) {
            last = number;
            // SAFETY: this thread is inside (see `enter`), so `job` is not written and its closure is alive.
            let (job, call) = unsafe {
                let job = *self.job.get();
                (job, &*job.call)
            };
            if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| self.claim(n, job, call))) {
                self.next.iter().for_each(|next| next.0.store(job.chunks, Ordering::Relaxed));
                lock(&self.panic).get_or_insert(payload);
            }
            self.leave();
        }
    }

    /// Runs chunks until none is left, those of thread `n` first.
    fn claim(&self, n: usize, job: Job, call: &(dyn Fn(usize) + Sync)) {
        for at in 0..job.ranges {
            let range = (n + at) % job.ranges;
            let end = job.start(range + 1);
            loop {
                let chunk = self.next[range].0.fetch_add(1, Ordering::Relaxed);
                if chunk >= end {
                    break;
                }
                call(chunk);
            }
        }
    }

    /// Waits for an open job other than number `last` and enters it, unless worker `n` is not to take part; `None` when
    /// the pool is dropped.
    fn enter(&self, last: u64, n: usize) -> Option<u64> {
        let mut spin = Spin::new();
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state & STOP != 0 {
                return None;
            }
            if n > self.active.load(Ordering::Relaxed) {
                self.rest(n);
            } else if state & OPEN != 0 && state >> JOB_NUMBER_SHIFT != last {
                let entered = self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed);
                if entered.is_ok() {
                    return Some(state >> JOB_NUMBER_SHIFT);
                }
            } else if !self.ahead[n].fetch() && !spin.again() {
                self.sleep(last);
                spin = Spin::new();
            }
        }
    }

    /// Sleeps until a job other than `last` is open or the pool is dropped.
    fn sleep(&self, last: u64) {
        let mut guard = lock(&self.lock);
        // Counted first, looked at the state second; the caller changes the state first and looks at the count
        // second. All four are SeqCst, so one of the two sees the other.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & STOP != 0 || (state & OPEN != 0 && state >> JOB_NUMBER_SHIFT != last) {
                break;
            }
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Sleeps, whatever jobs there are, until worker `n` is to take part again or the pool is dropped.
    fn rest(&self, n: usize) {
        let mut guard = lock(&self.lock);
        while n > self.active.load(Ordering::SeqCst) && self.state.load(Ordering::SeqCst) & STOP == 0 {
            guard = self.raised.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake_workers(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taking the lock waits for a worker that is between looking at the state and sleeping.
            drop(lock(&self.lock));
            self.opened.notify_all();
        }
    }

    /// Lets workers in.
    fn open(&self) {
        let number = (self.state.load(Ordering::Relaxed) >> JOB_NUMBER_SHIFT) + 1;
        // The number wraps: a worker that slept for 2^32 jobs misses one, which costs time only.
        self.state.store((number << JOB_NUMBER_SHIFT) | OPEN, Ordering::SeqCst);
        self.wake_workers();
    }

    /// Lets no more workers in and waits for those inside.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let mut spin = Spin::new();
        while self.state.load(Ordering::Acquire) & INSIDE != 0 {
            if !self.ahead[0].fetch() && !spin.again() {
                let mut guard = lock(&self.lock);
                self.caller_sleeps.store(true, Ordering::SeqCst);
                while self.state.load(Ordering::SeqCst) & INSIDE != 0 {
                    guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.caller_sleeps.store(false, Ordering::SeqCst);
            }
        }
    }

    /// A worker's end of a job.
    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & (OPEN | INSIDE) == 1 && self.caller_sleeps.load(Ordering::SeqCst) {
            drop(lock(&self.lock));
            self.finished.notify_one();
        }
    }
}

/// A bounded wait: `again` pauses a moment and is false when [`SPIN`] is over.
struct Spin {
    rounds: u32,
    end: Option<Instant>,
}

impl Spin {
    fn new() -> Self {
        Self { rounds: 0, end: None }
    }

    fn again(&mut self) -> bool {
        std::hint::spin_loop();
        self.rounds = self.rounds.wrapping_add(1);
        // The clock costs as much as a few pauses: read it now and then.
        if !self.rounds.is_multiple_of(32) {
            return true;
        }
        let now = Instant::now();
        now < *self.end.get_or_insert(now + SPIN)
    }
}

fn serial(chunks: usize, call: impl Fn(usize)) {
    (0..chunks).for_each(call);
}

/// A panic of a job never leaves the data under these locks half changed, so poison carries no news.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
