//! GGUF container: bytes -> metadata and tensor table, and back. Knows no model.

mod foreign;
mod open;
mod read;
mod split;
mod tensor;
mod types;
mod write;

#[cfg(feature = "convert")]
pub(crate) use foreign::recognise;
pub use read::File;
pub use split::Part;
pub(crate) use split::part_of_stem;
pub use tensor::{I2S_TRAILER_BYTES, TensorInfo, TensorSpec, TensorType};
pub use types::{Array, Metadata, Value};
pub use write::Writer;

/// Alignment of tensor data where the file does not give `general.alignment`.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The key that overrides [`DEFAULT_ALIGNMENT`].
const ALIGNMENT_KEY: &str = "general.alignment";
