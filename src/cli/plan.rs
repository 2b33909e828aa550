//! `plan`: who would run which layer, and why. Reads the model's headers; nothing is loaded, except that
//! `--backend auto` measures a few layers where there is a GPU to compare with.

use serde_json::json;

use super::{
    args::PlanArgs,
    engine::{Engine, Source, segment_line, segments_json},
    format, output,
};
use crate::{
    error::Result,
    plan::{Demand, Segment},
};

pub fn run(args: &PlanArgs) -> Result<()> {
    let source = Source::open(&args.model)?;
    let engine = Engine::new(&source)?;
    let sizes = engine.sizes(&args.engine)?;
    let placement = engine.place(&args.engine, args.engine.request(), sizes)?;
    let plan = &placement.plan;
    let demand = Demand::of(&engine.model, &sizes);
    let segment_bytes = |segment: &Segment| demand.bytes_of(segment);
    let devices = plan.segments.iter().map(|s| placement.device(s.backend));
    if args.json {
        let bytes: Vec<u64> = plan.segments.iter().map(segment_bytes).collect();
        return output::print_json(&json!({
            "model": source.name,
            "context_tokens": sizes.context_tokens,
            "batch_tokens": sizes.batch_tokens,
            "segments": segments_json(plan.segments.iter().zip(devices)),
            "segment_bytes": bytes,
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
        let bytes = format::bytes(segment_bytes(segment));
        text += &format!("{}: {bytes} of weights, cache and buffers\n", segment_line(segment, device));
    }
    output::print(&text)
}
