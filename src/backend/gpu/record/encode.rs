//! Dispatches prepared at load, and their recording: per step only parameters change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::profile::{Profiler, Traffic};
use crate::{
    backend::gpu::{
        buffers::readback::Pending,
        device::Gpu,
        kernels::{
            compile::Pipeline,
            params::{Dynamic, PARAM_BYTES, Params},
            pipelines::{Program, Variant},
        },
    },
    error::Result,
};

/// How many workgroups one dimension of a dispatch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always this many.
    Fixed(usize),
    /// One for each `n` tokens of the step.
    PerTokens(u32),
    /// One for each split of the keys.
    Splits,
    /// This many where the keys are split, else none: the dispatch is left out.
    IfSplit(usize),
}

/// Parameters that differ from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepParams {
    /// First words of the kernels' parameters.
    pub dynamic: Dynamic,
    /// Windows of the caches with a sequence of the step, a bit each.
    pub windows: u64,
    /// Positions that the sequences of the step hold with it, all together.
    pub positions: u64,
}

impl From<Dynamic> for StepParams {
    /// For kernels that read no cache.
    fn from(dynamic: Dynamic) -> Self {
        Self { dynamic, windows: 0, positions: 0 }
    }
}

impl Extent {
    fn count(self, dynamic: &Dynamic) -> u32 {
        match self {
            Self::IfSplit(_) if dynamic.splits == 1 => 0,
            Self::Fixed(count) | Self::IfSplit(count) => u32::try_from(count).unwrap_or(u32::MAX),
            Self::PerTokens(n) => dynamic.tokens.div_ceil(n),
            Self::Splits => dynamic.splits,
        }
    }
}

/// A dispatch whose pipeline, bind group, grid and fixed parameters are made at load.
pub struct Dispatch {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    params: Params,
    grid: [Extent; 3],
    name: &'static str,
    traffic: Traffic,
    /// Window of the caches that it reads or writes: it is left out of steps without a sequence there.
    window: Option<u32>,
    /// Place of its parameters in the uniform buffer, where that is used.
    place: u32,
}

/// Uniform buffers are bound at multiples of this on every device.
const UNIFORM_ALIGNMENT: usize = 256;

/// Makes dispatches, and gives each its place in the uniform buffer.
pub struct Builder<'a> {
    pub gpu: &'a Gpu,
    places: u32,
}

impl<'a> Builder<'a> {
    pub fn new(gpu: &'a Gpu) -> Self {
        Self { gpu, places: 0 }
    }

    /// A dispatch of the table's kernel with one buffer range for each of its bindings.
    pub fn dispatch(
        &mut self,
        variant: Variant,
        constants: &[(&'static str, f64)],
        params: impl Into<Params>,
        buffers: &[wgpu::BufferBinding<'_>],
        grid: [Extent; 3],
    ) -> Result<Dispatch> {
        let (pipeline, layout) = self.gpu.compiler.want(variant, constants);
        let bind_group = self.gpu.bind_group(&layout, buffers);
        self.gpu.check(&format!("binding the buffers of {}", variant.name()))?;
        let place = self.places;
        self.places += 1;
        let name = variant.program.name();
        let traffic = Traffic::new(variant.program, buffers);
        Ok(Dispatch { pipeline, bind_group, params: params.into(), grid, name, traffic, window: None, place })
    }

    /// A variant of a kernel with the choices of the device.
    pub fn variant(&self, program: impl Into<Program>) -> Variant {
        Variant::new(program, self.gpu.choices(), None)
    }

    /// Builds the pipelines of all dispatches made, and the buffer for their parameters where the device needs one.
    pub fn finish(self) -> Result<Option<Uniforms>> {
        self.gpu.build_kernels()?;
        match self.gpu.compiler.uniform_layout() {
            Some(layout) => Uniforms::new(self.gpu, layout, self.places as usize).map(Some),
            None => Ok(None),
        }
    }
}

impl Dispatch {
    /// Left out of steps without a sequence in that window of the caches.
    #[must_use]
    pub fn in_window(self, window: u32) -> Self {
        Self { window: Some(window), ..self }
    }

    /// Whether there is anything to do for it in such a step.
    fn runs(&self, step: &StepParams) -> bool {
        self.window.is_none_or(|window| step.windows >> window & 1 == 1)
            && self.grid.iter().all(|extent| extent.count(&step.dynamic) > 0)
    }

    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, dynamic: &Dynamic, uniforms: &mut Option<Uniforms>) {
        let params = self.params.with(dynamic);
        // `Builder::finish` has built it; without a pipeline wgpu reports the dispatch as an error.
        if let Some(pipeline) = self.pipeline.get() {
            pass.set_pipeline(pipeline);
        }
        pass.set_bind_group(0, &self.bind_group, &[]);
        match uniforms {
            Some(uniforms) => {
                let offset = self.place as usize * UNIFORM_ALIGNMENT;
                uniforms.bytes[offset..offset + PARAM_BYTES].copy_from_slice(&params);
                pass.set_bind_group(1, &uniforms.bind_group, &[offset as u32]);
            }
            None => pass.set_immediates(0, &params),
        }
        let [x, y, z] = self.grid.map(|extent| extent.count(dynamic));
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Parameters of every dispatch of a segment, for devices without immediates.
pub struct Uniforms {
    buffer: wgpu::Buffer,
    bind_group: wgpu::BindGroup,
    bytes: Vec<u8>,
}

impl Uniforms {
    fn new(gpu: &Gpu, layout: &wgpu::BindGroupLayout, places: usize) -> Result<Self> {
        let bytes = vec![0; places.max(1) * UNIFORM_ALIGNMENT];
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffer("parameters", bytes.len() as u64, usage)?;
        let size = wgpu::BufferSize::new(PARAM_BYTES as u64);
        let bind_group = gpu.bind_group(layout, &[wgpu::BufferBinding { buffer: &buffer, offset: 0, size }]);
        Ok(Self { buffer, bind_group, bytes })
    }
}

/// Records steps and submits them; counts what it does.
#[derive(Default)]
pub struct Recorder {
    /// Submitted; what was recorded ahead and dropped does not count.
    pub dispatches: u64,
    /// Recorded since the last [`finish`](Self::finish).
    recorded: u64,
    pub submits: u64,
    /// Time of the processor spent on recording and submitting.
    pub recording: Duration,
    /// Times the dispatches, while it is there.
    pub profiler: Option<Profiler>,
}

impl Recorder {
    /// Records dispatches, each with what it is told of the step, as one compute pass; as one each while they are timed.
    pub fn record<'d>(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        dispatches: impl IntoIterator<Item = (&'d StepParams, &'d Dispatch)>,
        uniforms: &mut Option<Uniforms>,
    ) {
        let begin = Instant::now();
        let dispatches = dispatches.into_iter().filter(|(step, dispatch)| dispatch.runs(step));
        if let Some(profiler) = &mut self.profiler {
            for (step, dispatch) in dispatches {
                let mut pass = profiler.pass(encoder, dispatch.name, dispatch.traffic, step.positions);
                dispatch.encode(&mut pass, &step.dynamic, uniforms);
                self.recorded += 1;
            }
        } else {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for (step, dispatch) in dispatches {
                dispatch.encode(&mut pass, &step.dynamic, uniforms);
                self.recorded += 1;
            }
        }
        self.recording += begin.elapsed();
    }

    /// Ends the recording of a submit. Each dispatch may be recorded once between two submits.
    pub fn finish(&mut self, mut encoder: wgpu::CommandEncoder) -> Recorded {
        let begin = Instant::now();
        let stamps = self.profiler.as_mut().and_then(|profiler| profiler.resolve(&mut encoder));
        let commands = encoder.finish();
        self.recording += begin.elapsed();
        Recorded { commands, stamps, dispatches: std::mem::take(&mut self.recorded) }
    }

    /// Submits what was recorded last; while it is timed, waits for it as well.
    pub fn submit(
        &mut self,
        gpu: &Gpu,
        recorded: Recorded,
        uniforms: &Option<Uniforms>,
    ) -> Result<wgpu::SubmissionIndex> {
        let begin = Instant::now();
        if let Some(uniforms) = uniforms {
            gpu.queue.write_buffer(&uniforms.buffer, 0, &uniforms.bytes);
        }
        let submission = gpu.queue.submit([recorded.commands]);
        self.submits += 1;
        self.dispatches += recorded.dispatches;
        self.recording += begin.elapsed();
        if let (Some(profiler), Some(stamps)) = (&mut self.profiler, recorded.stamps) {
            profiler.read(gpu, stamps, submission.clone())?;
        }
        Ok(submission)
    }
}

/// Commands ready to be submitted.
pub struct Recorded {
    commands: wgpu::CommandBuffer,
    /// Time stamps for the profiler.
    stamps: Option<Pending>,
    dispatches: u64,
}
