//! The loaded segments of a plan, and which of them run a kind of step.

use std::sync::Arc;

use crate::{
    backend::{Backend, SegmentId},
    error::{Error, Result},
    model::Model,
    plan::{BackendKind, Plan, Segment, Sizes},
};

/// Kind of work that tokens belong to. A plan may place both kinds on different backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An answer.
    Decode,
    /// A prompt.
    Prefill,
}

impl Phase {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Decode, Self::Prefill];
}

/// A segment on its backend.
pub(super) struct LoadedSegment {
    pub segment: Segment,
    /// Index of the backend.
    pub backend: usize,
    pub id: SegmentId,
}

impl LoadedSegment {
    /// Layers with a state: those of the segment, and a block of multi-token prediction.
    pub fn states(&self, sizes: &Sizes) -> usize {
        let has_mtp = sizes.mtp && self.segment.head && self.segment.backend == BackendKind::Cpu;
        self.segment.layers.len() + usize::from(has_mtp)
    }
}

/// The loaded segments, by phase.
pub(super) struct Phases {
    pub loaded: Vec<LoadedSegment>,
    decode: Vec<usize>,
    /// Where it differs; cut at the same layers.
    prefill: Option<Vec<usize>>,
}

impl Phases {
    /// Loads each segment once, also where both phases have it.
    pub fn load(
        model: &Arc<Model>,
        plan: &Plan,
        kinds: &[BackendKind],
        backends: &mut [Box<dyn Backend>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let mut loaded: Vec<LoadedSegment> = Vec::new();
        let mut load_all = |segments: &[Segment]| -> Result<Vec<usize>> {
            let mut indices = Vec::with_capacity(segments.len());
            for segment in segments {
                let same = |other: &LoadedSegment| {
                    other.segment.layers == segment.layers && other.segment.backend == segment.backend
                };
                if let Some(index) = loaded.iter().position(same) {
                    indices.push(index);
                    continue;
                }
                let backend = kinds.iter().position(|&kind| kind == segment.backend).ok_or_else(|| {
                    Error::missing(format!("the {} backend", segment.backend), format!("layers {:?}", segment.layers))
                })?;
                let id = backends[backend].load(model, segment, &plan.sizes, progress)?;
                indices.push(loaded.len());
                loaded.push(LoadedSegment { segment: segment.clone(), backend, id });
            }
            Ok(indices)
        };
        let decode = load_all(&plan.segments)?;
        let prefill = plan.prefill.as_deref().map(load_all).transpose()?;
        Ok(Self { loaded, decode, prefill })
    }

    /// True where prompts run on other segments than answers.
    pub fn differ(&self) -> bool {
        self.prefill.is_some()
    }

    /// The phase whose segments and states a step uses.
    pub fn effective(&self, phase: Phase) -> Phase {
        if self.differ() { phase } else { Phase::Decode }
    }

    /// The phase that has states of its own beside those of `phase`.
    pub fn other(&self, phase: Phase) -> Option<Phase> {
        self.differ().then_some(match phase {
            Phase::Decode => Phase::Prefill,
            Phase::Prefill => Phase::Decode,
        })
    }

    /// Indices into `loaded`, in the order of the layers.
    pub fn indices(&self, phase: Phase) -> impl Iterator<Item = usize> {
        let of_prefill = self.prefill.as_ref().filter(|_| phase == Phase::Prefill);
        of_prefill.unwrap_or(&self.decode).iter().copied()
    }

    /// The segments of a phase, in the order of the layers.
    pub fn segments(&self, phase: Phase) -> impl Iterator<Item = &LoadedSegment> {
        self.indices(phase).map(|index| &self.loaded[index])
    }
}
