//! An open GPU: the only place that creates wgpu objects and submits work.
//!
//! In: [`OpenOptions`]. Out: a [`Gpu`], whose failures (validation, out of memory, device lost) become errors
//! of the call that met them instead of aborting the program, which is wgpu's default.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    adapter::{self, AdapterCaps, OpenOptions, Tuning},
    compile::{Compiler, layout_entry},
    fault::Fault,
    geometry::Geometry,
    memory::{self, Memory},
    pipelines::{Choices, Lanes, ParamSource, Product, Variant},
};
use crate::error::{Error, Result};

/// The longest wait for one submission. Drivers reset a hung GPU after 2 to 10 s themselves; this is for those
/// that do not.
const HARDWARE_TIMEOUT: Duration = Duration::from_secs(60);
/// A software adapter on a busy machine may need minutes for a chunk of a large model.
const SOFTWARE_TIMEOUT: Duration = Duration::from_secs(1200);
/// Most bytes of one buffer of weights: drivers place buffers below 1 GiB more easily than larger ones.
const ARENA_BYTES: u64 = 1 << 30;

/// What went wrong since the last look; filled by wgpu's callbacks.
#[derive(Debug, Default)]
struct Health {
    lost: Option<String>,
    error: Option<Failure>,
}

/// What wgpu or the driver refused.
#[derive(Debug)]
struct Failure {
    out_of_memory: bool,
    reason: String,
}

impl Failure {
    fn new(error: &wgpu::Error) -> Self {
        let out_of_memory = matches!(error, wgpu::Error::OutOfMemory { .. });
        Self { out_of_memory, reason: one_line(&error.to_string()) }
    }

    fn error(self, action: String) -> Error {
        let Self { out_of_memory, reason } = self;
        if out_of_memory { Error::GpuMemory { action, reason } } else { Error::Gpu { action, reason } }
    }
}

/// An open GPU.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    adapter: wgpu::Adapter,
    caps: AdapterCaps,
    choices: Choices,
    geometry: Geometry,
    tuning: Tuning,
    /// As it was read last.
    memory: Mutex<Memory>,
    /// Alignment of binding offsets.
    offset_alignment: u64,
    /// Layout of bind group 1, where parameters go through a uniform buffer.
    pub(super) uniform_layout: Option<wgpu::BindGroupLayout>,
    health: Arc<Mutex<Health>>,
    objects: AtomicU64,
    testing: AtomicBool,
    pub(super) compiler: Compiler,
}

/// A panic while one of our locks was held leaves plain data behind: it stays usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// GPUs that gave no answer. They are kept: the last handle of a queue waits for the GPU when it is dropped, for ever if
/// that hangs.
static ABANDONED: Mutex<Vec<(wgpu::Device, wgpu::Queue)>> = Mutex::new(Vec::new());

/// Gives GPUs that gave no answer in time a last chance to end what they compute, before the program ends: a driver that
/// is unloaded in the middle of its work may crash (Mesa's software driver did, in one of some thirty runs).
pub fn settle() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    for (device, _) in lock(&ABANDONED).iter() {
        // Late or not, the program ends.
        let _ = device.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(TIMEOUT) });
    }
}

impl Gpu {
    /// Opens the adapter that `options` ask for.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let (adapter, caps) = adapter::select(options)?;
        let tuning = options.tuning.clone();
        let wanted = wgpu::Features::SUBGROUP
            | wgpu::Features::IMMEDIATES
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            | wgpu::Features::PIPELINE_CACHE;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bitnet-gpu"),
            required_features: wanted & adapter.features(),
            required_limits: adapter.limits(),
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Gpu { action: format!("opening {}", caps.name), reason: one_line(&e.to_string()) })?;

        let health = Arc::new(Mutex::new(Health::default()));
        let errors = Arc::clone(&health);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&errors).error.get_or_insert_with(|| Failure::new(&error));
        }));
        let losses = Arc::clone(&health);
        device.set_device_lost_callback(move |reason, message| {
            lock(&losses).lost.get_or_insert_with(|| one_line(&format!("{reason:?} {message}")));
        });

        // Four adjacent invocations share a subgroup only if there are four in it.
        let can_subgroup = caps.subgroups.is_some_and(|(least, _)| least >= 4);
        // Metal has no int8 dot product: naga writes it as four multiplications there, and f32 is no slower.
        let int8 = tuning.int8_dot.unwrap_or(caps.backend != "Metal");
        let immediates = caps.immediates && tuning.immediates != Some(false);
        let choices = Choices {
            lanes: if can_subgroup && tuning.subgroups != Some(false) { Lanes::Subgroup } else { Lanes::Workgroup },
            product: if int8 { Product::Int8 } else { Product::F32 },
            params: if immediates { ParamSource::Immediate } else { ParamSource::Uniform },
        };
        let limits = device.limits();
        let compiler = Compiler::new(&device, options.cache.clone(), format!("{} {caps}", env!("CARGO_PKG_VERSION")));
        let mut gpu = Self {
            offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(32),
            device,
            queue,
            adapter,
            memory: Mutex::new(tuning.memory_bytes.map_or(caps.memory, Memory::given)),
            geometry: tuning.geometry.unwrap_or(Geometry::of(&caps)),
            caps,
            choices,
            tuning,
            uniform_layout: None,
            health,
            objects: AtomicU64::new(0),
            testing: AtomicBool::new(false),
            compiler,
        };
        if choices.params == ParamSource::Uniform {
            gpu.uniform_layout = Some(gpu.create_uniform_layout());
        }
        gpu.check("opening the device")?;
        Ok(gpu)
    }

    /// What the adapter can do.
    pub fn caps(&self) -> &AdapterCaps {
        &self.caps
    }

    /// The choices made for this device.
    pub fn choices(&self) -> Choices {
        self.choices
    }

    /// Takes other choices of kernels; parameters reach them as before.
    pub(super) fn choose(&mut self, choices: Choices) {
        self.choices = Choices { params: self.choices.params, ..choices };
    }

    /// How products are cut.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Cuts them otherwise from now on, unless that was fixed.
    pub(super) fn set_geometry(&mut self, geometry: Geometry) {
        self.geometry = self.tuning.geometry.unwrap_or(geometry);
    }

    /// Departures asked for when it was opened.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Most bytes of one binding.
    pub fn max_binding_bytes(&self) -> u64 {
        let limit = self.caps.max_binding_bytes.min(u64::from(u32::MAX));
        self.tuning.max_binding_bytes.map_or(limit, |lower| lower.min(limit)) / 32 * 32
    }

    /// Most bytes of one buffer of weights.
    pub fn max_arena_bytes(&self) -> u64 {
        self.tuning.max_arena_bytes.unwrap_or(ARENA_BYTES).min(self.caps.max_buffer_bytes) / 256 * 256
    }

    /// Bytes of device memory that may be used.
    pub fn memory_bytes(&self) -> u64 {
        self.memory().bytes
    }

    /// The same, and how it is known.
    pub fn memory(&self) -> Memory {
        if self.testing.load(Ordering::Relaxed) { self.caps.memory } else { *lock(&self.memory) }
    }

    /// Reads anew what may be used, unless it is given: other programs may have taken some.
    pub fn refresh_memory(&self) -> Memory {
        let now = match (self.tuning.later_memory_bytes, self.tuning.memory_bytes) {
            (Some(bytes), _) | (None, Some(bytes)) => Memory::given(bytes),
            (None, None) => memory::available(&self.adapter, self.caps.unified_memory),
        };
        *lock(&self.memory) = now;
        now
    }

    /// True when weights are written where the GPU reads them. On a GPU with memory of its own that would be the
    /// memory of the processor.
    pub(super) fn maps_weights(&self) -> bool {
        self.caps.mappable && self.tuning.mapped_upload.unwrap_or(self.caps.unified_memory)
    }

    /// Whether products of a decode step may norm and quantise their input themselves, where that fits.
    pub fn folds(&self) -> bool {
        self.tuning.fold.unwrap_or(true)
    }

    /// Whether the largest product of a layer should leave that to a kernel of its own.
    pub(super) fn prefers_apart(&self) -> bool {
        self.tuning.fold.is_none() && !self.geometry.fold
    }

    /// Most bytes of workgroup memory.
    pub fn max_workgroup_bytes(&self) -> usize {
        self.device.limits().max_compute_workgroup_storage_size as usize
    }

    /// What the offset of a binding must be a multiple of.
    pub fn offset_alignment(&self) -> u64 {
        self.offset_alignment
    }

    /// wgpu objects (buffers, layouts, bind groups, modules, pipelines) created so far. Command encoders, which
    /// wgpu cannot reuse, are not counted.
    pub fn objects_created(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// A function that makes the device be lost, as a driver reset would, even while a step runs. For tests of what
    /// follows.
    pub fn destroyer(&self) -> impl Fn() + Send + 'static {
        let device = self.device.clone();
        move || device.destroy()
    }

    /// While the GPU is tested, which loads and runs a layer, neither a fault is made nor a given budget kept to.
    pub(super) fn set_testing(&self, testing: bool) {
        self.testing.store(testing, Ordering::Relaxed);
    }

    /// The fault of a test, where it is meant for a segment of `bytes`.
    fn fault(&self, bytes: u64) -> Option<Fault> {
        let meant = bytes > self.tuning.fault_above && !self.testing.load(Ordering::Relaxed);
        self.tuning.fault.filter(|_| meant)
    }

    /// The same for a step of the segment that runs `positions`.
    pub(super) fn fault_in(&self, positions: &Range<usize>, bytes: u64) -> Option<Fault> {
        self.fault(bytes).filter(|fault| fault.hits(positions))
    }

    /// Whether a segment of `bytes` may allocate its caches.
    pub(super) fn check_load(&self, bytes: u64) -> Result<()> {
        match self.fault(bytes) {
            Some(Fault::Load) => {
                let (action, reason) = ("allocating the caches".to_owned(), "out of memory (a test)".to_owned());
                Err(Error::GpuMemory { action, reason })
            }
            _ => Ok(()),
        }
    }

    /// Reports, as wgpu's callbacks do, that memory ran out.
    pub(super) fn report_out_of_memory(&self) {
        let failure = || Failure { out_of_memory: true, reason: "Out of Memory (a test)".to_owned() };
        lock(&self.health).error.get_or_insert_with(failure);
    }

    /// The first failure since the last check. A lost device stays lost.
    pub(super) fn check(&self, action: &str) -> Result<()> {
        let mut health = lock(&self.health);
        if let Some(reason) = &health.lost {
            return Err(Error::DeviceLost { reason: reason.clone() });
        }
        match health.error.take() {
            Some(failure) => Err(failure.error(action.to_owned())),
            None => Ok(()),
        }
    }

    pub(super) fn count(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// A buffer; out of memory is an error of this call and leaves the device usable.
    pub(super) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.create_buffer(label, bytes, usage, false)
    }

    /// The same, mapped for writing: to be unmapped before it is used.
    pub(super) fn mapped_buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.create_buffer(label, bytes, usage | wgpu::BufferUsages::MAP_WRITE, true)
    }

    fn create_buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        mapped_at_creation: bool,
    ) -> Result<wgpu::Buffer> {
        let action = || format!("allocating {bytes} bytes for {label}");
        self.count();
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.next_multiple_of(4).max(4),
            usage,
            mapped_at_creation,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(Failure::new(&error).error(action()));
        }
        self.check(&action())?;
        Ok(buffer)
    }

    /// A set of time stamps to be written.
    pub(super) fn time_stamps(&self, count: u32) -> wgpu::QuerySet {
        self.count();
        let ty = wgpu::QueryType::Timestamp;
        self.device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("time stamps"), ty, count })
    }

    /// A bind group 0 with one buffer range (buffer, offset, bytes) for each binding.
    pub(super) fn bind_group(
        &self,
        layout: &wgpu::BindGroupLayout,
        buffers: &[wgpu::BufferBinding<'_>],
    ) -> wgpu::BindGroup {
        self.count();
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(buffer.clone()),
            })
            .collect();
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
    }

    fn create_uniform_layout(&self) -> wgpu::BindGroupLayout {
        self.count();
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("parameters"),
            entries: &[layout_entry(
                0,
                wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Uniform,
                    has_dynamic_offset: true,
                    min_binding_size: None,
                },
            )],
        })
    }

    /// The module of a variant; without wgpu's bounds checks, unless they are asked for.
    ///
    /// The text is ours, from `shaders/`. Its indices stay inside the bindings because `load` checks the shape of
    /// every tensor against the configuration and sizes buffers by it, `run` checks ids, positions and token counts,
    /// and windows end inside their region. Its loops end: each counts up to such a size. Its divisors are counts of
    /// heads, splits and columns, which `load` checks to be at least 1. tests/gpu/model.rs runs the whole model with
    /// checks on as well and compares.
    pub(super) fn module(&self, variant: Variant) -> wgpu::ShaderModule {
        self.count();
        let name = variant.name();
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(variant.compose().into()),
        };
        if self.tuning.checked_shaders {
            self.device.create_shader_module(descriptor)
        } else {
            #[allow(unsafe_code)]
            // SAFETY: our own text, whose indices and loops are bounded as the doc of this function says.
            unsafe {
                self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
            }
        }
    }

    /// Waits for a submission, and reports what went wrong until then.
    pub(super) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.wait_for(submission, if self.caps.software { SOFTWARE_TIMEOUT } else { HARDWARE_TIMEOUT })
    }

    /// The same for at most `timeout`.
    pub(super) fn wait_for(&self, submission: wgpu::SubmissionIndex, timeout: Duration) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(timeout) };
        let result = self.device.poll(poll);
        if result.is_err() {
            // A lost device refuses the wait; that it is lost is told by the callbacks, which run when polled.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        if matches!(result, Err(wgpu::PollError::Timeout)) {
            lock(&self.health).lost.get_or_insert_with(|| format!("no answer for {} s", timeout.as_secs()));
            lock(&ABANDONED).push((self.device.clone(), self.queue.clone()));
        }
        self.check("running kernels")?;
        result
            .map(drop)
            .map_err(|e| Error::Gpu { action: "waiting for the GPU".to_owned(), reason: one_line(&e.to_string()) })
    }
}
