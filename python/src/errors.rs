//! Errors of the engine as exceptions: their classes are Python's, in `bitnet_gpu/_errors.py`.

use bitnet_gpu::{Error, ErrorKind, Remedy};
use pyo3::prelude::*;

/// Module and function that make an exception of a kind and a message.
const MODULE: &str = "bitnet_gpu._errors";
const MAKE: &str = "of_kind";

/// The kind of a bug of the engine.
pub const BUG: &str = "Bug";

/// Its attribute with the name of the model that may be fetched.
const PULL: &str = "pull";

/// The exception for an error, with the argument that may help.
pub fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let made = of_kind(py, kind(error), &format!("{error}{}", hint(error.remedy())));
    if let Some(Remedy::Pull(name)) = error.remedy()
        && let Err(broken) = made.value(py).setattr(PULL, name)
    {
        return broken;
    }
    made
}

/// The exception of a kind.
pub fn of_kind(py: Python<'_>, kind: &str, message: &str) -> PyErr {
    let made = py.import(MODULE).and_then(|module| module.getattr(MAKE)?.call1((kind, message)));
    made.map_or_else(|broken| broken, PyErr::from_value)
}

/// The exception where a model is used that another process loaded.
pub fn forked(py: Python<'_>) -> PyErr {
    of_kind(py, "Closed", "the model was loaded before this process was forked: make another LLM here")
}

fn kind(error: &Error) -> &'static str {
    if matches!(error.remedy(), Some(Remedy::Pull(_))) {
        return "NotFound";
    }
    match error.kind() {
        ErrorKind::Io if is_not_found(error) => "NotFound",
        ErrorKind::Io => "Io",
        ErrorKind::Format => "Format",
        ErrorKind::Unsupported => "Unsupported",
        ErrorKind::Missing => "Missing",
        ErrorKind::Usage => "Usage",
        ErrorKind::ContextFull => "ContextFull",
        ErrorKind::OutOfMemory => "OutOfMemory",
        ErrorKind::NoDevice => "NoDevice",
        ErrorKind::Device | ErrorKind::DeviceMemory | ErrorKind::NotFinite => "Device",
        ErrorKind::Download => "Download",
        ErrorKind::Cancelled => "Cancelled",
        _ => BUG,
    }
}

fn is_not_found(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        Error::Remediable { error, .. } => is_not_found(error),
        Error::InFile { source, .. } => is_not_found(source),
        _ => false,
    }
}

fn hint(remedy: Option<&Remedy>) -> String {
    match remedy {
        Some(Remedy::RaiseContext) => " (raise n_ctx)".into(),
        Some(Remedy::LowerContext) => " (lower n_ctx)".into(),
        Some(Remedy::ShrinkCache) => " (lower n_ctx, or take smaller types with type_k and type_v)".into(),
        Some(Remedy::UseKernel(name)) => format!(": use kernel=\"{name}\""),
        Some(Remedy::MapFile) => " (with use_mmap=True it is read in place)".into(),
        Some(Remedy::Pull(name)) => format!("; bitnet_gpu.pull(\"{name}\") fetches it from the Hugging Face Hub"),
        Some(Remedy::ChatTemplate) => " (chat_template takes another one)".into(),
        // They are for conversions, which the program does.
        _ => String::new(),
    }
}
