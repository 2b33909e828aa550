//! Costs of steps on a backend: a few real ones through a few layers and through more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bitnet_cpu_kernels::{Isa, screen::Screen};

use crate::{
    backend::{Activations, Backend, Batch, LayerState, SegmentId, SlotId, Want, energy},
    error::Result,
    model::{Block, Config, Model},
    numbers::median,
    plan::{BackendCost, BackendKind, Segment, Sizes, StepCost, Workload},
    steady::{self, Steady},
};

/// Steps before timing starts: drivers compile shaders at the first dispatch.
const WARM_UP_STEPS: usize = 2;
/// Timed decode steps of a round; the median counts.
const DECODE_STEPS: usize = 7;
/// Timed batches of a prompt in a round, likewise; they take longer and vary less.
const PREFILL_STEPS: usize = 3;
/// Tokens of such a batch: enough that weights are read once for many, and a fraction of a second on any machine.
pub const BATCH_TOKENS: usize = 64;
/// Fewest layers of the longer run. The difference to a shorter run is free of the cost of a step itself
/// (submission, synchronisation), which on a GPU can exceed that of a layer.
const LAYERS: usize = 4;

// Each decode step has a position of its own.
const _: () = assert!(WARM_UP_STEPS + steady::MOST_ROUNDS * DECODE_STEPS <= BATCH_TOKENS);

/// Cost of a decode step and of a batch of [`BATCH_TOKENS`] on `backend`.
///
/// The backend keeps the layers it was measured with: pass one that is dropped afterwards.
pub fn cost(backend: &mut dyn Backend, model: &Arc<Model>, sizes: &Sizes) -> Result<Steady<BackendCost>> {
    let (few, many) = measured_layers(&model.config);
    let mut measure = |layers| -> Result<Steps> {
        let mut loaded = Loaded::new(backend, model, sizes, layers)?;
        let (decode, millijoules) = loaded.step_ms(backend, 1, DECODE_STEPS)?;
        let (prefill, _) = loaded.step_ms(backend, BATCH_TOKENS, PREFILL_STEPS)?;
        let agreed = decode.agreed && prefill.agreed;
        Ok(Steps { decode_ms: decode.value, prefill_ms: prefill.value, millijoules, agreed })
    };
    let short = measure(few)?;
    let long = if many == few { None } else { Some(measure(many)?) };
    let split =
        |of: &dyn Fn(&Steps) -> f64| split_cost((few, of(&short)), long.as_ref().map(|steps| (many, of(steps))));
    let mut decode = split(&|steps| steps.decode_ms);
    let prefill = split(&|steps| steps.prefill_ms);
    // The head is read once a token, as a layer is, and both are bound by reading: loading it only to measure it would
    // take longer than what it decides.
    let layer_bytes = model.weights.blocks[..few].iter().map(Block::ternary_bytes).sum::<usize>().max(1) / few;
    let head = model.weights.head();
    let head_bytes =
        if sizes.head_screen { Screen::bytes(Isa::detect(), head.rows, head.cols, head.ty) } else { head.data.len() };
    decode.head_ms = decode.layer_ms * head_bytes as f64 / layer_bytes as f64;
    let prefill = StepCost { head_ms: decode.head_ms, ..prefill };
    let joules = long.as_ref().and_then(|long| long.millijoules).zip(short.millijoules);
    let layer_mj = joules.map(|(long, short)| (long - short) / (many - few) as f64).filter(|&mj| mj > 0.0);
    let agreed = short.agreed && long.is_none_or(|long| long.agreed);
    Ok(Steady { value: BackendCost { decode, prefill, layer_mj }, agreed })
}

/// Numbers of layers of the two runs: whole periods of the kinds of layers where the model is long enough, so that their
/// difference is the mean of all kinds.
fn measured_layers(config: &Config) -> (usize, usize) {
    let few = config.layer_period();
    (few, LAYERS.max(2 * few).min(config.layers))
}

/// Milliseconds for what one layer holds of one token from `from` to `to`. What a recurrent layer holds is of one size:
/// a token has its share in a usual prompt.
pub fn move_ms(from: &mut dyn Backend, to: &mut dyn Backend, model: &Arc<Model>, sizes: &Sizes) -> Result<Steady<f64>> {
    let layers = model.config.layer_period();
    let mut source = Loaded::new(from, model, sizes, layers)?;
    let target = Loaded::new(to, model, sizes, layers)?;
    source.step(from, 0, BATCH_TOKENS)?;
    let mut state = LayerState::default();
    let mut layer_time = |layer: usize| -> Result<Duration> {
        let mut times = Vec::with_capacity(PREFILL_STEPS);
        for step in 0..=PREFILL_STEPS {
            let start = Instant::now();
            from.states(source.id)?.export(layer, SlotId(0), 0..BATCH_TOKENS, &mut state)?;
            to.states(target.id)?.import(layer, SlotId(0), 0..BATCH_TOKENS, &state)?;
            if step > 0 {
                times.push(start.elapsed());
            }
        }
        Ok(median(times))
    };
    let times = steady::shortest(|| (0..layers).map(&mut layer_time).collect())?;
    let tokens = |layer| match model.config.is_recurrent(layer) {
        true => Workload::default().prompt_tokens,
        false => BATCH_TOKENS,
    };
    Ok(times.map(|times| {
        let of_token = times.iter().enumerate().map(|(layer, time)| milliseconds(*time) / tokens(layer) as f64);
        of_token.sum::<f64>() / layers as f64
    }))
}

/// Medians of a number of layers.
struct Steps {
    decode_ms: f64,
    prefill_ms: f64,
    millijoules: Option<f64>,
    /// Whether rounds agreed about the times.
    agreed: bool,
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The part of a step and the part of a layer, from steps through a few layers and through more, each with their number.
fn split_cost((few, few_ms): (usize, f64), more: Option<(usize, f64)>) -> StepCost {
    let Some((many, many_ms)) = more else {
        return StepCost { layer_ms: few_ms / few as f64, ..StepCost::default() };
    };
    // Noise can make the longer run the faster one: a layer then counts as its share of that run.
    let layer_ms = match (many_ms - few_ms) / (many - few) as f64 {
        difference if difference > 0.0 => difference,
        _ => many_ms / many as f64,
    };
    StepCost { fixed_ms: (few_ms - layer_ms * few as f64).max(0.0), layer_ms, head_ms: 0.0 }
}

/// The first layers of the model, to be run with made-up hidden states.
struct Loaded {
    id: SegmentId,
    dim: usize,
    activations: Activations,
}

impl Loaded {
    fn new(backend: &mut dyn Backend, model: &Arc<Model>, sizes: &Sizes, layers: usize) -> Result<Self> {
        let segment = Segment {
            layers: 0..layers,
            // Not read by the backend: it is the one that was passed.
            backend: BackendKind::Cpu,
            embed: false,
            head: false,
            reason: "measurement".into(),
        };
        let sizes = Sizes { sequences: 1, context_tokens: BATCH_TOKENS, batch_tokens: BATCH_TOKENS, ..*sizes };
        let id = backend.load(model, &segment, &sizes, &mut |_| {})?;
        Ok(Self { id, dim: model.config.dim, activations: Activations::default() })
    }

    fn step(&mut self, backend: &mut dyn Backend, start: usize, tokens: usize) -> Result<()> {
        let noise = |i: usize| ((i * 37 + start) % 17) as f32 / 8.0 - 1.0;
        self.activations.hidden.clear();
        self.activations.hidden.extend((0..tokens * self.dim).map(noise));
        backend.run(self.id, &Batch::one(start..start + tokens, Want::Nothing), &mut self.activations)
    }

    /// Milliseconds of a step of `tokens`, the median of `steps`, and the mean energy of one where the machine tells.
    fn step_ms(
        &mut self,
        backend: &mut dyn Backend,
        tokens: usize,
        steps: usize,
    ) -> Result<(Steady<f64>, Option<f64>)> {
        let mut done = 0;
        let mut timed_step = || -> Result<Duration> {
            let position = if tokens == 1 { done } else { 0 };
            done += 1;
            let start = Instant::now();
            self.step(backend, position, tokens)?;
            Ok(start.elapsed())
        };
        for _ in 0..WARM_UP_STEPS {
            timed_step()?;
        }
        let before = energy::Package::read();
        let round = || -> Result<Vec<Duration>> {
            let times = (0..steps).map(|_| timed_step()).collect::<Result<_>>()?;
            Ok(vec![median(times)])
        };
        let times = steady::shortest(round)?;
        let timed = (done - WARM_UP_STEPS) as f64;
        let millijoules = before.and_then(|before| before.millijoules_since()).map(|mj| mj / timed);
        Ok((times.map(|times| milliseconds(times[0])), millijoules))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_layer_is_free_of_the_step() {
        let cost = split_cost((1, 5.0), Some((4, 11.0)));
        assert_eq!(cost, StepCost { fixed_ms: 3.0, layer_ms: 2.0, head_ms: 0.0 });
        let one_layer = split_cost((1, 5.0), None);
        assert_eq!(one_layer, StepCost { fixed_ms: 0.0, layer_ms: 5.0, head_ms: 0.0 });
        let noisy = split_cost((1, 5.0), Some((4, 4.0)));
        assert_eq!(noisy, StepCost { fixed_ms: 4.0, layer_ms: 1.0, head_ms: 0.0 });
        // Three layers of 1 ms and one of 3 in a period, and 2 ms for the step.
        let hybrid = split_cost((4, 8.0), Some((8, 14.0)));
        assert_eq!(hybrid, StepCost { fixed_ms: 2.0, layer_ms: 1.5, head_ms: 0.0 });
    }
}
