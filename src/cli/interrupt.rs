//! Ctrl-C: once asks for an end, twice ends at once.

use std::sync::{
    Arc, LazyLock, Once,
    atomic::{AtomicBool, Ordering},
};

/// Exit code of a program ended by Ctrl-C: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static RAISED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static WAITING: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// From now on the first Ctrl-C raises the flag that is returned and the second one ends the process. Before
/// this call Ctrl-C ends the process, as is right while a model loads.
pub fn catch() -> Arc<AtomicBool> {
    INSTALLED.call_once(|| {
        let installed = ctrlc::set_handler(|| {
            if RAISED.swap(true, Ordering::Relaxed) || WAITING.load(Ordering::Relaxed) {
                std::process::exit(EXIT_CODE.into());
            }
        });
        if let Err(error) = installed {
            log::warn!("Ctrl-C ends the program without a summary: {error}");
        }
    });
    Arc::clone(&RAISED)
}

/// Whether Ctrl-C was pressed since [`catch`] or [`clear`].
pub fn raised() -> bool {
    RAISED.load(Ordering::Relaxed)
}

/// Marks the interrupt as dealt with: the next Ctrl-C is the first again.
pub fn clear() {
    RAISED.store(false, Ordering::Relaxed);
}

/// For a terminal that gives Ctrl-C as a key.
pub fn raise() {
    RAISED.store(true, Ordering::Relaxed);
}

/// Says whether the program waits for a line: nothing is going on then that a first Ctrl-C could stop.
pub fn waiting(waits: bool) {
    WAITING.store(waits, Ordering::Relaxed);
}
