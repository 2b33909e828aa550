//! A job and its answer, for `run`, its comparison and its conversation.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    args::{AnswerArgs, RunArgs},
    format, input, interrupt,
};
use crate::{
    engine::{Engine, ModelFile, Purpose},
    error::Result,
    generate::{Answer, AnswerOptions, Chooser, Finish, SampleOptions, Stats, StopStrings},
    model::Model,
    session::Session,
    tokenizer::{TokenStream, Tokenizer},
};

/// llama.cpp's.
pub const DEFAULT_TEMPERATURE: f32 = 0.8;

/// Everything a run needs, after the files are open and before anything is loaded.
pub struct Job<'a> {
    pub args: &'a RunArgs,
    pub source: ModelFile,
    pub tokenizer: Arc<Tokenizer>,
    pub model: Arc<Model>,
    pub engine: Engine,
    pub text: String,
    pub prompt: Vec<u32>,
    pub options: AnswerOptions,
}

pub fn unescape(no_escape: bool, text: &str) -> Result<String> {
    if no_escape { Ok(text.to_owned()) } else { input::unescape(text) }
}

pub fn answer_options(tokenizer: &Tokenizer, args: &AnswerArgs) -> Result<AnswerOptions> {
    let stop = args.stop.iter().map(|text| unescape(args.no_escape, text)).collect::<Result<Vec<_>>>()?;
    // Refused before anything is loaded.
    StopStrings::new(stop.iter().cloned())?;
    Ok(AnswerOptions {
        max_tokens: args.n_predict.and_then(|n| usize::try_from(n).ok()),
        end_ids: tokenizer.end_ids().to_vec(),
        ignore_end: args.ignore_eos,
        stop,
    })
}

/// The purpose that the model is loaded for.
pub fn purpose<'a>(sample: &'a SampleOptions, chooser: &Chooser) -> Purpose<'a> {
    // A grammar looks at all logits.
    if chooser.constraint.is_some() { Purpose::Logits } else { Purpose::Sample(sample) }
}

/// Text, ids and measurements of an answer.
pub struct Answered {
    pub ids: Vec<u32>,
    pub text: String,
    pub finish: Finish,
    pub stats: Stats,
}

/// Runs `prompt` on `session` and hands each piece of text to `show`.
pub fn answer(
    tokenizer: &Arc<Tokenizer>,
    prompt: &[u32],
    session: &mut Session,
    chooser: &mut Chooser,
    options: AnswerOptions,
    mut show: impl FnMut(&str) -> Result<()>,
) -> Result<Answered> {
    let decoder = Box::new(TokenStream::after(Arc::clone(tokenizer), prompt));
    let mut answer = Answer::new(session, chooser, decoder, prompt, options, interrupt::catch())?;
    let (mut ids, mut text) = (Vec::new(), String::new());
    for event in &mut answer {
        let event = event?;
        ids.extend(event.id);
        text += &event.text;
        if !event.text.is_empty() {
            show(&event.text)?;
        }
    }
    let finish = answer.finish().cloned().unwrap_or(Finish::Cancelled);
    Ok(Answered { ids, text, finish, stats: answer.stats().clone() })
}

/// Times in milliseconds, rates in tokens per second; null where nothing was measured.
pub fn timings_json(stats: &Stats) -> Json {
    json!({
        "prefill_ms": format::milliseconds(stats.prefill),
        "prefill_rate": stats.prefill_rate(),
        "decode_ms": format::milliseconds(stats.decode()),
        "decode_rate": stats.decode_rate(),
        "token_ms_p50": stats.latency_quantile(0.5).map(format::milliseconds),
        "head_rows_exact": stats.head_rows_per_step(),
        "token_ms_p95": stats.latency_quantile(0.95).map(format::milliseconds),
    })
}
