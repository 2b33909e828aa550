//! Fewer layers on the GPU, where its memory turns out to be less than what was planned with: between planning and
//! loading, at loading, or in the middle of an answer.

use std::sync::Arc;

use super::{Engine, Placement, open_gpu, sizes_on_cpu};
use crate::{
    backend::gpu::{Gpu, GpuBackend},
    cli::args::EngineArgs,
    error::{Error, Result},
    plan::{self, BackendKind, Demand, GpuFacts, Plan, Request, Sizes},
    session::Session,
};

/// What may be tried of the memory that has just run out. How much there is nobody tells: budgets are estimates of
/// drivers, and other programs take from them. Three steps make less than half.
const NEXT_PERCENT: u64 = 75;

/// What a session has on the GPU.
#[derive(Clone)]
pub struct Held {
    request: Request,
    plan: Plan,
    /// Of device memory.
    bytes: u64,
}

impl Held {
    fn of(request: Request, placement: &Placement) -> Self {
        let on_gpu = placement.plan.all_segments().filter(|segment| segment.backend == BackendKind::Gpu);
        let bytes = on_gpu.map(|segment| placement.bytes(segment).total()).sum();
        Self { request, plan: placement.plan.clone(), bytes }
    }

    /// What to try where these bytes were too many.
    fn next_budget(&self) -> u64 {
        self.bytes / 100 * NEXT_PERCENT
    }
}

impl Engine {
    /// Loads a placement, or one with fewer layers on the GPU; gives what it then has.
    ///
    /// # Errors
    /// Also where not a single layer fits.
    pub(super) fn session_that_fits(
        &self,
        args: &EngineArgs,
        request: Request,
        mut placement: Placement,
    ) -> Result<(Session, Option<Held>)> {
        if let Some(gpu) = placement.gpu.as_ref().filter(|_| placement.plan.runs_on(BackendKind::Gpu)) {
            let (planned, now) = (gpu.gpu().memory(), gpu.gpu().refresh_memory());
            let held = Held::of(request, &placement);
            if now.bytes < planned.bytes.min(held.bytes) {
                let gpu = Arc::clone(gpu.gpu());
                placement = self.placement_with_less(args, gpu, &held, now.bytes, "the budget fell")?;
                say(&placement);
            }
        }
        loop {
            let on_gpu = placement.gpu.as_ref().filter(|_| placement.plan.runs_on(BackendKind::Gpu));
            let Some(gpu) = on_gpu.map(|gpu| Arc::clone(gpu.gpu())) else {
                return self.session(args, placement).map(|session| (session, None));
            };
            let held = Held::of(request, &placement);
            match self.session(args, placement) {
                Err(error) if error.is_of_gpu_memory() => {
                    placement = self.placement_with_less(args, gpu, &held, held.next_budget(), &error.to_string())?;
                    if !placement.plan.runs_on(BackendKind::Gpu) {
                        return Err(error);
                    }
                    say(&placement);
                }
                loaded => return loaded.map(|session| (session, Some(held))),
            }
        }
    }

    /// In place of a session whose GPU ran out of memory; `None` where that was not what happened, or no layer is left.
    /// The device is opened anew, as it may have been lost with its memory.
    pub(super) fn session_with_less(
        &self,
        args: &EngineArgs,
        held: &Held,
        error: &Error,
        so_far: &str,
    ) -> Option<(Session, Held)> {
        if !error.is_of_gpu_memory() {
            return None;
        }
        let placed = open_gpu(args, held.request).and_then(|gpu| {
            let budget = held.next_budget().min(gpu.gpu().memory_bytes());
            let why = format!("after {so_far}: {error}");
            self.placement_with_less(args, Arc::clone(gpu.gpu()), held, budget, &why)
        });
        let loaded = placed.and_then(|placement| {
            if !placement.plan.runs_on(BackendKind::Gpu) {
                return Ok(None);
            }
            say(&placement);
            let (session, held) = self.session_that_fits(args, held.request, placement)?;
            Ok(held.map(|held| (session, held)))
        });
        loaded.unwrap_or_else(|error| {
            log::info!("fewer layers on the GPU: {error}");
            None
        })
    }

    /// The placement that takes no more than `budget` of the GPU: without the copy of the head, or with fewer layers.
    fn placement_with_less(
        &self,
        args: &EngineArgs,
        gpu: Arc<Gpu>,
        held: &Held,
        budget: u64,
        why: &str,
    ) -> Result<Placement> {
        let gpu = GpuBackend::on(gpu);
        let wanted = Request::GpuLayers(held.plan.gpu_layers());
        let (demand, sizes) = self.demand_on(&gpu, args, (wanted, budget), held.plan.sizes)?;
        let facts = GpuFacts { name: gpu.gpu().caps().name.clone(), budget_bytes: budget };
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
            plan.sizes = sizes_on_cpu(args, held.plan.sizes);
        }
        if held.plan.segments.iter().all(|segment| !segment.head) {
            plan = plan.without_head();
        }
        let cpu_demand = Demand::of(&self.model, &Sizes { ..plan.sizes });
        Ok(Placement {
            plan,
            gpu_facts: Some(facts),
            costs: None,
            gpu: Some(gpu),
            cpu_demand,
            gpu_demand: Some(demand),
        })
    }
}

/// One line for what has changed.
fn say(placement: &Placement) {
    log::warn!("{}", placement.plan.segments.first().map_or("", |segment| &segment.reason));
}
