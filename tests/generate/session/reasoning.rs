//! A bound on what a model thinks: the end of it is forced, the rest of the answer is what the model says to that.

use std::sync::Arc;

use bitnet_gpu::generate::{
    Answer, AnswerOptions, Chooser, Drafter, Finish, NoText, ReasoningLimit, SampleOptions, Sampler,
};

use super::fake::*;

/// Ids with a meaning; others print nothing.
const OPEN: u32 = 1;
const CLOSE: u32 = 2;
const BREAK: u32 = 3;
const SAID: u32 = 30;
const PIECES: [&[u8]; VOCAB] = {
    let mut pieces: [&[u8]; VOCAB] = [b""; VOCAB];
    pieces[OPEN as usize] = b"<think>";
    pieces[CLOSE as usize] = b"</think>";
    pieces[BREAK as usize] = b"\n";
    pieces[SAID as usize] = b"a";
    pieces
};

fn limited(max_tokens: usize, opened: bool) -> AnswerOptions {
    let limit = ReasoningLimit { max_tokens: Some(max_tokens), opened, end: vec![BREAK, CLOSE, BREAK] };
    with!(options(), reasoning: Some(limit), max_tokens: Some(60))
}

/// Says `answer` once the reasoning has ended, and thinks (20, 21, ..., 26, 20, ...) until then.
fn thinking(ids: &[u32]) -> Vec<f32> {
    let sure = |id| one_hot(id).iter().map(|logit| logit * 50.0).collect();
    match ids.iter().position(|&id| id == CLOSE) {
        Some(at) if ids.len() > at + 6 => sure(END),
        Some(_) => sure(30 + ids.len() as u32 % 7),
        None => sure(20 + ids.len() as u32 % 7),
    }
}

#[test]
fn the_answer_begins_when_the_tokens_are_spent() {
    for max in [0, 1, 7, 30] {
        let (mut session, _) = session(400, 8, thinking);
        let outcome = run(&mut session, &[10, OPEN], limited(max, true), Spelling::boxed(&PIECES)).unwrap();
        let thought = (0..max).map(|n| 20 + (n as u32 + 2) % 7);
        let answer = (max + 5..max + 8).map(|held| 30 + held as u32 % 7);
        let expected: Vec<u32> = thought.chain([BREAK, CLOSE, BREAK]).chain(answer).collect();
        // One more than the script's five behind the tag, as the end has one of them.
        assert_eq!(outcome.ids[..expected.len()], expected, "{max}");
        assert_eq!(outcome.finish, Some(Finish::EndToken(END)));
        // The caches hold it as well: what follows was said to it.
        assert!(session.tokens().starts_with(&[&[10, OPEN], &expected[..]].concat()), "{max}");
    }
}

#[test]
fn a_model_that_ends_by_itself_or_does_not_think_is_left_alone() {
    const BRIEF: &[u32] = &[OPEN, 20, 21, BREAK, CLOSE, SAID, OPEN, 31, 32, 33, 34];
    for (said, prompt) in [(BRIEF, &[10][..]), (&BRIEF[1..], &[10, OPEN]), (&BRIEF[5..], &[10])] {
        let (mut session, _) = session(100, 8, saying(prompt.len(), said));
        let options = limited(4, prompt.len() == 2);
        let outcome = run(&mut session, prompt, options, Spelling::boxed(&PIECES)).unwrap();
        assert_eq!(outcome.ids, said);
    }
    // Without a text there are no tags.
    let (mut session, _) = session(100, 8, saying(1, BRIEF));
    assert_eq!(run(&mut session, &[10], limited(0, false), Box::new(NoText)).unwrap().ids, BRIEF);
}

#[test]
fn the_end_may_be_cut_by_the_limits_of_the_answer() {
    let (mut session, _) = session(400, 8, thinking);
    let options = with!(limited(2, true), max_tokens: Some(4));
    let outcome = run(&mut session, &[10, OPEN], options, Spelling::boxed(&PIECES)).unwrap();
    assert_eq!(outcome.ids[2..], [BREAK, CLOSE]);
    assert_eq!(outcome.finish, Some(Finish::MaxTokens));
}

/// The reasoning repeats itself, so that it is drafted, and its end comes in the middle of a draft.
#[test]
fn drafts_end_where_the_reasoning_does() {
    for max in 20..30 {
        let answer = |most_drafted| {
            let (mut session, log) = session(400, 8, thinking);
            let sampler = Sampler::new(with!(SampleOptions::default(), seed: Some(1)), 1000).unwrap();
            let mut chooser = Chooser { drafter: Some(Drafter::new(Some(most_drafted))), ..sampler.into() };
            let (decoder, options) = (Spelling::boxed(&PIECES), limited(max, true));
            let answer = Answer::new(&mut session, &mut chooser, decoder, &[10, OPEN], options, Arc::default());
            let outcome = collect(answer.unwrap()).unwrap();
            let held = session.tokens().to_vec();
            (outcome, held, log.take().len())
        };
        let (plain, held, steps) = answer(0);
        let (drafted, held_with_drafts, passes) = answer(9);
        assert_eq!((&drafted.ids, &drafted.finish), (&plain.ids, &plain.finish), "{max}");
        assert!(held_with_drafts.starts_with(&held) && passes < steps, "{max}: {passes} and {steps}");
        assert_eq!(plain.ids[max..max + 3], [BREAK, CLOSE, BREAK]);
    }
}
