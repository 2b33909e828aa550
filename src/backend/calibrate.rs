//! A first measured cost: a few real decode steps through one and through several layers.

use std::{sync::Arc, time::Instant};

use super::{Activations, Backend, Wanted};
use crate::{
    error::Result,
    model::Model,
    plan::{BackendKind, Segment, Sizes, StepCost},
};

/// Steps before timing starts: drivers compile shaders at the first dispatch.
const WARM_UP_STEPS: usize = 2;
/// Timed steps; the median counts.
const TIMED_STEPS: usize = 7;
/// Layers of the longer run. The difference to a run of one layer is free of the cost of a step itself
/// (submission, synchronisation), which on a GPU can exceed that of a layer.
const LAYERS: usize = 4;

/// Milliseconds of a decode step through `backend`, split into a fixed part and a part per layer.
///
/// The backend keeps the layers it was measured with: pass one that is dropped afterwards.
pub fn decode_cost(backend: &mut dyn Backend, model: &Arc<Model>, sizes: &Sizes) -> Result<StepCost> {
    let many = LAYERS.min(model.config.layers);
    let one_ms = step_ms(backend, model, sizes, 1)?;
    if many == 1 {
        return Ok(StepCost { fixed_ms: 0.0, layer_ms: one_ms });
    }
    let many_ms = step_ms(backend, model, sizes, many)?;
    // Noise can make the longer run the faster one: a layer then counts as its share of that run.
    let layer_ms = match (many_ms - one_ms) / (many - 1) as f64 {
        difference if difference > 0.0 => difference,
        _ => many_ms / many as f64,
    };
    Ok(StepCost { fixed_ms: (one_ms - layer_ms).max(0.0), layer_ms })
}

/// Median milliseconds of one token through the first `layers` layers.
fn step_ms(backend: &mut dyn Backend, model: &Arc<Model>, sizes: &Sizes, layers: usize) -> Result<f64> {
    let segment = Segment {
        layers: 0..layers,
        // Not read by the backend: it is the one that was passed.
        backend: BackendKind::Cpu,
        embed: false,
        head: false,
        reason: "measurement".into(),
    };
    let sizes = Sizes { context_tokens: WARM_UP_STEPS + TIMED_STEPS, batch_tokens: 1, ..*sizes };
    let id = backend.load(model, &segment, &sizes, &mut |_| {})?;
    let mut activations = Activations::default();
    let mut times_ms = Vec::with_capacity(TIMED_STEPS);
    for position in 0..WARM_UP_STEPS + TIMED_STEPS {
        activations.hidden.clear();
        activations.hidden.extend((0..model.config.dim).map(|i| ((i * 37 + position) % 17) as f32 / 8.0 - 1.0));
        let start = Instant::now();
        backend.run(id, &mut activations, position..position + 1, Wanted::Nothing)?;
        if position >= WARM_UP_STEPS {
            times_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms[TIMED_STEPS / 2])
}
