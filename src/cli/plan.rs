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
    plan::{Costs, Demand, GpuFacts, Segment, StepCost},
};

pub fn run(args: &PlanArgs) -> Result<()> {
    let source = Source::open(&args.model)?;
    let engine = Engine::new(&source)?;
    let sizes = engine.sizes(&args.engine)?;
    let placement = engine.place(&args.engine, args.engine.request(), sizes)?;
    let plan = &placement.plan;
    let demand = Demand::of(&engine.model, &sizes);
    let segment_bytes = |segment: &Segment| demand.bytes_of(segment);
    let json_of = |segments: &[Segment]| segments_json(segments.iter().map(|s| (s, placement.device(s.backend))));
    if args.json {
        let bytes: Vec<u64> = plan.segments.iter().map(segment_bytes).collect();
        return output::print_json(&json!({
            "model": source.name,
            "context_tokens": sizes.context_tokens,
            "batch_tokens": sizes.batch_tokens,
            "segments": json_of(&plan.segments),
            "segment_bytes": bytes,
            "prefill_segments": plan.prefill.as_deref().map(json_of),
            "costs": placement.costs,
            "gpu_budget_bytes": placement.gpu_facts.as_ref().map(|gpu| gpu.budget_bytes),
        }));
    }
    let mut text = format!(
        "{}: {}, context of {} tokens, prompt in batches of {}\n",
        source.name,
        format::count(engine.model.config.layers, "layer"),
        sizes.context_tokens,
        sizes.batch_tokens
    );
    if let (Some(costs), Some(gpu)) = (&placement.costs, &placement.gpu_facts) {
        text += &costs_table(costs, gpu, engine.model.config.layers);
    }
    for (heading, segments) in [("prompt:\n", plan.prefill.as_deref()), ("answer:\n", Some(&plan.segments[..]))] {
        let Some(segments) = segments else { continue };
        if plan.prefill.is_some() {
            text += heading;
        }
        for segment in segments {
            let bytes = format::bytes(segment_bytes(segment));
            let line = segment_line(segment, placement.device(segment.backend));
            text += &format!("{line}: {bytes} of weights, cache and buffers\n");
        }
    }
    output::print(&text)
}

/// What was measured, in milliseconds, and what that makes of a whole step.
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
