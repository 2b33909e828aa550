//! Greedy streams of the GPU and of the CPU are the same tokens: of the demo model, and of the random models that
//! transformers computed logits for (shared `golden/`).

mod common;
mod gpu_common;

use std::{path::Path, sync::Arc, time::Instant};

use bitnet_cpu_kernels::isa::Isa;
use bitnet_gpu::{
    backend::{Backend, cpu::CpuBackend, gpu::Tuning},
    convert::{ConvertOptions, convert},
    generate::Session,
    model::Model,
    plan::{BackendKind, KvType, Plan, Segment, Sizes},
};

const PROMPTS: usize = 8;
const TOKENS: usize = 256;

fn session(model: &Arc<Model>, kind: BackendKind, backend: Box<dyn Backend>) -> Session {
    let sizes = Sizes { context_tokens: 288, batch_tokens: 64, k_type: KvType::F16, v_type: KvType::F16 };
    let layers = 0..model.config.layers;
    let segment = Segment { layers, backend: kind, embed: true, head: true, reason: "test".into() };
    let plan = Plan { segments: vec![segment], prefill: None, sizes };
    Session::load(model, &plan, vec![(kind, backend)], &mut |_| {}).unwrap()
}

/// Prompts of 1 to 15 tokens.
fn prompt(model: &Model, n: usize) -> Vec<u32> {
    (0..1 + 2 * n).map(|i| ((7919 * (n + 1) + 104_729 * i) % model.config.vocab) as u32).collect()
}

fn best(logits: &[f32]) -> (u32, f32) {
    let mut top = (0, f32::MIN);
    let mut second = f32::MIN;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > top.1 {
            second = top.1;
            top = (id as u32, logit);
        } else {
            second = second.max(logit);
        }
    }
    (top.0, top.1 - second)
}

/// The tokens, and how far the likeliest was ahead of the second at each.
fn stream(session: &mut Session, prompt: &[u32]) -> (Vec<u32>, Vec<f32>) {
    session.truncate(0);
    let mut next = best(session.prefill(prompt).unwrap());
    let (mut ids, mut leads) = (Vec::new(), Vec::new());
    while ids.len() < TOKENS {
        ids.push(next.0);
        leads.push(next.1);
        next = best(session.step(next.0).unwrap());
    }
    (ids, leads)
}

fn compare(what: &str, model: &Arc<Model>, tunings: &[(&str, Tuning)]) {
    let start = Instant::now();
    let mut cpu = session(model, BackendKind::Cpu, Box::new(CpuBackend::new(Isa::detect(), 2)));
    let expected: Vec<_> = (0..PROMPTS).map(|n| stream(&mut cpu, &prompt(model, n))).collect();
    eprintln!("{what}: CPU {:?}", start.elapsed());
    for (how, tuning) in tunings {
        let Some(gpu) = gpu_common::open_backend(tuning.clone()) else { return };
        let mut gpu = session(model, BackendKind::Gpu, Box::new(gpu));
        let start = Instant::now();
        for (n, (expected, leads)) in expected.iter().enumerate() {
            let (found, _) = stream(&mut gpu, &prompt(model, n));
            let at = found.iter().zip(expected).position(|(a, b)| a != b);
            eprintln!("{what} {how}: prompt {n}: {at:?} {:?} min {:?}", at.map(|at| leads[at]), leads.iter().copied().fold(f32::MAX, f32::min));
        }
        eprintln!("{what} {how}: {:?}", start.elapsed());
    }
}

#[test]
fn explore() {
    let own = Tuning { fold: Some(false), ..Tuning::default() };
    let plain = Tuning { subgroups: Some(false), ..Tuning::default() };
    let tunings = [("folded", Tuning::default()), ("own", own), ("no subgroups", plain)];
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/llama-stories-ternary-4m.gguf");
    compare("demo", &Arc::new(Model::open(&demo).unwrap()), &tunings);
    for name in ["bitnet-a", "bitnet-c"] {
        let Some(directory) = common::shared(&format!("golden/{name}")) else { return };
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("model.gguf");
        convert(&directory, &file, &ConvertOptions::default()).unwrap();
        compare(name, &Arc::new(Model::open(&file).unwrap()), &tunings);
    }
    for name in ["qwen3-q2_0-g64.gguf", "qwen3-tq2_0-g256.gguf"] {
        let Some(directory) = common::shared("golden/qwen3-ternary") else { return };
        compare(name, &Arc::new(Model::open(&directory.join(name)).unwrap()), &tunings);
    }
}
