//! Drafts on real backends: a pass over several tokens gives the bits of single steps, and the text is the same with
//! and without.

use std::{path::Path, sync::Arc};

use bitnet_cpu_kernels::{ALIKE_TOKENS, isa::Isa};
use bitnet_gpu::{
    backend::{Backend, cpu::CpuBackend, gpu::Tuning},
    generate::{Answer, AnswerOptions, Chooser, Drafter, NoText, SampleOptions, Sampler, Stats},
    gguf::File,
    model::Model,
    plan::{BackendKind, Plan, Segment, Sizes},
    session::Session,
    tokenizer::{EncodeOptions, Tokenizer},
};

use crate::common::{gpu::open_backend, hybrid};

const CONTEXT: usize = 700;

fn story_model() -> (Arc<Model>, Tokenizer) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let file = File::open(&path).unwrap();
    (Arc::new(Model::from_gguf(&file).unwrap()), Tokenizer::from_gguf(file.metadata()).unwrap())
}

fn load(model: &Arc<Model>, kind: BackendKind, backend: Box<dyn Backend>) -> Session {
    let layers = 0..model.config.layers;
    let segment = Segment { layers, backend: kind, embed: true, head: true, reason: "test".into() };
    // Of a CPU, so that passes are checked by candidates once they are trusted.
    let sizes = Sizes { head_screen: kind == BackendKind::Cpu, ..Sizes::new(CONTEXT, 64) };
    let plan = Plan { segments: vec![segment], prefill: None, sizes };
    Session::load(model, &plan, vec![(kind, backend)], &mut |_| {}).unwrap()
}

/// On the CPU with one thread and with three, and on the GPU where there is one.
fn sessions(model: &Arc<Model>) -> Vec<(&'static str, Session)> {
    let mut all = vec![
        ("1 thread", load(model, BackendKind::Cpu, Box::new(CpuBackend::new(Isa::detect(), 1)))),
        ("3 threads", load(model, BackendKind::Cpu, Box::new(CpuBackend::new(Isa::detect(), 3)))),
    ];
    if let Some(gpu) = open_backend(Tuning::default()) {
        all.push(("GPU", load(model, BackendKind::Gpu, Box::new(gpu))));
    }
    all
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|l| l.to_bits()).collect()
}

#[test]
fn a_pass_gives_the_bits_of_single_steps() {
    let (model, _) = story_model();
    check_passes(sessions(&model));
}

#[test]
fn a_pass_of_a_hybrid_model_gives_the_bits_of_single_steps() {
    for spec in [hybrid::SMALL, hybrid::ROTATED] {
        let model = Arc::new(hybrid::random_model(&spec, 8));
        for isa in Isa::available() {
            check_passes(vec![("hybrid", load(&model, BackendKind::Cpu, Box::new(CpuBackend::new(isa, 2))))]);
        }
    }
}

fn check_passes(sessions: Vec<(&'static str, Session)>) {
    for (name, mut session) in sessions {
        let vocab = session.vocab();
        let most = session.limits().exact_tokens;
        assert_eq!(most, if name == "GPU" { 8 } else { ALIKE_TOKENS }, "{name}");
        let ids: Vec<u32> = (0..CONTEXT as u32).map(|i| (i * 7919 + 13) % vocab as u32).collect();
        // At the beginning, around splits of the keys, and far behind.
        let mut before = 0;
        for start in [1, 30, 126, 300, 511, 640] {
            session.truncate(before).unwrap();
            session.prefill(&ids[before..start]).unwrap();
            before = start;
            for tokens in [2, 3, most - 1, most] {
                session.truncate(start).unwrap();
                let next = &ids[start..start + tokens];
                let alone: Vec<_> = next.iter().map(|&id| bits(session.step(id).unwrap())).collect();
                session.truncate(start).unwrap();
                session.run_ahead(next).unwrap();
                for (row, alone) in alone.iter().enumerate() {
                    let same = bits(session.logits_after(row)) == *alone;
                    assert!(same, "{name}: token {row} of {tokens} at {start}");
                }
            }
        }
    }
}

fn answer(
    session: &mut Session,
    prompt: &[u32],
    max: usize,
    sample: &SampleOptions,
    drafter: &mut Drafter,
) -> (Vec<u32>, Stats) {
    session.truncate(0).unwrap();
    let sampler = Sampler::new(sample.clone(), CONTEXT).unwrap();
    let options = with!(AnswerOptions::default(), max_tokens: Some(max));
    let mut chooser = Chooser { drafter: Some(drafter.clone()), ..sampler.into() };
    let mut answer = Answer::new(session, &mut chooser, Box::new(NoText), prompt, options, Arc::default()).unwrap();
    let ids = (&mut answer).filter_map(|event| event.unwrap().id).collect();
    let stats = answer.stats().clone();
    drop(answer);
    // What it has learnt serves the next answer.
    *drafter = chooser.drafter.unwrap();
    (ids, stats)
}

/// Where drafts are wrong, the states go back to before them, and the tokens that were right run again.
#[test]
fn drafts_of_a_hybrid_model_change_nothing() {
    for (spec, seed) in [(hybrid::SMALL, 3), (hybrid::ROTATED, 4)] {
        // Of few words, whose pairs repeat.
        let spec = hybrid::Spec { vocab: 12, ..spec };
        let model = Arc::new(hybrid::random_model(&spec, seed));
        let mut session = load(&model, BackendKind::Cpu, Box::new(CpuBackend::new(Isa::detect(), 2)));
        let (mut drafted, mut accepted) = (0, 0);
        let drawn = with!(SampleOptions::default(), seed: Some(5), temperature: 0.3);
        for sample in [SampleOptions::greedy(), drawn] {
            let mut always = Drafter::new(Some(ALIKE_TOKENS));
            for number in 0..6 {
                let prompt = hybrid::random_ids(&spec, number, 3 + 5 * number as usize).repeat(2);
                let (plain, _) = answer(&mut session, &prompt, 60, &sample, &mut Drafter::new(Some(0)));
                let (with, stats) = answer(&mut session, &prompt, 60, &sample, &mut always);
                assert_eq!(with, plain, "{spec:?}, {sample:?}");
                drafted += stats.drafted_tokens;
                accepted += stats.accepted_tokens;
            }
        }
        eprintln!("{accepted} of {drafted} drafted tokens were right");
        assert!(accepted > 0 && drafted > accepted, "{accepted} of {drafted} drafted tokens were right");
    }
}

#[test]
fn twenty_prompts_give_the_same_text_with_and_without() {
    const STORIES: [&str; 20] = [
        "Once upon a time",
        "One day, a cat",
        "The dog and the cat. The dog and the cat. The dog",
        "Tom said: I like cake. Mum said: I like cake. Tom said:",
        "a b c d a b c d a b c",
        "Lily",
        "There was a big tree. There was a big tree. There was",
        "He ran and ran and ran and ran",
        "The sun",
        "\"Hello,\" said Tim. \"Hello,\" said Sue. \"Hello,\" said",
        "1 2 3 1 2 3 1 2",
        "She was sad because",
        "In the park, the boy",
        "red ball, blue ball, red ball, blue ball, red",
        "Why? Why? Why?",
        "The end. The end. The end.",
        "Ben and Mia went to the shop. Ben and Mia went to the",
        "x",
        "A little girl had a red ball. A little girl had a red",
        "They were happy. They were very happy. They were",
    ];
    let (model, tokenizer) = story_model();
    let prompts: Vec<Vec<u32>> = STORIES
        .iter()
        .map(|text| tokenizer.encode(text, &EncodeOptions { add_special: true, parse_special: false }).unwrap())
        .collect();
    let greedy = SampleOptions::greedy();
    let drawn = with!(SampleOptions::default(), seed: Some(5), repeat_penalty: 1.1);
    let mirostat = with!(SampleOptions::default(), seed: Some(5), mirostat: Some(Default::default()));
    for (name, mut session) in sessions(&model).into_iter().skip(1) {
        let (mut drafted, mut accepted) = (0, 0);
        // A software GPU is slow.
        let on_gpu = name == "GPU";
        let max = if on_gpu { 24 } else { 60 };
        for sample in [&greedy, &drawn, &mirostat].into_iter().take(if on_gpu { 2 } else { 3 }) {
            let mut always = Drafter::new(Some(ALIKE_TOKENS));
            for (text, prompt) in STORIES.iter().zip(&prompts) {
                let (plain, _) = answer(&mut session, prompt, max, sample, &mut Drafter::new(Some(0)));
                let (with, stats) = answer(&mut session, prompt, max, sample, &mut always);
                assert_eq!(with, plain, "{name}, {text:?}, {sample:?}");
                drafted += stats.drafted_tokens;
                accepted += stats.accepted_tokens;
                if !on_gpu {
                    let (auto, _) = answer(&mut session, prompt, max, sample, &mut Drafter::new(None));
                    assert_eq!(auto, plain, "{name}, {text:?}, {sample:?}, auto");
                }
            }
        }
        assert!(accepted > 20 && drafted > accepted, "{name}: {accepted} of {drafted} drafted tokens were right");
    }
}
