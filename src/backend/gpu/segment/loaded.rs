//! A loaded segment: buffers, dispatch lists, and the steps that run them.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ahead::Ahead,
    counters::Counters,
    plan::{Planned, bytes_of, plan},
};
use crate::{
    backend::{
        Activations, Candidates, LayerState, Limits, Want,
        gpu::{
            buffers::{
                arenas::Arenas,
                cache::{self, LayerCache},
                readback::Readback,
                slots::{SPLIT_KEYS, Shape, Slots, TILE_TOKENS, attention_macs, layer_macs},
            },
            device::{Fault, Gpu},
            kernels::params::Dynamic,
            lower::{
                fuse::Phase,
                lowering::{Lowering, damaged_place, most_apart, place_code},
                screen::Screen,
                select::{Choice, MOST, RESULT_BYTES, Select},
            },
            record::{
                encode::{Builder, Dispatch, Recorder, Uniforms},
                pace::Pace,
                profile::{KernelTime, Profiler},
            },
            startup::debug,
        },
    },
    error::{Error, Result},
    graph::block_ops,
    model::Model,
    plan::{Segment, Sizes},
};

/// Tokens that share a reading of the head's weights when the logits of many are wanted.
const HEAD_TILE: u32 = 4;

/// A segment on the device.
pub struct Loaded {
    pub model: Arc<Model>,
    pub segment: Segment,
    pub sizes: Sizes,
    /// Of device memory.
    pub bytes: u64,
    pub shape: Shape,
    pub slots: Slots,
    /// One a layer.
    pub caches: Vec<LayerCache>,
    /// Ids to hidden states; empty when hidden states come in.
    pub embed: Vec<Dispatch>,
    /// One list a layer: for one token, for as many as [`Shape::small_batch`], for more.
    pub decode: Vec<Vec<Dispatch>>,
    pub few: Vec<Vec<Dispatch>>,
    pub prefill: Vec<Vec<Dispatch>>,
    /// Logits of one token, and of several; empty when hidden states go out.
    pub head_one: Vec<Dispatch>,
    pub head_many: Vec<Dispatch>,
    /// The highest logits of one token, where there is a copy of the head.
    pub screen: Option<Screen>,
    /// With the head.
    pub select: Option<Select>,
    pub uniforms: Option<Uniforms>,
    pub readback: Readback,
    pub recorder: Recorder,
    pub readback_bytes: u64,
    /// Tokens the caches hold.
    pub cached_tokens: usize,
    /// How much one submit of a prompt may be.
    pub pace: Pace,
    /// What a test makes fail in the step at hand.
    pub fault: Option<Fault>,
    /// A step that is recorded before it is asked for.
    pub ahead: Option<Ahead>,
    /// Position and id of the next step, where the last one chose the id and left it on the device.
    pub chosen: Option<(usize, u32)>,
    /// Position and id of the last single-token step that chose, and the token of the last chunk whose hidden states
    /// give the last logits.
    pub last_one: Option<(usize, u32)>,
    pub last_first: usize,
}

/// Where the results of a step go.
enum Output<'a> {
    Nothing,
    Hidden(&'a mut [f32]),
    /// Of these tokens of the step.
    Logits(Range<usize>, &'a mut Vec<f32>),
    /// Of the last token, and how many rows of the head were computed for them.
    Best(Choice, &'a mut Candidates, &'a mut usize),
}

impl Loaded {
    pub fn new(
        gpu: &Gpu,
        model: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let planned = plan(gpu, model, segment, sizes)?;
        let bytes = bytes_of(&planned, model, segment);
        if bytes.total() > gpu.memory_bytes() {
            return Err(Error::GpuMemory {
                action: format!("planning memory for layers {:?}", segment.layers),
                reason: format!("{} bytes needed, {} available", bytes.total(), gpu.memory_bytes()),
            });
        }
        if let Some(size) = model.weights.act_group() {
            debug::self_test_grouped(gpu, size)?;
        }
        let Planned { layout, weights, shape } = planned;
        let config = &model.config;
        let arenas = Arenas::new(gpu, &layout)?;
        let slots = Slots::new(gpu, config, &shape)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        gpu.check_load(bytes.total())?;
        let caches = segment
            .layers
            .clone()
            .map(|_| {
                Ok(LayerCache {
                    k: gpu.buffer("key cache", shape.k_bytes.max(16), usage)?,
                    v: gpu.buffer("value cache", shape.v_bytes.max(16), usage)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;

        let builder = Builder::new(gpu);
        let mut lowering = Lowering {
            builder,
            config,
            sizes,
            slots: &slots,
            arenas: &arenas,
            weights: &weights,
            small_batch: shape.small_batch,
            apart_layers: 0,
        };
        let ops = block_ops(config);
        let embed = match &weights.embed {
            Some(region) => lowering.embed(&model.weights.token_embd, region)?,
            None => Vec::new(),
        };
        let (mut head_one, mut head_many, mut screen, mut select) = (Vec::new(), Vec::new(), None, None);
        if let (Some(region), Some(norm)) = (&weights.head, &weights.output_norm) {
            head_one = lowering.head(model.weights.head(), region, norm, 1)?;
            head_many = lowering.head(model.weights.head(), region, norm, HEAD_TILE)?;
            if let Some(copy) = &weights.screen {
                screen = Some(lowering.screened_head(model.weights.head(), (region, copy, norm))?);
            }
        }
        if segment.head {
            select = Some(Select::new(gpu, &mut lowering.builder, &slots, config.vocab)?);
        }
        if gpu.prefers_apart() {
            let heads = [head_one.len(), screen.as_ref().map_or(0, Screen::len)].into_iter().max();
            let beside = embed.len() + heads.unwrap_or(0) + select.as_ref().map_or(0, Select::most_dispatches);
            lowering.apart_layers = segment.layers.start + most_apart(segment.layers.len(), beside);
        }
        let mut lists = |phase| {
            let layers = segment.layers.clone().zip(weights.layers.iter().zip(&caches));
            layers
                .map(|(layer, (weights, cache))| lowering.layer(&ops, layer, weights, cache, phase))
                .collect::<Result<Vec<_>>>()
        };
        let decode = lists(Phase::Decode)?;
        let few = if shape.small_batch > 1 { lists(Phase::Few)? } else { Vec::new() };
        let prefill = if shape.chunk_tokens > shape.small_batch { lists(Phase::Prefill)? } else { Vec::new() };
        let uniforms = lowering.builder.finish()?;
        let result_bytes = (4 * shape.logit_rows * config.vocab).max(if segment.head {
            RESULT_BYTES
        } else {
            4 * shape.chunk_tokens * config.dim
        });
        let readback = Readback::new(gpu, 4 + result_bytes as u64)?;
        weights.upload(gpu, &arenas, model, segment, progress)?;
        gpu.check("loading weights")?;

        Ok(Self {
            model: Arc::clone(model),
            segment: segment.clone(),
            sizes: *sizes,
            bytes: bytes.total(),
            shape,
            slots,
            caches,
            embed,
            decode,
            few,
            prefill,
            head_one,
            head_many,
            screen,
            select,
            uniforms,
            readback,
            recorder: Recorder::default(),
            readback_bytes: 0,
            cached_tokens: 0,
            pace: Pace::default(),
            fault: None,
            ahead: None,
            chosen: None,
            last_one: None,
            last_first: 0,
        })
    }

    /// See [`crate::backend::States::export`].
    pub fn export(&mut self, gpu: &Gpu, layer: usize, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        if positions.end > self.cached_tokens {
            let expected = format!("up to position {}", self.cached_tokens);
            return Err(Error::malformed("reading the cache", expected, format!("{positions:?}")));
        }
        cache::read(gpu, self.arrays(layer), positions, to)
    }

    /// See [`crate::backend::States::import`].
    pub fn import(&mut self, gpu: &Gpu, layer: usize, positions: Range<usize>, from: &LayerState) -> Result<()> {
        if positions.end > self.sizes.context_tokens {
            return Err(Error::ContextFull { needed: positions.end, context: self.sizes.context_tokens });
        }
        self.forget_ahead(gpu)?;
        cache::write(gpu, self.arrays(layer), positions.start, from)?;
        // What runs next begins behind these.
        self.cached_tokens = positions.end;
        Ok(())
    }

    fn arrays(&self, layer: usize) -> [cache::Rows<'_>; 2] {
        self.caches[layer].arrays([self.sizes.k_type, self.sizes.v_type], &self.model.config)
    }

    /// What this segment has done so far, without the objects created.
    pub fn counters(&self) -> Counters {
        Counters {
            objects_created: 0,
            dispatches: self.recorder.dispatches,
            submits: self.recorder.submits,
            readback_bytes: self.readback_bytes,
            recording: self.recorder.recording,
        }
    }

    /// What callers may rely on.
    pub fn limits(&self) -> Limits {
        let most = if self.segment.head { MOST.min(self.model.config.vocab) } else { 0 };
        Limits {
            max_tokens: self.sizes.batch_tokens,
            exact_tokens: self.shape.small_batch,
            most_top: most,
            most_summed: most,
        }
    }

    /// All logits after the last step, which gave candidates.
    pub fn full_logits(&mut self, gpu: &Gpu, logits: &mut Vec<f32>) -> Result<()> {
        if let Some((position, id)) = self.last_one.filter(|_| self.is_ahead_submitted()) {
            // The step under way has overwritten the hidden states.
            self.forget_ahead(gpu)?;
            gpu.queue.write_buffer(&self.slots.ids, 0, &id.to_le_bytes());
            self.step(gpu, position, 1, false, Output::Logits(0..1, logits))?;
            self.cached_tokens = position + 1;
            return Ok(());
        }
        self.forget_ahead(gpu)?;
        let vocab = self.model.config.vocab;
        let dynamic = Dynamic { first: self.last_first as u32, ..self.dynamic(0, 1) };
        let mut encoder = self.new_step(gpu);
        self.recorder.record(&mut encoder, &self.head_one, &dynamic, &mut self.uniforms);
        let sources = [(&self.slots.damage, 4), (&self.slots.logits, 4 * vocab as u64)];
        let pending = self.readback.record(&mut encoder, &sources);
        let recorded = self.recorder.finish(encoder);
        let submission = self.recorder.submit(gpu, recorded, &self.uniforms)?;
        let damage = self.readback.read(gpu, pending, submission, |bytes| {
            let (damage, results) = bytes.split_at(4);
            logits.extend(results.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            u32::from_le_bytes([damage[0], damage[1], damage[2], damage[3]])
        })?;
        check_damage(gpu, damage, self.model.config.layers)
    }

    /// Times the kernels of the steps from here on.
    pub fn start_profile(&mut self, gpu: &Gpu) -> Result<()> {
        let of_layers = |layers: &[Vec<Dispatch>]| layers.iter().map(Vec::len).sum::<usize>();
        let layers = of_layers(&self.decode).max(of_layers(&self.few)).max(of_layers(&self.prefill));
        let screened = self.screen.as_ref().map_or(0, Screen::len);
        let most = self.embed.len() + layers + self.head_one.len().max(self.head_many.len()).max(screened);
        self.recorder.profiler = Some(Profiler::new(gpu, most, self.sizes.context_tokens)?);
        Ok(())
    }

    /// What was timed; ends it.
    pub fn take_profile(&mut self) -> Vec<KernelTime> {
        self.recorder.profiler.take().map(Profiler::finish).unwrap_or_default()
    }

    /// A step of one row of one sequence.
    pub fn run(
        &mut self,
        gpu: &Gpu,
        activations: &mut Activations,
        positions: Range<usize>,
        wanted: Want,
    ) -> Result<()> {
        self.fault = gpu.fault_in(&positions, self.bytes);
        match self.fault {
            Some(Fault::Lost(_)) => gpu.destroyer()(),
            Some(Fault::OutOfMemory(_)) => gpu.report_out_of_memory(),
            _ => {}
        }
        gpu.check("running an earlier step")?;
        self.check_input(activations, &positions)?;
        if self.segment.head {
            activations.clear_output(1);
            activations.rows[0].head_rows = if wanted == Want::Nothing { 0 } else { self.model.config.vocab };
        }
        let choice = match wanted {
            Want::Top(count) if self.segment.head => Choice::of(count, self.model.config.vocab, self.screen.is_some()),
            _ => None,
        };
        let one = (self.segment.embed && positions.len() == 1).then(|| (positions.start, activations.ids[0]));
        if let (Some(one), Some(choice)) = (one, choice) {
            let output = &mut activations.rows[0];
            output.head_rows = self.run_one(gpu, one, choice, &mut output.candidates)?;
            (self.last_one, self.last_first) = (Some(one), 0);
            return Ok(());
        }
        self.forget_ahead(gpu)?;
        let mut hidden = std::mem::take(&mut activations.hidden);
        let dim = self.model.config.dim;
        // By the whole step and not by the chunk: where chunks end depends on measured times, and floats must not.
        let in_tiles = positions.len() > self.shape.small_batch && !self.prefill.is_empty();
        let mut done = 0;
        while done < positions.len() {
            let (start, left) = (positions.start + done, positions.len() - done);
            let tokens = self.shape.chunk(&self.model.config, start, left, self.pace.submit_macs());
            let chunk = done..done + tokens;
            if self.segment.embed {
                gpu.queue.write_buffer(&self.slots.ids, 0, bytemuck::cast_slice(&activations.ids[chunk.clone()]));
                if !self.segment.head {
                    hidden.resize(positions.len() * dim, 0.0);
                }
            } else {
                let input = &hidden[chunk.start * dim..chunk.end * dim];
                gpu.queue.write_buffer(&self.slots.hidden, 0, bytemuck::cast_slice(input));
            }
            let last = chunk.end == positions.len();
            let output = match (wanted, choice) {
                _ if !self.segment.head => Output::Hidden(&mut hidden[chunk.start * dim..chunk.end * dim]),
                (Want::All, _) => Output::Logits(0..tokens, &mut activations.logits),
                (Want::Last | Want::Top(_), None) if last => {
                    Output::Logits(tokens - 1..tokens, &mut activations.logits)
                }
                (Want::Top(_), Some(choice)) if last => {
                    let output = &mut activations.rows[0];
                    Output::Best(choice, &mut output.candidates, &mut output.head_rows)
                }
                (Want::Last | Want::Top(_) | Want::Nothing, _) => Output::Nothing,
            };
            self.step(gpu, start, tokens, in_tiles, output)?;
            self.last_first = tokens - 1;
            done += tokens;
        }
        activations.hidden = hidden;
        self.cached_tokens = positions.end;
        if self.segment.head && !activations.logits.is_empty() {
            activations.rows[0].logits = 0..activations.logits.len() / self.model.config.vocab;
        }
        let best = activations.rows.first().and_then(|output| output.candidates.top.first());
        if let (true, true, Some(Choice::Greedy), Some(best)) = (self.segment.embed, self.segment.head, choice, best) {
            self.chosen = Some((positions.end, best.id));
        }
        Ok(())
    }

    fn check_input(&self, activations: &Activations, positions: &Range<usize>) -> Result<()> {
        let config = &self.model.config;
        let tokens = positions.len();
        if positions.end > self.sizes.context_tokens {
            return Err(Error::ContextFull { needed: positions.end, context: self.sizes.context_tokens });
        }
        if positions.start > self.cached_tokens {
            let found = format!("position {}", positions.start);
            return Err(Error::malformed("the step", format!("at most position {}", self.cached_tokens), found));
        }
        if tokens == 0 || tokens > self.sizes.batch_tokens {
            return Err(Error::malformed("the step", format!("1 to {} tokens", self.sizes.batch_tokens), tokens));
        }
        if !self.segment.embed {
            let (expected, found) = (tokens * config.dim, activations.hidden.len());
            return if found == expected { Ok(()) } else { Err(Error::malformed("hidden states", expected, found)) };
        }
        if activations.ids.len() != tokens {
            return Err(Error::malformed("token ids", tokens, activations.ids.len()));
        }
        match activations.ids.iter().find(|&&id| id as usize >= config.vocab) {
            Some(id) => Err(Error::malformed("a token id", format!("below {}", config.vocab), id)),
            None => Ok(()),
        }
    }

    pub fn dynamic(&self, start: usize, tokens: usize) -> Dynamic {
        Dynamic {
            tokens: tokens as u32,
            start: start as u32,
            splits: (start + tokens).div_ceil(SPLIT_KEYS).clamp(1, self.shape.max_splits) as u32,
            first: 0,
        }
    }

    /// Begins the commands of a step.
    pub fn new_step(&self, gpu: &Gpu) -> wgpu::CommandEncoder {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        match self.fault {
            // In place of the zero of a sound step; kernels only ever raise it.
            Some(Fault::NotFinite(_)) => {
                gpu.queue.write_buffer(&self.slots.damage, 0, &place_code(1).to_le_bytes());
            }
            _ => encoder.clear_buffer(&self.slots.damage, 0, None),
        }
        encoder
    }

    /// One chunk of tokens: one submit for a single token, several bounded ones for a prompt.
    fn step(&mut self, gpu: &Gpu, start: usize, tokens: usize, in_tiles: bool, mut output: Output<'_>) -> Result<()> {
        let dynamic = self.dynamic(start, tokens);
        let mut encoder = self.new_step(gpu);
        let new_encoder = || gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let Self { recorder, uniforms, .. } = self;
        recorder.record(&mut encoder, &self.embed, &dynamic, uniforms);
        let begin = Instant::now();
        let config = &self.model.config;
        let layers = match tokens {
            _ if in_tiles => &self.prefill,
            1 => &self.decode,
            _ => &self.few,
        };
        let computed = if in_tiles { tokens.next_multiple_of(TILE_TOKENS) } else { tokens };
        let macs = layer_macs(config) * computed as u64 + attention_macs(config, start + tokens) * tokens as u64;
        // A single token goes into one submit, whatever its size: it is bound by memory, 35 ms for a 7B model at 50 GB/s.
        let layers_per_submit =
            if tokens == 1 { layers.len() } else { (self.pace.submit_macs() / macs.max(1)) as usize };
        for (i, group) in layers.chunks(layers_per_submit.max(1)).enumerate() {
            if i > 0 {
                let full = recorder.finish(std::mem::replace(&mut encoder, new_encoder()));
                recorder.submit(gpu, full, uniforms)?;
            }
            recorder.record(&mut encoder, group.iter().flatten(), &dynamic, uniforms);
        }

        let screened = match &output {
            Output::Best(choice, ..) => self.screen.as_ref().filter(|_| Screen::serves(*choice)),
            _ => None,
        };
        let rows = match &output {
            Output::Logits(rows, _) => rows.clone(),
            Output::Best(..) => tokens - 1..tokens,
            Output::Nothing | Output::Hidden(_) => 0..0,
        };
        let mut first = rows.start;
        loop {
            let count = self.shape.logit_rows.min(rows.end - first);
            let mut sources = vec![(&self.slots.damage, 4)];
            if count > 0 {
                let dynamic = Dynamic { tokens: count as u32, first: first as u32, ..dynamic };
                match (&output, screened) {
                    (Output::Best(choice, ..), Some(screen)) => {
                        recorder.record(&mut encoder, screen.dispatches(*choice), &dynamic, uniforms);
                    }
                    _ if count == 1 => recorder.record(&mut encoder, &self.head_one, &dynamic, uniforms),
                    _ => recorder.record(&mut encoder, &self.head_many, &dynamic, uniforms),
                }
            }
            match (&output, &self.select) {
                (Output::Logits(..), _) if count > 0 => {
                    sources.push((&self.slots.logits, 4 * (count * config.vocab) as u64));
                }
                (Output::Hidden(hidden), _) => sources.push((&self.slots.hidden, 4 * hidden.len() as u64)),
                (Output::Best(choice, ..), Some(select)) => {
                    recorder.record(&mut encoder, select.dispatches(*choice), &dynamic, uniforms);
                    sources.push(select.source(*choice));
                    sources.extend(screened.map(|screen| (&screen.state, 4)));
                }
                _ => {}
            }
            let pending = self.readback.record(&mut encoder, &sources);
            self.readback_bytes += sources.iter().map(|&(_, bytes)| bytes).sum::<u64>();
            let full = recorder.finish(std::mem::replace(&mut encoder, new_encoder()));
            let submission = recorder.submit(gpu, full, uniforms)?;
            if let Some(Fault::Silence(_)) = self.fault {
                gpu.wait_for(submission.clone(), Duration::ZERO)?;
            }
            let damage = self.readback.read(gpu, pending, submission, |bytes| {
                let (damage, results) = bytes.split_at(4);
                let floats = results.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                match (&mut output, &self.select) {
                    (Output::Logits(_, logits), _) => logits.extend(floats),
                    (Output::Hidden(hidden), _) => hidden.iter_mut().zip(floats).for_each(|(to, from)| *to = from),
                    (Output::Best(choice, candidates, head_rows), Some(select)) => {
                        select.read(*choice, results, candidates);
                        if screened.is_some() {
                            **head_rows = last_word(results) as usize;
                        }
                    }
                    _ => {}
                }
                u32::from_le_bytes([damage[0], damage[1], damage[2], damage[3]])
            })?;
            check_damage(gpu, damage, config.layers)?;
            first += count;
            if first >= rows.end {
                break;
            }
        }
        // The kernels of few tokens are bound by memory, and say nothing about multiply-adds.
        if in_tiles && self.recorder.profiler.is_none() {
            let head = (rows.len() * config.vocab * config.dim) as u64;
            self.pace.observe(macs * self.segment.layers.len() as u64 + head, begin.elapsed());
        }
        Ok(())
    }
}

/// The count that a screened head leaves behind its results.
pub fn last_word(bytes: &[u8]) -> u32 {
    bytes.last_chunk().map_or(0, |&word| u32::from_le_bytes(word))
}

pub fn check_damage(gpu: &Gpu, damage: u32, layers: usize) -> Result<()> {
    match damaged_place(damage, layers) {
        Some(place) => Err(Error::NotFinite { place, backend: format!("the GPU ({})", gpu.caps().name) }),
        None => Ok(()),
    }
}
