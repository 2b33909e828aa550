//! From a placement to a loaded model.

use super::{Engine, Notice, Placement, fallback::Held, observe::Loading, place::Job};
use crate::{
    backend::Backend,
    error::Result,
    plan::{BackendKind, Plan, Request, Segment, SegmentBytes},
    session::Runtime,
};

impl Engine {
    pub(super) fn load_for(&self, job: Job) -> Result<Runtime> {
        let loaded = self.loaded_or_less(job);
        if !self.options.failover {
            return loaded.map(|(runtime, _)| runtime);
        }
        let (runtime, held) = match loaded {
            Err(error) if error.is_of_device() => {
                self.observer.notice(&Notice::GpuFailed(error));
                return self.loaded_on_cpu(&job);
            }
            loaded => loaded?,
        };
        Ok(match held {
            Some(held) => runtime.with_standby(self.standby(held)),
            None => runtime,
        })
    }

    /// As planned, or with fewer layers on the GPU, or on the CPU where the GPU was not asked for by name.
    fn loaded_or_less(&self, job: Job) -> Result<(Runtime, Option<Held>)> {
        let placement = self.place_for(job)?;
        let may_fall_back = job.request == Request::Auto && placement.plan.runs_on(BackendKind::Gpu);
        match self.loaded_that_fits(job, placement) {
            // Any reason counts: a limit of this device, its memory, its driver. What is wrong with the model
            // itself comes up again on the CPU.
            Err(error) if may_fall_back => {
                self.observer.notice(&Notice::GpuNotUsed(error));
                let placement = self.place_for(Job { request: Request::Cpu, ..job })?;
                self.loaded(placement).map(|runtime| (runtime, None))
            }
            loaded => loaded,
        }
    }

    pub(super) fn loaded(&self, placement: Placement) -> Result<Runtime> {
        let model = self.model()?;
        let mut loading = Loading::new(&self.observer, load_bytes(&placement));
        let Placement { plan, gpu, .. } = placement;
        let mut backends: Vec<(BackendKind, Box<dyn Backend>)> = Vec::new();
        if plan.runs_on(BackendKind::Cpu) {
            backends.push((BackendKind::Cpu, Box::new(self.cpu_backend(model))));
        }
        if let Some(gpu) = gpu.filter(|_| plan.runs_on(BackendKind::Gpu)) {
            backends.push((BackendKind::Gpu, gpu.into_backend()));
        }
        Runtime::load(model, &plan, backends, &mut |bytes| loading.add(bytes))
    }

    /// The model on the CPU alone, when the GPU has failed. Weights come from the same memory map, so only the cache
    /// takes memory.
    pub(super) fn loaded_on_cpu(&self, job: &Job) -> Result<Runtime> {
        let model = self.model()?;
        let plan = Plan::all_cpu(model.config.layers, self.sizes_on_cpu(model, job), "the GPU failed");
        let plan = if job.needs.head { plan } else { plan.without_head() };
        Runtime::load(model, &plan, vec![(BackendKind::Cpu, Box::new(self.cpu_backend(model)))], &mut |_| {})
    }
}

/// Bytes that loading reports: the CPU reads its tables in place, a GPU is given them.
fn load_bytes(placement: &Placement) -> u64 {
    let of = |segment: &Segment| {
        let SegmentBytes { weights, tables, .. } = placement.bytes(segment);
        if segment.backend == BackendKind::Gpu { weights + tables } else { weights }
    };
    let prefill = placement.plan.prefill.iter().flatten().filter(|s| !placement.plan.segments.contains(s));
    placement.plan.segments.iter().chain(prefill).map(of).sum()
}
