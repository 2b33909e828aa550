//! Many sequences at once: what an answer says does not depend on who else is being served.

use std::{path::Path, sync::Arc};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    ErrorKind,
    backend::{Backend, Want, cpu::CpuBackend, gpu::Tuning},
    generate::{
        Answer, AnswerOptions, Batcher, Chooser, Constraint, Drafter, Finish, FinishedAnswer, Generation, Grammar,
        Mirostat, NoText, SampleOptions, Sampler,
    },
    gguf::File,
    model::Model,
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::{Phase, Runtime, Session, Work},
    tokenizer::{EncodeOptions, Tokenizer},
};

use crate::common::{gpu::open_backend, hybrid};

const CONTEXT: usize = 160;
const BATCH: usize = 48;
const SLOTS: usize = 8;

struct Story {
    model: Arc<Model>,
    tokenizer: Tokenizer,
}

impl Story {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
        let file = File::open(&path).unwrap();
        let model = Arc::new(Model::from_gguf(&file).unwrap());
        Self { model, tokenizer: Tokenizer::from_gguf(file.metadata()).unwrap() }
    }

    /// A hybrid model of random weights with the vocabulary of [`Self::new`].
    fn hybrid(spec: hybrid::Spec) -> Self {
        let Self { model, tokenizer } = Self::new();
        let spec = hybrid::Spec { vocab: model.config.vocab, ..spec };
        Self { model: Arc::new(hybrid::random_model(&spec, 21)), tokenizer }
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, &EncodeOptions { add_special: true, parse_special: false }).unwrap()
    }

    fn sizes(&self, sequences: usize, kv: KvType) -> Sizes {
        Sizes { sequences, head_screen: true, ..Sizes::new(CONTEXT, BATCH).with_kv(kv, kv) }
    }

    /// All layers on a GPU; `None`, and a line that says so, where there is none.
    fn on_gpu(&self, tuning: Tuning, sizes: Sizes) -> Option<Runtime> {
        let layers = 0..self.model.config.layers;
        let segment = Segment { layers, backend: BackendKind::Gpu, embed: true, head: true, reason: "test".into() };
        let plan = Plan { segments: vec![segment], prefill: None, sizes };
        let backend: Box<dyn Backend> = Box::new(open_backend(tuning)?);
        Some(Runtime::load(&self.model, &plan, vec![(BackendKind::Gpu, backend)], &mut |_| {}).unwrap())
    }

    fn on_cpu(&self, isa: Isa, threads: usize, sizes: Sizes) -> Runtime {
        let plan = Plan::all_cpu(self.model.config.layers, sizes, "test");
        let backend: Box<dyn Backend> = Box::new(CpuBackend::new(isa, threads));
        Runtime::load(&self.model, &plan, vec![(BackendKind::Cpu, backend)], &mut |_| {}).unwrap()
    }
}

/// One request: when it comes, and what it asks for.
struct Request {
    at_step: usize,
    prompt: Vec<u32>,
    sample: SampleOptions,
    drafts: Option<usize>,
    grammar: Option<&'static str>,
    max_tokens: usize,
}

impl Request {
    fn chooser(&self, tokenizer: &Tokenizer) -> Chooser {
        let constraint = self.grammar.map(|text| Constraint::new(&Grammar::Text(text.into()), tokenizer).unwrap());
        Chooser {
            sampler: Sampler::new(self.sample.clone(), CONTEXT).unwrap(),
            drafter: self.drafts.map(|most| Drafter::new(Some(most))),
            constraint,
        }
    }

    fn options(&self, tokenizer: &Tokenizer) -> AnswerOptions {
        let end_ids = tokenizer.end_ids().to_vec();
        with!(AnswerOptions::default(), max_tokens: Some(self.max_tokens), end_ids: end_ids)
    }

    /// Ids and end of the answer in a session of its own.
    fn alone(&self, tokenizer: &Tokenizer, session: &mut Session) -> (Vec<u32>, Option<Finish>) {
        session.truncate(0).unwrap();
        let (mut chooser, options) = (self.chooser(tokenizer), self.options(tokenizer));
        let mut answer =
            Answer::new(session, &mut chooser, Box::new(NoText), &self.prompt, options, Arc::default()).unwrap();
        let ids = (&mut answer).filter_map(|event| event.unwrap().id).collect();
        (ids, answer.finish().cloned())
    }

    fn generation(&self, tokenizer: &Tokenizer) -> Generation {
        let (chooser, options) = (self.chooser(tokenizer), self.options(tokenizer));
        let made = Generation::new(chooser, Box::new(NoText), self.prompt.clone(), options, CONTEXT, Arc::default());
        made.map_err(|refused| refused.0).unwrap()
    }
}

/// Eleven requests for eight slots, of all kinds: the last ones wait for a free slot.
fn requests(story: &Story) -> Vec<Request> {
    let greedy = SampleOptions::greedy;
    let drawn = |seed| with!(SampleOptions::default(), seed: Some(seed));
    let request = |at_step, text: &str, sample, max_tokens| Request {
        at_step,
        prompt: story.ids(text),
        sample,
        drafts: None,
        grammar: None,
        max_tokens,
    };
    let long = "Once upon a time there was a little girl who had a red ball and a blue ball. ".repeat(3);
    let rhyme = "The dog and the cat. The dog and the cat. The dog and the cat. The dog";
    vec![
        request(0, "Once upon a time", greedy(), 40),
        request(0, "Lily", drawn(1), 25),
        request(1, &long, greedy(), 12),
        Request { drafts: Some(7), ..request(2, rhyme, greedy(), 30) },
        request(3, "Tom said:", with!(drawn(2), repeat_penalty: 1.3), 20),
        Request { grammar: Some("start: /[a-z ]{5,40}/"), ..request(5, "A cat", drawn(3), 15) },
        request(8, "The sun", with!(drawn(4), mirostat: Some(Mirostat::default())), 18),
        request(8, &long, with!(drawn(5), top_k: 0, top_p: 0.9), 1),
        Request { drafts: Some(3), ..request(9, "x y z x y z x y z x y", drawn(6), 33) },
        request(11, "One day, a boy went to the park with his mum and", greedy(), 0),
        request(12, "He ran", with!(drawn(7), top_k: 3), 22),
    ]
}

/// Everything in the library that a program may want to move to another thread.
#[test]
fn runtimes_and_generations_can_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Runtime>();
    is_send::<Session>();
    is_send::<Generation>();
    is_send::<Batcher>();
}

/// Serves the requests together on `runtime`; in each step those that have come and find a slot.
fn together(story: &Story, requests: &[Request], runtime: Runtime) -> Vec<(Vec<u32>, Option<Finish>)> {
    let mut batcher = Batcher::new(runtime);
    let mut waiting: Vec<usize> = (0..requests.len()).collect();
    let mut number_of = Vec::new();
    let mut answers = vec![(Vec::new(), None); requests.len()];
    let mut step = 0;
    while !waiting.is_empty() || !batcher.is_empty() {
        waiting.retain(|&number| {
            let added = requests[number].at_step <= step
                && batcher
                    .add(requests[number].generation(&story.tokenizer))
                    .map(|id| number_of.push((id, number)))
                    .is_ok();
            !added
        });
        batcher.step().unwrap();
        let number = |id| number_of.iter().find(|(of, _)| *of == id).unwrap().1;
        while let Some((id, event)) = batcher.event() {
            answers[number(id)].0.extend(event.id);
        }
        while let Some(FinishedAnswer { id, generation, error, .. }) = batcher.finished() {
            assert!(error.is_none(), "{error:?}");
            answers[number(id)].1 = generation.finish().cloned();
        }
        step += 1;
    }
    answers
}

/// That each request gets together what it gets alone.
fn check(name: &str, story: &Story, load: impl Fn(usize) -> Runtime) {
    let requests = requests(story);
    let mut session = Session::try_from(load(1)).unwrap();
    let alone: Vec<_> = requests.iter().map(|request| request.alone(&story.tokenizer, &mut session)).collect();
    assert!(alone.iter().any(|(ids, _)| ids.len() == 40), "{name}: an answer as long as asked for");
    let found = together(story, &requests, load(SLOTS));
    for (number, (expected, found)) in alone.iter().zip(&found).enumerate() {
        assert_eq!(found, expected, "{name}: request {number}");
    }
}

#[test]
fn answers_do_not_depend_on_who_else_is_served_on_any_instruction_set() {
    let story = Story::new();
    for isa in Isa::available() {
        for (kv, threads) in [(KvType::F16, 2), (KvType::Q8_0, 1)] {
            let name = format!("{isa}, {kv:?}, {threads} threads");
            check(&name, &story, |sequences| story.on_cpu(isa, threads, story.sizes(sequences, kv)));
        }
    }
}

/// Recurrent states follow their sequences, and go back to checkpoints where drafts were wrong.
#[test]
fn answers_of_hybrid_models_do_not_depend_on_who_else_is_served() {
    for (name, spec) in [("plain", hybrid::SMALL), ("rotated", hybrid::ROTATED)] {
        let story = Story::hybrid(spec);
        for isa in Isa::available() {
            let name = format!("{name} hybrid, {isa}");
            check(&name, &story, |sequences| story.on_cpu(isa, 2, story.sizes(sequences, KvType::F16)));
        }
    }
}

/// Layers 0..2 and the rest as two segments, and prompts on segments of their own: states follow each sequence.
#[test]
fn answers_do_not_depend_on_others_where_the_plan_is_split() {
    for story in [Story::new(), Story::hybrid(hybrid::SMALL)] {
        check_split(&story);
    }
}

fn check_split(story: &Story) {
    let layers = story.model.config.layers;
    let segments = |backend: fn(bool) -> BackendKind| {
        let segment = |range: std::ops::Range<usize>| Segment {
            embed: range.start == 0,
            head: range.end == layers,
            backend: backend(range.start == 0),
            layers: range,
            reason: "test".into(),
        };
        vec![segment(0..2), segment(2..layers)]
    };
    // The second processor stands for a GPU: it has other threads and segments of its own.
    let load = |sequences| {
        let plan = Plan {
            segments: segments(|first| if first { BackendKind::Cpu } else { BackendKind::Gpu }),
            prefill: Some(segments(|first| if first { BackendKind::Gpu } else { BackendKind::Cpu })),
            sizes: story.sizes(sequences, KvType::F16),
        };
        let backend = |threads| -> Box<dyn Backend> { Box::new(CpuBackend::new(Isa::detect(), threads)) };
        let backends = vec![(BackendKind::Cpu, backend(2)), (BackendKind::Gpu, backend(1))];
        Runtime::load(&story.model, &plan, backends, &mut |_| {}).unwrap()
    };
    check("split", story, load);
}

/// On a software GPU: with subgroups of 8 and without any, and keys and values in 8 bits.
#[test]
fn answers_do_not_depend_on_who_else_is_served_on_a_gpu() {
    let story = Story::new();
    let plain = Tuning { subgroups: Some(false), ..Tuning::default() };
    for (name, kv, tuning) in
        [("GPU", KvType::F16, Tuning::default()), ("GPU, q8_0, no subgroups", KvType::Q8_0, plain)]
    {
        if story.on_gpu(tuning.clone(), story.sizes(1, kv)).is_none() {
            return;
        }
        check(name, &story, |sequences| story.on_gpu(tuning.clone(), story.sizes(sequences, kv)).unwrap());
    }
}

/// The first layers on the CPU, the others and the head on a GPU, and prompts wholly on the GPU.
#[test]
fn answers_do_not_depend_on_others_where_a_gpu_has_a_part() {
    let story = Story::new();
    let layers = story.model.config.layers;
    if story.on_gpu(Tuning::default(), story.sizes(1, KvType::F16)).is_none() {
        return;
    }
    let segment = |range: std::ops::Range<usize>, backend| Segment {
        embed: range.start == 0,
        head: range.end == layers,
        backend,
        layers: range,
        reason: "test".into(),
    };
    check("CPU and GPU", &story, |sequences| {
        let plan = Plan {
            segments: vec![segment(0..1, BackendKind::Cpu), segment(1..layers, BackendKind::Gpu)],
            prefill: Some(vec![segment(0..1, BackendKind::Gpu), segment(1..layers, BackendKind::Gpu)]),
            sizes: story.sizes(sequences, KvType::F16),
        };
        let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(Isa::detect(), 2));
        let gpu: Box<dyn Backend> = Box::new(open_backend(Tuning::default()).unwrap());
        let backends = vec![(BackendKind::Cpu, cpu), (BackendKind::Gpu, gpu)];
        Runtime::load(&story.model, &plan, backends, &mut |_| {}).unwrap()
    });
}

/// A server reads a prompt in pieces as its time allows, down to single tokens.
#[test]
fn where_a_prompt_is_cut_does_not_change_a_bit() {
    let ids: Vec<u32> = (0..100).map(|i| (i * 7919 + 13) % 300).collect();
    let stories = [Story::new(), Story::hybrid(hybrid::SMALL), Story::hybrid(hybrid::ROTATED)];
    for (story, isa) in stories.iter().flat_map(|story| Isa::available().into_iter().map(move |isa| (story, isa))) {
        for kv in [KvType::F16, KvType::Q8_0, KvType::F32] {
            let mut runtime = story.on_cpu(isa, 2, Sizes { batch_tokens: 128, ..story.sizes(1, kv) });
            let mut logits = |cuts: &[usize]| -> Vec<u32> {
                let mut sequence = runtime.begin().unwrap();
                let mut left = ids.as_slice();
                for &len in cuts {
                    let (piece, rest) = left.split_at(len);
                    let want = if rest.is_empty() { Want::Last } else { Want::Nothing };
                    let work = Work { sequence: &mut sequence, ids: piece, want, phase: Phase::Prefill };
                    runtime.run(&mut [work]).unwrap();
                    left = rest;
                }
                runtime.end(sequence);
                runtime.output_and_logits(0).1.iter().map(|logit| logit.to_bits()).collect()
            };
            let whole = logits(&[100]);
            for cuts in
                [&[50, 50][..], &[9, 91], &[64, 9, 27], &[24, 10, 33, 9, 24], &[1, 7, 90, 2], &[92, 8], &[1; 100]]
            {
                assert!(logits(cuts) == whole, "{isa}, {kv:?}: {cuts:?}");
            }
        }
    }
}

/// A step of a server: answers, a piece of a prompt, and prompts that end.
#[test]
fn prompts_beside_answers_get_the_bits_that_they_get_alone() {
    let ids: Vec<u32> = (0..100).map(|i| (i * 7919 + 13) % 500 + 3).collect();
    // Tokens before the step, tokens of the step, and what it wants.
    let parts =
        [(12, 1, Want::Top(1)), (0, 30, Want::Last), (9, 20, Want::Nothing), (40, 1, Want::Last), (0, 17, Want::All)];
    for story in [Story::new(), Story::hybrid(hybrid::ROTATED)] {
        for isa in Isa::available() {
            let mut runtime = story.on_cpu(isa, 2, Sizes { batch_tokens: 96, ..story.sizes(parts.len(), KvType::F16) });
            assert!(runtime.limits().mixes_rows, "{isa}");
            let mut bits = |groups: &[&[usize]]| {
                let mut sequences: Vec<_> = parts.iter().map(|_| runtime.begin().unwrap()).collect();
                for (sequence, &(before, ..)) in sequences.iter_mut().zip(&parts).filter(|(_, part)| part.0 > 0) {
                    let ids = &ids[..before];
                    runtime.run(&mut [Work { sequence, ids, want: Want::Nothing, phase: Phase::Prefill }]).unwrap();
                }
                let mut found = vec![(Vec::new(), Vec::new()); parts.len()];
                for group in groups {
                    let mut work: Vec<Work> = Vec::new();
                    for (number, sequence) in
                        sequences.iter_mut().enumerate().filter(|(number, _)| group.contains(number))
                    {
                        let (before, len, want) = parts[number];
                        let phase = if len == 1 { Phase::Decode } else { Phase::Prefill };
                        work.push(Work { sequence, ids: &ids[before..before + len], want, phase });
                    }
                    runtime.run(&mut work).unwrap();
                    for (row, &number) in group.iter().enumerate() {
                        let (output, logits) = runtime.output_and_logits(row);
                        let top = output.candidates.top.iter().map(|best| (best.id, best.logit.to_bits()));
                        found[number] =
                            (top.collect::<Vec<_>>(), logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                    }
                }
                // The piece of which nothing was wanted shows in the next token.
                runtime
                    .run(&mut [Work {
                        sequence: &mut sequences[2],
                        ids: &ids[50..51],
                        want: Want::Last,
                        phase: Phase::Decode,
                    }])
                    .unwrap();
                found[2].1.extend(runtime.output_and_logits(0).1.iter().map(|x| x.to_bits()));
                sequences.into_iter().for_each(|sequence| runtime.end(sequence));
                found
            };
            let alone = bits(&[&[0], &[1], &[2], &[3], &[4]]);
            assert_eq!(alone[4].1.len(), 17 * story.model.config.vocab, "{isa}");
            assert!(!alone[0].0.is_empty() || !alone[0].1.is_empty(), "{isa}");
            for groups in [&[&[0, 1, 2, 3, 4][..]][..], &[&[1, 4], &[0, 2, 3]]] {
                assert!(bits(groups) == alone, "{isa}: {groups:?}");
            }
        }
    }
}

#[test]
fn a_fork_goes_on_as_the_sequence_it_came_from() {
    for story in [Story::new(), Story::hybrid(hybrid::SMALL), Story::hybrid(hybrid::ROTATED)] {
        check_forks(&story);
    }
}

fn check_forks(story: &Story) {
    let mut runtime = story.on_cpu(Isa::detect(), 2, story.sizes(3, KvType::F16));
    let ids = story.ids("Once upon a time there was a little cat");
    let mut first = runtime.begin().unwrap();
    let run = |runtime: &mut Runtime, sequence: &mut _, ids: &[u32]| -> Vec<f32> {
        runtime.run(&mut [Work { sequence, ids, want: Want::Last, phase: Phase::Prefill }]).unwrap();
        runtime.output_and_logits(0).1.to_vec()
    };
    let expected = run(&mut runtime, &mut first, &ids);
    let mut second = runtime.fork(&first, ids.len() - 1).unwrap().unwrap();
    assert_eq!(second.tokens(), &ids[..ids.len() - 1]);
    // The fork has states of its own: what the first goes on with does not change it.
    runtime.rewind(&mut first, 3).unwrap();
    run(&mut runtime, &mut first, &[9, 9, 9, 9]);
    let mut third = runtime.fork(&second, 4).unwrap().unwrap();
    assert!(runtime.fork(&first, 1).unwrap().is_none(), "all slots are taken");
    let last = ids.len() - 1;
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
    // Where the prompt is cut does not matter.
    let mut alone = story.on_cpu(Isa::detect(), 2, story.sizes(1, KvType::F16));
    let mut fresh = alone.begin().unwrap();
    run(&mut alone, &mut fresh, &ids[..last]);
    let single = run(&mut alone, &mut fresh, &ids[last..]);
    assert!(bits(&run(&mut runtime, &mut second, &ids[last..])) == bits(&single));
    let rest = run(&mut runtime, &mut third, &ids[4..]);
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.05);
    assert!(bits(&single) == bits(&expected));
    assert!(close(&rest, &expected));
    runtime.end(second);
    assert!(runtime.fork(&third, 2).unwrap().is_some());
}

#[test]
fn a_saved_sequence_goes_on_as_the_one_it_was() {
    let story = Story::new();
    let mut runtime = story.on_cpu(Isa::detect(), 2, story.sizes(2, KvType::F16));
    let ids = story.ids("Once upon a time there was a little cat who");
    let mut first = runtime.begin().unwrap();
    let run = |runtime: &mut Runtime, sequence: &mut _, ids: &[u32]| -> Vec<u32> {
        runtime.run(&mut [Work { sequence, ids, want: Want::Last, phase: Phase::Decode }]).unwrap();
        runtime.output_and_logits(0).1.iter().map(|logit| logit.to_bits()).collect()
    };
    run(&mut runtime, &mut first, &ids);
    let saved = runtime.save(&first).unwrap().unwrap();
    assert_eq!(saved.tokens(), ids);
    assert!(saved.bytes() > ids.len() * story.model.config.kv_width());
    let expected = run(&mut runtime, &mut first, &[7]);
    // The slot serves another meanwhile.
    runtime.rewind(&mut first, 0).unwrap();
    run(&mut runtime, &mut first, &[9, 8, 9, 8]);
    let mut second = runtime.begin().unwrap();
    runtime.restore_saved(&saved, &mut second).unwrap();
    assert_eq!(second.tokens(), ids);
    assert_eq!(run(&mut runtime, &mut second, &[7]), expected);
}

/// What is wrong with one answer is told by it, and the others go on.
#[test]
fn an_answer_that_cannot_run_does_not_stop_the_others() {
    let story = Story::new();
    let runtime = story.on_cpu(Isa::detect(), 1, story.sizes(4, KvType::F16));
    let vocab = story.model.config.vocab as u32;
    let good = Request { max_tokens: 6, ..requests(&story).swap_remove(0) };
    let expected = good
        .alone(&story.tokenizer, &mut story.on_cpu(Isa::detect(), 1, story.sizes(1, KvType::F16)).try_into().unwrap());
    let mut batcher = Batcher::new(runtime);
    let bad = |prompt: Vec<u32>, context_tokens: usize| {
        let options = AnswerOptions::default();
        let made =
            Generation::new(Chooser::default(), Box::new(NoText), prompt, options, context_tokens, Arc::default());
        made.map_err(|refused| refused.0).unwrap()
    };
    let outside = batcher.add(bad(vec![1, vocab], CONTEXT)).ok().unwrap();
    let served = batcher.add(good.generation(&story.tokenizer)).ok().unwrap();
    let long = batcher.add(bad(vec![1; CONTEXT + 1], usize::MAX)).ok().unwrap();
    let (mut ids, mut errors) = (Vec::new(), Vec::new());
    while !batcher.is_empty() {
        batcher.step().unwrap();
        ids.extend(std::iter::from_fn(|| batcher.event()).filter_map(|(_, event)| event.id));
        errors
            .extend(std::iter::from_fn(|| batcher.finished()).map(|one| (one.id, one.error.map(|error| error.kind()))));
    }
    assert_eq!(ids, expected.0);
    errors.sort_unstable_by_key(|(id, _)| *id);
    let kinds = [(outside, Some(ErrorKind::Usage)), (served, None), (long, Some(ErrorKind::ContextFull))];
    assert_eq!(errors, kinds);
}

#[test]
fn a_sequence_is_refused_by_other_runtimes_and_gives_its_slot_back() {
    let story = Story::new();
    let mut four = story.on_cpu(Isa::detect(), 1, story.sizes(4, KvType::F16));
    let mut one = story.on_cpu(Isa::detect(), 1, story.sizes(1, KvType::F16));
    let mut held: Vec<_> = std::iter::from_fn(|| four.begin()).collect();
    assert_eq!(held.len(), 4);
    let stranger = &mut held[3];
    let work = &mut [Work { sequence: stranger, ids: &[1, 2], want: Want::Last, phase: Phase::Prefill }];
    let refused = [
        one.run(work).unwrap_err(),
        one.rewind(&mut held[0], 0).unwrap_err(),
        one.fork(&held[0], 0).unwrap_err(),
        one.save(&held[0]).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.to_string(), "sequence: expected one that this runtime began, found one of another");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    // Ended by the wrong one or dropped, it goes back where it is from.
    one.end(held.remove(0));
    drop(held.remove(0));
    assert_eq!(std::iter::from_fn(|| one.begin()).map(std::mem::forget).count(), 1);
    assert_eq!(std::iter::from_fn(|| four.begin()).map(std::mem::forget).count(), 2);
}

#[test]
fn a_saved_sequence_goes_only_where_it_fits() {
    let story = Story::new();
    let mut runtime = story.on_cpu(Isa::detect(), 1, story.sizes(1, KvType::F16));
    let mut sequence = runtime.begin().unwrap();
    let ids = story.ids("Once upon a time");
    runtime
        .run(&mut [Work { sequence: &mut sequence, ids: &ids, want: Want::Nothing, phase: Phase::Prefill }])
        .unwrap();
    let saved = runtime.save(&sequence).unwrap().unwrap();
    let into = |sizes: Sizes| {
        let mut runtime = story.on_cpu(Isa::detect(), 1, sizes);
        let mut sequence = runtime.begin().unwrap();
        let done = runtime.restore_saved(&saved, &mut sequence).map_err(|error| error.kind());
        (done, sequence.tokens().len())
    };
    assert_eq!(into(story.sizes(1, KvType::Q8_0)), (Err(ErrorKind::Usage), 0));
    let short = Sizes { context_tokens: ids.len() - 1, ..story.sizes(1, KvType::F16) };
    assert_eq!(into(short), (Err(ErrorKind::ContextFull), 0));
    let fitting = Sizes { context_tokens: ids.len(), ..story.sizes(1, KvType::F16) };
    assert_eq!(into(fitting), (Ok(()), ids.len()));
}
