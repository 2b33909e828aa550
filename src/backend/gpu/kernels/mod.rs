//! The kernels: their table, their parameters, and their compilation. Nothing here knows more of a device than wgpu's
//! own handle.

pub mod compile;
pub mod params;
pub mod pipelines;
