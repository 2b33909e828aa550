//! The engine against logits computed by transformers in f32 (shared `golden/`, see its README).
//!
//! These random models amplify rounding: float order alone gives a relative L2 error up to 0.018, an f16
//! cache up to 0.032, the bf16 `weight_scale` of packed checkpoints up to 0.031. A wrong formula gives far more.

use std::{path::Path, sync::Arc};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{
        Backend,
        cpu::{CpuBackend, Kernel, Kernels},
        gpu::Tuning,
    },
    convert::{ConvertOptions, TernaryType, convert},
    model::{Linear, Model},
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::Session,
};
use serde_json::Value;

use crate::common::{
    gpu::{open_backend, relative_l2},
    shared,
};

struct Case {
    ids: Vec<u32>,
    last_logits: Vec<f32>,
}

fn expected(directory: &Path) -> Value {
    let text = std::fs::read_to_string(directory.join("expected_logits.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn cases(of: &Value) -> Vec<Case> {
    let numbers = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    of.as_array()
        .unwrap()
        .iter()
        .map(|case| Case {
            ids: numbers(&case["ids"]).into_iter().map(|id| id as u32).collect(),
            last_logits: numbers(&case["last_logits"]).into_iter().map(|x| x as f32).collect(),
        })
        .collect()
}

fn converted(name: &str) -> Option<(tempfile::TempDir, Arc<Model>, Vec<Case>)> {
    let directory = shared(&format!("golden/{name}"))?;
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.gguf");
    convert(&directory, &file, &ConvertOptions::default()).unwrap();
    let model = Arc::new(Model::open(&file).unwrap());
    Some((scratch, model, cases(&expected(&directory)["cases"])))
}

fn sizes(kv: KvType) -> Sizes {
    Sizes::new(256, 64).with_kv(kv, kv)
}

/// Segments of the given layers, in order.
fn plan(layers: usize, split: &[(BackendKind, usize)], sizes: Sizes) -> Plan {
    let mut start = 0;
    let segments = split
        .iter()
        .map(|&(backend, count)| {
            let range = start..start + count;
            start = range.end;
            Segment {
                embed: range.start == 0,
                head: range.end == layers,
                layers: range,
                backend,
                reason: "test".into(),
            }
        })
        .collect();
    assert_eq!(start, layers, "the split covers the model");
    Plan { segments, prefill: None, sizes }
}

fn top1(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

/// Runs every case in a fresh position and holds it against the reference.
fn check(what: &str, session: &mut Session, cases: &[Case], bound: f64) {
    for (index, case) in cases.iter().enumerate() {
        session.truncate(0).unwrap();
        let logits = session.prefill(&case.ids).unwrap();
        let error = relative_l2(logits, &case.last_logits);
        eprintln!("{what} case {index} ({} ids): relative L2 {error:.4}", case.ids.len());
        assert!(error <= bound, "{what} case {index}: relative L2 error {error:.4} is over {bound}");
        assert_eq!(top1(logits), top1(&case.last_logits), "{what} case {index}: another most likely token");
    }
}

/// [`check`] with every layer on the GPU, and with the first one on the CPU.
fn check_gpu_and_split(name: &str, model: &Arc<Model>, cases: &[Case], bound: f64) {
    let layers = model.config.layers;
    for (what, split) in [
        ("on the GPU", vec![(BackendKind::Gpu, layers)]),
        ("split", vec![(BackendKind::Cpu, 1), (BackendKind::Gpu, layers - 1)]),
    ] {
        let Some(gpu) = open_backend(Tuning::default()) else { return };
        let backends = vec![cpu(Isa::detect()), (BackendKind::Gpu, Box::new(gpu) as Box<dyn Backend>)];
        let plan = plan(layers, &split, sizes(KvType::F16));
        let mut session = Session::load(model, &plan, backends, &mut |_| {}).unwrap();
        check(&format!("{name} {what}"), &mut session, cases, bound);
    }
}

fn cpu(isa: Isa) -> (BackendKind, Box<dyn Backend>) {
    (BackendKind::Cpu, Box::new(CpuBackend::new(isa, 2)))
}

/// Bounds with an f32 cache, and with an f16 or an 8-bit one (which stays below 0.036): (masters), (packed with a bf16
/// scale).
const MODELS: [(&str, f64, f64); 4] = [
    ("bitnet-a", 0.025, 0.05),
    ("bitnet-c", 0.025, 0.05),
    ("bitnet-a-offline", 0.045, 0.06),
    ("bitnet-c-bitlinear", 0.045, 0.06),
];

/// A file's name, its model, and what is expected of it.
type Golden = (String, Arc<Model>, Vec<Case>);

/// Models of Qwen3's shape with group scales, and what transformers computes with the same weights and float
/// activations: int8 activations in groups of 64 to 256 alone give a relative L2 error of 0.010 to 0.016.
fn grouped() -> Option<Vec<Golden>> {
    let directory = shared("golden/qwen3-ternary")?;
    let files = expected(&directory);
    let files = files["files"].as_object().unwrap();
    assert_eq!(files.len(), 4, "TQ2_0, TQ1_0, Q2_0 in groups of 64 and of 128");
    let open = |(name, of): (&String, &Value)| {
        (name.clone(), Arc::new(Model::open(&directory.join(name)).unwrap()), cases(of))
    };
    Some(files.iter().map(open).collect())
}

/// Half of what the project promises (5 %) for models that were not trained with int8 activations.
const GROUPED_BOUND: f64 = 0.025;

#[test]
fn grouped_cpu_logits_match_transformers() {
    let Some(models) = grouped() else { return };
    for (name, model, cases) in models {
        let layers = model.config.layers;
        for isa in Isa::available() {
            for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
                let plan = plan(layers, &[(BackendKind::Cpu, layers)], sizes(kv));
                let mut session = Session::load(&model, &plan, vec![cpu(isa)], &mut |_| {}).unwrap();
                check(&format!("{name} {} {kv:?} cache", isa.name()), &mut session, &cases, GROUPED_BOUND);
            }
        }
    }
}

#[test]
fn grouped_gpu_and_split_logits_match_transformers() {
    let Some(models) = grouped() else { return };
    for (name, model, cases) in models {
        check_gpu_and_split(&name, &model, &cases, GROUPED_BOUND);
    }
}

#[test]
fn cpu_logits_match_transformers() {
    for (name, f32_bound, f16_bound) in MODELS {
        let Some((_scratch, model, cases)) = converted(name) else { return };
        for isa in Isa::available() {
            for (kv, bound) in [(KvType::F32, f32_bound), (KvType::F16, f16_bound), (KvType::Q8_0, f16_bound)] {
                let layers = model.config.layers;
                let plan = plan(layers, &[(BackendKind::Cpu, layers)], sizes(kv));
                let mut session = Session::load(&model, &plan, vec![cpu(isa)], &mut |_| {}).unwrap();
                check(&format!("{name} {} {kv:?} cache", isa.name()), &mut session, &cases, bound);
            }
        }
    }
}

/// A step of one token is what the kernels differ in; a prompt is multiplied by the same one.
fn stepped(model: &Arc<Model>, isa: Isa, kernels: Kernels, ids: &[u32]) -> Vec<f32> {
    let layers = model.config.layers;
    let plan = plan(layers, &[(BackendKind::Cpu, layers)], sizes(KvType::F32));
    let cpu: Box<dyn Backend> = Box::new(CpuBackend::with_kernels(isa, 2, kernels));
    let mut session = Session::load(model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| {}).unwrap();
    // Three tokens at once and the rest one by one.
    let (first, rest) = ids.split_at(3);
    let mut logits = session.prefill(first).unwrap().to_vec();
    for &id in rest {
        logits = session.step(id).unwrap().to_vec();
    }
    logits
}

#[test]
fn every_kernel_gives_the_same_logits() {
    for (name, f32_bound, _) in MODELS {
        let Some((scratch, model, cases)) = converted(name) else { return };
        let case = cases.iter().find(|case| (4..64).contains(&case.ids.len())).unwrap();
        // The same weights in files that lookups read in place, and that have to be decoded, where the shapes can have
        // those types.
        let others = [TernaryType::TL2, TernaryType::TL1, TernaryType::TQ1_0].map(|ty| {
            let file = scratch.path().join(format!("{ty:?}.gguf"));
            let options = ConvertOptions { ty: Some(ty), ..Default::default() };
            convert(&scratch.path().join("model.gguf"), &file, &options).ok()?;
            let model = Arc::new(Model::open(&file).unwrap());
            let in_place = model.weights.blocks[0].linear(Linear::Q).layout().is_lookup();
            assert_eq!(in_place, ty == TernaryType::TL2, "{name}: {ty:?} in place");
            Some(model)
        });
        for isa in Isa::available() {
            let expected = stepped(&model, isa, Kernels::All(Kernel::I2S), &case.ids);
            let error = relative_l2(&expected, &case.last_logits);
            assert!(error <= f32_bound, "{name} {isa}: relative L2 error {error:.4} is over {f32_bound}");
            for model in [&model].into_iter().chain(others.iter().flatten()) {
                let choices = [Kernels::AsLoaded].into_iter().chain(Kernel::ALL.map(Kernels::All));
                for kernels in choices {
                    let found = stepped(model, isa, kernels.clone(), &case.ids);
                    assert!(found == expected, "{name} {isa}: {kernels:?} gives other logits");
                }
            }
        }
    }
}

#[test]
fn lookups_are_refused_where_groups_have_scales() {
    let Some(models) = grouped() else { return };
    let (_, model, _) = &models[0];
    let layers = model.config.layers;
    let plan = plan(layers, &[(BackendKind::Cpu, layers)], sizes(KvType::F32));
    let cpu: Box<dyn Backend> = Box::new(CpuBackend::with_kernels(Isa::detect(), 1, Kernels::All(Kernel::TL2)));
    let error = Session::load(model, &plan, vec![(BackendKind::Cpu, cpu)], &mut |_| {}).err().unwrap().to_string();
    assert!(error.contains("tensor blk.0.attn_q.weight is not supported: it has a scale for each"), "{error}");
}

#[test]
fn gpu_and_split_logits_match_transformers() {
    for (name, _, f16_bound) in MODELS {
        let Some((_scratch, model, cases)) = converted(name) else { return };
        check_gpu_and_split(name, &model, &cases, f16_bound);
    }
}

#[test]
fn a_prompt_on_the_gpu_goes_on_on_the_cpu() {
    // Keys and values move between the backends, back and forth, and nothing else may change.
    for kv in [KvType::F16, KvType::F32, KvType::Q8_0] {
        let Some((_scratch, model, cases)) = converted("bitnet-a") else { return };
        let layers = model.config.layers;
        let one = [(BackendKind::Cpu, 1)];
        let on = |backend| [&one[..], &[(backend, layers - 1)]].concat();
        let decode = plan(layers, &on(BackendKind::Cpu), sizes(kv));
        let prefill = plan(layers, &on(BackendKind::Gpu), sizes(kv)).segments;
        let Some(gpu) = open_backend(Tuning::default()) else { return };
        let backends = vec![cpu(Isa::detect()), (BackendKind::Gpu, Box::new(gpu) as Box<dyn Backend>)];
        let phases = Plan { prefill: Some(prefill), ..decode.clone() };
        let mut session = Session::load(&model, &phases, backends, &mut |_| {}).unwrap();
        let mut reference = Session::load(&model, &decode, vec![cpu(Isa::detect())], &mut |_| {}).unwrap();
        for case in &cases {
            session.truncate(0).unwrap();
            reference.truncate(0).unwrap();
            let (prompt, rest) = case.ids.split_at(case.ids.len() / 2);
            let (first, second) = rest.split_at(rest.len() / 2);
            for (tokens, whole) in [(prompt, true), (first, false), (second, true)] {
                for ids in tokens.chunks(if whole { tokens.len().max(1) } else { 1 }) {
                    let step = |session: &mut Session| match (whole, ids) {
                        (false, &[id]) => session.step(id).unwrap().to_vec(),
                        _ => session.prefill(ids).unwrap().to_vec(),
                    };
                    let (found, expected) = (step(&mut session), step(&mut reference));
                    let error = relative_l2(&found, &expected);
                    assert!(error <= 0.032, "{kv:?} cache, {} tokens: {error}", session.tokens().len());
                }
            }
        }
    }
}
