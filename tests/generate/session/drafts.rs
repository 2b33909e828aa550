//! Drafted tokens: other passes, the same answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bitnet_gpu::generate::{Answer, AnswerOptions, Chooser, Drafter, NoText, SampleOptions, Sampler};
use bitnet_gpu::session::Session;

use super::fake::*;

/// Tokens that repeat with a period of 7, but for a few surprises.
fn rhyming(ids: &[u32]) -> Vec<f32> {
    let n = ids.len();
    one_hot(if n % 23 == 20 { n as u32 % 11 } else { 20 + (n % 7) as u32 })
}

struct Drafted {
    outcome: Outcome,
    /// Tokens that the caches hold in the end.
    held: Vec<u32>,
    /// Runs of the model, with their tokens.
    passes: Vec<usize>,
}

fn drafted(session: (Session, Log), prompt: &[u32], options: AnswerOptions, drafter: Drafter) -> Drafted {
    let (mut session, log) = session;
    let sampler = Sampler::new(with!(SampleOptions::default(), seed: Some(1)), 1000).unwrap();
    let mut chooser = Chooser { drafter: Some(drafter), ..sampler.into() };
    let answer = Answer::new(&mut session, &mut chooser, Box::new(NoText), prompt, options, Arc::default()).unwrap();
    let outcome = collect(answer).unwrap();
    let passes = log.take().into_iter().filter(|c| c.backend == "cpu").map(|c| c.positions.len()).collect();
    Drafted { outcome, held: session.tokens().to_vec(), passes }
}

#[test]
fn drafts_change_the_passes_and_not_the_answer() {
    // Mostly the scripted token, now and then another one: drafts end in the middle.
    for sharpness in [1.0, 9.0] {
        let script = move |ids: &[u32]| rhyming(ids).iter().map(|l| l * sharpness).collect();
        for (context, max_tokens) in [(400, None), (400, Some(100)), (90, None), (400, Some(41)), (400, Some(2))] {
            let options = with!(options(), max_tokens: max_tokens);
            let prompt: Vec<u32> = (0..20).map(|n| 20 + n % 7).collect();
            let run = |drafter| drafted(session(context, 8, script), &prompt, options.clone(), drafter);
            let plain = run(Drafter::new(Some(0)));
            let with = run(Drafter::new(Some(9)));
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
    let limited = with!(options(), max_tokens: Some(200));
    let period = |ids: &[u32]| one_hot(20 + ids.len() as u32 % 7).iter().map(|l| l * 50.0).collect();
    let with = drafted(session(400, 8, period), &[20, 21, 22, 23, 24, 25, 26, 20, 21], limited, Drafter::new(Some(9)));
    let stats = &with.outcome.stats;
    assert!(stats.drafted_tokens > 140 && stats.accepted_tokens == stats.drafted_tokens, "{stats:?}");
    assert!(with.passes.len() < 60, "{:?}", with.passes);
}

#[test]
fn drafts_see_stop_strings_end_tokens_and_ctrl_c() {
    const PIECES: &[&[u8]] = &[b"", b"ab", b"c", b"d"];
    let period = |ids: &[u32]| one_hot(if ids.len() == 45 { END } else { 1 + ids.len() as u32 % 3 });
    let prompt = [1, 2, 3, 1, 2, 3, 1, 2, 3].map(|id| id % 3 + 1);
    let run = |stop: &str, drafter, cancel_after: usize| {
        let (mut session, _) = session(400, 8, period);
        let cancel = Arc::new(AtomicBool::new(false));
        let mut chooser = Chooser { drafter: Some(drafter), ..greedy() };
        let options = with!(options(), stop: vec![stop.into()]);
        let decoder = Spelling::boxed(PIECES);
        let flag = Arc::clone(&cancel);
        let mut answer = Answer::new(&mut session, &mut chooser, decoder, &prompt, options, flag).unwrap();
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
            let plain = run(stop, Drafter::new(Some(0)), cancel_after);
            let with = run(stop, Drafter::new(Some(9)), cancel_after);
            assert_eq!((&with.0, &with.1), (&plain.0, &plain.1));
            // At most the last token of the text more: it was right.
            assert!((plain.2..=plain.2 + 1).contains(&with.2), "{} and {}", with.2, plain.2);
        }
    }
}

#[test]
fn a_backend_that_adds_up_differently_is_found_out() {
    let period = |ids: &[u32]| one_hot(20 + ids.len() as u32 % 7).iter().map(|l| l * 50.0).collect();
    let limited = with!(options(), max_tokens: Some(100));
    let prompt = [20, 21, 22, 23, 24, 25, 26, 20, 21];
    let with = drafted(session_with(400, 16, 1e-5, period), &prompt, limited, Drafter::new(Some(9)));
    assert_eq!(with.outcome.stats.drafted_tokens, 0);
    // The trial, and never again.
    assert_eq!(with.passes.iter().filter(|&&tokens| tokens == ALIKE).count(), 1, "{:?}", with.passes);
}
