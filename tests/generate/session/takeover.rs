//! A backend that fails, and the standby that goes on.

use std::sync::Arc;

use bitnet_gpu::{
    Error,
    backend::{Backend, Want},
    generate::NoText,
    plan::{BackendKind, Segment},
    session::{Runtime, Session},
};

use super::fake::*;

/// A session whose backend of `kind` fails at position 6, with a standby that has all layers on one more backend.
fn failing(kind: BackendKind, error: fn() -> Error) -> (Session, Log) {
    let (log, script): (Log, Script) = (Log::default(), Arc::new(summing));
    let fake = |name, fault| -> Box<dyn Backend> { Box::new(Fake { fault, ..Fake::new(name, &log, &script) }) };
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
        Runtime::load(&model(), &whole, vec![(BackendKind::Cpu, spare)], &mut |_| {})
    };
    (session.with_standby(Box::new(standby)), log)
}

fn lost() -> Error {
    Error::DeviceLost { reason: "a test".into() }
}

#[test]
fn where_a_gpu_fails_the_standby_runs_all_tokens_again_and_goes_on() {
    let answer = |session: &mut Session| {
        let options = with!(options(), max_tokens: Some(9));
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
    assert_eq!(spare[..3], [call(0..4, Want::Nothing), call(4..6, Want::Nothing), call(6..7, Want::Top(1))]);
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
