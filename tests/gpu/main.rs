//! The GPU backend: devices, shaders, every kernel alone, whole models.

#[path = "../common/mod.rs"]
mod common;

mod device;
mod model;
mod ops;
mod sequences;
mod shaders_valid;
mod streams;
mod verify;
