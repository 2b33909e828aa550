//! `bench`: llama-bench's tests and columns, and beside each figure the share of what the machine can do.
//!
//! Tokenising and sampling are not part of any figure, as in llama-bench.

mod ceilings;

mod gpu;

mod measure;

mod parallel;

mod report;

mod table;

use std::io::{self, IsTerminal};

use ceilings::Probe;

use super::{
    agreement::Agreement,
    args::{BackendChoice, BenchArgs, BenchFormat, KernelChoice, NO_DEVICE, ThreadsArgs},
    chart::{self, Chart},
    error_text, interrupt, output, source, usage,
};
use crate::{
    engine::{Engine, EngineOptions, Purpose},
    error::{Error, Result},
    generate::SampleOptions,
    machine,
    plan::{BackendKind, Request},
};
use report::{ModelFacts, Report};

/// One line of the report: what was run, and how often it took how long.
pub struct Row {
    /// The devices that computed, in the order of the layers.
    device: String,
    /// `None` where the CPU has no part.
    threads: Option<usize>,
    test: Test,
    samples: measure::Samples,
    /// The most memory held until this test had ended.
    peak_rss_bytes: Option<u64>,
    /// `None` where no GPU has a part.
    gpu: Option<gpu::Costs>,
    /// How the greedy tokens of these devices compare with those of the first row's; `None` for the first.
    agreement: Option<Agreement>,
}

/// llama-bench's two kinds of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A prompt, all tokens at once.
    Prompt,
    /// Tokens one after the other.
    Generate,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    kind: Kind,
    tokens: usize,
    /// Tokens that stand before them in the context, in no figure.
    depth: usize,
}

impl Test {
    /// llama-bench's name: pp512, tg128, tg128 @ d4096.
    fn name(self) -> String {
        let Self { kind, tokens, depth } = self;
        let name = match kind {
            Kind::Prompt => "pp",
            Kind::Generate => "tg",
        };
        if depth == 0 { format!("{name}{tokens}") } else { format!("{name}{tokens} @ d{depth}") }
    }
}

pub fn run(args: &BenchArgs) -> Result<()> {
    output::check_new("--plot", args.plot.as_deref())?;
    if args.device.as_deref() == Some(NO_DEVICE) && args.backend.contains(&BackendChoice::Gpu) {
        return Err(usage("without a device there is no GPU to measure", "bitnet-gpu bench --backend gpu --device 0"));
    }
    let source = source::open(&args.model)?;
    if !args.parallel.is_empty() {
        return parallel::run(args, &source);
    }
    let model = source.model()?;
    let lengths = |kind, lengths: &[u32]| -> Vec<(Kind, u32)> { lengths.iter().map(|&n| (kind, n)).collect() };
    let kinds = [lengths(Kind::Prompt, &args.n_prompt), lengths(Kind::Generate, &args.n_gen)].concat();
    let tests: Vec<Test> = args
        .n_depth
        .iter()
        .flat_map(|&depth| kinds.iter().map(move |&(kind, tokens)| (kind, tokens as usize, depth as usize)))
        .filter(|&(_, tokens, _)| tokens > 0)
        .map(|(kind, tokens, depth)| Test { kind, tokens, depth })
        .collect();
    let context = tests.iter().map(|test| test.depth + test.tokens).max().unwrap_or(1);
    let compared = args.backend.len() > 1;
    let context = if compared { context.max(measure::COMPARED_TOKENS) } else { context };

    let mut table = Report::new(args.output, ModelFacts::new(&source, model));
    let mut failed = None;
    let mut first_answer: Option<Vec<u32>> = None;
    for &backend in &args.backend {
        if interrupt::raised() {
            break;
        }
        let threads_and_kernels =
            args.threads.iter().flat_map(|&threads| args.kernel.iter().map(move |&kernel| (threads, kernel)));
        for (index, (threads, kernel)) in threads_and_kernels.enumerate() {
            // The number of threads and the kernel say nothing about a GPU.
            if backend == BackendChoice::Gpu && index > 0 {
                continue;
            }
            let options = engine_options(args, backend, (threads, kernel), context);
            let engine = Engine::new(&source, options);
            let measured = measure_all(&engine, args, &tests, compared, &mut first_answer, &mut table);
            match measured {
                // What was measured before stays.
                Err(Error::Cancelled) => break,
                // Its other rows are lost, and not those of other devices.
                Err(error) if compared && !output::is_closed_pipe(&error) => {
                    log::warn!("{}", error_text(&error));
                    // A machine without a GPU still gets its other figures.
                    if !matches!(error, Error::NoAdapter { .. }) {
                        failed = Some(error);
                    }
                }
                measured => measured?,
            }
            if interrupt::raised() {
                break;
            }
        }
    }
    table.end()?;
    let charts = report::charts(&tests, table.rows());
    // For people; who reads the table by program gets the table alone.
    if args.output == BenchFormat::Md && io::stdout().is_terminal() && !table.rows().is_empty() {
        output::print(&charts.iter().map(Chart::to_text).collect::<String>())?;
    }
    if let Some(path) = args.plot.as_ref().filter(|_| !table.rows().is_empty()) {
        chart::save(path, &chart::heading(table.model().name()), &charts)?;
    }
    match failed {
        // Said above, and nothing was measured that could stand.
        Some(error) if table.rows().is_empty() => Err(error),
        _ => Ok(()),
    }
}

/// All tests with one combination of options, whose rows are in the table as soon as they are measured.
fn measure_all(
    engine: &Engine,
    args: &BenchArgs,
    tests: &[Test],
    compared: bool,
    first_answer: &mut Option<Vec<u32>>,
    table: &mut Report,
) -> Result<()> {
    let model = engine.model()?;
    let threads = engine.options().thread_count();
    let mut session = engine.load(&Purpose::Sample(&SampleOptions::greedy()))?;
    let agreement = match (&*first_answer, compared) {
        (_, false) => None,
        (Some(first), true) => Some(Agreement::of(first, &measure::greedy(&mut session, model)?)),
        (None, true) => {
            *first_answer = Some(measure::greedy(&mut session, model)?);
            None
        }
    };
    let on_cpu_alone = session.segments().all(|(segment, _)| segment.backend == BackendKind::Cpu);
    for &test in tests {
        let kernels = engine.kernels()?;
        let probe = on_cpu_alone.then(|| Probe::new(threads, measure::cpu_weights(&mut session)));
        let repetitions = args.repetitions as usize;
        let mut samples = measure::run(&mut session, model, &kernels, test, repetitions, probe)?;
        if interrupt::raised() {
            return Ok(());
        }
        let gpu = gpu::costs(&mut session, model, test, args.profile, &samples)?;
        let threads = on_cpu_alone.then_some(threads);
        if let (Kind::Prompt, Some(threads)) = (test.kind, threads) {
            let tokens = test.tokens.min(args.batch_size as usize);
            samples.ternary_rate = Some(measure::ternary_rate(model, tokens, threads)?);
        }
        let peak_rss_bytes = machine::peak_rss_bytes();
        table.add(Row { device: session.devices(), threads, test, samples, peak_rss_bytes, gpu, agreement })?;
    }
    Ok(())
}

/// The options of one combination.
fn engine_options(
    args: &BenchArgs,
    backend: BackendChoice,
    (threads, kernel): (i64, KernelChoice),
    context: usize,
) -> EngineOptions {
    let is_none = args.device.as_deref() == Some(NO_DEVICE);
    EngineOptions {
        request: if is_none { Request::Cpu } else { backend.request() },
        device: args.device.clone().filter(|_| !is_none),
        gpu_memory: args.gpu_memory,
        threads: ThreadsArgs { threads }.asked(),
        context_tokens: Some(context),
        batch_tokens: args.batch_size as usize,
        k_type: args.cache_type_k.into(),
        v_type: args.cache_type_v.into(),
        kernel: kernel.forced(),
        head: args.head_screen.into(),
        failover: false,
        ..EngineOptions::default()
    }
}
