//! An open GPU: which one, how it is opened, what it offers, and what became of it.

mod abandoned;
mod adapter;
#[cfg(feature = "fault-injection")]
pub mod fault;
mod geometry;
mod gpu;
mod guard;
mod health;
mod memory;
mod options;

pub use abandoned::settle;
pub use adapter::{AdapterCaps, Found, adapters, candidates, look_up};
pub use geometry::{Geometry, WORKGROUPS};
pub use gpu::Gpu;
pub use guard::look_first_by;
pub use memory::Memory;
pub use options::{DeviceChoice, Fault, Measure, OpenOptions, Tuning};
