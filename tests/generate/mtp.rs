//! Drafts by a model's block of multi-token prediction: they are what its formula says, and change no text.

use std::sync::Arc;

use bitnet_cpu_kernels::{format::DenseType, isa::Isa};
use bitnet_gpu::{
    backend::{Backend, Want, cpu::CpuBackend},
    generate::{Answer, AnswerOptions, Chooser, Drafter, NoText, SampleOptions, Sampler, Stats},
    model::Model,
    plan::{BackendKind, KvType, Plan, Sizes},
    session::{
        Phase::{Decode, Prefill},
        Runtime, Session, Work,
    },
};

use crate::common::hybrid::{self, ROTATED, SMALL, Spec, mtp, random_ids, reference::Reference};

const CONTEXT: usize = 200;

fn runtime(model: &Arc<Model>, isa: Isa, sizes: Sizes) -> Runtime {
    let plan = Plan::all_cpu(model.config.layers, Sizes { mtp: true, ..sizes }, "test");
    let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(isa, 2));
    Runtime::load(model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| {}).unwrap()
}

fn session(model: &Arc<Model>, isa: Isa) -> Session {
    let sizes = Sizes { head_screen: true, ..Sizes::new(CONTEXT, 32).with_kv(KvType::F32, KvType::F32) };
    runtime(model, isa, sizes).try_into().unwrap()
}

fn drafted(session: &mut Session, last: u32, most: usize) -> Vec<u32> {
    let mut ids = vec![7];
    session.draft(last, most, &mut ids).unwrap();
    ids
}

/// The token with the highest logit, and how far the next one is from it, as a share of the spread of all.
fn best(logits: &[f64]) -> (u32, f64) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let mean = logits.iter().sum::<f64>() / logits.len() as f64;
    let spread = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / logits.len() as f64).sqrt();
    (order[0] as u32, (logits[order[0]] - logits[order[1]]) / spread)
}

/// Tokens behind `last`, which follows `run`, each with [`best`]'s margin.
fn expected(reference: &mut Reference, dim: usize, run: &[u32], last: u32) -> Vec<(u32, f64)> {
    reference.clear();
    let mut before = vec![0.0; dim];
    for (position, &id) in run.iter().enumerate() {
        reference.predict(position, id, &before);
        before = reference.run(&[id]).1.pop().unwrap();
    }
    let mut id = last;
    let next = |position| {
        let (logits, output) = reference.predict(position, id, &before);
        let found = best(&logits);
        (id, before) = (found.0, output);
        found
    };
    (run.len()..run.len() + 4).map(next).collect()
}

/// Each type of matrix, each kind of model and table, on each instruction set: prompts in one batch and several, with
/// steps behind them.
#[test]
fn drafts_are_those_of_the_reference() {
    let (mut compared, mut close) = (0, 0);
    let types =
        [DenseType::Q8_0, DenseType::F16, DenseType::BF16, DenseType::F32, DenseType::Q2_0, DenseType::Q2_0G128];
    for (number, ty) in types.into_iter().enumerate() {
        let spec = if number % 2 == 0 { SMALL } else { ROTATED };
        // Widths that are whole blocks.
        let spec = Spec { ffn_dim: 256, heads: 4, kv_heads: 2, head_dim: 64, rope_dims: 16, ..spec };
        let model = hybrid::random_model(&spec, 20 + number as u64);
        let model = Arc::new(mtp::with_random_block(model, ty, number > 2, number as u64));
        let mut reference = Reference::new(&model);
        reference.int8 = true;
        for (len, steps) in [(1, 0), (2, 1), (40, 3), (70, 0)] {
            let ids = random_ids(&spec, len as u64, len + steps + 1);
            let (run, last) = (&ids[..len + steps], ids[len + steps]);
            let expected = expected(&mut reference, spec.dim, run, last);
            for isa in Isa::available() {
                let mut session = session(&model, isa);
                session.prefill(&run[..len]).unwrap();
                run[len..].iter().for_each(|&id| session.step_for(id, Want::Last).unwrap());
                let found = drafted(&mut session, last, 4);
                assert_eq!(found.len(), 4);
                for (ahead, (found, &(expected, margin))) in found.into_iter().zip(&expected).enumerate() {
                    if margin > 0.1 {
                        assert_eq!(found, expected, "{ty:?}, {isa}, {len} + {steps} ids, token {ahead}");
                        compared += 1;
                        continue;
                    }
                    close += 1;
                    // What follows depends on it.
                    if found != expected {
                        break;
                    }
                }
            }
        }
    }
    eprintln!("{compared} tokens compared, {close} too close to call");
    assert!(compared > 60 && close < compared, "{compared} tokens compared, {close} too close to call");
}

fn answer(session: &mut Session, prompt: &[u32], sample: &SampleOptions, drafter: Drafter) -> (Vec<u32>, Stats) {
    let sampler = Sampler::new(sample.clone(), CONTEXT).unwrap();
    let options = with!(AnswerOptions::default(), max_tokens: Some(40));
    let mut chooser = Chooser { drafter: Some(drafter), ..sampler.into() };
    let mut answer = Answer::new(session, &mut chooser, Box::new(NoText), prompt, options, Arc::default()).unwrap();
    let ids = (&mut answer).filter_map(|event| event.unwrap().id).collect();
    let stats = answer.stats().clone();
    (ids, stats)
}

fn by_mtp(limit: usize) -> Drafter {
    Drafter::new(Some(limit)).from_sources(false, true)
}

/// Texts with a block that agrees, one that says anything, and one whose tokens are few, so that it is right at times.
#[test]
fn twenty_prompts_give_the_same_text_with_and_without() {
    let few = Spec { vocab: 8, ..SMALL };
    let many = Spec { vocab: 41, ..SMALL };
    let rotated = Spec { vocab: 8, ..ROTATED };
    let models = [
        ("agreeing", many, mtp::agreeing(&many, 0.14, 1)),
        ("random", few, mtp::with_random_block(hybrid::random_model(&few, 2), DenseType::Q8_0, false, 2)),
        ("rotated", rotated, mtp::with_random_block(hybrid::random_model(&rotated, 3), DenseType::F16, true, 3)),
    ];
    let drawn = with!(SampleOptions::default(), seed: Some(5), temperature: 1.0);
    for (name, spec, model) in models {
        let model = Arc::new(model);
        let (mut with, mut without) = (session(&model, Isa::detect()), session(&model, Isa::detect()));
        for (sample, way) in [(SampleOptions::greedy(), "greedy"), (drawn.clone(), "drawn")] {
            let (mut tried, mut right) = (0, 0);
            for number in 0..20 {
                let prompt = random_ids(&spec, number, 1 + 4 * number as usize % 60);
                let (plain, _) = answer(&mut without, &prompt, &sample, Drafter::new(Some(0)));
                let limit = 2 + number as usize % 3;
                let (found, stats) = answer(&mut with, &prompt, &sample, by_mtp(limit));
                assert_eq!(found, plain, "{name}, {way}, prompt {number}");
                assert_eq!(plain.len(), 40);
                tried += stats.drafted_tokens;
                right += stats.accepted_tokens;
            }
            eprintln!("{name}, {way}: {right} of {tried} drafted tokens were right");
            assert!(right > 0 && tried >= right, "{name}, {way}: {right} of {tried}");
            match (name, way) {
                // What is left is cut off at the end of the answer.
                ("agreeing", "greedy") => assert_eq!(right, tried),
                _ => assert!(right < tried, "{name}, {way}: {right} of {tried}"),
            }
        }
    }
}

/// A draft after a rewind, in a fork, and in a sequence from main memory is that of a sequence that was never anything else.
#[test]
fn sequences_that_are_cut_forked_and_saved_go_on_with_their_drafts() {
    let model = hybrid::random_model(&SMALL, 31);
    let model = Arc::new(mtp::with_random_block(model, DenseType::F16, false, 31));
    let sizes = Sizes { sequences: 3, ..Sizes::new(CONTEXT, 32).with_kv(KvType::F32, KvType::F32) };
    let mut runtime = runtime(&model, Isa::detect(), sizes);
    let ids = random_ids(&SMALL, 3, 90);
    let mut out = Vec::new();
    let mut session = session(&model, Isa::detect());
    session.prefill(&ids[..50]).unwrap();
    let expected: Vec<Vec<u32>> = (50..60)
        .map(|at| {
            let draft = drafted(&mut session, ids[at], 4);
            session.step(ids[at]).unwrap();
            draft
        })
        .collect();
    assert!(expected.iter().any(|draft| *draft != expected[0]));

    let mut sequence = runtime.begin().unwrap();
    let run = |runtime: &mut Runtime, sequence: &mut _, ids: &[u32], phase| {
        for ids in ids.chunks(32) {
            runtime.run(&mut [Work { sequence, ids, want: Want::Last, phase }]).unwrap();
        }
    };
    run(&mut runtime, &mut sequence, &ids[..50], Prefill);
    // A draft that is wrong leaves no trace, wherever it is cut off.
    for kept in 1..5 {
        runtime.draft(&sequence, ids[50], 4, &mut out).unwrap();
        assert_eq!(out, expected[0], "{kept} kept");
        let wrong = [&ids[50..50 + kept], &[1, 2, 3, 4][..5 - kept]].concat();
        runtime.run(&mut [Work { sequence: &mut sequence, ids: &wrong, want: Want::All, phase: Decode }]).unwrap();
        runtime.rewind(&mut sequence, 50 + kept).unwrap();
        runtime.draft(&sequence, ids[50 + kept], 4, &mut out).unwrap();
        assert_eq!(out, expected[kept], "{kept} kept");
        runtime.rewind(&mut sequence, 50).unwrap();
        runtime.draft(&sequence, ids[50], 4, &mut out).unwrap();
        assert_eq!(out, expected[0], "back after {kept}");
    }
    let mut fork = runtime.fork(&sequence, 50).unwrap().unwrap();
    runtime.draft(&fork, ids[50], 4, &mut out).unwrap();
    assert_eq!(out, expected[0], "forked");
    run(&mut runtime, &mut fork, &ids[50..53], Decode);
    runtime.draft(&fork, ids[53], 4, &mut out).unwrap();
    assert_eq!(out, expected[3], "forked and gone on");

    let saved = runtime.save(&fork).unwrap().unwrap();
    runtime.end(fork);
    let mut back = runtime.begin().unwrap();
    run(&mut runtime, &mut back, &random_ids(&SMALL, 4, 20), Prefill);
    runtime.rewind(&mut back, 0).unwrap();
    runtime.restore_saved(&saved, &mut back).unwrap();
    // The output behind the last token was not saved: from the next one on.
    run(&mut runtime, &mut back, &ids[53..55], Decode);
    runtime.draft(&back, ids[55], 4, &mut out).unwrap();
    assert_eq!(out.len(), 4, "saved");
}

/// Answers with drafts in a conversation whose prompts go on, are edited, and fill the context.
#[test]
fn edited_prompts_and_full_contexts_change_nothing() {
    let spec = Spec { vocab: 41, ..SMALL };
    let model = Arc::new(mtp::agreeing(&spec, 0.14, 7));
    let (mut with, mut without) = (session(&model, Isa::detect()), session(&model, Isa::detect()));
    let drawn = with!(SampleOptions::default(), seed: Some(3), temperature: 1.0);
    let mut text = random_ids(&spec, 1, 20);
    let mut full = 0;
    for turn in 0..8 {
        let (plain, _) = answer(&mut without, &text, &drawn, Drafter::new(Some(0)));
        let (found, stats) = answer(&mut with, &text, &drawn, by_mtp(4));
        assert_eq!(found, plain, "turn {turn}");
        assert!(stats.drafted_tokens > 0 && stats.accepted_tokens < stats.drafted_tokens);
        full += usize::from(plain.len() < 40);
        text.extend(&plain);
        if text.len() + 15 >= CONTEXT {
            // The beginning stays.
            text.truncate(30 + turn);
        }
        text.extend(random_ids(&spec, 10 + turn as u64, 15));
    }
    assert!(full > 0, "no answer filled the context");
}
