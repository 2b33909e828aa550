//! `bench`: llama-bench's tests and columns, and beside each figure the share of what the machine can do.
//!
//! Tokenising and sampling are not part of any figure, as in llama-bench.

mod gpu;

mod measure;

mod report;

use std::io::{self, IsTerminal};

use super::{
    agreement::Agreement,
    args::{BackendChoice, BenchArgs, BenchFormat, EngineArgs, GpuLayers, KernelChoice, Preference, ThreadsArgs},
    chart::{self, Chart},
    engine::Engine,
    interrupt, output,
    source::Source,
};
use crate::{
    error::{Error, Result},
    machine,
    plan::BackendKind,
};

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
    /// `None` for the GPU, whose ceilings are not known.
    ceilings: Option<measure::Ceilings>,
}

/// llama-bench's two kinds of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens, at once.
    Prompt(usize),
    /// So many tokens, one after the other, from an empty context.
    Generate(usize),
}

impl Test {
    fn tokens(self) -> usize {
        match self {
            Self::Prompt(n) | Self::Generate(n) => n,
        }
    }

    /// llama-bench's name: pp512, tg128.
    fn name(self) -> String {
        match self {
            Self::Prompt(n) => format!("pp{n}"),
            Self::Generate(n) => format!("tg{n}"),
        }
    }
}

pub fn run(args: &BenchArgs) -> Result<()> {
    chart::check_free(args.plot.as_deref())?;
    let source = Source::open(&args.model)?;
    let engine = Engine::new(&source)?;
    let prompts = args.n_prompt.iter().map(|&n| Test::Prompt(n as usize));
    let tests: Vec<Test> = prompts
        .chain(args.n_gen.iter().map(|&n| Test::Generate(n as usize)))
        .filter(|test| test.tokens() > 0)
        .collect();
    let context = tests.iter().map(|test| test.tokens()).max().unwrap_or(1);
    let compared = args.backend.len() > 1;
    let context = if compared { context.max(measure::COMPARED_TOKENS) } else { context };

    let mut rows = Vec::new();
    let mut first_answer: Option<Vec<u32>> = None;
    for &backend in &args.backend {
        let threads_and_kernels =
            args.threads.iter().flat_map(|&threads| args.kernel.iter().map(move |&kernel| (threads, kernel)));
        for (index, (threads, kernel)) in threads_and_kernels.enumerate() {
            // The number of threads and the kernel say nothing about a GPU.
            if backend == BackendChoice::Gpu && index > 0 {
                continue;
            }
            let options = engine_args(args, backend, (threads, kernel), context);
            let sizes = engine.sizes(&options)?;
            let mut session = match engine.load(&options, options.request(), sizes) {
                // A machine without a GPU still gets its other figures.
                Err(error @ Error::NoAdapter { .. }) if compared => {
                    log::warn!("{error}");
                    continue;
                }
                loaded => loaded?,
            };
            let agreement = match (&first_answer, compared) {
                (_, false) => None,
                (Some(first), true) => Some(Agreement::of(first, &measure::greedy(&mut session, &engine.model)?)),
                (None, true) => {
                    first_answer = Some(measure::greedy(&mut session, &engine.model)?);
                    None
                }
            };
            let on_cpu_alone = session.segments().all(|(segment, _)| segment.backend == BackendKind::Cpu);
            for &test in &tests {
                let kernels = engine.kernels(options.kernel, options.threads());
                let mut samples = measure::run(&mut session, &engine.model, &kernels, test, args.repetitions as usize)?;
                if interrupt::raised() {
                    return Ok(());
                }
                let gpu = gpu::costs(&mut session, &engine.model, test, args.profile, &samples)?;
                let threads = on_cpu_alone.then(|| options.threads());
                if let (Test::Prompt(tokens), Some(threads)) = (test, threads) {
                    let tokens = tokens.min(args.batch_size as usize);
                    samples.ternary_rate = Some(measure::ternary_rate(&engine.model, tokens, threads));
                }
                let peak_rss_bytes = machine::peak_rss_bytes();
                rows.push(Row {
                    device: session.devices(),
                    threads,
                    test,
                    samples,
                    peak_rss_bytes,
                    gpu,
                    agreement,
                    ceilings: None,
                });
            }
        }
    }
    // Last, as it takes memory of its own.
    for &threads in &args.threads {
        let threads = engine_args(args, BackendChoice::Cpu, (threads, KernelChoice::Auto), context).threads();
        let rows: Vec<&mut Row> = rows.iter_mut().filter(|row| row.threads == Some(threads)).collect();
        if !rows.is_empty() {
            let ceilings = measure::ceilings(threads);
            rows.into_iter().for_each(|row| row.ceilings = Some(ceilings));
        }
    }
    let charts = report::charts(&tests, &rows);
    if let Some(path) = &args.plot {
        chart::save(path, &charts)?;
    }
    let model = report::ModelFacts::new(&source, &engine.model);
    let mut text = report::render(args.output, &model, &rows);
    // For people; who reads the table by program gets the table alone.
    if args.output == BenchFormat::Md && io::stdout().is_terminal() {
        text.extend(charts.iter().map(Chart::to_text));
    }
    output::print(&text)
}

/// The flags of one combination.
fn engine_args(
    args: &BenchArgs,
    backend: BackendChoice,
    (threads, kernel): (i64, KernelChoice),
    context: usize,
) -> EngineArgs {
    EngineArgs {
        backend,
        prefer: Preference::Speed,
        n_gpu_layers: GpuLayers::Auto,
        gpu_memory: args.gpu_memory,
        kernel,
        threads: ThreadsArgs { threads },
        ctx_size: Some(context as u32),
        batch_size: args.batch_size,
        cache_type_k: args.cache_type_k,
        cache_type_v: args.cache_type_v,
        head_screen: args.head_screen,
    }
}
