//! The answer to a request: JSON that arrives piece by piece on a thread of the engine.

use std::{
    collections::VecDeque,
    mem, process,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bitnet_gpu::serve::Pending;
use pyo3::prelude::*;

use super::{errors, work::LOOK_AROUND};

/// Pieces that have arrived, and who is told of more.
#[derive(Default)]
struct State {
    pieces: VecDeque<String>,
    ended: bool,
    notify: Option<Py<PyAny>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a piece in, or the end.
    fn take(&self, piece: Option<String>) {
        let has_listener = {
            let mut state = self.lock();
            match piece {
                Some(piece) => state.pieces.push_back(piece),
                None => state.ended = true,
            }
            state.notify.is_some()
        };
        self.changed.notify_all();
        if has_listener {
            // Not where the interpreter ends.
            let _ = Python::try_attach(|py| self.tell(py));
        }
    }

    /// Calls who listens, without the lock.
    fn tell(&self, py: Python<'_>) {
        let listener = self.lock().notify.as_ref().map(|listener| listener.clone_ref(py));
        if let Some(Err(error)) = listener.map(|listener| listener.call0(py)) {
            error.write_unraisable(py, None);
        }
    }
}

/// The end at which pieces arrive. Dropped, as when the model is closed, it ends the answer.
struct Arrivals(Arc<Shared>);

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.0.take(None);
    }
}

/// An answer on its way, which iterates over the JSON of its pieces.
#[pyclass(frozen, module = "bitnet_gpu._core")]
pub struct Reply {
    shared: Arc<Shared>,
    pending: Mutex<Option<Pending>>,
    /// Threads do not go along where the process forks.
    process: u32,
}

impl Reply {
    /// The answer to a request that `ask` sends; it is given where pieces go.
    pub fn of(
        ask: impl FnOnce(Box<dyn FnMut(Option<String>) + Send>) -> bitnet_gpu::Result<Pending>,
    ) -> bitnet_gpu::Result<Self> {
        let shared = Arc::<Shared>::default();
        let arrivals = Arrivals(Arc::clone(&shared));
        let pending = ask(Box::new(move |piece| arrivals.0.take(piece)))?;
        Ok(Self { shared, pending: Mutex::new(Some(pending)), process: process::id() })
    }

    /// An exception in a forked process, where nothing arrives.
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.process == process::id() { Ok(()) } else { Err(errors::forked(py)) }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.process != process::id() {
            mem::forget(self.pending.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

#[pymethods]
impl Reply {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    /// The next piece. Waits for it while other threads go on; Ctrl-C ends the wait.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.check_process(py)?;
        loop {
            {
                let mut state = self.shared.lock();
                if let Some(piece) = state.pieces.pop_front() {
                    return Ok(Some(piece));
                }
                if state.ended {
                    return Ok(None);
                }
            }
            py.detach(|| {
                let state = self.shared.lock();
                let nothing = |state: &mut State| state.pieces.is_empty() && !state.ended;
                drop(self.shared.changed.wait_timeout_while(state, LOOK_AROUND, nothing));
            });
            py.check_signals()?;
        }
    }

    /// The next piece that is there already; `None` where there is none.
    fn ready(&self) -> Option<String> {
        self.shared.lock().pieces.pop_front()
    }

    /// Whether there is no more, and none is left.
    #[getter]
    fn ended(&self) -> bool {
        let state = self.shared.lock();
        state.ended && state.pieces.is_empty()
    }

    /// Calls `listener` from a thread of the engine whenever something has arrived, and now where something has.
    fn notify(&self, py: Python<'_>, listener: Py<PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        let has_news = {
            let mut state = self.shared.lock();
            state.notify = Some(listener);
            state.ended || !state.pieces.is_empty()
        };
        if has_news {
            self.shared.tell(py);
        }
        Ok(())
    }

    /// Ends the answer; what has arrived stays.
    fn close(&self) {
        if self.process != process::id() {
            return;
        }
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }
}
