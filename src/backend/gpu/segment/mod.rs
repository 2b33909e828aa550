//! A segment on the device, and the steps that run it.

mod ahead;
pub mod counters;
pub mod demand;
pub mod loaded;
mod one;
pub mod plan;
