//! Models of the Hugging Face Hub: their names, the cache that all programs of one machine share, downloads into it, and
//! what it holds.
//!
//! In: `org/name` or `org/name:file`. Out: the path of a GGUF file or of a directory that can run.

mod cache;
mod choose;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
mod name;
#[cfg(feature = "hub")]
mod network;
#[cfg(feature = "hub")]
mod redirect;
#[cfg(feature = "hub")]
mod retry;
mod stored;
#[cfg(feature = "hub")]
mod token;

pub use cache::Cache;
pub use choose::{Choice, choose};
#[cfg(feature = "hub")]
pub use client::Hub;
#[cfg(feature = "hub")]
pub use download::{PullEvent, PullProgress, Pulled, pull};
pub use name::ModelName;
pub use stored::{Removal, Stored};
