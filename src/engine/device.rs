//! The GPU as planning and loading see it.

use std::sync::Arc;

use super::{Budget, EngineOptions};
use crate::{
    backend::{
        Backend,
        gpu::{DeviceChoice, GpuBackend, Measure, Memory, OpenOptions},
    },
    cache_dir::Cache,
    error::Result,
    model::Model,
    plan::{Demand, GpuFacts, Request, Sizes},
};

#[cfg(not(feature = "fault-injection"))]
use crate::backend::gpu::Tuning;
#[cfg(feature = "fault-injection")]
use crate::backend::gpu::fault;

/// An open GPU.
pub struct Device(GpuBackend);

impl Device {
    /// The best GPU. Software adapters are slower than the CPU backend: they are taken when they are asked for.
    pub fn open(options: &EngineOptions, request: Request) -> Result<Self> {
        #[cfg(feature = "fault-injection")]
        let mut tuning = fault::injected()?;
        #[cfg(not(feature = "fault-injection"))]
        let mut tuning = Tuning::default();
        tuning.memory_bytes = options.gpu_memory.or(tuning.memory_bytes);
        let options = OpenOptions {
            // A failure that is asked for may happen on a software adapter: what `auto` makes of it is the same.
            software_allowed: request != Request::Auto || tuning.fault_of(None).is_some(),
            device: options.device.as_deref().map(DeviceChoice::from),
            tuning,
            measure: Measure::Hardware,
            cache: Cache::of_user(),
        };
        GpuBackend::open(&options).map(Self)
    }

    /// This device without the models that were loaded: a backend keeps the layers it was measured with.
    pub fn anew(&self) -> Self {
        Self(GpuBackend::on(Arc::clone(self.0.gpu())))
    }

    /// Faults of the device that are worked around, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.0.gpu().notes()
    }

    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub fn facts(&self) -> GpuFacts {
        GpuFacts { name: self.0.gpu().caps().name.clone(), budget_bytes: self.0.gpu().memory_bytes() }
    }

    /// True for a program on the processor.
    pub fn is_software(&self) -> bool {
        self.0.gpu().caps().software
    }

    /// Everything of the device that its speed depends on.
    pub fn key(&self) -> String {
        let caps = self.0.gpu().caps();
        format!("{caps} {}", caps.driver)
    }

    pub fn budget(&self) -> Budget {
        budget(self.0.gpu().memory())
    }

    /// Asks the driver again.
    pub fn refresh_budget(&self) -> Budget {
        budget(self.0.gpu().refresh_memory())
    }

    /// Memory that all parts of `model` would take; an error where the GPU cannot run it, whatever its memory.
    pub fn demand(&self, model: &Model, sizes: &Sizes) -> Result<Demand> {
        self.0.demand(model, sizes)
    }

    /// True where a quantized copy of the head is read faster than the head itself.
    pub fn copy_pays(&self, model: &Model) -> bool {
        self.0.screen_pays(model)
    }

    /// True where the copy can serve a step that asks for so many candidates.
    pub fn copy_serves(&self, model: &Model, most_top: usize) -> bool {
        GpuBackend::screen_serves(model, most_top)
    }

    pub fn into_backend(self) -> Box<dyn Backend> {
        Box::new(self.0)
    }

    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        &mut self.0
    }
}

fn budget(Memory { bytes, source }: Memory) -> Budget {
    Budget { bytes, source }
}
