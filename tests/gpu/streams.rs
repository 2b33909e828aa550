//! Along the GPU's greedy streams its logits are the CPU's, but for rounding: of the demo model, and of the random models that
//! transformers computed logits for (shared `golden/`).

use std::{path::Path, process::Command, sync::Arc};

use bitnet_cpu_kernels::{isa::Isa, testing::Rng};
use bitnet_gpu::{
    backend::{
        Backend, Want,
        cpu::CpuBackend,
        gpu::{Tuning, pipelines::Product},
    },
    convert::{ConvertOptions, convert},
    gguf::File,
    model::{Block, Model, Norm},
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::Session,
    tokenizer::{EncodeOptions, Tokenizer},
};

use crate::common::{
    gpu::{Devices, open_gpu, relative_l2},
    shared,
};

/// Tokens of a stream on the usual path.
const LONG: usize = 256;
/// Tokens of a stream on the other paths, whose attention has split keys by then.
const SHORT: usize = 144;
const CONTEXT: usize = LONG + 32;

/// Relative error of the norms in [`nudged`], 8 units in the last place. Sound kernels have some such units less: WGSL lets a
/// division be off by 2.5 and a square root by more, and leaves the order of additions open.
const NUDGE: f32 = 1.0 / (1 << 20) as f32;

/// How many times as far as the logits of [`nudged`] those of the GPU may be from the reference, over all steps. Two releases of
/// Mesa's software driver and SwiftShader have 0.4 to 0.7.
const USUALLY: f64 = 1.25;
/// As [`USUALLY`], of the worst step: 2 to 3 there.
const EVER: f64 = 6.0;

/// Prompts of the demo model.
const PROMPTS: [&str; 8] = [
    "A little girl was happy",
    "The old man lived in a house",
    "The king wanted to play",
    "Mom ran to the tree",
    "The cat lived in a house",
    "The old man said hello",
    "The dog went to the park",
    "Ben was happy",
];

type Types = (KvType, KvType);
const F16: Types = (KvType::F16, KvType::F16);
const Q8_0: Types = (KvType::Q8_0, KvType::Q8_0);

fn session(
    model: &Arc<Model>,
    kind: BackendKind,
    backend: Box<dyn Backend>,
    types: Types,
    head_screen: bool,
) -> Session {
    let (k_type, v_type) = types;
    let sizes = Sizes { head_screen, ..Sizes::new(CONTEXT, 64).with_kv(k_type, v_type) };
    let layers = 0..model.config.layers;
    let segment = Segment { layers, backend: kind, embed: true, head: true, reason: "test".into() };
    let plan = Plan { segments: vec![segment], prefill: None, sizes };
    Session::load(model, &plan, vec![(kind, backend)], &mut |_| {}).unwrap()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// The greedy answer, and the logits that each of its tokens is the best of.
fn stream(session: &mut Session, prompt: &[u32], tokens: usize) -> (Vec<u32>, Vec<Vec<f32>>) {
    session.truncate(0).unwrap();
    let mut logits = vec![session.prefill(prompt).unwrap().to_vec()];
    let mut ids = vec![best(&logits[0])];
    while ids.len() < tokens {
        let found = session.step(ids[ids.len() - 1]).unwrap();
        ids.push(best(found));
        logits.push(found.to_vec());
    }
    (ids, logits)
}

/// The logits before each token of `ids`.
fn along(session: &mut Session, prompt: &[u32], ids: &[u32]) -> Vec<Vec<f32>> {
    session.truncate(0).unwrap();
    let mut logits = vec![session.prefill(prompt).unwrap().to_vec()];
    logits.extend(ids[..ids.len() - 1].iter().map(|&id| session.step(id).unwrap().to_vec()));
    logits
}

/// The model with the weights of its norms off by up to [`NUDGE`]. Four int8 in a hundred are other ones then, which
/// moves logits far more than the nudge itself, and as far as any other cause of such rounding does.
fn nudged(model: &Model) -> Arc<Model> {
    let mut rng = Rng::new(1);
    let mut weights = model.weights.clone();
    for block in &mut weights.blocks {
        let linears: Vec<_> = block.linears().map(|(role, matrix)| (role, matrix.clone())).collect();
        let mut nudge = |weights: &[f32]| weights.iter().map(|weight| weight * (1.0 + NUDGE * rng.f32())).collect();
        *block = Block::new(linears, Norm::BLOCK.map(|norm| block.norm(norm).map(&mut nudge)));
    }
    Arc::new(Model { config: model.config.clone(), weights })
}

/// Relative L2 differences from the reference, by step: the GPU's, and those of [`nudged`]. Over all streams of a test, as
/// rounding may leave a single one alone.
#[derive(Default)]
struct Differences {
    places: Vec<String>,
    gpu: Vec<f64>,
    nudged: Vec<f64>,
}

impl Differences {
    fn assert_rounding(&self) {
        if self.gpu.is_empty() {
            return; // no adapter
        }
        let [gpu, nudged] = [&self.gpu, &self.nudged]
            .map(|all| (all.iter().map(|step| step * step).sum::<f64>() / all.len() as f64).sqrt());
        let worst = (0..self.gpu.len()).max_by(|&a, &b| self.gpu[a].total_cmp(&self.gpu[b])).unwrap();
        let (place, most) = (&self.places[worst], self.gpu[worst]);
        eprintln!("apart by {gpu:.1e} of the logits, at {place} by {most:.1e}; nudged by {nudged:.1e}");
        assert!(gpu <= USUALLY * nudged, "apart by {gpu:.1e} of the logits, rounding accounts for {nudged:.1e}");
        assert!(most <= EVER * nudged, "{place}: apart by {most:.1e} of the logits, rounding for {nudged:.1e}");
    }
}

/// As [`stream`], with the head asked for the highest logit alone. Counts the rows that were computed in full.
fn chosen_stream(session: &mut Session, prompt: &[u32], tokens: usize) -> (Vec<u32>, usize) {
    session.truncate(0).unwrap();
    session.prefill_while(prompt, Want::Top(1), || true).unwrap();
    let (mut ids, mut rows) = (Vec::new(), 0);
    loop {
        ids.push(session.candidates().unwrap().top[0].id);
        rows += session.head_rows();
        if ids.len() == tokens {
            return (ids, rows);
        }
        session.step_for(ids[ids.len() - 1], Want::Top(1)).unwrap();
    }
}

/// With a screened head, the ids of the GPU's own full head.
fn assert_screen_changes_nothing(
    devices: &mut Devices,
    what: &str,
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    tokens: usize,
    tuning: Tuning,
) {
    let Some(gpu) = devices.backend(tuning.clone()) else { return };
    let mut full = session(model, BackendKind::Gpu, Box::new(gpu), F16, false);
    let gpu = devices.backend(tuning).unwrap();
    let mut screened = session(model, BackendKind::Gpu, Box::new(gpu), F16, true);
    for (n, prompt) in prompts.iter().enumerate() {
        let (found, rows) = chosen_stream(&mut screened, prompt, tokens);
        assert_eq!(found, stream(&mut full, prompt, tokens).0, "{what}: prompt {n}");
        let all = tokens * model.config.vocab;
        assert!((tokens..all).contains(&rows), "{what}: {rows} of {all} rows in full");
        eprintln!("{what}: prompt {n}: {:.1} % of the rows in full", rows as f64 / all as f64 * 100.0);
    }
}

/// Adds the differences along the streams of some prompts, with caches of these types.
fn compare(
    devices: &mut Devices,
    differences: &mut Differences,
    (what, types, tuning): (&str, Types, Tuning),
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    tokens: usize,
) {
    let Some(gpu) = devices.backend(tuning) else { return };
    let mut gpu = session(model, BackendKind::Gpu, Box::new(gpu), types, false);
    let [mut reference, mut other] = [model, &nudged(model)]
        .map(|model| session(model, BackendKind::Cpu, Box::new(CpuBackend::new(Isa::Scalar, 2)), types, false));
    for (n, prompt) in prompts.iter().enumerate() {
        assert!(prompt.len() + tokens <= CONTEXT, "{what}: prompt {n} has {} tokens", prompt.len());
        // Along the GPU's text, so that a near-tie that went the other way does not end the comparison.
        let (ids, found) = stream(&mut gpu, prompt, tokens);
        let expected = along(&mut reference, prompt, &ids);
        let from_expected = |logits: Vec<Vec<f32>>| -> Vec<f64> {
            logits.iter().zip(&expected).map(|(logits, expected)| relative_l2(logits, expected)).collect()
        };
        differences.gpu.extend(from_expected(found));
        differences.nudged.extend(from_expected(along(&mut other, prompt, &ids)));
        differences.places.extend((0..tokens).map(|at| format!("{what}: prompt {n}, token {at}")));
    }
}

fn demo() -> (Arc<Model>, Vec<Vec<u32>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let tokenizer = Tokenizer::from_gguf(File::open(&path).unwrap().metadata()).unwrap();
    let prompts = PROMPTS.map(|text| tokenizer.encode(text, &EncodeOptions::default()).unwrap());
    (Arc::new(Model::open(&path).unwrap()), prompts.into())
}

#[test]
fn the_demo_model() {
    let (devices, differences) = (&mut Devices::default(), &mut Differences::default());
    let (model, prompts) = demo();
    compare(devices, differences, ("demo", F16, Tuning::default()), &model, &prompts, LONG);
    differences.assert_rounding();
}

/// Other orders of additions: no subgroups, and norms as kernels of their own.
#[test]
fn the_demo_model_on_other_paths() {
    let (devices, differences) = (&mut Devices::default(), &mut Differences::default());
    let (model, prompts) = demo();
    let plain = Tuning { subgroups: Some(false), ..Tuning::default() };
    compare(devices, differences, ("no subgroups", F16, plain), &model, &prompts[..4], SHORT);
    let own = Tuning { fold: Some(false), ..Tuning::default() };
    compare(devices, differences, ("norms of their own", F16, own), &model, &prompts[4..6], SHORT);
    differences.assert_rounding();
}

#[test]
fn the_demo_model_with_8_bit_caches() {
    let (devices, differences) = (&mut Devices::default(), &mut Differences::default());
    let (model, prompts) = demo();
    compare(devices, differences, ("q8_0", Q8_0, Tuning::default()), &model, &prompts[..3], LONG);
    let plain = Tuning { subgroups: Some(false), ..Tuning::default() };
    compare(devices, differences, ("q8_0, no subgroups", Q8_0, plain), &model, &prompts[4..6], SHORT);
    for (mixed, prompt) in [(KvType::Q8_0, KvType::F16), (KvType::F16, KvType::Q8_0)].into_iter().zip(&prompts[6..]) {
        let (what, prompt) = (format!("{mixed:?}"), std::slice::from_ref(prompt));
        compare(devices, differences, (&what, mixed, Tuning::default()), &model, prompt, SHORT);
    }
    differences.assert_rounding();
}

/// Prompts of 1 to 13 tokens.
fn random_prompts(model: &Model) -> Vec<Vec<u32>> {
    let id = |n: usize, i: usize| ((7919 * (n + 1) + 104_729 * i) % model.config.vocab) as u32;
    (0..8).step_by(2).map(|n| (0..1 + 2 * n).map(|i| id(n, i)).collect()).collect()
}

#[test]
fn the_golden_models() {
    let (devices, differences) = (&mut Devices::default(), &mut Differences::default());
    for name in ["bitnet-a", "bitnet-c"] {
        let Some(directory) = shared(&format!("golden/{name}")) else { return };
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("model.gguf");
        convert(&directory, &file, &ConvertOptions::default()).unwrap();
        let model = Arc::new(Model::open(&file).unwrap());
        compare(devices, differences, (name, F16, Tuning::default()), &model, &random_prompts(&model), SHORT);
        assert_screen_changes_nothing(devices, name, &model, &random_prompts(&model)[..1], SHORT, Tuning::default());
        let q8_0 = (&*format!("{name}, q8_0"), Q8_0, Tuning::default());
        compare(devices, differences, q8_0, &model, &random_prompts(&model)[2..3], SHORT);
    }
    differences.assert_rounding();
}

#[test]
fn a_screened_head_changes_no_stream() {
    let devices = &mut Devices::default();
    let (model, prompts) = demo();
    assert_screen_changes_nothing(devices, "demo", &model, &prompts[..2], LONG, Tuning::default());
    let plain = Tuning { subgroups: Some(false), product: Some(Product::F32), ..Tuning::default() };
    assert_screen_changes_nothing(devices, "no subgroups, f32", &model, &prompts[2..3], SHORT, plain);
}

#[test]
fn the_golden_models_with_group_scales() {
    let (devices, differences) = (&mut Devices::default(), &mut Differences::default());
    for name in ["qwen3-q2_0-g64.gguf", "qwen3-q2_0-g128.gguf", "qwen3-tq2_0-g256.gguf"] {
        let Some(file) = shared(&format!("golden/qwen3-ternary/{name}")) else { return };
        let model = Arc::new(Model::open(&file).unwrap());
        // The groups of 64 all of them, the others two.
        let count = if name.ends_with("g64.gguf") { 4 } else { 2 };
        let prompts = &random_prompts(&model);
        compare(devices, differences, (name, F16, Tuning::default()), &model, &prompts[..count], SHORT);
        let q8_0 = (&*format!("{name}, q8_0"), Q8_0, Tuning::default());
        compare(devices, differences, q8_0, &model, &prompts[..1], SHORT);
    }
    differences.assert_rounding();
}

/// Mesa's software driver has subgroups as wide as its vectors, 8 by default: the same with others, in a process of its own
/// because the driver reads the width once.
#[test]
fn subgroups_of_four() {
    subgroups_of(4, "subgroups_of_four");
}

#[test]
fn subgroups_of_sixteen() {
    subgroups_of(16, "subgroups_of_sixteen");
}

fn subgroups_of(size: u32, test: &str) {
    let (devices, differences) = (&mut Devices::default(), &mut Differences::default());
    const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    let width = (32 * size).to_string();
    if std::env::var_os(WIDTH).is_some_and(|own| own == *width) {
        assert_eq!(gpu.caps().subgroups, Some((size, size)), "{}", gpu.caps());
        let (model, prompts) = demo();
        compare(devices, differences, ("demo", F16, Tuning::default()), &model, &prompts[..2], SHORT);
        assert_screen_changes_nothing(devices, "demo", &model, &prompts[4..5], SHORT, Tuning::default());
        compare(devices, differences, ("demo, q8_0", Q8_0, Tuning::default()), &model, &prompts[..1], SHORT);
        differences.assert_rounding();
        return;
    }
    if !gpu.caps().name.contains("llvmpipe") {
        eprintln!("skipped: {} does not let its subgroups be chosen", gpu.caps().name);
        return;
    }
    let own = std::env::current_exe().unwrap();
    let out = Command::new(own).args(["--exact", &format!("streams::{test}")]).env(WIDTH, &width).output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && stdout.contains("1 passed"), "{stdout}");
}
