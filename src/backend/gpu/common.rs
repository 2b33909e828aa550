//! Small helpers of several wings.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic while one of our locks was held leaves plain data behind: it stays usable.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A driver's message without its line breaks.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
