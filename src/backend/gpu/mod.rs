//! The forward pass as compute shaders through wgpu (Vulkan, Metal, DirectX 12).
//!
//! In: a [`Model`](crate::model::Model) whose weights still lie in the memory map, token ids or hidden states. Out: hidden
//! states or logits. Each wing uses those before it only:
//!
//! 1. `kernels`: the table of [`pipelines`], their [`params`], their compilation;
//! 2. `device`: which GPU, and an open one;
//! 3. `buffers`: weights in arenas, activations, caches, the way back;
//! 4. `record`: dispatches, recorded and submitted, and what they take;
//! 5. `lower`: op lists to dispatches;
//! 6. `startup`: the self-test and what it measures, and [`debug`];
//! 7. `segment`: the steps of a loaded segment; [`GpuBackend`] owns these.
//!
//! Nothing of a step is computed on the processor. Everything is created in [`Backend::load`](crate::backend::Backend::load);
//! a step writes its ids, records the prepared dispatches, submits once, and reads the logits back.

mod backend;
mod buffers;
mod common;
mod device;
mod kernels;
mod lower;
mod record;
mod segment;
mod startup;

pub use backend::GpuBackend;
#[cfg(feature = "fault-injection")]
pub use device::fault;
pub use device::{
    AdapterCaps, DeviceChoice, Fault, Found, Geometry, Gpu, Measure, Memory, OpenOptions, Tuning, adapters,
    look_first_by, look_up, settle,
};
pub use kernels::{params, pipelines};
pub use record::profile::KernelTime;
pub use segment::counters::Counters;
pub use startup::{debug, self_test::TestedChoices};
