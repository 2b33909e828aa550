//! One loaded segment: its buffers, and the op interpreter.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bitnet_cpu_kernels::{
    ALIKE_TOKENS, Cpu,
    attention::{self, Placed},
    bias, delta, dense, gate, norm, quantize,
    quantize::QuantizedActs,
    rope::{self, RopeTable},
    rotate, ternary,
};

use super::{
    super::{Activations, Batch, Limits, SlotId},
    head::Head,
    inputs::KEPT,
    matrices::Matrices,
    mtp_state::{MOST_DRAFTED, Mtp},
    rotations::Rotations,
    spans::Spans,
    states::{LayerStates, SegmentStates, delta_shape},
};
use crate::{
    bytes::Bytes,
    error::{Error, Result},
    graph::{
        Graph,
        op::{Op, Part, Slot},
    },
    model::{Activation, Block, Config, Linear, Model, Norm, PackedMatrix, RopeStyle},
    plan::{Segment, Sizes},
};

/// The buffers of one segment. Nothing here grows after [`CpuSegment::new`].
#[derive(Debug)]
pub(super) struct CpuSegment {
    pub(super) model: Arc<Model>,
    graph: Graph,
    matrices: Matrices,
    pub(super) layers: Range<usize>,
    embed: bool,
    pub(super) head: Option<Head>,
    /// Rotations of the step's positions, one row a token.
    pub(super) rope: RopeTable,
    /// The rows of the step, as attention takes them.
    pub(super) placed: Vec<Placed>,
    /// The same, as recurrent layers take them.
    pub(super) spans: Spans,
    pub(super) states: SegmentStates,
    pub(super) rotations: Rotations,
    /// Convolution weights by layer of the segment; `None` for layers of attention.
    taps: Vec<Option<delta::Taps>>,
    /// By [`Slot`]; (batch_tokens, width) each.
    pub(super) slots: [Vec<f32>; Slot::ALL.len()],
    /// Input of the next linear.
    quantized: QuantizedActs,
    pub(super) batch_tokens: usize,
    /// Makes drafts.
    pub(super) mtp: Option<Mtp>,
}

impl CpuSegment {
    /// # Errors
    /// [`Error::OutOfMemory`] if there is not the memory for the states.
    pub(super) fn new(
        cpu: &Cpu,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        matrices: Matrices,
    ) -> Result<Self> {
        let config = &model.config;
        let graph = Graph::of(config);
        let rotations = Rotations::of(config)?;
        let block = model.weights.mtp.as_ref().filter(|_| segment.head && sizes.mtp);
        let widest = Slot::ALL.map(|slot| slot.width(config)).into_iter().max().unwrap_or(0);
        Ok(Self {
            rope: model.rope_table(sizes.batch_tokens, sizes.context_tokens),
            placed: Vec::with_capacity(sizes.sequences),
            spans: Spans::new(sizes.sequences),
            states: SegmentStates::new(&graph, config, segment, sizes, block.is_some())?,
            taps: segment.layers.clone().map(|layer| taps(model, layer)).collect(),
            slots: Slot::ALL.map(|slot| vec![0.0; sizes.batch_tokens * slot.width(config)]),
            quantized: QuantizedActs::with_group(sizes.batch_tokens, widest, model.weights.act_group()),
            batch_tokens: sizes.batch_tokens,
            mtp: block.map(|_| Mtp::new(config)),
            layers: segment.layers.clone(),
            embed: segment.embed,
            head: segment.head.then(|| Head::new(cpu, model, sizes)),
            rotations,
            model: Arc::clone(model),
            graph,
            matrices,
        })
    }

    /// The codes of its matrices, as a step of one token reads them.
    pub(super) fn weights(&self) -> impl Iterator<Item = &Bytes> {
        self.matrices.of_few()
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
            least_prompt: 1,
            mixes_rows: true,
            keeps_on_the_way: true,
            most_top: self.head.as_ref().map_or(0, Head::most_top),
            most_each: self.head.as_ref().map_or(0, Head::most_top),
            // The sum over the vocabulary is only known where all of it is computed.
            most_summed: 0,
            most_drafted: if self.mtp.is_some() { MOST_DRAFTED } else { 0 },
        }
    }

    /// Runs a batch from `input` to `out`, see [`super::super::Backend::submit`]; gives up between two ops where `cancel` is
    /// raised.
    pub(super) fn run(
        &mut self,
        (cpu, name, cancel): (&Cpu, &str, Option<&AtomicBool>),
        batch: &Batch,
        input: &Activations,
        out: &mut Activations,
    ) -> Result<()> {
        let tokens = batch.tokens();
        assert!((1..=self.batch_tokens).contains(&tokens), "{tokens} tokens in a batch of {}", self.batch_tokens);
        let not_finite = |place: String| Error::NotFinite { place, backend: name.to_owned() };
        let model = Arc::clone(&self.model);
        let hidden_len = tokens * model.config.dim;
        self.settle(cpu);
        self.take_input(cpu, input, tokens);
        self.placed.clear();
        self.placed.extend(batch.rows.iter().map(|row| Placed {
            cache: row.slot.index(),
            start: row.positions.start,
            tokens: row.positions.len(),
            is_prompt: row.is_prompt,
        }));
        self.spans.set(&batch.rows);
        self.rope.fill(batch.rows.iter().flat_map(|row| row.positions.clone()));
        self.states.begin(&batch.rows);
        // Taken out for the loop so that ops can be read while buffers are written.
        let graph = std::mem::take(&mut self.graph);
        let mut is_cancelled = false;
        let damaged = self.layers.clone().enumerate().find(|&(index, layer)| {
            let ops = &graph.layer(layer).ops;
            for (at, op) in ops.iter().enumerate() {
                is_cancelled |= cancel.is_some_and(|raised| raised.load(Ordering::Relaxed));
                if is_cancelled {
                    return true;
                }
                if let Op::Linear { .. } = op {
                    let after = if layer + 1 < self.layers.end { &graph.layer(layer + 1).ops[..] } else { &[] };
                    let rest = ops[at + 1..].iter().map(|op| (index, op));
                    self.fetch_ahead(cpu, rest.chain(after.iter().map(|op| (index + 1, op))), tokens);
                }
                self.run_op(cpu, op, &model.weights.blocks[layer], index, tokens);
            }
            !norm::all_finite(&self.slots[Slot::Hidden as usize][..hidden_len])
        });
        self.graph = graph;
        if is_cancelled {
            return Err(Error::Cancelled);
        }
        if let Some((_, layer)) = damaged {
            return Err(not_finite(format!("layer {layer}")));
        }
        self.states.finish(&batch.rows);

        let hidden = &self.slots[Slot::Hidden as usize][..hidden_len];
        if let Some(head) = &mut self.head {
            head.run(cpu, &model, &self.rotations, batch, hidden, out);
            if !norm::all_finite(&out.logits) {
                return Err(not_finite("the output head".into()));
            }
        } else {
            out.hidden.clear();
            out.hidden.extend_from_slice(hidden);
        }
        if self.mtp.is_some() {
            self.note_outputs(cpu, batch, &input.ids);
        }
        Ok(())
    }

    /// Has threads that wait fetch the weights of the first linear of `ops`, which stand beside the number of their layer.
    fn fetch_ahead<'a>(&self, cpu: &Cpu, mut ops: impl Iterator<Item = (usize, &'a Op)>, tokens: usize) {
        let next =
            ops.find_map(|(index, op)| if let Op::Linear { parts } = op { Some((index, &parts[..])) } else { None });
        let (index, parts) = next.unwrap_or((0, &[]));
        ternary::fetch_ahead(
            cpu,
            tokens,
            parts.iter().map(|part| self.matrices.get(index, part.weight, tokens).view()),
        );
    }

    /// All logits of a slot whose last step gave candidates.
    pub(super) fn full_logits(&self, cpu: &Cpu, slot: SlotId, logits: &mut Vec<f32>) -> Result<()> {
        let head = self.head.as_ref().ok_or_else(|| Error::missing("the head", "logits"))?;
        head.full_logits(cpu, &self.model, slot, logits);
        Ok(())
    }

    /// Fills the residual stream from ids or from the hidden states of the segment before.
    fn take_input(&mut self, cpu: &Cpu, input: &Activations, tokens: usize) {
        let dim = self.model.config.dim;
        if !self.embed {
            let stream = &mut self.slots[Slot::Hidden as usize][..tokens * dim];
            return stream.copy_from_slice(&input.hidden[..tokens * dim]);
        }
        assert_eq!(input.ids.len(), tokens, "one id for each position");
        self.embed(cpu, &input.ids);
    }

    /// The embeddings of some tokens, in the residual stream.
    pub(super) fn embed(&mut self, cpu: &Cpu, ids: &[u32]) {
        let Model { config, weights } = &*self.model;
        let stream = &mut self.slots[Slot::Hidden as usize][..ids.len() * config.dim];
        for (row, &id) in stream.chunks_exact_mut(config.dim).zip(ids) {
            dense::gather(weights.token_embd.view(), id as usize, row);
        }
        if let Some(rotation) = self.rotations.embedding() {
            rotate::inverse(cpu, rotation, stream);
        }
        let scale = config.embedding_scale();
        if scale != 1.0 {
            stream.iter_mut().for_each(|x| *x *= scale);
        }
    }

    pub(super) fn run_op(&mut self, cpu: &Cpu, op: &Op, block: &Block, index: usize, tokens: usize) {
        let model = Arc::clone(&self.model);
        let config = &model.config;
        let weight = |norm: Norm| block.norm(norm).unwrap_or_else(|| panic!("no {norm:?} norm in this family"));
        let eps = |norm: Option<Norm>| norm.map_or(config.rms_eps, |norm| config.eps(norm));
        match op {
            Op::Norm { input, norm, out, add } => {
                let len = tokens * config.dim;
                let [from, to] = self.slots([*input, *out]);
                if *add {
                    // What is normed is not needed afterwards.
                    norm::rms_norm_in_place(cpu, &mut from[..len], config.dim, weight(*norm), config.eps(*norm));
                    to[..len].iter_mut().zip(&from[..len]).for_each(|(to, from)| *to += from);
                } else {
                    norm::rms_norm(cpu, &from[..len], config.dim, weight(*norm), config.eps(*norm), &mut to[..len]);
                }
            }
            Op::NormQuantize { input, norm } => {
                let width = input.width(config);
                let x = &self.slots[*input as usize][..tokens * width];
                quantize::norm_quantize(cpu, x, width, norm.map(weight), eps(*norm), &mut self.quantized);
            }
            Op::RotateQuantize { input, norm } => {
                let width = input.width(config);
                let x = &self.slots[*input as usize][..tokens * width];
                let (rotation, eps) = (self.rotations.of_width(width), eps(*norm));
                quantize::norm_rotate_quantize(cpu, x, width, norm.map(weight), eps, rotation, &mut self.quantized);
            }
            Op::Linear { parts } => {
                let matrix = |role| self.matrices.get(index, role, tokens);
                linear(cpu, &self.quantized, parts, matrix, &mut self.slots, tokens, config);
            }
            Op::Bias => {
                let mut rest = block.bias().unwrap_or_else(|| panic!("no biases in this family"));
                for slot in [Slot::Q, Slot::K, Slot::V] {
                    let own;
                    (own, rest) = rest.split_at(slot.width(config));
                    bias::add(cpu, &mut self.slots[slot as usize][..tokens * own.len()], own);
                }
            }
            Op::OutputBias => {
                let all = block.bias().unwrap_or_else(|| panic!("no biases in this model"));
                let own = &all[all.len() - config.dim..];
                bias::add(cpu, &mut self.slots[Slot::Hidden as usize][..tokens * own.len()], own);
            }
            Op::HeadNorm { slot, norm } => {
                let x = &mut self.slots[*slot as usize][..tokens * slot.width(config)];
                norm::rms_norm_in_place(cpu, x, config.head_dim, weight(*norm), config.eps(*norm));
            }
            Op::Rope => self.turn(cpu, config, tokens),
            Op::Dense { input, parts } => self.dense(cpu, *input, parts, tokens),
            Op::Rotate { slot } => {
                let width = slot.width(config);
                let x = &mut self.slots[*slot as usize][..tokens * width];
                rotate::forward(cpu, self.rotations.of_width(width), x);
            }
            Op::Append => {
                let kv_len = tokens * config.kv_width();
                let (k, v) = (&self.slots[Slot::K as usize][..kv_len], &self.slots[Slot::V as usize][..kv_len]);
                attention::append(cpu, self.states.caches(index), &self.placed, k, v);
            }
            Op::Attention => self.attend(cpu, index, tokens),
            Op::Gate(activation) => {
                let kind = match activation {
                    Activation::Relu2 => gate::Kind::Relu2,
                    Activation::Silu => gate::Kind::Silu,
                    Activation::GeluTanh => gate::Kind::GeluTanh,
                };
                let [gate, up] = self.slots([Slot::Gate, Slot::Up]);
                let len = tokens * config.ffn_dim;
                gate::apply(cpu, kind, &mut gate[..len], &up[..len]);
            }
            Op::SplitGate => {
                let len = tokens * Slot::Q.width(config);
                let [both, q, gate] = self.slots([Slot::GatedQ, Slot::Q, Slot::AttnGate]);
                gate::split(cpu, &both[..2 * len], config.head_dim, &mut q[..len], &mut gate[..len]);
            }
            Op::OutputGate => {
                let len = tokens * Slot::Attn.width(config);
                let [gate, attn] = self.slots([Slot::AttnGate, Slot::Attn]);
                gate::apply(cpu, gate::Kind::Sigmoid, &mut gate[..len], &attn[..len]);
                attn[..len].copy_from_slice(&gate[..len]);
            }
            Op::DeltaGates | Op::DeltaConv | Op::DeltaRule | Op::DeltaNorm { .. } => {
                if let Op::DeltaConv = op {
                    for slot in KEPT {
                        self.states.inputs.keep(index, slot, &self.slots[slot as usize], slot.width(config));
                    }
                }
                self.run_delta(cpu, op, block, index, tokens);
            }
        }
    }

    /// Queries and keys by their positions.
    fn turn(&mut self, cpu: &Cpu, config: &Config, tokens: usize) {
        let style = match config.rope.style {
            RopeStyle::HalfSplit => rope::Style::HalfSplit,
            RopeStyle::Interleaved => rope::Style::Interleaved,
        };
        for (slot, heads) in [(Slot::Q, config.heads), (Slot::K, config.kv_heads)] {
            let x = &mut self.slots[slot as usize][..tokens * slot.width(config)];
            rope::apply(cpu, x, heads, config.head_dim, &self.rope, style);
        }
    }

    /// Keys and values into the caches of a layer, and what its queries find there.
    fn attend(&mut self, cpu: &Cpu, index: usize, tokens: usize) {
        let model = Arc::clone(&self.model);
        let config = &model.config;
        let kv_len = tokens * config.kv_width();
        let [q, k, v, out] = self
            .slots
            .get_disjoint_mut([Slot::Q, Slot::K, Slot::V, Slot::Attn].map(|slot| slot as usize))
            .unwrap_or_else(|_| unreachable!("four different slots"));
        let caches = self.states.caches(index);
        attention::append(cpu, caches, &self.placed, &k[..kv_len], &v[..kv_len]);
        let q_len = tokens * Slot::Q.width(config);
        let scale = 1.0 / (config.head_dim as f32).sqrt();
        attention::attend(cpu, &q[..q_len], config.heads, caches, &self.placed, scale, &mut out[..q_len]);
    }

    /// The ops of a gated DeltaNet.
    pub(super) fn run_delta(&mut self, cpu: &Cpu, op: &Op, block: &Block, index: usize, tokens: usize) {
        let model = Arc::clone(&self.model);
        let config = &model.config;
        let (Some(weights), Some(heads)) = (block.delta(), &config.delta) else {
            unreachable!("only DeltaNets have such ops")
        };
        let shape = delta_shape(heads);
        let len = |slot: Slot| tokens * slot.width(config);
        let (width, gates) = (len(Slot::Delta), len(Slot::Alpha));
        if let Op::DeltaGates = op {
            let [x, alpha, beta] = self.slots([Slot::Normed, Slot::Alpha, Slot::Beta]);
            let x = &x[..tokens * config.dim];
            dense::matmul(cpu, weights.alpha.view(), x, &mut alpha[..gates]);
            return dense::matmul(cpu, weights.beta.view(), x, &mut beta[..gates]);
        }
        if let Op::DeltaNorm { grouped } = op {
            let order = if *grouped { delta::HeadOrder::Grouped } else { delta::HeadOrder::Tiled };
            let weight = block.norm(Norm::DeltaHead).unwrap_or_else(|| panic!("no norm of a DeltaNet's output"));
            let [o, z] = self.slots([Slot::Delta, Slot::DeltaGate]);
            return delta::gated_norm(cpu, &shape, &mut o[..width], &mut z[..width], weight, config.rms_eps, order);
        }
        let [qkv, alpha, beta, out] = self
            .slots
            .get_disjoint_mut([Slot::DeltaQkv, Slot::Alpha, Slot::Beta, Slot::Delta].map(|slot| slot as usize))
            .unwrap_or_else(|_| unreachable!("four different slots"));
        let (LayerStates::Recurrent { live, kept }, Some(taps)) = (&mut self.states.layers[index], &self.taps[index])
        else {
            unreachable!("a DeltaNet has a recurrent state and taps")
        };
        let decay = delta::Decay { rate: &weights.rate, bias: &weights.dt_bias };
        for (rows, tokens, checkpoint) in self.spans.iter() {
            let of = |slot: Slot| tokens.start * slot.width(config)..tokens.end * slot.width(config);
            let (qkv, gates) = (&mut qkv[of(Slot::DeltaQkv)], of(Slot::Alpha));
            if let Op::DeltaConv = op {
                delta::conv(cpu, &shape, taps, live, rows, qkv);
            } else {
                let (alpha, beta) = (&mut alpha[gates.clone()], &mut beta[gates]);
                delta::mix(cpu, &shape, qkv, alpha, beta, decay, live, rows, &mut out[of(Slot::Delta)]);
            }
            if let Some((slot, place)) = checkpoint {
                let (live, kept) = (&live[slot], &mut kept[slot][place.index()]);
                if let Op::DeltaConv = op {
                    kept.conv_mut().copy_from_slice(live.conv());
                } else {
                    kept.memory_mut().copy_from_slice(live.memory());
                }
            }
        }
    }

    /// Different slots at a time.
    pub(super) fn slots<const N: usize>(&mut self, which: [Slot; N]) -> [&mut Vec<f32>; N] {
        let slots = self.slots.get_disjoint_mut(which.map(|slot| slot as usize));
        slots.unwrap_or_else(|_| unreachable!("different slots"))
    }
}

/// The convolution's weights of a layer that is a DeltaNet.
fn taps(model: &Model, layer: usize) -> Option<delta::Taps> {
    let (weights, delta) = (model.weights.blocks[layer].delta()?, model.config.delta.as_ref()?);
    Some(delta::Taps::new(&delta_shape(delta), &weights.conv))
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
