//! The forward pass as compute shaders through wgpu (Vulkan, Metal, DirectX 12).

pub mod params;
pub mod pipelines;
