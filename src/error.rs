//! One error type for the whole library.
//!
//! Every message names the thing at fault, what was expected and what was found, and fits on one line. What may be done
//! about it is a [`Remedy`], which each front end says in its own words.

use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure. `Display` gives one line fit for a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read, map or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Action that failed: "open", "map", "write", ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// An error about which something can be done.
    #[error("{error}")]
    Remediable {
        /// The error.
        error: Box<Error>,
        /// A way to mend it.
        remedy: Remedy,
    },

    /// An error inside a file: adds the file's name in front of the reason.
    #[error("{file}: {source}")]
    InFile {
        /// The path as the user gave it, or the name of an embedded file.
        file: String,
        /// The reason.
        source: Box<Error>,
    },

    /// Data that breaks its format's rules, or contradicts other data.
    #[error("{thing}: expected {expected}, found {found}")]
    Malformed {
        /// Key, tensor, field or offset at fault.
        thing: String,
        /// Value that the format asks for.
        expected: String,
        /// Value found.
        found: String,
    },

    /// Valid data that this program cannot run.
    #[error("{thing} is not supported: {reason}")]
    Unsupported {
        /// Key, tensor, type or architecture.
        thing: String,
        /// Why, and what to do instead where something can be done.
        reason: String,
    },

    /// Something the model needs is absent.
    #[error("{thing} is missing{}", hint(.needed_for))]
    Missing {
        /// Key, tensor or file.
        thing: String,
        /// Use it is needed for; may be empty.
        needed_for: String,
    },

    /// A call or a command that makes no sense.
    #[error("{0}")]
    Usage(String),

    /// An argument of a call that does not fit the thing called: an id outside the vocabulary, a sequence of another model.
    #[error("{thing}: expected {expected}, found {found}")]
    Argument {
        /// The argument.
        thing: String,
        /// Values that it may have.
        expected: String,
        /// Value found.
        found: String,
    },

    /// An option whose value makes no sense.
    #[error("{name} {reason}")]
    BadOption {
        /// llama.cpp's name of it, with hyphens between words: `temp`, `top-p`.
        name: String,
        /// The value expected, and the one found.
        reason: String,
    },

    /// The prompt or the answer does not fit the context.
    #[error("the context is full: {needed} tokens needed, {context} tokens available")]
    ContextFull {
        /// Tokens that would have to be held.
        needed: usize,
        /// Tokens that can be held.
        context: usize,
    },

    /// Something that is known beforehand to be larger than the memory there is.
    #[error("{thing}: expected {expected}, found {found}")]
    TooLarge {
        /// Use of the memory.
        thing: String,
        /// The most that it may take.
        expected: String,
        /// Bytes that it would take.
        found: String,
    },

    /// The system refused memory.
    #[error("not enough memory for {what}: {} could not be reserved", mebibytes(*.bytes))]
    OutOfMemory {
        /// Use of the memory.
        what: String,
        /// How much that is.
        bytes: u64,
    },

    /// No GPU adapter fits the request.
    #[error("no usable GPU adapter: {reason}")]
    NoAdapter {
        /// Adapter looked for, and why none was usable.
        reason: String,
    },

    /// The GPU driver or the validation layer refused an operation.
    #[error("GPU error while {action}: {reason}")]
    Gpu {
        /// Action under way.
        action: String,
        /// The driver's words.
        reason: String,
    },

    /// The GPU has less memory than is asked of it.
    #[error("GPU out of memory while {action}: {reason}")]
    GpuMemory {
        /// Action under way.
        action: String,
        /// The driver's words.
        reason: String,
    },

    /// The GPU went away: driver reset, removal, time-out.
    #[error("GPU device lost: {reason}")]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },

    /// A server or the network failed.
    #[error("cannot fetch {url}: {reason}")]
    Download {
        /// Address asked for.
        url: String,
        /// The server's answer, or what went wrong on the way.
        reason: String,
    },

    /// The numbers went bad: text made of them would be garbage.
    #[error("not a finite number in {place} on {backend}: the weights are damaged or a kernel is wrong")]
    NotFinite {
        /// The layer or stage.
        place: String,
        /// The backend that computed it.
        backend: String,
    },
    /// A step was given up in the middle, as was asked for.
    #[error("cancelled")]
    Cancelled,
}

/// The cause of an [`Error`], for callers that act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to open, read, map or write a file.
    Io,
    /// Data breaks its format's rules, or contradicts other data.
    Format,
    /// Valid data that cannot be run.
    Unsupported,
    /// Something the model needs is absent.
    Missing,
    /// A call or an option that makes no sense.
    Usage,
    /// Prompt and answer do not fit the context.
    ContextFull,
    /// The system has too little memory, or refused some.
    OutOfMemory,
    /// No GPU fits the request.
    NoDevice,
    /// The GPU refused an operation or went away.
    Device,
    /// The GPU has less memory than is asked of it.
    DeviceMemory,
    /// A server or the network failed.
    Download,
    /// The numbers went bad.
    NotFinite,
    /// The caller does not want the result any more.
    Cancelled,
}

/// A way to mend an [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// A larger context.
    RaiseContext,
    /// A smaller context.
    LowerContext,
    /// A smaller context, or smaller types of keys and values.
    ShrinkCache,
    /// Another kernel for ternary matrices, by its name.
    UseKernel(&'static str),
    /// The file mapped instead of copied.
    MapFile,
    /// This model fetched from the Hugging Face Hub.
    Pull(String),
    /// Another chat template.
    ChatTemplate,
    /// The file that is there overwritten, on demand.
    Overwrite,
    /// The symbolic link that is there replaced, on demand.
    ReplaceLink,
    /// Weights rounded to ternary, on demand.
    Ternarise,
}

/// Text from a file, made fit for a one-line message: control characters escaped, long text cut.
pub fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let mut out = String::new();
    for c in text.chars().take(MAX_CHARS) {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MAX_CHARS).is_some() {
        out += "...";
    }
    out
}

fn hint(needed_for: &str) -> String {
    if needed_for.is_empty() { String::new() } else { format!(" (needed for {needed_for})") }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

impl Error {
    /// Data at fault, with what the format asks for and what is there.
    pub fn malformed(thing: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self::Malformed { thing: thing.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// A caller's value that does not fit, with what would.
    pub fn argument(thing: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self::Argument { thing: thing.into(), expected: expected.to_string(), found: found.to_string() }
    }

    /// Valid data that cannot be run, and why.
    pub fn unsupported(thing: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { thing: thing.into(), reason: reason.into() }
    }

    /// An absent key, tensor or file; `needed_for` may be empty.
    pub fn missing(thing: impl Into<String>, needed_for: impl Into<String>) -> Self {
        Self::Missing { thing: thing.into(), needed_for: needed_for.into() }
    }

    /// A failed system call on `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// Puts the file's name in front, once: an error that already names its file stays as it is.
    #[must_use]
    pub fn in_file(self, file: impl Into<String>) -> Self {
        match self {
            named @ (Self::InFile { .. } | Self::Io { .. }) => named,
            other => Self::InFile { file: file.into(), source: Box::new(other) },
        }
    }

    /// Says what may be done about it.
    #[must_use]
    pub fn with_remedy(self, remedy: Remedy) -> Self {
        Self::Remediable { error: Box::new(self), remedy }
    }

    /// The way to mend it, where one is known.
    pub fn remedy(&self) -> Option<&Remedy> {
        match self {
            Self::Remediable { remedy, .. } => Some(remedy),
            Self::InFile { source, .. } => source.remedy(),
            Self::ContextFull { .. } => Some(&Remedy::RaiseContext),
            _ => None,
        }
    }

    /// The kind of error, for programs that tell them apart.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::Remediable { error, .. } => error.kind(),
            Self::InFile { source, .. } => source.kind(),
            Self::Malformed { .. } => ErrorKind::Format,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Missing { .. } => ErrorKind::Missing,
            Self::Usage(_) | Self::Argument { .. } | Self::BadOption { .. } => ErrorKind::Usage,
            Self::ContextFull { .. } => ErrorKind::ContextFull,
            Self::TooLarge { .. } | Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::NoAdapter { .. } => ErrorKind::NoDevice,
            Self::Gpu { .. } | Self::DeviceLost { .. } => ErrorKind::Device,
            Self::GpuMemory { .. } => ErrorKind::DeviceMemory,
            Self::Download { .. } => ErrorKind::Download,
            Self::NotFinite { .. } => ErrorKind::NotFinite,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// True for failures of a device at work, which another device may not have: lost, out of memory, wrong numbers.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::Gpu { .. } | Self::GpuMemory { .. } | Self::DeviceLost { .. } | Self::NotFinite { .. })
    }

    /// True where less on the GPU may help.
    pub fn is_of_gpu_memory(&self) -> bool {
        matches!(self, Self::GpuMemory { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_file_thing_expected_and_found() {
        let error = Error::malformed("tensor blk.0.attn_q.weight", "2560 columns", 2559).in_file("m.gguf");
        assert_eq!(error.to_string(), "m.gguf: tensor blk.0.attn_q.weight: expected 2560 columns, found 2559");
        assert_eq!(error.in_file("again.gguf").to_string().matches(".gguf").count(), 1);
    }

    #[test]
    fn text_from_files_stays_on_one_line() {
        assert_eq!(shown("it's\n\x1b[2J"), "it's\\n\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(100)), "x".repeat(80) + "...");
    }

    #[test]
    fn kind_and_remedy_are_those_of_the_innermost_error() {
        let error = Error::missing("key", "").with_remedy(Remedy::MapFile).in_file("m.gguf");
        assert_eq!((error.kind(), error.remedy()), (ErrorKind::Missing, Some(&Remedy::MapFile)));
        assert_eq!(error.to_string(), "m.gguf: key is missing");
        assert_eq!(Error::Usage("x".into()).kind(), ErrorKind::Usage);
        assert_eq!(Error::argument("token id", "below 5", 7).kind(), ErrorKind::Usage);
        assert_eq!(Error::missing("key", "").remedy(), None);
    }
}
