//! `run --bench`: the same prompt on the CPU, on the GPU and as `auto` decides, in one table.

use std::time::{Duration, Instant};

use bitnet_cpu_kernels::Isa;
use serde_json::{Value as Json, json};

use super::{
    agreement::Agreement,
    answering::{Answered, Job, answer, timings_json},
    chart::{self, Bar, Chart},
    engine::{segment_line, segments_json},
    format::{self, Spread},
    interrupt, output,
};
use crate::{
    backend::{cpu, energy},
    engine::{EngineOptions, Purpose},
    error::{Error, Result},
    generate::{AnswerOptions, Chooser, Drafter, SampleOptions, Sampler, Stats},
    plan::Request,
};

/// The answer's length where `-n` is absent.
const DEFAULT_TOKENS: usize = 128;
/// Greedy, where `--temp` is absent: the tokens of both backends can then be compared.
const DEFAULT_TEMPERATURE: f32 = 0.0;
/// Answers of a row, which show how much its rates vary; fewer where they take longer than [`ENOUGH`].
const ANSWERS: usize = 3;
const ENOUGH: Duration = Duration::from_secs(30);
/// Tokens of the unmeasured first answer: drivers compile shaders then, and weights are read from disk.
const WARM_UP_TOKENS: usize = 2;

/// A row of the table.
struct Row {
    backend: &'static str,
    outcome: Result<Run>,
}

struct Run {
    devices: String,
    plan: Vec<Json>,
    memory_bytes: u64,
    /// Energy of the processor's package for a token, prompt and answer together; `None` where the machine does not tell.
    millijoules_per_token: Option<f64>,
    /// The segments with their reasons, a line each.
    placement: String,
    /// The first answer, which the others repeat.
    answered: Answered,
    /// Tokens of the prompt a second, and tokens of the answer, of each answer.
    prefill_rates: Vec<f64>,
    decode_rates: Vec<f64>,
}

pub fn run(job: &Job<'_>) -> Result<()> {
    let args = job.args;
    output::check_new("--plot", args.plot.as_deref())?;
    let context = job.engine.context_tokens()?;
    let on_gpu = match args.engine.request() {
        Request::GpuLayers(n) => Request::GpuLayers(n),
        Request::Auto | Request::Cpu | Request::Gpu => Request::Gpu,
    };
    let mut options = args.sample.options(job.source.recommended(), job.source.tokenizer()?, job.model.config.vocab)?;
    if args.sample.temp.is_none() {
        options.temperature = DEFAULT_TEMPERATURE;
    }
    options.seed = Some(Sampler::new(options.clone(), context)?.seed());
    let mut rows = Vec::new();
    for (backend, request) in [("CPU", Request::Cpu), ("GPU", on_gpu), ("auto", Request::Auto)] {
        let outcome = measure(job, request, &options);
        match outcome {
            // A machine without a GPU still gets its figures for the CPU.
            Ok(_) | Err(Error::NoAdapter { .. }) => rows.push(Row { backend, outcome }),
            Err(error) => return Err(error),
        }
        if interrupt::raised() {
            break;
        }
    }
    if let Some(path) = &args.plot {
        chart::save(path, &chart::heading(job.source.name()), &charts(&rows))?;
    }
    if args.json { output::print_json(&to_json(job, &rows)) } else { output::print(&to_text(job, &rows, context)) }
}

/// The rates of the rows that ran.
fn charts(rows: &[Row]) -> [Chart; 2] {
    let bars = |rates: fn(&Run) -> &[f64]| {
        let ran = rows.iter().filter_map(|row| Some((row.backend, rates(row.outcome.as_ref().ok()?))));
        let mean = |rates: &[f64]| if rates.is_empty() { 0.0 } else { Spread::of(rates).mean };
        ran.map(|(label, rates)| Bar { label: label.to_owned(), value: mean(rates) }).collect()
    };
    [
        Chart { title: "prefill, tok/s".into(), bars: bars(|run| &run.prefill_rates) },
        Chart { title: "decode, tok/s".into(), bars: bars(|run| &run.decode_rates) },
    ]
}

fn measure(job: &Job<'_>, request: Request, sample: &SampleOptions) -> Result<Run> {
    let options = EngineOptions { request, failover: false, mtp: false, ..job.engine.options().clone() };
    let mut session = job.engine.with_options(options).load(&Purpose::Sample(sample))?;
    let max_tokens = if job.args.answer.n_predict.is_some() { job.options.max_tokens } else { Some(DEFAULT_TOKENS) };
    let mut one = |max_tokens| {
        // Each token alone: what is compared is the speed of a step.
        let drafter = Some(Drafter::new(Some(0)));
        let sampler = Sampler::new(sample.clone(), session.context_tokens())?;
        let mut chooser = Chooser { sampler, drafter, constraint: job.args.grammar.constraint(&job.tokenizer)? };
        let options = AnswerOptions { max_tokens, ..job.options.clone() };
        session.truncate(0)?;
        answer(&job.tokenizer, &job.prompt, &mut session, &mut chooser, options, |_| Ok(()))
    };
    one(Some(WARM_UP_TOKENS))?;
    let (begun, before) = (Instant::now(), energy::Package::read());
    let mut answers = vec![one(max_tokens)?];
    while answers.len() < ANSWERS && begun.elapsed() < ENOUGH && !interrupt::raised() {
        answers.push(one(max_tokens)?);
    }
    let millijoules = before.and_then(|before| before.millijoules_since());
    let tokens = |Answered { stats, .. }: &Answered| stats.computed_tokens() + stats.latencies.len();
    let tokens = answers.iter().map(tokens).sum::<usize>().max(1) as f64;
    let rates = |rate: fn(&Stats) -> Option<f64>| answers.iter().filter_map(|answer| rate(&answer.stats)).collect();
    let (prefill_rates, decode_rates) = (rates(Stats::prefill_rate), rates(Stats::decode_rate));
    let demand = cpu::demand(Isa::detect(), &job.engine.kernels()?, &job.model, session.sizes());
    let segments = || session.segments();
    Ok(Run {
        devices: segments().map(|(_, device)| device).collect::<Vec<_>>().join(" + "),
        plan: segments_json(segments()),
        memory_bytes: segments().map(|(s, _)| demand.segment_bytes(s.layers.clone(), s.embed, s.head)).sum(),
        millijoules_per_token: millijoules.map(|all| all / tokens),
        placement: segments().map(|(s, device)| format!("  {}\n", segment_line(s, device))).collect(),
        answered: answers.swap_remove(0),
        prefill_rates,
        decode_rates,
    })
}

/// How the tokens of the later rows compare with those of the first, the CPU's.
fn agreements(rows: &[Row]) -> Vec<(&'static str, Agreement)> {
    let mut ran = rows.iter().filter_map(|row| Some((row.backend, &row.outcome.as_ref().ok()?.answered.ids)));
    let Some((_, first)) = ran.next() else { return Vec::new() };
    ran.map(|(backend, ids)| (backend, Agreement::of(first, ids))).collect()
}

fn to_text(job: &Job<'_>, rows: &[Row], context: usize) -> String {
    let heading = [
        "backend",
        "prefill tok/s",
        "decode tok/s",
        "ms/token p50",
        "ms/token p95",
        "tokens",
        "memory",
        "mJ/token",
        "head rows",
    ];
    let mut table = vec![heading.map(String::from).to_vec()];
    let mut absent = String::new();
    for row in rows {
        match &row.outcome {
            Ok(run) => {
                let stats = &run.answered.stats;
                let ms = |q| {
                    stats.latency_quantile(q).map_or_else(|| "-".into(), |t| format!("{:.2}", format::milliseconds(t)))
                };
                table.push(vec![
                    format!("{}: {}", row.backend, run.devices),
                    format::rates(&run.prefill_rates),
                    format::rates(&run.decode_rates),
                    ms(0.5),
                    ms(0.95),
                    stats.generated_tokens.to_string(),
                    format::bytes(run.memory_bytes),
                    run.millijoules_per_token.map_or_else(|| "-".into(), |mj| format!("{mj:.1}")),
                    stats.head_rows_per_step().map_or_else(|| "-".into(), |rows| format!("{rows:.0}")),
                ]);
            }
            Err(reason) => absent += &format!("{}: {reason}\n", row.backend),
        }
    }
    let mut verdict = String::new();
    for (backend, agreement) in agreements(rows) {
        verdict += &agreement.to_text("the CPU", backend);
    }
    if let Some(Row { outcome: Ok(auto), .. }) = rows.iter().find(|row| row.backend == "auto") {
        verdict += &format!("auto:\n{}", auto.placement);
    }
    let charts: String = charts(rows).iter().map(Chart::to_text).collect();
    format!(
        "{}, {} of prompt, context {}; memory: weights, cache and buffers, computed; head rows: of {}, in full for a token\n{}{absent}{verdict}{charts}",
        job.source.name(),
        format::count(job.prompt.len(), "token"),
        context,
        job.model.config.vocab,
        format::table(&table)
    )
}

fn to_json(job: &Job<'_>, rows: &[Row]) -> Json {
    let runs: Vec<Json> = rows
        .iter()
        .map(|row| match &row.outcome {
            Err(reason) => json!({"backend": row.backend.to_lowercase(), "error": reason.to_string()}),
            Ok(run) => json!({
                "backend": row.backend.to_lowercase(),
                "device": run.devices,
                "plan": run.plan,
                "memory_bytes": run.memory_bytes,
                "millijoules_per_token": run.millijoules_per_token,
                "prefill_rates": run.prefill_rates,
                "decode_rates": run.decode_rates,
                "tokens": run.answered.ids,
                "text": run.answered.text,
                "finish": run.answered.finish.name(),
                "timings": timings_json(&run.answered.stats),
            }),
        })
        .collect();
    let agreements = agreements(rows);
    let first_difference = agreements.iter().filter_map(|(_, agreement)| agreement.first_difference()).min();
    // Nothing can be said of one row.
    let tokens_equal = (!agreements.is_empty()).then_some(first_difference.is_none());
    json!({
        "model": job.source.name(),
        "prompt_tokens": job.prompt.len(),
        "runs": runs,
        "tokens_equal": tokens_equal,
        "first_difference": first_difference,
    })
}
