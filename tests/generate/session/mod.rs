//! Sessions and answers over a fake backend: what is run at which position, when an answer ends, and
//! what text comes out.

mod drafts;
mod fake;
mod reasoning;
mod takeover;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bitnet_gpu::{
    Error,
    backend::{Backend, Want},
    generate::{Answer, Chooser, Finish, NoText, SampleOptions, Sampler, perplexity},
    plan::{BackendKind, Plan, Segment},
    session::Session,
};

use self::fake::*;

#[test]
fn a_prompt_runs_in_batches_and_only_the_last_one_wants_logits() {
    let (mut session, log) = session(100, 4, summing);
    let prompt: Vec<u32> = (1..=10).collect();
    session.prefill(&prompt).unwrap();
    let both = |positions: Range<usize>, wanted| {
        ["gpu", "cpu"].map(|backend| Call { backend, positions: positions.clone(), wanted })
    };
    let expected = [both(0..4, Want::Nothing), both(4..8, Want::Nothing), both(8..10, Want::Last)].concat();
    assert_eq!(log.take(), expected);
    assert_eq!(session.tokens(), prompt);

    // A prompt that fills its batches exactly wants logits from the last full one.
    session.truncate(0).unwrap();
    session.prefill(&prompt[..8]).unwrap();
    assert_eq!(log.take(), [both(0..4, Want::Nothing), both(4..8, Want::Last)].concat());

    let logits = session.step(11).unwrap().to_vec();
    assert_eq!(log.take(), both(8..9, Want::Last));
    assert_eq!(logits, one_hot((36 + 11) % END));
}

#[test]
fn each_phase_has_its_own_segments_and_the_cache_follows() {
    let log = Log::default();
    let script: Script = Arc::new(summing);
    let fake = |name| -> Box<dyn Backend> { Box::new(Fake::new(name, &log, &script)) };
    let backends = vec![(BackendKind::Cpu, fake("cpu")), (BackendKind::Gpu, fake("gpu"))];
    let segment = |backend| Segment { layers: 0..4, backend, embed: true, head: true, reason: String::new() };
    let plan = Plan {
        segments: vec![segment(BackendKind::Cpu)],
        prefill: Some(vec![segment(BackendKind::Gpu)]),
        ..plan(100, 4)
    };
    let mut session = Session::load(&model(), &plan, backends, &mut |_| {}).unwrap();
    let call = |backend, positions, wanted| Call { backend, positions, wanted };
    let (last, nothing) = (Want::Last, Want::Nothing);

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
    session.truncate(4).unwrap();
    assert_eq!(session.step(1).unwrap(), one_hot(11 % END));
    assert_eq!(log.take(), [call("cpu", 4..5, last)]);
    session.prefill(&[2]).unwrap();
    assert_eq!(log.take(), [call("to gpu", 4..5, nothing), call("gpu", 5..6, last)]);
    assert_eq!(session.devices(), "gpu, then cpu");
}

#[test]
fn loading_reports_progress_and_names_a_backend_that_is_missing() {
    let log = Log::default();
    let script: Script = Arc::new(summing);
    let fake = |name| -> Box<dyn Backend> { Box::new(Fake::new(name, &log, &script)) };
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
    let ignoring = with!(options(), ignore_end: true);
    let outcome = run(&mut session, &[1, 2, 3], ignoring, Box::new(NoText)).unwrap();
    // END has the only high logit, so with END out of the way the lowest id wins.
    assert_eq!(outcome.ids, [7, 8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(outcome.finish, Some(Finish::ContextFull));
}

#[test]
fn max_tokens_ends_without_running_the_last_token() {
    for max in 0..4 {
        let (mut session, log) = session(100, 8, summing);
        let limited = with!(options(), max_tokens: Some(max));
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
    assert_eq!(error.to_string(), "the context is full: 7 tokens needed, 6 tokens available");
    assert!(log.take().is_empty(), "nothing runs for a prompt that does not fit");
}

#[test]
fn stop_strings_split_over_tokens_end_the_text_before_them() {
    const PIECES: &[&[u8]] = &[b"", b"Hello", b" wo", b"rld EN", b"D of text", b" ENO"];
    let stopping = with!(options(), stop: vec!["END".into()]);

    let (mut session, _) = session(100, 8, saying(1, &[1, 2, 3, 4, 1]));
    let outcome = run(&mut session, &[0], stopping.clone(), Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts, ["Hello", " wo", "rld ", ""]);
    assert_eq!(outcome.ids, [1, 2, 3, 4]);
    assert_eq!(outcome.finish, Some(Finish::StopString("END".into())));
}

#[test]
fn text_held_back_for_a_stop_string_comes_out_at_the_end() {
    const PIECES: &[&[u8]] = &[b"", b"Hello", b" wo", b"rld EN"];
    let stopping = with!(options(), stop: vec!["END".into()]);

    // At an end token there is no token to carry it.
    let (mut session, _) = session(100, 8, saying(1, &[1, 3]));
    let outcome = run(&mut session, &[0], stopping.clone(), Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts, ["Hello", "rld ", "EN"]);
    assert_eq!(outcome.ids, [1, 3]);

    // At a limit the last token carries it.
    let limited = with!(stopping, max_tokens: Some(2));
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
    let stopping = with!(options(), stop: vec!["€😀".into()]);
    let outcome = run(&mut session, &[0], stopping, Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts.concat(), "né");
    let stopping = with!(options(), stop: vec!["!\u{FFFD}".into()]);
    let outcome = run(&mut session, &[0], stopping, Spelling::boxed(PIECES)).unwrap();
    assert_eq!(outcome.texts.concat(), "né€😀");
    assert_eq!(outcome.finish, Some(Finish::StopString("!\u{FFFD}".into())));
}

#[test]
fn a_raised_flag_ends_the_answer_after_the_token_at_hand() {
    let (mut session, _) = session(100, 8, summing);
    let (mut chooser, cancel) = (greedy(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&cancel);
    let mut answer = Answer::new(&mut session, &mut chooser, Box::new(NoText), &[4, 5], options(), flag).unwrap();
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
    let complete = session.prefill_while(&[1; 9], Want::Last, || {
        asked += 1;
        asked < 3
    });
    assert!(!complete.unwrap());
    assert_eq!(session.tokens().len(), 4);

    log.take();
    cancel.store(true, Ordering::Relaxed);
    let mut chooser = greedy();
    let mut answer = Answer::new(&mut session, &mut chooser, Box::new(NoText), &[1; 9], options(), cancel).unwrap();
    assert!(answer.next().is_none());
    assert_eq!(answer.finish(), Some(&Finish::Cancelled));
    assert!(log.take().is_empty());
}

/// As Ctrl-C in the second of three batches: it is given up, does not count as read, and the session goes on.
#[test]
fn a_flag_raised_in_a_batch_gives_it_up() {
    let (mut session, log) = cancelled_at(6, 100, 4, summing);
    let (mut chooser, prompt) = (greedy(), [1; 10]);
    let mut answer =
        Answer::new(&mut session, &mut chooser, Box::new(NoText), &prompt, options(), Arc::default()).unwrap();
    assert!(answer.next().is_none());
    assert_eq!(answer.finish(), Some(&Finish::Cancelled));
    let stats = answer.stats();
    assert_eq!((stats.prompt_tokens, stats.read_tokens, stats.computed_tokens()), (10, 4, 4));
    assert!(stats.prefill_rate().is_some_and(|rate| rate * stats.prefill.as_secs_f64() < 4.5));
    drop(answer);
    assert_eq!(session.tokens(), [1; 4]);

    log.take();
    let again = run(&mut session, &prompt[..6], with!(options(), max_tokens: Some(1)), Box::new(NoText)).unwrap();
    assert_eq!((again.ids, again.stats.reused_tokens), (vec![6], 4));
    assert_eq!(log.take()[0].positions, 4..6);
}

/// As Ctrl-C while a text is scored or embedded in many small batches: none begins any more.
#[test]
fn a_raised_flag_stops_scores_and_embeddings_between_batches() {
    let raised = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&raised);
    let (mut session, log) = session(100, 2, move |ids| {
        flag.fetch_or(ids.len() == 5, Ordering::Relaxed);
        summing(ids)
    });
    session.cancel_when(Some(Arc::clone(&raised)));
    let likelihood = perplexity(&mut session, &[1; 40], 20, None, |_, _, _| true).unwrap();
    assert_eq!((likelihood.tokens(), session.tokens().len()), (0, 6));
    // Three batches of two tokens, on two backends each.
    assert_eq!(log.take().len(), 6);
    raised.store(false, Ordering::Relaxed);
    assert_eq!(perplexity(&mut session, &[1; 4], 4, None, |_, _, _| true).unwrap().tokens(), 1);

    let (mut session, log) = without_head(100, 2);
    session.cancel_when(Some(Arc::clone(&raised)));
    let mut seen = 0;
    let ended = session.hidden(&[1; 9], |_| {
        seen += 1;
        raised.store(seen == 4, Ordering::Relaxed);
    });
    assert!(matches!(ended, Err(Error::Cancelled)));
    assert_eq!((seen, log.take().len()), (4, 4));
}

#[test]
fn a_second_turn_runs_only_what_is_new_and_answers_as_a_fresh_session_does() {
    let limited = |max| with!(options(), max_tokens: Some(max));
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
    session.truncate(2).unwrap();
    assert_eq!(session.step(10).unwrap(), one_hot(13));
    session.truncate(50).unwrap();
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
    let mut chooser = greedy();
    let mut answer =
        Answer::new(&mut session, &mut chooser, Box::new(NoText), &[1, 2, 3], options(), Arc::default()).unwrap();
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
    let penal = with!(SampleOptions::greedy(), presence_penalty: 10.0);
    let mut chooser = Chooser::from(Sampler::new(penal, 100).unwrap());
    let limited = with!(options(), max_tokens: Some(2));
    let answer = Answer::new(&mut session, &mut chooser, Box::new(NoText), &[1, 3], limited, Arc::default()).unwrap();
    assert_eq!(collect(answer).unwrap().ids, [4, 5]);
}
