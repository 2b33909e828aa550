//! Sessions, samplers and drafts.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod draft;
mod hybrid;
mod many;
mod mtp;
mod sampler;
mod session;
