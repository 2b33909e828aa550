//! `tune`: which kernel is fastest on which matrices of a model, for this processor. What it finds is kept for
//! `--kernel auto`.

use bitnet_cpu_kernels::Isa;
use serde_json::json;

use super::{
    args::TuneArgs,
    engine::{Engine, Source},
    format, output,
};
use crate::{
    backend::cpu::tune::{self, PROMPT_TOKENS, Timing},
    error::Result,
};

pub fn run(args: &TuneArgs) -> Result<()> {
    let source = Source::open(&args.model)?;
    let engine = Engine::new(&source)?;
    let threads = args.threads.count();
    let told = |shape: &str| log::info!("matrices of {shape}");
    let timings = tune::measure(Isa::detect(), threads, &engine.model, told)?;
    let chosen = tune::fastest(&timings);
    let kept = engine.keep_kernels(threads, &chosen);
    let is_chosen = |timing: &Timing| chosen.contains(&(timing.shape, timing.kernel));
    if args.json {
        let rows: Vec<_> = timings
            .iter()
            .map(|timing| {
                json!({
                    "rows": timing.shape.0,
                    "cols": timing.shape.1,
                    "matrices": timing.matrices,
                    "kernel": timing.kernel.name(),
                    "decode_us": microseconds(timing.decode),
                    "decode_bytes_per_s": timing.decode_bytes as f64 / timing.decode.as_secs_f64(),
                    "prompt_tokens": PROMPT_TOKENS,
                    "prompt_us": microseconds(timing.prompt),
                    "prompt_multiply_adds_per_s": prompt_rate(timing),
                    "chosen": is_chosen(timing),
                })
            })
            .collect();
        return output::print_json(&json!({
            "model": source.name,
            "variant": Isa::detect().name(),
            "n_threads": threads,
            "timings": rows,
            "kept": kept,
        }));
    }
    let prompt_heading = format!("{PROMPT_TOKENS} tokens us");
    let heading = ["shape", "matrices", "kernel", "1 token us", "GB/s", &prompt_heading, "G MAC/s", "chosen"];
    let mut table = vec![heading.map(String::from).to_vec()];
    for timing in &timings {
        table.push(vec![
            format!("{} x {}", timing.shape.0, timing.shape.1),
            timing.matrices.to_string(),
            timing.kernel.to_string(),
            format!("{:.1}", microseconds(timing.decode)),
            format!("{:.1}", timing.decode_bytes as f64 / timing.decode.as_secs_f64() / 1e9),
            format!("{:.0}", microseconds(timing.prompt)),
            format!("{:.0}", prompt_rate(timing) / 1e9),
            if is_chosen(timing) { "yes" } else { "" }.into(),
        ]);
    }
    let end = match kept {
        Some(path) => format!("kept in {path} for --kernel auto"),
        None => "not kept: there is no folder for it (BITNET_CACHE)".into(),
    };
    let (isa, threads) = (Isa::detect(), format::count(threads, "thread"));
    output::print(&format!("{}: {isa}, {threads}\n{}{end}\n", source.name, format::table(&table)))
}

fn microseconds(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Multiply-adds a second.
fn prompt_rate(timing: &Timing) -> f64 {
    (timing.shape.0 * timing.shape.1 * PROMPT_TOKENS) as f64 / timing.prompt.as_secs_f64()
}
