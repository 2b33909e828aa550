//! From flags to a loaded session: the one place where commands plan and create backends.

mod less;

use std::sync::Arc;

use bitnet_cpu_kernels::{isa::Isa, screen::Screen};
use serde_json::{Value as Json, json};

use self::less::Held;
use super::{
    args::{EngineArgs, HeadScreen, KernelChoice},
    format, machine, output,
    progress::progress_bar,
    source::Source,
    tuned,
};
use crate::{
    backend::{
        Backend, calibrate,
        cpu::{CpuBackend, Kernel, Kernels, tune::Choice},
        gpu::{GpuBackend, Measure, Memory, OpenOptions, fault},
    },
    cache_dir::Cache,
    error::{Error, Result},
    model::Model,
    plan::{
        self, BackendKind, Costs, Demand, GpuFacts, Plan, Prefer, Question, Request, Segment, SegmentBytes, Sizes,
        Workload,
    },
    session::{Session, Standby},
};

/// Ternary weights that may stay in a processor's caches from one token to the next: fewer bytes gain nothing there.
const CACHED_BYTES: usize = 64 << 20;

/// The context where `-c` is absent and the model's own is larger: its cache is small beside the weights.
const DEFAULT_CONTEXT_TOKENS: usize = 4096;

/// The area of the user's cache that holds measured costs.
const CALIBRATION: &str = "calibration";

/// Rows from which a head is worth a copy.
const SCREENED_HEAD_ROWS: usize = 16384;

/// A model that can be planned and loaded.
pub struct Engine {
    pub model: Arc<Model>,
}

/// A plan, what it was made from, and the GPU it needs.
pub struct Placement {
    pub plan: Plan,
    pub gpu_facts: Option<GpuFacts>,
    /// Where `auto` had to compare.
    pub costs: Option<Costs>,
    gpu: Option<GpuBackend>,
    cpu_demand: Demand,
    gpu_demand: Option<Demand>,
}

impl Placement {
    /// The memory that a segment takes of its device.
    pub fn bytes(&self, segment: &Segment) -> SegmentBytes {
        let on_gpu = self.gpu_demand.as_ref().filter(|_| segment.backend == BackendKind::Gpu);
        on_gpu.unwrap_or(&self.cpu_demand).segment(segment.layers.clone(), segment.embed, segment.head)
    }

    /// The memory of the GPU that may be used, where there is one.
    pub fn budget(&self) -> Option<Memory> {
        self.gpu.as_ref().map(|gpu| gpu.gpu().memory())
    }

    /// What will compute, as far as it is known before loading.
    pub fn device(&self, backend: BackendKind) -> &str {
        match (backend, &self.gpu) {
            (BackendKind::Gpu, Some(gpu)) => gpu.name(),
            _ => "CPU",
        }
    }
}

impl Engine {
    pub fn new(source: &Source) -> Result<Self> {
        Ok(Self { model: source.model()? })
    }

    /// The kernels of the CPU for what `--kernel` says.
    pub fn kernels(&self, choice: KernelChoice, threads: usize) -> Kernels {
        if let Some(kernel) = choice.forced() {
            return Kernels::All(kernel);
        }
        // Repacked, a file whose rows interleave answers prompts faster; read as it is, it may be larger than memory.
        let plain: usize = self.model.weights.blocks.iter().map(|block| block.plain_bytes()).sum();
        if machine::memory_bytes().is_some_and(|memory| plain as u64 > memory / 2) {
            return Kernels::AsLoaded;
        }
        // Without `tune`, what was the fastest where it was measured (2B-4T on Zen 5: base3; without its instructions
        // I2_S was within a tenth).
        let tuned = tuned::load(&self.model, threads).map(|choice| Kernels::ByShape(choice.kernels));
        tuned.unwrap_or_else(|| {
            let fits = machine::memory_bytes().is_some_and(|memory| plain as u64 <= memory / 4);
            if plain > CACHED_BYTES && fits && Kernel::Base3.is_native(Isa::detect()) {
                Kernels::Preferred(Kernel::Base3)
            } else {
                Kernels::All(Kernel::I2S)
            }
        })
    }

    fn cpu_backend(&self, args: &EngineArgs) -> CpuBackend {
        let threads = args.threads();
        let backend = CpuBackend::with_kernels(Isa::detect(), threads, self.kernels(args.kernel, threads));
        let Some(Choice { mut split, .. }) = tuned::load(&self.model, threads) else { return backend };
        if args.threads.is_asked() {
            (split.decode_threads, split.prompt_threads) = (threads, threads);
        }
        backend.split_as(split)
    }

    /// Sizes from flags, checked against the model and this machine.
    pub fn sizes(&self, args: &EngineArgs) -> Result<Sizes> {
        let config = &self.model.config;
        let context_tokens = match args.ctx_size {
            None if config.context > DEFAULT_CONTEXT_TOKENS => {
                log::info!("context of {DEFAULT_CONTEXT_TOKENS} tokens; the model allows {} (-c 0)", config.context);
                DEFAULT_CONTEXT_TOKENS
            }
            None | Some(0) => config.context,
            Some(wanted) => {
                if wanted as usize > config.context {
                    log::warn!("the model was trained for {} tokens: text beyond may be poor", config.context);
                }
                wanted as usize
            }
        };
        let sizes = Sizes {
            sequences: 1,
            context_tokens,
            batch_tokens: (args.batch_size as usize).min(context_tokens),
            k_type: args.cache_type_k.into(),
            v_type: args.cache_type_v.into(),
            head_screen: self.screens_head(args.head_screen),
        };
        let cache_bytes = sizes.model_state_bytes(config);
        // The system may grant it all the same, and end the process without a word once it is used.
        match machine::memory_bytes() {
            Some(memory) if cache_bytes > memory => Err(Error::malformed(
                format!("cache for {context_tokens} tokens"),
                format!("at most the memory of this machine, {}", format::bytes(memory)),
                format!("{} (lower it with -c)", format::bytes(cache_bytes)),
            )),
            _ => Ok(sizes),
        }
    }

    /// Small heads are read in no time. What pays on the processor may not on a GPU: see [`Self::demand_on`].
    fn screens_head(&self, choice: HeadScreen) -> bool {
        let head = self.model.weights.head();
        match choice {
            HeadScreen::Off => false,
            HeadScreen::On => true,
            HeadScreen::Auto => head.rows >= SCREENED_HEAD_ROWS && Screen::pays(head.rows, head.cols, head.ty),
        }
    }

    /// Decides what runs where. [`Request::Auto`] measures a few layers where there is a GPU.
    pub fn place(&self, args: &EngineArgs, request: Request, sizes: Sizes) -> Result<Placement> {
        let cpu_demand = Demand::of(&self.model, &sizes);
        if matches!(request, Request::Cpu | Request::GpuLayers(0)) {
            let plan = self.plan(args, (request, sizes), (&cpu_demand, sizes), Err("not looked for"), None)?;
            return Ok(Placement { plan, gpu_facts: None, costs: None, gpu: None, cpu_demand, gpu_demand: None });
        }
        let opened = open_gpu(args, request).and_then(|gpu| {
            let (demand, gpu_sizes) = self.demand_on(&gpu, args, (request, gpu.gpu().memory_bytes()), sizes)?;
            let measured = request == Request::Auto && Prefer::from(args.prefer) != Prefer::Memory;
            let costs = if measured { Some(self.costs(args, &gpu, &gpu_sizes)?) } else { None };
            Ok((gpu, (demand, gpu_sizes), costs))
        });
        let (gpu, gpu_demand, costs, reason) = match opened {
            Ok((gpu, demand, costs)) => (Some(gpu), Some(demand), costs, String::new()),
            Err(Error::NoAdapter { reason }) => (None, None, None, reason),
            // A driver that fails at the first touch is as good as none.
            Err(error) if request == Request::Auto => (None, None, None, error.to_string()),
            Err(error) => return Err(error),
        };
        let facts = gpu
            .as_ref()
            .map(|gpu| GpuFacts { name: gpu.gpu().caps().name.clone(), budget_bytes: gpu.gpu().memory_bytes() });
        let demand = gpu_demand.as_ref().map_or((&cpu_demand, sizes), |(demand, sizes)| (demand, *sizes));
        let known = facts.as_ref().ok_or(reason.as_str());
        let plan = self.plan(args, (request, sizes), demand, known, costs.as_ref())?;
        if request != Request::Auto && !plan.runs_on(BackendKind::Gpu) {
            let reason = plan.segments.first().map_or("", |segment| segment.reason.as_str());
            log::warn!("no layer goes to the GPU: {reason}");
        }
        let gpu_demand = gpu_demand.map(|(demand, _)| demand);
        Ok(Placement { plan, gpu_facts: facts, costs, gpu, cpu_demand, gpu_demand })
    }

    /// What the model needs on the GPU, and the sizes that takes: without a copy of the head where the GPU reads the
    /// head itself as fast, or a layer would have to make room for the copy.
    fn demand_on(
        &self,
        gpu: &GpuBackend,
        args: &EngineArgs,
        (request, budget): (Request, u64),
        sizes: Sizes,
    ) -> Result<(Demand, Sizes)> {
        let demand = gpu.demand(&self.model, &sizes)?;
        if !sizes.head_screen || args.head_screen == HeadScreen::On {
            return Ok((demand, sizes));
        }
        let without = Sizes { head_screen: false, ..sizes };
        let less = gpu.demand(&self.model, &without)?;
        if !gpu.screen_pays(&self.model) {
            return Ok((less, without));
        }
        let layers = self.model.config.layers;
        let wanted = if let Request::GpuLayers(n) = request { n.min(layers) } else { layers };
        let held = |demand: &Demand| demand.most_layers(wanted, budget);
        Ok(if held(&demand) < held(&less) { (less, without) } else { (demand, sizes) })
    }

    /// A plan for the sizes wished for, by the demand on the GPU, where there is one, and the sizes that is for.
    fn plan(
        &self,
        args: &EngineArgs,
        (request, wished): (Request, Sizes),
        (demand, sizes): (&Demand, Sizes),
        gpu: Result<&GpuFacts, &str>,
        costs: Option<&Costs>,
    ) -> Result<Plan> {
        let mut plan = plan::schedule(&Question {
            request,
            prefer: args.prefer.into(),
            demand,
            sizes,
            gpu,
            costs,
            workload: Workload::default(),
        })?;
        if !plan.all_segments().any(|segment| segment.head && segment.backend == BackendKind::Gpu) {
            plan.sizes = sizes_on_cpu(args, wished);
        }
        Ok(plan)
    }

    /// Measured on backends of its own, as a backend keeps the layers it was measured with; once for a machine, driver
    /// and shape of model.
    fn costs(&self, args: &EngineArgs, gpu: &GpuBackend, sizes: &Sizes) -> Result<Costs> {
        let cache = Cache::of_user();
        let key = self.costs_key(args, gpu, sizes);
        if let Some(costs) = cache.get(CALIBRATION, &key) {
            return Ok(costs);
        }
        let mut cpu_backend = self.cpu_backend(args);
        let mut gpu_backend = GpuBackend::on(Arc::clone(gpu.gpu()));
        let costs = Costs {
            cpu: calibrate::cost(&mut cpu_backend, &self.model, sizes)?,
            gpu: calibrate::cost(&mut gpu_backend, &self.model, sizes)?,
            batch_tokens: calibrate::BATCH_TOKENS,
            move_ms: calibrate::move_ms(&mut gpu_backend, &mut cpu_backend, &self.model, sizes)?,
        };
        cache.put(CALIBRATION, &key, &costs);
        Ok(costs)
    }

    /// Everything that the costs depend on.
    fn costs_key(&self, args: &EngineArgs, gpu: &GpuBackend, sizes: &Sizes) -> String {
        let (config, weights) = (&self.model.config, &self.model.weights);
        format!(
            "{} {} | {} x {} {:?} | {} {:?} | {} layers of {} bytes, {} x {}, heads {} {} {}, head {} bytes, screened {}, \
             cache {:?} {:?}",
            env!("CARGO_PKG_VERSION"),
            machine::processor().unwrap_or_default(),
            Isa::detect(),
            args.threads(),
            args.kernel,
            gpu.gpu().caps(),
            gpu.gpu().caps().driver,
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

    /// Plans and loads. Where `auto` chose a GPU that then fails to load the model, all goes to the CPU.
    pub fn load(&self, args: &EngineArgs, request: Request, sizes: Sizes) -> Result<Session> {
        self.load_as(args, request, sizes, |plan| plan).map(|(session, _)| session)
    }

    /// The same for the residual stream instead of logits.
    pub fn load_without_head(&self, args: &EngineArgs, request: Request, sizes: Sizes) -> Result<Session> {
        self.load_as(args, request, sizes, Plan::without_head).map(|(session, _)| session)
    }

    fn load_as(
        &self,
        args: &EngineArgs,
        request: Request,
        sizes: Sizes,
        change: impl Fn(Plan) -> Plan,
    ) -> Result<(Session, Option<Held>)> {
        let place = |request| -> Result<Placement> {
            let placement = self.place(args, request, sizes)?;
            Ok(Placement { plan: change(placement.plan), ..placement })
        };
        let placement = place(request)?;
        let may_fall_back = request == Request::Auto && placement.plan.runs_on(BackendKind::Gpu);
        match self.session_that_fits(args, request, placement) {
            // Any reason counts: a limit of this device, its memory, its driver. What is wrong with the model
            // itself comes up again on the CPU.
            Err(error) if may_fall_back => {
                log::warn!("the GPU is not used: {error}");
                self.session(args, place(Request::Cpu)?).map(|session| (session, None))
            }
            loaded => loaded,
        }
    }

    /// As [`load`](Self::load), for an answer that must not break off: where the GPU fails, at load or in the middle,
    /// the CPU goes on with it, after one warning. A GPU that was asked for and is not there stays an error.
    pub fn load_to_last(&self, args: &EngineArgs, sizes: Sizes) -> Result<Session> {
        let (session, held) = match self.load_as(args, args.request(), sizes, |plan| plan) {
            Err(error) if error.is_of_device() => {
                log::warn!("the GPU failed: {error}: the CPU goes on");
                return on_cpu(&self.model, self.cpu_backend(args), sizes);
            }
            loaded => loaded?,
        };
        Ok(match held {
            Some(held) => session.with_standby(self.standby(args, sizes, held)),
            None => session,
        })
    }

    /// What goes on where the GPU fails: fewer layers on it where its memory ran out, else all on the CPU, loaded when it
    /// is needed: from the same memory map, so only the cache takes memory.
    fn standby(&self, args: &EngineArgs, sizes: Sizes, held: Held) -> Standby {
        let (engine, args) = (Self { model: Arc::clone(&self.model) }, args.clone());
        Box::new(move |error, tokens| {
            output::break_line();
            let so_far = format::count(tokens, "token");
            if let Some((session, held)) = engine.session_with_less(&args, &held, error, &so_far) {
                return Ok(session.with_standby(engine.standby(&args, sizes, held)).into());
            }
            log::warn!("the GPU failed after {so_far}: {error}: the CPU goes on with the same text");
            on_cpu(&engine.model, engine.cpu_backend(&args), sizes).map(Into::into)
        })
    }

    fn session(&self, args: &EngineArgs, placement: Placement) -> Result<Session> {
        let weights = plan_weights(&placement);
        let Placement { plan, gpu, .. } = placement;
        let mut backends: Vec<(BackendKind, Box<dyn Backend>)> = Vec::new();
        if plan.runs_on(BackendKind::Cpu) {
            backends.push((BackendKind::Cpu, Box::new(self.cpu_backend(args))));
        }
        if let Some(gpu) = gpu.filter(|_| plan.runs_on(BackendKind::Gpu)) {
            backends.push((BackendKind::Gpu, Box::new(gpu)));
        }
        let bar = progress_bar(weights);
        let session = Session::load(&self.model, &plan, backends, &mut |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        session
    }
}

/// Sizes for a plan with the head on the CPU.
fn sizes_on_cpu(args: &EngineArgs, wished: Sizes) -> Sizes {
    let worth = args.head_screen == HeadScreen::On || Screen::is_fast();
    Sizes { head_screen: wished.head_screen && worth, ..wished }
}

/// What is left when the GPU has failed.
fn on_cpu(model: &Arc<Model>, backend: CpuBackend, sizes: Sizes) -> Result<Session> {
    let plan = Plan::all_cpu(model.config.layers, sizes, "the GPU failed");
    Session::load(model, &plan, vec![(BackendKind::Cpu, Box::new(backend))], &mut |_| {})
}

/// Bytes that loading reports: the CPU reads its tables in place, a GPU is given them.
fn plan_weights(placement: &Placement) -> u64 {
    let of = |segment: &Segment| {
        let SegmentBytes { weights, tables, .. } = placement.bytes(segment);
        if segment.backend == BackendKind::Gpu { weights + tables } else { weights }
    };
    let prefill = placement.plan.prefill.iter().flatten().filter(|s| !placement.plan.segments.contains(s));
    placement.plan.segments.iter().chain(prefill).map(of).sum()
}

/// Software adapters are slower than the CPU backend: they are used when asked for, with a warning.
fn open_gpu(args: &EngineArgs, request: Request) -> Result<GpuBackend> {
    let mut tuning = fault::injected()?;
    tuning.memory_bytes = args.gpu_memory.or(tuning.memory_bytes);
    let options = OpenOptions {
        // A failure that is asked for may happen on a software adapter: what `auto` makes of it is the same.
        software_allowed: request != Request::Auto || tuning.fault.is_some(),
        name: None,
        tuning,
        measure: Measure::Hardware,
        cache: Cache::of_user(),
    };
    let backend = GpuBackend::open(&options)?;
    let caps = backend.gpu().caps();
    if caps.software {
        log::warn!("{} computes on the processor: --backend cpu is faster", caps.name);
    }
    Ok(backend)
}

/// "CPU (avx2, 2 threads): layers 0-3 and the head (reason)".
pub fn segment_line(segment: &Segment, device: &str) -> String {
    segment.to_string().replacen(&segment.backend.to_string(), device, 1)
}

/// The segments for `--json`: half-open layer ranges.
pub fn segments_json<'a>(segments: impl Iterator<Item = (&'a Segment, &'a str)>) -> Vec<Json> {
    segments
        .map(|(s, device)| {
            json!({
                "layers": [s.layers.start, s.layers.end],
                "backend": match s.backend { BackendKind::Cpu => "cpu", BackendKind::Gpu => "gpu" },
                "device": device,
                "embed": s.embed,
                "head": s.head,
                "reason": s.reason,
            })
        })
        .collect()
}
