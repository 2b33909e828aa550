//! The boundary between what to compute and who computes it.
//!
//! Only token ids, hidden states (T, dim) f32 and logits cross it. All allocation happens in
//! [`Backend::load`]; [`Backend::run`] allocates and creates nothing.

pub mod calibrate;
mod candidates;
pub mod cpu;
pub mod energy;
pub mod gpu;
mod known_layer;
mod known_product;

use std::{any::Any, ops::Range, sync::Arc};

pub use bitnet_cpu_kernels::attention::KvRows;

pub use candidates::{Candidates, Rest, Scored};

use crate::{
    error::Result,
    model::Model,
    plan::{Segment, Sizes},
};

/// Which logits a step must produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: an early part of a prompt. The head is not run.
    Nothing,
    /// Those of the last token.
    Last,
    /// Those of every token (perplexity, and drafts to be checked).
    All,
    /// Of the last token at least this many of the highest, in `candidates`. A backend without a shortcut for so
    /// many gives all of them in `logits`, as for `Last`.
    Top(usize),
}

/// What crosses a segment's edge; reused from step to step.
#[derive(Debug, Default)]
pub struct Activations {
    /// Input of a segment with `embed`: (T) token ids below the vocabulary size.
    pub ids: Vec<u32>,
    /// Input and output between segments: (T, dim).
    pub hidden: Vec<f32>,
    /// Output of a segment with `head`: (0, 1 or T rows by [`Wanted`], vocab).
    pub logits: Vec<f32>,
    /// Output of a segment with `head` that took the shortcut of [`Wanted::Top`]; `logits` is empty then, and
    /// otherwise this is.
    pub candidates: Candidates,
    /// Rows of the head that the last step multiplied exactly: with `candidates`, fewer than the vocabulary.
    pub head_rows: usize,
}

/// Keys and values of one layer at some positions, on their way from one backend's cache to another's.
#[derive(Debug, Default)]
pub struct CacheRows {
    /// Keys.
    pub k: KvRows,
    /// Values.
    pub v: KvRows,
}

/// Names a loaded segment of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentId(pub usize);

/// Runs consecutive layers of a model and holds their KV cache.
///
/// `Any`, so that `bench` can ask a GPU for what only a GPU can tell.
pub trait Backend: Any {
    /// A name for summaries: "CPU (avx2, 2 threads)", "GPU (AMD Radeon 780M, Vulkan)".
    fn name(&self) -> &str;

    /// Uploads the weights of `segment`, allocates its cache, buffers and pipelines.
    /// `progress` is told the bytes of weights finished since the last call.
    fn load(
        &mut self,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SegmentId>;

    /// Up to this many tokens in one [`run`](Self::run) of `segment` give the same bits as so many runs of one token.
    fn alike_tokens(&self, _segment: SegmentId) -> usize {
        1
    }

    /// Runs T = `positions.len()` tokens (1 ..= `batch_tokens`) at those positions. `positions.start` must
    /// not exceed the tokens already cached: what the cache held from there on is overwritten.
    ///
    /// Reads `ids` or `hidden` and replaces `hidden` or `logits` and `candidates`, by the segment's `embed` and `head`.
    /// NaN or infinity is [`crate::Error::NotFinite`], naming the layer.
    fn run(
        &mut self,
        segment: SegmentId,
        activations: &mut Activations,
        positions: Range<usize>,
        wanted: Wanted,
    ) -> Result<()>;

    /// Replaces `rows` by the keys and values that `layer` (counted from the first of the segment) has cached at
    /// `positions`.
    fn read_cache(
        &mut self,
        segment: SegmentId,
        layer: usize,
        positions: Range<usize>,
        rows: &mut CacheRows,
    ) -> Result<()>;

    /// Caches `rows` at `positions` as if they had been computed there. Positions before must be cached already.
    fn write_cache(
        &mut self,
        segment: SegmentId,
        layer: usize,
        positions: Range<usize>,
        rows: &CacheRows,
    ) -> Result<()>;
}
