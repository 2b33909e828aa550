//! Ctrl-C: once asks for an end, twice ends at once.

use std::sync::{
    Once,
    atomic::{AtomicBool, Ordering},
};

/// Exit code of a program ended by Ctrl-C: 128 + SIGINT.
pub const EXIT_CODE: u8 = 130;

static RAISED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// From now on the first Ctrl-C raises the flag that is returned and the second one ends the process. Before
/// this call Ctrl-C ends the process, as is right while a model loads.
pub fn catch() -> &'static AtomicBool {
    INSTALLED.call_once(|| {
        let installed = ctrlc::set_handler(|| {
            if RAISED.swap(true, Ordering::Relaxed) {
                std::process::exit(EXIT_CODE.into());
            }
        });
        if let Err(error) = installed {
            log::warn!("Ctrl-C ends the program without a summary: {error}");
        }
    });
    &RAISED
}

/// Whether Ctrl-C was pressed since [`catch`].
pub fn raised() -> bool {
    RAISED.load(Ordering::Relaxed)
}
