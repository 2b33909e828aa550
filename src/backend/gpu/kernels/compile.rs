//! Kernels to pipelines: built several at a time, each once, and kept for the next run where the driver can.
//!
//! In: variants and pipeline constants, one after the other as dispatches are made. Out: [`Pipeline`]s, whose pipelines
//! are there after [`Compiler::build`].

use std::{
    num::NonZero,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    kernel::{Access, ParamSource},
    table::Shader,
    variant::Variant,
    words::PARAM_BYTES,
};
use crate::{
    backend::gpu::common::{lock, one_line},
    cache_dir::Cache,
    error::{Error, Result},
    machine::workers,
};

/// Where the user's cache keeps compiled pipelines.
const AREA: &str = "pipelines";

/// A pipeline that is wanted, and soon there.
pub struct Pipeline {
    variant: Variant,
    constants: Vec<(&'static str, f64)>,
    layout: wgpu::PipelineLayout,
    module: Arc<Module>,
    built: OnceLock<wgpu::ComputePipeline>,
}

impl Pipeline {
    /// The pipeline; `None` before it is built.
    pub fn get(&self) -> Option<&wgpu::ComputePipeline> {
        self.built.get()
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
    pipelines: Vec<Arc<Pipeline>>,
}

/// How kernels are made on a device.
pub struct Settings {
    /// How parameters reach them.
    pub params: ParamSource,
    /// Let wgpu add bounds checks.
    pub checked: bool,
    /// Where compiled pipelines are kept.
    pub cache: Cache,
    /// Names the adapter and its driver.
    pub key: String,
}

/// The pipelines of a device.
pub struct Compiler {
    device: wgpu::Device,
    /// wgpu objects created on the device, by whomever.
    objects: Arc<AtomicU64>,
    params: ParamSource,
    checked: bool,
    /// Layout of bind group 1, where parameters go through a uniform buffer.
    uniform_layout: Option<wgpu::BindGroupLayout>,
    wanted: Mutex<Wanted>,
    /// The driver's own form of what was compiled; `None` where it has none.
    stored: Option<wgpu::PipelineCache>,
    cache: Cache,
    key: String,
    /// Bytes of what the cache has: more means that there is something new to keep.
    kept_bytes: AtomicUsize,
}

impl Compiler {
    /// Counts what it creates in `objects`.
    pub fn new(device: &wgpu::Device, objects: Arc<AtomicU64>, settings: Settings) -> Self {
        let Settings { params, checked, cache, key } = settings;
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
        let mut compiler = Self {
            device: device.clone(),
            objects,
            params,
            checked,
            uniform_layout: None,
            wanted: Mutex::default(),
            stored,
            cache,
            key,
            kept_bytes,
        };
        if params == ParamSource::Uniform {
            compiler.uniform_layout = Some(compiler.create_uniform_layout());
        }
        compiler
    }

    /// Layout of bind group 1, where parameters go through a uniform buffer.
    pub fn uniform_layout(&self) -> Option<&wgpu::BindGroupLayout> {
        self.uniform_layout.as_ref()
    }

    fn count(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
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

    /// The pipeline of a kernel, and the layout of its bind group 0. It is built by the next [`build`](Self::build).
    pub fn want(&self, variant: Variant, constants: &[(&'static str, f64)]) -> (Arc<Pipeline>, wgpu::BindGroupLayout) {
        let mut wanted = lock(&self.wanted);
        let (group_layout, layout) = self.layouts(&mut wanted, variant.program.shader);
        if let Some(pipeline) = wanted.pipelines.iter().find(|s| s.variant == variant && s.constants == constants) {
            return (Arc::clone(pipeline), group_layout);
        }
        let module = wanted.modules.iter().find(|module| module.variant == variant).cloned();
        let module = module.unwrap_or_else(|| {
            let module = Arc::new(Module { variant, module: OnceLock::new() });
            wanted.modules.push(Arc::clone(&module));
            module
        });
        let constants = constants.to_vec();
        let pipeline = Arc::new(Pipeline { variant, constants, layout, module, built: OnceLock::new() });
        wanted.pipelines.push(Arc::clone(&pipeline));
        (pipeline, group_layout)
    }

    /// Builds all pipelines that are wanted and not there, on as many threads as the machine runs at once: a driver
    /// takes 1 to 100 ms for each.
    pub fn build(&self) -> Result<()> {
        let missing: Vec<Arc<Pipeline>> = {
            let wanted = lock(&self.wanted);
            wanted.pipelines.iter().filter(|pipeline| pipeline.get().is_none()).cloned().collect()
        };
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(missing.len());
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(pipeline) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.build_one(pipeline)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let others = workers::start(scope, threads.saturating_sub(1), &work);
            let own = work();
            let joined = others.into_iter().map(|other| match other.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.fold(own, Result::and)
        })
    }

    fn build_one(&self, wanted: &Pipeline) -> Result<()> {
        // Scopes belong to a thread: the error is this kernel's.
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = wanted.module.module.get_or_init(|| self.module(wanted.variant));
        let mut constants = wanted.constants.clone();
        if constants.iter().all(|&(name, _)| name != "WG") {
            constants.push(("WG", f64::from(wanted.variant.workgroup())));
        }
        self.count();
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(wanted.variant.program.name()),
            layout: Some(&wanted.layout),
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
            let action = format!("building the kernel {}", wanted.variant.name());
            return Err(Error::Gpu { action, reason: one_line(&error.to_string()) });
        }
        wanted.built.get_or_init(|| pipeline);
        Ok(())
    }

    fn layouts(&self, wanted: &mut Wanted, shader: Shader) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let bindings = shader.kernel().bindings;
        if let Some((_, layout, pipeline_layout)) = wanted.layouts.iter().find(|(have, ..)| *have == bindings) {
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
        self.count();
        let layout =
            self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        self.count();
        let uniforms = self.uniform_layout.as_ref();
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout), uniforms][..1 + usize::from(uniforms.is_some())],
            immediate_size: if self.params == ParamSource::Immediate { PARAM_BYTES as u32 } else { 0 },
        });
        wanted.layouts.push((bindings, layout.clone(), pipeline_layout.clone()));
        (layout, pipeline_layout)
    }

    /// The module of a variant; without wgpu's bounds checks, unless they are asked for.
    ///
    /// The text is ours, from `shaders/`. Its indices stay inside the bindings because `load` checks the shape of
    /// every tensor against the configuration and sizes buffers by it, `run` checks ids, positions and token counts,
    /// and windows end inside their region. Its loops end: each counts up to such a size. Its divisors are counts of
    /// heads, splits and columns, which `load` checks to be at least 1. tests/gpu/model runs the whole model with
    /// checks on as well and compares.
    fn module(&self, variant: Variant) -> wgpu::ShaderModule {
        self.count();
        let name = variant.name();
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&name),
            source: wgpu::ShaderSource::Wgsl(variant.compose().into()),
        };
        if self.checked {
            self.device.create_shader_module(descriptor)
        } else {
            #[allow(unsafe_code)]
            // SAFETY: our own text, whose indices and loops are bounded as the doc of this function says.
            unsafe {
                self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
            }
        }
    }

    /// Keeps what has been compiled since the last time for the next run.
    pub fn keep(&self) {
        let Some(data) = self.stored.as_ref().and_then(wgpu::PipelineCache::get_data) else { return };
        if data.len() > self.kept_bytes.swap(data.len(), Ordering::Relaxed) {
            self.cache.put_bytes(AREA, &self.key, &data);
        }
    }
}

/// A binding of a compute shader.
fn layout_entry(binding: u32, ty: wgpu::BindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}
