//! A fake backend that logs its calls, a model and a plan for it, and what an answer comes to.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bitnet_cpu_kernels::format::DenseType;
use bitnet_gpu::{
    Error, Result,
    backend::{
        Activations, Backend, Batch, Checkpoint, KvRows, LayerState, Limits, Row, SegmentId, SlotId, States, Ticket,
        Want,
    },
    bytes::Bytes,
    generate::{Answer, AnswerOptions, Chooser, Event, Finish, SampleOptions, Sampler, Stats, TextDecoder},
    model::{Activation, Config, DenseMatrix, Family, Model, Multipliers, Rope, RopeStyle, Weights},
    plan::{BackendKind, Plan, Segment, Sizes},
    session::Session,
};

pub const VOCAB: usize = 50;
pub const END: u32 = 49;
/// Tokens of a pass.
pub const ALIKE: usize = 5;

/// One call of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub backend: &'static str,
    pub positions: Range<usize>,
    pub wanted: Want,
}

/// Calls of all fakes of a test, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Call>>>);

impl Log {
    fn push(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }

    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Chooses the logits of the last position from all ids up to it.
pub type Script = Arc<dyn Fn(&[u32]) -> Vec<f32> + Send + Sync>;

/// Passes ids on as hidden states and keeps them as its state, as a real segment keeps keys and values.
pub struct Fake {
    pub name: &'static str,
    pub log: Log,
    pub script: Script,
    /// Error of the first logit of a pass over several tokens.
    pub pass_error: f32,
    /// The error of the step at this position. [`Error::Cancelled`] raises the flag first.
    pub fault: Option<(usize, fn() -> Error)>,
    pub cancel: Option<Arc<AtomicBool>>,
    /// Each with what every slot holds.
    pub segments: Vec<(Segment, Vec<Vec<f32>>)>,
    /// The segment whose states were asked for.
    pub of_states: usize,
    pub done: Activations,
}

impl Fake {
    pub fn new(name: &'static str, log: &Log, script: &Script) -> Self {
        let (log, script) = (log.clone(), Arc::clone(script));
        let (segments, of_states, done) = (Vec::new(), 0, Activations::default());
        Self { name, log, script, pass_error: 0.0, fault: None, cancel: None, segments, of_states, done }
    }

    fn run_row(&mut self, segment: usize, number: usize, row: &Row, hidden: &[f32]) -> Result<()> {
        let Row { slot, positions, want, .. } = row.clone();
        self.log.push(Call { backend: self.name, positions: positions.clone(), wanted: want });
        if let Some((at, error)) = self.fault
            && positions.contains(&at)
        {
            let error = error();
            if matches!(error, Error::Cancelled) {
                self.cancel.as_ref().expect("a flag").store(true, Ordering::Relaxed);
            }
            return Err(error);
        }
        let (segment, slots) = &mut self.segments[segment];
        let cache = &mut slots[slot.index()];
        assert!(positions.start <= cache.len(), "a gap in the cache: {} < {}", cache.len(), positions.start);
        cache.truncate(positions.start);
        cache.extend(hidden);
        let ids: Vec<u32> = cache.iter().map(|&h| h as u32).collect();
        if !segment.head {
            self.done.hidden.extend(hidden);
            return Ok(());
        }
        let before = self.done.logits.len();
        match want {
            Want::Nothing => {}
            Want::Last | Want::Top(_) => self.done.logits.extend((self.script)(&ids)),
            Want::All | Want::Each(_) => {
                self.done.logits.extend(positions.flat_map(|at| (self.script)(&ids[..=at])));
                self.done.logits[before] += self.pass_error;
            }
        }
        // Rows of a wrong length count as well.
        self.done.rows[number].logits = before.div_ceil(VOCAB)..self.done.logits.len().div_ceil(VOCAB);
        Ok(())
    }
}

impl Backend for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn load(
        &mut self,
        _: &Arc<Model>,
        segment: &Segment,
        sizes: &Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<SegmentId> {
        progress(segment.layers.len() as u64);
        self.segments.push((segment.clone(), vec![Vec::new(); sizes.sequences]));
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn limits(&self, _: SegmentId) -> Limits {
        Limits {
            max_tokens: usize::MAX,
            exact_tokens: ALIKE,
            least_prompt: ALIKE + 1,
            mixes_rows: false,
            keeps_on_the_way: false,
            most_top: VOCAB,
            most_each: 0,
            most_summed: 0,
            most_drafted: 0,
        }
    }

    fn submit(&mut self, id: SegmentId, batch: &Batch, input: &Activations) -> Result<Ticket> {
        let ids_as_hidden: Vec<f32> = input.ids.iter().map(|&id| id as f32).collect();
        let hidden = if self.segments[id.0].0.embed { &ids_as_hidden } else { &input.hidden };
        assert_eq!(hidden.len(), batch.tokens(), "one hidden state for each position");
        self.done.clear_output(batch.rows.len());
        self.done.hidden.clear();
        let mut next = 0;
        for (number, row) in batch.rows.iter().enumerate() {
            let tokens = row.positions.len();
            self.run_row(id.0, number, row, &hidden[next..next + tokens])?;
            next += tokens;
        }
        Ok(Ticket(0))
    }

    fn poll(&mut self, _: &Ticket, out: &mut Activations) -> Poll<Result<()>> {
        std::mem::swap(out, &mut self.done);
        Poll::Ready(Ok(()))
    }

    fn wait(&mut self, _: Ticket, out: &mut Activations) -> Result<()> {
        std::mem::swap(out, &mut self.done);
        Ok(())
    }

    fn cancel_when(&mut self, raised: Option<Arc<AtomicBool>>) {
        self.cancel = raised;
    }

    fn full_logits(&mut self, _: SegmentId, _: SlotId, _: &mut Vec<f32>) -> Result<()> {
        panic!("a fake gives logits at once");
    }

    fn states(&mut self, id: SegmentId) -> Result<&mut dyn States> {
        self.of_states = id.0;
        Ok(self)
    }
}

impl States for Fake {
    fn clear(&mut self, slot: SlotId) -> Result<()> {
        self.segments[self.of_states].1[slot.index()].clear();
        Ok(())
    }

    fn fork(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<()> {
        let slots = &mut self.segments[self.of_states].1;
        slots[to.index()] = slots[from.index()][..len].to_vec();
        Ok(())
    }

    fn rewind(&mut self, _: SlotId, _: usize) -> bool {
        true
    }

    fn checkpoint(&mut self, _: SlotId, _: Checkpoint) -> Result<()> {
        Ok(())
    }

    fn restore(&mut self, _: SlotId, _: Checkpoint) -> Result<()> {
        Ok(())
    }

    fn export(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, to: &mut LayerState) -> Result<()> {
        let (segment, slots) = &self.segments[self.of_states];
        assert!(layer < segment.layers.len(), "layer {layer} of {:?}", segment.layers);
        *to = LayerState::Kv { k: KvRows::Floats(slots[slot.index()][positions].to_vec()), v: KvRows::default() };
        Ok(())
    }

    fn import(&mut self, layer: usize, slot: SlotId, positions: Range<usize>, from: &LayerState) -> Result<()> {
        let backend = if self.name == "cpu" { "to cpu" } else { "to gpu" };
        // Every layer of a fake segment has the same state.
        if layer == 0 {
            self.log.push(Call { backend, positions: positions.clone(), wanted: Want::Nothing });
            let cache = &mut self.segments[self.of_states].1[slot.index()];
            assert!(positions.start <= cache.len(), "a gap in the cache");
            cache.truncate(positions.start);
            let LayerState::Kv { k: KvRows::Floats(values), .. } = from else {
                panic!("not what export gave: {from:?}")
            };
            cache.extend(values);
        }
        Ok(())
    }
}

pub fn model() -> Arc<Model> {
    let rope = Rope { dims: 2, base: 1e4, position_scale: 1.0, yarn: None, long: None, style: RopeStyle::HalfSplit };
    let config = Config {
        arch: "fake".into(),
        family: Family::Llama,
        name: String::new(),
        layers: 4,
        dim: 1,
        ffn_dim: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        vocab: VOCAB,
        context: 1000,
        rms_eps: 1e-5,
        rope,
        activation: Activation::Silu,
        delta: None,
        rotation: None,
        mtp_blocks: 0,
        input_norms: None,
        multipliers: Multipliers::default(),
        biased: &[],
    };
    let token_embd = DenseMatrix { rows: VOCAB, cols: 1, data: Bytes::from(vec![0; 4 * VOCAB]), ty: DenseType::F32 };
    let weights = Weights {
        token_embd,
        blocks: Vec::new(),
        output_norm: vec![1.0],
        head_norm: None,
        output: None,
        rope_factors: None,
        long_rope_factors: None,
        mtp: None,
    };
    Arc::new(Model { config, weights })
}

/// Layers 0..3 on a fake GPU, layer 3 and the head on a fake CPU.
pub fn plan(context_tokens: usize, batch_tokens: usize) -> Plan {
    let segment = |layers: Range<usize>, backend, embed, head| Segment {
        layers,
        backend,
        embed,
        head,
        reason: "the test says so".into(),
    };
    Plan {
        segments: vec![segment(0..3, BackendKind::Gpu, true, false), segment(3..4, BackendKind::Cpu, false, true)],
        prefill: None,
        sizes: Sizes::new(context_tokens, batch_tokens),
    }
}

pub fn session(
    context: usize,
    batch: usize,
    script: impl Fn(&[u32]) -> Vec<f32> + Send + Sync + 'static,
) -> (Session, Log) {
    session_with(context, batch, 0.0, script)
}

pub fn session_with(
    context: usize,
    batch: usize,
    pass_error: f32,
    script: impl Fn(&[u32]) -> Vec<f32> + Send + Sync + 'static,
) -> (Session, Log) {
    session_of(context, batch, script, |fake| Fake { pass_error, ..fake })
}

/// A session whose step at position `at` is cancelled.
pub fn cancelled_at(
    at: usize,
    context: usize,
    batch: usize,
    script: impl Fn(&[u32]) -> Vec<f32> + Send + Sync + 'static,
) -> (Session, Log) {
    session_of(context, batch, script, |fake| Fake { fault: Some((at, || Error::Cancelled)), ..fake })
}

/// A session on two backends, each changed by `change`.
fn session_of(
    context: usize,
    batch: usize,
    script: impl Fn(&[u32]) -> Vec<f32> + Send + Sync + 'static,
    change: impl Fn(Fake) -> Fake,
) -> (Session, Log) {
    let (log, script): (Log, Script) = (Log::default(), Arc::new(script));
    let fake = |name| -> Box<dyn Backend> { Box::new(change(Fake::new(name, &log, &script))) };
    let backends = vec![(BackendKind::Cpu, fake("cpu")), (BackendKind::Gpu, fake("gpu"))];
    let session = Session::load(&model(), &plan(context, batch), backends, &mut |_| {}).unwrap();
    (session, log)
}

/// A session that hands the residual stream over.
pub fn without_head(context: usize, batch: usize) -> (Session, Log) {
    let (log, script): (Log, Script) = (Log::default(), Arc::new(summing));
    let fake = |name| -> Box<dyn Backend> { Box::new(Fake::new(name, &log, &script)) };
    let backends = vec![(BackendKind::Cpu, fake("cpu")), (BackendKind::Gpu, fake("gpu"))];
    let plan = plan(context, batch).without_head();
    (Session::load(&model(), &plan, backends, &mut |_| {}).unwrap(), log)
}

pub fn one_hot(id: u32) -> Vec<f32> {
    let mut logits = vec![0.0; VOCAB];
    logits[id as usize] = 1.0;
    logits
}

/// The next id is the sum of all ids so far (in any order: 4, 5 -> 9 -> 18 -> 36 ...), below END.
pub fn summing(ids: &[u32]) -> Vec<f32> {
    one_hot(ids.iter().sum::<u32>() % END)
}

/// After a prompt of `prompt` tokens, says `answer`, then END for ever.
pub fn saying(prompt: usize, answer: &'static [u32]) -> impl Fn(&[u32]) -> Vec<f32> {
    move |ids| one_hot(answer.get(ids.len() - prompt).copied().unwrap_or(END))
}

pub fn greedy() -> Chooser {
    Sampler::new(SampleOptions::greedy(), 1000).unwrap().into()
}

pub fn options() -> AnswerOptions {
    with!(AnswerOptions::default(), end_ids: vec![END])
}

/// Bytes of each id, put together to characters.
pub struct Spelling {
    pieces: &'static [&'static [u8]],
    bytes: Vec<u8>,
}

impl Spelling {
    pub fn boxed(pieces: &'static [&'static [u8]]) -> Box<dyn TextDecoder + Send> {
        Box::new(Self { pieces, bytes: Vec::new() })
    }
}

impl TextDecoder for Spelling {
    fn push(&mut self, id: u32) -> String {
        self.bytes.extend_from_slice(self.pieces[id as usize]);
        let complete = match std::str::from_utf8(&self.bytes) {
            Ok(all) => all.len(),
            Err(error) => error.valid_up_to(),
        };
        String::from_utf8(self.bytes.drain(..complete).collect()).unwrap()
    }

    fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
    }
}

pub struct Outcome {
    pub ids: Vec<u32>,
    pub texts: Vec<String>,
    pub finish: Option<Finish>,
    pub stats: Stats,
}

pub fn collect(mut answer: Answer<'_>) -> Result<Outcome> {
    let (mut ids, mut texts) = (Vec::new(), Vec::new());
    for event in &mut answer {
        let Event { id, text, .. } = event?;
        ids.extend(id);
        texts.push(text);
    }
    Ok(Outcome { ids, texts, finish: answer.finish().cloned(), stats: answer.stats().clone() })
}

pub fn run(
    session: &mut Session,
    prompt: &[u32],
    options: AnswerOptions,
    decoder: Box<dyn TextDecoder + Send>,
) -> Result<Outcome> {
    collect(Answer::new(session, &mut greedy(), decoder, prompt, options, Arc::default())?)
}
