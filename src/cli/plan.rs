//! `plan`: who would run which layer, and why. Reads the model's headers; nothing is loaded, except that
//! `--backend auto` measures a few layers where there is a GPU to compare with.

use serde_json::{Value as Json, json};

use super::{
    args::PlanArgs,
    engine::{Engine, Source, segment_line, segments_json},
    format, output,
};
use crate::{
    error::Result,
    plan::{SegmentBytes, Sizes},
};

pub fn run(args: &PlanArgs) -> Result<()> {
    let source = Source::open(&args.model)?;
    let engine = Engine::new(&source)?;
    let sizes = engine.sizes(&args.engine)?;
    let placement = engine.place(&args.engine, args.engine.request(), sizes)?;
    let plan = &placement.plan;
    let budget = placement.budget();
    let devices = plan.segments.iter().map(|s| placement.device(s.backend));
    if args.json {
        let memory: Vec<Json> = plan.segments.iter().map(|s| memory_json(&placement.bytes(s), &sizes)).collect();
        return output::print_json(&json!({
            "model": source.name,
            "context_tokens": sizes.context_tokens,
            "batch_tokens": sizes.batch_tokens,
            "segments": segments_json(plan.segments.iter().zip(devices)),
            "segment_memory": memory,
            "gpu_budget_bytes": budget.map(|memory| memory.bytes),
            "gpu_budget_source": budget.map(|memory| memory.source),
        }));
    }
    let mut text = format!(
        "{}: {}, context of {} tokens, prompt in batches of {}\n",
        source.name,
        format::count(engine.model.config.layers, "layer"),
        sizes.context_tokens,
        sizes.batch_tokens
    );
    for (segment, device) in plan.segments.iter().zip(devices) {
        text += &format!("{}\n  {}\n", segment_line(segment, device), memory_text(&placement.bytes(segment), &sizes));
    }
    if let Some(memory) = budget {
        text += &format!("GPU memory that may be used: {} ({})\n", format::bytes(memory.bytes), memory.source);
    }
    output::print(&text)
}

/// The cache of as many tokens as people think in.
fn kv_bytes_per_1k(bytes: &SegmentBytes, sizes: &Sizes) -> u64 {
    bytes.kv / sizes.context_tokens.max(1) as u64 * 1024
}

fn memory_text(bytes: &SegmentBytes, sizes: &Sizes) -> String {
    format!(
        "{} = weights {}, embedding and head {}, cache {} ({} for 1024 tokens), activations {}",
        format::bytes(bytes.total()),
        format::bytes(bytes.weights),
        format::bytes(bytes.tables),
        format::bytes(bytes.kv),
        format::bytes(kv_bytes_per_1k(bytes, sizes)),
        format::bytes(bytes.activations)
    )
}

fn memory_json(bytes: &SegmentBytes, sizes: &Sizes) -> Json {
    json!({
        "weight_bytes": bytes.weights,
        "table_bytes": bytes.tables,
        "kv_bytes": bytes.kv,
        "kv_bytes_per_1k_tokens": kv_bytes_per_1k(bytes, sizes),
        "activation_bytes": bytes.activations,
        "total_bytes": bytes.total(),
    })
}
