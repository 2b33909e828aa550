//! Recording of a part of a step.

use std::{ops::Range, sync::atomic::Ordering};

use super::{
    held::Place,
    lists::HeadLists,
    loaded::GpuSegment,
    part::{HeadPart, List, Part},
    rows::{self, Output, StepRow},
};
use crate::{
    backend::gpu::{
        buffers::{
            activations::ActivationBuffers,
            readback::{Pending, Readback},
            shape::{BATCH_HEADER_BYTES, TILE_TOKENS, attention_macs, layer_macs},
        },
        device::Fault,
        kernels::params::Dynamic,
        lower::lowering::place_code,
        record::encode::{Dispatch, Recorded, StepParams},
    },
    error::{Error, Result},
    model::Config,
};

impl GpuSegment {
    pub fn new_encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Writes the tokens of `chunk`, whose ids are given, or none where hidden states come in.
    pub fn write_tokens(&mut self, rows: &[StepRow], chunk: &Range<usize>, ids: &[u32]) {
        let mut words = Vec::with_capacity(4 * chunk.len());
        for row in rows {
            for token in row.tokens.start.max(chunk.start)..row.tokens.end.min(chunk.end) {
                let id = ids.get(token).copied().unwrap_or(0);
                words.extend(row.token_words(token, id, chunk, &self.sizes));
            }
        }
        self.gpu.queue.write_buffer(&self.activations.batch, BATCH_HEADER_BYTES, bytemuck::cast_slice(&words));
    }

    /// Records a part of a step of these rows. Of several submits, all but the last are made at once.
    pub fn record(&mut self, part: &Part, rows: &[StepRow]) -> Result<(Recorded, Pending)> {
        let mut encoder = self.new_encoder();
        if part.layers.is_some() {
            match self.fault {
                // In place of the zero of a sound step; kernels only ever raise it.
                Some(Fault::NotFinite(_)) => {
                    self.gpu.queue.write_buffer(&self.activations.batch, 0, &place_code(1).to_le_bytes());
                }
                _ => encoder.clear_buffer(&self.activations.batch, 0, Some(4)),
            }
        }
        self.proof.restart();
        self.make_way(&mut encoder, part, rows);
        self.record_dispatches(&mut encoder, part, rows)?;
        let Self { activations, lists, model, segment, results, bulk, recorder, proof, .. } = self;
        let readback = if is_bulk(part, rows, segment.head) { bulk } else { results };
        let mut sources = sources(activations, lists.head.as_ref(), &model.config, part, rows);
        sources.insert(0, proof.source());
        let pending = readback.record(&mut encoder, &sources);
        Ok((recorder.finish(encoder), pending))
    }

    /// The way back of a part's results.
    pub fn readback(&mut self, part: &Part, rows: &[StepRow]) -> &mut Readback {
        if is_bulk(part, rows, self.segment.head) { &mut self.bulk } else { &mut self.results }
    }

    /// Copies what other sequences may still need out of the rows that this part overwrites.
    fn make_way(&mut self, encoder: &mut wgpu::CommandEncoder, part: &Part, rows: &[StepRow]) {
        if part.head.as_ref().is_none_or(|head| head.normed >= self.shape.logit_rows) {
            return;
        }
        let row_bytes = 4 * self.model.config.dim as u64;
        let shared: Vec<_> = self.held.shared().collect();
        for (slot, at) in shared {
            let of_step = rows.iter().any(|row| row.slot == slot);
            if !of_step {
                let (from, to) = (&self.activations.normed, &self.activations.kept);
                encoder.copy_buffer_to_buffer(
                    from,
                    row_bytes * at as u64,
                    to,
                    row_bytes * slot.index() as u64,
                    row_bytes,
                );
            }
            self.held.set(slot, (!of_step).then_some(Place::Kept));
        }
    }

    /// Layers and logits. What is behind the last submit between layers is one compute pass.
    fn record_dispatches(&mut self, encoder: &mut wgpu::CommandEncoder, part: &Part, rows: &[StepRow]) -> Result<()> {
        let per_submit = part.layers.map_or(1, |list| self.layers_per_submit(list, part, rows));
        let Self { gpu, recorder, uniforms, lists, cancel, proof, .. } = self;
        let mut earlier = None;
        let (embed, layers): (&[Dispatch], &[Vec<Dispatch>]) = match part.layers {
            None => (&[], &[]),
            Some(List::Decode) => (&lists.embed, &lists.decode),
            Some(List::Few) => (&lists.embed, &lists.few),
            Some(List::Prefill) => (&lists.embed, &lists.prefill),
        };
        let last = layers.len().saturating_sub(1) / per_submit * per_submit;
        for first in (0..last).step_by(per_submit) {
            let embed = if first == 0 { embed } else { &[] };
            let dispatches = embed.iter().chain(layers[first..first + per_submit].iter().flatten());
            recorder.record(encoder, dispatches.map(|dispatch| (&part.params, dispatch)), uniforms);
            if first == 0 {
                proof.begin(gpu);
            }
            proof.hand_on(encoder);
            let next = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let full = recorder.finish(std::mem::replace(encoder, next));
            let submitted = recorder.submit(gpu, full, uniforms)?;
            // Who may be cancelled does not hand over more than the device needs to be busy.
            if let Some(raised) = cancel
                && let Some(before) = earlier.replace(submitted)
            {
                gpu.wait(before)?;
                if raised.load(Ordering::Relaxed) {
                    return Err(Error::Cancelled);
                }
            }
        }
        let embed = if last == 0 { embed } else { &[] };
        let dispatches = embed.iter().chain(layers[last..].iter().flatten());
        let dispatches = dispatches.map(|dispatch| (&part.params, dispatch));
        match (&part.head, &lists.head) {
            (Some(head), Some(list)) => {
                let params = head_params(part, head);
                let logits = head_dispatches(list, head).map(|dispatch| (&params, dispatch));
                recorder.record(encoder, dispatches.chain(logits), uniforms);
            }
            _ => recorder.record(encoder, dispatches, uniforms),
        }
        Ok(())
    }

    /// A single token goes into one submit, whatever its size: it is bound by memory, 35 ms for a 7B model at 50 GB/s. So a
    /// submit is never less than what a token takes.
    fn layers_per_submit(&self, list: List, part: &Part, rows: &[StepRow]) -> usize {
        let layers = self.segment.layers.len();
        let macs = self.layer_macs(list, part, rows);
        let fitting = (self.pace.submit_macs() / macs.max(1)) as usize;
        let least = if list == List::Prefill { 1 } else { layers.div_ceil(part.chunk.len()) };
        fitting.max(least).max(1)
    }

    /// Multiply-adds of one layer of a part.
    pub fn layer_macs(&self, list: List, part: &Part, rows: &[StepRow]) -> u64 {
        let config = &self.model.config;
        let tokens = part.chunk.len();
        let computed = if list == List::Prefill { tokens.next_multiple_of(TILE_TOKENS) } else { tokens };
        let attended = rows.iter().map(|row| {
            let own = row.tokens.end.min(part.chunk.end).saturating_sub(row.tokens.start.max(part.chunk.start));
            attention_macs(config, row.end_position(part.chunk.end)) * own as u64
        });
        layer_macs(config) * computed as u64 + attended.sum::<u64>()
    }
}

/// Parameters for the kernels of the head.
fn head_params(part: &Part, head: &HeadPart) -> StepParams {
    let dynamic = Dynamic {
        tokens: head.tokens.len() as u32,
        normed: head.normed as u32,
        first: (head.tokens.start - part.chunk.start) as u32,
        ..part.params.dynamic
    };
    StepParams { dynamic, ..part.params }
}

/// Logits, and what chooses among them.
fn head_dispatches<'a>(list: &'a HeadLists, head: &HeadPart) -> impl Iterator<Item = &'a Dispatch> {
    let tokens = head.tokens.len();
    let screened = head.choice.zip(list.screen.as_ref()).filter(|_| head.screened);
    let full = screened.is_none().then(|| {
        let logits = if tokens == 1 { &list.one } else { &list.many };
        std::iter::once(&list.norm).chain(logits)
    });
    let screened = screened.map(|(choice, screen)| screen.dispatches(choice, tokens));
    let chosen = head.choice.map(|choice| list.select.dispatches(choice));
    full.into_iter().flatten().chain(screened.into_iter().flatten()).chain(chosen.into_iter().flatten())
}

/// Places to read back of a part, in this order: the word for damage, then each output.
fn sources<'a>(
    activations: &'a ActivationBuffers,
    list: Option<&'a HeadLists>,
    config: &Config,
    part: &Part,
    rows: &[StepRow],
) -> Vec<(&'a wgpu::Buffer, u64, u64)> {
    let mut sources = vec![(&activations.batch, 0, 4)];
    if list.is_none() {
        sources.push((&activations.hidden, 0, 4 * (part.chunk.len() * config.dim) as u64));
    }
    let (Some(head), Some(list)) = (&part.head, list) else { return sources };
    let row_bytes = 4 * config.vocab as u64;
    for output in rows::outputs(rows, &head.tokens) {
        match output {
            Output::Logits { tokens, .. } => {
                let before = (tokens.start - head.tokens.start) as u64;
                sources.push((&activations.logits, row_bytes * before, row_bytes * tokens.len() as u64));
            }
            Output::Highest { token, choice, .. } => {
                let at = token - head.tokens.start;
                sources.push(list.select.source(choice, at));
                let screen = list.screen.as_ref().filter(|_| head.screened);
                sources.extend(screen.map(|screen| screen.exact_rows(at)));
            }
        }
    }
    sources
}

/// Whether a part's results are more than a few candidates.
pub fn is_bulk(part: &Part, rows: &[StepRow], has_head: bool) -> bool {
    let logits = |output| matches!(output, Output::Logits { .. });
    !has_head || part.head.as_ref().is_some_and(|head| rows::outputs(rows, &head.tokens).any(logits))
}
