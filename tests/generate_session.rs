//! Sessions and answers over a fake backend: what is run at which position, when an answer ends, and
//! what text comes out.

use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bitnet_cpu_kernels::format::DenseType;
use bitnet_gpu::{
    Error, Result,
    backend::{Activations, Backend, CacheRows, KvRows, SegmentId, Wanted},
    bytes::Bytes,
    generate::{
        Answer, AnswerOptions, Drafter, Event, Finish, NoText, SampleOptions, Sampler, Session, Stats, TextDecoder,
    },
    model::{Activation, Config, DenseMatrix, Family, Model, Rope, RopeStyle, Weights},
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
};

const VOCAB: usize = 50;
const END: u32 = 49;
/// Tokens of a pass.
const ALIKE: usize = 5;

/// One call of a backend.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    backend: &'static str,
    positions: Range<usize>,
    wanted: Wanted,
}

type Log = Rc<RefCell<Vec<Call>>>;

/// Chooses the logits of the last position from all ids up to it.
type Script = Rc<dyn Fn(&[u32]) -> Vec<f32>>;

/// Passes ids on as hidden states and keeps them as its cache, as a real segment keeps keys and values.
struct Fake {
    name: &'static str,
    segments: Vec<(Segment, Vec<f32>)>,
    log: Log,
    script: Script,
    /// What a pass over several tokens gives wrong.
    pass_error: f32,
    /// The error of the step at this position.
    fault: Option<(usize, fn() -> Error)>,
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

fn model() -> Arc<Model> {
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
fn plan(context_tokens: usize, batch_tokens: usize) -> Plan {
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

fn session(context: usize, batch: usize, script: impl Fn(&[u32]) -> Vec<f32> + 'static) -> (Session, Log) {
    session_with(context, batch, 0.0, script)
}

fn session_with(
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

fn one_hot(id: u32) -> Vec<f32> {
    let mut logits = vec![0.0; VOCAB];
    logits[id as usize] = 1.0;
    logits
}

/// The next id is the sum of all ids so far (in any order: 4, 5 -> 9 -> 18 -> 36 ...), below END.
fn summing(ids: &[u32]) -> Vec<f32> {
    one_hot(ids.iter().sum::<u32>() % END)
}

/// After a prompt of `prompt` tokens, says `answer`, then END for ever.
fn saying(prompt: usize, answer: &'static [u32]) -> impl Fn(&[u32]) -> Vec<f32> {
    move |ids| one_hot(answer.get(ids.len() - prompt).copied().unwrap_or(END))
}

fn greedy() -> Sampler {
    Sampler::new(SampleOptions::greedy(), 1000).unwrap()
}

fn options() -> AnswerOptions {
    AnswerOptions { end_ids: vec![END], ..AnswerOptions::default() }
}

/// Bytes of each id, put together to characters.
struct Spelling {
    pieces: &'static [&'static [u8]],
    bytes: Vec<u8>,
}

impl Spelling {
    fn boxed(pieces: &'static [&'static [u8]]) -> Box<dyn TextDecoder> {
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

struct Outcome {
    ids: Vec<u32>,
    texts: Vec<String>,
    finish: Option<Finish>,
    stats: Stats,
}

fn collect(mut answer: Answer<'_>) -> Result<Outcome> {
    let (mut ids, mut texts) = (Vec::new(), Vec::new());
    for event in &mut answer {
        let Event { id, text } = event?;
        ids.extend(id);
        texts.push(text);
    }
    Ok(Outcome { ids, texts, finish: answer.finish().cloned(), stats: answer.stats().clone() })
}

fn run(
    session: &mut Session,
    prompt: &[u32],
    options: AnswerOptions,
    decoder: Box<dyn TextDecoder>,
) -> Result<Outcome> {
    let (mut sampler, cancel) = (greedy(), AtomicBool::new(false));
    collect(Answer::new(session, &mut sampler, decoder, prompt, options, &cancel)?)
}

#[test]
fn a_prompt_runs_in_batches_and_only_the_last_one_wants_logits() {
    let (mut session, log) = session(100, 4, summing);
    let prompt: Vec<u32> = (1..=10).collect();
    session.prefill(&prompt).unwrap();
    let both = |positions: Range<usize>, wanted| {
        ["gpu", "cpu"].map(|backend| Call { backend, positions: positions.clone(), wanted })
    };
    let expected = [both(0..4, Wanted::Nothing), both(4..8, Wanted::Nothing), both(8..10, Wanted::Last)].concat();
    assert_eq!(log.take(), expected);
    assert_eq!(session.tokens(), prompt);

    // A prompt that fills its batches exactly wants logits from the last full one.
    session.truncate(0);
    session.prefill(&prompt[..8]).unwrap();
    assert_eq!(log.take(), [both(0..4, Wanted::Nothing), both(4..8, Wanted::Last)].concat());

    let logits = session.step(11).unwrap().to_vec();
    assert_eq!(log.take(), both(8..9, Wanted::Last));
    assert_eq!(logits, one_hot((36 + 11) % END));
}

#[test]
fn each_phase_has_its_own_segments_and_the_cache_follows() {
    let log = Log::default();
    let fake = |name| -> Box<dyn Backend> {
        Box::new(Fake {
            name,
            segments: Vec::new(),
            log: log.clone(),
            script: Rc::new(summing),
            pass_error: 0.0,
            fault: None,
        })
    };
    let backends = vec![(BackendKind::Cpu, fake("cpu")), (BackendKind::Gpu, fake("gpu"))];
    let segment = |backend| Segment { layers: 0..4, backend, embed: true, head: true, reason: String::new() };
    let plan = Plan {
        segments: vec![segment(BackendKind::Cpu)],
        prefill: Some(vec![segment(BackendKind::Gpu)]),
        ..plan(100, 4)
    };
    let mut session = Session::load(&model(), &plan, backends, &mut |_| {}).unwrap();
    let call = |backend, positions, wanted| Call { backend, positions, wanted };
    let (last, nothing) = (Wanted::Last, Wanted::Nothing);

    session.prefill(&[1, 2, 3, 4, 5]).unwrap();
    assert_eq!(log.take(), [call("gpu", 0..4, nothing), call("gpu", 4..5, last)]);
    // The cache moves once, with all of the prompt.
    assert_eq!(session.step(6).unwrap(), one_hot(21 % END));
    assert_eq!(session.step(7).unwrap(), one_hot(28 % END));
    assert_eq!(log.take(), [call("to cpu", 0..5, nothing), call("cpu", 5..6, last), call("cpu", 6..7, last)]);
    // The next prompt takes along only what was decoded since.
    session.prefill(&[8, 9]).unwrap();
    assert_eq!(log.take(), [call("to gpu", 5..7, nothing), call("gpu", 7..9, last)]);
    // What was forgotten does not move.
    session.truncate(4);
    assert_eq!(session.step(1).unwrap(), one_hot(11 % END));
    assert_eq!(log.take(), [call("cpu", 4..5, last)]);
    session.prefill(&[2]).unwrap();
    assert_eq!(log.take(), [call("to gpu", 4..5, nothing), call("gpu", 5..6, last)]);
    assert_eq!(session.devices(), "gpu, then cpu");
}

#[test]
fn loading_reports_progress_and_names_a_backend_that_is_missing() {
    let log = Log::default();
    let fake = |name| -> Box<dyn Backend> {
        Box::new(Fake {
            name,
            segments: Vec::new(),
            log: log.clone(),
            script: Rc::new(summing),
            pass_error: 0.0,
            fault: None,
        })
    };
    let mut loaded = 0;
    let backends = vec![(BackendKind::Cpu, fake("cpu")), (BackendKind::Gpu, fake("gpu"))];
    let session = Session::load(&model(), &plan(10, 4), backends, &mut |bytes| loaded += bytes).unwrap();
    assert_eq!(loaded, 4);
    assert_eq!(session.head_backend(), "cpu");

    let only_cpu = vec![(BackendKind::Cpu, fake("cpu"))];
    let error = Session::load(&model(), &plan(10, 4), only_cpu, &mut |_| {}).err().unwrap();
    assert_eq!(error.to_string(), "the GPU backend is missing (needed for layers 0..3)");
}

#[test]
fn an_answer_ends_at_the_end_token_which_is_no_part_of_it() {
    let (mut session, log) = session(100, 8, saying(3, &[7, 8]));
    let outcome = run(&mut session, &[1, 2, 3], options(), Box::new(NoText)).unwrap();
    assert_eq!(outcome.ids, [7, 8]);
    assert_eq!(outcome.finish, Some(Finish::EndToken(END)));
    // The prompt, then one step for each token of the answer.
    let positions: Vec<_> = log.take().into_iter().filter(|c| c.backend == "cpu").map(|c| c.positions).collect();
    assert_eq!(positions, [0..3, 3..4, 4..5]);
}

#[test]
fn an_ignored_end_token_is_never_chosen() {
    let (mut session, _) = session(10, 8, saying(3, &[7, 8]));
    let ignoring = AnswerOptions { ignore_end: true, ..options() };
    let outcome = run(&mut session, &[1, 2, 3], ignoring, Box::new(NoText)).unwrap();
    // END has the only high logit, so with END out of the way the lowest id wins.
    assert_eq!(outcome.ids, [7, 8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(outcome.finish, Some(Finish::ContextFull));
}

#[test]
fn max_tokens_ends_without_running_the_last_token() {
    for max in 0..4 {
        let (mut session, log) = session(100, 8, summing);
        let limited = AnswerOptions { max_tokens: Some(max), ..options() };
        let outcome = run(&mut session, &[4, 5], limited, Box::new(NoText)).unwrap();
        assert_eq!(outcome.ids, [9, 18, 36][..max]);
        assert_eq!(outcome.finish, Some(Finish::MaxTokens));
        let steps = log.take().iter().filter(|c| c.backend == "cpu").count();
        assert_eq!(steps, max.max(1), "the prompt, and a step for each token but the last");
    }
}

#[test]
fn the_context_limits_the_answer_and_refuses_a_longer_prompt() {
    let (mut session, log) = session(6, 4, summing);
    let outcome = run(&mut session, &[4, 5], options(), Box::new(NoText)).unwrap();
    // Four more positions, and one token sampled from the last of them.
    assert_eq!(outcome.ids, [9, 18, 36, 72 % END, (72 + 23) % END]);
    assert_eq!(outcome.finish, Some(Finish::ContextFull));
    assert!(session.is_full());
    assert!(matches!(session.step(1), Err(Error::ContextFull { needed: 7, context: 6 })));

    let exact = run(&mut session, &[1; 6], options(), Box::new(NoText)).unwrap();
    assert_eq!((exact.ids.len(), exact.finish), (1, Some(Finish::ContextFull)));

    log.take();
    let error = run(&mut session, &[1; 7], options(), Box::new(NoText)).err().unwrap();
    assert!(matches!(error, Error::ContextFull { needed: 7, context: 6 }));
    assert_eq!(error.to_string(), "the context is full: 7 tokens needed, 6 tokens available (raise it with -c)");
    assert!(log.take().is_empty(), "nothing runs for a prompt that does not fit");
}

#[test]
fn stop_strings_split_over_tokens_end_the_text_before_them() {
    const PIECES: &[&[u8]] = &[b"", b"Hello", b" wo", b"rld EN", b"D of text", b" ENO"];
    let stopping = AnswerOptions { stop: vec!["END".into()], ..options() };

    let (mut session, _) = session(100, 8, saying(1, &[1, 2, 3, 4, 1]));
    let outcome = run(&mut session, &[0], stopping.clone(), Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts, ["Hello", " wo", "rld ", ""]);
    assert_eq!(outcome.ids, [1, 2, 3, 4]);
    assert_eq!(outcome.finish, Some(Finish::StopString("END".into())));
}

#[test]
fn text_held_back_for_a_stop_string_comes_out_at_the_end() {
    const PIECES: &[&[u8]] = &[b"", b"Hello", b" wo", b"rld EN"];
    let stopping = AnswerOptions { stop: vec!["END".into()], ..options() };

    // At an end token there is no token to carry it.
    let (mut session, _) = session(100, 8, saying(1, &[1, 3]));
    let outcome = run(&mut session, &[0], stopping.clone(), Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts, ["Hello", "rld ", "EN"]);
    assert_eq!(outcome.ids, [1, 3]);

    // At a limit the last token carries it.
    let limited = AnswerOptions { max_tokens: Some(2), ..stopping };
    let outcome = run(&mut session, &[0], limited, Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts, ["Hello", "rld EN"]);
    assert_eq!(outcome.finish, Some(Finish::MaxTokens));
}

#[test]
fn characters_split_over_tokens_come_out_whole() {
    // "né€😀" in pieces that cut every character, then an incomplete one at the end.
    const PIECES: &[&[u8]] = &[b"", b"n\xC3", b"\xA9\xE2\x82", b"\xAC\xF0\x9F", b"\x98", b"\x80", b"!\xE2\x82"];
    let (mut session, _) = session(100, 8, saying(1, &[1, 2, 3, 4, 5, 6]));
    let outcome = run(&mut session, &[0], options(), Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts, ["n", "é", "€", "", "😀", "!", "\u{FFFD}"]);

    // A stop string may consist of such characters, and the flushed rest may complete one.
    let stopping = AnswerOptions { stop: vec!["€😀".into()], ..options() };
    let outcome = run(&mut session, &[0], stopping, Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts.concat(), "né");
    let stopping = AnswerOptions { stop: vec!["!\u{FFFD}".into()], ..options() };
    let outcome = run(&mut session, &[0], stopping, Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts.concat(), "né€😀");
    assert_eq!(outcome.finish, Some(Finish::StopString("!\u{FFFD}".into())));
}

#[test]
fn a_raised_flag_ends_the_answer_after_the_token_at_hand() {
    let (mut session, _) = session(100, 8, summing);
    let (mut sampler, cancel) = (greedy(), AtomicBool::new(false));
    let mut answer = Answer::new(&mut session, &mut sampler, Box::new(NoText), &[4, 5], options(), &cancel).unwrap();
    assert_eq!(answer.next().unwrap().unwrap().id, Some(9));
    assert_eq!(answer.next().unwrap().unwrap().id, Some(18));
    cancel.store(true, Ordering::Relaxed);
    assert!(answer.next().is_none());
    assert_eq!(answer.finish(), Some(&Finish::Cancelled));
    assert_eq!(answer.stats().generated_tokens, 2);
    assert!(answer.next().is_none(), "the end is final");
    drop(answer);
    assert_eq!(session.tokens(), [4, 5, 9]);
}

#[test]
fn a_raised_flag_stops_a_long_prompt_between_batches() {
    let cancel = Arc::new(AtomicBool::new(false));
    let (mut session, log) = session(100, 2, summing);
    // Raised while the second batch is asked for.
    let mut asked = 0;
    let complete = session.prefill_while(&[1; 9], Wanted::Last, || {
        asked += 1;
        asked < 3
    });
    assert!(!complete.unwrap());
    assert_eq!(session.tokens().len(), 4);

    log.take();
    cancel.store(true, Ordering::Relaxed);
    let mut sampler = greedy();
    let mut answer = Answer::new(&mut session, &mut sampler, Box::new(NoText), &[1; 9], options(), &cancel).unwrap();
    assert!(answer.next().is_none());
    assert_eq!(answer.finish(), Some(&Finish::Cancelled));
    assert!(log.take().is_empty());
}

#[test]
fn a_second_turn_runs_only_what_is_new_and_answers_as_a_fresh_session_does() {
    let limited = |max| AnswerOptions { max_tokens: Some(max), ..options() };
    let (mut session, log) = session(100, 8, summing);
    let first = run(&mut session, &[4, 5], limited(3), Box::new(NoText)).unwrap();
    // The last token of the first answer was never run.
    assert_eq!(session.tokens(), [4, 5, first.ids[0], first.ids[1]]);

    let turn: Vec<u32> = [&[4, 5], &first.ids[..], &[1, 2]].concat();
    log.take();
    let second = run(&mut session, &turn, limited(2), Box::new(NoText)).unwrap();
    assert_eq!((second.stats.prompt_tokens, second.stats.reused_tokens), (7, 4));
    assert_eq!((second.stats.generated_tokens, second.stats.latencies.len()), (2, 1));
    assert_eq!(log.take()[0].positions, 4..7);

    let (mut fresh, _) = self::session(100, 8, summing);
    assert_eq!(second.ids, run(&mut fresh, &turn, limited(2), Box::new(NoText)).unwrap().ids);

    // Another beginning: everything from the difference on is forgotten.
    let other = [4, 6, 1];
    let again = run(&mut session, &other, limited(2), Box::new(NoText)).unwrap();
    assert_eq!(log.take()[0].positions, 1..3);
    let (mut fresh, _) = self::session(100, 8, summing);
    assert_eq!(again.ids, run(&mut fresh, &other, limited(2), Box::new(NoText)).unwrap().ids);

    // The same prompt again: its last token has to run, to give logits.
    run(&mut session, &other, limited(1), Box::new(NoText)).unwrap();
    assert_eq!(log.take()[0].positions, 2..3);
}

#[test]
fn truncation_forgets_the_end() {
    let (mut session, _) = session(100, 8, summing);
    session.prefill(&[1, 2, 3, 4]).unwrap();
    session.truncate(2);
    assert_eq!(session.step(10).unwrap(), one_hot(13));
    session.truncate(50);
    assert_eq!(session.tokens(), [1, 2, 10]);
}

#[test]
fn bad_prompts_are_errors_that_say_what_is_wrong() {
    let (mut session, log) = session(100, 8, summing);
    let error = session.prefill(&[1, VOCAB as u32]).unwrap_err();
    assert_eq!(error.to_string(), "token id: expected below 50 (the vocabulary), found 50");
    assert!(session.prefill(&[]).is_err());
    assert!(run(&mut session, &[], options(), Box::new(NoText)).is_err());
    assert!(log.take().is_empty());
}

#[test]
fn nan_logits_end_the_answer_with_an_error_that_names_the_backend() {
    let (mut session, _) = session(100, 8, |ids| {
        let mut logits = one_hot(5);
        if ids.len() == 4 {
            logits[17] = f32::NAN;
        }
        logits
    });
    let (mut sampler, cancel) = (greedy(), AtomicBool::new(false));
    let mut answer = Answer::new(&mut session, &mut sampler, Box::new(NoText), &[1, 2, 3], options(), &cancel).unwrap();
    assert_eq!(answer.next().unwrap().unwrap().id, Some(5));
    let error = answer.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("token 17") && error.contains("on cpu"), "{error}");
    assert!(answer.next().is_none());
    assert_eq!(answer.finish(), None);
}

#[test]
fn logits_of_a_wrong_length_are_an_error() {
    let (mut session, _) = session(100, 8, |_| vec![0.0; VOCAB - 1]);
    let error = session.prefill(&[1]).unwrap_err();
    assert_eq!(error.to_string(), "logits of cpu: expected 50, found 49");
}

#[test]
fn penalties_see_the_prompt_and_the_answer() {
    // Every position likes 3 best, then 4, then 5.
    let (mut session, _) = session(100, 8, |_| {
        let mut logits = vec![0.0; VOCAB];
        logits[3..6].copy_from_slice(&[3.0, 2.0, 1.0]);
        logits
    });
    let penal = SampleOptions { presence_penalty: 10.0, ..SampleOptions::greedy() };
    let (mut sampler, cancel) = (Sampler::new(penal, 100).unwrap(), AtomicBool::new(false));
    let limited = AnswerOptions { max_tokens: Some(2), ..options() };
    let answer = Answer::new(&mut session, &mut sampler, Box::new(NoText), &[1, 3], limited, &cancel).unwrap();
    assert_eq!(collect(answer).unwrap().ids, [4, 5]);
}

/// Tokens that repeat with a period of 7, but for a few surprises.
fn rhyming(ids: &[u32]) -> Vec<f32> {
    let n = ids.len();
    one_hot(if n % 23 == 20 { n as u32 % 11 } else { 20 + (n % 7) as u32 })
}

struct Drafted {
    outcome: Outcome,
    /// What the caches hold in the end.
    held: Vec<u32>,
    /// Runs of the model, with their tokens.
    passes: Vec<usize>,
}

fn drafted(session: (Session, Log), prompt: &[u32], options: AnswerOptions, drafter: &mut Drafter) -> Drafted {
    let (mut session, log) = session;
    let mut sampler = Sampler::new(SampleOptions { seed: Some(1), ..SampleOptions::default() }, 1000).unwrap();
    let cancel = AtomicBool::new(false);
    let answer = Answer::new(&mut session, &mut sampler, Box::new(NoText), prompt, options, &cancel).unwrap();
    let outcome = collect(answer.drafting(drafter)).unwrap();
    let passes = log.take().into_iter().filter(|c| c.backend == "cpu").map(|c| c.positions.len()).collect();
    Drafted { outcome, held: session.tokens().to_vec(), passes }
}

#[test]
fn drafts_change_the_passes_and_not_the_answer() {
    // Mostly the scripted token, now and then another one: drafts end in the middle.
    for sharpness in [1.0, 9.0] {
        let script = move |ids: &[u32]| rhyming(ids).iter().map(|l| l * sharpness).collect();
        for (context, max_tokens) in [(400, None), (400, Some(100)), (90, None), (400, Some(41)), (400, Some(2))] {
            let options = AnswerOptions { max_tokens, ..options() };
            let prompt: Vec<u32> = (0..20).map(|n| 20 + n % 7).collect();
            let run = |drafter: &mut Drafter| drafted(session(context, 8, script), &prompt, options.clone(), drafter);
            let plain = run(&mut Drafter::new(Some(0)));
            let with = run(&mut Drafter::new(Some(9)));
            assert_eq!(with.outcome.ids, plain.outcome.ids, "context {context}, {max_tokens:?}");
            assert_eq!(with.outcome.finish, plain.outcome.finish);
            let all = [&prompt[..], &with.outcome.ids].concat();
            assert_eq!(with.held, all[..with.held.len()], "the caches hold the text");
            assert!(with.held.len() + 1 >= all.len() && with.held.len() <= context);
            assert_eq!(plain.outcome.stats.drafted_tokens, 0);
            assert!(with.passes.iter().all(|&tokens| tokens <= ALIKE || tokens == 8), "{:?}", with.passes);
        }
    }
    // Exactly repeated text: a pass for five tokens, but for the trial.
    let limited = AnswerOptions { max_tokens: Some(200), ..options() };
    let period = |ids: &[u32]| one_hot(20 + ids.len() as u32 % 7).iter().map(|l| l * 50.0).collect();
    let with =
        drafted(session(400, 8, period), &[20, 21, 22, 23, 24, 25, 26, 20, 21], limited, &mut Drafter::new(Some(9)));
    let stats = &with.outcome.stats;
    assert!(stats.drafted_tokens > 140 && stats.accepted_tokens == stats.drafted_tokens, "{stats:?}");
    assert!(with.passes.len() < 60, "{:?}", with.passes);
}

#[test]
fn drafts_see_stop_strings_end_tokens_and_ctrl_c() {
    const PIECES: &[&[u8]] = &[b"", b"ab", b"c", b"d"];
    let period = |ids: &[u32]| one_hot(if ids.len() == 45 { END } else { 1 + ids.len() as u32 % 3 });
    let prompt = [1, 2, 3, 1, 2, 3, 1, 2, 3].map(|id| id % 3 + 1);
    let run = |stop: &str, drafter: &mut Drafter, cancel_after: usize| {
        let (mut session, _) = session(400, 8, period);
        let (mut sampler, cancel) = (greedy(), AtomicBool::new(false));
        let options = AnswerOptions { stop: vec![stop.into()], ..options() };
        let decoder = Spelling::boxed(PIECES);
        let mut answer =
            Answer::new(&mut session, &mut sampler, decoder, &prompt, options, &cancel).unwrap().drafting(drafter);
        let mut text = String::new();
        for (at, event) in (&mut answer).enumerate() {
            text += &event.unwrap().text;
            cancel.store(at + 1 == cancel_after, Ordering::Relaxed);
        }
        let finish = answer.finish().cloned();
        drop(answer);
        (text, finish, session.tokens().len())
    };
    for stop in ["dabcdabcdabcdab", "zz"] {
        for cancel_after in [usize::MAX, 13] {
            let plain = run(stop, &mut Drafter::new(Some(0)), cancel_after);
            let with = run(stop, &mut Drafter::new(Some(9)), cancel_after);
            assert_eq!((&with.0, &with.1), (&plain.0, &plain.1));
            // At most the last token of the text more: it was right.
            assert!((plain.2..=plain.2 + 1).contains(&with.2), "{} and {}", with.2, plain.2);
        }
    }
}

#[test]
fn a_backend_that_adds_up_differently_is_found_out() {
    let period = |ids: &[u32]| one_hot(20 + ids.len() as u32 % 7).iter().map(|l| l * 50.0).collect();
    let limited = AnswerOptions { max_tokens: Some(100), ..options() };
    let prompt = [20, 21, 22, 23, 24, 25, 26, 20, 21];
    let with = drafted(session_with(400, 16, 1e-5, period), &prompt, limited, &mut Drafter::new(Some(9)));
    assert_eq!(with.outcome.stats.drafted_tokens, 0);
    // The trial, and never again.
    assert_eq!(with.passes.iter().filter(|&&tokens| tokens == ALIKE).count(), 1, "{:?}", with.passes);
}

/// A session whose backend of `kind` fails at position 6, with a standby that has all layers on one more backend.
fn failing(kind: BackendKind, error: fn() -> Error) -> (Session, Log) {
    let (log, script): (Log, Script) = (Log::default(), Rc::new(summing));
    let fake = |name, fault| -> Box<dyn Backend> {
        Box::new(Fake { name, segments: Vec::new(), log: log.clone(), script: script.clone(), pass_error: 0.0, fault })
    };
    let fault = |of| (of == kind).then_some((6, error));
    let backends = [(BackendKind::Cpu, "cpu"), (BackendKind::Gpu, "gpu")];
    let backends = backends.map(|(kind, name)| (kind, fake(name, fault(kind)))).into();
    let session = Session::load(&model(), &plan(100, 4), backends, &mut |_| {}).unwrap();
    let spare = fake("spare", None);
    let mut whole = plan(100, 4);
    whole.segments.remove(0);
    whole.segments[0] = Segment { layers: 0..4, embed: true, ..whole.segments[0].clone() };
    let standby = move |error: &Error, tokens: usize| {
        assert_eq!((error.to_string(), tokens), ("GPU device lost: a test".to_owned(), 6));
        Session::load(&model(), &whole, vec![(BackendKind::Cpu, spare)], &mut |_| {})
    };
    (session.with_standby(Box::new(standby)), log)
}

fn lost() -> Error {
    Error::DeviceLost { reason: "a test".into() }
}

#[test]
fn where_a_gpu_fails_the_standby_runs_all_tokens_again_and_goes_on() {
    let answer = |session: &mut Session| {
        let options = AnswerOptions { max_tokens: Some(9), ..options() };
        run(session, &[1, 2], options, Box::new(NoText)).unwrap().ids
    };
    let (mut sound, _) = session(100, 4, summing);
    let expected = answer(&mut sound);
    assert_eq!(expected.len(), 9);
    let (mut session, log) = failing(BackendKind::Gpu, lost);
    assert_eq!(answer(&mut session), expected);
    let spare: Vec<_> = log.take().into_iter().filter(|call| call.backend == "spare").collect();
    let call = |positions, wanted| Call { backend: "spare", positions, wanted };
    // Six tokens in batches of four, then the step that failed, with what it wanted.
    assert_eq!(spare[..3], [call(0..4, Wanted::Nothing), call(4..6, Wanted::Nothing), call(6..7, Wanted::Top(1))]);
    let takeover = session.takeover().unwrap();
    assert_eq!((takeover.tokens, takeover.reason.as_str()), (6, "GPU device lost: a test"));
    assert_eq!(session.devices(), "spare");
    // There is no third.
    assert_eq!(session.tokens().len(), 10);
    assert!(session.step(VOCAB as u32).is_err());
}

#[test]
fn only_failures_of_a_gpu_are_taken_over() {
    let ids = [1, 2, 3, 4, 5, 6, 7];
    let not_finite = || Error::NotFinite { place: "layer 3".into(), backend: "a test".into() };
    let (mut session, _) = failing(BackendKind::Cpu, not_finite);
    assert!(matches!(session.prefill(&ids), Err(Error::NotFinite { .. })), "the weights are damaged, not a GPU");
    let (mut session, _) = failing(BackendKind::Gpu, || Error::missing("something", ""));
    assert!(matches!(session.prefill(&ids), Err(Error::Missing { .. })), "no device is to blame");
    assert_eq!(session.takeover(), None);
}
