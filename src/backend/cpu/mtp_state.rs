//! Buffers of drafts: the tokens that they go on from, and those of the block that makes them.

use bitnet_cpu_kernels::ALIKE_TOKENS;

use crate::{graph::MtpGraph, model::Config, plan::MTP_TOKENS};

/// Most tokens of a draft: each one is less likely than the one before.
pub(super) const MOST_DRAFTED: usize = 4;

/// Outputs that are kept behind the last one that was needed: as far as wrong drafts are taken back.
const KEPT_TOKENS: usize = ALIKE_TOKENS;

/// The last tokens of a sequence, with the layers' output (the final norm) before each.
#[derive(Debug)]
pub(super) struct Trail {
    pub(super) dim: usize,
    /// Position of the first of `ids`.
    pub(super) first: usize,
    pub(super) ids: Vec<u32>,
    /// (ids + 1, dim): the output before each of them, zeros where it is not known, and that of the last one.
    pub(super) outputs: Vec<f32>,
    /// Positions whose keys and values the block has.
    pub(super) filled: usize,
}

impl Trail {
    pub fn new(dim: usize) -> Self {
        let mut outputs = Vec::with_capacity((MTP_TOKENS + 1) * dim);
        outputs.resize(dim, 0.0);
        Self { dim, first: 0, ids: Vec::with_capacity(MTP_TOKENS), outputs, filled: 0 }
    }

    pub fn end(&self) -> usize {
        self.first + self.ids.len()
    }

    /// Begins behind `len` tokens that are not known.
    pub fn begin(&mut self, len: usize) {
        (self.first, self.filled) = (len, len);
        self.ids.clear();
        self.outputs.clear();
        self.outputs.resize(self.dim, 0.0);
    }

    /// Becomes what `from` is.
    pub fn copy_from(&mut self, from: &Self) {
        (self.first, self.filled) = (from.first, from.filled);
        self.ids.clear();
        self.ids.extend_from_slice(&from.ids);
        self.outputs.clear();
        self.outputs.extend_from_slice(&from.outputs);
    }

    /// Ends behind `len` tokens.
    pub fn cut(&mut self, len: usize) {
        if !(self.first..=self.end()).contains(&len) {
            return self.begin(len);
        }
        self.ids.truncate(len - self.first);
        self.outputs.truncate((self.ids.len() + 1) * self.dim);
        self.filled = self.filled.min(len);
    }

    /// Drops what no draft needs any more.
    pub fn shorten(&mut self) {
        let dropped = self.ids.len().saturating_sub(KEPT_TOKENS).min(self.filled - self.first);
        self.first += dropped;
        self.ids.drain(..dropped);
        self.outputs.drain(..dropped * self.dim);
    }
}

/// Buffers of the block. Between its input and its output it runs in those of the segment.
#[derive(Debug)]
pub(super) struct Mtp {
    pub(super) graph: MtpGraph,
    /// (tokens, dim): the residual stream, while that of the segment holds the outputs of the layers.
    pub(super) stream: Vec<f32>,
    /// (tokens, 2 dim): normed embeddings and outputs.
    pub(super) joined: Vec<f32>,
    /// (dim): output before the next token, of the layers or of the block.
    pub(super) output: Vec<f32>,
    /// (vocab): room for logits.
    pub(super) logits: Vec<f32>,
}

impl Mtp {
    pub fn new(config: &Config) -> Self {
        Self {
            graph: MtpGraph::of(config),
            stream: vec![0.0; MTP_TOKENS * config.dim],
            joined: vec![0.0; MTP_TOKENS * 2 * config.dim],
            output: vec![0.0; config.dim],
            logits: vec![0.0; config.vocab],
        }
    }
}
