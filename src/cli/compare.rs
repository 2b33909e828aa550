//! `run --bench`: the same prompt on the CPU and on the GPU, in one table.

use serde_json::{Value as Json, json};

use super::{
    engine::segments_json,
    format, interrupt, output,
    run::{Answered, Job, answer, timings_json},
};
use crate::{
    error::{Error, Result},
    generate::{AnswerOptions, Sampler},
    plan::{Demand, Request, Sizes},
};

/// The answer's length where `-n` is absent.
const DEFAULT_TOKENS: usize = 128;
/// Greedy, where `--temp` is absent: the tokens of both backends can then be compared.
const DEFAULT_TEMPERATURE: f32 = 0.0;
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
    answered: Answered,
}

pub fn run(job: &Job<'_>) -> Result<()> {
    let args = job.args;
    let sizes = job.engine.sizes(&args.engine)?;
    let on_gpu = match args.engine.request() {
        Request::GpuLayers(n) => Request::GpuLayers(n),
        Request::Auto | Request::Cpu | Request::Gpu => Request::Gpu,
    };
    let mut options = args.sample.options(DEFAULT_TEMPERATURE);
    options.seed = Some(Sampler::new(options.clone(), sizes.context_tokens)?.seed());
    let mut rows = Vec::new();
    for (backend, request) in [("CPU", Request::Cpu), ("GPU", on_gpu)] {
        let sampler = Sampler::new(options.clone(), sizes.context_tokens)?;
        let outcome = measure(job, request, sizes, sampler);
        match outcome {
            // A machine without a GPU still gets its figures for the CPU.
            Ok(_) | Err(Error::NoAdapter { .. }) => rows.push(Row { backend, outcome }),
            Err(error) => return Err(error),
        }
        if interrupt::raised() {
            break;
        }
    }
    if args.json { output::print_json(&to_json(job, &rows)) } else { output::print(&to_text(job, &rows, sizes)) }
}

fn measure(job: &Job<'_>, request: Request, sizes: Sizes, mut sampler: Sampler) -> Result<Run> {
    let mut session = job.engine.load(&job.args.engine, request, sizes)?;
    let max_tokens = if job.args.n_predict.is_some() { job.options.max_tokens } else { Some(DEFAULT_TOKENS) };
    let options = |max_tokens| AnswerOptions { max_tokens, ..job.options.clone() };
    answer(&job.tokenizer, &job.prompt, &mut session, &mut sampler, options(Some(WARM_UP_TOKENS)), |_| Ok(()))?;
    session.truncate(0);
    let answered = answer(&job.tokenizer, &job.prompt, &mut session, &mut sampler, options(max_tokens), |_| Ok(()))?;
    let demand = Demand::of(&job.engine.model, &sizes);
    let segments = || session.segments();
    Ok(Run {
        devices: segments().map(|(_, device)| device).collect::<Vec<_>>().join(" + "),
        plan: segments_json(segments()),
        memory_bytes: segments().map(|(segment, _)| demand.bytes_of(segment)).sum(),
        answered,
    })
}

/// How the second row's tokens compare with the first's.
fn agreement(rows: &[Row]) -> Option<Agreement> {
    let [Row { outcome: Ok(first), .. }, Row { outcome: Ok(second), .. }] = rows else { return None };
    Some(compare(&first.answered.ids, &second.answered.ids))
}

#[derive(Debug, PartialEq)]
enum Agreement {
    Equal(usize),
    Differs { at: usize, first: Option<u32>, second: Option<u32> },
}

fn compare(first: &[u32], second: &[u32]) -> Agreement {
    let at = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    match (first.get(at).copied(), second.get(at).copied()) {
        (None, None) => Agreement::Equal(at),
        (first, second) => Agreement::Differs { at, first, second },
    }
}

fn to_text(job: &Job<'_>, rows: &[Row], sizes: Sizes) -> String {
    let heading = ["backend", "prefill tok/s", "decode tok/s", "ms/token p50", "ms/token p95", "tokens", "memory"];
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
                    run.devices.clone(),
                    format::rate(stats.prefill_rate()),
                    format::rate(stats.decode_rate()),
                    ms(0.5),
                    ms(0.95),
                    stats.generated_tokens.to_string(),
                    format::bytes(run.memory_bytes),
                ]);
            }
            Err(reason) => absent += &format!("{}: {reason}\n", row.backend),
        }
    }
    let verdict = match agreement(rows) {
        None => String::new(),
        Some(Agreement::Equal(count)) => format!("tokens: equal ({count} of {count})\n"),
        Some(Agreement::Differs { at, first, second }) => {
            let token = |id: Option<u32>| id.map_or_else(|| "the end".into(), |id| format!("id {id}"));
            format!(
                "tokens: equal up to token {at}, then {} on the CPU and {} on the GPU\n",
                token(first),
                token(second)
            )
        }
    };
    format!(
        "{}, {} of prompt, context {}; memory: weights, cache and buffers, computed\n{}{absent}{verdict}",
        job.source.name,
        format::count(job.prompt.len(), "token"),
        sizes.context_tokens,
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
                "tokens": run.answered.ids,
                "text": run.answered.text,
                "finish": run.answered.finish.name(),
                "timings": timings_json(&run.answered.stats),
            }),
        })
        .collect();
    json!({
        "model": job.source.name,
        "prompt_tokens": job.prompt.len(),
        "runs": runs,
        "tokens_equal": agreement(rows).map(|a| matches!(a, Agreement::Equal(_))),
        "first_difference": agreement(rows).and_then(|a| match a {
            Agreement::Equal(_) => None,
            Agreement::Differs { at, .. } => Some(at),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(compare(&[1, 2, 3], &[1, 2, 3]), Agreement::Equal(3));
        assert_eq!(compare(&[], &[]), Agreement::Equal(0));
        let differs = |at, first, second| Agreement::Differs { at, first, second };
        assert_eq!(compare(&[1, 2, 3], &[1, 9, 3]), differs(1, Some(2), Some(9)));
        assert_eq!(compare(&[1, 2], &[1, 2, 3]), differs(2, None, Some(3)));
    }
}
