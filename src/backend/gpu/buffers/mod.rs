//! Memory on the device: weights in arenas, activations, caches, and the way back to the processor.

pub mod activations;
pub mod arenas;
pub mod cache;
pub mod head_copy;
pub mod limits;
pub mod memory;
pub mod readback;
pub mod shape;
