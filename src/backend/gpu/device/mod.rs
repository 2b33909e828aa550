//! An open GPU: which one, how it is opened, what it offers, and what became of it.

mod abandoned;
mod adapter;
#[cfg(feature = "fault-injection")]
pub mod fault;
mod geometry;
mod gpu;
mod health;
mod memory;
mod options;

pub use abandoned::settle;
pub use adapter::{AdapterCaps, adapters};
pub use geometry::{Geometry, WORKGROUPS};
pub use gpu::Gpu;
pub use memory::Memory;
pub use options::{Fault, Measure, OpenOptions, Tuning};
