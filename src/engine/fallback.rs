//! Fewer layers on the GPU, where its memory turns out to be less than what was planned with: between planning and
//! loading, at loading, or in the middle of an answer. Where none is left, or the GPU failed in another way, the CPU.

use super::{Engine, Notice, Placement, device::Device, place::Job};
use crate::{
    error::{Error, Result},
    numbers,
    plan::{self, BackendKind, GpuFacts, Plan, Request},
    session::{Runtime, Standby},
};

/// Share to try of the memory that has just run out. Nobody tells how much there is: budgets are estimates of drivers,
/// and other programs take from them. Three steps make less than half.
const NEXT_PERCENT: u64 = 75;

/// A loaded model's part on the GPU.
#[derive(Clone)]
pub(super) struct Held {
    job: Job,
    plan: Plan,
    /// Device memory of its segments.
    bytes: u64,
}

impl Held {
    fn of(job: Job, placement: &Placement) -> Self {
        let on_gpu = placement.plan.all_segments().filter(|segment| segment.backend == BackendKind::Gpu);
        let bytes = on_gpu.map(|segment| placement.bytes(segment).total()).sum();
        Self { job, plan: placement.plan.clone(), bytes }
    }

    /// Budget to try where these bytes were too many.
    fn next_budget(&self) -> u64 {
        self.bytes / 100 * NEXT_PERCENT
    }
}

impl Engine {
    /// Failover for the GPU: fewer layers on it where its memory ran out, else all on the CPU. It is loaded when it is
    /// needed.
    pub(super) fn standby(&self, held: Held) -> Standby {
        let engine = self.clone();
        Box::new(move |error, tokens| {
            if let Some((runtime, held)) = engine.loaded_with_less(&held, error, tokens) {
                return Ok(runtime.with_standby(engine.standby(held)));
            }
            engine.observer.notice(&Notice::TookOver { tokens, reason: error.to_string() });
            engine.loaded_on_cpu(&held.job)
        })
    }

    /// Loads a placement, or one with fewer layers on the GPU; gives what it then has.
    ///
    /// # Errors
    /// Also where not a single layer fits.
    pub(super) fn loaded_that_fits(&self, job: Job, mut placement: Placement) -> Result<(Runtime, Option<Held>)> {
        if let Some(gpu) = placement.gpu.as_ref().filter(|_| placement.plan.runs_on(BackendKind::Gpu)) {
            let (planned, now) = (gpu.budget(), gpu.refresh_budget());
            let held = Held::of(job, &placement);
            if now.bytes < planned.bytes.min(held.bytes) {
                let gpu = gpu.anew();
                placement = self.placement_with_less(gpu, &held, now.bytes, "the budget fell")?;
                self.say(&placement, None);
            }
        }
        loop {
            let on_gpu = placement.gpu.as_ref().filter(|_| placement.plan.runs_on(BackendKind::Gpu));
            let Some(gpu) = on_gpu.map(Device::anew) else {
                return self.loaded(placement).map(|runtime| (runtime, None));
            };
            let held = Held::of(job, &placement);
            match self.loaded(placement) {
                Err(error) if error.is_of_gpu_memory() => {
                    placement = self.placement_with_less(gpu, &held, held.next_budget(), &error.to_string())?;
                    if !placement.plan.runs_on(BackendKind::Gpu) {
                        return Err(error);
                    }
                    self.say(&placement, None);
                }
                loaded => return loaded.map(|runtime| (runtime, Some(held))),
            }
        }
    }

    /// In place of a model whose GPU ran out of memory; `None` where that was not what happened, or no layer is left.
    /// The device is opened anew, as it may have been lost with its memory.
    fn loaded_with_less(&self, held: &Held, error: &Error, tokens: usize) -> Option<(Runtime, Held)> {
        if !error.is_of_gpu_memory() {
            return None;
        }
        let placed = self.open_gpu(held.job.request).and_then(|gpu| {
            let budget = held.next_budget().min(gpu.budget().bytes);
            let why = format!("after {}: {error}", numbers::count(tokens, "token"));
            self.placement_with_less(gpu, held, budget, &why)
        });
        let loaded = placed.and_then(|placement| {
            if !placement.plan.runs_on(BackendKind::Gpu) {
                return Ok(None);
            }
            self.say(&placement, Some(tokens));
            let (runtime, held) = self.loaded_that_fits(held.job, placement)?;
            Ok(held.map(|held| (runtime, held)))
        });
        loaded.unwrap_or_else(|error| {
            log::info!("fewer layers on the GPU: {error}");
            None
        })
    }

    /// The placement that takes no more than `budget` of the GPU: without the copy of the head, or with fewer layers.
    fn placement_with_less(&self, gpu: Device, held: &Held, budget: u64, why: &str) -> Result<Placement> {
        let model = self.model()?;
        let wanted = Request::GpuLayers(held.plan.gpu_layers());
        let job = Job { sizes: held.plan.sizes, ..held.job };
        let (demand, sizes) = self.demand_on(&gpu, &job, (wanted, budget))?;
        let facts = GpuFacts { budget_bytes: budget, ..gpu.facts() };
        let mut plan = match plan::shrink(&held.plan, &demand, &facts, why) {
            Some(plan) => Plan { sizes, ..plan },
            // Without the copy all layers fit.
            None => {
                let mut plan = Plan { sizes, ..held.plan.clone() };
                let all = plan.prefill.iter_mut().flatten().chain(&mut plan.segments);
                all.for_each(|segment| segment.reason = format!("{why}: no copy of the head"));
                plan
            }
        };
        if !plan.runs_on(BackendKind::Gpu) {
            plan.sizes = self.sizes_on_cpu(model, &job);
        }
        if !job.needs.head {
            plan = plan.without_head();
        }
        let cpu_demand = self.cpu_demand(model, &plan.sizes);
        Ok(Placement {
            plan,
            gpu_facts: Some(facts),
            costs: None,
            gpu: Some(gpu),
            cpu_demand,
            gpu_demand: Some(demand),
        })
    }

    /// One notice for what has changed.
    fn say(&self, placement: &Placement, tokens: Option<usize>) {
        let reason = placement.plan.segments.first().map(|segment| segment.reason.clone()).unwrap_or_default();
        self.observer.notice(&Notice::FewerLayers { tokens, reason });
    }
}
