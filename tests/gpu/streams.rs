//! Greedy streams of the GPU are those of the CPU, token by token, but for near-ties: of the demo model, and of the random models that
//! transformers computed logits for (shared `golden/`).

use std::{path::Path, process::Command, sync::Arc};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{
        Backend, Want,
        cpu::CpuBackend,
        gpu::{Tuning, pipelines::Product},
    },
    convert::{ConvertOptions, convert},
    gguf::File,
    model::Model,
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
    session::Session,
    tokenizer::{EncodeOptions, Tokenizer},
};

use crate::common::{
    gpu::{Devices, open_gpu},
    shared,
};

/// Tokens of a stream on the usual path.
const LONG: usize = 256;
/// Tokens of a stream on the other paths, whose attention has split keys by then.
const SHORT: usize = 144;
const CONTEXT: usize = LONG + 32;

/// How far a token of the GPU may be behind the CPU's. The order of additions alone rounds one int8 in a thousand the other
/// way, which moves logits of the demo model by up to 0.02: instruction sets of the CPU part at such ties, too.
const NEAR_TIE: f32 = 0.03;

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

/// As [`PROMPTS`], with keys and values of q8_0.
const PROMPTS_Q8_0: [&str; 8] = [
    "The old man said hello",
    "The queen said hello",
    "Lily said hello",
    "Tom said hello",
    "Mom was sad",
    "The boy said hello",
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

fn stream(session: &mut Session, prompt: &[u32], tokens: usize) -> Vec<u32> {
    session.truncate(0).unwrap();
    let mut ids = vec![best(session.prefill(prompt).unwrap())];
    while ids.len() < tokens {
        let next = best(session.step(ids[ids.len() - 1]).unwrap());
        ids.push(next);
    }
    ids
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
        assert_eq!(found, stream(&mut full, prompt, tokens), "{what}: prompt {n}");
        let all = tokens * model.config.vocab;
        assert!((tokens..all).contains(&rows), "{what}: {rows} of {all} rows in full");
        eprintln!("{what}: prompt {n}: {:.1} % of the rows in full", rows as f64 / all as f64 * 100.0);
    }
}

fn assert_same_streams(
    devices: &mut Devices,
    what: &str,
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    tokens: usize,
    tuning: Tuning,
) {
    assert_same_streams_with(devices, F16, what, model, prompts, tokens, tuning);
}

/// With caches of these types.
fn assert_same_streams_with(
    devices: &mut Devices,
    types: Types,
    what: &str,
    model: &Arc<Model>,
    prompts: &[Vec<u32>],
    tokens: usize,
    tuning: Tuning,
) {
    let Some(gpu) = devices.backend(tuning) else { return };
    let mut gpu = session(model, BackendKind::Gpu, Box::new(gpu), types, false);
    let mut cpu = session(model, BackendKind::Cpu, Box::new(CpuBackend::new(Isa::Scalar, 2)), types, false);
    for (n, prompt) in prompts.iter().enumerate() {
        assert!(prompt.len() + tokens <= CONTEXT, "{what}: prompt {n} has {} tokens", prompt.len());
        let found = stream(&mut gpu, prompt, tokens);
        // Along the GPU's text, so that a near-tie that went the other way does not end the comparison.
        cpu.truncate(0).unwrap();
        let mut logits = cpu.prefill(prompt).unwrap();
        let mut ties = 0;
        for (at, &id) in found.iter().enumerate() {
            let (best, highest) = (best(logits), logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let behind = highest - logits[id as usize];
            assert!(behind < NEAR_TIE, "{what}: prompt {n}, token {at}: GPU {id}, CPU {best}, {behind} ahead");
            ties += usize::from(best != id);
            logits = cpu.step(id).unwrap();
        }
        assert!(ties * 20 <= tokens, "{what}: prompt {n}: {ties} of {tokens} tokens differ");
    }
}

fn demo() -> (Arc<Model>, Vec<Vec<u32>>) {
    demo_with(PROMPTS)
}

fn demo_with(prompts: [&str; 8]) -> (Arc<Model>, Vec<Vec<u32>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    let tokenizer = Tokenizer::from_gguf(File::open(&path).unwrap().metadata()).unwrap();
    let prompts = prompts.map(|text| tokenizer.encode(text, &EncodeOptions::default()).unwrap());
    (Arc::new(Model::open(&path).unwrap()), prompts.into())
}

#[test]
fn the_demo_model() {
    let devices = &mut Devices::default();
    let (model, prompts) = demo();
    assert_same_streams(devices, "demo", &model, &prompts, LONG, Tuning::default());
}

/// Other orders of additions: no subgroups, and norms as kernels of their own.
#[test]
fn the_demo_model_on_other_paths() {
    let devices = &mut Devices::default();
    let (model, prompts) = demo();
    let plain = Tuning { subgroups: Some(false), ..Tuning::default() };
    assert_same_streams(devices, "no subgroups", &model, &prompts[..4], SHORT, plain);
    let own = Tuning { fold: Some(false), ..Tuning::default() };
    assert_same_streams(devices, "norms of their own", &model, &prompts[4..6], SHORT, own);
}

#[test]
fn the_demo_model_with_8_bit_caches() {
    let devices = &mut Devices::default();
    let (model, prompts) = demo_with(PROMPTS_Q8_0);
    assert_same_streams_with(devices, Q8_0, "q8_0", &model, &prompts[..3], LONG, Tuning::default());
    let plain = Tuning { subgroups: Some(false), ..Tuning::default() };
    assert_same_streams_with(devices, Q8_0, "q8_0, no subgroups", &model, &prompts[4..6], SHORT, plain);
    for (mixed, prompt) in [(KvType::Q8_0, KvType::F16), (KvType::F16, KvType::Q8_0)].into_iter().zip(&prompts[6..]) {
        let prompt = std::slice::from_ref(prompt);
        assert_same_streams_with(devices, mixed, &format!("{mixed:?}"), &model, prompt, SHORT, Tuning::default());
    }
}

/// Prompts of 1 to 13 tokens.
fn random_prompts(model: &Model) -> Vec<Vec<u32>> {
    let id = |n: usize, i: usize| ((7919 * (n + 1) + 104_729 * i) % model.config.vocab) as u32;
    (0..8).step_by(2).map(|n| (0..1 + 2 * n).map(|i| id(n, i)).collect()).collect()
}

#[test]
fn the_golden_models() {
    let devices = &mut Devices::default();
    for name in ["bitnet-a", "bitnet-c"] {
        let Some(directory) = shared(&format!("golden/{name}")) else { return };
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("model.gguf");
        convert(&directory, &file, &ConvertOptions::default()).unwrap();
        let model = Arc::new(Model::open(&file).unwrap());
        assert_same_streams(devices, name, &model, &random_prompts(&model), SHORT, Tuning::default());
        assert_screen_changes_nothing(devices, name, &model, &random_prompts(&model)[..1], SHORT, Tuning::default());
        assert_same_streams_with(devices, Q8_0, name, &model, &random_prompts(&model)[2..3], SHORT, Tuning::default());
    }
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
    let devices = &mut Devices::default();
    for name in ["qwen3-q2_0-g64.gguf", "qwen3-q2_0-g128.gguf", "qwen3-tq2_0-g256.gguf"] {
        let Some(file) = shared(&format!("golden/qwen3-ternary/{name}")) else { return };
        let model = Arc::new(Model::open(&file).unwrap());
        // The groups of 64 all of them, the others two.
        let count = if name.ends_with("g64.gguf") { 4 } else { 2 };
        assert_same_streams(devices, name, &model, &random_prompts(&model)[..count], SHORT, Tuning::default());
        assert_same_streams_with(devices, Q8_0, name, &model, &random_prompts(&model)[..1], SHORT, Tuning::default());
    }
}

/// Mesa's software driver has subgroups as wide as its vectors, 8 by default: the same with 4, in a process of its own
/// because the driver reads the width once.
#[test]
fn subgroups_of_four() {
    let devices = &mut Devices::default();
    const WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";
    let Some(gpu) = open_gpu(Tuning::default()) else { return };
    if std::env::var_os(WIDTH).is_some() {
        assert_eq!(gpu.caps().subgroups, Some((4, 4)), "{}", gpu.caps());
        let (model, prompts) = demo();
        assert_same_streams(devices, "subgroups of four", &model, &prompts[..2], SHORT, Tuning::default());
        assert_screen_changes_nothing(devices, "subgroups of four", &model, &prompts[4..5], SHORT, Tuning::default());
        let (model, prompts) = demo_with(PROMPTS_Q8_0);
        assert_same_streams_with(
            devices,
            Q8_0,
            "subgroups of four, q8_0",
            &model,
            &prompts[..1],
            SHORT,
            Tuning::default(),
        );
        return;
    }
    if !gpu.caps().name.contains("llvmpipe") {
        eprintln!("skipped: {} does not let its subgroups be chosen", gpu.caps().name);
        return;
    }
    let own = std::env::current_exe().unwrap();
    let out = Command::new(own).args(["--exact", "streams::subgroups_of_four"]).env(WIDTH, "128").output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && stdout.contains("1 passed"), "{stdout}");
}
