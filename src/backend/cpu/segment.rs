//! One loaded segment: its buffers, its KV cache, and the op interpreter.

use std::{ops::Range, sync::Arc, time::Instant};

use bitnet_cpu_kernels::{
    Cpu,
    attention::{self, KvCache, Placed},
    dense, gate, norm, quantize,
    quantize::QuantizedActs,
    rope::{self, RopeTable},
    screen::{Product, Screen},
    ternary,
};

use super::{
    super::{Activations, Candidates, Rest, Scored, Wanted},
    kernel::Repacked,
};
use crate::{
    error::{Error, Result},
    graph::{
        block_ops,
        op::{Op, Part, Slot},
    },
    model::{Activation, Block, Linear, Model, Norm, RopeStyle, TernaryMatrix},
    plan::{Segment, Sizes},
};

/// The buffers of one segment. Nothing here grows after [`CpuSegment::new`].
#[derive(Debug)]
pub(super) struct CpuSegment {
    model: Arc<Model>,
    /// The matrices that are multiplied in another form than the model's.
    repacked: Repacked,
    layers: Range<usize>,
    embed: bool,
    head: bool,
    ops: Vec<Op>,
    /// Of the positions of the step.
    rope: RopeTable,
    /// One per layer of the segment.
    caches: Vec<KvCache>,
    /// By [`Slot`]; (batch_tokens, width) each.
    slots: [Vec<f32>; Slot::ALL.len()],
    /// Input of the next linear.
    quantized: QuantizedActs,
    /// Final norm of the wanted tokens, (batch_tokens, dim).
    normed: Vec<f32>,
    /// For [`Wanted::Top`], where the sizes ask for it.
    screen: Option<Screen>,
    /// What it found.
    highest: Vec<Product>,
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
        repacked: Repacked,
    ) -> Result<Self> {
        let config = &model.config;
        let widest = Slot::ALL.map(|slot| slot.width(config)).into_iter().max().unwrap_or(0);
        let cache = |_| {
            KvCache::try_new(config.kv_heads, config.head_dim, sizes.context_tokens, sizes.k_type, sizes.v_type)
                .ok_or_else(|| Error::OutOfMemory {
                    what: format!("the keys and values of {} tokens", sizes.context_tokens),
                    bytes: sizes.kv_bytes_per_layer(config).saturating_mul(segment.layers.len() as u64),
                    hint: "lower the context with -c, or take smaller types with -ctk and -ctv".into(),
                })
        };
        Ok(Self {
            ops: block_ops(config),
            rope: model.rope_table(sizes.batch_tokens),
            caches: segment.layers.clone().map(cache).collect::<Result<_>>()?,
            slots: Slot::ALL.map(|slot| vec![0.0; sizes.batch_tokens * slot.width(config)]),
            quantized: QuantizedActs::with_group(sizes.batch_tokens, widest, model.weights.act_group()),
            normed: vec![0.0; if segment.head { sizes.batch_tokens * config.dim } else { 0 }],
            screen: if segment.head && sizes.head_screen { screen(cpu, model) } else { None },
            highest: Vec::new(),
            batch_tokens: sizes.batch_tokens,
            layers: segment.layers.clone(),
            embed: segment.embed,
            head: segment.head,
            model: Arc::clone(model),
            repacked,
        })
    }

    /// The keys and values of a layer, counted from the first of the segment.
    pub(super) fn cache(&mut self, layer: usize) -> &mut KvCache {
        &mut self.caches[layer]
    }

    /// See [`super::super::Backend::run`].
    pub(super) fn run(
        &mut self,
        cpu: &Cpu,
        name: &str,
        activations: &mut Activations,
        positions: Range<usize>,
        wanted: Wanted,
    ) -> Result<()> {
        let tokens = positions.len();
        assert!((1..=self.batch_tokens).contains(&tokens), "{tokens} tokens in a batch of {}", self.batch_tokens);
        let not_finite = |place: String| Error::NotFinite { place, backend: name.to_owned() };

        let model = Arc::clone(&self.model);
        let hidden_len = tokens * model.config.dim;
        if self.embed {
            assert_eq!(activations.ids.len(), tokens, "one id for each position");
            let rows = self.slots[Slot::Hidden as usize].chunks_exact_mut(model.config.dim);
            for (row, &id) in rows.zip(&activations.ids) {
                dense::gather(model.weights.token_embd.view(), id as usize, row);
            }
            let scale = model.config.embedding_scale();
            if scale != 1.0 {
                self.slots[Slot::Hidden as usize][..hidden_len].iter_mut().for_each(|x| *x *= scale);
            }
        } else {
            self.slots[Slot::Hidden as usize][..hidden_len].copy_from_slice(&activations.hidden[..hidden_len]);
        }

        self.rope.fill(positions.clone());
        // Taken out for the loop so that ops can be read while buffers are written.
        let ops = std::mem::take(&mut self.ops);
        for (index, layer) in self.layers.clone().enumerate() {
            for op in &ops {
                self.run_op(cpu, op, &model.weights.blocks[layer], index, positions.clone());
            }
            if !norm::all_finite(&self.slots[Slot::Hidden as usize][..hidden_len]) {
                self.ops = ops;
                return Err(not_finite(format!("layer {layer}")));
            }
        }
        self.ops = ops;

        if self.head {
            self.run_head(cpu, activations, tokens, wanted);
            if !norm::all_finite(&activations.logits) {
                return Err(not_finite("the output head".into()));
            }
        } else {
            activations.hidden.clear();
            activations.hidden.extend_from_slice(&self.slots[Slot::Hidden as usize][..hidden_len]);
        }
        Ok(())
    }

    fn run_op(&mut self, cpu: &Cpu, op: &Op, block: &Block, index: usize, positions: Range<usize>) {
        let tokens = positions.len();
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
                let matrix = |role| self.repacked.matrix(index, block, role, tokens);
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
                let caches = &mut self.caches[index..=index];
                let rows = [Placed { cache: 0, start: positions.start, tokens }];
                attention::append(cpu, caches, &rows, &k[..kv_len], &v[..kv_len]);
                let q_len = tokens * Slot::Q.width(config);
                let scale = 1.0 / (config.head_dim as f32).sqrt();
                attention::attend(cpu, &q[..q_len], config.heads, caches, &rows, scale, &mut out[..q_len]);
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

    /// Final norm and head of the wanted tokens.
    fn run_head(&mut self, cpu: &Cpu, activations: &mut Activations, tokens: usize, wanted: Wanted) {
        let Model { config, weights } = &*self.model;
        let rows = match wanted {
            Wanted::Nothing => 0,
            Wanted::Last | Wanted::Top(_) => 1,
            Wanted::All => tokens,
        };
        let Activations { logits, candidates: Candidates { top, rest }, head_rows, .. } = activations;
        top.clear();
        *head_rows = 0;
        if rows == 0 {
            logits.clear();
            return;
        }
        let x = &self.slots[Slot::Hidden as usize][(tokens - rows) * config.dim..tokens * config.dim];
        let normed = &mut self.normed[..rows * config.dim];
        norm::rms_norm(cpu, x, config.dim, &weights.output_norm, config.rms_eps, normed);
        let head = weights.head().view();
        if let (Wanted::Top(count), Some(screen)) = (wanted, &mut self.screen)
            && let Some(exact) = screen.top(cpu, head, normed, count, &mut self.highest)
        {
            top.extend(self.highest.iter().map(|product| Scored { id: product.row, logit: product.value }));
            *rest = Rest::Lower;
            *head_rows = exact;
            logits.clear();
            return;
        }
        logits.resize(rows * config.vocab, 0.0);
        dense::matmul(cpu, head, normed, logits);
        *head_rows = config.vocab;
    }
}

/// A copy of the head in fewer bits.
fn screen(cpu: &Cpu, model: &Model) -> Option<Screen> {
    let start = Instant::now();
    let screen = Screen::new(cpu, model.weights.head().view());
    log::debug!("a copy of the head in few bits: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    screen
}

/// All parts of a linear in one parallel region; at most three share an input in any known family.
fn linear<'a>(
    cpu: &Cpu,
    input: &QuantizedActs,
    parts: &[Part],
    matrix: impl Fn(Linear) -> &'a TernaryMatrix,
    slots: &mut [Vec<f32>; Slot::ALL.len()],
    tokens: usize,
    config: &crate::model::Config,
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
