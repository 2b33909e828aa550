//! Loaded models: tokens through the segments of a plan, and what their states hold.

mod single;

pub use single::{Session, Standby, Takeover};
