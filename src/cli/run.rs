//! `run`: continues a text.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
};

use serde_json::{Value as Json, json};

use super::{
    answering::{
        Answered, Job, Said, answer, answer_options, purpose, settings_json, settings_text, timings_json, unescape,
    },
    args::{RunArgs, Setting},
    chat, compare,
    engine::{segment_line, segments_json},
    format, input, interrupt, output, source, usage,
};
use crate::{
    engine::{Engine, EngineOptions},
    error::{Error, Result},
    generate::{AnswerOptions, Chooser, Finish, ReasoningLimit, Sampler},
    plan::BackendKind,
    session::Session,
};

/// For a first run without any arguments.
const DEFAULT_PROMPT: &str = "Once upon a time";

pub fn run(args: &RunArgs, verbose: bool) -> Result<()> {
    if args.conversation || is_conversation(args) {
        return chat::run_conversation(args, verbose);
    }
    if args.chat.system_prompt.is_some() || args.chat.chat_template.is_some() {
        return Err(usage("a conversation is asked for without -cnv", "bitnet-gpu run -cnv -sys \"Be brief.\""));
    }
    let text = prompt_text(args)?;
    let source = source::open(&args.model)?;
    let model = Arc::clone(source.model()?);
    let mtp = args.draft.uses_mtp(&model)?;
    let engine = Engine::new(&source, EngineOptions { mtp, ..EngineOptions::from(&args.engine) });
    let tokenizer = Arc::clone(source.tokenizer()?);
    let prompt = tokenizer.encode_prompt(&text)?;
    let options = answer_options(&tokenizer, &args.answer)?;
    let engine = with_room(engine, prompt.len() + options.max_tokens.unwrap_or(ROOM_TOKENS))?;
    let job = Job { args, source, tokenizer, model, engine, text, prompt, options };
    if args.bench { compare::run(&job) } else { generate(&job, verbose || args.stats) }
}

/// Whether a model was named, and nothing to continue, where a person sits at both ends.
fn is_conversation(args: &RunArgs) -> bool {
    let has_text = args.given.prompt.is_some() || args.given.file.is_some();
    let is_for_programs = args.json || args.bench || args.no_display_prompt || args.no_conversation;
    args.model.model.is_some()
        && !has_text
        && !is_for_programs
        && io::stdin().is_terminal()
        && io::stdout().is_terminal()
}

/// Room for an answer of any length behind a prompt that needs a larger context than the default.
const ROOM_TOKENS: usize = 1024;

/// A larger context for a long prompt, as far as the model was trained, where the size is left to the program.
fn with_room(engine: Engine, needed: usize) -> Result<Engine> {
    let (default, trained) = (engine.context_tokens()?, engine.model()?.config.context);
    let larger = needed.next_multiple_of(256).min(trained);
    if engine.options().context_tokens.is_some() || needed <= default || larger <= default {
        return Ok(engine);
    }
    log::info!("context of {larger} tokens, as the prompt is long");
    Ok(engine.with_options(EngineOptions { context_tokens: Some(larger), ..engine.options().clone() }))
}

fn prompt_text(args: &RunArgs) -> Result<String> {
    if let Some(given) = &args.given.prompt {
        let question = unescape(args.answer.no_escape, given)?;
        // `cat FILE | bitnet-gpu run "Summarise:"`: the text is what the question is about.
        let piped = if args.is_question { input::standard_input_if_any()? } else { None };
        return Ok(match piped.map(input::with_plain_line_breaks).map(input::without_last_line_break) {
            Some(text) if !text.is_empty() => format!("{text}\n{question}"),
            _ => question,
        });
    }
    let read = match &args.given.file {
        None if args.model.model.is_none() => match input::standard_input_if_any()? {
            Some(text) => text,
            None => DEFAULT_PROMPT.into(),
        },
        file => input::text(None, file.as_deref())?.unwrap_or_default(),
    };
    let text = input::without_last_line_break(input::with_plain_line_breaks(read));
    if text.is_empty() {
        return Err(usage("no prompt", "bitnet-gpu run -m model.gguf -p \"Once upon a time\""));
    }
    Ok(text)
}

fn generate(job: &Job<'_>, in_full: bool) -> Result<()> {
    let args = job.args;
    let context = job.engine.context_tokens()?;
    // Said before minutes are spent on loading.
    if job.prompt.len() > context {
        return Err(Error::ContextFull { needed: job.prompt.len(), context });
    }
    let sample = args.sample.options(job.source.recommended(), job.source.tokenizer()?, job.model.config.vocab)?;
    let settings = args.sample.settings(job.source.recommended(), &sample);
    let mut chooser = Chooser {
        sampler: Sampler::new(sample.clone(), context)?,
        drafter: Some(args.draft.drafter()),
        constraint: args.grammar.constraint(&job.tokenizer)?,
    };
    let mut session = job.engine.load(&purpose(&sample, &chooser))?;
    let limit = ReasoningLimit::after(&job.prompt, args.reasoning.max_tokens(), &job.tokenizer)?;
    let options = AnswerOptions { reasoning: Some(limit), ..job.options.clone() };
    // Before the first output: who sees it may rely on Ctrl-C giving a summary.
    interrupt::catch();
    if args.json {
        let answered = answer(&job.tokenizer, &job.prompt, &mut session, &mut chooser, options, |_| Ok(()))?;
        return output::print_json(&to_json(job, &session, &chooser.sampler, &settings, &answered));
    }
    if !args.no_display_prompt {
        output::print(&job.text)?;
    }
    let show = |said: &Said<'_>| output::print(if args.show_thinking { said.text } else { &said.parts.answer });
    let answered = answer(&job.tokenizer, &job.prompt, &mut session, &mut chooser, options, show);
    // An error, too, begins on a line of its own.
    output::print("\n")?;
    let answered = answered?;
    if in_full {
        summary(job, &session, &chooser.sampler, &settings, &answered);
    } else if io::stderr().is_terminal() {
        short_summary(job, &session, &chooser.sampler, &answered);
    }
    Ok(())
}

fn to_json(job: &Job<'_>, session: &Session, sampler: &Sampler, settings: &[Setting], answered: &Answered) -> Json {
    json!({
        "model": job.source.name(),
        "prompt_tokens": job.prompt.len(),
        "prompt_ids": job.prompt,
        "tokens": answered.ids,
        "text": if job.args.show_thinking { &answered.text } else { &answered.parts.answer },
        "reasoning": Some(&answered.parts.reasoning).filter(|text| !text.is_empty()),
        "finish": answered.finish.name(),
        "seed": sampler.seed(),
        "sampling": settings_json(settings),
        "context_tokens": session.context_tokens(),
        "drafted_tokens": answered.stats.drafted_tokens,
        "accepted_tokens": answered.stats.accepted_tokens,
        "timings": timings_json(&answered.stats),
        "plan": segments_json(session.segments()),
        "takeover": session.takeover().map(|t| json!({"after_tokens": t.tokens, "reason": t.reason})),
        "prefill_plan": session.prefill_segments().map(segments_json),
    })
}

/// At most two lines of 80 columns.
fn short_summary(job: &Job<'_>, session: &Session, sampler: &Sampler, answered: &Answered) {
    let stats = &answered.stats;
    let backends = session.segments().map(|(segment, _)| segment.backend);
    let prefill = session.prefill_segments().into_iter().flatten().map(|(segment, _)| segment.backend);
    let backends: Vec<BackendKind> = backends.chain(prefill).collect();
    let place = match (backends.contains(&BackendKind::Cpu), backends.contains(&BackendKind::Gpu)) {
        (true, true) => "CPU and GPU",
        (false, true) => "GPU",
        _ => "CPU",
    };
    let ending = match answered.finish {
        Finish::EndToken(_) | Finish::StopString(_) | Finish::Complete => String::new(),
        _ => format!(", {}", ending(&answered.finish)),
    };
    let speed = |rate: Option<f64>| rate.map_or_else(String::new, |_| format!(" at {}/s", format::rate(rate)));
    let answer = format::count(stats.generated_tokens, "token") + &speed(stats.decode_rate());
    let prompt = stats.prompt_tokens.to_string() + &speed(stats.prefill_rate());
    output::note(format_args!("\n{answer} on {place} (prompt: {prompt}){ending}"));
    if job.args.model.model.is_none() {
        output::note(format_args!("only a toy; a real model: bitnet-gpu chat {RECOMMENDED}"));
    } else if answered.reasoning_tokens > 0 && !job.args.show_thinking {
        let thought = format::count(answered.reasoning_tokens, "token");
        output::note(format_args!("{thought} of thinking left out (--show-thinking)"));
    } else if !sampler.is_greedy() {
        output::note(format_args!("seed {}; --stats says more", sampler.seed()));
    }
}

/// The model that a first run names: a small one that answers well.
const RECOMMENDED: &str = "microsoft/BitNet-b1.58-2B-4T-gguf";

fn summary(job: &Job<'_>, session: &Session, sampler: &Sampler, settings: &[Setting], answered: &Answered) {
    let stats = &answered.stats;
    let trained = job.model.config.context;
    let limited = if session.context_tokens() < trained {
        format!(" of the model's {trained} (-c 0: all)")
    } else {
        String::new()
    };
    output::note(format_args!("\nmodel    {}, context {}{limited}", job.source.name(), session.context_tokens()));
    for (segment, device) in session.prefill_segments().into_iter().flatten() {
        output::note(format_args!("prompt   {}", segment_line(segment, device)));
    }
    for (segment, device) in session.segments() {
        output::note(format_args!("backend  {}", segment_line(segment, device)));
    }
    output::note(format_args!(
        "prompt   {}, {} tok/s ({})",
        format::count(stats.prompt_tokens, "token"),
        format::rate(stats.prefill_rate()),
        format::duration(stats.prefill)
    ));
    let quantile = |q| stats.latency_quantile(q).map_or_else(|| "-".into(), format::duration);
    output::note(format_args!(
        "answer   {}, {} tok/s (p50 {}, p95 {} a token), {}",
        format::count(stats.generated_tokens, "token"),
        format::rate(stats.decode_rate()),
        quantile(0.5),
        quantile(0.95),
        ending(&answered.finish)
    ));
    if answered.reasoning_tokens > 0 {
        let thought = format::count(answered.reasoning_tokens, "token");
        let hidden = if job.args.show_thinking { "" } else { ", not shown (--show-thinking)" };
        output::note(format_args!("thinking {thought} of these{hidden}"));
    }
    if stats.drafted_tokens > 0 {
        let drafts = format::count(stats.drafted_tokens, "token");
        output::note(format_args!("drafts   {drafts} guessed, {} right", stats.accepted_tokens));
    }
    if !sampler.is_greedy() {
        output::note(format_args!("sampling {}", settings_text(settings)));
        output::note(format_args!("seed     {}", sampler.seed()));
    }
}

fn ending(finish: &Finish) -> String {
    match finish {
        Finish::EndToken(_) => "ended by the model".into(),
        Finish::StopString(stop) => format!("ended by the stop text {stop:?}"),
        Finish::Complete => "ended by the grammar".into(),
        Finish::MaxTokens => "ended by -n".into(),
        Finish::ContextFull => "ended by the context (-c)".into(),
        Finish::Cancelled if interrupt::is_last() => "ended by a signal".into(),
        Finish::Cancelled => "ended by Ctrl-C".into(),
    }
}
