//! Drafts by the model's block of multi-token prediction: from the embedding of a token and the layers' output before it,
//! the block predicts the token behind, and chains its own output for the one after that.
//!
//! Each token leaves a key and a value in the block, which take a product with the outputs of the layers. They are computed
//! when a draft is asked for, or many tokens wait: so that answers without drafts pay next to nothing.

use std::sync::Arc;

use bitnet_cpu_kernels::{Cpu, attention::Placed, dense, norm};

use super::{
    super::{Batch, SlotId},
    head,
    mtp_state::{Mtp, Trail},
    segment::CpuSegment,
};
use crate::{
    graph::op::{Op, Part, Slot},
    model::{Model, MtpBlock},
    plan::MTP_TOKENS,
};

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
            self.run_block(
                cpu,
                &mtp.graph.keys,
                Placed { cache: slot.index(), start: trail.filled, tokens, is_prompt: false },
            );
            trail.filled += tokens;
        }
        trail.shorten();
    }

    /// The token behind `id` at a position; the output before it becomes that of the block. `None` where the block gives no
    /// numbers.
    fn predict(&mut self, cpu: &Cpu, mtp: &mut Mtp, (slot, start): (SlotId, usize), id: u32) -> Option<u32> {
        self.join(cpu, &mut mtp.joined, &[id], &mtp.output);
        self.run_block(cpu, &mtp.graph.block, Placed { cache: slot.index(), start, tokens: 1, is_prompt: false });
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
