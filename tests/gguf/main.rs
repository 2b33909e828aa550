//! GGUF files: read, written, split, described and refused.

#[path = "../common/mod.rs"]
mod common;

mod hostile;
mod inspect;
mod mutations;
mod roundtrip;
mod split;
