//! Drafts by the model's block of multi-token prediction: from the embedding of a token and the layers' output before it,
//! the block predicts the token behind, and chains its own output for the one after that.
//!
//! Each token leaves a key and a value in the block, which take a product with the outputs of the layers. They are computed
//! when a draft is asked for, or many tokens wait: so that answers without drafts pay next to nothing.

use std::sync::Arc;

use bitnet_cpu_kernels::{ALIKE_TOKENS, Cpu, attention::Placed, dense, norm};

use super::{
    super::{Batch, SlotId},
    head,
    segment::CpuSegment,
};
use crate::{
    graph::{
        MtpGraph,
        op::{Op, Part, Slot},
    },
    model::{Config, Model, MtpBlock},
    plan::MTP_TOKENS,
};

/// Most tokens of a draft: each one is less likely than the one before.
pub(super) const MOST_DRAFTED: usize = 4;

/// Outputs that are kept behind the last one that was needed: as far as wrong drafts are taken back.
const KEPT_TOKENS: usize = ALIKE_TOKENS;

/// The last tokens of a sequence, with the layers' output (the final norm) before each.
#[derive(Debug)]
pub(super) struct Trail {
    dim: usize,
    /// Position of the first of `ids`.
    first: usize,
    ids: Vec<u32>,
    /// (ids + 1, dim): the output before each of them, zeros where it is not known, and that of the last one.
    outputs: Vec<f32>,
    /// Positions whose keys and values the block has.
    filled: usize,
}

impl Trail {
    pub fn new(dim: usize) -> Self {
        let mut outputs = Vec::with_capacity((MTP_TOKENS + 1) * dim);
        outputs.resize(dim, 0.0);
        Self { dim, first: 0, ids: Vec::with_capacity(MTP_TOKENS), outputs, filled: 0 }
    }

    fn end(&self) -> usize {
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
    fn shorten(&mut self) {
        let dropped = self.ids.len().saturating_sub(KEPT_TOKENS).min(self.filled - self.first);
        self.first += dropped;
        self.ids.drain(..dropped);
        self.outputs.drain(..dropped * self.dim);
    }
}

/// Buffers of the block. Between its input and its output it runs in those of the segment.
#[derive(Debug)]
pub(super) struct Mtp {
    graph: MtpGraph,
    /// (tokens, dim): the residual stream, while that of the segment holds the outputs of the layers.
    stream: Vec<f32>,
    /// (tokens, 2 dim): normed embeddings and outputs.
    joined: Vec<f32>,
    /// (dim): output before the next token, of the layers or of the block.
    output: Vec<f32>,
    /// (vocab): room for logits.
    logits: Vec<f32>,
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

impl CpuSegment {
    /// After a step over `batch`: notes its tokens `ids` and the outputs of the layers, which stand in the residual stream.
    pub(super) fn note_outputs(&mut self, cpu: &Cpu, batch: &Batch, ids: &[u32]) {
        let Some(mut mtp) = self.mtp.take() else { return };
        let mut trails = std::mem::take(&mut self.states.trails);
        std::mem::swap(&mut self.slots[Slot::Hidden as usize], &mut mtp.stream);
        let model = Arc::clone(&self.model);
        let (config, weight) = (&model.config, &model.weights.output_norm);
        let mut tokens = ids.iter().zip(0..);
        for row in &batch.rows {
            let trail = &mut trails[row.slot.index()];
            trail.cut(row.positions.start);
            for (&id, at) in tokens.by_ref().take(row.positions.len()) {
                trail.ids.push(id);
                let start = trail.outputs.len();
                trail.outputs.resize(start + config.dim, 0.0);
                let x = &mtp.stream[at * config.dim..][..config.dim];
                norm::rms_norm(cpu, x, config.dim, weight, config.rms_eps, &mut trail.outputs[start..]);
                if trail.ids.len() == MTP_TOKENS {
                    self.fill(cpu, &mut mtp, trail, row.slot);
                }
            }
        }
        std::mem::swap(&mut self.slots[Slot::Hidden as usize], &mut mtp.stream);
        self.states.trails = trails;
        self.mtp = Some(mtp);
    }

    /// A guess of at most `most` tokens behind `last`, which follows the tokens of a slot, into `ids`.
    pub(super) fn draft(
        &mut self,
        cpu: &Cpu,
        (slot, len): (SlotId, usize),
        last: u32,
        most: usize,
        ids: &mut Vec<u32>,
    ) {
        ids.clear();
        let Some(mut mtp) = self.mtp.take() else { return };
        let mut trails = std::mem::take(&mut self.states.trails);
        let trail = &mut trails[slot.index()];
        trail.cut(len);
        self.fill(cpu, &mut mtp, trail, slot);
        mtp.output.copy_from_slice(&trail.outputs[trail.ids.len() * trail.dim..]);
        let mut id = last;
        while ids.len() < most {
            let Some(next) = self.predict(cpu, &mut mtp, (slot, len + ids.len()), id) else { break };
            ids.push(next);
            id = next;
        }
        self.states.trails = trails;
        self.mtp = Some(mtp);
    }

    /// Computes the keys and values that a sequence lacks.
    fn fill(&mut self, cpu: &Cpu, mtp: &mut Mtp, trail: &mut Trail, slot: SlotId) {
        while trail.filled < trail.end() {
            let at = trail.filled - trail.first;
            let tokens = (trail.ids.len() - at).min(self.batch_tokens);
            let outputs = &trail.outputs[at * trail.dim..][..tokens * trail.dim];
            self.join(cpu, &mut mtp.joined, &trail.ids[at..][..tokens], outputs);
            self.run_block(cpu, &mtp.graph.keys, Placed { cache: slot.index(), start: trail.filled, tokens });
            trail.filled += tokens;
        }
        trail.shorten();
    }

    /// The token behind `id` at a position; the output before it becomes that of the block. `None` where the block gives no
    /// numbers.
    fn predict(&mut self, cpu: &Cpu, mtp: &mut Mtp, (slot, start): (SlotId, usize), id: u32) -> Option<u32> {
        self.join(cpu, &mut mtp.joined, &[id], &mtp.output);
        self.run_block(cpu, &mtp.graph.block, Placed { cache: slot.index(), start, tokens: 1 });
        let model = Arc::clone(&self.model);
        let (config, block) = (&model.config, block_of(&model));
        let weight = block.head_norm.as_ref().unwrap_or(&model.weights.output_norm);
        let [stream, normed] = self.slots([Slot::Hidden, Slot::Normed]);
        let normed = &mut normed[..config.dim];
        norm::rms_norm(cpu, &stream[..config.dim], config.dim, weight, config.rms_eps, normed);
        mtp.output.copy_from_slice(normed);
        if let Some(own) = &block.output {
            dense::matmul(cpu, own.view(), normed, &mut mtp.logits);
            return head::highest(&mtp.logits);
        }
        let normed = &mut self.slots[Slot::Normed as usize][..config.dim];
        self.head.as_mut()?.highest(cpu, &model, &self.rotations, normed, &mut mtp.logits)
    }

    /// The block's input, in the residual stream: of the embeddings of `ids`, and of the layers' `outputs` (ids, dim) before
    /// them.
    fn join(&mut self, cpu: &Cpu, joined: &mut [f32], ids: &[u32], outputs: &[f32]) {
        let model = Arc::clone(&self.model);
        let (config, block) = (&model.config, block_of(&model));
        let (dim, eps) = (config.dim, config.rms_eps);
        match &block.token_embd {
            Some(table) => {
                let stream = &mut self.slots[Slot::Hidden as usize];
                for (row, &id) in stream.chunks_exact_mut(dim).zip(ids) {
                    dense::gather(table.view(), id as usize, row);
                }
            }
            None => self.embed(cpu, ids),
        }
        let stream = &mut self.slots[Slot::Hidden as usize][..ids.len() * dim];
        let joined = &mut joined[..ids.len() * 2 * dim];
        for (i, both) in joined.chunks_exact_mut(2 * dim).enumerate() {
            let (embedding, output) = both.split_at_mut(dim);
            norm::rms_norm(cpu, &stream[i * dim..][..dim], dim, &block.embedding_norm, eps, embedding);
            norm::rms_norm(cpu, &outputs[i * dim..][..dim], dim, &block.hidden_norm, eps, output);
        }
        dense::matmul(cpu, block.join.view(), joined, stream);
    }

    fn run_block(&mut self, cpu: &Cpu, ops: &[Op], placed: Placed) {
        let model = Arc::clone(&self.model);
        self.rope.fill(placed.start..placed.start + placed.tokens);
        self.placed.clear();
        self.placed.push(placed);
        let behind = self.layers.len();
        ops.iter().for_each(|op| self.run_op(cpu, op, &block_of(&model).norms, behind, placed.tokens));
    }

    /// Products in f32 of the block's matrices.
    pub(super) fn dense(&mut self, cpu: &Cpu, input: Slot, parts: &[Part], tokens: usize) {
        let model = Arc::clone(&self.model);
        let (config, block) = (&model.config, block_of(&model));
        let width = tokens * input.width(config);
        for part in parts {
            let matrix = block.linear(part.weight).view();
            let len = tokens * part.out.width(config);
            if part.add {
                let [x, sum, out] = self.slots([input, Slot::Normed, part.out]);
                dense::matmul(cpu, matrix, &x[..width], &mut sum[..len]);
                out[..len].iter_mut().zip(&sum[..len]).for_each(|(out, sum)| *out += sum);
            } else {
                let [x, out] = self.slots([input, part.out]);
                dense::matmul(cpu, matrix, &x[..width], &mut out[..len]);
            }
        }
    }
}

/// The block of a model; only segments that have it ask.
fn block_of(model: &Model) -> &MtpBlock {
    model.weights.mtp.as_ref().unwrap_or_else(|| unreachable!("a segment with drafts has the block"))
}
