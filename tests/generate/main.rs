//! Sessions, samplers and drafts.

#[path = "../common/mod.rs"]
mod common;

mod draft;
mod sampler;
mod session;
