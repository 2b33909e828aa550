//! Sequences of hybrid models: what their recurrent layers cannot rewind comes from checkpoints, or is computed again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{Backend, cpu::CpuBackend},
    error::Error,
    generate::{Answer, AnswerOptions, NoText, SampleOptions, Sampler},
    model::Model,
    plan::{BackendKind, KvType, Plan, Sizes},
    session::Session,
};

use crate::common::{
    gpu::relative_l2,
    hybrid::{self, ROTATED, SMALL, reference::Reference},
};

fn session(model: &Arc<Model>, isa: Isa, threads: usize) -> Session {
    let sizes = Sizes::new(160, 32).with_kv(KvType::F32, KvType::F32);
    let plan = Plan::all_cpu(model.config.layers, sizes, "test");
    let cpu: Box<dyn Backend> = Box::new(CpuBackend::new(isa, threads));
    Session::load(model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| {}).unwrap()
}

/// Prompts of all sizes, and the steps behind them, against the plain loops with the same int8 activations: equal but for
/// activations that lie on the edge between two steps.
#[test]
fn logits_are_those_of_the_reference() {
    for (name, spec) in [("plain", SMALL), ("rotated", ROTATED)] {
        let model = Arc::new(hybrid::random_model(&spec, 5));
        let mut reference = Reference::new(&model);
        reference.int8 = true;
        for isa in Isa::available() {
            for len in [1, 2, 8, 9, 31, 70] {
                let ids = hybrid::random_ids(&spec, len as u64, len + 3);
                let mut session = session(&model, isa, 2);
                reference.clear();
                for (at, ids) in [&ids[..len], &ids[len..len + 1], &ids[len + 1..]].into_iter().enumerate() {
                    let expected: Vec<f32> = reference.run(ids).0.iter().map(|&x| x as f32).collect();
                    let error = relative_l2(session.prefill(ids).unwrap(), &expected);
                    eprintln!("{name}, {isa}, {len} ids, part {at}: {error:.5}");
                    assert!(error < 0.03, "{name}, {isa}, {len} ids, part {at}: relative L2 error {error}");
                }
            }
        }
    }
}

/// Cut back to any position, a sequence goes on as one that never was longer.
#[test]
fn what_is_cut_off_leaves_no_trace() {
    for spec in [SMALL, ROTATED] {
        let model = Arc::new(hybrid::random_model(&spec, 6));
        let ids = hybrid::random_ids(&spec, 1, 90);
        let other = hybrid::random_ids(&spec, 2, 12);
        let mut long = session(&model, Isa::detect(), 2);
        let mut fresh = session(&model, Isa::detect(), 2);
        // Behind the checkpoint in the prompt, at it, before it, and at the beginning.
        for kept in [89, 85, 82, 81, 40, 9, 1, 0] {
            long.truncate(0).unwrap();
            long.prefill(&ids).unwrap();
            for &id in &other {
                long.step(id).unwrap();
            }
            long.truncate(kept).unwrap();
            // Or shorter still: the rest is the caller's to run.
            let held = long.tokens().len();
            assert_eq!(long.tokens(), &ids[..held]);
            assert!(held <= kept && (kept < 83 || held == kept), "{held} of {kept}");
            if held < kept {
                long.prefill(&ids[held..kept]).unwrap();
            }
            let found = long.prefill(&other).unwrap().to_vec();
            fresh.truncate(0).unwrap();
            if kept > 0 {
                fresh.prefill(&ids[..kept]).unwrap();
            }
            let error = relative_l2(&found, fresh.prefill(&other).unwrap());
            assert!(error < 0.01, "{spec:?}, {kept} of {}: relative L2 {error}", ids.len());
            assert_eq!(long.tokens(), fresh.tokens());
        }
    }
}

/// A prompt given up in the middle is read as one that never began; steps of answers are not given up.
#[test]
fn a_cancelled_prompt_leaves_no_trace() {
    let model = Arc::new(hybrid::random_model(&SMALL, 8));
    let ids = hybrid::random_ids(&SMALL, 3, 40);
    let (mut cancelled, mut fresh) = (session(&model, Isa::detect(), 2), session(&model, Isa::detect(), 2));
    cancelled.prefill(&ids[..12]).unwrap();
    let raised = Arc::new(AtomicBool::new(true));
    cancelled.cancel_when(Some(Arc::clone(&raised)));
    assert!(matches!(cancelled.prefill(&ids[12..]), Err(Error::Cancelled)));
    assert_eq!(cancelled.tokens(), &ids[..12]);
    raised.store(false, Ordering::Relaxed);
    let found = cancelled.prefill(&ids[12..]).unwrap().to_vec();
    fresh.prefill(&ids[..12]).unwrap();
    assert_eq!(found, fresh.prefill(&ids[12..]).unwrap());
    raised.store(true, Ordering::Relaxed);
    assert_eq!(cancelled.step(1).unwrap(), fresh.step(1).unwrap());
}

/// The second prompt of a conversation, without the beginning of the answer that the first one ended with, begins behind the
/// checkpoint there; a prompt that differs before any checkpoint is read as a whole.
#[test]
fn the_next_prompt_goes_on_behind_a_checkpoint() {
    let model = Arc::new(hybrid::random_model(&SMALL, 9));
    let mut session = session(&model, Isa::detect(), 2);
    let first = hybrid::random_ids(&SMALL, 4, 60);
    let second = [&first[..57], &hybrid::random_ids(&SMALL, 5, 30)].concat();
    let mut answer = |prompt: &[u32]| {
        let mut chooser = Sampler::new(SampleOptions::greedy(), 160).unwrap().into();
        let options = with!(AnswerOptions::default(), max_tokens: Some(9));
        let mut answer =
            Answer::new(&mut session, &mut chooser, Box::new(NoText), prompt, options, Arc::default()).unwrap();
        let ids: Vec<u32> = (&mut answer).filter_map(|event| event.unwrap().id).collect();
        (ids, answer.stats().reused_tokens)
    };
    let (fresh, none) = answer(&second);
    assert_eq!(none, 0);
    let (_, few) = answer(&first);
    // Seven tokens before the end of `second` there is nothing of `first`.
    assert_eq!(few, 0);
    let (found, reused) = answer(&second);
    assert_eq!((found, reused), (fresh, 57));
}

/// The checkpoint before the last tokens of a prompt, which run in the same pass, is the state of a prompt that ends there.
#[test]
fn a_checkpoint_inside_a_pass_is_the_state_there() {
    for (spec, isa) in
        [SMALL, ROTATED].into_iter().flat_map(|spec| Isa::available().into_iter().map(move |isa| (spec, isa)))
    {
        let model = Arc::new(hybrid::random_model(&spec, 10));
        let ids = hybrid::random_ids(&spec, 6, 45);
        // From the beginning, and behind other tokens; the rest is at most what a pass takes.
        for begun in [0, 20] {
            let mut session = session(&model, isa, 2);
            if begun > 0 {
                session.prefill(&ids[..begun]).unwrap();
            }
            let rest = &ids[begun..begun + 25];
            let expected = session.prefill(rest).unwrap().to_vec();
            session.truncate(begun + 18).unwrap();
            assert_eq!(session.tokens().len(), begun + 18, "{spec:?}, {isa}: a checkpoint is there");
            assert_eq!(session.prefill(&rest[18..]).unwrap(), expected, "{spec:?}, {isa}, from {begun} on");
        }
    }
}

/// A step that fails leaves the sequence as it was, and the next one computes what is missing.
#[test]
fn a_sequence_survives_a_step_that_fails() {
    let mut model = hybrid::random_model(&SMALL, 7);
    // The last id's embedding is infinite.
    let table = &mut model.weights.token_embd;
    let mut bytes = table.data.to_vec();
    let row = table.cols * 2;
    bytes[300 * row..].fill(0x7C);
    table.data = bytes.into();
    let model = Arc::new(model);
    let ids: Vec<u32> = hybrid::random_ids(&SMALL, 3, 40).into_iter().map(|id| id % 300).collect();
    let mut session = session(&model, Isa::detect(), 2);
    let expected = session.prefill(&ids).unwrap().to_vec();
    session.truncate(0).unwrap();
    session.prefill(&ids[..20]).unwrap();
    for bad in [vec![300], [&ids[20..35], &[300]].concat()] {
        let error = session.prefill(&bad).unwrap_err();
        assert!(error.to_string().contains("not a finite") || error.to_string().contains("layer 0"), "{error}");
        assert_eq!(session.tokens(), &ids[..20]);
    }
    let error = relative_l2(session.prefill(&ids[20..]).unwrap(), &expected);
    assert!(error < 0.01, "relative L2 {error}");
}
