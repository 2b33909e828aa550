//! Kernels to pipelines: built several at a time, each once, and kept for the next run where the driver can.
//!
//! In: variants and pipeline constants, one after the other as dispatches are made. Out: [`Slot`]s, whose pipelines
//! are there after [`Compiler::build`].

use std::{
    num::NonZero,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    device::{Gpu, lock, one_line},
    params::PARAM_BYTES,
    pipelines::{Access, ParamSource, Shader, Variant},
};
use crate::{
    cache_dir::Cache,
    error::{Error, Result},
};

/// Where the user's cache keeps compiled pipelines.
const AREA: &str = "pipelines";

/// A pipeline that is wanted, and soon there.
pub(super) struct Slot {
    variant: Variant,
    constants: Vec<(&'static str, f64)>,
    layout: wgpu::PipelineLayout,
    module: Arc<Module>,
    pipeline: OnceLock<wgpu::ComputePipeline>,
}

impl Slot {
    /// The pipeline; `None` before it is built.
    pub fn get(&self) -> Option<&wgpu::ComputePipeline> {
        self.pipeline.get()
    }
}

struct Module {
    variant: Variant,
    module: OnceLock<wgpu::ShaderModule>,
}

#[derive(Default)]
struct Wanted {
    layouts: Vec<(&'static [Access], wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    modules: Vec<Arc<Module>>,
    slots: Vec<Arc<Slot>>,
}

/// The pipelines of a device.
pub(super) struct Compiler {
    wanted: Mutex<Wanted>,
    /// The driver's own form of what was compiled; `None` where it has none.
    stored: Option<wgpu::PipelineCache>,
    cache: Cache,
    key: String,
    /// Bytes of what the cache has: more means that there is something new to keep.
    kept_bytes: AtomicUsize,
}

impl Compiler {
    /// `key` names the adapter and its driver.
    pub fn new(device: &wgpu::Device, cache: Cache, key: String) -> Self {
        let data = cache.get_bytes(AREA, &key);
        let stored = device.features().contains(wgpu::Features::PIPELINE_CACHE).then(|| {
            let descriptor =
                wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data: data.as_deref(), fallback: true };
            #[allow(unsafe_code)]
            // SAFETY: the data is what `get_data` gave an earlier run: `get_bytes` has compared its checksum, and wgpu
            // compares adapter and driver. Who can write other data into the user's cache could as well replace this
            // program.
            unsafe {
                device.create_pipeline_cache(&descriptor)
            }
        });
        let kept_bytes = AtomicUsize::new(data.map_or(0, |data| data.len()));
        Self { wanted: Mutex::default(), stored, cache, key, kept_bytes }
    }

    /// The pipeline of a kernel, and the layout of its bind group 0. It is built by the next [`build`](Self::build).
    pub fn want(
        &self,
        gpu: &Gpu,
        variant: Variant,
        constants: &[(&'static str, f64)],
    ) -> (Arc<Slot>, wgpu::BindGroupLayout) {
        let mut wanted = lock(&self.wanted);
        let (group_layout, layout) = wanted.layouts(gpu, variant.shader);
        if let Some(slot) = wanted.slots.iter().find(|s| s.variant == variant && s.constants == constants) {
            return (Arc::clone(slot), group_layout);
        }
        let module = wanted.modules.iter().find(|module| module.variant == variant).cloned();
        let module = module.unwrap_or_else(|| {
            let module = Arc::new(Module { variant, module: OnceLock::new() });
            wanted.modules.push(Arc::clone(&module));
            module
        });
        let constants = constants.to_vec();
        let slot = Arc::new(Slot { variant, constants, layout, module, pipeline: OnceLock::new() });
        wanted.slots.push(Arc::clone(&slot));
        (slot, group_layout)
    }

    /// Builds all pipelines that are wanted and not there, on as many threads as the machine runs at once: a driver
    /// takes 1 to 100 ms for each.
    pub fn build(&self, gpu: &Gpu) -> Result<()> {
        let missing: Vec<Arc<Slot>> = {
            let wanted = lock(&self.wanted);
            wanted.slots.iter().filter(|slot| slot.get().is_none()).cloned().collect()
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(missing.len());
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(slot) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.build_one(gpu, slot)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let joined = others.into_iter().map(|other| match other.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.fold(own, Result::and)
        })?;
        gpu.check("building kernels")
    }

    fn build_one(&self, gpu: &Gpu, slot: &Slot) -> Result<()> {
        // Scopes belong to a thread: the error is this kernel's.
        let scope = gpu.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = slot.module.module.get_or_init(|| gpu.module(slot.variant));
        let kernel = slot.variant.shader.kernel();
        let mut constants = slot.constants.clone();
        if constants.iter().all(|&(name, _)| name != "WG") {
            constants.push(("WG", f64::from(kernel.workgroup)));
        }
        gpu.count();
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&slot.layout),
            module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.stored.as_ref(),
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            let action = format!("building the kernel {}", slot.variant.name());
            return Err(Error::Gpu { action, reason: one_line(&error.to_string()) });
        }
        slot.pipeline.get_or_init(|| pipeline);
        Ok(())
    }

    /// Keeps what has been compiled since the last time for the next run.
    pub fn keep(&self) {
        let Some(data) = self.stored.as_ref().and_then(wgpu::PipelineCache::get_data) else { return };
        if data.len() > self.kept_bytes.swap(data.len(), Ordering::Relaxed) {
            self.cache.put_bytes(AREA, &self.key, &data);
        }
    }
}

impl Wanted {
    fn layouts(&mut self, gpu: &Gpu, shader: Shader) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let bindings = shader.kernel().bindings;
        if let Some((_, layout, pipeline_layout)) = self.layouts.iter().find(|(have, ..)| *have == bindings) {
            return (layout.clone(), pipeline_layout.clone());
        }
        let entries: Vec<_> = (0..)
            .zip(bindings)
            .map(|(binding, &access)| {
                let ty = wgpu::BufferBindingType::Storage { read_only: access == Access::Read };
                let ty = wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
                layout_entry(binding, ty)
            })
            .collect();
        gpu.count();
        let layout =
            gpu.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        gpu.count();
        let uniforms = gpu.uniform_layout.as_ref();
        let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout), uniforms][..1 + usize::from(uniforms.is_some())],
            immediate_size: if gpu.choices().params == ParamSource::Immediate { PARAM_BYTES as u32 } else { 0 },
        });
        self.layouts.push((bindings, layout.clone(), pipeline_layout.clone()));
        (layout, pipeline_layout)
    }
}

/// A binding of a compute shader.
pub(super) fn layout_entry(binding: u32, ty: wgpu::BindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}
