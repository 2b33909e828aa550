//! A segment on the device.

use std::sync::{Arc, atomic::AtomicBool};

use super::{
    ahead::{Chosen, RecordedStep},
    counters::Counters,
    flight::{Begun, Flight},
    held::Held,
    lists::{Lists, Made},
    plan::{Planned, bytes_of, plan},
};
use crate::{
    backend::{
        Limits,
        gpu::{
            buffers::{
                activations::ActivationBuffers,
                arenas::Arenas,
                cache::CacheWindow,
                memory::{LayerMemory, Recurrent},
                readback::Readback,
                shape::Shape,
            },
            device::{Fault, Gpu},
            lower::select::{MOST, RESULT_BYTES},
            record::{
                encode::{Recorder, Uniforms},
                pace::Pace,
                profile::{KernelTime, Profiler},
                proof::{NUMBER_BYTES, Proof},
            },
            startup::{debug, known_delta::self_test_delta},
        },
        lengths::Lengths,
    },
    error::{Error, Result},
    graph::{Graph, StateKind},
    model::Model,
    plan::{Segment, Sizes},
};

/// A segment on the device.
pub struct GpuSegment {
    pub gpu: Arc<Gpu>,
    pub model: Arc<Model>,
    pub segment: Segment,
    pub sizes: Sizes,
    /// Device memory it takes.
    pub bytes: u64,
    pub shape: Shape,
    pub activations: ActivationBuffers,
    /// By layer.
    pub memories: Vec<LayerMemory>,
    /// For copies from one sequence to another, where there are several.
    pub copy_room: Option<wgpu::Buffer>,
    pub lists: Lists,
    pub uniforms: Option<Uniforms>,
    /// The way back of little: while one result is read, the next can be on its way, and one that nobody asked for.
    pub results: Readback,
    /// The way back of logits and hidden states.
    pub bulk: Readback,
    pub recorder: Recorder,
    /// That what was submitted was done.
    pub proof: Proof,
    pub readback_bytes: u64,
    /// Positions held of each sequence.
    pub lengths: Lengths,
    /// How much one submit of a prompt may be.
    pub pace: Pace,
    /// Failure that a test asks for in the step at hand.
    pub fault: Option<Fault>,
    pub flight: Flight,
    /// A step that is recorded before it is asked for.
    pub ahead: Option<RecordedStep>,
    /// One that nobody asked for, still under way.
    pub wasted: Option<Begun>,
    /// The next token, where the last step chose it and left it on the device.
    pub chosen: Option<Chosen>,
    pub held: Held,
    /// Flag that ends a step of several parts.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl GpuSegment {
    pub fn new(
        gpu: &Arc<Gpu>,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let planned = plan(gpu, model, segment, sizes)?;
        let bytes = bytes_of(&planned, model, segment);
        if bytes.total() > gpu.memory_bytes() {
            return Err(Error::GpuMemory {
                action: format!("planning memory for layers {:?}", segment.layers),
                reason: format!("{} bytes needed, {} available", bytes.total(), gpu.memory_bytes()),
            });
        }
        if let Some(size) = model.weights.act_group() {
            debug::self_test_grouped(gpu, size)?;
        }
        if let Some(delta) = &model.config.delta {
            self_test_delta(gpu, delta)?;
        }
        let Planned { layout, weights, shape } = planned;
        let config = &model.config;
        let arenas = Arenas::new(gpu, &layout)?;
        let activations = ActivationBuffers::new(gpu, config, &shape)?;
        gpu.check_load(bytes.total())?;
        let graph = Graph::of(config);
        let states = segment.layers.clone().map(|layer| graph.layer(layer).state);
        let memories = states.map(|state| memory(gpu, &shape, state)).collect::<Result<Vec<_>>>()?;
        let made = Made {
            gpu,
            model,
            segment,
            sizes,
            shape: &shape,
            weights: &weights,
            arenas: &arenas,
            activations: &activations,
            memories: &memories,
        };
        let (lists, uniforms) = Lists::new(&made)?;
        let result_bytes = if segment.head { shape.small_batch * RESULT_BYTES } else { 0 };
        let bulk_bytes = if segment.head { shape.logit_rows * config.vocab } else { shape.chunk_tokens * config.dim };
        let before = NUMBER_BYTES + 4;
        let results = Readback::new(gpu, 3, before + result_bytes as u64)?;
        // Beside logits there may be a few highest ones, of other rows.
        let bulk = Readback::new(gpu, 1, before + (result_bytes + 4 * bulk_bytes) as u64)?;
        weights.upload(gpu, &arenas, model, segment, progress)?;
        gpu.check("loading weights")?;

        Ok(Self {
            gpu: Arc::clone(gpu),
            model: Arc::clone(model),
            segment: segment.clone(),
            sizes: *sizes,
            bytes: bytes.total(),
            activations,
            lengths: Lengths::new(
                sizes.sequences,
                memories.iter().any(|memory| matches!(memory, LayerMemory::Recurrent(_))),
            ),
            memories,
            copy_room: copy_room(gpu, &shape)?,
            lists,
            uniforms,
            results,
            bulk,
            recorder: Recorder::default(),
            proof: Proof::new(gpu, segment.layers.len())?,
            readback_bytes: 0,
            pace: Pace::default(),
            fault: None,
            flight: Flight::default(),
            ahead: None,
            wasted: None,
            chosen: None,
            held: Held::new(sizes.sequences, shape.logit_rows),
            cancel: None,
            shape,
        })
    }

    /// Limits that callers may rely on.
    pub fn limits(&self) -> Limits {
        let most = if self.segment.head { MOST.min(self.model.config.vocab) } else { 0 };
        Limits {
            max_tokens: self.sizes.batch_tokens,
            exact_tokens: self.shape.small_batch,
            least_prompt: self.shape.small_batch + 1,
            mixes_rows: false,
            keeps_on_the_way: false,
            most_top: most,
            most_each: 0,
            most_summed: most,
            most_drafted: 0,
        }
    }

    /// Work of this segment so far, without the objects created.
    pub fn counters(&self) -> Counters {
        Counters {
            objects_created: 0,
            dispatches: self.recorder.dispatches,
            submits: self.recorder.submits,
            readback_bytes: self.readback_bytes,
            recording: self.recorder.recording,
        }
    }

    /// Times the kernels of the steps from here on.
    pub fn start_profile(&mut self) -> Result<()> {
        let bound = self.shape.window_slots.min(self.sizes.sequences) * self.sizes.context_tokens;
        self.recorder.profiler = Some(Profiler::new(&self.gpu, self.lists.most_dispatches(), bound)?);
        Ok(())
    }

    /// Ends the profile and returns the times of the kernels.
    pub fn take_profile(&mut self) -> Vec<KernelTime> {
        self.recorder.profiler.take().map(Profiler::finish).unwrap_or_default()
    }
}

fn memory(gpu: &Gpu, shape: &Shape, state: StateKind) -> Result<LayerMemory> {
    Ok(match state {
        StateKind::Kv { .. } => LayerMemory::Kv(caches(gpu, shape)?),
        StateKind::Recurrent { .. } => LayerMemory::Recurrent(Recurrent::new(gpu, state, shape.sequences)?),
    })
}

fn caches(gpu: &Gpu, shape: &Shape) -> Result<Vec<CacheWindow>> {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let window = |(index, slots): (u32, std::ops::Range<usize>)| {
        let bytes = |of_one: u64| (of_one * slots.len() as u64).max(16);
        let k = gpu.buffer("key cache", bytes(shape.k_bytes), usage)?;
        let v = gpu.buffer("value cache", bytes(shape.v_bytes), usage)?;
        Ok(CacheWindow { index, slots, k, v })
    };
    (0..).zip(shape.windows()).map(window).collect()
}

fn copy_room(gpu: &Gpu, shape: &Shape) -> Result<Option<wgpu::Buffer>> {
    let bytes = shape.copy_bytes();
    let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    if bytes == 0 { Ok(None) } else { gpu.buffer("room for copies of caches", bytes, usage).map(Some) }
}
