//! From op lists to dispatches. Everything a step needs is made here, once, at load.
//!
//! [`fuse`] decides which ops become one dispatch; matrices whose outputs lie together are multiplied by one. An op that
//! fuses with nothing is a plain step, which one function dispatches.

mod attention;
pub mod delta;
pub mod fuse;
mod head;
mod layer;
pub mod lowering;
mod plain;
mod product;
mod rotate;
pub mod screen;
pub mod select;
pub mod weights;
