//! One loaded segment: its buffers, its KV caches, and the op interpreter.

use std::{ops::Range, sync::Arc};

use bitnet_cpu_kernels::{
    ALIKE_TOKENS, Cpu,
    attention::{self, KvCache, Placed},
    dense, gate, norm, quantize,
    quantize::QuantizedActs,
    rope::{self, RopeTable},
    ternary,
};

use super::{
    super::{Activations, Batch, Checkpoint, LayerState, Limits, SlotId, States},
    head::Head,
    matrices::Matrices,
};
use crate::{
    error::{Error, Remedy, Result},
    graph::{
        Graph, StateKind,
        op::{Op, Part, Slot},
    },
    model::{Activation, Block, Config, Linear, Model, Norm, PackedMatrix, RopeStyle},
    plan::{Segment, Sizes},
};

/// The buffers of one segment. Nothing here grows after [`CpuSegment::new`].
#[derive(Debug)]
pub(super) struct CpuSegment {
    model: Arc<Model>,
    graph: Graph,
    matrices: Matrices,
    layers: Range<usize>,
    embed: bool,
    head: Option<Head>,
    /// Rotations of the step's positions, one row a token.
    rope: RopeTable,
    /// The rows of the step, as attention takes them.
    placed: Vec<Placed>,
    /// One list a layer of the segment, with a cache for each sequence.
    caches: Vec<Vec<KvCache>>,
    /// By [`Slot`]; (batch_tokens, width) each.
    slots: [Vec<f32>; Slot::ALL.len()],
    /// Input of the next linear.
    quantized: QuantizedActs,
    batch_tokens: usize,
}

impl CpuSegment {
    /// # Errors
    /// [`Error::OutOfMemory`] if there is not the memory for the keys and values.
    pub(super) fn new(
        cpu: &Cpu,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        matrices: Matrices,
    ) -> Result<Self> {
        let config = &model.config;
        let graph = Graph::of(config);
        let widest = Slot::ALL.map(|slot| slot.width(config)).into_iter().max().unwrap_or(0);
        Ok(Self {
            rope: model.rope_table(sizes.batch_tokens),
            placed: Vec::with_capacity(sizes.sequences),
            caches: caches(&graph, segment, sizes)?,
            slots: Slot::ALL.map(|slot| vec![0.0; sizes.batch_tokens * slot.width(config)]),
            quantized: QuantizedActs::with_group(sizes.batch_tokens, widest, model.weights.act_group()),
            batch_tokens: sizes.batch_tokens,
            layers: segment.layers.clone(),
            embed: segment.embed,
            head: segment.head.then(|| Head::new(cpu, model, sizes)),
            model: Arc::clone(model),
            graph,
            matrices,
        })
    }

    /// True where it gives logits.
    pub(super) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Limits that callers may rely on.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_tokens: self.batch_tokens,
            exact_tokens: ALIKE_TOKENS.min(self.batch_tokens),
            most_top: self.head.as_ref().map_or(0, Head::most_top),
            // The sum over the vocabulary is only known where all of it is computed.
            most_summed: 0,
        }
    }

    /// Runs a batch from `input` to `out`, see [`super::super::Backend::submit`].
    pub(super) fn run(
        &mut self,
        cpu: &Cpu,
        name: &str,
        batch: &Batch,
        input: &Activations,
        out: &mut Activations,
    ) -> Result<()> {
        let tokens = batch.tokens();
        assert!((1..=self.batch_tokens).contains(&tokens), "{tokens} tokens in a batch of {}", self.batch_tokens);
        let not_finite = |place: String| Error::NotFinite { place, backend: name.to_owned() };
        let model = Arc::clone(&self.model);
        let hidden_len = tokens * model.config.dim;
        self.take_input(input, tokens);
        self.placed.clear();
        self.placed.extend(batch.rows.iter().map(|row| Placed {
            cache: row.slot.index(),
            start: row.positions.start,
            tokens: row.positions.len(),
        }));
        self.rope.fill(batch.rows.iter().flat_map(|row| row.positions.clone()));
        // Taken out for the loop so that ops can be read while buffers are written.
        let graph = std::mem::take(&mut self.graph);
        let damaged = self.layers.clone().enumerate().find(|&(index, layer)| {
            for op in &graph.layer(layer).ops {
                self.run_op(cpu, op, &model.weights.blocks[layer], index, tokens);
            }
            !norm::all_finite(&self.slots[Slot::Hidden as usize][..hidden_len])
        });
        self.graph = graph;
        if let Some((_, layer)) = damaged {
            return Err(not_finite(format!("layer {layer}")));
        }

        let hidden = &self.slots[Slot::Hidden as usize][..hidden_len];
        if let Some(head) = &mut self.head {
            head.run(cpu, &model, batch, hidden, out);
            if !norm::all_finite(&out.logits) {
                return Err(not_finite("the output head".into()));
            }
        } else {
            out.hidden.clear();
            out.hidden.extend_from_slice(hidden);
        }
        Ok(())
    }

    /// All logits of a slot whose last step gave candidates.
    pub(super) fn full_logits(&self, cpu: &Cpu, slot: SlotId, logits: &mut Vec<f32>) -> Result<()> {
        let head = self.head.as_ref().ok_or_else(|| Error::missing("the head", "logits"))?;
        head.full_logits(cpu, &self.model, slot, logits);
        Ok(())
    }

    /// Fills the residual stream from ids or from the hidden states of the segment before.
    fn take_input(&mut self, input: &Activations, tokens: usize) {
        let Model { config, weights } = &*self.model;
        let stream = &mut self.slots[Slot::Hidden as usize][..tokens * config.dim];
        if !self.embed {
            return stream.copy_from_slice(&input.hidden[..tokens * config.dim]);
        }
        assert_eq!(input.ids.len(), tokens, "one id for each position");
        for (row, &id) in stream.chunks_exact_mut(config.dim).zip(&input.ids) {
            dense::gather(weights.token_embd.view(), id as usize, row);
        }
        let scale = config.embedding_scale();
        if scale != 1.0 {
            stream.iter_mut().for_each(|x| *x *= scale);
        }
    }

    fn run_op(&mut self, cpu: &Cpu, op: &Op, block: &Block, index: usize, tokens: usize) {
        let config = &self.model.config;
        let weight = |norm: Norm| block.norm(norm).unwrap_or_else(|| panic!("no {norm:?} norm in this family"));
        match op {
            Op::Norm { input, norm, out, add } => {
                let len = tokens * config.dim;
                let [from, to] = self
                    .slots
                    .get_disjoint_mut([*input as usize, *out as usize])
                    .unwrap_or_else(|_| unreachable!("two different slots"));
                if *add {
                    // What is normed is not needed afterwards.
                    norm::rms_norm_in_place(cpu, &mut from[..len], config.dim, weight(*norm), config.rms_eps);
                    to[..len].iter_mut().zip(&from[..len]).for_each(|(to, from)| *to += from);
                } else {
                    norm::rms_norm(cpu, &from[..len], config.dim, weight(*norm), config.rms_eps, &mut to[..len]);
                }
            }
            Op::NormQuantize { input, norm } => {
                let width = input.width(config);
                let x = &self.slots[*input as usize][..tokens * width];
                quantize::norm_quantize(cpu, x, width, norm.map(weight), config.rms_eps, &mut self.quantized);
            }
            Op::Linear { parts } => {
                let matrix = |role| self.matrices.get(index, role, tokens);
                linear(cpu, &self.quantized, parts, matrix, &mut self.slots, tokens, config);
            }
            Op::HeadNorm { slot, norm } => {
                let x = &mut self.slots[*slot as usize][..tokens * slot.width(config)];
                norm::rms_norm_in_place(cpu, x, config.head_dim, weight(*norm), config.rms_eps);
            }
            Op::Rope => {
                let style = match config.rope.style {
                    RopeStyle::HalfSplit => rope::Style::HalfSplit,
                    RopeStyle::Interleaved => rope::Style::Interleaved,
                };
                for (slot, heads) in [(Slot::Q, config.heads), (Slot::K, config.kv_heads)] {
                    let x = &mut self.slots[slot as usize][..tokens * slot.width(config)];
                    rope::apply(cpu, x, heads, config.head_dim, &self.rope, style);
                }
            }
            Op::Attention => {
                let kv_len = tokens * config.kv_width();
                let [q, k, v, out] = self
                    .slots
                    .get_disjoint_mut([Slot::Q, Slot::K, Slot::V, Slot::Attn].map(|slot| slot as usize))
                    .unwrap_or_else(|_| unreachable!("four different slots"));
                let caches = &mut self.caches[index];
                attention::append(cpu, caches, &self.placed, &k[..kv_len], &v[..kv_len]);
                let q_len = tokens * Slot::Q.width(config);
                let scale = 1.0 / (config.head_dim as f32).sqrt();
                attention::attend(cpu, &q[..q_len], config.heads, caches, &self.placed, scale, &mut out[..q_len]);
            }
            Op::Gate(activation) => {
                let kind = match activation {
                    Activation::Relu2 => gate::Kind::Relu2,
                    Activation::Silu => gate::Kind::Silu,
                    Activation::GeluTanh => gate::Kind::GeluTanh,
                };
                let [gate, up] = self
                    .slots
                    .get_disjoint_mut([Slot::Gate as usize, Slot::Up as usize])
                    .unwrap_or_else(|_| unreachable!("two different slots"));
                let len = tokens * config.ffn_dim;
                gate::apply(cpu, kind, &mut gate[..len], &up[..len]);
            }
        }
    }
}

impl States for CpuSegment {
    fn clear(&mut self, _slot: SlotId) -> Result<()> {
        // Positions are overwritten as they are computed again.
        Ok(())
    }

    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()> {
        for caches in &mut self.caches {
            if let Ok([from, to]) = caches.get_disjoint_mut([from.index(), to.index()]) {
                to.copy_from(from, len);
            }
        }
        Ok(())
    }

    fn rewind(&mut self, _slot: SlotId, _len: usize) -> bool {
        true
    }

    fn checkpoint(&mut self, _slot: SlotId) -> Result<Checkpoint> {
        // Keys and values of earlier positions stay where they are.
        Ok(Checkpoint(0))
    }

    fn restore(&mut self, _slot: SlotId, _from: Checkpoint) -> Result<()> {
        Ok(())
    }

    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        let [k, v] = self.caches[layer][slot.index()].read(positions);
        *to = LayerState::Kv { k, v };
        Ok(())
    }

    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        match from {
            LayerState::Kv { k, v } => {
                self.caches[layer][slot.index()].write(positions.start, k, v);
                Ok(())
            }
            LayerState::Recurrent { .. } => {
                Err(Error::malformed(format!("state for layer {layer}"), "keys and values", "a recurrent state"))
            }
        }
    }
}

/// A cache for each layer and sequence.
fn caches(graph: &Graph, segment: &Segment, sizes: &Sizes) -> Result<Vec<Vec<KvCache>>> {
    let out_of_memory = || {
        let what = format!("the keys and values of {} tokens", sizes.context_tokens * sizes.sequences);
        let bytes = segment.layers.clone().map(|layer| sizes.state_bytes(graph.layer(layer).state)).sum();
        Error::OutOfMemory { what, bytes }.with_remedy(Remedy::ShrinkCache)
    };
    let of_layer = |layer| match graph.layer(layer).state {
        StateKind::Kv { kv_heads, head_dim } => {
            let cache = || KvCache::try_new(kv_heads, head_dim, sizes.context_tokens, sizes.k_type, sizes.v_type);
            (0..sizes.sequences).map(|_| cache().ok_or_else(out_of_memory)).collect::<Result<Vec<_>>>()
        }
        StateKind::Recurrent { .. } => Err(Error::unsupported("a recurrent layer", "the CPU has no kernels for it")),
    };
    segment.layers.clone().map(of_layer).collect()
}

/// All parts of a linear in one parallel region; at most three share an input in any known family.
fn linear<'a>(
    cpu: &Cpu,
    input: &QuantizedActs,
    parts: &[Part],
    matrix: impl Fn(Linear) -> &'a PackedMatrix,
    slots: &mut [Vec<f32>; Slot::ALL.len()],
    tokens: usize,
    config: &Config,
) {
    let mut outs = slots.each_mut().map(Some);
    let mut take = |part: &Part| {
        let out = outs[part.out as usize].take().unwrap_or_else(|| panic!("two parts write {:?}", part.out));
        let len = tokens * part.out.width(config);
        ternary::Part { weights: matrix(part.weight).view(), out: &mut out[..len], add: part.add }
    };
    match parts {
        [a] => ternary::matmul(cpu, input, &mut [take(a)]),
        [a, b] => ternary::matmul(cpu, input, &mut [take(a), take(b)]),
        [a, b, c] => ternary::matmul(cpu, input, &mut [take(a), take(b), take(c)]),
        _ => unreachable!("{} parts share one input", parts.len()),
    }
}
