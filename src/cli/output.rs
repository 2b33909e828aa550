//! Standard output for results, standard error for everything else. Neither may panic: both can be closed,
//! or full, at any time.

use std::{
    fmt::Display,
    fs,
    io::{self, IsTerminal, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::error::{Error, Result};

const STDOUT: &str = "standard output";

/// Whether notes are left out (`-q`).
static QUIET: AtomicBool = AtomicBool::new(false);

/// Leaves out notes and progress from here on.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes `text` and flushes, so that a reader sees each piece at once.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdout_error)
}

/// Writes one JSON object and a line break.
pub fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(stdout_error)
}

/// Before a message in the middle of an answer: where both go to a terminal, it begins on a line of its own.
pub fn break_line() {
    if io::stdout().is_terminal() && io::stderr().is_terminal() {
        note("");
    }
}

/// Writes a line to standard error, unless notes are left out; a failure to do so is nobody's concern.
pub fn note(line: impl Display) {
    if !is_quiet() {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

/// Writes an error to standard error.
pub fn error(message: impl Display) {
    let _ = writeln!(io::stderr(), "error: {message}");
}

/// A failure to write to standard output.
pub fn stdout_error(error: io::Error) -> Error {
    Error::io("write", STDOUT, error)
}

/// Refuses a file that exists, before anything is measured for it.
pub fn check_new(flag: &str, path: Option<&Path>) -> Result<()> {
    match path {
        Some(path) if path.exists() => {
            Err(Error::malformed(format!("{flag} {}", path.display()), "the name of a new file", "one that exists"))
        }
        _ => Ok(()),
    }
}

/// Writes a new file.
pub fn write_new(path: &Path, text: &str) -> Result<()> {
    let write = || fs::File::create_new(path)?.write_all(text.as_bytes());
    write().map_err(|error| Error::io("write", path, error))
}

/// True for the error of a reader that has seen enough (`| head -1`): a quiet end.
pub fn is_closed_pipe(error: &Error) -> bool {
    matches!(error, Error::Io { path, source, .. }
        if path.as_os_str() == STDOUT && source.kind() == io::ErrorKind::BrokenPipe)
}
