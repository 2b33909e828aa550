//! From op lists to dispatches. Everything a step needs is made here, once, at load.
//!
//! Which ops become one dispatch is decided by [`fuse`]; matrices whose outputs lie together are multiplied by one.

mod attention;
mod elementwise;
pub mod fuse;
mod head;
mod layer;
pub mod lowering;
mod product;
pub mod screen;
pub mod select;
pub mod weights;
