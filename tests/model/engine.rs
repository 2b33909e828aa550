//! The engine as any program uses it, on the CPU.

use std::sync::{Arc, Mutex};

use bitnet_gpu::{
    Engine, EngineOptions, ErrorKind, HeadScreen, ModelFile, Notice, Observer, OpenOptions, Pooling, Purpose, Remedy,
    Request, SampleOptions, Sizes, Want, embedding, perplexity,
};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/llama-stories-ternary-4m.gguf");

/// Writes down what it is told.
#[derive(Default)]
struct Listener {
    loading: Mutex<Vec<(u64, u64)>>,
    notices: Mutex<Vec<String>>,
}

impl Observer for Listener {
    fn loading(&self, done: u64, total: u64) {
        self.loading.lock().unwrap().push((done, total));
    }

    fn notice(&self, notice: &Notice) {
        self.notices.lock().unwrap().push(format!("{notice:?}"));
    }
}

fn on_cpu(change: impl FnOnce(&mut EngineOptions)) -> EngineOptions {
    let mut options = EngineOptions::default();
    options.request = Request::Cpu;
    change(&mut options);
    options
}

#[test]
fn a_copy_of_the_head_is_planned_only_where_it_serves() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    // Small as this head is, the copy finds a single highest logit of it.
    let engine = Engine::new(&file, on_cpu(|options| options.head = HeadScreen::On));
    let planned = |engine: &Engine, purpose: &Purpose<'_>| engine.plan(purpose).unwrap().sizes.head_screen;
    let sample = |temperature, top_k| with!(SampleOptions::default(), temperature: temperature, top_k: top_k);
    assert!(planned(&engine, &Purpose::Sample(&sample(0.0, 40))));
    assert!(!planned(&engine, &Purpose::Sample(&sample(0.8, 40))), "a vocabulary this small is not searched for 40");
    assert!(!planned(&engine, &Purpose::Sample(&sample(0.8, 0))), "top-p alone needs a sum");
    assert!(!planned(&engine, &Purpose::Logits) && !planned(&engine, &Purpose::Hidden));
    let auto = engine.with_options(on_cpu(|_| {}));
    assert!(!planned(&auto, &Purpose::Sample(&sample(0.0, 40))), "a small head is read in no time");
}

#[test]
fn a_purpose_without_logits_has_no_head() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    let engine = Engine::new(&file, on_cpu(|_| {}));
    assert!(engine.plan(&Purpose::Hidden).unwrap().segments.iter().all(|segment| !segment.head));
    assert_eq!(engine.session(&Purpose::Hidden).err().unwrap().kind(), ErrorKind::Usage);
    let of_model = Engine::new(file.model().unwrap(), on_cpu(|_| {}));
    assert_eq!(of_model.session(&Purpose::Logits).err().unwrap().kind(), ErrorKind::Missing, "no tokenizer");
    assert!(of_model.load(&Purpose::Logits).is_ok());
}

#[test]
fn the_observer_hears_of_the_context_and_of_the_end_of_loading() {
    let listener = Arc::new(Listener::default());
    let open = |options| {
        let file = ModelFile::open(MODEL, &OpenOptions::default(), Arc::clone(&listener) as Arc<dyn Observer>);
        Engine::new(&file.unwrap(), options)
    };
    let trained = open(on_cpu(|_| {})).model().unwrap().config.context;
    let engine = open(on_cpu(|options| options.context_tokens = Some(trained + 1)));
    engine.load(&Purpose::Logits).unwrap();
    let notices = std::mem::take(&mut *listener.notices.lock().unwrap());
    assert!(notices.iter().any(|notice| notice.contains("BeyondTraining")), "{notices:?}");
    let loading = listener.loading.lock().unwrap();
    let (first, last) = (loading.first().unwrap(), loading.last().unwrap());
    assert!(first.0 == 0 && last.0 == last.1 && last.1 > 0, "{loading:?}");
    assert!(loading.iter().filter(|(done, total)| done == total).count() == 1, "told once that it ended: {loading:?}");
}

#[test]
fn a_runtime_has_as_many_sequences_as_asked_for() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    let engine = Engine::new(&file, on_cpu(|options| options.sequences = 2));
    let mut runtime = engine.runtime(&Purpose::Logits).unwrap();
    let (first, second) = (runtime.begin(), runtime.begin());
    assert!(first.is_some() && second.is_some() && runtime.begin().is_none());
}

#[test]
fn errors_tell_what_may_be_done_in_no_front_ends_words() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    let engine = Engine::new(&file, on_cpu(|options| options.context_tokens = Some(4)));
    let error = engine.load(&Purpose::Logits).unwrap().prefill(&[1; 5]).unwrap_err();
    assert_eq!((error.kind(), error.remedy()), (ErrorKind::ContextFull, Some(&Remedy::RaiseContext)));
    assert!(!error.to_string().contains("-c"), "{error}");
    let missing = bitnet_gpu::open("nobody/has-this-model").err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::Missing);
}

#[test]
fn a_session_gives_what_its_purpose_says_and_refuses_the_rest() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    let model = file.model().unwrap();
    let engine = Engine::new(&file, on_cpu(|options| options.context_tokens = Some(32)));
    let mut hidden = engine.load(&Purpose::Hidden).unwrap();
    let refused = [
        hidden.prefill(&[1, 2]).map(|_| ()).unwrap_err(),
        hidden.step(1).map(|_| ()).unwrap_err(),
        hidden.step_for(1, Want::Top(1)).unwrap_err(),
        hidden.score(&[1, 2], |_| panic!("there is nothing to score")).unwrap_err(),
        perplexity(&mut hidden, &[1; 8], 8, None, |_, _, _| true).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.to_string(), "purpose of the session: expected one with logits, found hidden states");
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    assert_eq!(embedding(&mut hidden, model, &[1, 2], Pooling::Mean).unwrap().len(), model.config.dim);
    assert!(hidden.all_logits().is_err());
    let mut logits = engine.load(&Purpose::Logits).unwrap();
    let error = embedding(&mut logits, model, &[1, 2], Pooling::Mean).unwrap_err();
    assert_eq!(error.to_string(), "purpose of the session: expected hidden states, found one with logits");
    assert_eq!(logits.prefill(&[1, 2]).unwrap().len(), model.config.vocab);
}

#[test]
fn a_session_that_has_run_nothing_has_nothing_to_show() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    let engine = Engine::new(&file, on_cpu(|_| {}));
    let mut session = engine.load(&Purpose::Sample(&SampleOptions::greedy())).unwrap();
    assert!(session.candidates().is_none() && session.all_logits().unwrap().is_empty());
    assert_eq!(session.head_rows(), 0);
    let guess = &mut vec![7];
    assert_eq!(session.draft(u32::MAX, 4, guess).unwrap_err().kind(), ErrorKind::Usage);
    assert!(guess.is_empty());
}

#[test]
fn a_model_from_memory_is_that_of_the_file() {
    let bytes = std::fs::read(MODEL).unwrap();
    let open = |bytes: &[u8]| ModelFile::from_bytes("stories", bytes.to_vec(), &OpenOptions::default(), Arc::new(()));
    let answer = |file: &ModelFile| {
        let engine = Engine::new(file, on_cpu(|options| options.context_tokens = Some(64)));
        engine.load(&Purpose::Logits).unwrap().prefill(&[1, 7, 9]).unwrap().to_vec()
    };
    assert_eq!(answer(&open(&bytes).unwrap()), answer(&bitnet_gpu::open(MODEL).unwrap()));
    assert_eq!(open(&bytes).unwrap().pooling().unwrap(), None, "it writes text");
    for len in [0, 3, 24, 1000, bytes.len() - 1] {
        let error = open(&bytes[..len]).err().unwrap();
        assert!(error.to_string().starts_with("stories: ") && error.kind() == ErrorKind::Format, "{len}: {error}");
    }
}

#[test]
fn sizes_beyond_the_machine_are_refused_before_anything_is_reserved() {
    let file = bitnet_gpu::open(MODEL).unwrap();
    let refused = |change: fn(&mut EngineOptions)| {
        let error = Engine::new(&file, on_cpu(change)).load(&Purpose::Logits).err().unwrap();
        assert_eq!((error.kind(), error.remedy()), (ErrorKind::OutOfMemory, Some(&Remedy::LowerContext)), "{error}");
        error.to_string()
    };
    assert!(refused(|options| options.context_tokens = Some(1 << 40)).starts_with("cache for 1099511627776 tokens: "));
    refused(|options| options.context_tokens = Some(usize::MAX));
    let many = refused(|options| (options.context_tokens, options.sequences) = (Some(64), usize::MAX));
    assert!(many.starts_with(&format!("cache for {} sequences of 64 tokens: ", usize::MAX)), "{many}");
    for threads in [EngineOptions::MOST_THREADS + 1, usize::MAX] {
        let options = on_cpu(|options| options.threads = std::num::NonZeroUsize::new(threads));
        let error = Engine::new(&file, options).load(&Purpose::Logits).err().unwrap();
        assert_eq!(error.to_string(), format!("threads must be at most 512, not {threads}"));
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
    let sizes = Sizes { sequences: usize::MAX, ..Sizes::new(64, 8) };
    assert_eq!(sizes.mtp_state_bytes(&file.model().unwrap().config), u64::MAX);
}
