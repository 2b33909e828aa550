//! Signals: Ctrl-C once asks for an end, twice ends at once. SIGTERM and SIGHUP likewise, each with the exit code that a shell
//! gives it.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use crate::cache_dir;

/// Exit code of a program ended by Ctrl-C: 128 + SIGINT.
const CTRL_C: u8 = 130;

/// Nothing has to be put in order: a signal ends the program, as is right while a model loads.
const ENDS: u8 = 0;
/// A signal raises the flag.
const ASKS: u8 = 1;
/// The server listens to signals itself.
const SERVES: u8 = 2;

static ROLE: AtomicU8 = AtomicU8::new(ENDS);
/// Exit code of the signal that came, 0 before any.
static CODE: AtomicU8 = AtomicU8::new(0);
/// Whether one came, for those who look at each step.
static RAISED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static WAITING: AtomicBool = AtomicBool::new(false);

/// Listens to signals from the start on: the first process of a container would not be ended by them otherwise.
pub fn install() {
    if let Err(error) = system::install() {
        log::warn!("signals end the program without a summary: {error}");
    }
}

/// From now on the first signal raises the flag that is returned and the second one ends the process.
pub fn catch() -> Arc<AtomicBool> {
    ROLE.store(ASKS, Ordering::Relaxed);
    Arc::clone(&RAISED)
}

/// From now on the server listens to signals.
pub fn leave() {
    ROLE.store(SERVES, Ordering::Relaxed);
}

/// Whether a signal came since [`catch`] or [`clear`].
pub fn raised() -> bool {
    CODE.load(Ordering::SeqCst) != 0
}

/// Whether a signal came that asks for the end of the program, and not of what it is doing.
pub fn is_last() -> bool {
    ![0, CTRL_C].contains(&CODE.load(Ordering::SeqCst))
}

/// Exit code of a program ended by the signal that came.
pub fn exit_code() -> u8 {
    match CODE.load(Ordering::SeqCst) {
        0 => CTRL_C,
        code => code,
    }
}

/// Marks Ctrl-C as dealt with: the next one is the first again. Other signals stay.
pub fn clear() {
    if CODE.compare_exchange(CTRL_C, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
        RAISED.store(false, Ordering::SeqCst);
        // One that came in between is not lost.
        if CODE.load(Ordering::SeqCst) != 0 {
            RAISED.store(true, Ordering::SeqCst);
        }
    }
}

/// For a terminal that gives Ctrl-C as a key.
pub fn raise() {
    CODE.store(CTRL_C, Ordering::SeqCst);
    RAISED.store(true, Ordering::SeqCst);
}

/// Says whether the program waits for a line: nothing is going on then that a first Ctrl-C could stop.
pub fn waiting(waits: bool) {
    WAITING.store(waits, Ordering::SeqCst);
}

/// Ends the process without the last words of drivers, whose threads may be at work.
pub fn end_at_once(code: u8) -> ! {
    system::exit(code)
}

/// A signal whose exit code that is.
fn arrived(code: u8) {
    let role = ROLE.load(Ordering::Relaxed);
    if role == SERVES {
        return;
    }
    let is_second = CODE.swap(code, Ordering::SeqCst) != 0;
    RAISED.store(true, Ordering::SeqCst);
    if role == ENDS || is_second || WAITING.load(Ordering::SeqCst) {
        system::restore_terminal();
        cache_dir::stop_writing();
        end_at_once(code);
    }
}

#[cfg(unix)]
mod system {
    use std::{
        io::Write,
        os::fd::AsFd,
        sync::{Mutex, PoisonError, atomic::Ordering},
        thread,
    };

    use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
        low_level,
    };

    use super::{ROLE, SERVES, WAITING, arrived, io};

    /// The terminal as it was at the start.
    static TERMINAL: Mutex<Option<Termios>> = Mutex::new(None);

    pub fn install() -> io::Result<()> {
        *TERMINAL.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(io::stdin().as_fd()).ok();
        let mut wanted = vec![SIGINT, SIGTERM];
        // `nohup` has it ignored.
        if !is_ignored(SIGHUP) {
            wanted.push(SIGHUP);
        }
        // In the thread, so that signals do what they always do where there is none.
        let listen = move || {
            let Ok(mut signals) = Signals::new(wanted) else { return };
            for signal in signals.forever() {
                if signal == SIGHUP && ROLE.load(Ordering::Relaxed) == SERVES {
                    // The server knows this one.
                    let _ = low_level::raise(SIGTERM);
                }
                arrived((128 + signal) as u8);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
    }

    #[allow(unsafe_code)]
    fn is_ignored(signal: i32) -> bool {
        use nix::libc::{SIG_IGN, sigaction};
        // SAFETY: all fields of this C structure may be zero.
        let mut found: sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: without a new action the call only writes the present one into `found`.
        let told = unsafe { sigaction(signal, std::ptr::null(), &raw mut found) };
        told == 0 && found.sa_sigaction == SIG_IGN
    }

    /// Puts the terminal back from the state in which a line is edited, pasted text marked.
    pub fn restore_terminal() {
        let found = TERMINAL.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = found.as_ref().filter(|_| WAITING.load(Ordering::SeqCst)) else { return };
        let _ = io::stdout().write_all(b"\x1b[?2004l\r\n").and_then(|()| io::stdout().flush());
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, found);
    }

    pub fn exit(code: u8) -> ! {
        low_level::exit(code.into())
    }
}

#[cfg(not(unix))]
mod system {
    use super::{CTRL_C, arrived, io};

    pub fn install() -> io::Result<()> {
        ctrlc::set_handler(|| arrived(CTRL_C)).map_err(io::Error::other)
    }

    pub fn restore_terminal() {}

    pub fn exit(code: u8) -> ! {
        std::process::exit(code.into())
    }
}
