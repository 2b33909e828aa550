//! Whether a GPU computes rightly, and which of the equal ways to compute is the fastest on it.

pub mod debug;
pub mod known_delta;
mod measure;
pub mod self_test;
mod timing;
