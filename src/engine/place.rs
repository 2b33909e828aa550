//! Placement: sizes, what each device would have to hold, measured costs, and the plan made of them.

use bitnet_cpu_kernels::{isa::Isa, screen::Screen};

use super::{Engine, HeadScreen, Needs, Notice, Purpose, calibrate, device::Device};
use crate::{
    backend::cpu,
    cache_dir::Cache,
    error::{Error, Remedy, Result},
    machine,
    model::Model,
    numbers,
    plan::{
        self, BackendKind, Costs, Demand, GpuFacts, Plan, Prefer, Question, Request, Segment, SegmentBytes, Sizes,
        Workload,
    },
};

/// The context where none is asked for and the model's own is larger: its cache is small beside the weights.
const DEFAULT_CONTEXT_TOKENS: usize = 4096;

/// The area of the user's cache that holds measured costs.
const CALIBRATION: &str = "calibration";

/// Rows from which a head is worth a copy.
const SCREENED_HEAD_ROWS: usize = 16384;

/// Free memory of the machine; `None` where the system does not say.
#[cfg(not(feature = "fault-injection"))]
fn free_memory() -> Option<u64> {
    machine::free_memory_bytes()
}

/// As above, or what the environment says for one look after the other: `max,0,max`.
#[cfg(feature = "fault-injection")]
fn free_memory() -> Option<u64> {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let said = std::env::var("BITNET_TEST_FREE_MEMORY").ok();
    let said = said.as_ref().and_then(|said| said.split(',').nth(LOOKS.fetch_add(1, Ordering::Relaxed)));
    said.map_or_else(machine::free_memory_bytes, |bytes| Some(bytes.parse().unwrap_or(u64::MAX)))
}

/// Request, needs and sizes to be placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub request: Request,
    pub needs: Needs,
    /// As wished for: whether there is a copy of the head depends on who has the head.
    pub sizes: Sizes,
}

/// GPU memory that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// How much.
    pub bytes: u64,
    /// How that is known.
    pub source: &'static str,
}

/// A plan, what it was made from, and the GPU it needs.
pub struct Placement {
    /// Plan of which layers run where.
    pub plan: Plan,
    /// The GPU that was looked at.
    pub gpu_facts: Option<GpuFacts>,
    /// Where [`Request::Auto`] had to compare.
    pub costs: Option<Costs>,
    pub(super) gpu: Option<Device>,
    pub(super) cpu_demand: Demand,
    pub(super) gpu_demand: Option<Demand>,
}

impl Placement {
    /// The memory that a segment takes of its device.
    pub fn bytes(&self, segment: &Segment) -> SegmentBytes {
        let on_gpu = self.gpu_demand.as_ref().filter(|_| segment.backend == BackendKind::Gpu);
        let demand = on_gpu.unwrap_or(&self.cpu_demand);
        let bytes = demand.segment(segment.layers.clone(), segment.embed, segment.head);
        if self.plan.sizes.mtp { bytes } else { SegmentBytes { mtp: 0, ..bytes } }
    }

    /// The memory of the GPU that may be used, where there is one.
    pub fn budget(&self) -> Option<Budget> {
        self.gpu.as_ref().map(Device::budget)
    }

    /// Name of the device that will compute, as far as it is known before loading.
    pub fn device(&self, backend: BackendKind) -> &str {
        match (backend, &self.gpu) {
            (BackendKind::Gpu, Some(gpu)) => gpu.name(),
            _ => "CPU",
        }
    }
}

impl Engine {
    /// Tokens of prompt and answer together.
    pub fn context_tokens(&self) -> Result<usize> {
        let trained = self.model()?.config.context;
        Ok(match self.options.context_tokens {
            None => trained.min(DEFAULT_CONTEXT_TOKENS),
            Some(0) => trained,
            Some(tokens) => tokens,
        })
    }

    /// The sizes of caches and batches, checked against the model and this machine.
    pub fn sizes(&self, purpose: &Purpose<'_>) -> Result<Sizes> {
        let context_tokens = self.context_tokens()?;
        self.sizes_for(purpose.needs(context_tokens), context_tokens)
    }

    fn sizes_for(&self, needs: Needs, context_tokens: usize) -> Result<Sizes> {
        let (model, options) = (self.model()?, &self.options);
        options.validate()?;
        let sizes = Sizes {
            sequences: options.sequences.max(1),
            context_tokens,
            batch_tokens: options.batch_tokens.clamp(1, context_tokens.max(1)),
            k_type: options.k_type,
            v_type: options.v_type,
            head_screen: needs.most_top > 0 && self.copies_head(model),
            mtp: options.mtp && needs.head && model.weights.mtp.is_some(),
        };
        let mtp_bytes = if sizes.mtp { sizes.mtp_state_bytes(&model.config) } else { 0 };
        let cache_bytes = sizes.model_state_bytes(&model.config).saturating_add(mtp_bytes);
        // The system may grant it all the same, and end the process without a word once it is used.
        match machine::memory_bytes() {
            Some(memory) if cache_bytes > memory => Err(Error::TooLarge {
                thing: match sizes.sequences {
                    1 => format!("cache for {context_tokens} tokens"),
                    many => format!("cache for {many} sequences of {context_tokens} tokens"),
                },
                expected: format!("at most the memory that this program may have, {}", numbers::bytes(memory)),
                found: numbers::bytes(cache_bytes),
            }
            .with_remedy(Remedy::LowerContext)),
            _ => Ok(sizes),
        }
    }

    /// Small heads are read in no time. What pays on the processor may not on a GPU: see [`Self::demand_on`].
    fn copies_head(&self, model: &Model) -> bool {
        let head = model.weights.head();
        match self.options.head {
            HeadScreen::Off => false,
            HeadScreen::On => true,
            HeadScreen::Auto if self.options.prefer == Prefer::Memory => false,
            HeadScreen::Auto => head.rows >= SCREENED_HEAD_ROWS && Screen::pays(head.rows, head.cols, head.ty),
        }
    }

    /// The job that `purpose` asks for.
    pub(super) fn job(&self, purpose: &Purpose<'_>) -> Result<Job> {
        let (tokens, trained) = (self.context_tokens()?, self.model()?.config.context);
        match self.options.context_tokens {
            None if tokens < trained => self.observer.notice(&Notice::ContextLimited { tokens, trained }),
            Some(_) if tokens > trained => self.observer.notice(&Notice::BeyondTraining { trained }),
            _ => {}
        }
        let needs = purpose.needs(tokens);
        Ok(Job { request: self.options.request, needs, sizes: self.sizes_for(needs, tokens)? })
    }

    /// Decides what runs where. [`Request::Auto`] measures a few layers where there is a GPU.
    #[doc(hidden)]
    pub fn place(&self, purpose: &Purpose<'_>) -> Result<Placement> {
        self.place_for(self.job(purpose)?)
    }

    pub(super) fn place_for(&self, job: Job) -> Result<Placement> {
        let (model, request) = (self.model()?, job.request);
        let cpu_sizes = self.sizes_on_cpu(model, &job);
        let cpu_demand = self.cpu_demand(model, &cpu_sizes);
        if matches!(request, Request::Cpu | Request::GpuLayers(0)) {
            let plan = self.schedule(&job, (&cpu_demand, cpu_sizes), Err("not looked for"), None)?;
            return Ok(Placement { plan, gpu_facts: None, costs: None, gpu: None, cpu_demand, gpu_demand: None });
        }
        let opened = self.open_gpu(request).and_then(|gpu| {
            let (demand, gpu_sizes) = self.demand_on(&gpu, &job, (request, gpu.budget().bytes))?;
            let measured = request == Request::Auto && self.options.prefer != Prefer::Memory;
            let costs = if measured { Some(self.costs(&gpu, &gpu_sizes)?) } else { None };
            Ok((gpu, (demand, gpu_sizes), costs))
        });
        let (gpu, gpu_demand, costs, reason) = match opened {
            Ok((gpu, demand, costs)) => (Some(gpu), Some(demand), costs, String::new()),
            Err(Error::NoAdapter { reason }) => (None, None, None, reason),
            // A driver that fails at the first touch is as good as none.
            Err(error) if request == Request::Auto => (None, None, None, error.to_string()),
            Err(error) => return Err(error),
        };
        let facts = gpu.as_ref().map(Device::facts);
        let demand = gpu_demand.as_ref().map_or((&cpu_demand, cpu_sizes), |(demand, sizes)| (demand, *sizes));
        let known = facts.as_ref().ok_or(reason.as_str());
        let plan = self.schedule(&job, demand, known, costs.as_ref())?;
        if request != Request::Auto && !plan.runs_on(BackendKind::Gpu) {
            let reason = plan.segments.first().map(|segment| segment.reason.clone()).unwrap_or_default();
            self.observer.notice(&Notice::NoLayerOnGpu { reason });
        }
        let gpu_demand = gpu_demand.map(|(demand, _)| demand);
        Ok(Placement { plan, gpu_facts: facts, costs, gpu, cpu_demand, gpu_demand })
    }

    /// Whether the free memory holds what a plan of this model takes: that of the machine all of its part of the plan,
    /// what it reads in place from the file as well; that of a GPU all layers that are asked for.
    pub fn fits(&self, purpose: &Purpose<'_>) -> Result<bool> {
        let placement = self.place(purpose)?;
        let Plan { segments, prefill, .. } = &placement.plan;
        let others = prefill.iter().flatten().filter(|segment| !segments.contains(segment));
        let on_cpu = segments.iter().chain(others).filter(|segment| segment.backend == BackendKind::Cpu);
        let cpu_bytes: u64 = on_cpu.map(|segment| placement.bytes(segment).total()).sum();
        let gpu_holds = match (placement.budget(), &placement.gpu_demand) {
            (Some(budget), Some(demand)) => {
                let layers = self.model()?.config.layers;
                let wanted = if let Request::GpuLayers(n) = self.options.request { n.min(layers) } else { layers };
                demand.most_layers(wanted, budget.bytes) == wanted
            }
            _ => true,
        };
        Ok(gpu_holds && free_memory().is_none_or(|free| cpu_bytes <= free))
    }

    pub(super) fn cpu_demand(&self, model: &Model, sizes: &Sizes) -> Demand {
        cpu::demand(Isa::detect(), &self.kernels_of(model), model, sizes)
    }

    pub(super) fn open_gpu(&self, request: Request) -> Result<Device> {
        let gpu = Device::open(&self.options, request)?;
        for reason in gpu.notes() {
            self.observer.notice(&Notice::GpuFault { reason });
        }
        if gpu.is_software() {
            self.observer.notice(&Notice::SoftwareAdapter { name: gpu.facts().name });
        }
        Ok(gpu)
    }

    /// The model's demand on the GPU, and the sizes that takes: without a quantized head where that is of no use or the
    /// GPU reads the head itself as fast, or a layer would have to make room for it.
    pub(super) fn demand_on(
        &self,
        gpu: &Device,
        job: &Job,
        (request, budget): (Request, u64),
    ) -> Result<(Demand, Sizes)> {
        let (model, sizes) = (self.model()?, job.sizes);
        let without = Sizes { head_screen: false, ..sizes };
        if !sizes.head_screen || !gpu.copy_serves(model, job.needs.most_top) {
            return Ok((gpu.demand(model, &without)?, without));
        }
        let demand = gpu.demand(model, &sizes)?;
        if self.options.head == HeadScreen::On {
            return Ok((demand, sizes));
        }
        let less = gpu.demand(model, &without)?;
        if !gpu.copy_pays(model) {
            return Ok((less, without));
        }
        let layers = model.config.layers;
        let wanted = if let Request::GpuLayers(n) = request { n.min(layers) } else { layers };
        let held = |demand: &Demand| demand.most_layers(wanted, budget);
        Ok(if held(&demand) < held(&less) { (less, without) } else { (demand, sizes) })
    }

    /// A plan by the demand on the GPU, where there is one, and the sizes that is for.
    fn schedule(
        &self,
        job: &Job,
        (demand, sizes): (&Demand, Sizes),
        gpu: Result<&GpuFacts, &str>,
        costs: Option<&Costs>,
    ) -> Result<Plan> {
        let mut plan = plan::schedule(&Question {
            request: job.request,
            prefer: self.options.prefer,
            demand,
            sizes,
            gpu,
            costs,
            workload: Workload::default(),
        })?;
        if !plan.all_segments().any(|segment| segment.head && segment.backend == BackendKind::Gpu) {
            plan.sizes = self.sizes_on_cpu(self.model()?, job);
        }
        plan.sizes.mtp &= plan.drafts_on_cpu();
        Ok(if job.needs.head { plan } else { plan.without_head() })
    }

    /// Sizes for a plan with the head on the CPU.
    pub(super) fn sizes_on_cpu(&self, model: &Model, job: &Job) -> Sizes {
        let serves = job.needs.most_top <= Screen::most_top(model.weights.head().rows);
        let worth = self.options.head == HeadScreen::On || Screen::is_fast();
        Sizes { head_screen: job.sizes.head_screen && serves && worth, ..job.sizes }
    }

    /// Measured on backends of its own, as a backend keeps the layers it was measured with; once for a machine, driver
    /// and shape of model, or again where something disturbed it.
    fn costs(&self, gpu: &Device, sizes: &Sizes) -> Result<Costs> {
        let model = self.model()?;
        let cache = Cache::of_user();
        let key = self.costs_key(model, gpu, sizes);
        if let Some(costs) = cache.get(CALIBRATION, &key) {
            return Ok(costs);
        }
        let (mut cpu, mut gpu) = (self.cpu_backend(model), gpu.anew());
        let of_cpu = calibrate::cost(&mut cpu, model, sizes)?;
        let of_gpu = calibrate::cost(gpu.backend_mut(), model, sizes)?;
        let move_ms = calibrate::move_ms(gpu.backend_mut(), &mut cpu, model, sizes)?;
        let costs = Costs {
            cpu: of_cpu.value,
            gpu: of_gpu.value,
            batch_tokens: calibrate::BATCH_TOKENS,
            move_ms: move_ms.value,
        };
        if of_cpu.agreed && of_gpu.agreed && move_ms.agreed {
            cache.put(CALIBRATION, &key, &costs);
        } else {
            self.observer.notice(&Notice::CostsDisturbed);
        }
        Ok(costs)
    }

    /// Everything that the costs depend on.
    fn costs_key(&self, model: &Model, gpu: &Device, sizes: &Sizes) -> String {
        let (config, weights) = (&model.config, &model.weights);
        format!(
            "{} {} {} | {} x {:?} {} | {} layers of {} bytes, {} x {}, heads {} {} {}, head {} bytes, screened {}, \
             cache {:?} {:?}",
            env!("CARGO_PKG_VERSION"),
            machine::processor().unwrap_or_default(),
            Isa::detect(),
            self.options.thread_count(),
            self.options.kernel,
            gpu.key(),
            config.layers,
            weights.blocks.first().map_or(0, |block| block.ternary_bytes()),
            config.dim,
            config.ffn_dim,
            config.heads,
            config.kv_heads,
            config.head_dim,
            weights.head().data.len(),
            sizes.head_screen,
            sizes.k_type,
            sizes.v_type
        )
    }
}
