//! Ends the test binary where something would run for ever.

use std::{
    io::{Write, stderr},
    process::exit,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// A limit, not a measurement: nothing that ends comes near it, on the slowest machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs `work` on this thread; if it does not end, the tests end with its name instead of hanging.
pub fn must_end<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let (working, ended) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                // Not eprintln!, which a test captures.
                let _ = writeln!(stderr(), "{name} did not end in {LIMIT:?}");
                exit(101);
            }
        });
        // Dropped when `work` ends, by a panic as well.
        let _working = working;
        work()
    })
}
