//! Sizes, memory budget and measured cost -> which backend runs which layer, and why.
//!
//! Pure data in, pure data out: every rule is tested without hardware. The GPU takes the *last* layers and
//! the head, so that a split model crosses from CPU to GPU once per step and only logits come back.

use std::ops::Range;

use super::{BackendKind, Costs, Demand, LayerSplit, Plan, Segment, Sizes, Workload};
use crate::error::{Error, Result};

/// Request of the user.
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

/// Goal of [`Request::Auto`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// The shortest time of a [`Workload`].
    #[default]
    Speed,
    /// The fewest bytes beside the mapped file.
    Memory,
    /// The least energy of a token, where the machine tells it.
    Energy,
}

/// The GPU the plan may use.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuFacts {
    /// Adapter and driver.
    pub name: String,
    /// Bytes the plan may fill.
    pub budget_bytes: u64,
}

/// Inputs of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Request of the user.
    pub request: Request,
    /// Goal of [`Request::Auto`].
    pub prefer: Prefer,
    /// Demand of the model.
    pub demand: &'a Demand,
    /// The sizes `demand` was made for.
    pub sizes: Sizes,
    /// The GPU, or why no adapter may be used.
    pub gpu: Result<&'a GpuFacts, &'a str>,
    /// Needed for [`Request::Auto`] with a GPU.
    pub costs: Option<&'a Costs>,
    /// Workload that [`Request::Auto`] expects.
    pub workload: Workload,
}

/// Decides the segments.
///
/// # Errors
/// [`Error::NoAdapter`] when the GPU was asked for and there is none.
pub fn schedule(question: &Question<'_>) -> Result<Plan> {
    let &Question { request, demand, sizes, .. } = question;
    let layers = demand.layer_weight_bytes.len();
    let all_cpu = |reason: &str| Plan::all_cpu(layers, sizes, reason);
    let (gpu, wanted, why) = match (request, question.gpu) {
        (Request::Cpu, _) => return Ok(all_cpu("asked for the CPU")),
        (Request::GpuLayers(0), _) => return Ok(all_cpu("asked for 0 layers on the GPU")),
        (Request::Auto, Err(reason)) => return Ok(all_cpu(reason)),
        (_, Err(reason)) => return Err(Error::NoAdapter { reason: reason.to_owned() }),
        (Request::Auto, Ok(gpu)) => return Ok(auto(question, gpu)),
        (Request::Gpu, Ok(gpu)) => (gpu, layers, "asked for the GPU".to_owned()),
        (Request::GpuLayers(n), Ok(gpu)) => (gpu, n.min(layers), format!("asked for {n} layers on the GPU")),
    };
    let on_gpu = demand.most_layers(wanted, gpu.budget_bytes);
    let cpu_reason = if on_gpu == wanted { why.clone() } else { does_not_fit(demand, gpu, on_gpu) };
    Ok(Plan { segments: segments(layers, on_gpu, &cpu_reason, &why), prefill: None, sizes })
}

/// By measurement, within the GPU's memory.
fn auto(question: &Question<'_>, gpu: &GpuFacts) -> Plan {
    let &Question { demand, sizes, workload, .. } = question;
    let layers = demand.layer_weight_bytes.len();
    let all_cpu = |reason: &str| Plan::all_cpu(layers, sizes, reason);
    if question.prefer == Prefer::Memory {
        let bytes = demand.segment_bytes(0..layers, true, true);
        return all_cpu(&format!(
            "memory is preferred: the CPU reads the weights where the file is mapped, {} would hold {} of its own",
            gpu.name,
            mebibytes(bytes)
        ));
    }
    let Some(costs) = question.costs else { return all_cpu(&format!("{} was not measured", gpu.name)) };
    let most = demand.most_layers(layers, gpu.budget_bytes);
    if most == 0 {
        return all_cpu(&does_not_fit(demand, gpu, 0));
    }
    let (split, note) = match (question.prefer, costs.cpu.layer_mj, costs.gpu.layer_mj) {
        (Prefer::Energy, Some(cpu_mj), Some(gpu_mj)) => {
            let n = if gpu_mj < cpu_mj { most } else { 0 };
            let note = format!("{cpu_mj:.2} mJ a layer and token on the CPU, {gpu_mj:.2} mJ on {}; ", gpu.name);
            (LayerSplit { prefill: n, decode: n }, note)
        }
        (Prefer::Energy, ..) => {
            (costs.fastest(layers, most, workload), "energy is not measured on this machine, so by speed: ".to_owned())
        }
        (Prefer::Speed | Prefer::Memory, ..) => (costs.fastest(layers, most, workload), String::new()),
    };
    let tokens = workload.prompt_tokens;
    let decode = PhaseCosts {
        on_gpu: split.decode,
        layer_ms: [costs.cpu.decode.layer_ms, costs.gpu.decode.layer_ms],
        whole: "a token".to_owned(),
        whole_ms: [0, most].map(|n| costs.decode_ms(layers, n)),
    };
    let prefill = PhaseCosts {
        on_gpu: split.prefill,
        layer_ms: [costs.cpu.prefill.layer_ms, costs.gpu.prefill.layer_ms].map(|ms| ms / costs.batch_tokens as f64),
        whole: format!("a prompt of {tokens} tokens"),
        whole_ms: [0, most].map(|n| costs.prefill_ms(layers, n, tokens)),
    };
    let rest = if most == layers { String::new() } else { does_not_fit(demand, gpu, most) };
    let reasons = |phases: &[&PhaseCosts]| {
        let on = |backend| {
            note.clone() + &phases.iter().map(|p| p.reason(backend, &gpu.name)).collect::<Vec<_>>().join("; ")
        };
        let on_cpu = if phases[0].on_gpu > 0 { rest.clone() } else { on(BackendKind::Cpu) };
        (on_cpu, on(BackendKind::Gpu))
    };
    if split.decode == split.prefill {
        let (on_cpu, on_gpu) = reasons(&[&decode, &prefill]);
        return Plan { segments: segments(layers, split.decode, &on_cpu, &on_gpu), prefill: None, sizes };
    }
    // Cut at the same layer, so that the part before it is loaded once for both.
    let cut = layers - most;
    let cut_at = |phase: &PhaseCosts| {
        let (on_cpu, on_gpu) = reasons(&[phase]);
        if phase.on_gpu > 0 || cut == 0 {
            return segments(layers, phase.on_gpu, &on_cpu, &on_gpu);
        }
        [0..cut, cut..layers].map(|range| segment(range, layers, BackendKind::Cpu, &on_cpu)).to_vec()
    };
    Plan { segments: cut_at(&decode), prefill: Some(cut_at(&prefill)), sizes }
}

/// Costs of the two places of a phase: [all on the CPU, as many layers as fit on the GPU].
struct PhaseCosts {
    /// Layers on the GPU.
    on_gpu: usize,
    /// Milliseconds for one layer and token.
    layer_ms: [f64; 2],
    /// Work that [`Self::whole_ms`] is the time of.
    whole: String,
    whole_ms: [f64; 2],
}

impl PhaseCosts {
    fn reason(&self, backend: BackendKind, gpu: &str) -> String {
        let Self { whole, layer_ms: [cpu_layer, gpu_layer], whole_ms: [cpu_ms, gpu_ms], .. } = self;
        match backend {
            BackendKind::Gpu => format!(
                "{gpu_layer:.3} ms a layer against {cpu_layer:.3} ms on the CPU: {whole} takes {gpu_ms:.2} ms, all on the \
                 CPU {cpu_ms:.2} ms"
            ),
            BackendKind::Cpu => format!(
                "{cpu_layer:.3} ms a layer against {gpu_layer:.3} ms on {gpu}: {whole} takes {cpu_ms:.2} ms, with the GPU \
                 {gpu_ms:.2} ms"
            ),
        }
    }
}

/// A plan with less on the GPU, where its budget has fallen below what `plan` takes of it; `None` where it has not. `why`
/// says what happened.
///
/// The layers that leave are the first ones, so that the cut stays a single one.
pub fn shrink(plan: &Plan, demand: &Demand, gpu: &GpuFacts, why: &str) -> Option<Plan> {
    let layers = demand.layer_weight_bytes.len();
    let held = plan.gpu_layers();
    let on_gpu = demand.most_layers(held, gpu.budget_bytes);
    if on_gpu == held {
        return None;
    }
    let budget = mebibytes(gpu.budget_bytes);
    let reason = format!("{why}: {on_gpu} of {held} layers fit in {budget} on {}", gpu.name);
    Some(Plan { segments: segments(layers, on_gpu, &reason, &reason), prefill: None, sizes: plan.sizes })
}

fn does_not_fit(demand: &Demand, gpu: &GpuFacts, on_gpu: usize) -> String {
    let layers = demand.layer_weight_bytes.len();
    let used = if on_gpu == 0 { 0 } else { demand.segment_bytes(layers - on_gpu..layers, false, true) };
    format!(
        "does not fit: {} of the {} budget left on {}",
        mebibytes(gpu.budget_bytes.saturating_sub(used)),
        mebibytes(gpu.budget_bytes),
        gpu.name
    )
}

/// CPU first, then GPU; empty segments are left out.
pub(super) fn segments(layers: usize, on_gpu: usize, cpu_reason: &str, gpu_reason: &str) -> Vec<Segment> {
    let split = layers - on_gpu;
    [(0..split, BackendKind::Cpu, cpu_reason), (split..layers, BackendKind::Gpu, gpu_reason)]
        .into_iter()
        .filter(|(range, ..)| !range.is_empty())
        .map(|(range, backend, reason)| segment(range, layers, backend, reason))
        .collect()
}

fn segment(range: Range<usize>, layers: usize, backend: BackendKind, reason: &str) -> Segment {
    Segment { embed: range.start == 0, head: range.end == layers, layers: range, backend, reason: reason.to_owned() }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{BackendCost, KvType, StepCost},
        *,
    };

    const MIB: u64 = 1 << 20;
    const SIZES: Sizes = Sizes {
        sequences: 1,
        context_tokens: 512,
        batch_tokens: 64,
        k_type: KvType::F16,
        v_type: KvType::F16,
        head_screen: false,
        mtp: false,
    };

    /// 10 layers of 100 MiB + 10 MiB cache, a tied 300 MiB table, 4 MiB of activations, 1 MiB of rotations.
    fn demand() -> Demand {
        Demand {
            layer_weight_bytes: vec![100 * MIB; 10],
            layer_state_bytes: vec![10 * MIB; 10],
            embed_bytes: 300 * MIB,
            head_bytes: 300 * MIB,
            tied: true,
            activation_bytes: 5 * MIB,
            head_activation_bytes: 0,
            mtp_bytes: 0,
        }
    }

    fn gpu(budget_mib: u64) -> GpuFacts {
        GpuFacts { name: "Test GPU".into(), budget_bytes: budget_mib * MIB }
    }

    fn question<'a>(request: Request, demand: &'a Demand, gpu: Result<&'a GpuFacts, &'a str>) -> Question<'a> {
        let workload = Workload { prompt_tokens: 100, answer_tokens: 50 };
        Question { request, prefer: Prefer::Speed, demand, sizes: SIZES, gpu, costs: None, workload }
    }

    fn plan(request: Request, gpu: Result<&GpuFacts, &str>) -> Plan {
        schedule(&question(request, &demand(), gpu)).unwrap()
    }

    fn auto_plan(gpu: &GpuFacts, costs: &Costs, prefer: Prefer) -> Plan {
        schedule(&Question { costs: Some(costs), prefer, ..question(Request::Auto, &demand(), Ok(gpu)) }).unwrap()
    }

    /// [CPU, GPU], each (fixed, layer), of a token and of a batch of 50 tokens; heads and moves are free.
    fn costs(decode: [(f64, f64); 2], prefill: [(f64, f64); 2]) -> Costs {
        let step = |(fixed_ms, layer_ms)| StepCost { fixed_ms, layer_ms, head_ms: 0.0 };
        let [cpu, gpu] =
            [0, 1].map(|i| BackendCost { decode: step(decode[i]), prefill: step(prefill[i]), layer_mj: None });
        Costs { cpu, gpu, batch_tokens: 50, move_ms: 0.0 }
    }

    fn layout(plan: &Plan) -> Vec<(BackendKind, Range<usize>, bool, bool)> {
        plan.segments.iter().map(|s| (s.backend, s.layers.clone(), s.embed, s.head)).collect()
    }

    #[test]
    fn everything_fits() {
        let roomy = gpu(1405);
        let plan = plan(Request::Gpu, Ok(&roomy));
        assert_eq!(layout(&plan), [(BackendKind::Gpu, 0..10, true, true)], "10 x 110 + 300 + 5 = 1405 MiB");
    }

    #[test]
    fn what_does_not_fit_stays_on_the_cpu_with_a_reason() {
        let tight = gpu(1404);
        let split = plan(Request::Gpu, Ok(&tight));
        assert_eq!(layout(&split), [(BackendKind::Cpu, 0..1, true, false), (BackendKind::Gpu, 1..10, false, true)]);
        assert!(
            split.segments[0].reason.contains("109 MiB of the 1404 MiB budget left"),
            "{}",
            split.segments[0].reason
        );

        let tiny = gpu(100);
        let none = plan(Request::Gpu, Ok(&tiny));
        assert_eq!(layout(&none), [(BackendKind::Cpu, 0..10, true, true)]);
        assert!(none.segments[0].reason.contains("does not fit"));
    }

    #[test]
    fn ngl_puts_the_last_layers_and_the_head_on_the_gpu() {
        let roomy = gpu(10_000);
        let plan_of = |n| layout(&plan(Request::GpuLayers(n), Ok(&roomy)));
        assert_eq!(plan_of(0), [(BackendKind::Cpu, 0..10, true, true)]);
        assert_eq!(plan_of(2), [(BackendKind::Cpu, 0..8, true, false), (BackendKind::Gpu, 8..10, false, true)]);
        assert_eq!(plan_of(99), [(BackendKind::Gpu, 0..10, true, true)]);
    }

    #[test]
    fn auto_takes_the_faster_backend_and_says_the_figures() {
        let roomy = gpu(10_000);
        let prefill = [(0.0, 10.0), (5.0, 5.0)];
        let faster = auto_plan(&roomy, &costs([(0.0, 0.64), (1.0, 0.21)], prefill), Prefer::Speed);
        assert_eq!(layout(&faster), [(BackendKind::Gpu, 0..10, true, true)]);
        assert_eq!(faster.prefill, None);
        assert_eq!(
            faster.segments[0].reason,
            "0.210 ms a layer against 0.640 ms on the CPU: a token takes 3.10 ms, all on the CPU 6.40 ms; \
             0.100 ms a layer against 0.200 ms on the CPU: a prompt of 100 tokens takes 110.00 ms, all on the CPU 200.00 ms"
        );
        let slower = auto_plan(&roomy, &costs([(0.0, 0.20), (1.0, 0.15)], [(0.0, 1.0), (0.0, 1.0)]), Prefer::Speed);
        assert_eq!(layout(&slower), [(BackendKind::Cpu, 0..10, true, true)], "the cost of a step counts");
        let reason = &slower.segments[0].reason;
        assert!(
            reason.starts_with(
                "0.200 ms a layer against 0.150 ms on Test GPU: a token takes 2.00 ms, with the GPU 2.50 ms; "
            ),
            "{reason}"
        );
        let unmeasured = plan(Request::Auto, Ok(&roomy));
        assert_eq!(unmeasured.segments[0].reason, "Test GPU was not measured");
    }

    #[test]
    fn phases_are_placed_apart_where_that_pays() {
        let costs = costs([(0.0, 0.2), (1.0, 0.3)], [(0.0, 10.0), (0.0, 1.0)]);
        let whole = auto_plan(&gpu(10_000), &costs, Prefer::Speed);
        assert_eq!(layout(&whole), [(BackendKind::Cpu, 0..10, true, true)]);
        let prefill = whole.prefill.as_ref().unwrap();
        assert_eq!((prefill.len(), prefill[0].backend), (1, BackendKind::Gpu));
        assert!(prefill[0].reason.contains("a prompt of 100 tokens takes 20.00 ms, all on the CPU 200.00 ms"));
        assert!(whole.segments[0].reason.contains("a token takes 2.00 ms, with the GPU 4.00 ms"));
        assert!(whole.runs_on(BackendKind::Gpu) && whole.gpu_layers() == 10);

        // Only 6 layers fit: both phases are cut at layer 4, and the part before it is the same.
        let part = auto_plan(&gpu(6 * 110 + 305), &costs, Prefer::Speed);
        assert_eq!(layout(&part), [(BackendKind::Cpu, 0..4, true, false), (BackendKind::Cpu, 4..10, false, true)]);
        let prefill = part.prefill.as_ref().unwrap();
        assert_eq!(prefill[0].layers, 0..4);
        assert_eq!((prefill[1].backend, prefill[1].layers.clone()), (BackendKind::Gpu, 4..10));
        assert!(prefill[0].reason.starts_with("does not fit: 0 MiB of the 965 MiB budget left"));
    }

    #[test]
    fn a_gpu_that_can_hold_only_a_part_is_used_if_that_part_pays() {
        let six = gpu(6 * 110 + 305);
        let much_faster = costs([(0.0, 1.0), (0.5, 0.2)], [(0.0, 10.0), (0.5, 2.0)]);
        let split = auto_plan(&six, &much_faster, Prefer::Speed);
        assert_eq!(layout(&split), [(BackendKind::Cpu, 0..4, true, false), (BackendKind::Gpu, 4..10, false, true)]);
        // 4 x 1.0 + 0.5 + 6 x 0.2
        assert!(split.segments[1].reason.contains("a token takes 5.70 ms, all on the CPU 10.00 ms"));
        // 4 x 1.0 + 5 + 6 x 0.9 is more than 10: the step itself eats the gain.
        let hardly = costs([(0.0, 1.0), (5.0, 0.9)], [(0.0, 10.0), (5.0, 9.9)]);
        assert_eq!(layout(&auto_plan(&six, &hardly, Prefer::Speed)), [(BackendKind::Cpu, 0..10, true, true)]);
    }

    #[test]
    fn a_30b_model_on_an_integrated_gpu_with_8_gib_is_split() {
        // 60 layers of 128 MiB with 16 MiB of cache, a 1.3 GiB head, 200 MiB of activations.
        let demand = Demand {
            layer_weight_bytes: vec![128 * MIB; 60],
            layer_state_bytes: vec![16 * MIB; 60],
            embed_bytes: 1331 * MIB,
            head_bytes: 1331 * MIB,
            tied: true,
            activation_bytes: 200 * MIB,
            head_activation_bytes: 0,
            mtp_bytes: 0,
        };
        let igpu = gpu(8192);
        let costs = costs([(0.0, 3.6), (2.0, 2.4)], [(0.0, 150.0), (2.0, 30.0)]);
        let question = Question { costs: Some(&costs), ..question(Request::Auto, &demand, Ok(&igpu)) };
        let plan = schedule(&question).unwrap();
        // (8192 - 1331 - 200) / 144 = 46.3
        assert_eq!(layout(&plan), [(BackendKind::Cpu, 0..14, true, false), (BackendKind::Gpu, 14..60, false, true)]);
        assert_eq!(plan.segments[0].reason, "does not fit: 37 MiB of the 8192 MiB budget left on Test GPU");
    }

    #[test]
    fn a_budget_that_shrinks_moves_the_first_layers_to_the_cpu() {
        let full = plan(Request::Gpu, Ok(&gpu(2000)));
        assert_eq!(shrink(&full, &demand(), &gpu(1405), "full"), None, "it still fits");
        let less = shrink(&full, &demand(), &gpu(1000), "the budget fell").unwrap();
        // (1000 - 305) / 110 = 6.3
        assert_eq!(layout(&less), [(BackendKind::Cpu, 0..4, true, false), (BackendKind::Gpu, 4..10, false, true)]);
        assert_eq!(less.segments[0].reason, "the budget fell: 6 of 10 layers fit in 1000 MiB on Test GPU");
        let none = shrink(&less, &demand(), &gpu(300), "full").unwrap();
        assert_eq!(layout(&none), [(BackendKind::Cpu, 0..10, true, true)]);
    }

    #[test]
    fn preferences() {
        let roomy = gpu(10_000);
        let mut costs = costs([(0.0, 1.0), (0.0, 0.5)], [(0.0, 10.0), (0.0, 5.0)]);
        let frugal = auto_plan(&roomy, &costs, Prefer::Memory);
        assert_eq!(layout(&frugal), [(BackendKind::Cpu, 0..10, true, true)]);
        assert!(frugal.segments[0].reason.contains("Test GPU would hold 1405 MiB of its own"));

        let unknown = auto_plan(&roomy, &costs, Prefer::Energy);
        assert_eq!(layout(&unknown), [(BackendKind::Gpu, 0..10, true, true)]);
        assert!(unknown.segments[0].reason.starts_with("energy is not measured on this machine, so by speed: "));
        (costs.cpu.layer_mj, costs.gpu.layer_mj) = (Some(2.0), Some(3.5));
        let measured = auto_plan(&roomy, &costs, Prefer::Energy);
        assert_eq!(layout(&measured), [(BackendKind::Cpu, 0..10, true, true)], "faster, but it takes more energy");
        assert!(measured.segments[0].reason.starts_with("2.00 mJ a layer and token on the CPU, 3.50 mJ on Test GPU; "));
    }

    #[test]
    fn without_a_gpu_auto_runs_on_the_cpu_and_an_explicit_request_fails() {
        let auto = plan(Request::Auto, Err("no Vulkan loader"));
        assert_eq!(layout(&auto), [(BackendKind::Cpu, 0..10, true, true)]);
        assert_eq!(auto.segments[0].reason, "no Vulkan loader");
        for request in [Request::Gpu, Request::GpuLayers(1)] {
            let error = schedule(&question(request, &demand(), Err("no Vulkan loader"))).unwrap_err();
            assert_eq!(error.to_string(), "no usable GPU adapter: no Vulkan loader");
        }
    }
}
