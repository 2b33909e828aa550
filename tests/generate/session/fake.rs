//! A fake backend that logs its calls, a model and a plan for it, and what an answer comes to.

use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    sync::{Arc, atomic::AtomicBool},
};

use bitnet_cpu_kernels::format::DenseType;
use bitnet_gpu::{
    Error, Result,
    backend::{Activations, Backend, CacheRows, KvRows, SegmentId, Wanted},
    bytes::Bytes,
    generate::{Answer, AnswerOptions, Event, Finish, SampleOptions, Sampler, Stats, TextDecoder},
    model::{Activation, Config, DenseMatrix, Family, Model, Rope, RopeStyle, Weights},
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
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
    pub wanted: Wanted,
}

pub type Log = Rc<RefCell<Vec<Call>>>;

/// Chooses the logits of the last position from all ids up to it.
pub type Script = Rc<dyn Fn(&[u32]) -> Vec<f32>>;

/// Passes ids on as hidden states and keeps them as its cache, as a real segment keeps keys and values.
pub struct Fake {
    pub name: &'static str,
    pub segments: Vec<(Segment, Vec<f32>)>,
    pub log: Log,
    pub script: Script,
    /// What a pass over several tokens gives wrong.
    pub pass_error: f32,
    /// The error of the step at this position.
    pub fault: Option<(usize, fn() -> Error)>,
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
        self.segments.push((segment.clone(), Vec::with_capacity(sizes.context_tokens)));
        Ok(SegmentId(self.segments.len() - 1))
    }

    fn alike_tokens(&self, _: SegmentId) -> usize {
        ALIKE
    }

    fn run(&mut self, id: SegmentId, x: &mut Activations, positions: Range<usize>, wanted: Wanted) -> Result<()> {
        self.log.borrow_mut().push(Call { backend: self.name, positions: positions.clone(), wanted });
        if let Some((at, error)) = self.fault
            && positions.contains(&at)
        {
            return Err(error());
        }
        let (segment, cache) = &mut self.segments[id.0];
        if segment.embed {
            x.hidden = x.ids.iter().map(|&id| id as f32).collect();
        }
        assert_eq!(x.hidden.len(), positions.len(), "one hidden state for each position");
        assert!(positions.start <= cache.len(), "a gap in the cache: {} < {}", cache.len(), positions.start);
        cache.truncate(positions.start);
        cache.extend(&x.hidden);
        let ids: Vec<u32> = cache.iter().map(|&h| h as u32).collect();
        if segment.head && matches!(wanted, Wanted::Last | Wanted::Top(_)) {
            x.logits = (self.script)(&ids);
        }
        if segment.head && wanted == Wanted::All {
            x.logits = positions.flat_map(|at| (self.script)(&ids[..=at])).collect();
            x.logits[0] += self.pass_error;
        }
        Ok(())
    }

    fn read_cache(&mut self, id: SegmentId, layer: usize, positions: Range<usize>, rows: &mut CacheRows) -> Result<()> {
        let (segment, cache) = &self.segments[id.0];
        assert!(layer < segment.layers.len(), "layer {layer} of {:?}", segment.layers);
        rows.k = KvRows::Floats(cache[positions].to_vec());
        Ok(())
    }

    fn write_cache(&mut self, id: SegmentId, layer: usize, positions: Range<usize>, rows: &CacheRows) -> Result<()> {
        let backend = if self.name == "cpu" { "to cpu" } else { "to gpu" };
        let (_, cache) = &mut self.segments[id.0];
        // Every layer of a fake segment has the same cache.
        if layer == 0 {
            self.log.borrow_mut().push(Call { backend, positions: positions.clone(), wanted: Wanted::Nothing });
            assert!(positions.start <= cache.len(), "a gap in the cache");
            cache.truncate(positions.start);
            let KvRows::Floats(values) = &rows.k else { panic!("not what read_cache gave: {rows:?}") };
            cache.extend(values);
        }
        Ok(())
    }
}

pub fn model() -> Arc<Model> {
    let rope = Rope { dims: 2, base: 1e4, position_scale: 1.0, yarn: None, style: RopeStyle::HalfSplit };
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
    };
    let token_embd = DenseMatrix { rows: VOCAB, cols: 1, data: Bytes::from(vec![0; 4 * VOCAB]), ty: DenseType::F32 };
    let weights = Weights { token_embd, blocks: Vec::new(), output_norm: vec![1.0], output: None, rope_factors: None };
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
        sizes: Sizes { context_tokens, batch_tokens, k_type: KvType::F16, v_type: KvType::F16, head_screen: false },
    }
}

pub fn session(context: usize, batch: usize, script: impl Fn(&[u32]) -> Vec<f32> + 'static) -> (Session, Log) {
    session_with(context, batch, 0.0, script)
}

pub fn session_with(
    context: usize,
    batch: usize,
    pass_error: f32,
    script: impl Fn(&[u32]) -> Vec<f32> + 'static,
) -> (Session, Log) {
    let (log, script): (Log, Script) = (Log::default(), Rc::new(script));
    let fake = |name| -> Box<dyn Backend> {
        Box::new(Fake { name, segments: Vec::new(), log: log.clone(), script: script.clone(), pass_error, fault: None })
    };
    let backends = vec![(BackendKind::Cpu, fake("cpu")), (BackendKind::Gpu, fake("gpu"))];
    let session = Session::load(&model(), &plan(context, batch), backends, &mut |_| {}).unwrap();
    (session, log)
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

pub fn greedy() -> Sampler {
    Sampler::new(SampleOptions::greedy(), 1000).unwrap()
}

pub fn options() -> AnswerOptions {
    AnswerOptions { end_ids: vec![END], ..AnswerOptions::default() }
}

/// Bytes of each id, put together to characters.
pub struct Spelling {
    pieces: &'static [&'static [u8]],
    bytes: Vec<u8>,
}

impl Spelling {
    pub fn boxed(pieces: &'static [&'static [u8]]) -> Box<dyn TextDecoder> {
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
        let Event { id, text } = event?;
        ids.extend(id);
        texts.push(text);
    }
    Ok(Outcome { ids, texts, finish: answer.finish().cloned(), stats: answer.stats().clone() })
}

pub fn run(
    session: &mut Session,
    prompt: &[u32],
    options: AnswerOptions,
    decoder: Box<dyn TextDecoder>,
) -> Result<Outcome> {
    let (mut sampler, cancel) = (greedy(), AtomicBool::new(false));
    collect(Answer::new(session, &mut sampler, decoder, prompt, options, &cancel)?)
}
