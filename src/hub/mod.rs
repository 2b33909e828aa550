//! Models of the Hugging Face Hub: their names, the cache that all programs of one machine share, and downloads into it.
//!
//! In: `org/name` or `org/name:file`. Out: the path of a GGUF file or of a directory that can run.

mod cache;
mod choose;
mod client;
mod download;
mod name;

pub use cache::Cache;
pub use choose::{Choice, choose};
pub use client::Hub;
pub use download::{PullEvent, PullProgress, Pulled, pull};
pub use name::ModelName;
