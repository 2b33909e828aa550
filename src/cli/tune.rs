//! `tune`: which kernel is fastest on which matrices of a model, for this processor, how best to cut their work up, and
//! with how many threads. What it finds is kept for `--kernel auto`.

use std::time::Duration;

use bitnet_cpu_kernels::Isa;
use serde_json::{Value as Json, json};

use super::{args::TuneArgs, format, output, source};
use crate::{
    backend::cpu::tune::{self, CpuTuning, PROMPT_TOKENS, TILE_TOKENS, Timing, TuningReport},
    engine::tuned,
    error::Result,
};

pub fn run(args: &TuneArgs) -> Result<()> {
    let source = source::open(&args.model)?;
    let model = source.model()?;
    let threads = args.threads.count();
    if args.forget {
        let done = tuned::forget(model, threads)?;
        return output::print(&match done {
            Some(path) => format!("removed {path}\n"),
            None => format!("{}: nothing was kept for {}\n", source.name(), format::count(threads, "thread")),
        });
    }
    let told = |shape: &str| log::info!("matrices of {shape}");
    let report = tune::measure(Isa::detect(), threads, model, told)?;
    let choice = report.choice();
    let is_kept = report.disturbed.is_empty() || args.force;
    let kept = if is_kept { tuned::keep(model, threads, &choice) } else { None };
    if args.json {
        let mut json = to_json(&report, &choice);
        json["model"] = json!(source.name());
        json["variant"] = json!(Isa::detect().name());
        json["n_threads"] = json!(threads);
        json["kept"] = json!(kept);
        let disturbed = report.disturbed.iter().map(|(rows, cols)| json!({"rows": rows, "cols": cols}));
        json["disturbed"] = disturbed.collect();
        return output::print_json(&json);
    }
    let end = match kept {
        Some(path) => format!("kept in {path} for --kernel auto"),
        None if !is_kept => disturbed_text(&report.disturbed),
        None => "not kept: there is no folder for it (BITNET_CACHE)".into(),
    };
    let (isa, threads) = (Isa::detect(), format::count(threads, "thread"));
    output::print(&format!("{}: {isa}, {threads}\n{}{end}\n", source.name(), to_text(&report, &choice)))
}

/// The reason why a measurement is not kept.
fn disturbed_text(shapes: &[(usize, usize)]) -> String {
    let shapes: Vec<String> = shapes.iter().map(|&of| shape(of)).collect();
    format!(
        "not kept: the times of {} differ from round to round, as they do where something else uses this machine \
         (measure again, or keep them with --force)",
        shapes.join(", ")
    )
}

fn is_chosen(choice: &CpuTuning, timing: &Timing) -> bool {
    choice.kernels.contains(&(timing.shape, timing.kernel))
}

fn to_json(report: &TuningReport, choice: &CpuTuning) -> Json {
    let timing = |timing: &Timing| {
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
            "chosen": is_chosen(choice, timing),
        })
    };
    let tilings: Vec<Json> = report
        .tilings
        .iter()
        .map(|times| {
            let decode = |(bytes, time): &(usize, Duration)| json!({"piece_bytes": bytes, "us": microseconds(*time)});
            let prompt = |((rows, tokens), time): &((usize, usize), Duration)| {
                json!({"tile_rows": rows, "tile_tokens": tokens, "us": microseconds(*time)})
            };
            json!({
                "rows": times.shape.0,
                "cols": times.shape.1,
                "decode": times.decode.iter().map(decode).collect::<Vec<_>>(),
                "prompt_tokens": TILE_TOKENS,
                "prompt": times.prompt.iter().map(prompt).collect::<Vec<_>>(),
                "piece_bytes": times.chosen.few_bytes(),
                "tile_rows": times.chosen.rows(),
                "tile_tokens": times.chosen.tokens(),
            })
        })
        .collect();
    let threads: Vec<Json> = report
        .threads
        .iter()
        .map(|times| {
            json!({
                "n_threads": times.threads,
                "decode_us": microseconds(times.decode),
                "prompt_tokens": TILE_TOKENS,
                "prompt_us": microseconds(times.prompt),
            })
        })
        .collect();
    json!({
        "timings": report.timings.iter().map(timing).collect::<Vec<_>>(),
        "tilings": tilings,
        "threads": threads,
        "decode_threads": choice.split.decode_threads,
        "prompt_threads": choice.split.prompt_threads,
    })
}

/// Three tables: kernels, ways to cut the work up, threads.
fn to_text(report: &TuningReport, choice: &CpuTuning) -> String {
    let us = |time: Duration| format!("{:.1}", microseconds(time));
    let mark = |yes: bool| if yes { "yes" } else { "" }.to_owned();
    let prompt_heading = format!("{PROMPT_TOKENS} tokens us");
    let heading = ["shape", "matrices", "kernel", "1 token us", "GB/s", &prompt_heading, "G MAC/s", "chosen"];
    let mut kernels = vec![heading.map(String::from).to_vec()];
    for timing in &report.timings {
        kernels.push(vec![
            shape(timing.shape),
            timing.matrices.to_string(),
            timing.kernel.to_string(),
            us(timing.decode),
            format!("{:.1}", timing.decode_bytes as f64 / timing.decode.as_secs_f64() / 1e9),
            format!("{:.0}", microseconds(timing.prompt)),
            format!("{:.0}", prompt_rate(timing) / 1e9),
            mark(is_chosen(choice, timing)),
        ]);
    }
    let many = format!("{TILE_TOKENS} tokens us");
    let heading = ["shape", "weights of a piece", "1 token us", "rows x tokens of a tile", &many, "chosen"];
    let mut tilings = vec![heading.map(String::from).to_vec()];
    for times in &report.tilings {
        let (chosen, none) = (times.chosen, String::new);
        for (bytes, time) in &times.decode {
            let piece = format!("{} KiB", bytes >> 10);
            let yes = mark(*bytes == chosen.few_bytes());
            tilings.push(vec![shape(times.shape), piece, us(*time), none(), none(), yes]);
        }
        for (tile, time) in &times.prompt {
            let yes = mark(*tile == (chosen.rows(), chosen.tokens()));
            tilings.push(vec![shape(times.shape), none(), none(), shape(*tile), us(*time), yes]);
        }
    }
    let many = format!("{TILE_TOKENS} tokens ms");
    let heading = ["threads", "1 token ms", &many, "chosen"];
    let mut threads = vec![heading.map(String::from).to_vec()];
    for times in &report.threads {
        let of = [(choice.split.decode_threads, "answers"), (choice.split.prompt_threads, "prompts")];
        let for_what: Vec<&str> =
            of.iter().filter(|(count, _)| *count == times.threads).map(|(_, what)| *what).collect();
        threads.push(vec![
            times.threads.to_string(),
            format!("{:.2}", format::milliseconds(times.decode)),
            format!("{:.1}", format::milliseconds(times.prompt)),
            for_what.join(", "),
        ]);
    }
    [kernels, tilings, threads].map(|table| format::table(&table)).join("\n")
}

fn shape((rows, cols): (usize, usize)) -> String {
    format!("{rows} x {cols}")
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Multiply-adds a second.
fn prompt_rate(timing: &Timing) -> f64 {
    (timing.shape.0 * timing.shape.1 * PROMPT_TOKENS) as f64 / timing.prompt.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_is_named() {
        let text = disturbed_text(&[(2560, 640), (6912, 2560)]);
        assert!(text.starts_with("not kept: the times of 2560 x 640, 6912 x 2560 differ"), "{text}");
        assert!(text.ends_with("--force)"), "{text}");
    }
}
