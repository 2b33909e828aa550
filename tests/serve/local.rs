//! The routes without a network, and the model that they lend.

use std::sync::{
    Arc,
    mpsc::{self, Receiver},
};

use bitnet_gpu::{
    Engine, EngineOptions, Error, ModelFile, OpenOptions, Request, Want,
    chat::Template,
    serve::{Lent, Local, Log, Opened, Pending, ServeOptions},
};
use serde_json::{Value, json};

struct Silent;

impl Log for Silent {
    fn listening(&self, _: &str) {}

    fn ready(&self, _: &str) {}

    fn request(&self, _: &str) {}
}

fn local(sequences: usize) -> Local {
    let file = ModelFile::built_in(&OpenOptions::default(), Arc::new(())).unwrap();
    let mut options = EngineOptions::default();
    (options.request, options.context_tokens, options.sequences) = (Request::Cpu, Some(4096), sequences);
    let engine = Engine::new(&file, options);
    let template = Template::of(file.tokenizer().unwrap()).unwrap();
    let sample = file.recommended().options();
    Local::start(ServeOptions::default(), Opened { file, engine, template, sample }, Arc::new(Silent)).unwrap()
}

/// An answer on its way, and the pieces of JSON that come of it.
fn ask(local: &Local, fields: Value) -> (Pending, Receiver<Option<String>>) {
    let (tell, told) = mpsc::channel();
    let pending = local.ask("/completion", fields.to_string(), move |piece| _ = tell.send(piece)).unwrap();
    (pending, told)
}

/// A stream that goes on for long, and has begun.
fn endless(local: &Local) -> (Pending, Receiver<Option<String>>) {
    let fields = json!({"prompt": "A", "n_predict": -1, "ignore_eos": true, "temperature": 0, "stream": true});
    let (pending, told) = ask(local, fields);
    assert!(told.recv().unwrap().unwrap().contains("content"));
    (pending, told)
}

/// The id with the highest logit behind `ids`.
fn highest(local: &Local, ids: Vec<u32>) -> Lent<usize> {
    local
        .lend(move |runtime, sequence| {
            assert!(sequence.tokens().is_empty());
            runtime.prefill_while(sequence, &ids, Want::Last, || true)?;
            let logits = &*runtime.output_and_logits(0).1;
            Ok((0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap())
        })
        .unwrap()
}

#[test]
fn the_model_is_lent_between_the_steps_of_answers() {
    let local = local(2);
    let greedy = json!({"prompt": [1, 80, 90], "n_predict": 4, "temperature": 0, "return_tokens": true});
    let answer = || {
        let (_pending, told) = ask(&local, greedy.clone());
        serde_json::from_str::<Value>(&told.recv().unwrap().unwrap()).unwrap()["tokens"].clone()
    };
    let tokens = answer();
    let (_pending, told) = endless(&local);
    assert_eq!(Value::from(highest(&local, vec![1, 80, 90]).wait().unwrap()), tokens[0]);
    assert_eq!(answer(), tokens, "whatever its place was lent for");
    assert!(told.try_iter().all(|piece| piece.is_some()), "the other one goes on");
    let refused = local.lend(|_, _| Err::<(), _>(Error::Cancelled)).unwrap().wait();
    assert!(matches!(refused, Err(Error::Cancelled)));
}

#[test]
fn who_waits_for_the_model_is_told_of_its_end() {
    let mut local = local(1);
    let (pending, _told) = endless(&local);
    let waits = highest(&local, vec![1]);
    drop(pending);
    waits.wait().expect("its turn comes when the answer has ended");

    let (_pending, _told) = endless(&local);
    let waits = highest(&local, vec![1]);
    local.close();
    assert!(waits.wait().unwrap_err().to_string().contains("closed"));
    let refused = local.lend(|_, _| Ok(()));
    assert!(refused.is_err_and(|error| error.to_string().contains("closed")));
}
