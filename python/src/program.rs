//! The program `bitnet-gpu`, as the wheel has it: `python -m bitnet_gpu`.

use std::{ffi::OsString, io, path::PathBuf, process::Command, sync::OnceLock};

use bitnet_gpu::{backend::gpu, cli};
use pyo3::prelude::*;

static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();

/// Runs the program on `args`, of which the first is its name, and returns its exit code.
#[pyfunction]
pub fn run_program(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| cli::run(args, look_up))
}

/// Waits for GPU drivers that are still at work, before the interpreter ends.
#[pyfunction]
pub fn settle(py: Python<'_>) {
    py.detach(gpu::settle);
}

/// From now on drivers of GPUs are asked for their devices in another process first: some crash.
pub fn look_first(py: Python<'_>) -> PyResult<()> {
    let interpreter: Option<PathBuf> = py.import("sys")?.getattr("executable")?.extract()?;
    if let Some(interpreter) = interpreter.filter(|path| !path.as_os_str().is_empty()) {
        let _ = INTERPRETER.set(interpreter);
        gpu::look_first_by(look_up);
    }
    Ok(())
}

fn look_up() -> io::Result<Command> {
    let interpreter = INTERPRETER.get().ok_or_else(|| io::Error::other("no interpreter is known"))?;
    let mut command = Command::new(interpreter);
    command.args(["-m", "bitnet_gpu", cli::LOOK_UP_ADAPTERS]);
    Ok(command)
}
