//! `plan`: who would run which layer, and why. Reads the model's headers; nothing is loaded, except that
//! `--backend auto` measures a few layers where there is a GPU to compare with.

use serde_json::{Value as Json, json};

use super::{
    args::PlanArgs,
    devices,
    engine::{segment_line, segments_json},
    format, machine, output, source,
};
use crate::{
    engine::{Engine, EngineOptions, Purpose},
    error::Result,
    generate::SampleOptions,
    gguf::Metadata,
    model::Model,
    plan::{BackendKind, Costs, GpuFacts, Segment, SegmentBytes, Sizes, StepCost},
};

/// Memory of the program without a model (x86-64 Linux; measured, as the next two).
const PROGRAM_BYTES: u64 = 17 << 20;
/// Memory that a token of the vocabulary takes while the tokenizer is built, and a merge. Measured with vocabularies of
/// 32,000 to 152,000 tokens and of 0 to 280,000 merges; each came within a tenth.
const VOCABULARY_TOKEN_BYTES: u64 = 290;
const MERGE_BYTES: u64 = 275;

/// Memory beside the model's: the program, and its vocabulary.
fn program_bytes(metadata: &Metadata) -> u64 {
    let entries = |key| metadata.strings(key).ok().flatten().map_or(0, |strings| strings.len() as u64);
    let vocabulary = entries("tokenizer.ggml.tokens") * VOCABULARY_TOKEN_BYTES;
    PROGRAM_BYTES + vocabulary + entries("tokenizer.ggml.merges") * MERGE_BYTES
}

pub fn run(args: &PlanArgs) -> Result<()> {
    let source = source::glance(&args.model)?;
    let model = source.model()?;
    // As `run` would.
    let engine = Engine::new(&source, EngineOptions { mtp: true, ..EngineOptions::from(&args.engine) });
    let sample = SampleOptions::default();
    let purpose = Purpose::Sample(&sample);
    let placement = engine.place(&purpose)?;
    let sizes = engine.sizes(&purpose)?;
    let plan = &placement.plan;
    let budget = placement.budget();
    let json_of = |segments: &[Segment]| segments_json(segments.iter().map(|s| (s, placement.device(s.backend))));
    let recurrent = |segment: &Segment| sizes.recurrent_bytes(&model.config, segment.layers.clone());
    let recurrent_bytes = sizes.recurrent_bytes(&model.config, 0..model.config.layers);
    let cache_bytes = sizes.model_state_bytes(&model.config) - recurrent_bytes;
    let program = program_bytes(source.file().metadata());
    // What a GPU holds, and what it has of the computer's memory, is up to its driver.
    let on_cpu_alone = plan.segments.iter().chain(plan.prefill.iter().flatten()).all(|s| s.backend == BackendKind::Cpu);
    let all: u64 = plan.segments.iter().map(|segment| placement.bytes(segment).total()).sum();
    let peak = on_cpu_alone.then_some(all + program);
    if args.json {
        let machine::Cores { physical, hardware_threads, .. } = machine::cores();
        let memory: Vec<Json> = (plan.segments.iter())
            .map(|segment| memory_json(&placement.bytes(segment), recurrent(segment), &sizes))
            .collect();
        return output::print_json(&json!({
            "model": source.name(),
            "context_tokens": sizes.context_tokens,
            "batch_tokens": sizes.batch_tokens,
            "cache_bytes": cache_bytes,
            "recurrent_bytes": recurrent_bytes,
            "n_threads": args.engine.threads.count(),
            "cores": physical,
            "hardware_threads": hardware_threads,
            "weights_copied": args.model.is_copied(),
            "drafts": drafts(model, &plan.sizes),
            "segments": json_of(&plan.segments),
            "segment_memory": memory,
            "program_bytes": program,
            "peak_bytes": peak,
            "prefill_segments": plan.prefill.as_deref().map(json_of),
            "costs": placement.costs,
            "gpu_budget_bytes": budget.map(|memory| memory.bytes),
            "gpu_budget_source": budget.map(|memory| memory.source),
        }));
    }
    let mut text = format!(
        "{}: {}, context of {} tokens (cache {}{}), prompt in batches of {}\n",
        source.name(),
        format::count(model.config.layers, "layer"),
        sizes.context_tokens,
        format::bytes(cache_bytes),
        recurrent_text(recurrent_bytes),
        sizes.batch_tokens
    );
    text += &format!("CPU: {} on {}\n", format::count(args.engine.threads.count(), "thread"), devices::cores());
    if args.model.is_copied() {
        text += "weights: copied into memory when they are loaded (--no-mmap)\n";
    }
    if let (Some(costs), Some(gpu)) = (&placement.costs, &placement.gpu_facts) {
        text += &costs_table(costs, gpu, model.config.layers);
    }
    for (heading, segments) in [("prompt:\n", plan.prefill.as_deref()), ("answer:\n", Some(&plan.segments[..]))] {
        let Some(segments) = segments else { continue };
        if plan.prefill.is_some() {
            text += heading;
        }
        for segment in segments {
            let line = segment_line(segment, placement.device(segment.backend));
            text += &format!("{line}\n  {}\n", memory_text(&placement.bytes(segment), recurrent(segment), &sizes));
        }
    }
    if let Some(drafts) = drafts(model, &plan.sizes) {
        text += &format!("drafts: {drafts}\n");
    }
    if let Some(peak) = peak {
        let (peak, program) = (format::bytes(peak), format::bytes(program));
        text += &format!("memory: up to {peak} once the cache is full, with {program} of program and vocabulary\n");
    }
    if let Some(memory) = budget {
        text += &format!("GPU memory that may be used: {} ({})\n", format::bytes(memory.bytes), memory.source);
    }
    output::print(&text)
}

/// Use of the model's block of multi-token prediction; `None` where it has none.
fn drafts(model: &Model, sizes: &Sizes) -> Option<&'static str> {
    match (model.config.mtp_blocks, &model.weights.mtp) {
        (0, _) => None,
        (_, None) => Some("the block of multi-token prediction is left out: no kernel reads it"),
        (_, Some(_)) if sizes.mtp => Some("by the block of multi-token prediction, on the CPU, while they pay"),
        (_, Some(_)) => {
            Some("the block of multi-token prediction is off: it needs the head on the CPU, for prompts too")
        }
    }
}

/// Bytes that do not grow with the context, in words.
fn recurrent_text(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(", recurrent states with checkpoints {}", format::bytes(bytes)) }
}

/// The cache of as many tokens as people think in.
fn kv_bytes_per_1k(kv_bytes: u64, sizes: &Sizes) -> u64 {
    kv_bytes / sizes.context_tokens.max(1) as u64 * 1024
}

fn memory_text(bytes: &SegmentBytes, recurrent: u64, sizes: &Sizes) -> String {
    let kv = bytes.states - recurrent;
    format!(
        "{} = weights {}, embedding and head {}, cache {} ({} for 1024 tokens){}{}, activations {}",
        format::bytes(bytes.total()),
        format::bytes(bytes.weights),
        format::bytes(bytes.tables),
        format::bytes(kv),
        format::bytes(kv_bytes_per_1k(kv, sizes)),
        recurrent_text(recurrent),
        if bytes.mtp == 0 { String::new() } else { format!(", multi-token prediction {}", format::bytes(bytes.mtp)) },
        format::bytes(bytes.activations)
    )
}

fn memory_json(bytes: &SegmentBytes, recurrent: u64, sizes: &Sizes) -> Json {
    let kv = bytes.states - recurrent;
    json!({
        "weight_bytes": bytes.weights,
        "table_bytes": bytes.tables,
        "kv_bytes": kv,
        "kv_bytes_per_1k_tokens": kv_bytes_per_1k(kv, sizes),
        "recurrent_bytes": recurrent,
        "mtp_bytes": bytes.mtp,
        "activation_bytes": bytes.activations,
        "total_bytes": bytes.total(),
    })
}

/// Table of the measured costs, in milliseconds, and the time of a whole step that they make.
fn costs_table(costs: &Costs, gpu: &GpuFacts, layers: usize) -> String {
    let ms = |ms: f64| format!("{ms:.3}");
    let row = |step: String, device: &str, cost: StepCost| {
        let whole = ms(cost.of(layers, true));
        vec![step, device.to_owned(), ms(cost.layer_ms), ms(cost.fixed_ms), ms(cost.head_ms), whole]
    };
    let batch = format!("{} tokens of a prompt", costs.batch_tokens);
    let heading = ["measured, ms", "on", "a layer", "a step", "head", "all layers"].map(String::from).to_vec();
    let mut rows = vec![heading];
    for (device, cost) in [("CPU", costs.cpu), (gpu.name.as_str(), costs.gpu)] {
        rows.push(row("a token".into(), device, cost.decode));
        rows.push(row(batch.clone(), device, cost.prefill));
    }
    format::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::BackendCost;

    #[test]
    fn the_table_shows_both_steps_on_both_backends() {
        let step = |fixed_ms, layer_ms, head_ms| StepCost { fixed_ms, layer_ms, head_ms };
        let cost = BackendCost { decode: step(0.5, 0.25, 1.0), prefill: step(1.0, 2.0, 1.0), layer_mj: None };
        let costs = Costs { cpu: cost, gpu: BackendCost::default(), batch_tokens: 64, move_ms: 0.0 };
        let table = costs_table(&costs, &GpuFacts { name: "iGPU".into(), budget_bytes: 0 }, 10);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 6, "{table}");
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(cells(lines[2])[1..7], ["a token", "CPU", "0.250", "0.500", "1.000", "4.000"]);
        assert_eq!(cells(lines[3])[1..7], ["64 tokens of a prompt", "CPU", "2.000", "1.000", "1.000", "22.000"]);
        assert!(lines[4].contains("iGPU"));
    }
}
