//! Placement of layers on backends: pure data, printable and testable without hardware.
//!
//! In: a [`crate::model::Config`], tensor sizes, and what each backend can do. Out: a [`Plan`].

mod cost;
mod demand;
mod schedule;

use std::{fmt, ops::Range};

use bitnet_cpu_kernels::attention::KvCache;
pub use bitnet_cpu_kernels::attention::KvType;

pub use cost::{BackendCost, Costs, LayerSplit, StepCost, Workload};
pub use demand::{Demand, SegmentBytes};
pub use schedule::{GpuFacts, Prefer, Question, Request, schedule, shrink};

use crate::{
    graph::{CHECKPOINTS, Graph, StateKind},
    model::Config,
};

/// Tokens that the block of multi-token prediction takes at once: enough that reading its weights does not count beside the
/// multiply-adds.
pub(crate) const MTP_TOKENS: usize = 64;

/// Which engine runs a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// SIMD kernels on the processor.
    Cpu,
    /// Compute shaders through wgpu.
    Gpu,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU",
            Self::Gpu => "GPU",
        })
    }
}

/// Consecutive layers on one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The layers, half-open.
    pub layers: Range<usize>,
    /// Who runs them.
    pub backend: BackendKind,
    /// Begins with the embedding: takes ids instead of hidden states.
    pub embed: bool,
    /// Ends with the output head: gives logits instead of hidden states.
    pub head: bool,
    /// Why, in words.
    pub reason: String,
}

/// The segments of a model in order, and the sizes their caches are made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Contiguous, covering all layers; the first has `embed`, the last has `head`. For single tokens, and for
    /// prompts too unless there is a plan for those.
    pub segments: Vec<Segment>,
    /// For prompts, where another placement pays: cut at the same layers as `segments`.
    pub prefill: Option<Vec<Segment>>,
    /// Sizes that every backend is loaded with.
    pub sizes: Sizes,
}

impl Plan {
    /// Every layer on the CPU.
    pub fn all_cpu(layers: usize, sizes: Sizes, reason: &str) -> Self {
        Self { segments: schedule::segments(layers, 0, reason, ""), prefill: None, sizes }
    }

    /// This plan without the head: the last segments hand the residual stream over.
    #[must_use]
    pub fn without_head(mut self) -> Self {
        for segment in self.prefill.iter_mut().flatten().chain(&mut self.segments) {
            segment.head = false;
        }
        self
    }

    /// True where a block of multi-token prediction sees all outputs of the layers: the head is on the processor in both
    /// phases. Those of a GPU stay there.
    pub fn drafts_on_cpu(&self) -> bool {
        let on_cpu = |segment: &Segment| segment.head && segment.backend == BackendKind::Cpu;
        self.prefill.is_none() && self.segments.last().is_some_and(on_cpu)
    }

    /// The segments of both phases; those of the prompt first where they differ.
    pub fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        self.prefill.iter().flatten().chain(&self.segments)
    }

    /// True where some layer runs on `backend` in some phase.
    pub fn runs_on(&self, backend: BackendKind) -> bool {
        self.all_segments().any(|segment| segment.backend == backend)
    }

    /// Layers with weights on the GPU.
    pub fn gpu_layers(&self) -> usize {
        let on_gpu = self.all_segments().filter(|segment| segment.backend == BackendKind::Gpu);
        on_gpu.map(|segment| segment.layers.len()).max().unwrap_or(0)
    }
}

/// Sizes chosen before loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Sequences at a time, each with states of its own.
    pub sequences: usize,
    /// Positions that the KV cache of a sequence holds.
    pub context_tokens: usize,
    /// Most tokens of one step.
    pub batch_tokens: usize,
    /// Element type of the key cache.
    pub k_type: KvType,
    /// Element type of the value cache.
    pub v_type: KvType,
    /// A segment with the head keeps a copy of it in fewer bits, for steps that want the highest logits alone.
    pub head_screen: bool,
    /// A segment with the head on the processor keeps the block of multi-token prediction, for drafts.
    pub mtp: bool,
}

impl Sizes {
    /// Sizes for one sequence with a cache of f16 and no copy of the head.
    pub fn new(context_tokens: usize, batch_tokens: usize) -> Self {
        let ty = KvType::F16;
        Self { sequences: 1, context_tokens, batch_tokens, k_type: ty, v_type: ty, head_screen: false, mtp: false }
    }

    /// With keys and values of these types.
    #[must_use]
    pub fn with_kv(self, k_type: KvType, v_type: KvType) -> Self {
        Self { k_type, v_type, ..self }
    }

    /// Bytes that a layer with such a state keeps for all sequences at the full context.
    #[doc(hidden)]
    pub fn state_bytes(&self, state: StateKind) -> u64 {
        let of_one = match state {
            StateKind::Kv { kv_heads, head_dim } => {
                KvCache::bytes(kv_heads, head_dim, self.context_tokens, self.k_type, self.v_type)
            }
            StateKind::Recurrent { conv: (channels, positions), heads, key_dim, value_dim } => {
                let values = channels.saturating_mul(positions).saturating_add(heads * key_dim * value_dim);
                // As it goes on, and as it was at each checkpoint.
                values.saturating_mul((1 + CHECKPOINTS) * size_of::<f32>())
            }
        };
        (of_one as u64).saturating_mul(self.sequences as u64)
    }

    /// Bytes that the block of multi-token prediction keeps for all sequences: keys and values of each position, and the
    /// last outputs of the layers.
    pub fn mtp_state_bytes(&self, config: &Config) -> u64 {
        let outputs = self.sequences.saturating_mul((MTP_TOKENS + 1) * config.dim * size_of::<f32>());
        self.state_bytes(StateKind::of_attention(config)).saturating_add(outputs as u64)
    }

    /// The part of [`Self::model_state_bytes`] that layers keep that are no attention, whatever the context.
    pub fn recurrent_bytes(&self, config: &Config, layers: Range<usize>) -> u64 {
        let states = layers.map(|layer| StateKind::of(config, layer)).filter(|state| !state.can_rewind());
        states.fold(0, |sum, state| u64::saturating_add(sum, self.state_bytes(state)))
    }

    /// Bytes that all layers of a model keep for all sequences at the full context.
    pub fn model_state_bytes(&self, config: &Config) -> u64 {
        let graph = Graph::of(config);
        (0..config.layers).fold(0, |sum, layer| u64::saturating_add(sum, self.state_bytes(graph.layer(layer).state)))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.layers.end.saturating_sub(1);
        write!(f, "{}: ", self.backend)?;
        if self.layers.len() == 1 {
            write!(f, "layer {last}")?;
        } else {
            write!(f, "layers {}-{last}", self.layers.start)?;
        }
        if self.head {
            write!(f, " and the head")?;
        }
        write!(f, " ({})", self.reason)
    }
}
