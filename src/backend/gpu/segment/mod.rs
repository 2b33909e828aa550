//! A segment on the device, and the steps that run it.

mod ahead;
pub mod counters;
pub mod demand;
mod flight;
mod held;
mod lists;
pub mod loaded;
mod logits;
mod part;
pub mod plan;
mod record;
mod rows;
mod speculate;
mod states;
mod steps;
