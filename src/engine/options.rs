//! Options of a caller: where and how a model runs.

use std::num::NonZeroUsize;

use crate::{
    backend::cpu::Kernel,
    error::{Error, Result},
    machine,
    plan::{KvType, Prefer, Request},
};

/// Where a model runs, and with what sizes. Change the fields of [`EngineOptions::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Which backend runs which layers.
    pub request: Request,
    /// Goal of [`Request::Auto`]. [`Prefer::Memory`] also leaves out copies that are there for speed, wherever a model runs.
    pub prefer: Prefer,
    /// The GPU: its number in the list of adapters, or a part of its name; `None`: the best one.
    pub device: Option<String>,
    /// Most bytes of GPU memory to use; `None`: what the driver says is free.
    pub gpu_memory: Option<u64>,
    /// CPU threads, at most [`Self::MOST_THREADS`]; `None`: one for each core this process may use, or what tuning found.
    pub threads: Option<NonZeroUsize>,
    /// Tokens of prompt and answer together. `None`: the model's context, at most 4096; `Some(0)`: the model's context.
    pub context_tokens: Option<usize>,
    /// Most prompt tokens computed at once.
    pub batch_tokens: usize,
    /// Sequences held at the same time.
    pub sequences: usize,
    /// Element type of the key cache.
    pub k_type: KvType,
    /// Element type of the value cache.
    pub v_type: KvType,
    /// The CPU kernel for every ternary matrix; `None`: what tuning found, else the fastest known.
    pub kernel: Option<Kernel>,
    /// Whether the output head gets a quantized copy.
    pub head: HeadScreen,
    /// Whether the model's block of multi-token prediction is loaded, for drafts, where it has one and its head is on the
    /// processor.
    pub mtp: bool,
    /// Whether the CPU goes on where a GPU fails in the middle of an answer, and fewer layers stay on a GPU whose memory
    /// runs out.
    pub failover: bool,
}

/// Whether the output head gets a quantized copy by which a step finds the highest logits without multiplying all rows.
/// Answers are the same either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadScreen {
    /// Where the copy is large enough to matter and faster to read than the head, and memory is not preferred.
    #[default]
    Auto,
    /// Wherever it can serve.
    On,
    /// Nowhere.
    Off,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            request: Request::Auto,
            prefer: Prefer::Speed,
            device: None,
            gpu_memory: None,
            threads: None,
            context_tokens: None,
            batch_tokens: 512,
            sequences: 1,
            k_type: KvType::F16,
            v_type: KvType::F16,
            kernel: None,
            head: HeadScreen::Auto,
            mtp: false,
            failover: true,
        }
    }
}

impl EngineOptions {
    /// Most CPU threads that can be asked for: each takes a thread of the system, whatever there is for it to do.
    pub const MOST_THREADS: usize = 512;

    /// Refuses numbers that no machine can serve.
    pub(super) fn validate(&self) -> Result<()> {
        match self.threads {
            Some(threads) if threads.get() > Self::MOST_THREADS => Err(Error::BadOption {
                name: "threads".into(),
                reason: format!("must be at most {}, not {threads}", Self::MOST_THREADS),
            }),
            _ => Ok(()),
        }
    }

    /// The number of CPU threads.
    pub fn thread_count(&self) -> usize {
        self.threads.map_or_else(|| machine::cores().threads, NonZeroUsize::get)
    }
}
