//! Sizes, memory budget and measured cost -> which backend runs which layer, and why.
//!
//! Pure data in, pure data out: every rule is tested without hardware. The GPU takes the *last* layers and
//! the head, so that a split model crosses from CPU to GPU once per step and only logits come back.

use std::ops::Range;

use bitnet_cpu_kernels::screen::Screen;

use super::{BackendKind, Plan, Segment, Sizes};
use crate::{
    error::{Error, Result},
    model::{Config, Model},
};

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Choose by measurement; never a software adapter.
    Auto,
    /// Everything on the CPU.
    Cpu,
    /// As many layers as fit on the GPU.
    Gpu,
    /// The last so many layers and the head on the GPU (`-ngl`).
    GpuLayers(usize),
}

/// Bytes a model needs on a device, by part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Weights of each layer.
    pub layer_weight_bytes: Vec<u64>,
    /// KV cache of one layer at the planned context.
    pub layer_kv_bytes: u64,
    /// Embedding table.
    pub embed_bytes: u64,
    /// Output head; 0 extra where it is the embedding table and both are on one device.
    pub head_bytes: u64,
    /// The head is the embedding table.
    pub tied: bool,
    /// Of the head's copy in fewer bits, which the CPU keeps if the sizes say so.
    pub screen_bytes: u64,
    /// Activation buffers of one backend.
    pub activation_bytes: u64,
}

impl Demand {
    /// What `model` needs with these sizes.
    pub fn of(model: &Model, sizes: &Sizes) -> Self {
        let config = &model.config;
        let norm_bytes = |layer: usize| -> u64 {
            config
                .family
                .block_norms()
                .iter()
                .filter_map(|&n| model.weights.blocks[layer].norm(n))
                .map(|w| w.len() as u64 * 4)
                .sum()
        };
        Self {
            layer_weight_bytes: (0..config.layers)
                .map(|layer| model.weights.blocks[layer].ternary_bytes() as u64 + norm_bytes(layer))
                .collect(),
            layer_kv_bytes: sizes.kv_bytes_per_layer(config),
            embed_bytes: model.weights.token_embd.data.len() as u64,
            head_bytes: model.weights.head().data.len() as u64,
            tied: model.weights.output.is_none(),
            screen_bytes: if sizes.head_screen { Screen::bytes(config.vocab, config.dim) as u64 } else { 0 },
            activation_bytes: activation_bytes(config, sizes),
        }
    }

    /// Bytes of a segment where it is planned.
    pub fn bytes_of(&self, segment: &Segment) -> u64 {
        let screened = segment.head && segment.backend == BackendKind::Cpu;
        let screen = if screened { self.screen_bytes } else { 0 };
        self.segment_bytes(segment.layers.clone(), segment.embed, segment.head) + screen
    }

    /// Bytes of a segment on a GPU; the CPU may keep a copy of the head besides.
    pub fn segment_bytes(&self, layers: Range<usize>, embed: bool, head: bool) -> u64 {
        let kv = self.layer_kv_bytes * layers.len() as u64;
        let weights: u64 = self.layer_weight_bytes[layers].iter().sum();
        let embed_bytes = if embed && !(head && self.tied) { self.embed_bytes } else { 0 };
        let head_bytes = if head { self.head_bytes } else { 0 };
        weights + kv + embed_bytes + head_bytes + self.activation_bytes
    }
}

/// f32 slots, int8 activations and one row of logits.
fn activation_bytes(config: &Config, sizes: &Sizes) -> u64 {
    let per_token: usize = super::op::Slot::ALL.iter().map(|slot| slot.width(config) * 4).sum::<usize>()
        + config.ffn_dim.max(config.dim).max(config.heads * config.head_dim);
    (per_token * sizes.batch_tokens + config.vocab * 4) as u64
}

/// The GPU the plan may use.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuFacts {
    /// Adapter and driver.
    pub name: String,
    /// Bytes the plan may fill.
    pub budget_bytes: u64,
}

/// Measured milliseconds of a decode step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepCost {
    /// Once per step: submission, synchronisation.
    pub fixed_ms: f64,
    /// For each layer.
    pub layer_ms: f64,
}

impl StepCost {
    fn of(self, layers: usize) -> f64 {
        self.fixed_ms + self.layer_ms * layers as f64
    }
}

/// The same step on both backends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// On the CPU.
    pub cpu: StepCost,
    /// On the GPU.
    pub gpu: StepCost,
}

/// Decides the segments.
///
/// `gpu` is `Err(reason)` where no adapter may be used. `measured` is needed for [`Request::Auto`] with a GPU.
///
/// # Errors
/// [`Error::NoAdapter`] when the GPU was asked for and there is none.
pub fn schedule(
    request: Request,
    demand: &Demand,
    sizes: Sizes,
    gpu: Result<&GpuFacts, &str>,
    measured: Option<Measured>,
) -> Result<Plan> {
    let layers = demand.layer_weight_bytes.len();
    let all_cpu = |reason: String| Plan { segments: segments(layers, 0, reason, String::new()), sizes };
    let (gpu, wanted, why) = match (request, gpu) {
        (Request::Cpu, _) => return Ok(all_cpu("asked for the CPU".into())),
        (Request::GpuLayers(0), _) => return Ok(all_cpu("asked for 0 layers on the GPU".into())),
        (Request::Auto, Err(reason)) => return Ok(all_cpu(reason.to_owned())),
        (_, Err(reason)) => return Err(Error::NoAdapter { reason: reason.to_owned() }),
        (Request::Gpu, Ok(gpu)) => (gpu, layers, "asked for the GPU".to_owned()),
        (Request::GpuLayers(n), Ok(gpu)) => (gpu, n.min(layers), format!("asked for {n} layers on the GPU")),
        (Request::Auto, Ok(gpu)) => {
            let Some(measured) = measured else { return Ok(all_cpu(format!("{} was not measured", gpu.name))) };
            let (cpu_ms, gpu_ms) = (measured.cpu.of(layers), measured.gpu.of(layers));
            if gpu_ms >= cpu_ms {
                let against = format!("{cpu_ms:.2} ms for all layers against {gpu_ms:.2} ms on {}", gpu.name);
                return Ok(all_cpu(against));
            }
            (gpu, layers, format!("{gpu_ms:.2} ms for all layers against {cpu_ms:.2} ms on the CPU"))
        }
    };

    let fits = |n: usize| demand.segment_bytes(layers - n..layers, n == layers, true) <= gpu.budget_bytes;
    let on_gpu = (1..=wanted).rev().find(|&n| fits(n)).unwrap_or(0);
    let cpu_reason = if on_gpu == wanted {
        why.clone()
    } else {
        let used = if on_gpu == 0 { 0 } else { demand.segment_bytes(layers - on_gpu..layers, false, true) };
        format!(
            "does not fit: {} of the {} budget left on {}",
            mebibytes(gpu.budget_bytes.saturating_sub(used)),
            mebibytes(gpu.budget_bytes),
            gpu.name
        )
    };
    Ok(Plan { segments: segments(layers, on_gpu, cpu_reason, why), sizes })
}

/// CPU first, then GPU; empty segments are left out.
fn segments(layers: usize, on_gpu: usize, cpu_reason: String, gpu_reason: String) -> Vec<Segment> {
    let split = layers - on_gpu;
    [(0..split, BackendKind::Cpu, cpu_reason), (split..layers, BackendKind::Gpu, gpu_reason)]
        .into_iter()
        .filter(|(range, ..)| !range.is_empty())
        .map(|(range, backend, reason)| Segment {
            embed: range.start == 0,
            head: range.end == layers,
            layers: range,
            backend,
            reason,
        })
        .collect()
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::{super::KvType, *};

    const MIB: u64 = 1 << 20;
    const SIZES: Sizes = Sizes { context_tokens: 512, batch_tokens: 64, k_type: KvType::F16, v_type: KvType::F16, head_screen: false };

    /// 10 layers of 100 MiB + 10 MiB cache, a tied 300 MiB table, 5 MiB of activations.
    fn demand() -> Demand {
        Demand {
            layer_weight_bytes: vec![100 * MIB; 10],
            layer_kv_bytes: 10 * MIB,
            embed_bytes: 300 * MIB,
            head_bytes: 300 * MIB,
            tied: true,
            screen_bytes: 120 * MIB,
            activation_bytes: 5 * MIB,
        }
    }

    fn gpu(budget_mib: u64) -> GpuFacts {
        GpuFacts { name: "Test GPU".into(), budget_bytes: budget_mib * MIB }
    }

    fn plan(request: Request, gpu: Result<&GpuFacts, &str>, ms: Option<[(f64, f64); 2]>) -> Plan {
        let cost = |(fixed_ms, layer_ms)| StepCost { fixed_ms, layer_ms };
        let measured = ms.map(|[cpu, gpu]| Measured { cpu: cost(cpu), gpu: cost(gpu) });
        schedule(request, &demand(), SIZES, gpu, measured).unwrap()
    }

    fn layout(plan: &Plan) -> Vec<(BackendKind, Range<usize>, bool, bool)> {
        plan.segments.iter().map(|s| (s.backend, s.layers.clone(), s.embed, s.head)).collect()
    }

    #[test]
    fn everything_fits() {
        let roomy = gpu(1405);
        let plan = plan(Request::Gpu, Ok(&roomy), None);
        assert_eq!(layout(&plan), [(BackendKind::Gpu, 0..10, true, true)], "10 x 110 + 300 + 5 = 1405 MiB");
    }

    #[test]
    fn what_does_not_fit_stays_on_the_cpu_with_a_reason() {
        let tight = gpu(1404);
        let split = plan(Request::Gpu, Ok(&tight), None);
        assert_eq!(layout(&split), [(BackendKind::Cpu, 0..1, true, false), (BackendKind::Gpu, 1..10, false, true)]);
        assert!(
            split.segments[0].reason.contains("109 MiB of the 1404 MiB budget left"),
            "{}",
            split.segments[0].reason
        );

        let tiny = gpu(100);
        let none = plan(Request::Gpu, Ok(&tiny), None);
        assert_eq!(layout(&none), [(BackendKind::Cpu, 0..10, true, true)]);
        assert!(none.segments[0].reason.contains("does not fit"));
    }

    #[test]
    fn ngl_puts_the_last_layers_and_the_head_on_the_gpu() {
        let roomy = gpu(10_000);
        let plan_of = |n| layout(&plan(Request::GpuLayers(n), Ok(&roomy), None));
        assert_eq!(plan_of(0), [(BackendKind::Cpu, 0..10, true, true)]);
        assert_eq!(plan_of(2), [(BackendKind::Cpu, 0..8, true, false), (BackendKind::Gpu, 8..10, false, true)]);
        assert_eq!(plan_of(99), [(BackendKind::Gpu, 0..10, true, true)]);
    }

    #[test]
    fn auto_takes_the_faster_backend_and_says_the_figures() {
        let roomy = gpu(10_000);
        let faster = plan(Request::Auto, Ok(&roomy), Some([(0.0, 0.64), (1.0, 0.21)]));
        assert_eq!(layout(&faster), [(BackendKind::Gpu, 0..10, true, true)]);
        assert_eq!(faster.segments[0].reason, "3.10 ms for all layers against 6.40 ms on the CPU");
        let slower = plan(Request::Auto, Ok(&roomy), Some([(0.0, 0.20), (1.0, 0.15)]));
        assert_eq!(layout(&slower), [(BackendKind::Cpu, 0..10, true, true)], "the cost of a step counts");
        assert_eq!(slower.segments[0].reason, "2.00 ms for all layers against 2.50 ms on Test GPU");
        let unmeasured = plan(Request::Auto, Ok(&roomy), None);
        assert_eq!(unmeasured.segments[0].reason, "Test GPU was not measured");
    }

    #[test]
    fn without_a_gpu_auto_runs_on_the_cpu_and_an_explicit_request_fails() {
        let auto = plan(Request::Auto, Err("no Vulkan loader"), None);
        assert_eq!(layout(&auto), [(BackendKind::Cpu, 0..10, true, true)]);
        assert_eq!(auto.segments[0].reason, "no Vulkan loader");
        for request in [Request::Gpu, Request::GpuLayers(1)] {
            let error = schedule(request, &demand(), SIZES, Err("no Vulkan loader"), None).unwrap_err();
            assert_eq!(error.to_string(), "no usable GPU adapter: no Vulkan loader");
        }
    }

    #[test]
    fn the_copy_of_the_head_counts_where_the_cpu_has_the_head() {
        let roomy = gpu(10_000);
        let bytes = |n| {
            let plan = plan(Request::GpuLayers(n), Ok(&roomy), None);
            plan.segments.iter().map(|segment| demand().bytes_of(segment) / MIB).collect::<Vec<_>>()
        };
        assert_eq!(bytes(0), [1100 + 300 + 5 + 120]);
        assert_eq!(bytes(2), [8 * 110 + 300 + 5, 2 * 110 + 300 + 5]);
    }

    #[test]
    fn an_untied_table_counts_twice_only_where_both_ends_are() {
        let untied = Demand { tied: false, ..demand() };
        assert_eq!(untied.segment_bytes(0..10, true, true), (1100 + 600 + 5) * MIB);
        assert_eq!(untied.segment_bytes(5..10, false, true), (550 + 300 + 5) * MIB);
        assert_eq!(demand().segment_bytes(0..5, true, false), (550 + 300 + 5) * MIB);
    }
}
