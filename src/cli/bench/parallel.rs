//! `bench -np`: prompts and answers of several sequences side by side, with the columns of llama-batched-bench.
//!
//! All sequences begin at once. Their prompts are read one after the other, then every step decodes a token of each.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::{
    super::{
        args::{BenchArgs, BenchFormat},
        format, interrupt, output,
    },
    engine_options, measure,
    report::{self, ModelFacts},
    table::Table,
};
use crate::{
    backend::Want,
    engine::{Engine, ModelFile, Purpose},
    error::{Error, Result},
    generate::SampleOptions,
    model::Model,
    numbers::median,
    session::{Phase, Runtime, Sequence, Work},
};

/// A test of so many sequences, each with a prompt and an answer.
#[derive(Clone, Copy)]
struct Test {
    sequences: usize,
    prompt_tokens: usize,
    answer_tokens: usize,
}

/// One line of the report; times are medians of the repetitions.
struct Row {
    device: String,
    threads: usize,
    test: Test,
    times: Times,
}

/// Times of one repetition.
#[derive(Clone, Default)]
struct Times {
    /// All prompts.
    prompts: Duration,
    /// All answers.
    answers: Duration,
    /// From the beginning to the logits behind each prompt, the fastest first.
    first_tokens: Vec<Duration>,
}

const HEADING: [&str; 13] = [
    "PP",
    "TG",
    "B",
    "N_KV",
    "T_PP s",
    "S_PP t/s",
    "T_TG s",
    "S_TG t/s",
    "T s",
    "S t/s",
    "first token ms mean max",
    "backend",
    "threads",
];

fn most(of: &[u32]) -> usize {
    of.iter().copied().max().unwrap_or(0) as usize
}

pub fn run(args: &BenchArgs, source: &ModelFile) -> Result<()> {
    let model = source.model()?;
    let context = (most(&args.n_prompt) + most(&args.n_gen)).max(1);
    let facts = ModelFacts::new(source, model);
    if args.output == BenchFormat::Md {
        output::print(&format!("{}\n", facts.name()))?;
    }
    let mut table = Table::new(args.output, &HEADING);
    let ran = run_all(args, source, model, context, |row| table.add(&row.cells(), &row.to_json(&facts)));
    table.end()?;
    ran
}

/// Hands every row to `add` as soon as it is measured. Ctrl-C ends it early.
fn run_all(
    args: &BenchArgs,
    source: &ModelFile,
    model: &Model,
    context: usize,
    mut add: impl FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let greedy = SampleOptions::greedy();
    for &backend in &args.backend {
        for &threads in &args.threads {
            for &kernel in &args.kernel {
                let mut options = engine_options(args, backend, (threads, kernel), context);
                options.sequences = most(&args.parallel);
                let threads = options.thread_count();
                let mut runtime = Engine::new(source, options).runtime(&Purpose::Sample(&greedy))?;
                for test in tests(args) {
                    let times = match measured(&mut runtime, model, test, args.repetitions as usize) {
                        Ok(Some(times)) => times,
                        Ok(None) | Err(Error::Cancelled) => return Ok(()),
                        Err(error) => return Err(error),
                    };
                    add(&Row { device: runtime.devices(), threads, test, times })?;
                }
            }
        }
    }
    Ok(())
}

/// Every length of a prompt with every length of an answer and every number of sequences.
fn tests(args: &BenchArgs) -> impl Iterator<Item = Test> {
    let lengths = args.n_prompt.iter().flat_map(|&pp| args.n_gen.iter().map(move |&tg| (pp as usize, tg as usize)));
    lengths.filter(|&(pp, tg)| pp + tg > 0).flat_map(|(prompt_tokens, answer_tokens)| {
        let test = move |&np: &u32| Test { sequences: np as usize, prompt_tokens, answer_tokens };
        args.parallel.iter().map(test)
    })
}

/// Medians of `repetitions` behind one to warm up; `None` where Ctrl-C was pressed.
fn measured(runtime: &mut Runtime, model: &Model, test: Test, repetitions: usize) -> Result<Option<Times>> {
    runtime.cancel_when(Some(interrupt::catch()));
    once(runtime, model, test)?;
    let mut all = Vec::with_capacity(repetitions);
    for _ in 0..repetitions {
        if interrupt::raised() {
            return Ok(None);
        }
        all.push(once(runtime, model, test)?);
    }
    let of = |part: fn(&Times) -> Duration| median(all.iter().map(part).collect());
    let first_tokens =
        (0..all[0].first_tokens.len()).map(|at| median(all.iter().map(|t| t.first_tokens[at]).collect()));
    Ok(Some(Times {
        prompts: of(|times| times.prompts),
        answers: of(|times| times.answers),
        first_tokens: first_tokens.collect(),
    }))
}

fn once(runtime: &mut Runtime, model: &Model, test: Test) -> Result<Times> {
    // As greedy sampling asks.
    let want = if runtime.limits().most_top > 0 { Want::Top(1) } else { Want::Last };
    let mut sequences: Vec<Sequence> = (0..test.sequences).filter_map(|_| runtime.begin()).collect();
    let ran = run_sequences(runtime, model, test, want, &mut sequences);
    sequences.into_iter().for_each(|sequence| runtime.end(sequence));
    ran
}

fn run_sequences(
    runtime: &mut Runtime,
    model: &Model,
    test: Test,
    want: Want,
    sequences: &mut [Sequence],
) -> Result<Times> {
    let mut times = Times::default();
    let batch_tokens = runtime.sizes().batch_tokens;
    let start = Instant::now();
    for (number, sequence) in sequences.iter_mut().enumerate() {
        let prompt: Vec<u32> = (0..test.prompt_tokens).map(|i| measure::test_id(model, number * 31 + i)).collect();
        for ids in prompt.chunks(batch_tokens) {
            let is_last = sequence.tokens().len() + ids.len() == prompt.len();
            let want = if is_last { want } else { Want::Nothing };
            runtime.run(&mut [Work { sequence: &mut *sequence, ids, want, phase: Phase::Prefill }])?;
        }
        times.first_tokens.push(start.elapsed());
    }
    times.prompts = start.elapsed();
    let start = Instant::now();
    for step in 0..test.answer_tokens {
        let ids: Vec<u32> = (0..sequences.len()).map(|n| measure::test_id(model, 1000 + n * 31 + step)).collect();
        let rows = sequences.iter_mut().zip(ids.chunks(1));
        let mut work: Vec<_> = rows.map(|(sequence, ids)| Work { sequence, ids, want, phase: Phase::Decode }).collect();
        runtime.run(&mut work)?;
    }
    times.answers = start.elapsed();
    Ok(times)
}

impl Row {
    fn prompt_tokens(&self) -> usize {
        self.test.sequences * self.test.prompt_tokens
    }

    fn answer_tokens(&self) -> usize {
        self.test.sequences * self.test.answer_tokens
    }

    fn total(&self) -> Duration {
        self.times.prompts + self.times.answers
    }

    /// Mean and longest time to a first token; `None` without prompts.
    fn first_token(&self) -> Option<(Duration, Duration)> {
        let times = &self.times.first_tokens;
        let longest = *times.last().filter(|_| self.test.prompt_tokens > 0)?;
        Some((times.iter().sum::<Duration>() / times.len() as u32, longest))
    }

    fn cells(&self) -> Vec<String> {
        let Test { sequences, prompt_tokens, answer_tokens } = self.test;
        let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
        let speed = |tokens, time| rate(tokens, time).map_or_else(|| "-".into(), |rate| format!("{rate:.2}"));
        let first = self.first_token().map_or_else(
            || "-".into(),
            |(mean, longest)| format!("{:.0} {:.0}", format::milliseconds(mean), format::milliseconds(longest)),
        );
        vec![
            prompt_tokens.to_string(),
            answer_tokens.to_string(),
            sequences.to_string(),
            (sequences * (prompt_tokens + answer_tokens)).to_string(),
            seconds(self.times.prompts),
            speed(self.prompt_tokens(), self.times.prompts),
            seconds(self.times.answers),
            speed(self.answer_tokens(), self.times.answers),
            seconds(self.total()),
            speed(self.prompt_tokens() + self.answer_tokens(), self.total()),
            first,
            self.device.clone(),
            self.threads.to_string(),
        ]
    }

    /// llama-batched-bench's names, and the time to first token in milliseconds.
    fn to_json(&self, model: &ModelFacts) -> Json {
        let Test { sequences, prompt_tokens, answer_tokens } = self.test;
        let mut fields = model.to_json();
        let own = json!({
            "backends": self.device,
            "n_threads": self.threads,
            "n_parallel": sequences,
            "pp": prompt_tokens,
            "tg": answer_tokens,
            "pl": sequences,
            "n_kv": sequences * (prompt_tokens + answer_tokens),
            "t_pp": self.times.prompts.as_secs_f64(),
            "speed_pp": rate(self.prompt_tokens(), self.times.prompts),
            "t_tg": self.times.answers.as_secs_f64(),
            "speed_tg": rate(self.answer_tokens(), self.times.answers),
            "t": self.total().as_secs_f64(),
            "speed": rate(self.prompt_tokens() + self.answer_tokens(), self.total()),
            "ttft_ms_mean": self.first_token().map(|(mean, _)| format::milliseconds(mean)),
            "ttft_ms_max": self.first_token().map(|(_, longest)| format::milliseconds(longest)),
        });
        report::add(&mut fields, own);
        fields
    }
}

/// Tokens a second; `None` without tokens.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0).then(|| tokens as f64 / time.as_secs_f64())
}
