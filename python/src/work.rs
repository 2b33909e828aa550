//! Work that takes long: on a thread of its own, while other threads of Python go on and Ctrl-C is looked for.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use bitnet_gpu::{Error, Result};
use pyo3::prelude::*;

use super::errors;

/// How often Ctrl-C is looked for.
pub const LOOK_AROUND: Duration = Duration::from_millis(50);

/// Ends work for which nobody waits any more.
#[pyclass(frozen, from_py_object, module = "bitnet_gpu._core")]
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

#[pymethods]
impl Cancel {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Asks the work to end.
    fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Cancel {
    /// True where the work should end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error where the work should end.
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Does `work` and waits for it. Ctrl-C ends the waiting at once, and the work where it looks at `cancel`.
///
/// # Errors
/// An interrupt, or a panic of the work.
pub fn do_long<T: Send + 'static>(
    py: Python<'_>,
    cancel: Cancel,
    work: impl FnOnce(&Cancel) -> Result<T> + Send + 'static,
) -> PyResult<Result<T>> {
    let (tell, mut told) = mpsc::channel();
    let of_work = cancel.clone();
    let begun = thread::Builder::new().name("bitnet_gpu".into()).spawn(move || {
        let done = panic::catch_unwind(AssertUnwindSafe(|| work(&of_work)));
        // Nobody waits after Ctrl-C.
        let _ = tell.send(done);
    });
    begun.map_err(|error| errors::exception(py, &Error::io("start", "a thread", error)))?;
    loop {
        let outcome;
        (outcome, told) = py.detach(move || (told.recv_timeout(LOOK_AROUND), told));
        match outcome {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => {
                return Err(errors::of_kind(py, errors::BUG, "the engine met a bug; standard error says where"));
            }
            Err(RecvTimeoutError::Timeout) => py.check_signals().inspect_err(|_| cancel.set())?,
        }
    }
}
