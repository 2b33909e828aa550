//! A job and its answer, for `run`, its comparison and its conversation.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    args::{AnswerArgs, RunArgs, Setting},
    format, input, interrupt,
};
use crate::{
    chat::{AnswerParts, ReasoningFormat, ReasoningSplit},
    engine::{Engine, ModelFile, Purpose},
    error::Result,
    generate::{Answer, AnswerOptions, Chooser, Finish, SampleOptions, Stats, StopStrings},
    model::Model,
    session::Session,
    tokenizer::{TokenStream, Tokenizer},
};

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
        ..AnswerOptions::default()
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
    /// The text as reasoning and answer, where the options have a limit of reasoning.
    pub parts: AnswerParts,
    pub reasoning_tokens: usize,
    pub finish: Finish,
    pub stats: Stats,
}

/// Text of an answer as it comes.
pub struct Said<'a> {
    /// As the model wrote it.
    pub text: &'a str,
    /// Reasoning and answer in it and in text held back before, as far as they are certain.
    pub parts: &'a AnswerParts,
}

/// Runs `prompt` on `session` and hands each piece of text to `show`.
pub fn answer(
    tokenizer: &Arc<Tokenizer>,
    prompt: &[u32],
    session: &mut Session,
    chooser: &mut Chooser,
    options: AnswerOptions,
    mut show: impl FnMut(&Said<'_>) -> Result<()>,
) -> Result<Answered> {
    let mut split = match &options.reasoning {
        Some(limit) => ReasoningSplit::starting(limit.opened, ReasoningFormat::Auto),
        None => ReasoningSplit::starting(false, ReasoningFormat::None),
    };
    let decoder = Box::new(TokenStream::after(Arc::clone(tokenizer), prompt));
    let mut answer = Answer::new(session, chooser, decoder, prompt, options, interrupt::catch())?;
    let (mut ids, mut text, mut parts, mut reasoning_tokens) = (Vec::new(), String::new(), AnswerParts::default(), 0);
    for event in &mut answer {
        let event = event?;
        ids.extend(event.id);
        if !event.text.is_empty() {
            let said = split.push(&event.text);
            show(&Said { text: &event.text, parts: &said })?;
            text += &event.text;
            parts.append(&said);
        }
        reasoning_tokens += usize::from(event.id.is_some() && split.is_reasoning());
    }
    let rest = split.finish();
    show(&Said { text: "", parts: &rest })?;
    parts.append(&rest);
    let finish = answer.finish().cloned().unwrap_or(Finish::Cancelled);
    Ok(Answered { ids, text, parts, reasoning_tokens, finish, stats: answer.stats().clone() })
}

/// "temp 1 (file), top-k 40, ...": the source where it is no default.
pub fn settings_text(settings: &[Setting]) -> String {
    let one = |setting: &Setting| match setting.source {
        "default" => format!("{} {}", setting.name, setting.value),
        source => format!("{} {} ({source})", setting.name, setting.value),
    };
    settings.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Each with its value, in the digits of an f32, and its source.
pub fn settings_json(settings: &[Setting]) -> Json {
    let exact = |value: f32| value.to_string().parse::<f64>().unwrap_or(f64::NAN);
    let pairs = settings.iter().map(|s| (s.name.to_owned(), json!({"value": exact(s.value), "source": s.source})));
    Json::Object(pairs.collect())
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
