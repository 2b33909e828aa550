//! An open GPU: the only place that creates wgpu objects and submits work.
//!
//! In: [`OpenOptions`]. Out: a [`Gpu`], whose failures (validation, out of memory, device lost) become errors
//! of the call that met them instead of aborting the program, which is wgpu's default.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    abandoned::abandon,
    adapter::{self, AdapterCaps, Asked, Candidate},
    geometry::Geometry,
    health::{Failure, Health},
    memory::{self, Memory},
    options::{Fault, OpenOptions, Tuning},
};
use crate::{
    backend::gpu::{
        common::{lock, one_line},
        kernels::{
            compile::{Compiler, Settings},
            pipelines::{Choices, Lanes, ParamSource, Product, Tile},
        },
    },
    error::{Error, Result},
};

/// The longest wait for one submission. Drivers reset a hung GPU after 2 to 10 s themselves; this is for those
/// that do not.
const HARDWARE_TIMEOUT: Duration = Duration::from_secs(60);
/// A software adapter on a busy machine may need minutes for a chunk of a large model.
const SOFTWARE_TIMEOUT: Duration = Duration::from_secs(1200);
/// Most bytes of one buffer of weights: drivers place buffers below 1 GiB more easily than larger ones.
const ARENA_BYTES: u64 = 1 << 30;

/// An open GPU.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    adapter: wgpu::Adapter,
    caps: AdapterCaps,
    choices: Choices,
    geometry: Geometry,
    tuning: Tuning,
    /// As it was read last.
    memory: Mutex<Memory>,
    /// Alignment of binding offsets.
    offset_alignment: u64,
    health: Arc<Health>,
    /// wgpu objects created so far.
    objects: Arc<AtomicU64>,
    testing: AtomicBool,
    /// Faults of this device that others of its kernels do not have.
    notes: Mutex<Vec<String>>,
    pub(crate) compiler: Compiler,
}

impl Gpu {
    /// Opens the adapter that `options` ask for.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let (candidates, notes) = adapter::candidates(options)?;
        let first = candidates.into_iter().next().unwrap_or_else(|| unreachable!("there is one at least"));
        let gpu = Self::open_adapter(first, options)?;
        notes.into_iter().for_each(|note| gpu.add_note(note));
        Ok(gpu)
    }

    /// Opens this one.
    pub(crate) fn open_adapter((adapter, caps): Candidate, options: &OpenOptions) -> Result<Self> {
        let tuning = options.tuning.clone();
        let wanted = wgpu::Features::SUBGROUP
            | wgpu::Features::IMMEDIATES
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::MAPPABLE_PRIMARY_BUFFERS
            | wgpu::Features::PIPELINE_CACHE;
        let Asked { caps, limits, features } = caps.asked(&adapter, wanted, tuning.least);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bitnet-gpu"),
            required_features: features,
            required_limits: limits,
            experimental_features: wgpu::ExperimentalFeatures::disabled(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::Gpu { action: format!("opening {}", caps.name), reason: one_line(&e.to_string()) })?;

        let health = Health::of(&device);

        // Four adjacent invocations share a subgroup only if there are four in it.
        let can_subgroup = caps.subgroups.is_some_and(|(least, _)| least >= 4);
        // Metal has no int8 dot product: naga writes it as four multiplications there, and f32 is no slower.
        let product = if caps.backend == "Metal" { Product::F32 } else { Product::Int8 };
        let immediates = caps.immediates && tuning.immediates != Some(false);
        let choices = Choices {
            lanes: if can_subgroup && tuning.subgroups != Some(false) { Lanes::Subgroup } else { Lanes::Workgroup },
            product: tuning.product.unwrap_or(product),
            // Until it is measured: a device that has no product of int8 takes longer by vectors.
            tile: tuning.tile.unwrap_or(Tile::Words),
            params: if immediates { ParamSource::Immediate } else { ParamSource::Uniform },
        };
        let limits = device.limits();
        let objects = Arc::new(AtomicU64::new(0));
        let settings = Settings {
            params: choices.params,
            checked: tuning.checked_shaders,
            cache: options.cache.clone(),
            key: format!("{} {caps}", env!("CARGO_PKG_VERSION")),
        };
        let compiler = Compiler::new(&device, Arc::clone(&objects), settings);
        let gpu = Self {
            offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment).max(32),
            device,
            queue,
            adapter,
            memory: Mutex::new(tuning.memory_bytes.map_or(caps.memory, Memory::given)),
            geometry: tuning.geometry.unwrap_or(Geometry::unmeasured(caps.software)),
            caps,
            choices,
            tuning,
            health,
            objects,
            testing: AtomicBool::new(false),
            notes: Mutex::default(),
            compiler,
        };
        gpu.check("opening the device")?;
        Ok(gpu)
    }

    /// Capabilities of the adapter.
    pub fn caps(&self) -> &AdapterCaps {
        &self.caps
    }

    /// The choices made for this device.
    pub fn choices(&self) -> Choices {
        self.choices
    }

    /// Takes other choices of kernels; parameters reach them as before.
    pub(crate) fn choose(&mut self, choices: Choices) {
        self.choices = Choices { params: self.choices.params, ..choices };
    }

    /// How products are cut.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Cuts them otherwise from now on, unless that was fixed.
    pub(crate) fn set_geometry(&mut self, geometry: Geometry) {
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

    /// As [`Self::memory_bytes`], and how it is known.
    pub fn memory(&self) -> Memory {
        if self.testing.load(Ordering::Relaxed) { self.caps.memory } else { *lock(&self.memory) }
    }

    /// Reads anew what may be used, unless it is given: other programs may have taken some.
    pub fn refresh_memory(&self) -> Memory {
        let now = match (self.tuning.later_memory_bytes(), self.tuning.memory_bytes) {
            (Some(bytes), _) | (None, Some(bytes)) => Memory::given(bytes),
            (None, None) => memory::available(&self.adapter, self.caps.unified_memory),
        };
        *lock(&self.memory) = now;
        now
    }

    /// True when weights are written where the GPU reads them. On a GPU with memory of its own that would be the
    /// memory of the processor.
    pub(crate) fn maps_weights(&self) -> bool {
        self.caps.mappable && self.tuning.mapped_upload.unwrap_or(self.caps.unified_memory)
    }

    /// Whether products of a decode step may norm and quantise their input themselves, where that fits.
    pub fn folds(&self) -> bool {
        self.tuning.fold.unwrap_or(true)
    }

    /// Whether the largest product of a layer should leave that to a kernel of its own.
    pub(crate) fn prefers_apart(&self) -> bool {
        self.tuning.fold.is_none() && !self.geometry.fold
    }

    /// Keys for which attention has a split: two tiles of 32. With 5 heads of keys and a context of 512 there are 40
    /// workgroups then, which the 6 to 12 units of an integrated GPU run at once; 20 of four tiles take twice as long. The
    /// processor has its few threads busy with fewer.
    pub fn split_keys(&self) -> usize {
        if self.caps.software { 128 } else { 64 }
    }

    /// Most bytes of workgroup memory.
    pub fn max_workgroup_bytes(&self) -> usize {
        self.device.limits().max_compute_workgroup_storage_size as usize
    }

    /// Alignment of the offset of a binding, in bytes.
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

    /// Faults of this device that the kernels in use do not have; found where it was tested when it was opened.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    pub(crate) fn add_note(&self, note: String) {
        lock(&self.notes).push(note);
    }

    /// While the GPU is tested, which loads and runs a layer, neither a fault is made nor a given budget kept to.
    pub(crate) fn set_testing(&self, testing: bool) {
        self.testing.store(testing, Ordering::Relaxed);
    }

    /// The fault of a test, where it is meant for a segment of `bytes`.
    fn fault(&self, bytes: u64) -> Option<Fault> {
        self.tuning.fault_of(Some(bytes)).filter(|_| !self.testing.load(Ordering::Relaxed))
    }

    /// The fault of a test, where it is meant for a step of the segment that runs `positions`.
    pub(crate) fn fault_in(&self, positions: &Range<usize>, bytes: u64) -> Option<Fault> {
        self.fault(bytes).filter(|fault| fault.hits(positions))
    }

    /// Whether a segment of `bytes` may allocate its caches.
    pub(crate) fn check_load(&self, bytes: u64) -> Result<()> {
        match self.fault(bytes) {
            Some(Fault::Load) => {
                let (action, reason) = ("allocating the caches".to_owned(), "out of memory (a test)".to_owned());
                Err(Error::GpuMemory { action, reason })
            }
            _ => Ok(()),
        }
    }

    /// Reports, as wgpu's callbacks do, that memory ran out.
    pub(crate) fn report_out_of_memory(&self) {
        self.health.note(Failure { out_of_memory: true, reason: "Out of Memory (a test)".to_owned() });
    }

    /// The first failure since the last check. A lost device stays lost.
    pub(crate) fn check(&self, action: &str) -> Result<()> {
        self.health.check(action)
    }

    pub(crate) fn count(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// A buffer; out of memory is an error of this call and leaves the device usable.
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.create_buffer(label, bytes, usage, false)
    }

    /// As [`Self::buffer`], mapped for writing: to be unmapped before it is used.
    pub(crate) fn mapped_buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        if let Some(most) = self.tuning.mappable_bytes().filter(|most| bytes > *most) {
            let action = format!("allocating {bytes} bytes for {label}");
            return Err(Error::GpuMemory { action, reason: format!("out of memory (a test of {most} bytes)") });
        }
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
    pub(crate) fn time_stamps(&self, count: u32) -> wgpu::QuerySet {
        self.count();
        let ty = wgpu::QueryType::Timestamp;
        self.device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("time stamps"), ty, count })
    }

    /// A bind group 0 with one buffer range (buffer, offset, bytes) for each binding.
    pub(crate) fn bind_group(
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

    /// Builds the pipelines that are wanted.
    pub(crate) fn build_kernels(&self) -> Result<()> {
        self.compiler.build()?;
        self.check("building kernels")
    }

    /// The longest wait for one submission.
    fn timeout(&self) -> Duration {
        if self.caps.software { SOFTWARE_TIMEOUT } else { HARDWARE_TIMEOUT }
    }

    /// Lets wgpu look for what is done, without waiting, and reports what went wrong until then; `since` is when the
    /// oldest submission that is waited for began.
    pub(crate) fn poll(&self, since: Instant) -> Result<()> {
        // A lost device refuses it; that it is lost is told by the callbacks.
        let _ = self.device.poll(wgpu::PollType::Poll);
        if since.elapsed() > self.timeout() {
            self.give_up(self.timeout());
        }
        self.check("running kernels")
    }

    /// The GPU gave no answer in that time.
    fn give_up(&self, timeout: Duration) {
        self.health.lose(format!("no answer for {} s", timeout.as_secs()));
        abandon(&self.device, &self.queue);
    }

    /// Waits for a submission, and reports what went wrong until then.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.wait_for(submission, self.timeout())
    }

    /// As [`wait`](Self::wait), for at most `timeout`.
    pub(crate) fn wait_for(&self, submission: wgpu::SubmissionIndex, timeout: Duration) -> Result<()> {
        let poll = wgpu::PollType::Wait { submission_index: Some(submission), timeout: Some(timeout) };
        let result = self.device.poll(poll);
        if result.is_err() {
            // A lost device refuses the wait; that it is lost is told by the callbacks, which run when polled.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
        if matches!(result, Err(wgpu::PollError::Timeout)) {
            self.give_up(timeout);
        }
        self.check("running kernels")?;
        result
            .map(drop)
            .map_err(|e| Error::Gpu { action: "waiting for the GPU".to_owned(), reason: one_line(&e.to_string()) })
    }
}
