//! `verify`: whether the GPU computes what the CPU computes, with a report to paste.

use serde_json::json;

use super::{
    args::{NO_DEVICE, VerifyArgs},
    format, input, machine, output, source, usage,
};
use crate::{
    backend::gpu::{DeviceChoice, GpuBackend, OpenOptions},
    engine::{Engine, EngineOptions, ModelFile},
    error::{Error, Result},
    verify::{self, BOUND, Subject},
};

const DEFAULT_PROMPTS: [&str; 3] =
    ["Once upon a time", "The capital of France is", "One, two, three, four, five, six, seven, eight, nine,"];

/// Length of a prompt for a model without a tokenizer.
const ID_PROMPT_TOKENS: usize = 9;

/// Faults listed in the report; a wrong kernel makes hundreds.
const SHOWN_FAULTS: usize = 20;

pub fn run(args: &VerifyArgs) -> Result<()> {
    let source = source::open(&args.model)?;
    let model = source.model()?;
    let prompts = prompts(args, &source, model.config.vocab)?;
    let context = model.config.context;
    let answer_tokens = args.n_predict as usize;
    if let Some(needed) = prompts.iter().map(|ids| ids.len() + answer_tokens).find(|&needed| needed > context) {
        return Err(Error::ContextFull { needed, context });
    }
    if args.device.as_deref() == Some(NO_DEVICE) {
        return Err(usage("without a device there is nothing to compare", "bitnet-gpu verify --device 0"));
    }
    let device = args.device.as_deref().map(DeviceChoice::from);
    let backend = GpuBackend::open(&OpenOptions { software_allowed: true, device, ..OpenOptions::default() })?;
    backend.gpu().notes().iter().for_each(|note| log::warn!("{note}"));
    let caps = backend.gpu().caps();
    let options = EngineOptions { kernel: args.kernel.forced(), ..EngineOptions::default() };
    let kernels = Engine::new(&source, options).kernels()?;
    let subject = Subject { cpu: model, gpu: model, kernels: &kernels };
    let told = |part: &str| log::info!("{part}");
    let report = verify::run(subject, backend.gpu(), machine::cores().threads, &prompts, answer_tokens, told)?;
    let passed = report.faults.is_empty();
    if args.json {
        output::print_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "model": source.name(),
            "gpu": {"name": caps.name, "backend": caps.backend, "driver": caps.driver},
            "products": report.products,
            "layer_differences": report.layers,
            "logit_difference": report.logits,
            "bound": BOUND,
            "tokens": report.tokens,
            "equal_tokens": report.equal_tokens,
            "faults": report.faults,
            "passed": passed,
        }))?;
    } else {
        let worst = report.layers.iter().copied().fold(0.0, f64::max);
        let mut text = format!(
            "bitnet-gpu {}, {}\nCPU against {}\n\
             products  {} whole numbers compared\nlayers    {}: outputs differ by at most {worst:.1e} (bound {BOUND})\n\
             logits    differ by at most {:.1e} (bound {BOUND})\ntokens    {} of {} equal\n",
            env!("CARGO_PKG_VERSION"),
            source.name().escape_debug(),
            caps.to_string().escape_debug(),
            report.products,
            report.layers.len(),
            report.logits,
            report.equal_tokens,
            report.tokens,
        );
        for fault in report.faults.iter().take(SHOWN_FAULTS) {
            text += &format!("FAULT     {fault}\n");
        }
        text += if passed { "passed\n" } else { "FAILED\n" };
        output::print(&text)?;
    }
    if passed {
        return Ok(());
    }
    let faults = format::count(report.faults.len(), "fault");
    Err(Error::unsupported(format!("{} on this machine", caps.name), format!("{faults} found: use --backend cpu")))
}

/// One to a line. A model without a tokenizer is given ids instead.
fn prompts(args: &VerifyArgs, source: &ModelFile, vocab: usize) -> Result<Vec<Vec<u32>>> {
    let text = match &args.prompts {
        Some(path) => input::text(None, Some(path))?.unwrap_or_default(),
        None => DEFAULT_PROMPTS.join("\n"),
    };
    let tokenizer = match source.tokenizer() {
        Err(error) if args.prompts.is_none() => {
            log::warn!("prompts made of token ids are used: {error}");
            let ids = |start: usize| (0..ID_PROMPT_TOKENS).map(|i| ((start + i * 7919) % vocab) as u32).collect();
            return Ok((0..DEFAULT_PROMPTS.len()).map(ids).collect());
        }
        tokenizer => tokenizer?,
    };
    let prompts = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| tokenizer.encode_prompt(line))
        .collect::<Result<Vec<_>>>()?;
    if prompts.is_empty() {
        return Err(usage("no prompts: one to a line", "bitnet-gpu verify -m model.gguf --prompts prompts.txt"));
    }
    Ok(prompts)
}
