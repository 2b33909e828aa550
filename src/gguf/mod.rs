//! GGUF container: bytes -> metadata and tensor table. Knows no model.

mod types;

pub use types::{Array, Metadata, Value};
